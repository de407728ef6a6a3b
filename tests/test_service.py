"""The scoring service: right answers, one clear sentence for every bad question, and
what it does when things break.
"""

import copy
import functools
import http.client
import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest
import scored
import uvicorn
from hypothesis import HealthCheck, given
from hypothesis import settings as how
from hypothesis import strategies as st
from watch import listening, until

from helpers import data, settings
from helpers.errors import InputError
from helpers.ignite import nodes as ignite
from helpers.processes.child import ProcessError
from helpers.processes.ports import free_port
from helpers.serving import scoring_process
from service import __main__ as start
from service import app as application
from service import health, schema
from service import model as models
from service.app import MAX_BODY, Config, create_app
from service.connections import Connection, Limits

pytestmark = pytest.mark.service

GATE = {"hour": 17, "weekday": 4, "carrier": "B6", "origin": "JFK", "distance": 1000}
BY_FEATURES = {"flights": [{"features": GATE}]}
BUDGET = 3.0  # seconds that a request may wait for the store, in these tests
NOISE = 1.5  # seconds that a busy machine may add


@pytest.fixture(scope="module")
def flights():
    return data.features("scheduled")


@pytest.fixture(scope="module")
def content():
    return scored.content()


@pytest.fixture(scope="module")
def matrix():
    return data.design_matrix("scheduled", "tiny")


@pytest.fixture
def model_file(content, tmp_path):
    models.save(content, tmp_path / "model.json")
    return tmp_path / "model.json"


@contextmanager
def served(app, limits=None):
    """The application and its probes on real sockets, in threads of this process."""
    http = functools.partial(Connection, limits or Limits())
    server = uvicorn.Server(uvicorn.Config(app, http=http, log_level="error"))
    with (
        closing(socket.create_server(("127.0.0.1", 0))) as listener,
        closing(socket.create_server(("127.0.0.1", 0))) as probes,
        health.served(app.state.service, probes),
    ):
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        running = scoring_process.Service(
            listener.getsockname()[1], None, probes.getsockname()[1]
        )
        assert until(running.ready)
        try:
            yield running
        finally:
            server.should_exit = True
            thread.join(20)


@pytest.fixture(scope="module")
def alone(content, tmp_path_factory):
    """A service without a store."""
    file = tmp_path_factory.mktemp("alone") / "model.json"
    models.save(content, file)
    with served(create_app(Config(file))) as running:
        yield running


def expected(content, name, X, live=()):
    """The probability by hand."""
    columns = [
        (value - m) / s
        for value, m, s in zip(
            live, content["mean"][-2:], content["scale"][-2:], strict=False
        )
    ]
    row = np.hstack([X, np.tile(columns, (len(X), 1))]) if columns else X
    weights = content["models"][name]
    return 1 / (
        1 + np.exp(-(row @ np.array(weights["coefficients"]) + weights["intercept"]))
    )


def probabilities(answer):
    return np.array([each["probability"] for each in answer["predictions"]])


# ---- the model


def test_raw_features_become_the_rows_of_the_design_matrix(content, flights, matrix):
    model = models.Model(content)
    rows = flights.set_index("id").loc[matrix.id_test].reset_index()
    X = model.encode(scoring_process.raw_features(rows))
    assert content["columns"] == matrix.columns
    assert np.abs(X - matrix.X_test).max() < 1e-9
    assert model.origins(X) == rows["origin"].tolist()


def test_a_rare_or_unknown_level_counts_as_other(content):
    model = models.Model(content)
    known, rare, unknown = model.encode(
        [GATE, GATE | {"carrier": "OO"}, GATE | {"carrier": "ZZ"}]
    )
    assert (rare == unknown).all()
    assert not (rare == known).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"columns": None}, "lacks a part"),
        ({"models": {}}, "lacks a part"),
        ({"mean": [0.0]}, "same length"),
        ({"mean": [math.nan] * 50}, "not finite"),
        ({"scale": [0.0] * 50}, "not positive"),
        ({"medians": {"altitude": 1.0}}, "no column altitude"),
        ({"levels": []}, "lacks a part"),
        ({"mean": "12"}, "no list of numbers"),
        ({"mean": [True] * 50}, "no number"),
        ({"mean": [["0"]] * 50}, "no number"),
        ({"mean": [10**400] * 50}, "too large"),
        ({"mean": [1e9] * 50}, "beyond 1e\\+06"),
        ({"scale": [1e-300] * 50}, "a scale below 1e-06"),
        ({"medians": {}}, "no median distance"),
    ],
)
@pytest.mark.badinput
def test_a_model_that_does_not_fit_together_is_refused(
    content, change, words, tmp_path
):
    with pytest.raises(models.ModelError, match=words):
        models.save(content | change, tmp_path / "model.json")
    assert not list(tmp_path.iterdir())


