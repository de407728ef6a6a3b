"""Nobody else gets into a local cluster of Ignite: not as a client, not with the control
utility, not as a node.

Every attack is made by another user of this machine (uid 65534), and made on an open
cluster as well, where it succeeds: a refusal is the certificate's doing. `open_cluster`
is how nodes start on Kubernetes, and how all of them started before.
"""

import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import psutil
import pyignite
import pytest
from pyignite.exceptions import SQLError
from watch import listening, until

from docker import health, start
from helpers import settings
from helpers.ignite import certificates, recipe
from helpers.ignite import nodes as ignite
from helpers.java import jdk
from helpers.processes.child import Child
from helpers.processes.ports import free_port

pytestmark = [pytest.mark.security, pytest.mark.ignite]
NOBODY = 65534
OTHER_USER = ["setpriv", "--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]
needs_another_user = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("setpriv"),
    reason="only root can act as another user, and needs setpriv for it",
)
PYTHON = shutil.which("python3", path="/usr/bin:/usr/local/bin:/bin")
CONTROL = "org.apache.ignite.internal.commandline.CommandHandler"
NODE = "org.apache.ignite.startup.cmdline.CommandLineStartup"
DOORS = ["clients", "discovery", "communication"]
WAYS = ["without TLS", "without a certificate", "with another authority's"]


def as_nobody(*command, cwd="/"):
    """What a program prints that another user runs, and its exit status."""
    done = subprocess.run(
        list(map(str, [*OTHER_USER, *command])),
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={"PATH": os.environ["PATH"], **jdk.LOCALE},
        cwd=cwd,
        errors="replace",
        timeout=120,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def theirs():
    """The other user's folder: Ignite's jars, our settings of a node, and certificates
    of an authority of his own.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for source in (*recipe.artefacts.jars("ignite"), ignite.CONFIG):
            shutil.copy(source, folder)
        certificates.make(folder / "tls")
        for path in (folder, folder / "tls", *(folder / "tls").iterdir()):
            os.chown(path, NOBODY, NOBODY)
        yield folder


def java_of(folder, *options):
    """java with Ignite's classes, as the other user can read them."""
    *command, _ = recipe.java(128, jdk.QUICK_COMPILER, *options)
    return [*command, f"{folder}/*"]


@pytest.fixture(scope="module")
def closed():
    with ignite.cluster(nodes=1, heap=160, region=64, name="closed", local=True) as one:
        yield one


@pytest.fixture(scope="module")
def open_cluster():
    folder = Path(tempfile.mkdtemp(dir=settings.build_dir()))
    address = ("127.0.0.1", free_port())
    cluster = ignite.Cluster([address], None, folder, region=64)
    cluster.heap = 160
    try:
        cluster._start(1)
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder)


# ---- the doors


KNOCK = """
import socket, ssl, sys
port, greeting, way, folder = int(sys.argv[1]), bytes.fromhex(sys.argv[2]), *sys.argv[3:]
door = socket.create_connection(("127.0.0.1", port), 20)
try:
    if way != "without TLS":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if way != "without a certificate":
            context.load_cert_chain(folder + "/member.pem")
        door = context.wrap_socket(door)
    door.sendall(greeting or b"no TLS" * (way == "without TLS"))
    answer = door.recv(64)
    refused = not answer or way == "without TLS" and answer[0] == 0x15
    print("refused by", answer) if refused else print("welcome")
except OSError as error:
    print("refused by", error)
"""


def doors(cluster):
    """The ports on which the cluster's first node listens."""
    node = cluster.nodes[0].pid
    ports = {port for (_, port), _ in listening(node)}
    known = {"clients": cluster.addresses[0][1], "discovery": cluster._discovery[0]}
    (known["communication"],) = ports - set(known.values())
    assert set(known.values()) == ports
    return known


@pytest.fixture(scope="module")
def greetings(closed):
    """What a member says first at each door, as hexadecimal digits."""
    with ignite.driver(closed, heap=64) as driver:
        java, spi = driver.jvm.java, driver.jvm.org.apache.ignite.spi.discovery.tcp
        said = java.io.ByteArrayOutputStream()
        stream = java.io.ObjectOutputStream(said)
        stream.writeObject(
            spi.messages.TcpDiscoveryHandshakeRequest(java.util.UUID.randomUUID())
        )
        stream.flush()
        request = bytes(said.toByteArray()).hex()
    return {
        "clients": "080000000101000200000002",  # a thin client's handshake, 1.2.0
        "discovery": "00004747" + request,
        "communication": "",  # the node itself speaks first
    }


