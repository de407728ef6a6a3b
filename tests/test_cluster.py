"""The cluster in containers, from the image to the last container removed: `make
cluster-test`. Skipped where no container engine answers.

The tests depend on their order: what the services logged before one is killed, the
lessons after the kills, memory and the clean stop last. What they print are times and
sizes: docker/README.md names them.
"""

import ipaddress
import json
import signal
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import bounds
import nbformat
import pytest
from compose_cluster import (
    IMAGE,
    JOBS,
    SERVICES,
    TOKEN,
    ComposeCluster,
    docker,
    warnings,
)
from watch import status

from helpers import settings
from helpers.lesson import metrics
from tools import compose, lessons

# Metrics that do not depend on how fast the machine is, and how far container and local
# run may differ: sums of doubles are added in another order, so the coefficients differ
# in their last digits.
SAME = {
    "01_spark_mllib": {
        "auc_scheduled": 1e-6,
        "auc_live": 1e-6,
        # bins of the histograms are sampled from each partition
        "trees_auc_scheduled": 1e-3,
        "december_auc_live": 1e-6,
        "gradient_descent_gap": 1e-9,
        "own_estimator_max_abs_coef_diff": 1e-6,
        "standalone_workers": 0,
    },
    "04_ignite": {
        "nodes": 0,
        "flights_loaded": 0,
        "ignite_ml_auc": 1e-6,
        "own_max_abs_coef_diff": 1e-6,
        "own_auc": 1e-6,
        "stored_prediction_max_diff": 1e-9,
        "keys_lost_backups_1": 0,
        "wrong_values_backups_1": 0,
        "keys_lost_after_full_crash_persistent": 0,
    },
}
CONFINED = """
import os, pwd
with open("/proc/self/status") as lines:
    rights = [line.split()[1] for line in lines if line.startswith("CapEff")][0]
try:
    open("/workshop/x", "w")
    root = "writable"
except OSError:
    root = "read-only"
print(pwd.getpwuid(os.getuid()).pw_name, rights, root)
"""
KNOWN_WARNINGS = json.loads((JOBS / "warnings.json").read_text())
pytestmark = pytest.mark.containers


@pytest.fixture(scope="module")
def cluster() -> Iterator[ComposeCluster]:
    """The whole cluster, started once; gone afterwards, also after a signal to end."""
    try:
        command = compose.compose_command()
        compose.check_engine()
    except compose.Problem as problem:
        pytest.skip(str(problem))
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    cluster = ComposeCluster(command, settings.build_dir() / "cluster-test")
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.remove()
        signal.signal(signal.SIGTERM, before)


def test_all_services_are_healthy(cluster):
    assert cluster.states == dict.fromkeys(SERVICES, "healthy")


def test_the_services_log_known_warnings_only(cluster):
    known = {*KNOWN_WARNINGS["always"], *KNOWN_WARNINGS["on a slow machine"]}
    assert warnings(cluster.start_logs) - known == set()


def test_every_known_warning_is_there(cluster):
    assert set(KNOWN_WARNINGS["always"]) - warnings(cluster.start_logs) == set()


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_has_limits_and_no_rights(cluster, service):
    limits = cluster.inspect(service)["HostConfig"]
    assert limits["ReadonlyRootfs"] is True
    assert limits["Memory"] > 0
    assert limits["NanoCpus"] > 0
    assert limits["PidsLimit"] > 0
    inside = cluster.execute(service, "python", "-I", "-S", "-c", CONFINED)
    assert inside == "workshop 0000000000000000 read-only"


def test_the_published_ports_are_there(cluster):
    assert {port for _, port in cluster.opened} >= set(cluster.ports.values())


def test_nothing_listens_beyond_loopback(cluster):
    assert cluster.opened
    beyond = {
        (host, port)
        for host, port in cluster.opened
        if not ipaddress.ip_address(host).is_loopback
    }
    assert beyond == set()


def test_the_lab_opens_the_learner_copies_with_its_token_only(cluster):
    learner = f"http://127.0.0.1:{cluster.ports['LAB_PORT']}/api/contents/learner"
    assert status(learner) == 403
    assert status(f"{learner}/01_spark_mllib.ipynb?token={TOKEN}") == 200


def test_kafka_keeps_its_events_while_the_broker_is_stopped(cluster):
    events = {"events": 1000, "sum": 499_500}
    assert cluster.job("kafka_job.py", "write") == events
    cluster.timed("stop of the broker", "stop", "kafka", timeout=120)
    exit_code = cluster.inspect("kafka")["State"]["ExitCode"]
    cluster.start_again("kafka")
    assert exit_code == 143
    assert cluster.job("kafka_job.py", "read") == events


