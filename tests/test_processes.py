"""Child processes: they end with their parent however it ends, and their failures are
explained.
"""

import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from watch import AS_SOMEBODY, until

from helpers import settings
from helpers.locks import LockError, claim, lock_of
from helpers.processes import orphans, supervisor
from helpers.processes.child import Child, ProcessError
from helpers.processes.folders import HOST, own_folder, remove
from helpers.processes.ports import free_port, listening

EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")

# A parent that starts a child which starts a grandchild, says who they are, and waits.
PARENT = """
import sys
from pathlib import Path
from helpers.processes.child import Child
leave = (sys.argv[2:] or [""])[0]  # "setsid"
child = Child(["sh", "-c", f"{leave} sleep 600 & echo $!; wait"], Path(sys.argv[1]))
child.wait_until(lambda: child.output().strip(), 10, "child")
print(child.pid, child.output().strip(), flush=True)
sys.stdin.read()
"""


def gone(pid, seconds=10):
    try:
        psutil.Process(pid).wait(seconds)
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        return False
    return True


@pytest.mark.faults
@pytest.mark.parametrize(
    "end",
    [signal.SIGKILL, signal.SIGTERM, None],
    ids=["kill -9", "SIGTERM", "normal end"],
)
def test_children_end_with_their_parent(tmp_path, end):
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, tmp_path / "log"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=settings.ROOT,
        text=True,
    )
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    assert all(psutil.pid_exists(pid) for pid in pids)
    if end:
        parent.send_signal(end)
    else:
        parent.stdin.close()
    parent.wait(10)
    assert all(gone(pid) for pid in pids)
    parent.stdout.close()


def killed_at_once(*processes):
    """They are stopped first, so that none of them can see another one's end."""
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    for process in processes:
        process.kill()
    for process in processes:
        process.wait(10)


@pytest.fixture
def family(tmp_path):
    """A parent, the guard below it, the guard's watch, the child and its own child,
    which has left the child's process group when asked to.
    """

    @contextmanager
    def started(leave=""):
        with python(PARENT, tmp_path / "log", leave) as parent:
            pids = map(int, parent.stdout.readline().split())
            child, grandchild = map(psutil.Process, pids)
            (guard,) = psutil.Process(parent.pid).children()
            (watch,) = (other for other in guard.children() if other != child)
            try:
                yield parent, guard, watch, child, grandchild
            finally:
                for process in (child, grandchild):
                    with suppress(psutil.NoSuchProcess):
                        process.kill()

    return started


@pytest.mark.faults
def test_children_end_when_parent_and_guard_are_killed_at_once(family):
    with family() as (parent, guard, _, child, grandchild):
        killed_at_once(parent, guard)
        assert gone(child.pid, 5)
        assert gone(grandchild.pid, 5)


@pytest.mark.faults
def test_the_next_start_ends_what_is_left(family, tmp_path):
    """Of a child of a child that has left the group, where all that watches is killed,
    too.
    """
    with family("setsid") as (parent, guard, watch, child, grandchild):
        assert grandchild.pid not in orphans.end()
        assert child.is_running()
        killed_at_once(parent, guard, watch)
        if sys.platform == "linux":
            assert gone(child.pid, 5)
        assert grandchild.is_running()
        Child(["true"], tmp_path / "next").wait()
        assert gone(grandchild.pid, 5)
        assert gone(child.pid, 5)


@pytest.mark.faults
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is no such signal")
def test_a_child_outlives_the_thread_that_started_it(tmp_path):
    """Linux sends the signal of a parent's death when the *thread* that started a
    process ends.
    """
    children = []
    thread = threading.Thread(
        target=lambda: children.append(Child(["sleep", "600"], tmp_path / "log"))
    )
    thread.start()
    thread.join()
    assert not gone(children[0].pid, 2)
    assert children[0].running
    children[0].stop()


@pytest.mark.faults
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_guard_takes_its_child_along(tmp_path, end):
    child = Child(["sleep", "600"], tmp_path / "log")
    child._supervisor.send_signal(end)
    assert gone(child.pid)
    child.stop()


