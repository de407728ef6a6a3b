"""SINGA 3.0.0.dev1 on CPython 3.11: its wheel fetched and verified, loaded, its gaps
filled, its traps fenced.

The newest SINGA on the Python registry is a wheel for CPython 3.6. Its extension uses
the plain C API and loads on
3.11; it lacks the array copies (built without NumPy's typemaps), so these go through
its exported C++ symbols.
    python -m tools.fetch      fetch what is missing
"""

import base64
import collections.abc
import contextlib
import csv
import ctypes
import importlib
import importlib.machinery
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from helpers import files, settings
from helpers.errors import EngineUnavailable
from helpers.singa import shape_checks

PINS = settings.ROOT / "requirements-singa.txt"
HOME = Path(sys.prefix) / "singa"
PLATFORM = ("Linux", "x86_64")
TARGET = ("--python-version", "3.6", "--python-platform", "x86_64-manylinux2014")
# Copies between host arrays and tensors: method of the wrapped class, its element type,
# the C++ symbol.
PUT = {
    "CopyFloatDataFromHostPtr": (
        np.float32,
        "_ZNK5singa6Tensor19CopyDataFromHostPtrIfEEvPKT_mm",
    ),
    "CopyIntDataFromHostPtr": (
        np.int32,
        "_ZNK5singa6Tensor19CopyDataFromHostPtrIiEEvPKT_mm",
    ),
}
GET = {
    "GetFloatValue": (np.float32, "_ZNK5singa6Tensor8GetValueIfEEvPT_m"),
    "GetIntValue": (np.int32, "_ZNK5singa6Tensor8GetValueIiEEvPT_m"),
}


def supported() -> bool:
    """True where the wheel can run: Linux on x86-64."""
    return (platform.system(), platform.machine()) == PLATFORM


def problem() -> str | None:
    """What is wrong with the wheel's files (missing, damaged, another version), or
    None.
    """
    pins = HOME / PINS.name
    record = next(HOME.glob("singa-*.dist-info/RECORD"), None)
    if record is None or not pins.is_file() or pins.read_text() != PINS.read_text():
        return "SINGA's wheel is missing or of another version"
    for name, wanted in _digests(record):
        file = HOME / name
        if not file.is_file() or _sha256(file) != wanted:
            return f"SINGA's file {name} is missing or damaged"
    return None


def needed() -> bool:
    """True where the wheel could run, no SINGA is installed, and the wheel is missing
    or damaged.
    """
    return supported() and not _installed() and problem() is not None