def changed(content, *place, value):
    """The content with another value at a place."""
    made = copy.deepcopy(content)
    inner = made
    for each in place[:-1]:
        inner = inner[each]
    inner[place[-1]] = value
    return made


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (("levels", "origin"), ["JFK", "LGA"], "0 levels of origin"),
        (("levels", "origin"), [], "0 levels of origin"),
        (("levels", "weekday"), [*"0123456", "7"], "2 levels of weekday"),
        (("columns", 1), "hour=10", "has hour=10 twice"),
        (("columns", -1), "altitude", "no column plane_unknown"),
        (("columns", 0), "altitude", "levels of hour"),
        (("models", "airport", "intercept"), 10**400, "too large"),
        (("models", "airport", "intercept"), "1", "no number"),
        (("models", "airport", "intercept"), -601.0, "all be 0 or 1"),
        (("models", "departed", "coefficients", 3), 1e200, "all be 0 or 1"),
        (("models", "departed", "coefficients", 3), math.inf, "not finite"),
        (("medians", "seats"), 10**400, "too large"),
        (("medians", "seats"), math.nan, "not finite"),
    ],
)
@pytest.mark.badinput
def test_a_model_that_cannot_be_right_is_refused_in_one_sentence(
    content, place, value, words, tmp_path
):
    """Loaded from a file: the first four were taken, and then each request failed, or
    was not answered at all.
    """
    file = tmp_path / "model.json"
    file.write_text(json.dumps(changed(content, *place, value=value)))
    with pytest.raises(models.ModelError, match=words) as refused:
        models.Model.load(file)
    assert len(str(refused.value)) < 200


@pytest.mark.badinput
def test_a_model_file_without_end_is_not_read_to_its_end(tmp_path):
    file = tmp_path / "model.json"
    with file.open("wb") as stream:
        stream.truncate(2**40)  # takes no room on the disk
    with pytest.raises(models.ModelError, match="more than 1048576 bytes"):
        models.Model.load(file)


@pytest.mark.parametrize(
    "text", [None, "", "{", "[]", "7", '"model"', "{}", "\x80\x04K\x01."]
)
@pytest.mark.badinput
def test_a_file_that_is_no_model_is_refused(text, tmp_path):
    file = tmp_path / "model.json"
    if text is not None:
        file.write_bytes(text.encode("latin-1"))
    with pytest.raises(models.ModelError):
        models.Model.load(file)


def test_the_version_is_the_content(content):
    again = json.loads(json.dumps(content, indent=3, sort_keys=True))
    other = content | {"medians": content["medians"] | {"seats": 150.0}}
    assert (
        models.Model(again).version
        == models.Model(content).version
        != models.Model(other).version
    )
    assert models.Model(other).features_cache == models.Model(content).features_cache


# ---- settings and start


@pytest.mark.parametrize("wrong", ["0", "65536", "http", "-1", "8e3"])
@pytest.mark.badinput
def test_settings_refuse_a_port_that_is_none(monkeypatch, wrong):
    monkeypatch.setenv("WORKSHOP_SERVICE_PORT", wrong)
    with pytest.raises(settings.SettingError, match="whole number from 1 to 65535"):
        settings.service_port()


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({}, "WORKSHOP_MODEL is not set"),
        ({"WORKSHOP_MODEL": "nowhere.json"}, "nowhere.json cannot be read"),
        ({"WORKSHOP_MODEL": "README.md"}, "README.md cannot be read"),
        ({"WORKSHOP_MODEL": "x", "WORKSHOP_IGNITE": "one"}, "is not host:port"),
        ({"WORKSHOP_MODEL": "x", "WORKSHOP_SERVICE_THREADS": "many"}, "from 1 to 64"),
    ],
)
@pytest.mark.badinput
def test_a_service_that_cannot_start_says_why(monkeypatch, environment, words):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(settings.ROOT)
    with pytest.raises(InputError, match=words):
        start.main()


