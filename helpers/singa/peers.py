"""Groups of worker processes that pass arrays to each other: started together, none
waits for ever.

The notebook's side is `group`; a worker's side is `join`. Each pair of workers is
connected by a socket file, so nothing is visible outside this machine, and a worker's
death is noticed at once by those who wait for it.
"""

import json
import queue
import socket
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from helpers import files, locks, settings
from helpers.errors import WorkshopError
from helpers.processes.child import Child
from helpers.processes.folders import own_folder, remove
from helpers.waiting import WaitError, until

TIMEOUT = 60  # seconds that anyone waits for anyone
GRACE = (
    5  # seconds between a worker's death and the end of those that have not noticed it
)
HEADER = struct.Struct("<Q")


class PeerError(WorkshopError):
    """A worker has died, failed, or not answered in time."""


class Peers:
    """A worker's connections to the rest of its group; made by `join`.

    `rank` is its number from 0, `size` the group's; `options` is what the notebook
    passed. `bytes_sent` and `seconds_waiting` count what the exchange has cost this
    worker so far.
    """

    def __init__(
        self, rank: int, size: int, folder: Path, options: dict, timeout: float
    ):
        self.rank, self.size, self.options = rank, size, options
        self.bytes_sent, self.seconds_waiting = 0, 0.0
        self._timeout, self._folder = timeout, folder
        self._sockets = _connect(rank, size, folder, timeout)
        self._outboxes: dict[int, queue.SimpleQueue] = {
            peer: queue.SimpleQueue() for peer in self._sockets
        }
        self._senders = [
            threading.Thread(target=self._deliver, args=(peer,), daemon=True)
            for peer in self._sockets
        ]
        for sender in self._senders:
            sender.start()

    def send(self, to: int, array: np.ndarray) -> None:
        """Hand a float32 array over to worker `to`; returns at once, a thread of its
        own delivers it.
        """
        data = np.ascontiguousarray(array, dtype=np.float32).tobytes()
        self.bytes_sent += len(data)
        self._outboxes[to].put(data)

    def receive(self, sender: int) -> np.ndarray:
        """The next array from worker `sender`, as a flat float32 vector.

        Raises PeerError when that worker is gone or sends nothing within the group's
        time limit.
        """
        start = time.perf_counter()
        (length,) = HEADER.unpack(self._read(sender, HEADER.size))
        data = self._read(sender, length)
        self.seconds_waiting += time.perf_counter() - start
        return np.frombuffer(data, dtype=np.float32)

    def mean(self, vector: np.ndarray) -> np.ndarray:
        """The mean of every worker's vector, the same bytes on all of them. Raises
        PeerError as `receive` does.

        Worker 0 adds in the order of ranks and sends the result back: 2 (size - 1)
        messages.
        """
        if self.rank:
            self.send(0, vector)
            return self.receive(0)
        total = np.array(vector, dtype=np.float32)
        for peer in range(1, self.size):
            total += self.receive(peer)
        total /= self.size
        for peer in range(1, self.size):
            self.send(peer, total)
        return total

    def finish(self, **results: Any) -> None:
        """Leave the results (numbers and arrays) for the notebook, and let the last
        messages out.
        """
        for outbox in self._outboxes.values():
            outbox.put(None)
        for sender in self._senders:
            sender.join(self._timeout)
        with files.atomic(self._folder / f"result-{self.rank}.npz") as unfinished:
            np.savez(unfinished, **results)

    def _read(self, sender: int, length: int) -> bytearray:
        data, got = bytearray(length), 0
        while got < length:
            try:
                count = self._sockets[sender].recv_into(memoryview(data)[got:])
            except TimeoutError:
                raise PeerError(
                    f"worker {sender} has sent nothing for {self._timeout:g} s"
                ) from None
            except OSError:
                count = 0
            if not count:
                raise PeerError(f"worker {sender} is gone")
            got += count
        return data

    def _deliver(self, peer: int) -> None:
        """A sender of its own for each peer: two workers that send to each other at
        once must not block.
        """
        try:
            for data in iter(self._outboxes[peer].get, None):
                self._sockets[peer].sendall(HEADER.pack(len(data)))
                self._sockets[peer].sendall(data)
        except OSError:
            pass  # the peer is gone: whoever waits for it says so


def join() -> Peers:
    """In a worker: connect to the group that the notebook has started it for. Raises
    PeerError in time.
    """
    told = json.loads(sys.argv[1])
    return Peers(
        told["rank"],
        told["size"],
        Path(told["folder"]),
        told["options"],
        told["timeout"],
    )


