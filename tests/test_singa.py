"""SINGA's bridge and its fences, and groups of workers: what is missing, what does not
fit, who dies.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from helpers import settings
from helpers.singa import bridge, peers
from helpers.singa.load import import_singa
from tools import doctor

needs_singa = [
    pytest.mark.singa,
    pytest.mark.skipif(
        not bridge.supported(), reason="SINGA's wheel is for Linux on x86-64"
    ),
]


def python(code: str, **environment: str) -> subprocess.CompletedProcess:
    """Run code in a process of its own, with the project in its path."""
    path = os.pathsep.join([*environment.pop("before", "").split(), str(settings.ROOT)])
    place = {
        "env": {**os.environ, "PYTHONPATH": path, **environment},
        "cwd": settings.build_dir(),
    }
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        **place,
    )


def last_line(done: subprocess.CompletedProcess) -> str:
    return done.stderr.strip().splitlines()[-1]


class TestUnavailable:
    @pytest.mark.badinput
    def test_platform_without_a_wheel_names_the_container(self):
        code = (
            "import platform; platform.machine = lambda: 'arm64'\nfrom helpers.singa"
            " import load; load.import_singa()"
        )
        said = last_line(python(code))
        assert said.startswith(
            "helpers.errors.EngineUnavailable: SINGA's wheel is for Linux on x86-64"
        )
        assert "docker compose up lab" in said

    @pytest.mark.skipif(
        not bridge.supported(), reason="says first that the platform has none"
    )
    @pytest.mark.badinput
    def test_missing_wheel_names_the_remedy(self, tmp_path):
        code = f"""
from pathlib import Path
from helpers.singa import bridge as singa_bridge, load
singa_bridge.HOME = Path({str(tmp_path)!r})
load.import_singa()"""
        assert (
            last_line(python(code))
            == "helpers.errors.EngineUnavailable: SINGA's wheel is not there: run `make"
            " setup`."
        )

    @pytest.mark.badinput
    def test_set_up_without_a_network_says_so_in_one_line(self, tmp_path):
        code = f"""
import sys
from pathlib import Path
from helpers import errors
from helpers.singa import bridge as singa_bridge
from tools import fetch
singa_bridge._installed = lambda: False
singa_bridge.HOME, singa_bridge.supported = Path({str(tmp_path)!r}) / "singa", lambda: True
errors.run(fetch.main)"""
        done = python(code, UV_OFFLINE="1", UV_CACHE_DIR=str(tmp_path / "cache"))
        assert done.returncode == 1
        assert "check the network" in done.stderr
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "singa").exists()

    def test_a_newer_singa_is_taken_as_it_is(self, tmp_path):
        (tmp_path / "singa").mkdir()
        (tmp_path / "singa" / "__init__.py").write_text("__version__ = '5.1.0'")
        code = """
import numpy, sys
from helpers.singa import load
print(load.import_singa().__version__, 'int' in vars(numpy), 'singa.singa_wrap' in sys.modules)"""
        assert python(code, before=str(tmp_path)).stdout.split() == [
            "5.1.0",
            "False",
            "False",
        ]


@pytest.fixture
def wheel_copy(tmp_path, monkeypatch):
    """The wheel's small files as links elsewhere, so that one can be damaged."""
    record = next(bridge.HOME.glob("singa-*.dist-info/RECORD"))
    for name, _ in [*bridge._digests(record), (bridge.PINS.name, "")]:
        link = tmp_path / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(bridge.HOME / name)
    (tmp_path / record.relative_to(bridge.HOME)).symlink_to(record)
    monkeypatch.setattr(bridge, "HOME", tmp_path)
    return tmp_path


class TestWheel:
    pytestmark = needs_singa

    def test_is_verified(self, wheel_copy):
        assert bridge.problem() is None
        assert doctor.singa() == "wheel verified"

    @pytest.mark.badinput
    @pytest.mark.security
    def test_damage_is_found(self, wheel_copy):
        (wheel_copy / "singa" / "opt.py").unlink()
        (wheel_copy / "singa" / "opt.py").write_text("")
        assert "singa/opt.py is missing or damaged" in bridge.problem()
        with pytest.raises(doctor.Problem, match="make setup"):
            doctor.singa()

    @pytest.mark.badinput
    @pytest.mark.security
    def test_another_pin_is_found(self, wheel_copy):
        (wheel_copy / bridge.PINS.name).unlink()
        (wheel_copy / bridge.PINS.name).write_text("singa==2.0\n")
        assert "another version" in bridge.problem()

    @pytest.mark.badinput
    def test_half_a_wheel_is_found(self, wheel_copy):
        next(wheel_copy.glob("singa-*.dist-info/RECORD")).unlink()
        assert "is missing" in bridge.problem()

    @pytest.mark.security
    def test_pin_has_one_hash(self):
        assert bridge.PINS.read_text().count("--hash=sha256:") == 1


