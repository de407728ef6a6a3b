"""Measure the cluster managers that this machine has, in rounds, and write what was found to benchmark/results/.

python -m benchmark [--managers local standalone yarn kubernetes] [--executors 1 2] [--copies 1 4] [--rounds 5]
"""

import argparse
import contextlib
import datetime
import itertools
import json
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from helpers import cluster, settings, spark
from helpers.kubernetes import ClusterError, kubernetes
from helpers.processes import ProcessError
from helpers.spark import Manager
from helpers.yarn import yarn

RESULTS = Path(__file__).parent / "results"
JOB = Path(__file__).with_name("job.py")
EXECUTOR_MB = 900


@contextlib.contextmanager
def local() -> Iterator[Manager]:
    """No manager at all: driver and tasks in one process."""
    yield Manager("local")


MANAGERS = {
    "local": local,
    "standalone": lambda: cluster.standalone(workers=2, cores=1, memory=f"{EXECUTOR_MB}m"),
    "yarn": yarn,
    "kubernetes": kubernetes,
}


def application(name: str, manager: Manager, executors: int, copies: int) -> dict:
    """Submit one application; its seconds, CPU seconds and AUCs."""
    wanted = {"spark.executor.cores": 1, "spark.executor.memory": f"{EXECUTOR_MB}m", "spark.cores.max": executors}
    wanted |= {"spark.executor.instances": executors, "spark.sql.shuffle.partitions": 4}
    if name == "local":
        manager, wanted, beside = Manager(f"local[{executors}]"), {}, 0
    else:
        beside = executors
    with tempfile.TemporaryDirectory(dir=settings.build_dir()) as events:
        wanted |= {"spark.eventLog.enabled": "true", "spark.eventLog.dir": Path(events).as_uri()}
        wanted |= {"spark.eventLog.rolling.enabled": "false", "spark.eventLog.compress": "false"}
        printed = spark.submit(JOB, [time.time(), beside, copies], manager=manager, memory="1g", conf=wanted)
        found = json.loads(printed.splitlines()[-1])
        (log,) = Path(events).iterdir()
        found["cpu_s"] = cpu_seconds(log)
    return {"manager": name, "executors": executors, "copies": copies, **found}


def cpu_seconds(event_log: Path) -> dict[str, float]:
    """CPU seconds of the tasks of each kind of work, JVM only, from Spark's event log of the measured turns."""
    group_of, seconds = {}, {}
    for line in event_log.read_text().splitlines():
        event = json.loads(line)
        if event["Event"] == "SparkListenerJobStart":
            group = (event.get("Properties") or {}).get("spark.jobGroup.id", "")
            group_of |= dict.fromkeys(event["Stage IDs"], group)
        elif event["Event"] == "SparkListenerTaskEnd":
            work, _, turn = group_of.get(event["Stage ID"], "").partition(" ")
            if turn == "measured":
                used = (event.get("Task Metrics") or {}).get("Executor CPU Time", 0) / 1e9
                seconds[work] = seconds.get(work, 0.0) + used
    return seconds


def machine() -> dict[str, object]:
    """What the numbers were measured on, without names or paths."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": psutil.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9),
        "python": platform.python_version(),
        "spark": spark.pyspark.__version__,
    }


def measure(managers: list[str], executors: list[int], copies: list[int], rounds: int) -> dict:
    """Rounds of every combination, the managers taking turns, so that a slow minute hits them all."""
    runs, started = [], {}
    with contextlib.ExitStack() as stack:
        running = {}
        for name in managers:
            start = time.perf_counter()
            running[name] = stack.enter_context(MANAGERS[name]())
            started[name] = time.perf_counter() - start
        combinations = list(itertools.product(copies, executors, managers))
        for turn in range(rounds):
            for number, (times, count, name) in enumerate(combinations, turn * len(combinations) + 1):
                runs.append({"round": turn, **application(name, running[name], count, times)})
                work = ", ".join(f"{what} {seconds:.1f}" for what, seconds in runs[-1]["work_s"].items())
                print(
                    f"[{number}/{rounds * len(combinations)}] {name} x{count}, {runs[-1]['rows']:,} rows: "
                    f"start {runs[-1]['startup_s']:.1f} s, {work}",
                    flush=True,
                )
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {"date": today, "machine": machine(), "manager_start_s": started, "runs": runs}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmark", description=__doc__.splitlines()[0])
    parser.add_argument("--managers", nargs="+", choices=list(MANAGERS), default=list(MANAGERS))
    parser.add_argument("--executors", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--copies", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=RESULTS / "latest.json")
    options = parser.parse_args()
    try:
        found = measure(options.managers, options.executors, options.copies, options.rounds)
    except (ClusterError, ProcessError) as error:
        print(error, file=sys.stderr)
        return 2
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(found, indent=1) + "\n")
    print(f"{len(found['runs'])} applications written to {options.output.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
