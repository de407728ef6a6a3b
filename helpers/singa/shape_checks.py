"""Shape checks before SINGA's C++: there a wrong shape ends the process, or gives wrong
numbers without a word.
"""

import functools
from collections.abc import Callable
from types import ModuleType

from helpers.errors import InputError

ELEMENTWISE = (
    "__add__",
    "__sub__",
    "__mul__",
    "__div__",
    "__lt__",
    "__le__",
    "__gt__",
    "__ge__",
    "Pow",
)
INTO_THIRD = ("Add", "Sub", "EltwiseMult", "Div", "PowWithRet")
IN_PLACE = ("__iadd__", "__isub__", "__imul__", "__idiv__", "__itruediv__")
BY_ROW = ("AddRow", "SubRow", "MultRow", "DivRow")
BY_COLUMN = ("AddColumn", "SubColumn", "MultColumn", "DivColumn")
FLOAT32 = 0
INT32 = 2


class ShapeError(InputError):
    """Shapes, types or labels that SINGA cannot use; raised before it is called."""


def install(wrap: ModuleType) -> None:
    """Put a check before every function of the wrapped C++ that operators of dense
    networks call.

    Convolution, pooling and recurrent kernels are not covered.
    """
    checks = dict.fromkeys(ELEMENTWISE, _broadcast) | dict.fromkeys(INTO_THIRD, _into)
    checks |= dict.fromkeys(BY_ROW, _row) | dict.fromkeys(BY_COLUMN, _column)
    checks |= {
        "Mult": _matrices,
        "Axpy": _axpy,
        "ReLUBackward": _same,
        "CrossEntropyFwd": _labels,
        "SoftmaxCrossEntropyBwd": _labels,
        "SoftMax": _softmax,
        "Reshape": _reshape,
        "Transpose": _axes,
        "SliceOn": _slice,
        "Sum": _axis,
        "Average": _axis,
    }
    for name, check in checks.items():
        setattr(wrap, name, _checked(name, getattr(wrap, name), check))
    for name in IN_PLACE:
        setattr(
            wrap.Tensor, name, _checked(name, getattr(wrap.Tensor, name), _in_place)
        )
    wrap.Tensor.__init__ = _checked("Tensor", wrap.Tensor.__init__, _made)
    wrap.Tensor.CopyData = _checked("CopyData", wrap.Tensor.CopyData, _copy)


def _checked(name: str, function: Callable, check: Callable) -> Callable:
    shown = name.strip("_")

    @functools.wraps(function)
    def guarded(*arguments):
        try:
            fault = check(*arguments)
        except (AttributeError, TypeError):  # not even tensors: SWIG says so itself
            fault = None
        if fault:
            raise ShapeError(f"SINGA's {shown}: {fault}.")
        return function(*arguments)

    return guarded


def _made(_self, *arguments) -> str | None:
    shape = (
        arguments[0] if arguments and isinstance(arguments[0], (list, tuple)) else ()
    )
    return (
        f"shape {tuple(shape)} holds nothing"
        if any(length < 1 for length in shape)
        else None
    )


def _broadcast(a, b, *_rest) -> str | None:
    left, right = a.shape(), b.shape()
    if a.data_type() != FLOAT32 or b.data_type() != FLOAT32:
        return "both tensors must be float32"
    if left != right and any(
        m != n and 1 not in (m, n)
        for m, n in zip(left[::-1], right[::-1], strict=False)
    ):
        return f"shapes {left} and {right} cannot be broadcast"
    return None


def _into(a, b, out) -> str | None:
    fault = _broadcast(a, b)
    if fault:
        return fault
    left, right = a.shape(), b.shape()
    size = max(len(left), len(right))
    wanted = tuple(
        map(max, (1,) * (size - len(left)) + left, (1,) * (size - len(right)) + right)
    )
    return (
        None
        if out.shape() == wanted
        else f"the result needs shape {wanted}, not {out.shape()}"
    )


def _in_place(a, b) -> str | None:
    if isinstance(b, (int, float)):
        return None
    wide = len(b.shape()) <= len(a.shape()) and all(
        n in (1, m) for m, n in zip(a.shape()[::-1], b.shape()[::-1], strict=False)
    )
    return _broadcast(a, b) or (
        None if wide else f"shape {b.shape()} does not fit into {a.shape()}"
    )


def _row(v, matrix) -> str | None:
    return _along(v, matrix, 1)


def _column(v, matrix) -> str | None:
    return _along(v, matrix, 0)


def _along(v, matrix, axis: int) -> str | None:
    if len(matrix.shape()) != 2 or v.Size() != matrix.shape()[axis]:
        return f"a vector of {v.Size()} does not fit a matrix of shape {matrix.shape()}"
    return None


def _matrices(a, b) -> str | None:
    left, right = a.shape(), b.shape()
    if a.data_type() != FLOAT32 or b.data_type() != FLOAT32:
        return "both matrices must be float32"
    inner = right[-2] if len(right) > 1 else right[0]
    if (
        len(left) < 2
        or left[-1] != inner
        or (len(left) > 2 and left[:-2] != right[:-2])
    ):
        return f"shapes {left} and {right} cannot be multiplied"
    return None


def _axpy(alpha, x, y) -> str | None:
    if not isinstance(alpha, (int, float)) and alpha.Size() != 1:
        return f"the factor must be one number, its shape is {alpha.shape()}"
    return _same(x, y)


def _same(a, b) -> str | None:
    return (
        None if a.shape() == b.shape() else f"shapes {a.shape()} and {b.shape()} differ"
    )


def _copy(a, b) -> str | None:
    return (
        None
        if a.Size() == b.Size()
        else f"{b.Size()} values do not fit a tensor of {a.Size()}"
    )


def _labels(p, t) -> str | None:
    shape = p.shape()
    if t.data_type() != INT32:
        return "labels must be int32"
    if len(shape) != 2 or t.Size() not in (shape[0], shape[0] * shape[1]):
        return f"labels of shape {t.shape()} do not fit scores of shape {shape}"
    values = t.GetIntValue(t.Size())
    if t.Size() == shape[0] and (values.min() < 0 or values.max() >= shape[1]):
        return (
            f"labels must lie between 0 and {shape[1] - 1}, found {values.min()} to"
            f" {values.max()}"
        )
    return None


def _softmax(t, axis=1) -> str | None:
    ok = len(t.shape()) >= 2 and -len(t.shape()) <= axis < len(t.shape())
    return (
        None
        if ok
        else f"needs a matrix and one of its axes, got shape {t.shape()}, axis {axis}"
    )


def _reshape(t, shape) -> str | None:
    size = 1
    for length in shape:
        size *= length
    return (
        None
        if size == t.Size()
        else f"{t.Size()} values do not fill shape {tuple(shape)}"
    )


def _axes(t, axes) -> str | None:
    ok = sorted(axes) == list(range(len(t.shape())))
    return None if ok else f"axes {tuple(axes)} are not those of shape {t.shape()}"


def _slice(t, start, end, axis) -> str | None:
    ok = 0 <= axis < len(t.shape()) and 0 <= start < end <= t.shape()[axis]
    return (
        None
        if ok
        else f"{start}:{end} along axis {axis} is not inside shape {t.shape()}"
    )


def _axis(t, axis) -> str | None:
    return (
        None if 0 <= axis < len(t.shape()) else f"shape {t.shape()} has no axis {axis}"
    )
