"""SINGA imported on this Python, from its own wheel or as it is installed."""

from types import ModuleType

from helpers.singa import bridge


def import_singa(threads: int = 1) -> ModuleType:
    """The module `singa`, ready to use; afterwards `from singa import tensor, model`
    works as well.

    A SINGA installed in the ordinary way is taken as it is. Otherwise the wheel that
    the set-up fetched is loaded through helpers/bridge.py. `threads` is how many its
    kernels may use: on matrices as small as ours one is fastest. Raises
    EngineUnavailable where there is no wheel for the platform or the set-up has not
    fetched it.
    """

    return bridge.load(threads)


def import_sonnx() -> ModuleType:
    """SINGA's ONNX exporter `singa.sonnx`, written for ONNX 1.6, on today's ONNX.
    Raises as import_singa does.
    """

    return bridge.load_sonnx()