def fetch() -> None:
    """Install the wheel, verified by its SHA-256, into a folder of its own beside the
    Python environment.

    Nothing else is downloaded. Raises EngineUnavailable when it cannot be had.
    """
    with tempfile.TemporaryDirectory(dir=HOME.parent, prefix="singa-") as folder:
        options = (
            "--quiet",
            "--no-deps",
            "--only-binary",
            ":all:",
            "--require-hashes",
            *TARGET,
        )
        command: list[str | Path] = [
            sys.executable,
            "-m",
            "uv",
            "pip",
            "install",
            *options,
            "--target",
            folder,
            "-r",
            PINS,
        ]
        done = subprocess.run(
            command, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        if done.returncode:
            raise EngineUnavailable(
                "SINGA's wheel could not be fetched: check the network (the first"
                " set-up needs it) and run `make setup` again. uv said:"
                f" {done.stderr.strip()[-300:]}"
            )
        # goes first and comes last: half a wheel has none
        (HOME / PINS.name).unlink(missing_ok=True)
        shutil.rmtree(HOME, ignore_errors=True)
        shutil.copytree(folder, HOME)
        shutil.copy(PINS, HOME)


def load(threads: int = 1) -> types.ModuleType:
    """Import `singa`; see load.import_singa, which is the way to call it."""
    if "singa" in sys.modules:
        return sys.modules["singa"]
    if _installed():  # somebody installed a newer SINGA: no bridge
        return importlib.import_module("singa")
    if not supported():
        raise EngineUnavailable(
            f"SINGA's wheel is for Linux on x86-64 and this is {platform.system()} on"
            f" {platform.machine()}: run this lesson in the container (`docker compose"
            " up lab`)."
        )
    extension = next((HOME / "singa").glob("_singa_wrap*.so"), None)
    if extension is None:
        raise EngineUnavailable("SINGA's wheel is not there: run `make setup`.")
    sys.path.append(str(HOME))
    # The wheel uses names that NumPy dropped in 1.24; only those that are missing are
    # given back.
    for name, builtin in {
        "int": int,
        "float": float,
        "bool": bool,
        "object": object,
    }.items():
        if name not in np.__dict__:
            setattr(np, name, builtin)
    with _threads(threads):
        _load_extension(extension)
        library = ctypes.CDLL(str(extension))
    _add_copies(library)
    from singa import singa_wrap

    for name in (
        "USE_CUDA",
        "USE_OPENCL",
    ):  # the wheel knows neither the devices nor these names
        if not hasattr(singa_wrap, name):
            setattr(singa_wrap, name, False)
    shape_checks.install(singa_wrap)
    return importlib.import_module("singa")


def load_sonnx() -> types.ModuleType:
    """Import `singa.sonnx`; see load.import_sonnx."""
    load()
    if (
        "singa.sonnx" in sys.modules
        or HOME not in Path(str(sys.modules["singa"].__file__)).parents
    ):
        return importlib.import_module("singa.sonnx")
    import onnx

    # ONNX 1.9 moved its optimizer into a package of its own; without it the model is
    # exported as it is.
    vars(onnx)["optimizer"] = types.SimpleNamespace(optimize=lambda model: model)
    sonnx = importlib.import_module("singa.sonnx")
    # collections.Iterable went to collections.abc in Python 3.10.
    vars(sonnx)["collections"] = types.SimpleNamespace(
        Iterable=collections.abc.Iterable
    )
    return sonnx


def _installed() -> bool:
    """True where SINGA is installed in the ordinary way; a mere folder of that name has
    no origin.
    """
    spec = importlib.util.find_spec("singa")
    return spec is not None and spec.origin is not None


def _load_extension(path: Path) -> None:
    """The file is named for CPython 3.6, so the import system does not see it: load it
    by its path.
    """
    loader = importlib.machinery.ExtensionFileLoader("singa._singa_wrap", str(path))
    spec = importlib.machinery.ModuleSpec("singa._singa_wrap", loader, origin=str(path))
    module = importlib.util.module_from_spec(spec)
    sys.modules["singa._singa_wrap"] = sys.modules["_singa_wrap"] = module
    loader.exec_module(module)


def _add_copies(library: ctypes.CDLL) -> None:
    from singa import singa_wrap

    for name, (dtype, symbol) in PUT.items():
        setattr(singa_wrap.Tensor, name, _put(library[symbol], dtype))
    for name, (dtype, symbol) in GET.items():
        setattr(singa_wrap.Tensor, name, _get(library[symbol], dtype))
    # SWIG wrote Python 2's name
    singa_wrap.Tensor.__itruediv__ = singa_wrap.Tensor.__idiv__


def _put(function, dtype):
    def copy(tensor, values, offset=0):
        array = np.ascontiguousarray(values, dtype=dtype).ravel()
        if array.size + offset > tensor.Size():
            raise ValueError(
                f"{array.size} values at offset {offset} do not fit a tensor of"
                f" {tensor.Size()}."
            )
        data = array.ctypes.data_as(ctypes.c_void_p)
        function(
            ctypes.c_void_p(int(tensor.this)),
            data,
            ctypes.c_size_t(array.size),
            ctypes.c_size_t(offset),
        )

    return copy


def _get(function, dtype):
    def values(tensor, count):
        if count > tensor.Size():
            raise ValueError(
                f"{count} values are asked for, the tensor has {tensor.Size()}."
            )
        array = np.empty(count, dtype)
        data = array.ctypes.data_as(ctypes.c_void_p)
        function(ctypes.c_void_p(int(tensor.this)), data, ctypes.c_size_t(count))
        return array

    return values


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """The wheel's OpenMP and OpenBLAS read these names once, while they are loaded;
    others keep their settings.
    """
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, str(count)))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _digests(record: Path) -> list[tuple[str, str]]:
    """Files of the wheel with their SHA-256 (base64, as in the wheel's own list)."""
    rows = csv.reader(record.read_text().splitlines())
    return [
        (name, digest.removeprefix("sha256=")) for name, digest, _ in rows if digest
    ]


def _sha256(file: Path) -> str:
    digest = bytes.fromhex(files.sha256(file))
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")
