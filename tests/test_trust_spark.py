"""Whom Spark trusts: a stranger on this machine, who does not know the secret, runs
nothing, ends nothing and asks in vain.

Where the tests run as root, the stranger is another user; elsewhere one who does not
know the secret.
"""

import json
import os
import stat
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress

import psutil
import pytest
import yaml
from watch import ANSWER, FAILURE, REFUSED, asked, listening, stranger, until

from docker import start
from helpers import settings
from helpers.java import jdk
from helpers.processes.child import Child
from helpers.spark import recipe, runtime, secret, sessions
from helpers.spark.runtime import ClusterError
from helpers.spark.standalone import standalone_cluster
from helpers.spark.submit import submit

pytestmark = [pytest.mark.spark, pytest.mark.security]
HALF = {"spark_executor_memory": "512m"}


@pytest.fixture(scope="module")
def jars():
    """Spark's jars, which the stranger brings along; any copy of Spark would do."""
    folder = runtime.home() / "jars"
    if stranger("test", "-r", folder).returncode:
        pytest.skip("another user cannot read this environment's Spark")
    return folder


def attack(jars, cluster, marker, authenticate="true", **environment):
    """A stranger asks the master to run a program on a worker, as the worker's owner: a
    tool of Hadoop's, which makes the file `marker`. What the stranger's client said.
    """
    library = next(jars.glob("hadoop-client-api-*.jar"))
    done = stranger(
        jdk.java(),
        *("-Xmx256m", f"-Dspark.authenticate={authenticate}"),
        *("-cp", f"{jars}/*", "org.apache.spark.deploy.Client"),
        *("--memory", "256M", "launch", cluster.url, library.as_uri()),
        *("org.apache.hadoop.security.alias.CredentialShell", "create", "a"),
        *("-value", "b", "-provider", f"jceks://file{marker}"),
        **environment,
    )
    return done.stdout + done.stderr


def registered(cluster):
    """Applications and drivers that the master has ever had."""
    with urllib.request.urlopen(f"{cluster.ui}/json/", timeout=5) as response:
        state = json.load(response)
    kinds = ("activeapps", "completedapps", "activedrivers", "completeddrivers")
    return [one for kind in kinds for one in state[kind]]


def test_an_open_cluster_runs_a_stranger_s_program(jars, tmp_path, monkeypatch):
    """The control: without authentication the attack below runs code as its owner."""
    monkeypatch.setattr(recipe, "CLOSED", ("-Dspark.master.rest.enabled=false",))
    marker = tmp_path / "marker"
    with standalone_cluster(workers=1, memory="512m") as cluster:
        said = attack(jars, cluster, marker, authenticate="false")
        assert until(marker.exists, 120), said
        assert marker.stat().st_uid == os.geteuid()
        assert registered(cluster)


def test_a_stranger_without_the_secret_runs_nothing(jars, tmp_path):
    marker = tmp_path / "marker"
    with standalone_cluster(workers=1, memory="512m") as cluster:
        attack(jars, cluster, marker, authenticate="false")
        assert REFUSED in cluster.master.output()
        guesses = ("a-guess", *secret.STANDALONE.values())
        for tries, guess in enumerate(guesses, 1):
            attack(jars, cluster, marker, **{secret.VARIABLE: guess})
            refusals = cluster.master.output().count("DIGEST-MD5: digest response")
            assert refusals >= tries, cluster.master.output(2000)
        assert registered(cluster) == []
        assert not marker.exists()
        # the same client is served when it knows the secret
        said = attack(jars, cluster, marker, **{secret.VARIABLE: secret.value()})
        assert until(marker.exists, 120), said
        assert registered(cluster)


def test_a_standalone_cluster_listens_on_its_own_ports_alone():
    """Not on 6066, where Spark's master takes submissions by HTTP from anybody."""
    with standalone_cluster(workers=1, memory="512m") as cluster:
        asked = {int(url.rpartition(":")[2]) for url in (cluster.url, cluster.ui)}
        assert {port for (_, port), _ in listening(cluster.master.pid)} == asked
        # its web page and its RPC
        assert len(listening(cluster.workers[0].pid)) == 2


