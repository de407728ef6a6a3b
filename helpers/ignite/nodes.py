"""Ignite: a cluster of nodes as local processes (or the one that the settings name),
and a JVM to drive it from.
"""

import itertools
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import psutil
import pyignite
from py4j.java_gateway import JavaGateway

from helpers import settings
from helpers.ignite import certificates, recipe
from helpers.ignite.client import Clients, tls_options
from helpers.java import jdk
from helpers.java.gateway import gateway
from helpers.processes.child import Child, ProcessError
from helpers.processes.folders import own_folder, remove
from helpers.processes.ports import free_port, listening, require_free

READY_SECONDS = 120
CONTROL_SECONDS = 120  # for one call of the control utility
CONFIG = recipe.CONFIG
SPARE_NODES = 2  # how many nodes can join later
JVM_MB = 150  # what a node's JVM needs beside its heap and its data
TOPOLOGY = re.compile(r"Topology snapshot \[ver=(\d+).*?servers=(\d+)")

_numbers = itertools.count()


class Cluster:
    """Nodes that were started here, or the external ones: `addresses` is the list of
    (host, port) for clients.

    Only who has the files of the folder `certificates` gets in (None: an external
    cluster that is open). Nodes are counted from 0.
    """

    def __init__(
        self,
        addresses: list[tuple[str, int]],
        certificates: Path | None,
        folder: Path | None = None,
        **properties: object,
    ):
        self.addresses = addresses
        self.certificates = certificates
        self.folder = folder
        self.heap = 0
        self.nodes: dict[int, Child] = {}
        self._properties = properties
        self._discovery: list[int] = []

    @property
    def tls(self) -> dict[str, object]:
        """The certificates as pyignite's options; empty for an open cluster."""
        return tls_options(self.certificates)

    @property
    def jdbc_url(self) -> str:
        """What a JDBC client connects to, with `jdbc_properties`."""
        return "jdbc:ignite:thin://" + ",".join(
            f"{host}:{port}" for host, port in self.addresses
        )

    @property
    def jdbc_properties(self) -> dict[str, str]:
        """The certificates as properties of a JDBC connection."""
        return certificates.for_jdbc(self.certificates) if self.certificates else {}

    def clients(self, **options: object) -> Clients:
        """Connections to all nodes, one for each thread that asks; `options` are
        pyignite's (username, password).
        """
        return Clients(self.addresses, **self.tls, **options)

    def alive(self) -> list[int]:
        """Numbers of the nodes whose process runs."""
        return [number for number, node in self.nodes.items() if node.running]

    def servers_seen(self, number: int) -> int:
        """How many servers a node says there are; 0 while it is starting.

        Its log is asked, so that it works for a cluster that is inactive or wants a
        password. The lines are not in order there: the highest version counts.
        """
        log = self.nodes[number].output()
        if "Ignite node started OK" not in log:
            return 0
        return max(
            (tuple(map(int, seen)) for seen in TOPOLOGY.findall(log)), default=(0, 0)
        )[1]

    def wait(self) -> None:
        """Until every node that lives sees exactly those that live and accepts clients.
        Raises ProcessError.
        """
        for number, node in self.nodes.items():
            if node.running or not self._killed(number):
                node.wait_until(
                    partial(self._ready, number),
                    READY_SECONDS,
                    f"Ignite node {number}{self._heap_note()}",
                )

    def start_node(self, number: int | None = None) -> int:
        """Start one more node, or again one that has ended, and wait until all see it;
        its number.

        A persistent node finds its data again, an in-memory one comes back empty and is
        filled by the others.
        """
        self._own()
        number = self._spawn(len(self.nodes) if number is None else number)
        self.wait()
        return number

    def start_again(self) -> None:
        """Start all nodes that have ended, together."""
        self._own()
        for number in set(self.nodes) - set(self.alive()):
            self._spawn(number)
        self.wait()

    def kill(self, *numbers: int) -> None:
        """`kill -9`: the crash of a node."""
        self._own()
        for number in numbers:
            self.nodes[number].kill()

    def stop(self) -> None:
        """End all nodes: SIGTERM, then SIGKILL. Without persistence the data go."""
        for node in self.nodes.values():
            node.signal(signal.SIGTERM)  # all at once, then wait for each
        for node in self.nodes.values():
            node.stop()

    def memory_mb(self) -> dict[int, float]:
        """Resident memory of each living node in MB."""
        return {
            number: psutil.Process(self.nodes[number].pid).memory_info().rss / 1e6
            for number in self.alive()
        }

    def traffic(self, **options: object) -> dict[str, int]:
        """Bytes that all nodes together have exchanged since they started, by Ignite's
        own metrics; `options` are pyignite's (username, password).

        `to_clients` and `from_clients` count thin clients and JDBC, `between_nodes`
        what nodes sent to one another, each as TLS sends it. Asking costs some kB a
        node.
        """
        metrics = {
            "client.connector.sentBytes": "to_clients",
            "client.connector.receivedBytes": "from_clients",
            "communication.tcp.sentBytes": "between_nodes",
        }
        names = ", ".join(f"'{name}'" for name in metrics)
        total = dict.fromkeys(metrics.values(), 0)
        for address in self.addresses:  # the view shows the node that is asked
            client = pyignite.Client(partition_aware=False, **self.tls, **options)
            with client.connect([address]):
                for name, value in client.sql(
                    f"SELECT NAME, VALUE FROM SYS.METRICS WHERE NAME IN ({names})"
                ):
                    total[metrics[name]] += int(value)
        return total

    def control(self, *arguments: str) -> str:
        """Run Ignite's control utility (`--state`, `--baseline`, `--cache ...`) and
        return what it prints.

        Raises ProcessError with its message when it refuses, or has no answer after
        two minutes. It speaks to the first node that lives.
        """
        host, port = self.addresses[self.alive()[0] if self.nodes else 0]
        main = (
            "org.apache.ignite.internal.commandline.CommandHandler",
            "--host",
            host,
            "--port",
            str(port),
        )
        java = recipe.java(128, jdk.QUICK_COMPILER)
        door = certificates.for_control(self.certificates) if self.certificates else []
        command = [*java, *main, *door, *arguments, "--yes"]
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
                env=os.environ | jdk.LOCALE,
                cwd=self.folder,
                timeout=CONTROL_SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise ProcessError(
                f"control {' '.join(arguments)} has had no answer from the node at"
                f" {host}:{port} in {CONTROL_SECONDS} s: look whether it still runs."
            ) from None
        if done.returncode:
            raise ProcessError(
                f"control {' '.join(arguments)}"
                f" failed:\n{done.stdout[-1500:]}{done.stderr[-500:]}"
            )
        return done.stdout

    def discovery(self) -> str:
        """Where another node or a driver asks for the cluster: host:port,host:port."""
        if not self._discovery:
            return settings.ignite_discovery()
        return ",".join(f"{settings.listen_host()}:{port}" for port in self._discovery)

    def _ready(self, number: int) -> bool:
        return self.servers_seen(number) == len(self.alive()) and listening(
            *self.addresses[number]
        )

    def _killed(self, number: int) -> bool:
        return self.nodes[number].returncode == 128 + 9

    def _heap_note(self) -> str:
        return f" (heap {self.heap} MB)"

    def _own(self) -> Path:
        """The folder of nodes that were started here; ProcessError for others."""
        if not self._discovery or self.folder is None:
            raise ProcessError(
                "This cluster is not ours: its nodes are started and ended where it"
                " runs."
            )
        return self.folder

    def _spawn(self, number: int) -> int:
        folder = self._own()
        if number in self.alive():
            raise ProcessError(f"Node {number} is running already.")
        if number >= len(self._discovery):
            raise ProcessError(
                f"This cluster was made for at most {len(self._discovery)} nodes."
            )
        if number == len(self.addresses):
            self.addresses.append((settings.listen_host(), free_port()))
        port = self.addresses[number][1]
        # a clear error beats a stack trace in the node's log
        require_free(port, f"Ignite node {number}")
        name = f"node{number}"
        node = recipe.node(
            self.heap,
            name=name,
            folder=folder / name,
            host=settings.listen_host(),
            port=port,
            discovery_port=self._discovery[number],
            discovery=self.discovery(),
            tls=self.certificates,
            **self._properties,
        )
        # Ignite's diagnostics go to where it runs
        log = folder / f"{name}.log"
        self.nodes[number] = Child(node.command, log, node.environment, folder)
        return number

    def _start(self, nodes: int) -> None:
        while len(self._discovery) < nodes + SPARE_NODES:
            self._discovery.append(free_port())
        for number in range(nodes):
            self._spawn(number)
        self.wait()


