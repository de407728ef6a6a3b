"""Security across the rooms: the watches can fail, every Lab wants its token, every
download has its checksum.
"""

import json
import re
import subprocess
import sys
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import yaml
from watch import Seen, secrets_in, until, watched

from helpers import files, settings
from helpers.ignite import nodes
from helpers.java import artefacts
from helpers.kafka import broker
from helpers.mahout import session as mahout
from helpers.spark import submit
from helpers.spark.standalone import standalone_cluster
from helpers.spark.yarn import yarn

ROOT = settings.ROOT
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
HELLO_SPARK = ROOT / "tests" / "hello_spark.py"
LISTENER = (
    "import socket, sys; s = socket.create_server((sys.argv[1], 0));"
    " print(s.getsockname()[1], flush=True); input()"
)
pytestmark = pytest.mark.security


def tracked(*patterns):
    """Text files that git tracks here, or, outside a clone, all there are."""
    done = subprocess.run(
        ["git", "ls-files", "-z", *patterns], cwd=ROOT, capture_output=True, text=True
    )
    return [
        ROOT / name
        for name in done.stdout.split("\0")
        if name and (ROOT / name).is_file()
    ]


# ---- the watches


def test_a_port_that_an_engine_chose_itself_is_unexpected():
    """As 6066, where Spark's master took applications from everybody."""
    chosen, given, system, ui = 6066, 12_345, 40_000, 4041
    seen = Seen(1, {(("127.0.0.1", n), "java") for n in (chosen, given, system, ui)})
    assert seen.unexpected() == {(("127.0.0.1", chosen), "java")}
    beyond = {(("0.0.0.0", given), "java")}
    assert Seen(1, set(), beyond).unexpected() == beyond


# What each engine opens when it is started by itself; lessons are watched in
# test_lessons.py, and those of MXNet's and SINGA's workers there alone.
@contextmanager
def standalone():
    with standalone_cluster(workers=1) as cluster:
        submit.submit(HELLO_SPARK, manager=cluster, memory="512m")
        yield


@contextmanager
def on_yarn():
    with yarn() as manager:
        submit.submit(HELLO_SPARK, manager=manager, memory="512m")
        yield


