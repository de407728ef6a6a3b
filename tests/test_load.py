"""The load tool counts every request, keeps to its bounds, and does not hide what
happened while it waited.
"""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pandas as pd
import pytest

from helpers.processes.child import ProcessError
from helpers.processes.ports import free_port
from helpers.serving import load

pytestmark = pytest.mark.service


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        with self.server.lock:
            self.server.bodies.append(body)
        self.server.before()
        status = self.server.status
        self.send_response(status)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.daemon_threads = True
    made.lock, made.bodies, made.status, made.before = (
        threading.Lock(),
        [],
        200,
        lambda: None,
    )
    made.url = f"http://127.0.0.1:{made.server_port}/predict"
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()


def test_every_request_arrives_and_is_counted(server):
    requests = load.run(
        server.url, [{"number": 1}, {"number": 2}], clients=3, seconds=1
    )
    assert len(requests) == len(server.bodies) > 10
    assert set(server.bodies) == {b'{"number": 1}', b'{"number": 2}'}
    assert set(requests["status"]) == {200}
    assert requests["when"].is_monotonic_increasing
    assert requests["when"].max() - requests["when"].min() <= 1
    assert (requests["ms"] > 0).all()


def test_at_a_fixed_rate_as_many_requests_are_due_as_should_be(server):
    requests = load.run(server.url, [{}], clients=8, seconds=2, rate=50)
    assert len(requests) == 100
    assert np.allclose(np.diff(requests["when"]), 0.02, atol=1e-3)


def test_a_pause_is_seen_by_all_requests_that_were_due_in_it(server):
    """The server stands still once; with one client the waiting of the later requests
    must be counted, too.
    """
    paused = threading.Event()

    def once():
        if len(server.bodies) == 20 and not paused.is_set():
            paused.set()
            time.sleep(1)

    server.before = once
    requests = load.run(server.url, [{}], clients=1, seconds=3, rate=50)
    assert len(requests) == 150
    assert (
        requests["ms"] > 500
    ).sum() >= 20  # a tool that only times the call would show one


def test_failures_are_counted(server):
    server.status = 503
    refused = load.summary(load.run(server.url, [{}], clients=2, seconds=0.5))
    assert refused["errors"] == refused["requests"] > 0
    server.status = 404
    assert (
        load.summary(load.run(server.url, [{}], clients=2, seconds=0.5))["errors"] == 0
    )


@pytest.mark.badinput
def test_nobody_there_is_counted_as_no_answer():
    requests = load.run(
        f"http://127.0.0.1:{free_port()}/predict", [{}], clients=2, seconds=0.5
    )
    assert set(requests["status"]) == {0}
    assert load.summary(requests)["errors"] == len(requests) > 0


@pytest.mark.parametrize(
    "wrong",
    [{"clients": 0}, {"clients": 65}, {"seconds": 0}, {"seconds": 121}, {"rate": 5001}],
)
@pytest.mark.badinput
def test_load_is_bounded(wrong):
    with pytest.raises(ValueError, match="use"):
        load.start("http://127.0.0.1:9/", [{}], **wrong)


def test_load_can_be_stopped_and_says_that_it_did_not_end(server):
    running = load.start(server.url, [{}], clients=2, seconds=60)
    assert running.child.running
    running.child.kill()
    with pytest.raises(ProcessError, match="The load's result: the process ended by"):
        running.result()
    assert not running.child.running


def test_a_summary_is_that_of_the_requests():
    requests = pd.DataFrame(
        {
            "when": [0.0, 1.0, 2.0, 3.0],
            "ms": [1.0, 2.0, 3.0, 1000.0],
            "status": [200, 404, 500, 0],
        }
    )
    found = load.summary(requests)
    assert (found["requests"], found["errors"], found["requests_per_s"]) == (4, 2, 1.0)
    assert found["p50_ms"] == 2.5
    assert load.summary(requests.head(0))["requests"] == 0