@contextmanager
def cluster(
    nodes: int = 3,
    heap: int = 384,
    region: int = 256,
    port: int | None = None,
    persistent: bool = False,
    authentication: bool = False,
    name: str = "cluster",
    local: bool = False,
) -> Iterator[Cluster]:
    """A cluster of `nodes` processes of this machine, ended with the block; ready when
    every node sees all the others.

    `heap` and `region` are each node's Java heap and off-heap data in MB; `port` the
    first node's port for clients, the others follow (without it any free ones, so that
    clusters live side by side). A `persistent` cluster starts inactive at first and
    keeps its data while the block lasts; `authentication` (user ignite, password
    ignite) needs it. Clients, drivers and other nodes get in with the certificates that
    are made for this cluster, and this user alone can read them. Where the settings
    name an external cluster (WORKSHOP_IGNITE) that one is yielded, unless `local`
    insists. Raises ProcessError when a port is taken, memory is short, or a node ends
    while starting; nothing is left running then.
    """
    if settings.ignite() and not local:
        yield Cluster(settings.ignite(), settings.ignite_tls())
        return
    if authentication and not persistent:
        raise ValueError(
            "Ignite keeps its users on disk: authentication needs persistent=True."
        )
    needed, free = (
        nodes * (heap + region + JVM_MB),
        psutil.virtual_memory().available / 1e6,
    )
    if needed > free:
        raise ProcessError(
            f"{nodes} nodes may need {needed} MB and {free:.0f} MB are free: use fewer,"
            " or a smaller heap."
        )
    ports = [
        free_port(port and port + number, f"Ignite node {number}")
        for number in range(nodes)
    ]
    folder = own_folder(settings.build_dir() / "ignite", name)
    switches = {
        "persistent": persistent,
        "authentication": authentication,
        "region": region,
    }
    options: dict[str, object] = {
        key: str(value).lower() for key, value in switches.items()
    }
    certificates.make(folder / "tls", settings.listen_host())
    with ExitStack() as stack:
        addresses = [(settings.listen_host(), each) for each in ports]
        made = Cluster(addresses, folder / "tls", folder, **options)
        made.heap = heap
        stack.callback(made.stop)
        made._start(nodes)
        print(
            f"Ignite cluster of {nodes}: clients at"
            f" {', '.join(f'{settings.listen_host()}:{each}' for each in ports)}"
        )
        yield made
    remove(folder)  # after an error it stays, with the logs


@contextmanager
def driver(
    cluster: Cluster, heap: int = 512, certificates: Path | None = None
) -> Iterator[JavaGateway]:
    """A JVM with Ignite's classes for this notebook, as a py4j gateway; ended with the
    block.

    `gateway.jvm.org.apache.ignite.Ignition.start(str(CONFIG))` in it makes a client
    node: part of the cluster, without data, and let in with the cluster's certificates,
    or refused with those of another folder. Raises ProcessError when it does not start.
    """
    folder = own_folder(settings.build_dir() / "ignite", "driver")
    properties = recipe.properties(
        name=f"driver{next(_numbers)}",
        folder=folder,
        host=settings.listen_host(),
        port=free_port(),
        discovery_port=free_port(),
        discovery=cluster.discovery(),
        tls=certificates or cluster.certificates,
        client="true",
    )
    java = recipe.java(heap, "-DIGNITE_QUIET=true", *properties)
    try:
        with gateway(java, folder, "driver") as (opened, _):
            yield opened
    finally:
        remove(folder)