ENGINES = {
    "spark": standalone,
    "yarn": on_yarn,
    "ignite": partial(nodes.cluster, nodes=2),
    "kafka": broker.broker,
    "mahout": mahout.Session,
}


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_opens_known_ports_of_loopback_alone(engine):
    with watched(every=0.2) as seen, ENGINES[engine]():
        pass
    assert seen.looks > 1
    assert seen.loopback
    assert seen.unexpected() == set()


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1"])
def test_a_watch_sees_who_listens(host):
    """A process two levels below, as a node of a lesson is."""
    inner = (
        f"import subprocess, sys; subprocess.run([sys.executable, '-c', {LISTENER!r},"
        f" {host!r}])"
    )
    with watched(every=0.1) as seen:
        child = subprocess.Popen(
            [sys.executable, "-c", inner], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        port = int(child.stdout.readline())
        wanted = seen.loopback if host == "127.0.0.1" else seen.beyond
        found = until(lambda: (host, port) in [address for address, _ in wanted])
        child.communicate(b"\n")
    assert found
    assert (host, port) not in [
        address
        for address, _ in (seen.beyond if host == "127.0.0.1" else seen.loopback)
    ]


@pytest.mark.parametrize(
    "text",
    [
        "-----BEGIN EC PRIVATE KEY-----",
        "http://127.0.0.1:8888/lab?token=0123456789abcdef",
        "Authorization: Bearer abcdefgh12345678",
        'keyStorePassword="Zk3-xx81_pQ9rrTT"',
        "-Dworkshop.tls.password=Zk3-xx81_pQ9rrTT",
    ],
)
def test_a_secret_is_noticed(text):
    assert secrets_in(f"before {text} after")
    assert secrets_in(json.dumps(text))


@pytest.mark.parametrize(
    "text",
    [
        'entry = {"username": "ignite", "password": "ignite"}',
        "without a password: refused",
        "tokens=128",
    ],
)
def test_what_is_no_secret_is_let_through(text):
    assert secrets_in(text) == []


def test_no_tracked_text_holds_a_secret():
    files = [
        file
        for file in tracked()
        if file.suffix not in (".parquet", ".png") and file.name != "test_security.py"
    ]
    assert len(files) > 100 or not (ROOT / ".git").exists()
    found = {file.name: secrets_in(file.read_text(errors="replace")) for file in files}
    assert {name: what for name, what in found.items() if what} == {}


# ---- every Lab wants its token


def test_no_start_of_jupyter_gives_up_its_token_or_its_loopback():
    """`make lab`, the container, the dev container, Binder: whatever starts a Jupyter,
    and how.
    """
    starts = {}
    for file in tracked(
        "Makefile",
        "docker",
        ".devcontainer",
        "start",
        "postBuild",
        "tools",
        "docker-compose.yml",
    ):
        text = file.read_text()
        for weak in (
            r"token\s*=\s*['\"]{2}",
            r"\.token=(?:\s|$)",
            r"\.password=",
            "disable_check_xsrf",
            "allow_origin",
        ):
            assert not re.search(weak, text), (file.name, weak)
        lines = [
            line
            for line in text.splitlines()
            if re.search(r"jupyter[\"']?,? [\"']?(lab|server|notebook)\b", line)
        ]
        starts[file.name] = [line for line in lines if "--ip" in line]
        assert not [
            line
            for line in lines
            if "--ip" not in line and "list" not in line and "share" not in line
        ], file.name
    assert [file for file, lines in starts.items() if lines] == ["Makefile", "start.py"]
    assert "--ip 127.0.0.1 " in starts["Makefile"][0]
    # in the container, whose port is published on 127.0.0.1 alone
    assert "--ip=0.0.0.0" in starts["start.py"][0]


# ---- no download without a checksum


def joined(text):
    """Commands that go over several lines as one line each."""
    return re.sub(r"\\\n|\n\s+", " ", text)


def installs(text):
    """Commands of pip and uv in a text that bring packages; those that only make the
    project itself editable, offline, are left out.
    """
    calls = re.findall(
        r".{0,240}(?:pip|\"pip\",?) +\"?(?:install|sync|download|wheel)\b.{0,240}"
        r"|.{0,60}\bpip\(.{0,240}",
        joined(text),
    )
    return [call for call in calls if not re.search(r"--editable|def ", call)]


def unverified(call):
    """What such a command does not hold to a recorded hash: packages without hashes, or
    source packages whose build requirements nobody named.
    """
    return [
        what
        for what, wanted in (
            ("hashes", r"--require-hashes|\*strict|\*lock\b|\*sync\b"),
            ("builds", r"--only-binary|\*strict|\*lock\b|\*sync\b|\*options"),
        )
        if not re.search(wanted, call)
    ]


def test_python_packages_and_their_builds_come_with_their_hashes():
    """tests/test_setup.py and test_bundle.py run it; this finds a new place."""
    for name in (
        "tools/setup.py",
        "tools/bundle.py",
        "helpers/singa/bridge.py",
        "docker/Dockerfile",
        "postBuild",
    ):
        calls = installs((ROOT / name).read_text())
        assert calls, name
        assert {call: unverified(call) for call in calls if unverified(call)} == {}, (
            name
        )
    assert installs((ROOT / "Makefile").read_text()) == []
    # what was there before: the newest setuptools built PySpark
    old = 'run([uv, "pip", "sync", "--quiet", "--python", PYTHON, "--require-hashes"])'
    assert [unverified(call) for call in installs(old)] == [["builds"]]
    assert [unverified(call) for call in installs("pip install numpy")] == [
        ["hashes", "builds"]
    ]
    for lock in ROOT.glob("requirements*.txt"):
        pins = re.findall(
            r"^[\w.-]+==.*?(?=^[\w.-]+==|\Z)", lock.read_text(), flags=re.M | re.S
        )
        assert pins
        assert [pin for pin in pins if "--hash=sha256:" not in pin] == [], lock.name


def test_java_artefacts_come_with_their_checksums():
    """tests/test_jvm.py runs Maven on another plugin, POM and jar; this finds one that
    is fetched and not recorded.
    """
    options = artefacts._trust(None)
    assert any(re.fullmatch(r"-D.*trustedChecksums=true", one) for one in options)
    assert any(re.fullmatch(r"-D.*failIfMissing=true", one) for one in options)
    assert re.fullmatch(r"[0-9a-f]{128}", artefacts.MAVEN_SHA512)
    recorded = {jar.artefact for jar in artefacts.recorded()}
    for pom in (settings.JVM / "pom.xml", *settings.JVM.glob("*/pom.xml")):
        named = re.findall(r"<plugin>.*?<artifactId>([\w-]+)<", pom.read_text(), re.S)
        assert set(named) <= recorded, pom
    for module in artefacts.modules():
        assert files.read_sums(settings.JVM / module / "SHA256SUMS")
    cache = Path.home() / ".m2" / "repository"
    known = files.read_sums(artefacts.CHECKSUMS)
    differ = [
        path
        for path, sha in known.items()
        if (cache / path).is_file() and files.sha256(cache / path) != sha
    ]
    assert differ == []


def fetches(text):
    """Commands and calls in a text that bring a file from elsewhere."""
    return re.findall(
        r"\b(?:curl|wget)\b|\bADD +http\S*|urlretrieve|\bpip3? install"
        r" (?!.*--require-hashes|.*--no-deps .*--editable \.)[\w.-]+",
        text,
    )


def test_nothing_else_downloads():
    places = tracked(
        ".github",
        "docker",
        "tools",
        ".ci",
        ".devcontainer",
        "start",
        "postBuild",
        "Makefile",
    )
    assert {
        file.name: fetches(joined(file.read_text()))
        for file in places
        if fetches(joined(file.read_text()))
    } == {}
    assert fetches("RUN curl -O http://x\nADD http://x /x\npip install numpy") == [
        "curl",
        "ADD http://x",
        "pip install numpy",
    ]


def test_urls_are_opened_only_where_it_is_known():
    """Maven's archive (with its SHA-512), pages of local clusters, the load on local
    services, and advisories, which are read only.
    """
    code = [
        *tracked("helpers/**/*.py"),
        *tracked("tools/*.py"),
        *tracked("service/*.py"),
        *tracked("docker/*.py"),
    ]
    opened = {
        str(file.relative_to(ROOT))
        for file in code
        if re.search(r"urlopen|requests\.get|http\.client", file.read_text())
    }
    assert opened == {
        "docker/health.py",
        "helpers/java/artefacts.py",
        "helpers/serving/load.py",
        "helpers/serving/scoring_process.py",
        "helpers/spark/sessions.py",
        "helpers/spark/standalone.py",
        "tools/audit.py",
    }


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_workflows_use_actions_by_their_commit(file):
    for job in yaml.safe_load(file.read_text())["jobs"].values():
        used = [step["uses"] for step in job["steps"] if "uses" in step]
        assert [
            one for one in used if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", one)
        ] == []
