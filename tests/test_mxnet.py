"""MXNet: its import on today's Python, and training in several processes when something
goes wrong.
"""

import importlib
import json
import sys
import time
from importlib import metadata
from pathlib import Path

import numpy as np
import psutil
import pytest
from watch import nothing_left

from helpers import locks, settings
from helpers.errors import EngineUnavailable
from helpers.mxnet import kvstore
from helpers.mxnet.load import _absent, _mxnet_needs_alias, import_mxnet, mxnet_context
from helpers.processes.child import ProcessError

pytestmark = pytest.mark.mxnet

# A worker that minimises (w - 3)^2 from w = 0; `rank` sees to it that both take part.
WORKER = """
import json, os, sys, time
import numpy as np
from helpers.mxnet.load import import_mxnet
mx = import_mxnet(lean=True)
job = json.loads(sys.argv[1])
if job.get("module"):
    __import__(job["module"])
kv = mx.kv.create(job["kvstore"])
weight = mx.nd.zeros(10)
if job.get("threshold"):
    kv.set_gradient_compression({"type": "2bit", "threshold": job["threshold"]})
kv.set_optimizer(mx.optimizer.create(job.get("optimizer", "sgd"), learning_rate=0.1))
kv.init(0, weight)
print("TRAINING BEGINS", flush=True)
for number in range(job["steps"]):
    kv.push(0, 2 * (weight - 3) / kv.num_workers)
    kv.pull(0, out=weight)
    mx.nd.waitall()
    print("step", number, flush=True)
    if kv.rank == job.get("fails"):
        raise RuntimeError("this worker has had enough")
print("TRAINING ENDS", flush=True)
np.savez(f"{job['folder']}/worker-{kv.rank}.npz", w=weight.asnumpy(), rank=kv.rank, pid=os.getpid())
"""

# The optimizer of a module that cannot be imported by a server, which still sits inside
# `import mxnet`.
TOO_GREEDY = """
from mxnet import gluon, optimizer
@optimizer.register
class TooGreedy(optimizer.SGD):
    pass
"""

IMPORTABLE = """
from mxnet.optimizer import SGD, register
@register
class Modest(SGD):
    pass
"""


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WORKSHOP_BUILD", str(tmp_path / "build"))
    for name, text in {
        "worker": WORKER,
        "greedy": TOO_GREEDY,
        "modest": IMPORTABLE,
    }.items():
        (tmp_path / f"{name}.py").write_text(text)
    return tmp_path / "worker.py"


def job(kind: str = "dist_sync", steps: int = 10, **more: object) -> dict:
    return {"name": "test", "kvstore": kind, "steps": steps, **more}


def test_import_gives_numpy_its_name_back():
    mx = import_mxnet()
    assert mx.__version__ == metadata.version("mxnet")
    assert float((mx.nd.ones(3) * 2).sum().asscalar()) == 6
    assert np.bool is bool  # MXNet's functions ask for it when they run


