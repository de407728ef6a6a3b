"""The kernel of each lesson killed at a random moment: nothing is left running, and the
lesson runs again at once. And of each engine that starts processes of its own, also
where the guards are killed with their parent.
"""

import os
import signal
import subprocess
import sys
import textwrap
import time
import uuid
from contextlib import contextmanager, suppress

import nbformat
import psutil
import pytest
from conftest import FAULT_SECONDS, odd_environment, odd_project, the_only_run
from jupyter_client import KernelManager
from watch import below, until

from helpers import settings
from helpers.processes.child import Child
from helpers.processes.orphans import GUARD
from tools import lessons

pytestmark = pytest.mark.faults
of_lessons = pytest.mark.lessons
STEMS = [notebook.stem for notebook in lessons.notebooks()]
MARK = (  # in the environment of the kernel, and so of all that it starts
    "WORKSHOP_TEST_MARK"
)
GONE_SECONDS = 30  # what a lesson has started has ended by then


class Lesson:
    """A lesson in a kernel of its own, at scale tiny, run cell by cell; `pid` is the
    kernel's.
    """

    def __init__(self, stem):
        notebook = nbformat.read(settings.NOTEBOOKS / f"{stem}.ipynb", as_version=4)
        self.cells = [
            cell.source for cell in notebook.cells if cell.cell_type == "code"
        ]
        self.mark = uuid.uuid4().hex
        self.kernel = KernelManager(kernel_name="python3")
        project = odd_project()
        self.kernel.kernel_spec.argv[0] = str(project / ".venv" / "bin" / "python")
        self.kernel.start_kernel(
            cwd=str(project / "notebooks"),
            env=odd_environment() | {"WORKSHOP_SCALE": "tiny", MARK: self.mark},
        )
        self.pid = self.kernel.provisioner.pid
        self.client = self.kernel.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)
        self._started = set()

    def run_into(self, last):
        """Begin cell `last` after all before it, or stop waiting where the time is up;
        the cell that is running.
        """
        end = time.monotonic() + FAULT_SECONDS
        for number, source in enumerate(self.cells[:last]):
            try:
                reply = self.client.execute(
                    source, reply=True, timeout=max(end - time.monotonic(), 0.1)
                )
            except TimeoutError:
                return number
            assert reply["content"]["status"] == "ok", reply["content"].get("evalue")
        self.client.execute(self.cells[last])
        return last

    def note(self):
        """Remember what runs below the kernel now: not all of it keeps the kernel's
        environment.
        """
        self._started = set(below(self.pid))
        return len(self._started)

    def left(self):
        """What still runs of all that the lesson has started."""
        marked = {
            process
            for process in psutil.process_iter()
            if environment(process).get(MARK) == self.mark
        }
        return {process for process in marked | self._started if lives(process)}


def environment(process):
    with suppress(psutil.Error):
        return process.environ()
    return {}


def lives(process):
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


@contextmanager
def started(stem):
    with the_only_run(stem):
        lesson = Lesson(stem)
        try:
            yield lesson
        finally:
            lesson.client.stop_channels()
            lesson.kernel.shutdown_kernel(now=True)
            for process in lesson.left():
                process.kill()


def run_to_a_random_moment(lesson, chance):
    reached = lesson.run_into(chance.randrange(len(lesson.cells)))
    time.sleep(chance.random())  # the moment itself
    print(
        f"in code cell {reached + 1} of {len(lesson.cells)}, with {lesson.note()}"
        " processes below the kernel"
    )


def nothing_is_left(lesson):
    began = time.monotonic()
    gone = until(lambda: not lesson.left(), GONE_SECONDS)
    print(
        f"all gone after {time.monotonic() - began:.1f} s"
        if gone
        else "something is left"
    )
    return [" ".join(process.cmdline())[:300] for process in lesson.left()] == []


@of_lessons
@pytest.mark.parametrize("stem", STEMS)
def test_a_killed_kernel_leaves_nothing_running_and_the_lesson_runs_again_at_once(
    stem, chance, last_try, executed
):
    """Each next try runs into the lesson again; after the last one all of it is run."""
    with started(stem) as lesson:
        run_to_a_random_moment(lesson, chance)
        os.kill(lesson.pid, signal.SIGKILL)
        assert nothing_is_left(lesson)
    if last_try:
        executed(stem, anew=True)


