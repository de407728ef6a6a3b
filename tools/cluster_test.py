"""`make cluster-test`: the cluster in containers from the image to the last container
stopped, with what it showed.

Builds the image, starts every service, runs lessons 01 and 04 in the Lab at scale tiny
and compares their metrics with those of local runs, kills a Spark worker and an Ignite
node under load, looks for open ports, and stops everything. Containers and volumes are
its own (another project name, free ports) and are removed at the end.
"""

import ipaddress
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

import nbformat
import psutil

from helpers import errors, settings
from helpers.lesson import metrics
from helpers.processes.ports import free_port
from tests import bounds
from tools import compose as containers
from tools import lessons

ROOT = settings.ROOT
LESSONS = ("01_spark_mllib", "04_ignite")
SERVICES = (
    "ignite-1",
    "ignite-2",
    "ignite-3",
    "kafka",
    "lab",
    "spark-master",
    "spark-worker-1",
    "spark-worker-2",
)
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
# Every line that a service logs as a warning or an error until all are healthy, with #
# for times and numbers.
KNOWN_WARNINGS = json.loads((ROOT / "tests" / "cluster" / "warnings.json").read_text())
NUMBERS = r"\S*\d\S*"
failures = []


def out():
    """Folder of what the services and the lessons have said."""
    return settings.build_dir() / "cluster-test"


def check(name, passed, detail=""):
    """Print one line, and keep in mind what failed."""
    print(
        f"{'ok    ' if passed else 'FAILED'}"
        f" {name}{': ' if detail != '' else ''}{detail}",
        flush=True,
    )
    if not passed:
        failures.append(name)


def timed(what, *arguments, **options):
    """Run a command, print how long it took, and return what it printed."""
    start = time.monotonic()
    done = subprocess.run(
        arguments,
        cwd=ROOT,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        **options,
    )
    (out() / f"{what.split()[0]}.log").write_text(done.stdout + done.stderr)
    print(f"       {what}: {time.monotonic() - start:.0f} s", flush=True)
    if done.returncode:
        sys.exit(f"FAILED {what}:\n{(done.stdout + done.stderr)[-3000:]}")
    return done.stdout


def build_and_start(compose):
    timed("build of the image", *compose, "build", "lab", timeout=1500)
    size = int(docker("image", "inspect", "workshop:local", "--format", "{{.Size}}"))
    print(f"       image: {size / 1e9:.2f} GB", flush=True)
    timed("start until the Lab may start", *compose, "up", "-d", timeout=600)
    start = time.monotonic()
    states = containers.wait(compose, containers.HEALTHY_SECONDS)
    print(f"       wait for the Lab: {time.monotonic() - start:.0f} s", flush=True)
    check(
        "all services are healthy",
        states == dict.fromkeys(SERVICES, "healthy"),
        ", ".join(states),
    )


def warnings(compose):
    """What the services complained about until all were healthy is known:
    tests/cluster/warnings.json.
    """
    always, sometimes = (
        set(KNOWN_WARNINGS[which]) for which in ("always", "on a slow machine")
    )
    found = set()
    for service in SERVICES:
        log = subprocess.run(
            [*compose, "logs", "--no-color", service],
            cwd=ROOT,
            capture_output=True,
            text=True,
        ).stdout
        lines = re.findall(
            r"^.*(?:\bWARN(?:ING)?\b|\bERROR\b|\[[WE] ).*$", log, flags=re.M
        )
        kind = service.rstrip("-123")
        found |= {
            f"{kind}: {re.sub(NUMBERS, '#', line.split('|', 1)[-1]).strip()}"
            for line in lines
        }
    check(
        "every warning is a known one",
        found <= always | sometimes,
        "; ".join(sorted(found - always - sometimes)),
    )
    check(
        "every known warning is there",
        found >= always,
        "; ".join(sorted(always - found)) or f"{len(always)} of them",
    )


