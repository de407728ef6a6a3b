"""Spark Connect: clients without Java, who need the token; nothing else is open, and
nothing stays.
"""

import json
from contextlib import contextmanager, suppress
from dataclasses import replace

import psutil
import pytest
from watch import LOOPBACK, listening, nothing_left, stranger

from helpers.errors import EngineUnavailable
from helpers.processes.child import ProcessError
from helpers.spark import connect

pytestmark = pytest.mark.spark
COUNT = """
import importlib.util, json, sys
from pyspark.sql import SparkSession
spark = SparkSession.builder.getOrCreate()
rows = spark.range(int(sys.argv[1])).count()
print(json.dumps({"rows": rows, "py4j": importlib.util.find_spec("py4j") is not None}))
"""


@pytest.fixture
def script(tmp_path):
    file = tmp_path / "count.py"
    file.write_text(COUNT)
    return file


@pytest.fixture(scope="module")
def server():
    with nothing_left(), connect.connect_server(memory="512m") as server:
        yield server


def test_a_client_without_java_is_answered_and_its_bytes_are_counted(server, script):
    watched = []

    @contextmanager
    def beside(pid):
        watched.append(psutil.pid_exists(pid))
        yield

    sent, received = server.wire.sent, server.wire.received
    said = json.loads(connect.run(script, server, [1000], beside=beside))
    assert said == {"rows": 1000, "py4j": False}
    assert watched == [True]
    # a plan, and a batch of one row, with what gRPC says beside them
    assert 200 < server.wire.sent - sent < 100_000
    assert 200 < server.wire.received - received < 100_000


@pytest.mark.security
def test_who_does_not_know_the_token_is_refused(server, script):
    with pytest.raises(ProcessError, match=r"count.py failed: .*UNAUTHENTICATED"):
        connect.run(script, replace(server, token="a-guess"), [1])
    assert json.loads(connect.run(script, server, [1]))["rows"] == 1


@pytest.mark.security
def test_the_token_is_in_no_command_and_no_stranger_reads_it(server):
    root = psutil.Process(server.process.pid)
    for process in (root, *root.children(recursive=True)):
        with suppress(psutil.ZombieProcess):
            assert server.token not in " ".join(process.cmdline())
    environment = f"/proc/{root.pid}/environ"
    read = stranger("cat", environment)
    assert read.returncode != 0 or psutil.Process().uids().real != 0
    assert server.token not in read.stdout


@pytest.mark.security
def test_a_server_listens_on_loopback_alone(server):
    heard = {address for address, _ in listening(server.process.pid)}
    assert server.port in {port for _, port in heard}
    assert {host for host, _ in heard} <= set(LOOPBACK)


@pytest.mark.badinput
def test_a_script_s_failure_names_its_cause(server, script):
    with pytest.raises(ProcessError, match=r"count.py failed: ValueError: invalid"):
        connect.run(script, server, ["many"])


@pytest.mark.badinput
def test_without_the_client_s_environment_it_says_what_to_do(
    server, script, monkeypatch, tmp_path
):
    monkeypatch.setattr(connect, "PYTHON", tmp_path / "python")
    with pytest.raises(EngineUnavailable, match="`make setup` makes it"):
        connect.run(script, server, [1])