@pytest.mark.parametrize("allowed", [True, False])
def test_the_master_s_page_ends_no_application(allowed, monkeypatch):
    """With Spark's own presets anybody's POST does."""
    if allowed:
        monkeypatch.setattr(recipe, "CLOSED", ("-Dspark.authenticate=true",))
    with standalone_cluster(workers=1, memory="512m") as cluster:
        session = sessions.start("page", master=cluster.url, **HALF)
        (application,) = registered(cluster)
        form = f"id={application['id']}&terminate=true".encode()
        with suppress(urllib.error.HTTPError):
            urllib.request.urlopen(f"{cluster.ui}/app/kill/", form, timeout=20)
        with urllib.request.urlopen(f"{cluster.ui}/json/", timeout=5) as response:
            active = json.load(response)["activeapps"]
        assert bool(active) is not allowed
        if not allowed:
            assert session.range(10).count() == 10
        session.stop()


@pytest.fixture(params=["local[2]", "standalone"])
def driver(request):
    """Starts a session, on its own or on a cluster, with settings of the test's."""
    with ExitStack() as stack:

        def begin(**conf):
            master = request.param
            if master == "standalone":
                if conf.get("spark_authenticate") == "false":
                    patch = stack.enter_context(pytest.MonkeyPatch.context())
                    patch.setattr(recipe, "CLOSED", ())
                cluster = standalone_cluster(workers=1, memory="512m")
                master = stack.enter_context(cluster).url
            session = sessions.start("trust", master=master, **HALF, **conf)
            stack.callback(session.stop)
            return session

        yield begin


def answers(session):
    """What a stranger hears from the driver and from its block manager: the kind of
    each answer, and its first words.
    """
    context = session.sparkContext
    blocks = context._jsc.sc().env().blockManager().blockManagerId().port()
    return asked(context.getConf().get("spark.driver.port"), blocks)


def test_an_open_driver_reads_what_a_stranger_sends(driver):
    """The control: the driver reads Java objects of a stranger's, its block manager
    does what he asks.
    """
    (rpc, why), (block, _) = answers(driver(spark_authenticate="false"))
    assert (rpc, block) == (FAILURE, ANSWER)
    assert "invalid stream header" in why


def test_a_driver_refuses_who_does_not_know_the_secret(driver):
    session = driver()
    assert session.range(1000, numPartitions=2).count() == 1000
    for kind, why in answers(session):
        assert kind == FAILURE
        assert REFUSED in why


@pytest.mark.parametrize("allowed", [True, False])
def test_a_page_ends_no_job(allowed):
    """Spark's page takes even a GET, which any web page may send, for an order."""
    conf = {"spark_ui_killEnabled": "true"} if allowed else {}
    session = sessions.start("page", master="local[2]", **conf)
    context = session.sparkContext
    with ThreadPoolExecutor(1) as pool:
        slow = context.parallelize(range(2), 2).map(lambda _: time.sleep(4))
        job = pool.submit(slow.count)
        assert until(lambda: context.statusTracker().getActiveJobsIds())
        (number,) = context.statusTracker().getActiveJobsIds()
        with suppress(urllib.error.HTTPError):
            urllib.request.urlopen(f"{context.uiWebUrl}/jobs/job/kill/?id={number}")
        if allowed:
            with pytest.raises(Exception, match="cancelled"):
                job.result()
        else:
            assert job.result() == 2
    session.stop()


# ---- where the secret is, and where not


def exposed(text):
    """Whether a text shows the secret."""
    return secret.value() in text


def commands(pid=None):
    """The command lines below a process, as every user of the machine sees them."""
    found = {}
    for process in psutil.Process(pid or os.getpid()).children(recursive=True):
        with suppress(psutil.Error):  # it has just ended
            found[process.pid] = " ".join(process.cmdline())
    return found


def test_the_secret_is_in_no_command_page_log_or_setting(tmp_path):
    seen, over = {}, threading.Event()
    script, events = tmp_path / "job.py", tmp_path / "events"
    events.mkdir()
    script.write_text(SAYS_ALL)

    def look():
        while not over.wait(0.1):
            seen.update(commands())

    threading.Thread(target=look, daemon=True).start()
    with standalone_cluster(workers=1, memory="512m") as cluster:
        conf = {"spark.executor.memory": "512m", "spark.eventLog.enabled": "true"}
        conf["spark.eventLog.compress"] = "false"
        conf["spark.eventLog.dir"] = events.as_uri()
        printed = submit(script, manager=cluster, conf=conf)
        session = sessions.start("trust", master=cluster.url, **HALF)
        assert session.range(10).count() == 10
        with urllib.request.urlopen(
            f"{session.sparkContext.uiWebUrl}/environment/"
        ) as page:
            shown = page.read().decode()
        settled = str(session.sparkContext.getConf().getAll())
        logs = [cluster.master, *cluster.workers]
        said = "".join(child.output() for child in logs)
        session.stop()
    over.set()
    kinds = ("SparkSubmit", "ExecutorBackend", "master.Master", "worker.Worker")
    for kind in (*kinds, "pyspark-shell"):
        assert [text for text in seen.values() if kind in text], kind
    files = [file for file in events.rglob("*") if file.is_file()]
    recorded = "".join(file.read_text() for file in files)
    assert "spark.authenticate" in recorded
    assert "spark.authenticate" in shown
    assert "spark.authenticate.secret" in printed
    for text in (*seen.values(), recorded, shown, settled, said, printed):
        assert not exposed(text)


