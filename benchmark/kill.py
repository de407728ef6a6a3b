"""Kill an executor in the middle of a training job, on the standalone cluster and on
Kubernetes.

python -m benchmark.kill          writes benchmark/results/kill.json
"""

import contextlib
import json
import tempfile
import time
from pathlib import Path

from benchmark import RESULTS, write
from helpers import errors
from helpers.spark.kubernetes import kubernetes
from helpers.spark.runtime import Manager
from helpers.spark.standalone import standalone_cluster
from helpers.spark.submit import submit, submit_and_kill

TRAIN = Path(__file__).with_name("train.py")
SIZE = {
    "spark.executor.cores": 1,
    "spark.executor.memory": "700m",
    "spark.executor.instances": 2,
    "spark.cores.max": 2,
}
COPIES = 4


def with_and_without(manager: Manager) -> dict[str, float]:
    """Seconds and AUC of the job, left alone and with one executor killed."""
    found: dict[str, float] = {}
    for what in ("alone", "killed"):
        with tempfile.TemporaryDirectory() as folder:
            marker = Path(folder, "training")
            arguments = [time.time(), COPIES, 1, marker]
            if what == "alone":
                printed = submit(TRAIN, arguments, manager=manager, conf=SIZE)
            else:
                printed = submit_and_kill(
                    TRAIN, arguments, manager, marker.exists, SIZE
                )
            one = json.loads(printed.splitlines()[-1])
            found |= {f"work_s_{what}": one["work_s"], f"auc_{what}": one["auc"]}
    return found


def main() -> None:
    found: dict[str, dict] = {}
    with contextlib.ExitStack() as stack:
        standalone = stack.enter_context(standalone_cluster(workers=2, memory="900m"))
        managers = {
            "standalone": standalone,
            "kubernetes": stack.enter_context(kubernetes()),
        }
        for name, manager in managers.items():
            found[name] = with_and_without(manager)
            print(name, found[name], flush=True)
    write(RESULTS / "kill.json", found)


if __name__ == "__main__":
    errors.run(main)