@pytest.mark.badinput
def test_a_service_that_cannot_start_ends():
    command = [sys.executable, "-m", "service"]
    done = subprocess.run(
        command, cwd=settings.ROOT, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (
        2,
        (
            "WORKSHOP_MODEL is not set: name the model's JSON file, which lesson 07"
            " writes.\n"
        ),
    )


@pytest.mark.badinput
def test_a_taken_port_is_named(model_file, taken_port):
    with (
        pytest.raises(ProcessError, match=str(taken_port)),
        scoring_process.running(model_file, port=taken_port),
    ):
        pass


def test_it_starts_and_answers_while_no_node_of_the_store_listens(content, model_file):
    app = create_app(Config(model_file, (("127.0.0.1", free_port()),)))
    with served(app) as running:
        assert running.probe("/health/ready")[1]["store"] == "down"
        assert running.ask("/predict", BY_FEATURES)[0] == 200
        assert running.ask("/predict", {"flights": [{"id": 1}]})[0] == 503


# ---- without a store


def test_features_in_the_request_are_enough(content, flights, alone):
    some = flights.sample(50, random_state=1).reset_index(drop=True)
    raw = scoring_process.raw_features(some)
    X = models.Model(content).encode(raw)
    for name, live in {"scheduled": {}, "airport": {"airport_delay": 30.0}}.items():
        status, answer = alone.ask(
            "/predict", {"flights": [{"features": one | live} for one in raw]}
        )
        assert status == 200
        assert answer["model_version"] == models.Model(content).version
        assert {each["model"] for each in answer["predictions"]} == {name}
        assert (
            np.abs(
                probabilities(answer) - expected(content, name, X, tuple(live.values()))
            ).max()
            < 1e-9
        )


def test_an_unknown_delay_at_the_airport_counts_as_the_mean(content, alone):
    X = models.Model(content).encode([GATE])
    _, answer = alone.ask(
        "/predict", {"flights": [{"features": GATE | {"dep_delay": 40.0}}]}
    )
    assert answer["predictions"][0]["live"] == ["dep_delay"]
    by_hand = expected(content, "departed", X, (content["mean"][-2], 40.0))
    assert np.abs(probabilities(answer) - by_hand).max() < 1e-9


def test_live_features_can_be_declined(alone):
    body = {"flights": [{"features": GATE | {"dep_delay": 40.0}}], "live": "never"}
    assert alone.ask("/predict", body)[1]["predictions"][0]["model"] == "scheduled"


@pytest.mark.badinput
def test_without_a_store_an_id_needs_features(alone):
    status, answer = alone.ask("/predict", {"flights": [{"id": 7}]})
    assert (status, "flight 7 came without features" in answer["error"]) == (503, True)
    status, answer = alone.ask("/predict", {"flights": [{"id": 7, "features": GATE}]})
    assert (
        status,
        answer["predictions"][0]["source"],
        answer["predictions"][0]["id"],
    ) == (200, "request", 7)


def features(**change):
    return {"flights": [{"features": GATE | change}]}


BAD = {
    "no body": (b"", 422, ""),
    "not JSON": (b"late?", 422, "not JSON"),
    "not UTF-8": (b'{"flights": "\xff"}', 400, "UTF-8"),
    "a list": ([], 422, "dictionary"),
    "null": (b"null", 422, ""),
    "no flights": ({}, 422, "flights: field required"),
    "empty batch": ({"flights": []}, 422, "at least 1"),
    "too large a batch": ({"flights": [{"id": 1}] * 1001}, 422, "at most 1000"),
    "neither id nor features": ({"flights": [{}]}, 422, "needs an id, or features"),
    "text for an id": ({"flights": [{"id": "7"}]}, 422, "valid integer"),
    "true for an id": ({"flights": [{"id": True}]}, 422, "valid integer"),
    "a fraction for an id": ({"flights": [{"id": 7.5}]}, 422, "valid integer"),
    "a negative id": ({"flights": [{"id": -1}]}, 422, "greater than or equal to 0"),
    "an id beyond 53 bits": ({"flights": [{"id": 2**53}]}, 422, "less than"),
    "an id of 5,000 digits": (
        b'{"flights": [{"id": ' + b"9" * 5000 + b"}]}",
        400,
        "cannot be read",
    ),
    "unknown field": (
        {"flights": [{"id": 1}], "model": "best"},
        422,
        "model: extra inputs",
    ),
    "unknown feature": (
        features(mood=1),
        422,
        r"flights[0].features.mood: extra inputs",
    ),
    "missing features": ({"flights": [{"features": {"hour": 7}}]}, 422, "(and 3 more)"),
    "NaN": (features(distance=math.nan), 422, "finite"),
    "infinity": (features(temp=-math.inf), 422, "finite"),
    "a number too large for a float": (
        json.dumps(features(temp=7.25)).replace("7.25", "1e999").encode(),
        422,
        "finite",
    ),
    "hour 24": (features(hour=24), 422, "less than or equal to 23"),
    "unknown origin": (features(origin="BOS"), 422, "'EWR', 'JFK' or 'LGA'"),
    "a carrier in lower case": (features(carrier="b6"), 422, "pattern"),
    "a delay of a year": (features(dep_delay=525_600), 422, "less than or equal to"),
    "text for a number": (features(temp="warm"), 422, "valid number"),
    "unknown wish": (
        BY_FEATURES | {"live": "maybe"},
        422,
        "'if_fresh', 'required' or 'never'",
    ),
    "a moment without a time zone": (
        BY_FEATURES | {"at": "2013-12-05T12:00:00"},
        422,
        "timezone",
    ),
    "no moment": (BY_FEATURES | {"at": "noon"}, 422, "at: "),
    "required and not there": (
        BY_FEATURES | {"live": "required"},
        409,
        "no airport_delay",
    ),
    "nested without end": (b"[" * 200_000, 422, "more objects and lists"),
    "many unknown names": (
        {"flights": [{"features": {f"x{n}": 1 for n in range(100)}}]},
        422,
        "more names than",
    ),
    "nested too deeply": (b"[" * 900, 422, "nested more than 8 deep"),
    "a name that is no text": (b'{"flights": [], "\\ud800": 1}', 422, r"\ud800: extra"),
    "a name without end": ({"flights": [], "x" * 9999: 1}, 422, "xxx: extra inputs"),
    "null twice": ({"flights": [{"id": None, "features": None}]}, 422, "needs an id"),
    "seconds for a moment": (BY_FEATURES | {"at": 1_386_288_000}, 422, "has a date"),
    "the same as text": (BY_FEATURES | {"at": "1386288000"}, 422, "has a date"),
    "too large a body": (b" " * (MAX_BODY + 1), 413, "send fewer"),
}


@pytest.mark.parametrize("what", BAD)
@pytest.mark.badinput
def test_a_bad_question_gets_one_clear_sentence(alone, what):
    body, code, words = BAD[what]
    status, answer = alone.ask("/predict", body)
    assert status == code, answer
    assert list(answer) == ["error"]
    assert words in answer["error"]
    assert answer["error"].endswith(".")
    assert len(answer["error"]) < 200
    assert alone.ask("/predict", BY_FEATURES)[0] == 200


@pytest.mark.parametrize("announced", [MAX_BODY * 100, None])
@pytest.mark.badinput
@pytest.mark.security
def test_a_body_without_end_is_not_read_to_its_end(alone, announced):
    """Announced as huge it is refused unread; in chunks without an announcement, after
    a while.
    """
    with closing(
        http.client.HTTPConnection("127.0.0.1", alone.port, timeout=30)
    ) as connection:
        connection.putrequest("POST", "/predict")
        connection.putheader(
            *(
                ("content-length", str(announced))
                if announced
                else ("transfer-encoding", "chunked")
            )
        )
        connection.endheaders()
        chunk = b"100000\r\n" + b" " * 2**20 + b"\r\n"
        try:
            for _ in range(0 if announced else 40):
                connection.send(chunk)
        except OSError:
            return  # it has hung up, as it should
        assert connection.getresponse().status == 413
    assert alone.probe("/health/live")[0] == 200


@pytest.mark.badinput
@pytest.mark.security
@pytest.mark.parametrize("sent", [b"", b'{"flights"'], ids=["nothing", "half"])
def test_a_body_that_does_not_come_is_not_waited_for(model_file, sent):
    """With less patience than it has."""
    with (
        served(create_app(Config(model_file)), Limits(patience=0.3)) as running,
        socket.create_connection(("127.0.0.1", running.port), timeout=20) as client,
    ):
        client.sendall(
            b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n" + sent
        )
        # to the end: it hangs up
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 408")
    assert b'{"error":"The request did not come in time: send it again."}' in answer


@pytest.mark.security
def test_without_settings_it_listens_on_loopback(monkeypatch):
    monkeypatch.delenv("WORKSHOP_SERVICE_HOST", raising=False)
    assert settings.service_host() == "127.0.0.1"


@pytest.mark.badinput
def test_other_pages_and_methods(alone):
    assert alone.ask("/")[0] == 404
    assert alone.ask("/predict") == (
        405,
        {"error": "This page does not take that method."},
    )
    assert alone.ask("/health/live")[0] == 404  # the probes have a port of their own
    assert alone.probe("/predict")[0] == 404
    assert alone.probe("/health/live") == (200, {"live": True})
    assert alone.ask("/openapi.json")[1]["paths"].keys() == {"/predict"}
    assert alone.probe("/openapi.json")[1]["paths"].keys() == {
        "/health/live",
        "/health/ready",
        "/metrics",
    }


def test_metrics_count_what_was_asked(alone):
    def count(status):
        page = alone.probe("/metrics")[1]
        line = f'service_requests_total{{path="/predict",status="{status}"}} '
        return sum(
            float(each.removeprefix(line))
            for each in page.splitlines()
            if each.startswith(line)
        )

    before = count(200), count(422)
    alone.ask("/predict", BY_FEATURES)
    alone.ask("/predict", {})
    assert (count(200), count(422)) == (before[0] + 1, before[1] + 1)
    assert "service_store_up 0.0" in alone.probe("/metrics")[1]


# ---- a new model, the end


def test_a_new_model_is_taken_over_and_a_bad_one_is_not(
    content, model_file, monkeypatch
):
    monkeypatch.setattr(application, "LOOK_AGAIN", 0.05)
    with served(create_app(Config(model_file))) as running:
        first = running.ask("/predict", BY_FEATURES)[1]
        other = content["models"] | {
            "scheduled": content["models"]["scheduled"] | {"intercept": 2.0}
        }
        new = models.save(content | {"models": other}, model_file)
        assert until(
            lambda: running.probe("/health/ready")[1]["model_version"] == new.version
        )
        second = running.ask("/predict", BY_FEATURES)[1]
        assert second["model_version"] == new.version != first["model_version"]
        assert (
            second["predictions"][0]["probability"]
            > first["predictions"][0]["probability"]
        )
        huge = changed(content, "mean", 0, value=10**400)
        lacking = changed(content, "levels", "origin", value=["JFK", "LGA"])
        for number, damaged in enumerate(
            (
                lambda: model_file.write_text("{"),
                lambda: model_file.write_text(json.dumps(huge)),
                lambda: model_file.write_text(json.dumps(lacking)),
                model_file.unlink,
                model_file.mkdir,
            ),
            start=1,
        ):
            damaged()
            failures = f"service_model_reload_failures {number}.0"
            assert until(lambda f=failures: f in running.probe("/metrics")[1])
            assert running.ask("/predict", BY_FEATURES) == (200, second)
        model_file.rmdir()
        first_again = models.save(content, model_file)
        assert until(
            lambda: (
                running.probe("/health/ready")[1]["model_version"]
                == first_again.version
            )
        )
        assert running.ask("/predict", BY_FEATURES) == (200, first)


def test_two_writes_in_one_tick_of_the_clock_are_two(content, model_file):
    file = models.ModelFile(model_file)
    before = model_file.stat()
    other = changed(content, "models", "scheduled", "intercept", value=2.0)
    model_file.write_text(json.dumps(other))
    os.utime(model_file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert model_file.stat().st_mtime_ns == before.st_mtime_ns
    assert file.refresh()
    assert file.model.version == models.Model(other).version


def test_told_to_end_it_answers_on_and_asks_clients_to_connect_anew(model_file):
    def asks_to_close():
        with closing(
            http.client.HTTPConnection("127.0.0.1", running.port, timeout=30)
        ) as connection:
            connection.request(
                "POST",
                "/predict",
                json.dumps(BY_FEATURES),
                {"content-type": "application/json"},
            )
            response = connection.getresponse()
            assert response.status == 200
            return response.getheader("connection") == "close"

    with scoring_process.running(model_file, WORKSHOP_SERVICE_DRAIN=3) as running:
        assert not asks_to_close()
        os.kill(running.child.pid, signal.SIGTERM)
        assert until(asks_to_close, 2)
        assert until(lambda: not running.child.running)


def test_sigterm_lets_open_requests_finish(model_file):
    with scoring_process.running(model_file) as running:
        body = json.dumps(BY_FEATURES).encode()
        with closing(
            http.client.HTTPConnection("127.0.0.1", running.port, timeout=30)
        ) as connection:
            connection.putrequest("POST", "/predict")
            connection.putheader("content-type", "application/json")
            connection.putheader("content-length", str(len(body)))
            connection.endheaders(body[:10])
            # by now the half request has been read
            before = running.probe("/health/live")[0]
            os.kill(running.child.pid, signal.SIGTERM)
            assert until(lambda: not accepts(running.port))
            connection.send(body[10:])
            response = connection.getresponse()
            assert (before, response.status) == (200, 200)
            assert json.loads(response.read())["predictions"][0]["source"] == "request"
        assert until(lambda: not running.child.running)


@pytest.mark.faults
def test_a_service_killed_under_load_comes_back_at_its_port_with_the_same_answers(
    model_file, chance
):
    answers, ended = [], threading.Event()

    def ask_on(service):
        while not ended.is_set():
            try:
                answers.append(service.ask("/predict", BY_FEATURES))
            except (OSError, http.client.HTTPException):
                answers.append(None)  # nobody there
                ended.wait(0.01)

    with ThreadPoolExecutor(2) as clients, scoring_process.running(model_file) as first:
        right = first.ask("/predict", BY_FEATURES)
        asking = [clients.submit(ask_on, first) for _ in range(2)]
        try:
            time.sleep(chance.uniform(0, 1.5))  # the moment itself
            first.child.kill()
            with scoring_process.running(model_file, port=first.port):
                before = len(answers)
                assert until(lambda: len(answers) > before + 20)
                ended.set()
                for client in asking:
                    client.result()
        finally:
            ended.set()
    # an answer is right or there is none
    assert [answer for answer in answers if answer not in (None, right)] == []
    assert answers[-10:] == [right] * 10


def accepts(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=2).close()
    except OSError:
        return False
    return True


# ---- with a store


class Remembered:
    """What service.store.Store promises, out of dicts."""

    def __init__(self):
        self.caches = defaultdict(dict)

    def read(self, cache, keys):
        held = self.caches[cache]
        return {key: held[key] for key in keys if key in held}

    def up(self):
        return True

    def close(self):
        pass

    def write(self, cache, values):
        self.caches[cache].update(values)

    def clear(self, cache):
        self.caches[cache].clear()


class Nodes:
    """The same writing side, into Ignite."""

    def __init__(self, clients):
        self._clients = clients

    def write(self, cache, values):
        self._clients.get().get_or_create_cache(cache).put_all(values)

    def clear(self, cache):
        self._clients.get().get_or_create_cache(cache).clear()


class Stored:
    """A store with the features of the test flights, and a service on it."""

    def __init__(self, store, running, matrix, content):
        self.store, self.running, self.matrix = store, running, matrix
        self.model = models.Model(content)
        self.ids = matrix.id_test[:200].tolist()
        self.fill()

    def fill(self):
        rows = zip(self.ids, self.matrix.X_test, strict=False)
        self.store.write(
            self.model.features_cache, {key: x.tobytes() for key, x in rows}
        )
        for name in ("live_airports", "live_flights"):
            self.store.clear(name)

    def live(self, name, content):
        self.store.write(name, content)


@pytest.fixture(scope="module")
def stored(content, matrix, tmp_path_factory):
    """On dicts."""
    file = tmp_path_factory.mktemp("stored") / "model.json"
    models.save(content, file)
    store = Remembered()
    with served(create_app(Config(file, max_age=900), store)) as running:
        yield Stored(store, running, matrix, content)


@pytest.fixture(scope="module")
def on_ignite(content, matrix, tmp_path_factory):
    """On one node of Ignite, the service in a process of its own."""
    file = tmp_path_factory.mktemp("on_ignite") / "model.json"
    models.save(content, file)
    with (
        ignite.cluster(nodes=1, heap=160, local=True, name="service") as cluster,
        cluster.clients() as clients,
        scoring_process.running(
            file,
            cluster.addresses,
            cluster.certificates,
            WORKSHOP_SERVICE_MAX_AGE=900,
            WORKSHOP_SERVICE_STORE_BUDGET=int(BUDGET * 1000),
        ) as running,
    ):
        made = Stored(Nodes(clients), running, matrix, content)
        made.cluster, made.clients = cluster, clients
        yield made


@pytest.fixture(params=["stored", pytest.param("on_ignite", marks=pytest.mark.ignite)])
def either(request):
    """Each store in turn: what the dicts answer is what Ignite answers."""
    made = request.getfixturevalue(request.param)
    yield made
    made.fill()


def test_ids_are_scored_from_the_store(either, content):
    asked = either.ids[::-1] + either.ids[:3]  # any order, and some twice
    status, answer = either.running.ask(
        "/predict", {"flights": [{"id": key} for key in asked]}
    )
    X = either.matrix.X_test[:200]
    assert status == 200
    assert [each["id"] for each in answer["predictions"]] == asked
    by_hand = expected(content, "scheduled", np.vstack([X[::-1], X[:3]]))
    assert np.abs(probabilities(answer) - by_hand).max() < 1e-12


@pytest.mark.badinput
def test_unknown_flights_are_named(stored):
    body = {
        "flights": [{"id": stored.ids[0]}, {"id": 999_999_998}, {"id": 999_999_999}]
    }
    status, answer = stored.running.ask("/predict", body)
    assert status == 404
    assert "999999998 is not in the store (nor are 1 more)" in answer["error"]
    body["flights"][1]["features"] = body["flights"][2]["features"] = GATE
    status, answer = stored.running.ask("/predict", body)
    assert [each["source"] for each in answer["predictions"]] == [
        "store",
        "request",
        "request",
    ]


def test_live_features_are_used_while_they_are_fresh(either, content):
    key, X = either.ids[0], either.matrix.X_test[:1]
    origin = either.model.origins(X)[0]
    when = 1_386_288_000.0
    either.live("live_airports", {origin: np.array([when, 25.0]).tobytes()})

    def ask(at, **more):
        return either.running.ask(
            "/predict", {"flights": [{"id": key}], "at": at} | more
        )

    fresh, old, before = (
        "2013-12-06T00:10:00Z",
        "2013-12-06T00:16:00Z",
        "2013-12-05T23:00:00Z",
    )
    _, answer = ask(fresh)
    assert answer["predictions"][0]["model"] == "airport"
    assert (
        np.abs(probabilities(answer) - expected(content, "airport", X, (25.0,))).max()
        < 1e-12
    )
    assert ask(fresh, live="required")[0] == 200
    assert ask(old)[1]["predictions"][0]["model"] == "scheduled"
    assert ask(before)[1]["predictions"][0]["model"] == "scheduled"
    status, answer = ask(old, live="required")
    assert (status, "is 960 s old, the limit is 900 s" in answer["error"]) == (
        409,
        True,
    )
    either.live("live_flights", {key: np.float64(40.0).tobytes()})
    _, answer = ask(fresh)
    assert answer["predictions"][0]["live"] == ["airport_delay", "dep_delay"]
    assert (
        np.abs(
            probabilities(answer) - expected(content, "departed", X, (25.0, 40.0))
        ).max()
        < 1e-12
    )
    either.fill()
    status, answer = ask(fresh, live="required")
    assert (status, "is not in the store" in answer["error"]) == (409, True)


@pytest.mark.parametrize(
    "value", [b"", b"123", np.array([np.nan, 1.0]).tobytes(), "text", 7]
)
@pytest.mark.badinput
def test_damaged_live_features_count_as_unknown(either, value):
    either.live("live_airports", dict.fromkeys(("EWR", "JFK", "LGA"), value))
    either.live("live_flights", {either.ids[0]: value})
    status, answer = either.running.ask(
        "/predict", {"flights": [{"id": either.ids[0]}]}
    )
    assert (status, answer["predictions"][0]["model"]) == (200, "scheduled")


@pytest.mark.ignite
@pytest.mark.security
def test_it_listens_on_loopback_only(on_ignite):
    pid = on_ignite.running.child.pid
    assert {address[0] for address, _ in listening(pid)} == {"127.0.0.1"}


@pytest.mark.ignite
def test_answers_of_many_clients_are_not_mixed_up(on_ignite, content):
    right = expected(content, "scheduled", on_ignite.matrix.X_test[:200])

    def ask(number):
        _, answer = on_ignite.running.ask(
            "/predict", {"flights": [{"id": on_ignite.ids[number]}]}
        )
        return abs(answer["predictions"][0]["probability"] - right[number])

    with ThreadPoolExecutor(16) as pool:
        assert max(pool.map(ask, list(range(200)) * 3)) < 1e-12


def fitting(part, whole=None):
    """A strategy for the values that fit a JSON schema, as far as this API's schema
    goes.
    """
    whole = whole or part
    if "$ref" in part:
        return fitting(whole["$defs"][part["$ref"].rsplit("/", 1)[1]], whole)
    if "anyOf" in part and "type" not in part:
        return st.one_of([fitting(each, whole) for each in part["anyOf"]])
    if "enum" in part:
        return st.sampled_from(part["enum"])
    kind = part["type"]
    if kind == "object":
        needed = part.get("required", [])
        fields = {
            name: fitting(each, whole) for name, each in part["properties"].items()
        }
        always = {name: fields.pop(name) for name in needed}
        made = st.fixed_dictionaries(always, optional=fields)
        wanted = [each["required"][0] for each in part.get("anyOf", [])]
        return made.filter(
            lambda value: (
                not wanted or any(value.get(name) is not None for name in wanted)
            )
        )
    if kind == "array":
        return st.lists(
            fitting(part["items"], whole), min_size=part.get("minItems", 0), max_size=8
        )
    if kind == "integer":
        over = part.get("exclusiveMaximum")
        return st.integers(
            part.get("minimum"), over - 1 if over is not None else part.get("maximum")
        )
    if kind == "number":
        low = part.get("minimum", part.get("exclusiveMinimum"))
        return st.floats(low, part["maximum"], exclude_min="exclusiveMinimum" in part)
    if part.get("format") == "date-time":
        return st.datetimes(timezones=st.timezones()).map(lambda when: when.isoformat())
    return (
        st.from_regex(part["pattern"], fullmatch=True)
        if kind == "string"
        else st.none()
    )


REQUESTS = fitting(schema.Request.model_json_schema())
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
JSON = st.recursive(
    PLAIN,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner)
    ),
)
fuzz = how(
    max_examples=200,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
    derandomize=True,
)


