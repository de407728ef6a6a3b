"""MXNet imported on this Python; each shim is small and says why it is there."""

import contextlib
import importlib
import os
import platform
import sys
import warnings
from collections.abc import Iterator
from types import ModuleType

import numpy as np

from helpers import settings
from helpers.errors import EngineUnavailable


def import_mxnet(lean: bool = False) -> ModuleType:
    """The module `mxnet`, ready to use; afterwards `from mxnet import gluon, nd` works
    as well.

    MXNet 1.9.1 asks NumPy for `bool`, an alias that NumPy dropped in 1.24 (its
    functions ask again when they run, so the alias stays). NumPy 2 has the name back,
    and a newer MXNet does not need it: both are left alone. `lean` imports it without
    SciPy and scikit-learn, which it takes only if they are there and which cost most of
    the start: for processes that do nothing but train. Raises EngineUnavailable where
    MXNet cannot be loaded.
    """
    # or it announces on stderr what it fuses
    os.environ.setdefault("MXNET_SUBGRAPH_VERBOSE", "0")
    if _mxnet_needs_alias() and "bool" not in vars(np):  # hasattr would make NumPy warn
        vars(np)["bool"] = bool
    try:
        with (
            warnings.catch_warnings(),
            _absent("scipy", "sklearn") if lean else contextlib.nullcontext(),
        ):
            # about SciPy and NumPy functions that MXNet wraps and nobody calls
            warnings.simplefilter("ignore")
            return importlib.import_module("mxnet")
    except ModuleNotFoundError as error:
        if error.name != "mxnet":
            raise
        raise EngineUnavailable(
            f"MXNet 1.9.1 has no build for {platform.system()} {platform.machine()},"
            f" Python {platform.python_version()}: run this lesson in the container,"
            " `docker compose up lab`."
        ) from None
    except OSError as error:  # the loader names the library that it did not find
        raise EngineUnavailable(
            f"MXNet could not be loaded ({error}): install the system packages"
            " libquadmath0 and libgomp1, or run this lesson in the container, `docker"
            " compose up lab`."
        ) from None


def mxnet_context() -> object:
    """Where MXNet computes: the GPU where WORKSHOP_DEVICE=gpu asks for it and MXNet
    sees one, else the CPU.
    """
    mx = import_mxnet()
    return (
        mx.gpu(0) if settings.device() == "gpu" and mx.context.num_gpus() else mx.cpu()
    )


def _mxnet_needs_alias() -> bool:
    """True for the releases of MXNet up to 1.9.1, and where none is installed."""
    from importlib import metadata

    try:
        version = metadata.version("mxnet")
    except metadata.PackageNotFoundError:
        return True
    return tuple(map(int, version.split(".")[:2])) <= (1, 9)


@contextlib.contextmanager
def _absent(*names: str) -> Iterator[None]:
    """Make the imports of these modules fail inside the block, unless they are loaded
    already.
    """
    hidden = [name for name in names if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # the import system's way
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