@pytest.fixture
def knock(greetings):
    """Knock at a door of a cluster in one of the WAYS; what comes back."""

    def at(cluster, door, way, folder, run=as_nobody):
        greeting = greetings[door]
        return run(PYTHON, "-c", KNOCK, doors(cluster)[door], greeting, way, folder)

    return at


@needs_another_user
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("door", DOORS)
def test_no_door_opens_to_another_user(knock, closed, theirs, door, way):
    status, said = knock(closed, door, way, theirs / "tls")
    assert status == 0, said
    assert said.startswith("refused by")


@needs_another_user
@pytest.mark.parametrize("door", DOORS)
def test_on_an_open_cluster_every_door_does(knock, open_cluster, theirs, door):
    assert knock(open_cluster, door, WAYS[0], theirs) == (0, "welcome\n")


@pytest.mark.parametrize("door", DOORS)
def test_every_door_opens_to_who_has_the_certificate(knock, closed, door):
    def as_owner(*command):
        return subprocess.check_output(list(map(str, command)), text=True, timeout=120)

    way = "with the owner's"
    assert knock(closed, door, way, closed.certificates, as_owner) == "welcome\n"


@needs_another_user
def test_nobody_else_reads_the_certificates(closed, theirs):
    files = sorted(path.name for path in closed.certificates.iterdir())
    assert files == ["ca.pem", "member.p12", "member.pem", "trust.p12"]
    for name in files:
        status, said = as_nobody("cat", closed.certificates / name)
        assert (status, "Permission denied" in said) == (1, True), said
        assert (closed.certificates / name).stat().st_mode & 0o777 == 0o600
        assert as_nobody("cat", theirs / "tls" / name)[0] == 0
    assert closed.certificates.stat().st_mode & 0o777 == 0o700


def test_no_key_is_on_a_command_line_or_in_a_log(closed):
    key = (closed.certificates / "member.pem").read_text().splitlines()[1]
    node = closed.nodes[0]
    for text in (str(psutil.Process(node.pid).cmdline()), node.output()):
        assert key not in text
        assert certificates.STORE_PASSWORD not in text


def test_each_cluster_has_an_authority_of_its_own(tmp_path):
    certificates.make(tmp_path / "a")
    certificates.make(tmp_path / "b")
    first, second = ((tmp_path / name / "ca.pem").read_bytes() for name in "ab")
    assert first != second


# ---- the functions that read and write files


DISABLED = ("--enable-experimental", "--property")
SWITCH_ON = ("set", "--name", "sql.disabledFunctions", "--val", "NONE")


def control(folder, cluster, *door):
    """Another user's control utility, which switches the functions on."""
    address = ("--host", "127.0.0.1", "--port", cluster.addresses[0][1])
    arguments = (*DISABLED, *SWITCH_ON, "--yes")
    command = [*java_of(folder), CONTROL, *address, *door, *arguments]
    return as_nobody(*command, cwd=folder)


def read_by_sql(cluster, file, **options):
    """A file's text as the cluster's user reads it."""
    client = pyignite.Client(partition_aware=False, **options)
    with client.connect(cluster.addresses):
        return next(client.sql(f"SELECT UTF8TOSTRING(FILE_READ('{file}'))"))[0]


@pytest.fixture
def secret(tmp_path):
    file = tmp_path / "secret"
    file.touch(0o600)
    file.write_text("the learner's own")
    return file


@needs_another_user
def test_on_an_open_cluster_another_user_reads_the_learners_files(
    open_cluster, theirs, secret
):
    """What is at stake: review/security.md, finding 2."""
    assert as_nobody("cat", secret)[0] == 1
    with pytest.raises(Exception, match="FILE_READ"):
        read_by_sql(open_cluster, secret)
    status, said = control(theirs, open_cluster)
    assert status == 0, said
    assert read_by_sql(open_cluster, secret) == "the learner's own"


