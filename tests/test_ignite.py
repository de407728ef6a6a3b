"""Ignite's helper: ready by state, safe clients, clear refusals, and nothing left
running after any fault.
"""

import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import suppress

import numpy as np
import pandas as pd
import psutil
import pyignite
import pytest
from pyignite.datatypes import LongObject
from pyignite.datatypes.cluster_state import ClusterState
from pyignite.exceptions import AuthenticationError, ReconnectError
from watch import below, nothing_left, open_to_the_world, until

from docker import start
from helpers import settings
from helpers.ignite import certificates
from helpers.ignite import client as ignite_client
from helpers.ignite import nodes as ignite
from helpers.processes.child import ProcessError
from helpers.processes.ports import listening

HEAP = 160


# ---- without nodes


@pytest.mark.parametrize(
    "value",
    [1, 2.5, "B6", b"x", True, [1.0, 2.0], ["a"], (5, LongObject), 2**63 - 1, -(2**63)],
)
def test_storable_lets_through_what_comes_back_unchanged(value):
    assert ignite_client.storable(value) is value


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        ({"a": 1}, TypeError, "GenericObjectMeta"),
        ((1, 2), TypeError, "list of one type"),
        (np.float64(1), TypeError, r"item\(\)"),
        (np.int32(1), TypeError, r"item\(\)"),
        (np.zeros(2), TypeError, r"tobytes\(\)"),
        (None, TypeError, "remove the key"),
        ([], TypeError, "at least one"),
        ([1, "a"], TypeError, "one plain type"),
        ([{"a": 1}], TypeError, "one plain type"),
        ({1, 2}, TypeError, "set"),
        (pd.Timestamp(0), TypeError, "to_pydatetime"),
        (2**70, ValueError, "64 bits"),
        ([1, 2**70], ValueError, "64 bits"),
    ],
)
@pytest.mark.badinput
def test_storable_refuses_what_would_be_spoilt(value, error, words):
    with pytest.raises(error, match=words):
        ignite_client.storable(value)


def test_nodes_listen_where_the_cluster_of_spark_reaches_them(monkeypatch):
    monkeypatch.setenv("WORKSHOP_DRIVER_HOST", "127.0.0.2")
    with (
        ignite.cluster(nodes=1, heap=128, region=64, local=True) as cluster,
        cluster.clients() as clients,
    ):
        [(host, port)] = cluster.addresses
        assert host == "127.0.0.2"
        assert clients.get().get_cluster()
        assert not listening("127.0.0.1", port)


@pytest.mark.badinput
def test_authentication_needs_persistence():
    with (
        pytest.raises(ValueError, match="persistent"),
        ignite.cluster(nodes=1, authentication=True, local=True),
    ):
        pass


@pytest.mark.badinput
def test_too_many_nodes_for_this_machine():
    nodes = int(psutil.virtual_memory().total / 1e6 / 256) + 1
    with (
        nothing_left(),
        pytest.raises(ProcessError, match="are free"),
        ignite.cluster(nodes=nodes, local=True),
    ):
        pass


@pytest.mark.badinput
def test_a_taken_port_is_named(taken_port):
    with (
        nothing_left(),
        pytest.raises(ProcessError, match=f"Port {taken_port}.*Ignite node 0"),
        ignite.cluster(nodes=1, port=taken_port, local=True),
    ):
        pass


# ---- with nodes


@pytest.fixture(scope="module")
def pair():
    """Two nodes in memory, shared by the tests that do them no harm."""
    with ignite.cluster(nodes=2, heap=HEAP, region=64, local=True) as cluster:
        yield cluster


@pytest.mark.ignite
def test_ready_means_that_every_node_sees_all(pair):
    assert [pair.servers_seen(number) for number in range(2)] == [2, 2]
    assert pair.alive() == [0, 1]
    assert set(pair.memory_mb()) == {0, 1}
    with pair.clients() as clients:
        assert next(clients.get().sql("SELECT COUNT(*) FROM SYS.NODES"))[0] == 2


@pytest.mark.ignite
@pytest.mark.badinput
@pytest.mark.security
def test_clusters_side_by_side_do_not_meet(pair):
    with ignite.cluster(
        nodes=1, heap=HEAP, region=64, name="other", local=True
    ) as other:
        assert other.servers_seen(0) == 1
        assert not set(other.addresses) & set(pair.addresses)
        assert open_to_the_world() == []
        other.clients().get().create_cache("ONLY_HERE")
        assert "ONLY_HERE" not in pair.clients().get().get_cache_names()
        assert other.start_node() == 1  # and it can grow
        assert [other.servers_seen(number) for number in range(2)] == [2, 2]
        with pytest.raises(ProcessError, match="running already"):
            other.start_node(1)
    assert pair.servers_seen(0) == 2