def confinement(compose):
    """Not root, nothing writable but the volumes and /tmp, no new rights, the limits in
    force.
    """
    user = os.environ.get("WORKSHOP_UID", "1000")
    for service in SERVICES:
        one = described(compose, service)
        limits = one["HostConfig"]
        inside = execute(compose, service, "python", "-I", "-S", "-c", CONFINED)
        passed = (
            limits["ReadonlyRootfs"]
            and limits["Memory"] > 0
            and limits["NanoCpus"] > 0
            and limits["PidsLimit"]
        )
        check(
            f"{service} is confined",
            bool(passed) and inside == f"{user} 0000000000000000 read-only",
            inside,
        )


CONFINED = """
import os
rights = [line.split()[1] for line in open("/proc/self/status") if line.startswith("CapEff")][0]
try:
    open("/workshop/x", "w")
    root = "writable"
except OSError:
    root = "read-only"
print(os.getuid(), rights, root)
"""


def ports(before):
    """What listens now and did not before is on loopback; the Lab wants its token."""
    opened = listeners() - before
    ours = {int(os.environ[name]) for name in containers.PORTS}
    check(
        "published ports are there",
        ours <= {port for _, port in opened},
        ", ".join(map(str, sorted(ours))),
    )
    beyond = [
        f"{host}:{port}"
        for host, port in opened
        if not ipaddress.ip_address(host).is_loopback
    ]
    check(
        "nothing listens beyond loopback",
        not beyond,
        ", ".join(beyond) or f"{len(opened)} new listeners",
    )
    url = f"http://127.0.0.1:{os.environ['LAB_PORT']}/api/contents/learner"
    copy = f"{url}/{LESSONS[0]}.ipynb"
    check("the Lab refuses without a token", status(url) == 403, status(url))
    check(
        "the Lab opens the learner copies with it",
        status(f"{copy}?token={os.environ['JUPYTER_TOKEN']}") == 200,
    )


def status(url):
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def listeners():
    """(address, port) of the host's listening sockets, without those that are known to
    be no container engine's.
    """
    found = set()
    for one in psutil.net_connections("tcp"):
        if one.status == psutil.CONN_LISTEN and (
            one.pid is None or "docker" in _name(one.pid)
        ):
            found.add((one.laddr.ip.removeprefix("::ffff:"), one.laddr.port))
    return found


def _name(pid):
    try:
        return psutil.Process(pid).name()
    except psutil.NoSuchProcess:
        return "docker, perhaps"


def run_lessons(compose):
    """The lessons in the Lab, and the same locally: metrics within bounds, and equal
    within rounding.
    """
    container = container_of(compose, "lab")
    reference = metrics.read(local_run("00_start_here"))
    there = {f"00_start_here.{name}": value for name, value in reference.items()}
    here = {}
    for lesson in LESSONS:
        timed(
            f"{lesson} in the Lab",
            *(
                *compose,
                "exec",
                "-T",
                "lab",
                "python",
                "-m",
                "tools.lessons",
                "--scale",
                "tiny",
                lesson,
            ),
            timeout=1500,
        )
        executed = out() / f"{lesson}.ipynb"
        docker(
            "cp", f"{container}:/workshop/build/runs/tiny/{lesson}.ipynb", str(executed)
        )
        there |= {
            f"{lesson}.{name}": value for name, value in metrics.read(executed).items()
        }
        here |= {
            f"{lesson}.{name}": value
            for name, value in metrics.read(local_run(lesson)).items()
        }
        mine = metrics.read(executed)
        wrong = bounds.breaches(lesson, mine, "tiny", there)
        check(
            f"{lesson} keeps its bounds in the Lab",
            not wrong,
            wrong or f"{len(mine)} metrics",
        )
        noise = [
            output.text
            for output in outputs(executed)
            if output.get("name") == "stderr"
        ]
        check(f"{lesson} prints no warning in the Lab", not noise, "".join(noise)[:500])
    for lesson, tolerances in SAME.items():
        for name, within in tolerances.items():
            container_value, local_value = (
                there[f"{lesson}.{name}"],
                here[f"{lesson}.{name}"],
            )
            detail = f"{container_value:.9g} in the Lab, {local_value:.9g} here"
            check(
                f"{lesson} {name}", abs(container_value - local_value) <= within, detail
            )
    text = "".join(
        output.get("text", "") for output in outputs(out() / "01_spark_mllib.ipynb")
    )
    check(
        "lesson 01 ran on the cluster's master", "on spark://spark-master:7077" in text
    )