@needs_another_user
@pytest.mark.parametrize("own", [False, True], ids=["without", "of another authority"])
def test_another_user_cannot_switch_the_file_functions_on(closed, theirs, secret, own):
    door = certificates.for_control(theirs / "tls") if own else ()
    status, said = control(theirs, closed, *door)
    assert status != 0
    assert "SSL" in said or "closed" in said or "Failed to connect" in said, said
    disabled = closed.control(*DISABLED, "get", "--name", "sql.disabledFunctions")
    assert "FILE_READ" in disabled
    with pytest.raises(Exception, match="FILE_READ"):
        read_by_sql(closed, secret, **closed.tls)


# ---- another user's node


def join(cluster, folder, tls=None):
    """Another user's server node, which asks the cluster's discovery to let it in."""
    work = Path(tempfile.mkdtemp(dir=folder))
    os.chown(work, NOBODY, NOBODY)
    member = recipe.properties(
        name="intruder",
        folder=work,
        host="127.0.0.1",
        port=free_port(),
        discovery_port=free_port(),
        discovery=f"127.0.0.1:{cluster._discovery[0]}",
        region=64,
        tls=tls,
    )
    command = [*java_of(folder, *member), NODE, folder / ignite.CONFIG.name]
    log = Path(tempfile.mkdtemp(dir=settings.build_dir())) / "intruder.log"
    return Child([*OTHER_USER, *command], log, {**jdk.LOCALE, "HOME": "/"}, Path("/"))


@needs_another_user
def test_an_open_cluster_lets_another_users_node_in(open_cluster, theirs):
    node = join(open_cluster, theirs)
    try:
        assert until(lambda: open_cluster.servers_seen(0) == 2, 120), node.output()
    finally:
        node.kill()
        node.stop()
        shutil.rmtree(node.log.parent)
    assert until(lambda: open_cluster.servers_seen(0) == 1)


@needs_another_user
@pytest.mark.parametrize("own", [False, True], ids=["without", "of another authority"])
def test_another_users_node_cannot_join(closed, theirs, own):
    node = join(closed, theirs, theirs / "tls" if own else None)
    try:
        refusal = re.compile("Unable to establish (plain|secure) connection|SSLEx")
        assert until(lambda: refusal.search(node.output()), 120), node.output()
        assert "Ignite node started OK" not in node.output()
    finally:
        node.kill()
        node.stop()
        shutil.rmtree(node.log.parent)
    assert closed.servers_seen(0) == 1
    assert len(ignite.TOPOLOGY.findall(closed.nodes[0].output())) == 1
    with closed.clients() as clients:
        assert next(clients.get().sql("SELECT COUNT(*) FROM SYS.NODES"))[0] == 1


def test_the_owners_node_can(closed):
    assert closed.start_node() == 1
    assert closed.servers_seen(0) == 2
    closed.kill(1)
    assert until(lambda: closed.servers_seen(0) == 1)


# ---- clients in other languages


def test_java_needs_the_certificates_too(closed, tmp_path):
    """JDBC, and a client node, which would be part of the cluster."""
    certificates.make(tmp_path / "other")
    before = len(ignite.TOPOLOGY.findall(closed.nodes[0].output()))
    with ignite.driver(closed, heap=128, certificates=tmp_path / "other") as driver:
        connect = driver.jvm.java.sql.DriverManager.getConnection
        door = driver.jvm.java.util.Properties()
        other = certificates.for_jdbc(tmp_path / "other")
        for properties in ({}, closed.jdbc_properties | other):
            door.clear()
            door.putAll(properties)
            with pytest.raises(Exception, match=r"SSL|Failed to connect"):
                connect(closed.jdbc_url, door)
        door.putAll(closed.jdbc_properties)
        connect(closed.jdbc_url, door).close()
        with pytest.raises(Exception, match="Unable to establish secure connection"):
            driver.jvm.org.apache.ignite.Ignition.start(str(ignite.CONFIG))
    assert len(ignite.TOPOLOGY.findall(closed.nodes[0].output())) == before


