"""The lessons as files: found, and executed at a scale."""

import argparse
import json
import logging
import math
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path

import psutil

from helpers import errors, settings

# What executes and renders is imported where it is used: that takes seconds.

TIMES = settings.ROOT / "docs" / "timing.json"  # of full runs; make timing writes it
# lessons at a time; at full scale they measure, and nothing may run beside
AT_ONCE = {"tiny": 2, "full": 1}
# Two lessons at a time on two cores: threads that wait by spinning would take each
# other's time. What a lesson sets itself still counts.
BESIDE_ANOTHER = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
# a cell hangs that takes 20 times as long as its whole lesson took, and an hour
LIMIT_SECONDS, LIMIT_TIMES = 3600, 20
LONG_SECONDS = 600  # the reader is told of a cell that takes longer
END_SECONDS = 30  # for what a lesson has started to end by itself
KILLED = "its process was ended (out of memory?)"
TITLES = f"{'lesson':21} {'seconds':>7} {'peak MB':>7}  {'result':7} {'cell':>4}  error"


def notebooks() -> list[Path]:
    """Every lesson, in order."""
    return sorted(settings.NOTEBOOKS.glob("[0-9]*.ipynb"))


def execute(
    notebook: Path,
    scale: str,
    output: Path,
    timeout: int | None = None,
    at_cell: Callable[[int], None] = lambda number: None,
) -> float:
    """Run a lesson from its first cell to its last in a fresh kernel; seconds it took.

    `at_cell` is called with the number of each code cell that begins, as `output` will
    show it. Raises PapermillExecutionError at the first cell that fails,
    DeadKernelError when the kernel ends, CellTimeoutError when a cell takes longer than
    `timeout` seconds; `output` then shows how far it came.
    """
    import nbformat
    import papermill
    from traitlets.config import Config

    output.parent.mkdir(parents=True, exist_ok=True)
    output.unlink(missing_ok=True)
    start = time.monotonic()
    numbers = count(1)
    try:
        papermill.execute_notebook(
            notebook,
            output,
            parameters={"scale": scale},
            cwd=settings.NOTEBOOKS,
            kernel_name="python3",
            progress_bar=False,
            execution_timeout=timeout,
            on_cell_execute=lambda **_: at_cell(next(numbers)),
            config=Config(KernelManager={"transport_encryption": "auto"}),
        )
    except Exception:
        if output.exists():  # papermill marks exceptions of cells, not a dead kernel
            copy = nbformat.read(output, as_version=4)
            copy.metadata.papermill["exception"] = True
            nbformat.write(copy, output)
        raise
    return time.monotonic() - start


def store(notebook: Path, executed: Path) -> None:
    """Put the outputs of an executed copy into the lesson itself, without what
    papermill added to it.
    """
    import nbformat

    lesson = nbformat.read(notebook, as_version=4)
    run = nbformat.read(executed, as_version=4)
    cells = [
        cell
        for cell in run.cells
        if "injected-parameters" not in cell.metadata.get("tags", [])
    ]
    if [cell.source for cell in cells] != [cell.source for cell in lesson.cells]:
        raise ValueError(f"{executed} was not made from {notebook.name}: run it again.")
    count = 0
    for cell, source in zip(lesson.cells, cells, strict=True):
        if cell.cell_type == "code":
            count += 1
            cell.outputs, cell.execution_count = source.outputs, count
            for output in cell.outputs:
                if output.get("execution_count"):
                    output["execution_count"] = count
    nbformat.write(lesson, notebook)


def cell_limit(lesson: Path) -> int:
    """Seconds that a cell of the lesson may take: WORKSHOP_CELL_LIMIT, else by the time
    that the whole lesson took where it was measured. Raises SettingError.
    """
    measured = _measured().get(lesson.stem, {}).get("seconds", 0)
    return settings.cell_limit(max(LIMIT_SECONDS, LIMIT_TIMES * measured))