@of_lessons
def test_a_terminated_kernel_leaves_nothing_running(chance):
    with started(chance.choice(STEMS)) as lesson:
        run_to_a_random_moment(lesson, chance)
        os.kill(lesson.pid, signal.SIGTERM)
        assert nothing_is_left(lesson)


@of_lessons
def test_an_interrupted_lesson_still_answers_and_ends_with_its_kernel(chance):
    with started(chance.choice(STEMS)) as lesson:
        run_to_a_random_moment(lesson, chance)
        lesson.kernel.interrupt_kernel()
        reply = lesson.client.execute("1 + 1", reply=True, timeout=60)
        # aborted: it was waiting behind the interrupted cell
        assert reply["content"]["status"] in ("ok", "aborted")
        assert (
            lesson.client.execute("1 + 1", reply=True, timeout=60)["content"]["status"]
            == "ok"
        )
        lesson.note()
        lesson.kernel.shutdown_kernel()
        assert nothing_is_left(lesson)


# Each starts an engine, says so, and waits. The application has tasks on its executors
# that would take ten minutes.
APPLICATION = """
import time
from pyspark.sql import SparkSession
rows = SparkSession.builder.getOrCreate().sparkContext.parallelize(range(2), 2)
rows.foreach(lambda row: time.sleep(600))
"""
SUBMIT = """
import pathlib, sys, threading
from helpers.spark import standalone, submit, yarn
script = pathlib.Path(sys.argv[1], "application.py")
with {manager} as manager:
    conf = {{"spark.executor.memory": "512m", **{conf}}}
    arguments = dict(manager=manager, conf=conf)
    threading.Thread(target=submit.submit, args=[script], kwargs=arguments).start()
    print("up", flush=True)
    sys.stdin.read()
"""
ON_YARN = {"spark.executor.instances": 1, "spark.submit.deployMode": "cluster"}
# each with what shows that it is at its work
ENGINES = {
    "ignite": (
        "CommandLineStartup",
        """
        import sys
        from helpers.ignite import nodes
        with nodes.cluster(nodes=2, local=True):
            print("up", flush=True)
            sys.stdin.read()
        """,
    ),
    "a driver": (
        "SparkSubmit",
        """
        import sys
        from helpers.spark import sessions
        sessions.start("killed")
        print("up", flush=True)
        sys.stdin.read()
        """,
    ),
    "standalone": (
        "pyspark.daemon",  # it computes for an executor
        SUBMIT.format(manager="standalone.standalone_cluster(1)", conf={}),
    ),
    "yarn": (
        "YarnCoarseGrainedExecutorBackend",
        SUBMIT.format(manager="yarn.yarn()", conf=ON_YARN),
    ),
}


def command(process):
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


@pytest.mark.parametrize("engine", ENGINES)
def test_nothing_survives_when_a_python_and_its_guards_are_killed_at_once(
    engine, tmp_path
):
    """YARN's containers, which leave our group of processes, at the next start."""
    (tmp_path / "application.py").write_text(APPLICATION)
    working, code = ENGINES[engine]
    python = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), tmp_path],
        cwd=settings.ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    started = set()

    def at_work():
        return any(working in command(process) for process in below(python.pid))

    def left():
        return [command(process)[:200] for process in started if lives(process)]

    try:
        assert "up\n" in python.stdout
        assert until(at_work, 240)
        started = set(below(python.pid))
        killed = [process for process in started if GUARD in command(process)]
        killed += [psutil.Process(python.pid)]
        for process in killed:  # none of them can see another one's end
            process.suspend()
        for process in killed:
            process.kill()
        python.wait(10)
        assert until(lambda: not any(map(lives, killed)), 10)
        if engine == "yarn":
            assert left()
            Child(["true"], tmp_path / "next").wait()
        until(lambda: not left(), 10)
        assert left() == []
    finally:
        python.kill()
        for process in filter(lives, started):
            process.kill()
        python.communicate()
