"""MXNet's distributed key-value store as local processes: scheduler, servers and
workers, watched while they train.
"""

import itertools
import json
import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from helpers import locks, settings
from helpers.processes.child import Child, ProcessError
from helpers.processes.ports import free_port
from helpers.waiting import until

# Scheduler and server are MXNet itself: imported in that role, it serves until the last
# worker has ended.
SERVE = "from helpers.mxnet.load import import_mxnet; import_mxnet(lean=True)"
# a worker's log: the messages of its training are between these
BEGIN, END = ("TRAINING BEGINS", "TRAINING ENDS")
EXCEPTION = re.compile(
    r"^Traceback .*?^[\w.]+(Error|Exception)\b", re.DOTALL | re.MULTILINE
)
LOOK_EVERY = 20  # turns of waiting, a second: then the logs are searched
MESSAGE = re.compile(r"(\S+) => (\S+)\. Meta:.*? push=([01]),.* Body:(.*)")


@dataclass
class Cluster:
    """The processes of one training job: `servers` are the scheduler and the servers,
    `folder` has the results.
    """

    folder: Path
    servers: list[Child] = field(default_factory=list)
    workers: list[Child] = field(default_factory=list)

    def wait(self, timeout: float) -> None:
        """Return when every worker has ended well.

        MXNet's workers wait for each other for ever, one that has failed even for the
        rest, at its exit; and a server that could not read the optimizer goes on and
        puts gradients where weights should be. So, as soon as a process ends badly or
        its log shows an exception, or after `timeout` seconds, all of them are stopped
        and ProcessError says which one failed, with the end of its log.
        """
        turns = itertools.count()

        def ended() -> bool:
            self._check(logs=next(turns) % LOOK_EVERY == 0)
            return not any(worker.running for worker in self.workers)

        def late(_: str) -> ProcessError:
            busy = [name for name, child in self._named() if child.running]
            self.stop()
            return ProcessError(
                f"Not finished after {timeout:.0f} s ({', '.join(busy)} still"
                " running): stopped."
            )

        until(ended, timeout, "The workers", error=late)
        self._check(logs=True)

    def stop(self) -> None:
        """End every process; no error for those that have ended already."""
        for child in [*self.workers, *self.servers]:
            child.stop()

    def results(self) -> list[dict[str, np.ndarray]]:
        """What each worker saved as worker-RANK.npz, in the order of the ranks."""
        files = [
            self.folder / f"worker-{rank}.npz" for rank in range(len(self.workers))
        ]
        return [dict(np.load(file)) for file in files]

    def traffic(self) -> dict[str, int]:
        """What the first worker exchanged with the servers while it trained, as the
        store itself has logged it.

        Bytes of keys and values sent (`pushed`) and received (`pulled`), and the number
        of `messages`; needs the job to have been started with `log_messages`. Headers
        of the transport are not counted.
        """
        text = self.workers[0].output().partition(BEGIN)[2].partition(END)[0]
        total = {"pushed": 0, "pulled": 0, "messages": 0}
        for sender, receiver, _push, body in MESSAGE.findall(text):
            size = sum(map(int, re.findall(r"data_size=(\d+)", body)))
            # a message that leaves has no sender's number yet
            total["pushed"] += size if sender == "?" else 0
            total["pulled"] += size if sender != "?" and receiver != "?" else 0
            total["messages"] += 1
        return total

    def _check(self, logs: bool) -> None:
        for name, child in self._named():
            status = child.returncode
            if status or (logs and EXCEPTION.search(child.output())):
                self.stop()
                how = f"ended with status {status}" if status else "failed"
                raise ProcessError(
                    f"{name} {how}, and the others would wait for it for ever: all were"
                    f" stopped.\nThe end of its log:\n{_readable(child)}"
                )

    def _named(self) -> list[tuple[str, Child]]:
        workers = [(f"worker {n}", worker) for n, worker in enumerate(self.workers)]
        return [
            *workers,
            *zip(("the scheduler", "the server"), self.servers, strict=False),
        ]


@contextmanager
def cluster(
    script: Path, job: dict, workers: int = 2, log_messages: bool = False
) -> Iterator[Cluster]:
    """Scheduler, one server and `workers` processes of `script`, all on 127.0.0.1,
    ended with the block.

    `script` gets `job` as JSON in its first argument, with the job's `folder` in it,
    where it saves worker-RANK.npz. A job whose kvstore is "local" is one worker and
    nothing else. Every process has one thread for its kernels, so that two workers do
    not share what one worker would have had for itself.
    """
    jobs = locks.claim(settings.build_dir() / "mxnet" / "jobs")
    folder = locks.make(jobs / job["name"])
    for old in folder.iterdir():
        old.unlink()
    alone = job["kvstore"] == "local"
    env = {
        "PYTHONPATH": settings.python_path(script.resolve().parent),
        "OMP_NUM_THREADS": "1",
        "DMLC_PS_ROOT_URI": "127.0.0.1",
        "DMLC_PS_ROOT_PORT": str(free_port()),
        "DMLC_INTERFACE": "lo" if sys.platform == "linux" else "lo0",
        "DMLC_NUM_SERVER": "1",
        "DMLC_NUM_WORKER": str(workers),
        "PS_VERBOSE": "2" if log_messages else "0",
    }
    with ExitStack() as stack:
        started = Cluster(folder)
        stack.callback(started.stop)

        def start(role: str, name: str, *command: object) -> Child:
            environment = env if alone else env | {"DMLC_ROLE": role}
            return Child(
                [sys.executable, *command], folder / f"{name}.log", environment, grace=2
            )

        if not alone:
            started.servers += [
                start(role, role, "-c", SERVE) for role in ("scheduler", "server")
            ]
        argument = json.dumps(job | {"folder": str(folder)})
        started.workers += [
            start("worker", f"worker{n}", script, argument)
            for n in range(1 if alone else workers)
        ]
        yield started


def run(
    script: Path,
    job: dict,
    workers: int = 2,
    timeout: float = 300,
    log_messages: bool = False,
) -> Cluster:
    """Start the cluster, wait until its workers have ended, and return it for its
    results and logs.

    Raises ProcessError when a process fails or `timeout` seconds have passed.
    """
    with cluster(script, job, workers, log_messages) as started:
        started.wait(timeout)
    return started


def _readable(child: Child) -> str:
    """The last lines of a log without the messages that the store has noted in it."""
    lines = [
        line
        for line in child.output().splitlines()
        if "ps-lite" not in line and line.strip()
    ]
    return "\n".join(lines[-12:])
