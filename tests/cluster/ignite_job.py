"""Runs in the Lab: reads and writes a cache with one backup, while an Ignite node is
killed from outside.

Prints one JSON object a line: servers in the cluster, keys acknowledged so far, values
read wrongly; at the end keys lost and the same sums by SQL.
"""

import json
import time

from pyignite.datatypes.cache_config import WriteSynchronizationMode
from pyignite.datatypes.prop_codes import (
    PROP_BACKUPS_NUMBER,
    PROP_NAME,
    PROP_WRITE_SYNCHRONIZATION_MODE,
)

from helpers.ignite import nodes as ignite

SECONDS = 180
ROUND = 500  # keys a round
settings = {
    PROP_NAME: "SAFE",
    PROP_BACKUPS_NUMBER: 1,
    PROP_WRITE_SYNCHRONIZATION_MODE: WriteSynchronizationMode.FULL_SYNC,
}


def servers(client):
    return next(client.sql("SELECT COUNT(*) FROM SYS.NODES WHERE NOT IS_CLIENT"))[0]


with ignite.cluster() as cluster, cluster.clients() as clients:
    clients.get().create_cache(settings)
    written, wrong, after, key = {}, 0, 0, 0
    end = time.monotonic() + SECONDS
    while after < 3 and time.monotonic() < end:
        seen = clients.read(servers)
        for _ in range(ROUND):
            try:
                clients.cache("SAFE").put(key, key * 0.5)
                written[key] = key * 0.5  # acknowledged
            except OSError:
                clients.drop()  # whether it arrived nobody knows
            key += 1
        some = list(written)[-2 * ROUND :]
        found = clients.read(lambda _, some=some: clients.cache("SAFE").get_all(some))
        wrong += sum(found.get(each) != written[each] for each in some)
        print(
            json.dumps({"servers": seen, "written": len(written), "wrong": wrong}),
            flush=True,
        )
        after += seen == 2
    keys = list(written)
    found = clients.read(lambda _: clients.cache("SAFE").get_all(keys))
    lost = sum(each not in found for each in keys)
    wrong += sum(found[each] != written[each] for each in found)
    print(
        json.dumps(
            {
                "servers": clients.read(servers),
                "written": len(keys),
                "lost": lost,
                "wrong": wrong,
            }
        ),
        flush=True,
    )
    clients.get().get_cache("SAFE").destroy()