@pytest.mark.skipif(
    not (shutil.which("node") and shutil.which("npm")), reason="no Node.js, or no npm"
)
def test_the_lines_for_nodejs_in_lesson_04_work(closed, theirs, tmp_path):
    lesson = json.loads((settings.NOTEBOOKS / "04_ignite.ipynb").read_text())
    texts = "\n".join("".join(cell["source"]) for cell in lesson["cells"])
    (lines,) = re.findall(r"```js\n(.*?)```", texts, flags=re.S)
    (tmp_path / "count.js").write_text(lines)
    for name in ("package.json", "package-lock.json"):  # with checksums
        shutil.copy(settings.ROOT / "tests" / "node" / name, tmp_path)
    quick = ("--ignore-scripts", "--no-audit", "--no-fund")
    installed = subprocess.run(
        ["npm", "ci", *quick], cwd=tmp_path, capture_output=True, text=True
    )
    if "network" in installed.stderr:
        pytest.skip(f"npm cannot fetch the client: {installed.stderr[:200]}")
    assert installed.returncode == 0, installed.stderr

    def count(folder):
        host, port = closed.addresses[0]
        return subprocess.run(
            ["node", "count.js", folder, f"{host}:{port}"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
        )

    with closed.clients() as clients:
        flights = clients.get().get_or_create_cache("FLIGHTS")
        flights.put_all({1: "a", 2: "b", 3: "c"})
    assert count(closed.certificates).stdout == "3 flights\n"
    stranger = count(theirs / "tls")
    assert (stranger.returncode, stranger.stdout) == (1, "")


# ---- containers


@pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux answers on all of 127.0.0.0/8"
)
@pytest.mark.parametrize("tls", [True, False], ids=["compose", "kubernetes"])
def test_nodes_of_containers_meet_and_are_healthy(tmp_path, monkeypatch, tls):
    """docker/start.py and health.py on addresses of this machine; Kubernetes' manifests
    name no certificates and find the doors open.
    """
    hosts = ["127.0.0.21", "127.0.0.22"]
    for name, port in (
        ("WORKSHOP_IGNITE", 10800),
        ("WORKSHOP_IGNITE_DISCOVERY", 47500),
    ):
        monkeypatch.setenv(name, ",".join(f"{host}:{port}" for host in hosts))
    folder = tmp_path / "certificates" / "ignite"
    monkeypatch.setenv("WORKSHOP_IGNITE_TLS", str(folder) if tls else "")
    monkeypatch.setenv("IGNITE_REGION", "64")
    monkeypatch.chdir(tmp_path)
    nodes = []
    try:
        for host in hosts:
            monkeypatch.setenv("IGNITE_NODE", host)
            monkeypatch.setattr(start, "HOST", host)
            monkeypatch.setattr(start, "FILES", tmp_path / host)
            (tmp_path / host).mkdir()
            node = start.ignite()
            log = tmp_path / f"{host}.log"
            nodes.append(Child(node.command, log, node.environment, tmp_path / host))
        for host, node in zip(hosts, nodes, strict=True):
            monkeypatch.setattr(health, "HOST", host)
            assert until(lambda: answers(health.ignite), 120), node.output()
        with ignite.cluster() as cluster, cluster.clients() as clients:
            count = "SELECT COUNT(*) FROM SYS.NODES"
            assert until(
                lambda: answers(lambda: next(clients.get().sql(count))[0] == 2)
            )
        monkeypatch.setenv("WORKSHOP_IGNITE_TLS", "")
        assert answers(health.ignite) is not tls
    finally:
        for node in nodes:
            node.stop()


def answers(ask):
    """What it says, False while the node has not come so far."""
    with suppress(OSError, ValueError, struct.error, SQLError):
        return ask()
    return False


def test_nodes_that_start_at_once_share_what_the_first_has_made(tmp_path):
    share = "import sys, pathlib; from helpers.ignite import certificates as c;"
    share += " c.share(pathlib.Path(sys.argv[1]), 'ignite-1', 'ignite-2')"
    folder = tmp_path / "volume" / "ignite"
    at_once = [
        subprocess.Popen([sys.executable, "-c", share, folder], cwd=settings.ROOT)
        for _ in range(4)
    ]
    assert [process.wait(120) for process in at_once] == [0] * 4
    assert sorted(path.name for path in folder.parent.iterdir()) == [
        "ignite",
        "ignite.lock",
    ]


@pytest.mark.badinput
def test_a_folder_without_certificates_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKSHOP_IGNITE", "127.0.0.1:10800")
    monkeypatch.setenv("WORKSHOP_IGNITE_TLS", str(tmp_path))
    with (
        ignite.cluster() as cluster,
        pytest.raises(settings.SettingError, match="WORKSHOP_IGNITE_TLS"),
    ):
        cluster.clients()
