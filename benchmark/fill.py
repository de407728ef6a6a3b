"""Run in a Pod: put the rows of an npz file (`ids`, `rows`, `cache`) into Ignite, each
with one backup. fill.py FILE
"""

import sys

import numpy as np
from pyignite.datatypes.cache_config import WriteSynchronizationMode
from pyignite.datatypes.prop_codes import (
    PROP_BACKUPS_NUMBER,
    PROP_NAME,
    PROP_WRITE_SYNCHRONIZATION_MODE,
)

from helpers import settings
from helpers.ignite.client import Clients

with np.load(sys.argv[1]) as given:
    ids, rows, name = given["ids"].tolist(), given["rows"], str(given["cache"])
clients = Clients(settings.ignite())
safe = {
    PROP_BACKUPS_NUMBER: 1,
    PROP_WRITE_SYNCHRONIZATION_MODE: WriteSynchronizationMode.FULL_SYNC,
}
cache = clients.get().get_or_create_cache({PROP_NAME: name} | safe)
cache.put_all({key: row.tobytes() for key, row in zip(ids, rows, strict=True)})
print(f"{cache.get_size()} rows")
clients.close()