def local_run(lesson):
    """The lesson executed on this machine at scale tiny: by the tests just before, or
    now.
    """
    tested = settings.build_dir() / "tests" / "tiny" / f"{lesson}.ipynb"
    if (
        tested.exists()
        and tested.stat().st_mtime
        > (settings.NOTEBOOKS / f"{lesson}.ipynb").stat().st_mtime
    ):
        return tested
    executed = out() / "local" / f"{lesson}.ipynb"
    if not executed.exists():
        print(
            f"       {lesson} here:"
            f" {lessons.execute(settings.NOTEBOOKS / executed.name, 'tiny', executed):.0f} s"
        )
    return executed


def outputs(notebook):
    cells = nbformat.read(notebook, as_version=4).cells
    return [
        output for cell in cells if cell.cell_type == "code" for output in cell.outputs
    ]


def spark_worker_dies(compose):
    """A worker is killed while a job runs on both: the job goes on and its answers stay
    right.
    """
    seen = killed_under(
        compose, "spark_job.py", lambda line: line["workers"] == 2, "spark-worker-2"
    )
    last = seen[-1]
    passed = (
        all(line["right"] for line in seen)
        and seen[0]["workers"] == 2
        and last["workers"] == 1
    )
    check(
        "a Spark worker killed, the job is right",
        passed,
        f"{len(seen)} answers, at the end {last}",
    )
    restart(compose, "spark-worker-2")


def ignite_node_dies(compose):
    """A node is killed while a cache with a backup is written and read: no acknowledged
    key is lost or wrong.
    """
    seen = killed_under(
        compose, "ignite_job.py", lambda line: line["written"] >= 1000, "ignite-3"
    )
    last = seen[-1]
    passed = (
        seen[0]["servers"] == 3
        and last["servers"] == 2
        and last["lost"] == last["wrong"] == 0
    )
    check("an Ignite node killed, no key lost", passed, last)
    restart(compose, "ignite-3")


def killed_under(compose, job, ready, victim):
    """Run a job in the Lab and kill a service once `ready` is true of a line that it
    printed; all its lines.
    """
    command = [*compose, "exec", "-T", "lab", "python", "-"]
    lines, killed = [], False
    with (
        (ROOT / "tests" / "cluster" / job).open() as source,
        (out() / f"{job}.err").open("w") as errors,
        subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=source,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as run,
    ):
        for text in run.stdout:
            if not text.startswith("{"):
                continue
            lines.append(json.loads(text))
            if not killed and ready(lines[-1]):
                docker("kill", "--signal", "KILL", container_of(compose, victim))
                killed = True
    if run.returncode or not killed:
        sys.exit(f"FAILED {job}:\n{(out() / f'{job}.err').read_text()[-2000:]}")
    return lines


def restart(compose, service):
    """Start a killed service again, until all are healthy."""
    timed(
        f"{service} again", *compose, "up", "-d", "--no-recreate", service, timeout=300
    )
    states = containers.wait(compose, containers.HEALTHY_SECONDS)
    check(f"{service} is back", states.get(service) == "healthy", states.get(service))


