"""YARN and Kubernetes as cluster managers: jobs run, faults are survived or named,
nothing is left behind.
"""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from watch import nothing_left, open_to_the_world, until

from helpers.processes.child import ProcessError
from helpers.spark import kubernetes, sessions
from helpers.spark.kubernetes import ClusterError
from helpers.spark.standalone import standalone_cluster
from helpers.spark.submit import submit, submit_and_kill
from helpers.spark.yarn import yarn

pytestmark = pytest.mark.managers
HALF = {"spark.executor.memory": "512m"}
SMALL = HALF | {"spark.executor.instances": 1}
JOB = """
import sys, time
from pyspark.sql import SparkSession
spark = SparkSession.builder.getOrCreate()
seconds = float(sys.argv[1])
def slow(x):
    time.sleep(seconds / 20)
    return x * x
print(spark.sparkContext.parallelize(range(20), 20).map(slow).sum())
"""


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    script = tmp_path_factory.mktemp("job") / "job.py"
    script.write_text(JOB)
    return script


@pytest.mark.faults
@pytest.mark.security
def test_yarn_runs_a_job_in_containers_and_survives_a_killed_executor(job, capsys):
    with nothing_left(), yarn(memory_mb=3072) as running:
        assert running.ui in capsys.readouterr().out
        assert submit_and_kill(job, [4], running, lambda: True, SMALL).strip() == "2470"
        # the application master's, the killed executor's, its successor's
        assert len(running.container_logs()) >= 3
        assert open_to_the_world() == []
    assert not running.folder.exists()


@pytest.mark.badinput
def test_a_failure_on_yarn_begins_with_its_cause(tmp_path):
    script = tmp_path / "job.py"
    script.write_text(JOB.replace("return x * x", "return x // 0"))
    with yarn(memory_mb=3072) as running, pytest.raises(ProcessError) as raised:
        submit(script, [0], manager=running, conf=SMALL)
    cause, place = str(raised.value).splitlines()
    assert cause == (
        "spark-submit job.py failed: ZeroDivisionError: integer division or modulo by"
        " zero"
    )
    log = Path(place.removeprefix("All that it said: "))
    assert "failed 4 times" in log.read_text()
    log.unlink()


@pytest.mark.faults
def test_standalone_survives_a_killed_executor(job, chance):
    delay, due = chance.uniform(0, 2), time.monotonic() + 60

    def moment():
        """From the first executor on, `delay` seconds later."""
        nonlocal due
        due = min(due, time.monotonic() + delay) if standalone.executors() else due
        return time.monotonic() > due

    with nothing_left(), standalone_cluster(workers=2, memory="512m") as standalone:
        assert submit_and_kill(job, [12], standalone, moment, HALF).strip() == "2470"


@pytest.mark.faults
def test_standalone_survives_a_killed_worker(job, chance):
    """A whole worker goes, its executor with it: what it computed is computed once
    more, and the sum is right.
    """
    delay, victim = chance.uniform(0, 2), chance.randrange(2)
    with nothing_left(), standalone_cluster(workers=2, memory="512m") as standalone:
        with ThreadPoolExecutor(1) as pool:
            submitted = pool.submit(submit, job, [12], manager=standalone, conf=HALF)
            assert until(
                lambda: len(standalone.executors()) == 2 or submitted.done(), 90
            )
            time.sleep(delay)  # the moment itself
            assert not submitted.done()
            standalone.workers[victim].kill()
            assert submitted.result().strip() == "2470"
        assert [worker.running for worker in standalone.workers] == [
            number != victim for number in range(2)
        ]


def test_standalone_knows_its_executors():
    with standalone_cluster(workers=1, memory="512m") as standalone:
        assert standalone.executors() == []
        session = sessions.start(
            "executors", master=standalone.url, spark_executor_memory="512m"
        )
        assert session.range(10).count() == 10
        assert len(standalone.executors()) == 1
        session.stop()


@pytest.mark.badinput
def test_without_kubectl(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClusterError, match="kubectl is not in the PATH: install it"):
        kubernetes.kubernetes().__enter__()


KUBECTL = "#!/bin/sh\necho '{said}' >&2\nexit 1\n"


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (
            "The connection to the server 127.0.0.1:6443 was refused",
            "No Kubernetes cluster answers: start one",
        ),
        (
            "Unable to connect to the server: dial tcp: lookup k: no such host",
            "No Kubernetes cluster answers",
        ),
        (
            'Error from server (Forbidden): pods is forbidden: User "a" cannot create',
            "You may not do this",
        ),
        (
            "Error from server (Forbidden): exceeded quota: small, requested: pods=1",
            "quota is used up",
        ),
    ],
)
@pytest.mark.badinput
def test_what_kubectl_says_becomes_one_sentence(monkeypatch, tmp_path, said, words):
    """kubectl's own words, for machines without a cluster; the tests below ask a real
    one.
    """
    (tmp_path / "kubectl").write_text(KUBECTL.format(said=said))
    (tmp_path / "kubectl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(ClusterError, match=words) as raised:
        kubernetes.kubernetes().__enter__()
    assert "\n" not in str(raised.value)


@pytest.fixture
def namespace(real_cluster):
    name = f"workshop-test-{os.getpid()}"
    kubernetes.kubectl("create", "namespace", name)
    yield name
    kubernetes.kubectl("delete", "namespace", name)


@pytest.mark.faults
def test_kubernetes_runs_a_job_and_survives_a_killed_executor(real_cluster, job):
    with kubernetes.kubernetes() as running:
        assert (
            submit_and_kill(job, [20], running, lambda: True, SMALL).strip() == "2470"
        )
        namespace = running.namespace
    left = kubernetes.kubectl(
        "get",
        "namespace",
        namespace,
        "--ignore-not-found",
        "--output=jsonpath={.status.phase}",
    )
    assert left in ("", "Terminating")


def test_an_image_that_is_not_there(real_cluster):
    with pytest.raises(
        ClusterError, match="The cluster has no image localhost/nothing:0"
    ):
        kubernetes.kubernetes(image="localhost/nothing:0").__enter__()


def test_a_namespace_without_quota(namespace):
    kubernetes.kubectl(
        "--namespace", namespace, "create", "quota", "none", "--hard=pods=0"
    )
    with pytest.raises(ClusterError, match="quota is used up"):
        kubernetes.kubernetes(namespace=namespace).__enter__()


def test_no_permission(namespace, monkeypatch, tmp_path):
    """The service account of another namespace may do nothing here."""
    account = f"--as=system:serviceaccount:{namespace}:default"
    real = kubernetes.shutil.which("kubectl")
    (tmp_path / "kubectl").write_text(f'#!/bin/sh\nexec {real} {account} "$@"\n')
    (tmp_path / "kubectl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(ClusterError, match="You may not do this on the cluster"):
        kubernetes.kubernetes(namespace=namespace).__enter__()


def test_a_driver_that_pods_cannot_reach(namespace, monkeypatch):
    monkeypatch.setenv("WORKSHOP_DRIVER_HOST", "127.0.0.1")
    with pytest.raises(
        ClusterError, match=r"A Pod could not reach this machine at 127\.0\.0\.1"
    ):
        kubernetes.kubernetes(namespace=namespace).__enter__()