def never_our_fault(running, body):
    status, answer = running.ask("/predict", body)
    assert status < 500, (body, answer)
    if status != 200:
        assert list(answer) == ["error"]
        assert answer["error"]
    else:
        assert all(0 <= each["probability"] <= 1 for each in answer["predictions"])


@fuzz
@given(REQUESTS)
def test_no_body_that_fits_the_schema_breaks_it(stored, body):
    never_our_fault(stored.running, body)


@fuzz
@given(
    REQUESTS,
    st.sampled_from(["id", "features", "hour", "origin", "distance", "live", "at"]),
    JSON,
)
def test_no_body_with_one_wrong_value_breaks_it(stored, body, where, value):
    flight = body["flights"][0]
    inner = (
        flight.get("features") if isinstance(flight.get("features"), dict) else flight
    )
    target = (
        body
        if where in ("live", "at")
        else flight
        if where in ("id", "features")
        else inner
    )
    target[where] = value
    never_our_fault(stored.running, body)


@fuzz
@given(JSON | st.fixed_dictionaries({"flights": JSON}))
def test_no_json_breaks_it(stored, body):
    never_our_fault(stored.running, body)


@fuzz
@given(st.binary(max_size=200))
def test_no_bytes_break_it(stored, body):
    never_our_fault(stored.running, body)


