"""Child processes: they end with their parent however it ends, and their failures are
explained.
"""

import select
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from helpers import settings
from helpers.processes.child import Child, ProcessError
from helpers.processes.folders import own_folder
from helpers.processes.ports import free_port, listening

EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")

# A parent that starts a child which starts a grandchild, says who they are, and waits.
PARENT = """
import sys
from pathlib import Path
from helpers.processes.child import Child
child = Child(["sh", "-c", "sleep 600 & echo $!; wait"], Path(sys.argv[1]))
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
        line.split()[1]
        for line in source.splitlines()
        if line.startswith(("import ", "from "))
    ]
    assert set(names) <= sys.stdlib_module_names


def test_folders_of_killed_pythons_go_and_those_of_living_ones_stay(tmp_path):
    living = own_folder(tmp_path, "node")
    killed, other = tmp_path / "node-99999999-x", tmp_path / "broker-99999999-x"
    killed.mkdir()
    other.mkdir()
    made = own_folder(tmp_path, "node")
    assert living.is_dir()
    assert made.is_dir()
    assert not killed.exists()
    assert other.is_dir()


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
