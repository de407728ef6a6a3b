"""Measure the cluster managers that this machine has, in rounds, and write what was
found to benchmark/results/.

python -m benchmark [--managers local standalone yarn kubernetes] [--executors 1 2]
[--copies 1 2] [--rounds 5]
"""

import argparse
import contextlib
import itertools
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from benchmark import RESULTS, write
from helpers import errors, settings
from helpers.spark.kubernetes import kubernetes
from helpers.spark.runtime import Manager
from helpers.spark.standalone import standalone_cluster
from helpers.spark.submit import submit
from helpers.spark.yarn import yarn

JOB = Path(__file__).with_name("job.py")
EXECUTOR_MB = 900


@contextlib.contextmanager
def local() -> Iterator[Manager]:
    """No manager at all: driver and tasks in one process."""
    yield Manager("local")


MANAGERS = {
    "local": local,
    "standalone": lambda: standalone_cluster(
        workers=2, cores=1, memory=f"{EXECUTOR_MB}m"
    ),
    "yarn": yarn,
    "kubernetes": kubernetes,
}


def application(
    name: str, manager: Manager, executors: int, copies: list[int]
) -> list[dict]:
    """Submit one application; for each size its seconds, CPU seconds and AUCs."""
    beside = executors
    wanted = {
        "spark.executor.cores": 1,
        "spark.executor.memory": f"{EXECUTOR_MB}m",
        "spark.cores.max": executors,
    }
    wanted |= {"spark.executor.instances": executors, "spark.sql.shuffle.partitions": 4}
    if name == "local":
        manager, wanted, beside = Manager(f"local[{executors}]"), {}, 0
    with tempfile.TemporaryDirectory(dir=settings.build_dir()) as events:
        wanted |= {
            "spark.eventLog.enabled": "true",
            "spark.eventLog.dir": Path(events).as_uri(),
        }
        wanted |= {
            "spark.eventLog.rolling.enabled": "false",
            "spark.eventLog.compress": "false",
        }
        printed = submit(
            JOB,
            [time.time(), beside, *copies],
            manager=manager,
            memory="1g",
            conf=wanted,
        )
        found = json.loads(printed.splitlines()[-1])
        (log,) = Path(events).iterdir()
        used = cpu_seconds(log)
    who = {"manager": name, "executors": executors, "startup_s": found["startup_s"]}
    return [
        {**who, **size, "cpu_s": used[str(size["copies"])]} for size in found["sizes"]
    ]


def cpu_seconds(event_log: Path) -> dict[str, dict[str, float]]:
    """CPU seconds of the tasks of each size and kind of work, of the JVM only, from the
    event log's measured turns.
    """
    group_of: dict[int, str] = {}
    seconds: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for line in event_log.read_text().splitlines():
        event = json.loads(line)
        if event["Event"] == "SparkListenerJobStart":
            group = (event.get("Properties") or {}).get("spark.jobGroup.id", "")
            group_of |= dict.fromkeys(event["Stage IDs"], group)
        elif event["Event"] == "SparkListenerTaskEnd":
            group = group_of.get(event["Stage ID"], "").split()
            if group[:1] == ["measured"]:
                seconds[group[1]][group[2]] += (event.get("Task Metrics") or {}).get(
                    "Executor CPU Time", 0
                ) / 1e9
    return seconds


def measure(
    managers: list[str], executors: list[int], copies: list[int], rounds: int
) -> dict:
    """Rounds of every combination, the managers taking turns, so that a slow minute
    hits them all.
    """
    runs, started = [], {}
    with contextlib.ExitStack() as stack:
        running = {}
        for name in managers:
            start = time.perf_counter()
            running[name] = stack.enter_context(MANAGERS[name]())
            started[name] = time.perf_counter() - start
        combinations = list(itertools.product(executors, managers))
        for turn in range(rounds):
            for number, (count, name) in enumerate(
                combinations, turn * len(combinations) + 1
            ):
                found = application(name, running[name], count, copies)
                runs += [{"round": turn, **one} for one in found]
                work = ", ".join(
                    f"{what} {seconds:.1f}"
                    for what, seconds in found[-1]["work_s"].items()
                )
                print(
                    f"[{number}/{rounds * len(combinations)}] {name} x{count}: start"
                    f" {found[-1]['startup_s']:.1f} s; {found[-1]['rows']:,} rows:"
                    f" {work}",
                    flush=True,
                )
    return {"manager_start_s": started, "runs": runs}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmark", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--managers", nargs="+", choices=list(MANAGERS), default=list(MANAGERS)
    )
    parser.add_argument("--executors", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--copies", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=RESULTS / "latest.json")
    options = parser.parse_args()
    found = measure(options.managers, options.executors, options.copies, options.rounds)
    write(options.output, found)


if __name__ == "__main__":
    errors.run(main)