@pytest.mark.ignite
def test_settings_name_an_external_cluster(pair, monkeypatch):
    monkeypatch.setenv(
        "WORKSHOP_IGNITE", ",".join(f"{host}:{port}" for host, port in pair.addresses)
    )
    before = below()
    monkeypatch.setenv("WORKSHOP_IGNITE_TLS", str(pair.certificates))
    with ignite.cluster(nodes=3) as external:
        assert external.addresses == pair.addresses
        assert (
            next(external.clients().get().sql("SELECT COUNT(*) FROM SYS.NODES"))[0] == 2
        )
        assert below() == before
        with pytest.raises(ProcessError, match="not ours"):
            external.kill(0)
    assert pair.alive() == [0, 1]


@pytest.mark.ignite
def test_each_thread_has_its_own_connection(pair):
    with pair.clients() as clients:
        cache = clients.get().get_or_create_cache("THREADS")
        cache.put_all({number: number * 10 for number in range(200)})
        seen, wrong = [], []

        def read():
            seen.append(id(clients.get()))
            wrong.extend(
                n for n in range(200) if clients.cache("THREADS").get(n) != n * 10
            )

        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(seen)) == 4
        assert wrong == []
        assert clients.get() is clients.get()


@pytest.mark.ignite
def test_a_read_is_tried_twice_and_no_more(pair):
    with pair.clients() as clients:
        asked = []

        def once_lost(client):
            asked.append(client)
            if len(asked) == 1:
                raise ConnectionResetError
            return "fine"

        assert clients.read(once_lost) == "fine"
        assert asked[0] is not asked[1]

        def always_lost(_):
            asked.append(None)
            raise ConnectionResetError

        asked.clear()
        with pytest.raises(ConnectionResetError):
            clients.read(always_lost)
        assert len(asked) == 2

        def wrong_question(client):
            asked.append(None)
            client.sql("SELECT NONSENSE")

        asked.clear()
        with pytest.raises(Exception, match="NONSENSE"):
            clients.read(wrong_question)
        assert len(asked) == 1  # an answer that says no is an answer


@pytest.mark.ignite
def test_traffic_counts_what_moved(pair):
    with pair.clients() as clients:
        cache = clients.get().get_or_create_cache("TRAFFIC")
        before = pair.traffic()
        cache.put_all({number: bytes(1000) for number in range(1000)})
        after = pair.traffic()
    assert 1e6 < after["from_clients"] - before["from_clients"] < 1.2e6
    assert after["to_clients"] - before["to_clients"] < 2e4  # asking takes some kB


@pytest.mark.ignite
def test_what_pyignite_spoils_is_what_storable_refuses(pair):
    with pair.clients() as clients:
        cache = clients.get().get_or_create_cache("TRAPS")
        for value, returned in (({"a": 1}, ["a"]), ((1, 2), [1, 2]), (2**70, 0)):
            cache.put("k", value)
            # when this fails, pyignite has been mended: adapt storable
            assert cache.get("k") == returned


@pytest.mark.ignite
def test_driver_is_a_client_node_and_ends(pair):
    with ignite.driver(pair, heap=128) as driver:
        pid = driver.jvm.java.lang.ProcessHandle.current().pid()
        node = driver.jvm.org.apache.ignite.Ignition.start(str(ignite.CONFIG))
        assert node.cluster().forServers().nodes().size() == 2
        assert node.configuration().isClientMode()
    assert not psutil.pid_exists(pid)