@pytest.fixture(scope="module")
def singa():
    import_singa()
    from singa import autograd, singa_wrap, tensor

    autograd.training = True

    class Names:
        pass

    names = Names()
    names.autograd, names.wrap, names.tensor = autograd, singa_wrap, tensor
    names.ones = lambda *shape: tensor.from_numpy(np.ones(shape, np.float32))
    names.ints = lambda *values: tensor.from_numpy(np.array(values, np.int32))
    return names


def test_import_leaves_the_environment_alone():
    code = """
import os
before = dict(os.environ)
from helpers.errors import EngineUnavailable
from helpers.singa import load
try:
    load.import_singa()
except EngineUnavailable:
    pass
assert dict(os.environ) == before"""
    assert python(code, OMP_NUM_THREADS="7").returncode == 0


class TestCopies:
    pytestmark = needs_singa

    @pytest.mark.parametrize("dtype", [np.float32, np.int32])
    def test_there_and_back(self, singa, dtype):
        values = np.arange(24, dtype=dtype).reshape(2, 3, 4)
        assert np.array_equal(
            singa.tensor.to_numpy(singa.tensor.from_numpy(values)), values
        )

    def test_from_a_view_with_strides(self, singa):
        values = np.arange(24, dtype=np.float32).reshape(4, 6)[::2, ::3]
        assert np.array_equal(
            singa.tensor.to_numpy(singa.tensor.from_numpy(values)), values
        )

    def test_beyond_the_tensor_is_refused(self, singa):
        with pytest.raises(ValueError, match="do not fit"):
            singa.ones(3).data.CopyFloatDataFromHostPtr(np.ones(4, np.float32))
        with pytest.raises(ValueError, match="the tensor has 3"):
            singa.ones(3).data.GetFloatValue(4)


BAD = {
    "add": lambda s: s.ones(2, 3) + s.ones(4),
    "subtract": lambda s: s.ones(2, 3) - s.ones(3, 2),
    "multiply": lambda s: s.tensor.eltwise_mult(s.ones(2, 3), s.ones(3, 2)),
    "divide": lambda s: s.ones(2, 3) / s.ones(2, 2),
    "compare": lambda s: s.ones(2, 3) < s.ones(4),
    "add in place": lambda s: s.ones(2, 3).__iadd__(s.ones(4)),
    "multiply in place, too wide": lambda s: s.ones(3).__imul__(s.ones(2, 3)),
    "add into": lambda s: s.tensor.add(s.ones(2, 3), s.ones(3), s.ones(2)),
    "float and int": lambda s: s.ones(2) + s.ints(1, 2),
    "nothing": lambda s: s.ones(0, 3),
    "matrices": lambda s: s.tensor.mult(s.ones(2, 3), s.ones(2, 3)),
    "matrix and vector": lambda s: s.tensor.mult(s.ones(2, 3), s.ones(2)),
    "autograd": lambda s: s.autograd.matmul(s.ones(2, 3), s.ones(2, 3)),
    "bias": lambda s: s.autograd.add_bias(s.ones(2, 3), s.ones(4)),
    "axpy": lambda s: s.tensor.axpy(1.0, s.ones(2, 3), s.ones(4)),
    "copy": lambda s: s.ones(2, 3).data.CopyData(s.ones(7).data),
    "reshape": lambda s: s.wrap.Reshape(s.ones(2, 3).data, [4, 2]),
    "transpose": lambda s: s.ones(2, 3).transpose([0, 0]),
    "slice": lambda s: s.wrap.SliceOn(s.ones(2, 3).data, 1, 9, 0),
    "axis": lambda s: s.wrap.Sum(s.ones(2, 3).data, 4),
    "softmax of a vector": lambda s: s.wrap.SoftMax(s.ones(3).data),
    "too few labels": lambda s: s.autograd.softmax_cross_entropy(
        s.ones(5, 3), s.ints(0, 1)
    ),
    "label too large": lambda s: s.autograd.softmax_cross_entropy(
        s.ones(2, 3), s.ints(0, 3)
    ),
    "labels as floats": lambda s: s.autograd.softmax_cross_entropy(
        s.ones(2, 3), s.ones(2)
    ),
}


class TestFences:
    pytestmark = needs_singa

    @pytest.mark.parametrize("call", BAD.values(), ids=BAD)
    def test_stop_what_does_not_fit(self, singa, call):
        with pytest.raises(ValueError, match=r"^SINGA's \w+: .+\.$"):
            call(singa)

    def test_are_needed(self):
        code = """
import numpy as np
from helpers.singa import load
load.import_singa()
from singa import singa_wrap, tensor
singa_wrap.__add__.__wrapped__(*(tensor.from_numpy(np.ones(s, 'f')).data for s in ((2, 3), 4)))"""
        assert python(code).returncode == -6

    def test_let_pass_what_fits(self, singa):
        a, b = np.random.default_rng(0).random((2, 4, 3), dtype=np.float32)
        row = b[0]
        s, t = singa.tensor.from_numpy, singa.tensor.to_numpy
        for ours, theirs in (
            (s(a) + s(b), a + b),
            (s(a) * s(row), a * row),
            (s(a) / 2.0, a / 2),
            (s(a) - s(row[:1]), a - row[:1]),
            (singa.tensor.mult(s(a), s(np.ascontiguousarray(b.T))), a @ b.T),
            (singa.tensor.mult(s(a), s(row)), a @ row),
            (singa.tensor.sum(s(a), 0), a.sum(0)),
        ):
            np.testing.assert_allclose(t(ours), theirs, rtol=1e-6)

    def test_cross_entropy_still_works(self, singa):
        scores = np.array([[2.0, 0.0, 0.0], [0.0, 0.0, 1.0]], np.float32)
        loss = singa.autograd.softmax_cross_entropy(
            singa.tensor.from_numpy(scores), singa.ints(0, 2)
        )
        share = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
        np.testing.assert_allclose(
            singa.tensor.to_numpy(loss),
            -np.log(share[[0, 1], [0, 2]]).mean(),
            rtol=1e-5,
        )