def kafka_keeps_events(compose):
    """Events written before the broker's container is stopped and started are there
    after it.
    """
    wanted = {"events": 1000, "sum": 499_500}
    check("Kafka takes events", json_of(compose, "kafka_job.py", "write") == wanted)
    timed("stop of the broker", *compose, "stop", "kafka", timeout=120)
    code = described(compose, "kafka")["State"]["ExitCode"]
    check("the broker ends in order", code == 143, f"exit status {code}")
    restart(compose, "kafka")
    check("Kafka still has them", json_of(compose, "kafka_job.py", "read") == wanted)


def json_of(compose, job, *arguments):
    with (ROOT / "tests" / "cluster" / job).open() as source:
        command = [*compose, "exec", "-T", "lab", "python", "-", *arguments]
        done = subprocess.run(
            command, cwd=ROOT, stdin=source, capture_output=True, text=True, timeout=180
        )
    found = [line for line in done.stdout.splitlines() if line.startswith("{")]
    return json.loads(found[-1]) if found else done.stderr[-500:]


def memory(compose):
    """What each container uses now and what it may use."""
    total = 0.0
    for service in SERVICES:
        line = docker(
            "stats",
            "--no-stream",
            "--format",
            "{{.MemUsage}}",
            container_of(compose, service),
        )
        used = line.split(" / ")[0]
        number, unit = re.fullmatch(r"([\d.]+)([KMG]iB)", used).groups()
        total += float(number) * {"KiB": 1 / 1024, "MiB": 1, "GiB": 1024}[unit]
        print(f"       {service:16} {line}")
    print(
        f"       memory of all containers together: {total / 1024:.2f} GiB", flush=True
    )


def stop(compose):
    """Ask every service to end, and look how it ended."""
    timed("clean stop", *compose, "stop", timeout=180)
    codes = {
        service: described(compose, service)["State"]["ExitCode"]
        for service in SERVICES
    }
    check("every service ended when asked", set(codes.values()) <= {0, 130, 143}, codes)


def docker(*arguments):
    done = subprocess.run(
        ["docker", *arguments], capture_output=True, text=True, timeout=120
    )
    if done.returncode:
        sys.exit(f"FAILED docker {' '.join(arguments)}: {done.stderr[-500:]}")
    return done.stdout.strip()


def execute(compose, service, *command):
    done = subprocess.run(
        [*compose, "exec", "-T", service, *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip() or done.stderr.strip()[-300:]


def container_of(compose, service):
    done = subprocess.run(
        [*compose, "ps", "-a", "-q", service], cwd=ROOT, capture_output=True, text=True
    )
    return done.stdout.strip()


def described(compose, service):
    return json.loads(docker("inspect", container_of(compose, service)))[0]


def main():
    # and clean up on the way
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("FAILED: stopped from outside"))
    start = time.monotonic()
    out().mkdir(parents=True, exist_ok=True)
    compose = containers.compose_command()
    containers.check_engine()
    os.environ |= {name: str(free_port()) for name in containers.PORTS}
    os.environ |= {
        "COMPOSE_PROJECT_NAME": "workshop-test",
        "JUPYTER_TOKEN": "cluster-test",
    }
    before = listeners()
    try:
        build_and_start(compose)
        warnings(compose)
        confinement(compose)
        ports(before)
        kafka_keeps_events(compose)
        spark_worker_dies(compose)
        ignite_node_dies(compose)
        run_lessons(compose)
        memory(compose)
        stop(compose)
    finally:
        logs = subprocess.run(
            [*compose, "logs", "--no-color"], cwd=ROOT, capture_output=True, text=True
        )
        (out() / "services.log").write_text(logs.stdout)
        subprocess.run([*compose, "down", "--volumes"], cwd=ROOT, capture_output=True)
    left = docker(
        "ps", "-aq", "--filter", "label=com.docker.compose.project=workshop-test"
    )
    check("nothing is left", not left, left)
    print(f"{len(failures)} checks failed, {time.monotonic() - start:.0f} s in all")
    return 1 if failures else 0


if __name__ == "__main__":
    errors.run(main)