@pytest.mark.ignite
def test_a_container_starts_a_node_as_this_machine_does(pair, monkeypatch, tmp_path):
    """But for addresses, folders and sizes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(start, "FILES", tmp_path)
    for name, value in (
        ("IGNITE_NODE", "node0"),
        ("IGNITE_REGION", "192"),
        ("WORKSHOP_IGNITE_DISCOVERY", "ignite-1:47500,ignite-2:47500"),
        ("WORKSHOP_IGNITE_TLS", str(tmp_path / "tls")),
    ):
        monkeypatch.setenv(name, value)
    commands = start.ignite().command, psutil.Process(pair.nodes[0].pid).cmdline()
    there, here = (
        [re.sub(r"^(-Dworkshop[\w.]+=|-Xmx).*", r"\1", str(part)) for part in command]
        for command in commands
    )
    for switch in ("persistent", "authentication"):
        here.remove(f"-Dworkshop.{switch}=")  # off where nothing is said
    assert sorted(there) == sorted(here)


@pytest.mark.ignite
@pytest.mark.badinput
def test_a_heap_too_small_is_said():
    with (
        pytest.raises(ProcessError, match=r"Ignite node 0 \(heap 8 MB\)"),
        ignite.cluster(nodes=1, heap=8, region=64, name="small", local=True),
    ):
        pass


@pytest.mark.ignite
def test_a_node_that_dies_while_starting_takes_the_others_along(monkeypatch):
    ready = ignite.Cluster._ready

    def killing(self, number):
        if number == 0 and 1 in self.alive():
            os.kill(self.nodes[1].pid, signal.SIGTERM)
        return ready(self, number)

    monkeypatch.setattr(ignite.Cluster, "_ready", killing)
    with (
        nothing_left(),
        pytest.raises(ProcessError, match=r"Ignite node 1.*ended by itself"),
        ignite.cluster(nodes=2, heap=HEAP, region=64, name="dying", local=True),
    ):
        pass


@pytest.mark.ignite
@pytest.mark.faults
def test_a_killed_node_takes_no_key_with_a_backup_along(chance):
    victim = chance.randrange(3)
    with (
        ignite.cluster(
            nodes=3, heap=HEAP, region=64, name="killed", local=True
        ) as cluster,
        cluster.clients() as clients,
    ):
        wanted = {number: number + 1 for number in range(3000)}
        for backups in (0, 1):
            settings_of = {pyignite.datatypes.prop_codes.PROP_NAME: f"B{backups}"}
            settings_of[pyignite.datatypes.prop_codes.PROP_BACKUPS_NUMBER] = backups
            # not only the primary
            all_copies = (
                pyignite.datatypes.cache_config.WriteSynchronizationMode.FULL_SYNC
            )
            settings_of[
                pyignite.datatypes.prop_codes.PROP_WRITE_SYNCHRONIZATION_MODE
            ] = all_copies
            clients.get().create_cache(settings_of).put_all(wanted)
        cluster.kill(victim)
        assert cluster.alive() == [number for number in range(3) if number != victim]
        found = [
            clients.read(lambda _, n=n: clients.cache(f"B{n}").get_all(list(wanted)))
            for n in (0, 1)
        ]
        assert found[1] == wanted
        assert 0 < len(found[0]) < len(wanted)
        cluster.start_node(victim)
        assert all(cluster.servers_seen(number) == 3 for number in range(3))


@pytest.mark.ignite
@pytest.mark.faults
def test_a_whole_cluster_killed_while_it_is_written_to_has_every_key_that_it_confirmed(
    chance,
):
    with ignite.cluster(
        nodes=2, heap=HEAP, region=64, persistent=True, name="whole", local=True
    ) as cluster:
        cluster.clients().get().get_cluster().set_state(ClusterState.ACTIVE)
        cache, confirmed = cluster.clients().get().create_cache("KEPT"), []

        def write():
            with suppress(Exception):  # the cluster goes while it writes
                for number in range(1_000_000):
                    cache.put(number, number + 1)
                    confirmed.append(number)

        writer = threading.Thread(target=write)
        writer.start()
        assert until(lambda: len(confirmed) > 100)
        time.sleep(chance.uniform(0, 1))  # the moment itself
        cluster.kill(*chance.sample(range(2), 2))
        writer.join()
        print(f"killed after {len(confirmed):,} confirmed keys")
        cluster.start_again()
        client = cluster.clients().get()
        assert until(lambda: client.get_cluster().get_state() == ClusterState.ACTIVE)
        found = client.get_cache("KEPT").get_all(confirmed)
        assert found == {number: number + 1 for number in confirmed}


@pytest.mark.ignite
@pytest.mark.faults
@pytest.mark.security
def test_the_vault_lets_in_only_those_who_may_and_survives_a_crash(tmp_path):
    entry = {"username": "ignite", "password": "ignite"}
    with ignite.cluster(
        nodes=1,
        heap=HEAP,
        region=64,
        persistent=True,
        authentication=True,
        name="vault",
        local=True,
    ) as vault:
        client = vault.clients(**entry).get()
        client.get_cluster().set_state(ClusterState.ACTIVE)
        client.get_or_create_cache("KEPT").put_all(
            {number: number for number in range(500)}
        )

        certificates.make(tmp_path / "other")
        stranger = ignite_client.tls_options(tmp_path / "other")
        impostor = vault.tls | {"ssl_certfile": stranger["ssl_certfile"]}
        for options, error in (
            (vault.tls | entry | {"password": "wrong"}, AuthenticationError),
            (vault.tls, AuthenticationError),
            (stranger | entry, ReconnectError),
            (impostor | entry, ReconnectError),
            (entry | {"use_ssl": False}, ReconnectError),
        ):
            other = pyignite.Client(
                partition_aware=False, handshake_timeout=5.0, **options
            )
            with pytest.raises(error):
                other._connect(vault.addresses)
            other.close()

        vault.kill(0)
        vault.start_again()
        client = vault.clients(**entry).get()
        assert until(lambda: client.get_cluster().get_state() == ClusterState.ACTIVE)
        assert client.get_cache("KEPT").get_all(list(range(500))) == {
            number: number for number in range(500)
        }


def forward(source: socket.socket, port: int) -> None:
    """Pass on the bytes of every connection to 127.0.0.1:port."""

    def pump(here, there):
        with suppress(OSError):
            while part := here.recv(65536):
                there.sendall(part)
            there.shutdown(socket.SHUT_WR)

    with suppress(OSError):
        while True:
            client, _ = source.accept()
            node = socket.create_connection(("127.0.0.1", port))
            for pair in ((client, node), (node, client)):
                threading.Thread(target=pump, args=pair, daemon=True).start()


@pytest.mark.ignite
@pytest.mark.filterwarnings("ignore:ssl.PROTOCOL_TLS")
@pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux answers on all of 127.0.0.0/8"
)
@pytest.mark.security
def test_a_certificate_for_another_host_is_refused():
    with (
        ignite.cluster(
            nodes=1, heap=HEAP, region=64, name="named", local=True
        ) as named,
        socket.socket() as elsewhere,
    ):
        named.clients().get()  # 127.0.0.1 is in the certificate
        elsewhere.bind(("127.0.0.2", 0))
        elsewhere.listen()
        threading.Thread(
            target=forward, args=(elsewhere, named.addresses[0][1]), daemon=True
        ).start()
        address = [elsewhere.getsockname()]
        careless = pyignite.Client(
            partition_aware=False,
            use_ssl=True,
            ssl_version=ssl.PROTOCOL_TLS,
            ssl_certfile=named.tls["ssl_certfile"],
        )
        with careless.connect(address):  # pyignite as it is goes there
            assert careless.get_cluster().get_state() == ClusterState.ACTIVE
        careful = pyignite.Client(
            partition_aware=False, handshake_timeout=5.0, **named.tls
        )
        with pytest.raises(ReconnectError):
            careful._connect(address)
        careful.close()


ORPHAN = """
    import sys, time
    sys.path.insert(0, {root!r})
    from helpers.ignite import nodes as ignite
    with ignite.cluster(nodes=1, heap={heap}, region=64, name="orphan", local=True) as cluster:
        print(cluster.nodes[0].pid, flush=True)
        {then}