@pytest.mark.parametrize("port", ["port", "health_port"])
def test_what_the_api_says_of_itself_is_true(stored, port, tmp_path):
    """A general API fuzzer asks what the description allows, and around it, and
    compares each answer with what is described.
    """
    where = f"http://127.0.0.1:{getattr(stored.running, port)}/openapi.json"
    command = [Path(sys.executable).with_name("schemathesis"), "run", where]
    command += ["--checks=all", "--max-examples=30", "--generation-deterministic"]
    done = subprocess.run(
        [*command, "--no-color"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No issues found" in done.stdout
    assert re.search(r"(\d+) generated, \1 passed", done.stdout), done.stdout


def test_each_status_of_a_prediction_is_described(alone):
    described = alone.ask("/openapi.json")[1]["paths"]["/predict"]["post"]["responses"]
    of_bad = {str(code) for _, code, _ in BAD.values()}
    assert described.keys() >= of_bad | {"200", "404", "408", "415", "500", "503"}
    assert all(
        each["content"].keys() == {"application/json"} for each in described.values()
    )


def test_a_whole_number_may_be_written_with_a_point(alone):
    body = json.dumps(BY_FEATURES).replace('"hour": 17', '"hour": 17.0')
    assert alone.ask("/predict", body.encode()) == alone.ask("/predict", BY_FEATURES)


def test_answers_on_a_kept_connection_do_not_wait_for_the_network(alone):
    """The second part of an answer used to wait 40 ms for the first one's receipt."""
    seconds, body = [], json.dumps(BY_FEATURES)
    with closing(
        http.client.HTTPConnection("127.0.0.1", alone.port, timeout=30)
    ) as connection:
        for _ in range(30):
            begin = time.monotonic()
            connection.request(
                "POST", "/predict", body, {"content-type": "application/json"}
            )
            assert connection.getresponse().read()
            seconds.append(time.monotonic() - begin)
    assert min(seconds[10:]) < 0.03


def test_a_body_that_is_not_said_to_be_json_is_not_read(alone):
    """So that a page of another site cannot ask without the browser asking first."""
    with closing(
        http.client.HTTPConnection("127.0.0.1", alone.port, timeout=30)
    ) as connection:
        connection.request(
            "POST", "/predict", json.dumps(BY_FEATURES), {"content-type": "text/plain"}
        )
        response = connection.getresponse()
        assert (response.status, b"Content-Type" in response.read()) == (415, True)


def test_a_method_that_is_not_taken_names_those_that_are(alone):
    for port, path, allowed in (
        (alone.port, "/predict", "POST"),
        (alone.health_port, "/metrics", "GET"),
    ):
        with closing(
            http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        ) as connection:
            connection.request("DELETE", path)
            response = connection.getresponse()
            assert (response.status, response.getheader("allow")) == (405, allowed)


def timed(ask, *arguments):
    """(seconds, answer)"""
    begin = time.monotonic()
    answer = ask(*arguments)
    return time.monotonic() - begin, answer


def test_a_store_that_never_answers_costs_its_budget_and_readiness_nothing(model_file):
    """It takes connections, as the system does for a stopped process, and says
    nothing.
    """
    both = {"flights": [{"id": 7, "features": GATE}]}
    with closing(socket.create_server(("127.0.0.1", 0), backlog=256)) as mute:
        app = create_app(Config(model_file, (mute.getsockname(),), budget=BUDGET))
        with served(app) as running:
            for _ in range(5):
                seconds, answer = timed(running.probe, "/health/ready")
                assert seconds < NOISE
                assert (answer[0], answer[1]["store"]) == (200, "down")
                seconds, answer = timed(running.ask, "/predict", both)
                assert seconds < BUDGET + NOISE
                assert answer[1]["predictions"][0]["source"] == "request"
                seconds, answer = timed(
                    running.ask, "/predict", {"flights": [{"id": 7}]}
                )
                assert seconds < BUDGET + NOISE
                assert answer[0] == 503


@pytest.mark.ignite
@pytest.mark.faults
def test_a_node_that_is_stopped_costs_a_request_its_budget_at_most(on_ignite):
    """Stopped, not dead: its connections stay, and nothing comes."""
    by_id = {"flights": [{"id": on_ignite.ids[0]}]}
    both = {"flights": [{"id": on_ignite.ids[0], "features": GATE}]}
    running, node = on_ignite.running, on_ignite.cluster.nodes[0]

    def ask(body):
        return timed(running.ask, "/predict", body)

    assert until(lambda: ask(by_id)[1][0] == 200)
    node.signal(signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(16) as clients:
            asked = [clients.submit(ask, [both, by_id][n % 2]) for n in range(16)]
            probed = [timed(running.probe, "/health/ready") for _ in range(20)]
            answers = [each.result() for each in asked]
        print("first", sorted(round(seconds, 2) for seconds, _ in answers))
        assert max(seconds for seconds, _ in answers) < 2 * BUDGET + NOISE
        assert [answer[0] for _, answer in answers] == [200, 503] * 8
        assert {each[1]["predictions"][0]["source"] for _, each in answers[::2]} == {
            "request"
        }
        assert max(seconds for seconds, _ in probed) < NOISE
        assert {answer[0] for _, answer in probed} == {200}
        assert until(lambda: running.probe("/health/ready")[1]["store"] == "down")
        later = [ask(both)[0] for _ in range(20)]  # nobody waits any more
        print("later", round(max(later), 3))
        assert np.median(later) < BUDGET / 2
    finally:
        node.signal(signal.SIGCONT)
    assert until(lambda: ask(by_id)[1][0] == 200)
    assert until(lambda: ask(both)[1][1]["predictions"][0]["source"] == "store")
    assert until(lambda: running.probe("/health/ready")[1]["store"] == "up")


@pytest.mark.ignite
@pytest.mark.faults
def test_the_store_goes_and_comes_back(on_ignite):
    by_id, both = (
        {"flights": [{"id": on_ignite.ids[0]}]},
        {"flights": [{"id": on_ignite.ids[0], "features": GATE}]},
    )

    def ask(body):
        return on_ignite.running.ask("/predict", body)

    assert ask(both)[1]["predictions"][0]["source"] == "store"
    on_ignite.cluster.kill(0)
    status, answer = ask(by_id)
    assert (status, "does not answer" in answer["error"]) == (503, True)
    assert ask(both)[1]["predictions"][0]["source"] == "request"
    assert ask(by_id | {"live": "required"})[0] == 503
    assert until(lambda: on_ignite.running.probe("/health/ready")[1]["store"] == "down")
    on_ignite.clients.drop()
    on_ignite.cluster.start_node(0)
    on_ignite.fill()
    assert until(lambda: ask(by_id)[0] == 200)
    assert until(lambda: ask(both)[1]["predictions"][0]["source"] == "store")