def test_output_stop_and_exit_status(tmp_path):
    child = Child(["sh", "-c", "echo hello; exec sleep 600"], tmp_path / "log")
    child.wait_until(lambda: "hello" in child.output(), 10, "greeting")
    assert child.running
    assert child.returncode is None
    child.stop()
    assert child.returncode == 128 + signal.SIGTERM
    child.stop()  # once more is no error


def test_stdout_goes_to_a_file_of_its_own(tmp_path):
    command = ["sh", "-c", "echo result; echo complaint >&2"]
    child = Child(command, tmp_path / "log", stdout=tmp_path / "out")
    assert child.wait() == 0
    assert (tmp_path / "out").read_text() == "result\n"
    assert child.output() == "complaint\n"
    child.stop()


def test_kill_is_immediate_and_seen(tmp_path):
    child = Child(["sleep", "600"], tmp_path / "log")
    child.kill()
    assert not child.running
    assert child.returncode == 128 + signal.SIGKILL
    child.kill()  # once more is no error


def test_a_stubborn_child_is_killed_after_its_grace(tmp_path):
    child = Child(
        ["sh", "-c", "trap '' TERM; echo on; while :; do sleep 0.1; done"],
        tmp_path / "log",
        grace=0.5,
    )
    child.wait_until(lambda: "on" in child.output(), 10, "start")
    child.stop()
    assert gone(child.pid)


@pytest.mark.badinput
def test_a_child_that_dies_while_starting_is_explained(tmp_path):
    child = Child(["sh", "-c", "echo no such cluster; exit 3"], tmp_path / "log")
    with pytest.raises(
        ProcessError, match=r"Ignite: the process ended by itself(.|\n)*no such cluster"
    ):
        child.wait_until(lambda: False, 10, "Ignite")
    assert child.returncode == 3


def test_a_child_that_never_gets_ready_is_explained(tmp_path):
    child = Child(["sleep", "600"], tmp_path / "log")
    with pytest.raises(ProcessError, match=r"Kafka: not ready after 0\.2 s"):
        child.wait_until(lambda: False, 0.2, "Kafka")
    child.stop()


@pytest.mark.badinput
def test_a_command_that_does_not_exist(tmp_path):
    with pytest.raises(ProcessError, match="no-such-program could not be started"):
        Child(["no-such-program"], tmp_path / "log")


@pytest.mark.badinput
def test_a_taken_port_is_named(taken_port):
    assert listening("127.0.0.1", taken_port)
    with pytest.raises(
        ProcessError,
        match=f"Port {taken_port}, needed for the Spark master, is taken: end the",
    ):
        free_port(taken_port, "the Spark master")


def test_a_preferred_port_is_given_where_nobody_listens():
    port = free_port()
    assert not listening("127.0.0.1", port)
    assert free_port(port) == port


@pytest.mark.skipif(
    not EPHEMERAL.exists(), reason="the range is read as Linux tells it"
)
def test_ports_are_those_that_no_outgoing_connection_gets():
    first, last = map(int, EPHEMERAL.read_text().split())
    ports = {free_port() for _ in range(50)}
    assert len(ports) == 50, "a port was given out twice"
    assert not [port for port in ports if first <= port <= last]


def test_guard_needs_only_the_standard_library():
    source = (settings.ROOT / "helpers" / "processes" / "supervisor.py").read_text()
    names = [
        line.split()[1].partition(".")[0]
        for line in source.splitlines()
        if line.startswith(("import ", "from "))
    ]
    assert set(names) <= sys.stdlib_module_names


# Pythons with a folder of their own: they say which, and wait.
OWNER = """
import subprocess, sys
from pathlib import Path
from helpers.processes.folders import own_folder
print(own_folder(Path(sys.argv[1]), sys.argv[2]), flush=True)
if sys.argv[3:]:
    print(subprocess.Popen(sys.argv[3:]).pid, flush=True)
sys.stdin.read()
"""
IN_A_NAMESPACE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")