class Run:
    """A lesson in a process of its own, and its row of the table.

    `result` is "not run", "running", "ok", "failed" or "stopped"; `cell` is the number
    of the code cell that it is in, 0 before the first and after the last; `error` holds
    lines that say why it failed.
    """

    def __init__(self, lesson: Path, title: str, scale: str, keep: bool):
        self.lesson, self.title = lesson, title
        self._scale, self._keep = scale, keep
        self._limit = cell_limit(lesson)
        self.result = "not run"
        self.error: list[str] = []
        self.cell, self.seconds, self.memory_mb = 0, 0.0, 0.0

    def start(self) -> None:
        """Begin it."""
        context = get_context("spawn")
        self.messages, theirs = context.Pipe(duplex=False)
        arguments = (self.lesson, self._scale, self._keep, theirs)
        self._process = context.Process(target=_run_one, args=arguments, daemon=True)
        self._began = self._cell_began = time.monotonic()
        self._notices = 0
        # A Ctrl-C in the terminal reaches both processes. This one acts on it; the
        # other one holds it back until it can let it pass.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        self._process.start()
        self.result = "running"
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        theirs.close()

    def read(self) -> None:
        """Take in its next message: a cell has begun, or the lesson has ended."""
        try:
            changes = self.messages.recv()
        except EOFError:
            changes = {"result": "failed", "error": [KILLED]}
        vars(self).update(changes)
        self._cell_began, self._notices = time.monotonic(), 0
        if self.result != "running":
            self._process.join()
            self.seconds = time.monotonic() - self._began

    def watch(self) -> None:
        """Tell the reader of a cell that takes long; end the lesson at the limit."""
        seconds = time.monotonic() - self._cell_began
        if not self.cell:
            return
        if seconds > self._limit:
            self.error = [
                f"it ran for {_time(self._limit)}, the limit for a cell",
                f"WORKSHOP_CELL_LIMIT={2 * self._limit} (seconds) doubles it.",
            ]
            self.stop("failed")
        elif seconds > (self._notices + 1) * LONG_SECONDS:
            self._notices += 1
            print(
                f"{self.title}: cell {self.cell} has been running for {_time(seconds)};"
                f" it is ended after {_time(self._limit)}.",
                flush=True,
            )

    def stop(self, result: str) -> None:
        """End it, with all that it has started."""
        self.result, self.seconds = result, time.monotonic() - self._began
        with suppress(psutil.NoSuchProcess):  # it has just ended by itself
            worker = psutil.Process(self._process.pid)
            kernels, started = worker.children(), worker.children(recursive=True)
            _kill([worker, *kernels])
            _kill(psutil.wait_procs(started, END_SECONDS)[1])
        self._process.join()

    def report(self) -> str:
        """What became of it, for the reader."""
        if self.result == "ok":
            return (
                f"{self.title}: {self.seconds:.0f} s, page {_shown(_page(self.lesson))}"
            )
        where = f" failed in cell {self.cell}: " if self.cell else " failed: "
        lines = [_cut(self.title + where + self.error[0]), *map(_cut, self.error[1:])]
        copy = _copy(self.lesson, self._scale)
        if copy.exists():
            lines.append(f"The lesson as far as it came: {_shown(copy)}")
        return "\n".join(lines)

    def row(self) -> str:
        """Its row under TITLES."""
        if self.result == "not run":
            return f"{self.lesson.stem:38} not run"
        return _cut(
            f"{self.lesson.stem:21} {self.seconds:7.0f} {self.memory_mb:7.0f} "
            f" {self.result:7} {self.cell or '':>4}  {''.join(self.error[:1])}".rstrip()
        )


def run(scale: str, names: list[str], keep: bool) -> int:
    """Execute lessons in their order, two at a time where nothing is measured or kept,
    and print what became of them; the exit code.

    `names` are numbers or stems, as 04 or 04_ignite; none means all. A lesson that
    fails does not stop the others. Raises InputError for a name that is none.
    """
    known = {name: n for n in notebooks() for name in (n.stem, n.stem.split("_")[0])}
    if unknown := sorted(set(names) - set(known)):
        raise errors.InputError(
            f"No lesson {', '.join(unknown)}: there are"
            f" {', '.join(n.stem for n in notebooks())}."
        )
    chosen = sorted({known[name] for name in names or known})
    runs = [
        Run(lesson, f"[{number}/{len(chosen)}] {lesson.stem}", scale, keep)
        for number, lesson in enumerate(chosen, 1)
    ]
    start, code = time.monotonic(), 0
    try:
        _run_all(runs, scale, _at_once(scale, keep))
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # while the lessons are ended
        code = 130
        print(
            "\nStopped by Ctrl-C, with all that the lessons have started.", flush=True
        )
        for one in runs:
            if one.result == "running":
                one.stop("stopped")
    print("\n".join(["", TITLES, *(one.row() for one in runs), ""]))
    failed = sum(one.result == "failed" for one in runs)
    if failed:
        print(
            f"{failed} of {_lessons(len(runs))} failed: the copies named above show"
            " where. `make doctor` checks the machine."
        )
    elif not code:
        print(
            f"{_lessons(len(runs))} in {time.monotonic() - start:.0f} s. Open the pages"
            f" in {_shown(settings.build_dir() / 'pages')}."
        )
    return code or int(failed > 0)