@pytest.fixture
def worker(tmp_path):
    """A worker's script from the body of its main function."""

    def write(body: str, name: str = "worker") -> Path:
        lines = "".join(f"    {line}\n" for line in body.strip().splitlines())
        script = tmp_path / f"{name}.py"
        script.write_text(
            "import time\nimport numpy as np\nfrom helpers.singa import peers\n"
            f"def main(group):\n{lines}peers.quietly(main)\n"
        )
        return script

    return write


class TestPeers:
    @pytest.mark.parametrize("size", [1, 2, 3])
    def test_mean_is_the_same_everywhere(self, worker, size):
        body = (
            "group.finish(mean=group.mean(np.arange(5) * (group.rank + 1.0)),"
            " sent=group.bytes_sent)"
        )
        results = peers.run(worker(body), size=size)
        expected = np.mean(
            [np.arange(5) * (rank + 1.0) for rank in range(size)], axis=0
        )
        assert all(
            np.array_equal(result["mean"], expected.astype(np.float32))
            for result in results
        )
        assert sum(result["sent"] for result in results) == 2 * (size - 1) * 5 * 4

    def test_large_arrays_may_cross(self, worker):
        body = """
big = np.full(4_000_000, group.rank + 1, np.float32)
for turn in range(3):
    group.send(1 - group.rank, big)
group.finish(got=sum(group.receive(1 - group.rank).sum() for turn in range(3)))"""
        first, second = peers.run(worker(body), size=2, timeout=30)
        assert (first["got"], second["got"]) == (3 * 8_000_000, 3 * 4_000_000)

    def test_options_arrive(self, worker):
        (result,) = peers.run(
            worker("group.finish(twice=2 * group.options['number'])"), size=1, number=21
        )
        assert result["twice"] == 42

    @pytest.mark.faults
    def test_a_killed_worker_is_noticed_at_once(self, worker, chance):
        victim = chance.randrange(3)
        script = worker(
            "print('ready', flush=True)\nwhile True:\n    group.mean(np.zeros(1000))"
        )
        with peers.group(script, size=3, timeout=60) as running:
            for child in running.workers:
                child.wait_until(
                    lambda child=child: "ready" in child.output(), 60, "worker"
                )
            time.sleep(chance.random())  # the moment itself
            running.workers[victim].kill()
            began = time.monotonic()
            with pytest.raises(
                peers.PeerError, match=f"worker {victim} was ended by signal 9"
            ) as caught:
                running.wait()
        # seconds; half of what they would wait for a silent one
        assert time.monotonic() - began < 30
        said = str(caught.value)
        assert all(
            f"worker {n} stopped: PeerError: worker " in said
            for n in range(3)
            if n != victim
        )
        assert f"worker {victim} is gone" in said
        assert not any(child.running for child in running.workers)

    def test_a_silent_worker_is_not_waited_for_for_ever(self, worker):
        script = worker("if group.rank == 0:\n    group.receive(1)\ntime.sleep(100)")
        with pytest.raises(peers.PeerError, match="worker 1 has sent nothing for 2 s"):
            peers.run(script, size=2, timeout=2)

    def test_a_worker_that_does_not_join(self, worker):
        script = worker("group.finish()")
        script.write_text(
            "import json, sys, time\nif json.loads(sys.argv[1])['rank']:\n   "
            " time.sleep(100)\n" + script.read_text()
        )
        with pytest.raises(peers.PeerError, match="worker 1 did not join within 3 s"):
            peers.run(script, size=2, timeout=3)

    def test_an_error_is_told_in_one_sentence(self, worker):
        script = worker("raise ValueError('shapes do not fit')")
        with pytest.raises(
            peers.PeerError, match=r"^worker 0 stopped: ValueError: shapes do not fit$"
        ):
            peers.run(script, size=1)

    def test_work_without_end_is_ended(self, worker):
        with pytest.raises(peers.PeerError, match="the workers: not ready after 3 s"):
            peers.run(worker("time.sleep(100)"), size=1, limit=3)

    def test_nothing_is_left_behind(self, worker, tmp_path):
        script = worker("print('ready', flush=True)\ntime.sleep(100)")
        with peers.group(script, size=2) as running:
            pids = [child.pid for child in running.workers]
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
        assert not running._folder.exists()