def test_a_newer_mxnet_gets_no_shim(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(metadata, "version", lambda _name: "2.0.0")
    assert not _mxnet_needs_alias()
    monkeypatch.setattr(metadata, "version", lambda _name: "1.9.1")
    assert _mxnet_needs_alias()


def test_lean_import_hides_modules_only_while_it_lasts(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    with _absent("colorsys", "json"):
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("colorsys")
        # was loaded before, so it is left alone
        assert importlib.import_module("json") is json
    assert importlib.import_module("colorsys").rgb_to_hsv(0, 0, 0) == (0, 0, 0)


@pytest.mark.parametrize(
    ("failure", "says"),
    [
        (
            ModuleNotFoundError("No module named 'mxnet'", name="mxnet"),
            "has no build for",
        ),
        (OSError("libquadmath.so.0: cannot open shared object file"), "libquadmath0"),
    ],
)
@pytest.mark.badinput
def test_a_platform_without_mxnet_gets_one_sentence(
    monkeypatch: pytest.MonkeyPatch, failure: Exception, says: str
):
    def fail(_name: str) -> None:
        raise failure

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(EngineUnavailable, match=says) as caught:
        import_mxnet()
    text = str(caught.value)
    assert "docker compose up lab" in text
    assert "\n" not in text
    assert text.count(". ") == 0  # one sentence


def test_other_missing_modules_are_not_blamed_on_the_platform(
    monkeypatch: pytest.MonkeyPatch,
):
    def fail(_name: str) -> None:
        raise ModuleNotFoundError("No module named 'requests'", name="requests")

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(ModuleNotFoundError, match="requests"):
        import_mxnet()


def test_without_a_gpu_the_setting_falls_back_to_the_cpu(
    monkeypatch: pytest.MonkeyPatch,
):
    mx = import_mxnet()
    monkeypatch.setattr(mx.context, "num_gpus", lambda: 0)
    monkeypatch.setenv("WORKSHOP_DEVICE", "gpu")
    assert mxnet_context() == mx.cpu()
    monkeypatch.setattr(mx.context, "num_gpus", lambda: 1)
    assert mxnet_context() == mx.gpu(0)
    monkeypatch.setenv("WORKSHOP_DEVICE", "cpu")
    assert mxnet_context() == mx.cpu()
    monkeypatch.setenv("WORKSHOP_DEVICE", "quantum")
    with pytest.raises(settings.SettingError, match="quantum"):
        mxnet_context()


def test_two_workers_train_as_one(script: Path):
    with nothing_left():
        one = kvstore.run(script, job("local"), timeout=120).results()
        two = kvstore.run(script, job(), timeout=120, log_messages=True)
        results = two.results()
        assert sorted(int(result["rank"]) for result in results) == [0, 1]
        assert len({int(result["pid"]) for result in results}) == 2
        assert np.array_equal(results[0]["w"], results[1]["w"])
        np.testing.assert_allclose(results[0]["w"], one[0]["w"], atol=1e-6)
        assert 2 < one[0]["w"][0] < 3
        traffic = two.traffic()
        assert traffic["pushed"] >= 10 * 40  # ten steps of ten weights of four bytes
        assert traffic["pulled"] >= 10 * 40
        assert traffic["pushed"] < 10 * 40 * 2


@pytest.mark.faults
def test_a_worker_killed_ends_the_job_at_once(script: Path, chance):
    number, step = chance.randrange(2), chance.randrange(1, 300)
    with nothing_left(), kvstore.cluster(script, job(steps=1_000_000)) as cluster:
        victim, survivor = cluster.workers[number], cluster.workers[1 - number]
        survivor.wait_until(
            lambda: f"step {step}\n" in survivor.output(), 120, "the first steps"
        )
        victim.kill()
        start = time.monotonic()
        with pytest.raises(
            ProcessError, match=f"worker {number} ended with status 137"
        ):
            cluster.wait(timeout=60)
        assert time.monotonic() - start < 50  # not by the time limit
        assert not survivor.running


def test_a_worker_that_fails_is_named_with_its_own_words(script: Path):
    with pytest.raises(ProcessError, match=r"worker \d (?s:.*)had enough"):
        kvstore.run(script, job(steps=1000, fails=0), timeout=120)


def test_a_job_that_hangs_meets_its_time_limit(script: Path):
    with nothing_left(), kvstore.cluster(script, job(steps=1_000_000)) as cluster:
        worker = cluster.workers[0]
        worker.wait_until(lambda: "step 3" in worker.output(), 120, "the first steps")
        psutil.Process(cluster.workers[1].pid).suspend()  # alive, but not there
        with pytest.raises(ProcessError, match=r"Not finished after 3 s .*worker 1"):
            cluster.wait(timeout=3)


def test_an_optimizer_that_the_server_cannot_import_stops_the_job(script: Path):
    with pytest.raises(ProcessError, match=r"the server failed(?s:.*)ImportError"):
        kvstore.run(
            script, job(steps=100, module="greedy", optimizer="toogreedy"), timeout=120
        )
    modest = kvstore.run(
        script, job(module="modest", optimizer="modest"), timeout=120
    ).results()
    assert 2 < modest[0]["w"][0] < 3


def test_results_of_an_older_job_are_not_taken_for_new_ones(script: Path):
    old = locks.claim(settings.build_dir() / "mxnet" / "jobs") / "test"
    old.mkdir(exist_ok=True)
    (old / "worker-0.npz").write_bytes(b"old")
    with pytest.raises(ProcessError):
        kvstore.run(script, job("local", steps=2, fails=0), timeout=120)
    assert not (old / "worker-0.npz").exists()


def test_the_children_find_the_package_from_anywhere(
    script: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    assert (
        kvstore.run(script, job("local", steps=2), timeout=120).results()[0]["rank"]
        == 0
    )
