"""Child processes: they end with their parent however it ends, and their failures are explained."""

import signal
import socket
import subprocess
import sys

import psutil
import pytest

from helpers import settings
from helpers.processes import Child, ProcessError, free_port, listening

# A parent that starts a child which starts a grandchild, says who they are, and waits.
PARENT = """
import sys
from pathlib import Path
from helpers.processes import Child
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


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, None], ids=["kill -9", "SIGTERM", "normal end"])
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


def test_output_stop_and_exit_status(tmp_path):
    child = Child(["sh", "-c", "echo hello; exec sleep 600"], tmp_path / "log")
    child.wait_until(lambda: "hello" in child.output(), 10, "greeting")
    assert child.running
    assert child.returncode is None
    child.stop()
    assert child.returncode == 128 + signal.SIGTERM
    child.stop()  # once more is no error


def test_kill_is_immediate_and_seen(tmp_path):
    child = Child(["sleep", "600"], tmp_path / "log")
    child.kill()
    assert not child.running
    assert child.returncode == 128 + signal.SIGKILL


def test_a_stubborn_child_is_killed_after_its_grace(tmp_path):
    child = Child(["sh", "-c", "trap '' TERM; echo on; while :; do sleep 0.1; done"], tmp_path / "log", grace=0.5)
    child.wait_until(lambda: "on" in child.output(), 10, "start")
    child.stop()
    assert gone(child.pid)


def test_a_child_that_dies_while_starting_is_explained(tmp_path):
    child = Child(["sh", "-c", "echo no such cluster; exit 3"], tmp_path / "log")
    with pytest.raises(ProcessError, match=r"Ignite: the process ended by itself(.|\n)*no such cluster"):
        child.wait_until(lambda: False, 10, "Ignite")
    assert child.returncode == 3


def test_a_child_that_never_gets_ready_is_explained(tmp_path):
    child = Child(["sleep", "600"], tmp_path / "log")
    with pytest.raises(ProcessError, match="Kafka: not ready after 0 s"):
        child.wait_until(lambda: False, 0.2, "Kafka")
    child.stop()


def test_a_command_that_does_not_exist(tmp_path):
    with pytest.raises(ProcessError, match="no-such-program could not be started"):
        Child(["no-such-program"], tmp_path / "log")


def test_a_taken_port_is_named():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        assert listening(port)
        with pytest.raises(ProcessError, match=rf"Port {port}, needed for the Spark master, is taken: end the program"):
            free_port(port, "the Spark master")
    assert not listening(port)
    assert free_port(port) == port


def test_guard_needs_only_the_standard_library():
    source = (settings.ROOT / "helpers" / "guard.py").read_text()
    names = [line.split()[1] for line in source.splitlines() if line.startswith(("import ", "from "))]
    assert set(names) <= sys.stdlib_module_names