def _at_once(scale: str, keep: bool) -> int:
    """How many lessons run at a time; what is kept is measured, too."""
    return 1 if keep else AT_ONCE[scale]


def _run_all(runs: list[Run], scale: str, at_once: int) -> None:
    coming = list(runs)
    running: list[Run] = []
    while coming or running:
        while coming and len(running) < at_once:
            ok = [one for one in runs if one.result == "ok"]
            left = time_left(
                [one.lesson for one in ok],
                [one.lesson for one in (*running, *coming)],
                sum(one.seconds for one in ok) / at_once,
                scale,
            )
            running.append(coming.pop(0))
            print(f"{running[-1].title} at scale {scale}{left} ...", flush=True)
            running[-1].start()
        pipes: dict[object, Run] = {one.messages: one for one in running}
        for pipe in wait([one.messages for one in running], timeout=1):
            pipes[pipe].read()
        for one in running:
            if one.result == "running":
                one.watch()
            if one.result != "running":
                print(one.report(), flush=True)
        running = [one for one in running if one.result == "running"]


def _end_with_parent() -> None:
    """End this process when the one that started it is killed: its kernel, which sees
    that, and its JVMs follow.
    """

    def watch() -> None:
        if parent := parent_process():
            parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _run_one(lesson: Path, scale: str, keep: bool, pipe: Connection) -> None:
    """Run a lesson in this process, and send what changes of its Run."""
    signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C is the parent's to act on
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    _end_with_parent()
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    from helpers.lesson.metrics import PeakMemory
    from tools.rendering import to_html

    logging.getLogger("papermill").setLevel(logging.CRITICAL)
    if _at_once(scale, keep) > 1:
        os.environ.update(BESIDE_ANOTHER)
    copy, memory = _copy(lesson, scale), PeakMemory(every=1)

    def send(**changes: object) -> None:
        pipe.send({"memory_mb": memory.peak_mb(), **changes})

    try:
        execute(lesson, scale, copy, at_cell=lambda number: send(cell=number))
        send(cell=0)
        to_html(copy, _page(lesson))
        if keep:
            store(lesson, copy)
        send(result="ok")
    except PapermillExecutionError as error:
        send(result="failed", error=_error(error.ename, error.evalue))
    except DeadKernelError:
        send(result="failed", error=[KILLED])
    except Exception as error:
        send(result="failed", error=_error(type(error).__name__, str(error)))


def time_left(done: list[Path], coming: list[Path], seconds: float, scale: str) -> str:
    """How long the coming lessons will take, from the seconds of those done and the
    times in docs/timing.json.

    Until a tenth of the work is done it is the times' own pace: a short first lesson
    says little of those to come. Empty where nothing is known: no times, or the
    beginning of a run that is not on all the data.
    """
    measured = _measured()
    before, after = (
        sum(measured.get(one.stem, {}).get("seconds", 0) for one in part)
        for part in (done, coming)
    )
    if before > (before + after) / 10:
        after *= seconds / before
    elif scale != "full":
        return ""
    return f", about {math.ceil(after / 60)} min left" if after else ""


def _error(name: str, message: str) -> list[str]:
    first = message.strip().partition("\n")[0]
    return errors.cause(message, otherwise=f"{name}: {first}".removesuffix(": "))


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _measured() -> dict[str, dict]:
    return json.loads(TIMES.read_text()) if TIMES.exists() else {}


def _copy(lesson: Path, scale: str) -> Path:
    return settings.build_dir() / "runs" / scale / lesson.name


def _page(lesson: Path) -> Path:
    return settings.build_dir() / "pages" / f"{lesson.stem}.html"


def _cut(line: str) -> str:
    width = shutil.get_terminal_size((120, 24)).columns
    return line if len(line) <= width else f"{line[: width - 3]}..."


def _time(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"


def _lessons(number: int) -> str:
    return "1 lesson" if number == 1 else f"{number} lessons"


def _shown(path: Path) -> Path:
    return (
        path.relative_to(settings.ROOT) if path.is_relative_to(settings.ROOT) else path
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tools.lessons", description=__doc__
    )
    parser.add_argument(
        "names",
        nargs="*",
        help="lessons by number or name, as in 04 or 04_ignite; all without one",
    )
    parser.add_argument(
        "--scale", help="tiny or full (default: WORKSHOP_SCALE, else full)"
    )
    parser.add_argument(
        "--store",
        action="store_true",
        help="keep the outputs in notebooks/, for maintainers",
    )
    options = parser.parse_args()
    settings.build_dir()
    return run(settings.scale(options.scale), options.names, options.store)


if __name__ == "__main__":
    errors.run(main)