"""


@pytest.mark.ignite
@pytest.mark.faults
@pytest.mark.parametrize("end", ["killed", "failed cell"])
def test_nothing_outlives_the_python_that_started_it(end):
    then = "time.sleep(300)" if end == "killed" else "raise ZeroDivisionError"
    script = textwrap.dedent(ORPHAN).format(
        root=str(settings.ROOT), heap=HEAP, then=then
    )
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as python:
        lines = iter(python.stdout.readline, b"")
        pid = next(int(line) for line in lines if line.strip().isdigit())
        if end == "killed":
            assert psutil.pid_exists(pid)
            python.kill()
        python.wait(60)
        assert python.returncode != 0
    assert until(lambda: not psutil.pid_exists(pid))


@pytest.mark.ignite
def test_the_control_utility_answers_and_its_refusal_is_shown(pair):
    assert "ACTIVE" in pair.control("--state").upper()
    with pytest.raises(ProcessError, match="control --nonsense"):
        pair.control("--nonsense")


@pytest.mark.ignite
@pytest.mark.badinput
def test_a_control_utility_without_an_answer_is_given_up(monkeypatch, tmp_path):
    monkeypatch.setattr(ignite, "CONTROL_SECONDS", 3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = silent.getsockname()
        with pytest.raises(ProcessError, match=r"--state has had no answer .* in 3 s"):
            ignite.Cluster([address], None, tmp_path).control("--state")