def quietly(main: Callable[["Peers"], object]) -> None:
    """Run a worker's main function; a lost peer or a wrong shape ends it with one
    sentence, not a traceback.
    """
    try:
        main(join())
    except (PeerError, ValueError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")


class Group:
    """The notebook's side of a running group: `workers` are its processes, `wait` gives
    their results.
    """

    def __init__(self, workers: list[Child], folder: Path, limit: float):
        self.workers, self._folder, self._limit = workers, folder, limit

    def wait(self) -> list[dict[str, np.ndarray]]:
        """Each worker's results, in the order of ranks.

        Raises PeerError as soon as one has failed or died (the others are ended), or
        when the time is up.
        """

        def done() -> bool:
            return not any(worker.running for worker in self.workers)

        def failed() -> bool:
            return any(worker.returncode for worker in self.workers)

        until(lambda: done() or failed(), self._limit, "the workers", error=PeerError)
        with suppress(WaitError):  # the others may say what they have noticed
            until(done, GRACE, "the others")
        faults = [
            _fault(rank, worker)
            for rank, worker in enumerate(self.workers)
            if worker.returncode
        ]
        if faults:
            raise PeerError("; ".join(faults))
        return [
            dict(np.load(self._folder / f"result-{rank}.npz"))
            for rank in range(len(self.workers))
        ]


@contextmanager
def group(
    script: Path,
    size: int,
    timeout: float = TIMEOUT,
    limit: float = 600,
    **options: object,
) -> Iterator[Group]:
    """Start `size` processes of a script as one group, ended with the block.

    In the script, `join()` gives each its Peers, with `options` (anything JSON can
    hold) in it. No worker waits longer than `timeout` seconds for another, and `wait`
    no longer than `limit` seconds for all.
    """
    # short, for the path of a socket file has at most 107 characters
    folder = own_folder(Path(tempfile.gettempdir()), "peers")
    logs = locks.claim(settings.build_dir() / "logs")
    workers: list[Child] = []
    try:
        for rank in range(size):
            told = {
                "rank": rank,
                "size": size,
                "folder": str(folder),
                "options": options,
                "timeout": timeout,
            }
            log = logs / f"{script.stem}-{rank}.log"
            environment = {"PYTHONUNBUFFERED": "1"}
            workers.append(
                Child(
                    [sys.executable, script, json.dumps(told)],
                    log,
                    env=environment,
                    grace=3,
                )
            )
        yield Group(workers, folder, limit)
    finally:
        for worker in workers:
            worker.stop()
        remove(folder)


def run(script: Path, size: int, **arguments: Any) -> list[dict[str, np.ndarray]]:
    """Start a group, wait for it, and return its results; arguments and errors are
    those of `group` and `wait`.
    """
    with group(script, size, **arguments) as running:
        return running.wait()


def _fault(rank: int, worker: Child) -> str:
    code = worker.returncode or 0
    if code > 128:
        return f"worker {rank} was ended by signal {code - 128}"
    lines = worker.output().strip().splitlines()
    return f"worker {rank} stopped: {lines[-1] if lines else f'exit status {code}'}"


def _connect(
    rank: int, size: int, folder: Path, timeout: float
) -> dict[int, socket.socket]:
    """Connections to all others: to the lower ranks by their socket files, from the
    higher ones by our own.
    """
    deadline = time.monotonic() + timeout
    sockets: dict[int, socket.socket] = {}
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            unfinished = folder / f"listening-{rank}"
            listener.bind(str(unfinished))
            listener.listen()
            unfinished.rename(folder / str(rank))  # visible only once it listens
            for peer in range(rank):
                sockets[peer] = _call(folder / str(peer), deadline)
                sockets[peer].sendall(bytes([rank]))
            for _ in range(rank + 1, size):
                listener.settimeout(max(deadline - time.monotonic(), 0.01))
                accepted, _ = listener.accept()
                accepted.settimeout(timeout)
                sockets[accepted.recv(1)[0]] = accepted
    except (TimeoutError, IndexError):
        missing = set(range(size)) - set(sockets) - {rank}
        raise PeerError(
            f"worker {min(missing)} did not join within {timeout:g} s"
        ) from None
    for connection in sockets.values():
        connection.settimeout(timeout)
    return sockets


def _call(path: Path, deadline: float) -> socket.socket:
    left = max(deadline - time.monotonic(), 0.01)
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(left)
    until(
        lambda: connection.connect_ex(str(path)) == 0,
        left,
        path.name,
        every=0.01,
        error=TimeoutError,
    )
    return connection