def test_a_job_is_right_while_a_spark_worker_is_killed(cluster):
    lines = cluster.job_with_kill(
        "spark_job.py", lambda line: line["workers"] == 2, "spark-worker-2"
    )
    print(f"{len(lines)} answers, at the end {lines[-1]}")
    assert all(line["right"] for line in lines)
    assert (lines[0]["workers"], lines[-1]["workers"]) == (2, 1)


def test_no_acknowledged_key_is_lost_while_an_ignite_node_is_killed(cluster):
    lines = cluster.job_with_kill(
        "ignite_job.py", lambda line: line["written"] >= 1000, "ignite-3"
    )
    print(f"at the end {lines[-1]}")
    assert (lines[0]["servers"], lines[-1]["servers"]) == (3, 2)
    assert (lines[-1]["lost"], lines[-1]["wrong"]) == (0, 0)


@pytest.fixture(scope="module")
def in_the_lab(cluster) -> Callable[[str], Path]:
    """Executes a lesson in the Lab at scale tiny, once: the notebook, copied here."""

    @cache
    def run(lesson: str) -> Path:
        cluster.timed(
            f"{lesson} in the Lab",
            *("exec", "-T", "lab", "python", "-m", "tools.lessons"),
            *("--scale", "tiny", lesson),
            timeout=1500,
        )
        executed = cluster.folder / f"{lesson}.ipynb"
        cluster.copy_from_lab(f"build/runs/tiny/{lesson}.ipynb", executed)
        return executed

    return run


@cache
def here(lesson: str) -> Path:
    """The lesson executed on this machine at scale tiny: by the tests just before, or
    now.
    """
    source = settings.NOTEBOOKS / f"{lesson}.ipynb"
    tested = settings.build_dir() / "tests" / "tiny" / source.name
    if tested.exists() and tested.stat().st_mtime > source.stat().st_mtime:
        return tested
    executed = settings.build_dir() / "cluster-test" / "local" / source.name
    seconds = lessons.execute(source, "tiny", executed)
    print(f"{lesson} here: {seconds:.0f} s", flush=True)
    return executed


def outputs(notebook: Path) -> list[dict]:
    cells = nbformat.read(notebook, as_version=4).cells
    return [output for cell in cells for output in cell.get("outputs", [])]


@pytest.mark.parametrize("lesson", SAME)
def test_a_lesson_in_the_lab_keeps_its_bounds(in_the_lab, lesson):
    others = {
        f"{name}.{metric}": value
        for name, notebook in {
            "00_start_here": here("00_start_here"),
            "01_spark_mllib": in_the_lab("01_spark_mllib"),
        }.items()
        for metric, value in metrics.read(notebook).items()
    }
    own = metrics.read(in_the_lab(lesson))
    assert bounds.breaches(lesson, own, "tiny", others) == {}


@pytest.mark.parametrize("lesson", SAME)
def test_a_lesson_in_the_lab_prints_no_warning(in_the_lab, lesson):
    stderr = [
        output["text"]
        for output in outputs(in_the_lab(lesson))
        if output.get("name") == "stderr"
    ]
    assert stderr == []


@pytest.mark.parametrize("lesson", SAME)
def test_a_lesson_in_the_lab_has_the_results_of_a_local_run(in_the_lab, lesson):
    there, local = metrics.read(in_the_lab(lesson)), metrics.read(here(lesson))
    different = {}
    for name, tolerance in SAME[lesson].items():
        print(f"{lesson} {name}: {there[name]:.9g} in the Lab, {local[name]:.9g} here")
        if not abs(there[name] - local[name]) <= tolerance:
            different[name] = (there[name], local[name])
    assert different == {}


def test_lesson_01_runs_on_the_clusters_master(in_the_lab):
    printed = [
        output.get("text", "") for output in outputs(in_the_lab("01_spark_mllib"))
    ]
    assert "on spark://spark-master:7077" in "".join(printed)


def test_the_containers_use_less_memory_than_the_engine_must_have(cluster):
    usage = cluster.memory()
    for service, (used, limit) in usage.items():
        print(f"{service:16} {used:6.0f} MB of {limit:.0f}")
    total = sum(used for used, _ in usage.values()) / 1024
    print(f"memory of all containers together: {total:.2f} GB", flush=True)
    assert all(0 < used < limit for used, limit in usage.values())
    assert total < compose.MEMORY_GB


def test_every_service_ends_when_asked(cluster):
    cluster.timed("clean stop", "stop", timeout=180)
    codes = cluster.exit_codes()
    assert {
        name: code for name, code in codes.items() if code not in (0, 130, 143)
    } == {}


def test_nothing_is_left_but_the_image(cluster):
    assert cluster.left().keys() == {"containers", "volumes", "networks"}
    cluster.remove()
    assert cluster.left() == {}
    assert docker("image", "inspect", IMAGE, "--format", "{{.Id}}")
