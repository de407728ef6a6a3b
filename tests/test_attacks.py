"""Attacks on the scoring service: its probe answers, honest clients are served, and
memory stays within bounds.

`python tests/attacks.py PORT HEALTH_PORT PID` measures the same on a running service.
"""

import attacks
import pytest
import scored

from helpers.serving import scoring_process
from service import model as models
from service.connections import IDLE_SECONDS

pytestmark = [pytest.mark.service, pytest.mark.security]

PATIENCE = 2  # seconds that a request may take to come
SECONDS = 6.0  # of each attack
NOISE = 1.5  # seconds that a busy machine may add
PROBE_LIMIT = 1000  # ms; Kubernetes' default, and so the manifest's
MEMORY_LIMIT = 512  # MB, the manifest's


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    file = tmp_path_factory.mktemp("attacked") / "model.json"
    models.save(scored.content(), file)
    with scoring_process.running(file, WORKSHOP_SERVICE_PATIENCE=PATIENCE) as service:
        yield service


@pytest.fixture
def under(running):
    def attack(name):
        seen = attacks.under(
            name, running.port, running.health_port, running.child.pid, SECONDS
        )
        print(f"{name}: {seen}")
        return seen

    return attack


@pytest.mark.parametrize("name", attacks.ATTACKS)
def test_the_probe_answers_and_honest_clients_are_served(under, name):
    seen = under(name)
    assert len(seen.probes) > 20
    assert {each["status"] for each in seen.probes} == {200}
    assert seen.median < 50
    assert seen.longest < PROBE_LIMIT
    assert len(seen.honest) > 3
    assert seen.refused == []
    assert seen.most < MEMORY_LIMIT / 2


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("256 silent connections", PATIENCE),
        ("heads, a byte a second", PATIENCE),
        ("bodies, a byte a second", PATIENCE),
        ("idle after an answer", IDLE_SECONDS),
    ],
)
def test_connections_that_wait_are_ended_in_time(running, name, limit):
    with attacks.started(name, running.port, limit + 2 * NOISE) as attacking:
        told, _ = attacking.communicate(timeout=60)
    told = attacks.json.loads(told)
    assert told["ended"] == attacks.MANY
    assert told["longest"] < limit + NOISE


def test_what_the_limits_ended_is_counted(running, under):
    def ended(why):
        page = running.probe("/metrics")[1]
        line = f'service_connections_ended{{why="{why}"}} '
        (count,) = [x for x in page.splitlines() if x.startswith(line)]
        return float(count.removeprefix(line))

    before = ended("late"), ended("room")
    under("256 silent connections")
    assert ended("late") + ended("room") >= sum(before) + attacks.MANY
    assert ended("room") > before[1]  # for the honest client