SAYS_ALL = """
from pyspark.sql import SparkSession
spark = SparkSession.builder.getOrCreate()
print(spark.range(10).count(), spark.sparkContext.getConf().getAll())
"""


def test_each_python_has_a_secret_of_its_own():
    code = "from helpers.spark import secret; print(secret.value(), secret.value())"
    command = [sys.executable, "-c", code]
    said = [
        subprocess.run(
            command, cwd=settings.ROOT, capture_output=True, text=True, check=True
        ).stdout.split()
        for _ in range(2)
    ]
    assert all(first == second and len(first) >= 43 for first, second in said)
    assert said[0] != said[1]


def test_those_who_share_a_file_make_one_secret(tmp_path, monkeypatch):
    """Master, workers and Lab of the containers start side by side."""
    file = tmp_path / "spark" / "secret"
    code = "from helpers.spark import secret; print(secret.value())"
    together = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=settings.ROOT,
            env=os.environ | {"WORKSHOP_SPARK_SECRET": str(file)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    said = {process.communicate(timeout=60)[0].strip() for process in together}
    assert said == {file.read_text()}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(file.read_text()) >= 43
    monkeypatch.setenv("WORKSHOP_SPARK_SECRET", str(file))
    assert secret.value() == file.read_text()


@pytest.mark.badinput
@pytest.mark.parametrize(
    ("mode", "text", "words"),
    [
        (0o644, "known", "Others may read .*secret"),
        (0o600, " ", "is empty: write"),
        (None, "", "cannot be read .Is a directory"),
    ],
)
def test_a_secret_that_is_none_is_refused(tmp_path, monkeypatch, mode, text, words):
    file = tmp_path / "secret"
    if mode:
        file.write_text(text)
        file.chmod(mode)
    else:
        file.mkdir(mode=0o700)
    monkeypatch.setenv("WORKSHOP_SPARK_SECRET", str(file))
    with pytest.raises(ClusterError, match=words) as raised:
        secret.value()
    assert "\n" not in str(raised.value)


@pytest.mark.badinput
def test_an_external_cluster_without_its_secret_is_refused(monkeypatch):
    monkeypatch.setenv("WORKSHOP_SPARK_MASTER", "spark://127.0.0.1:7077")
    monkeypatch.delenv("WORKSHOP_SPARK_SECRET", raising=False)
    with pytest.raises(ClusterError, match="set WORKSHOP_SPARK_SECRET to the file"):
        sessions.start("external")


# ---- containers


def test_spark_s_containers_and_the_lab_share_a_secret():
    """In a volume that they have in common, and that survives none of them."""
    services = yaml.safe_load((settings.ROOT / "docker-compose.yml").read_text())
    for name in ("spark-master", "spark-worker-1", "spark-worker-2", "lab"):
        service = services["services"][name]
        file = service["environment"]["WORKSHOP_SPARK_SECRET"]
        assert file.startswith("/workshop/build/spark/")
        assert "build:/workshop/build" in service["volumes"]


def test_a_containers_worker_and_driver_find_the_secret_in_its_file(
    tmp_path, monkeypatch
):
    """docker/start.py's worker as a process, with a master of this machine."""
    monkeypatch.setenv("WORKSHOP_SPARK_SECRET", str(tmp_path / "secret"))
    monkeypatch.setattr(start, "FILES", tmp_path)
    monkeypatch.setattr(start, "HOST", "127.0.0.1")
    monkeypatch.setattr(start, "HEAP", 512)
    with standalone_cluster(workers=0) as cluster:
        monkeypatch.setenv("WORKSHOP_SPARK_MASTER", cluster.url)
        worker = start.spark_worker()
        log = tmp_path / "worker.log"
        child = Child(worker.command, log=log, env=worker.environment)
        try:
            child.wait_until(
                lambda: cluster.alive_workers() == 1, 60, "The container's worker"
            )
            session = sessions.start("container", **HALF)
            assert session.sparkContext.master == cluster.url
            assert session.range(100).count() == 100
            session.stop()
        finally:
            child.stop()