@contextmanager
def python(code, *arguments, before=()):
    """A Python that runs `code` until the block ends."""
    running = subprocess.Popen(
        [*before, sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=settings.ROOT,
        text=True,
    )
    with running:
        try:
            yield running
        finally:
            running.kill()


def owned(owner):
    """The folder that an OWNER has."""
    return Path(owner.stdout.readline().strip())


def ended(owner):
    owner.kill()
    owner.wait()


@pytest.mark.faults
def test_folders_of_killed_pythons_go_and_those_of_living_ones_stay(tmp_path):
    with python(OWNER, tmp_path, "node") as one, python(OWNER, tmp_path, "rod") as two:
        killed, other = owned(one), owned(two)
        ended(one)
        ended(two)
    with python(OWNER, tmp_path, "node") as living:
        stays = owned(living)
        mine = own_folder(tmp_path, "node")
        assert own_folder(tmp_path, "node") != mine
        assert stays.is_dir()
        assert mine.is_dir()
        assert mine.stat().st_mode & 0o077 == 0
        assert not killed.exists()
        assert not lock_of(killed).exists()
        assert other.is_dir()
    remove(mine)
    remove(mine)  # once more is no error
    assert not mine.exists()
    assert not lock_of(mine).exists()


def test_a_folder_without_a_lock_is_nobodys_to_delete(tmp_path):
    (tmp_path / "node-99999999-x").mkdir()
    own_folder(tmp_path, "node")
    assert (tmp_path / "node-99999999-x").is_dir()


@pytest.mark.faults
def test_a_surviving_child_does_not_keep_its_owners_folder(tmp_path):
    with python(OWNER, tmp_path, "node", "sleep", "600") as owner:
        folder, sleeper = owned(owner), psutil.Process(int(owner.stdout.readline()))
        ended(owner)
        assert sleeper.is_running()
        own_folder(tmp_path, "node")
        assert not folder.exists()
        sleeper.kill()


@pytest.mark.faults
@pytest.mark.skipif(
    bool(
        sys.platform != "linux"
        or os.geteuid()
        or subprocess.run([*IN_A_NAMESPACE, "true"], capture_output=True).returncode
    ),
    reason="a PID namespace can be had by root only, with unshare",
)
class TestInAnotherPidNamespace:
    def test_the_folder_of_a_living_python_stays(self, tmp_path):
        mine = own_folder(tmp_path, "node")
        with python(OWNER, tmp_path, "node", before=IN_A_NAMESPACE) as inside:
            theirs = owned(inside)
            assert mine.is_dir()
            own_folder(tmp_path, "node")
            assert theirs.is_dir()
            ended(inside)  # unshare, and so the namespace
        assert until(lambda: own_folder(tmp_path, "node") and not theirs.exists())

    def test_living_children_stay(self, tmp_path):
        log = tmp_path / "log"
        with python(PARENT, log, before=IN_A_NAMESPACE) as inside:
            assert inside.stdout.readline()
            sleeper = next(
                process
                for process in psutil.Process(inside.pid).children(recursive=True)
                if process.name() == "sleep"
            )
            assert supervisor.MARK in sleeper.environ()  # or nobody would look at it
            assert sleeper.pid not in orphans.end()
            assert sleeper.is_running()


@pytest.mark.faults
def test_a_folder_of_another_host_stays_for_a_week(tmp_path):
    """Where a network file system does not carry locks from host to host."""
    with python(OWNER, tmp_path, "node") as owner:
        folder = owned(owner)
        ended(owner)
    there = folder.rename(tmp_path / "node-elsewhere-01234567")
    lock = lock_of(folder).rename(lock_of(there))
    own_folder(tmp_path, "node")
    assert there.is_dir()
    week = time.time() - 8 * 86_400
    os.utime(lock, (week, week))
    own_folder(tmp_path, "node")
    assert not there.exists()


@pytest.mark.security
def test_a_lock_by_a_link_is_not_followed(tmp_path):
    """In a folder for all, as /tmp is one, somebody lays a link to where a file would
    be made.
    """
    (tmp_path / f".node-{HOST}-01234567.lock").symlink_to(tmp_path / "made")
    with pytest.raises(LockError, match=r"cannot be written .*: make its folder yours"):
        own_folder(tmp_path, "node")
    assert not (tmp_path / "made").exists()


STARTS = """
import sys
from pathlib import Path
from helpers.processes.folders import own_folder, remove
for _ in range(40):
    folder = own_folder(Path(sys.argv[1]), "node")
    (folder / "data").touch()
    assert own_folder(Path(sys.argv[1]), "node") != folder
    assert (folder / "data").exists()
    remove(folder)
print("well", flush=True)
"""


def test_starts_at_the_same_time_do_not_delete_each_others_folders(tmp_path):
    with python(STARTS, tmp_path) as one, python(STARTS, tmp_path) as two:
        assert one.stdout.readline() == "well\n"
        assert two.stdout.readline() == "well\n"


CLAIMANT = """
import sys
from pathlib import Path
from helpers.locks import claim
print(claim(Path(sys.argv[1])), flush=True)
sys.stdin.read()
"""


@pytest.mark.faults
def test_each_run_claims_a_folder_of_its_own(tmp_path):
    folder = tmp_path / "lesson"
    with python(CLAIMANT, folder) as first, python(CLAIMANT, folder) as second:
        names = sorted(owned(each).name for each in (first, second))
        assert names == ["lesson", "lesson-2"]
        mine = claim(folder)
        assert mine.name == "lesson-3"
        shutil.rmtree(mine)
        assert claim(folder) == mine  # the same one, made again
        assert mine.is_dir()
        ended(first)
        with python(CLAIMANT, folder) as third:
            assert owned(third).name in names
        assert claim(folder) == mine


@pytest.mark.badinput
@pytest.mark.security
@pytest.mark.skipif(
    bool(os.geteuid() or not shutil.which("setpriv")),
    reason="a second user can be had by root only, with setpriv",
)
def test_another_users_folder_is_refused_in_one_sentence(tmp_path):
    """By the modules themselves, for that user may not read this environment."""
    for name in ("__init__", "errors", "locks"):
        (tmp_path / "helpers").mkdir(exist_ok=True)
        shutil.copy(settings.ROOT / "helpers" / f"{name}.py", tmp_path / "helpers")
    build = tmp_path / "build"
    build.mkdir()
    lock_of(build / "lesson").touch(mode=0o600)
    code = (
        "import sys; sys.path.insert(0, '.')\n"
        "from pathlib import Path; from helpers import errors, locks\n"
        "errors.run(lambda: print(locks.claim(Path('build/lesson'))))"
    )
    for path in (tmp_path, *tmp_path.parents[:2]):
        path.chmod(0o755)
    command = [*AS_SOMEBODY, sys._base_executable, "-I", "-S", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "cannot be written (Permission denied): make its folder yours" in done.stderr
    assert done.stderr.count("\n") == 1
    # by its owner it is claimed
    done = subprocess.run(
        command[len(AS_SOMEBODY) :], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout == "build/lesson\n", done.stderr


HOLDER = """
import sys
from pathlib import Path
from helpers.processes.folders import locked
with locked(Path(sys.argv[1])):
    print("in", flush=True)
    sys.stdin.read()
"""


@pytest.mark.faults
def test_a_lock_ends_with_its_killed_holder(tmp_path):
    holders = []
    for _ in range(2):
        command = [sys.executable, "-c", HOLDER, tmp_path / "lock"]
        holder = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=settings.ROOT
        )
        holders.append(holder)
        if len(holders) == 1:
            assert holder.stdout.readline() == b"in\n"
    first, second = holders
    assert not select.select([second.stdout], [], [], 2)[0]  # it waits
    first.kill()
    assert second.stdout.readline() == b"in\n"
    second.communicate()
    first.communicate()
