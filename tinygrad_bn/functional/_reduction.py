"""What all losses share: the arguments that say how losses are weighed and reduced."""

from __future__ import annotations

import warnings
from typing import Any

from tinygrad_bn import ops
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import ArgumentError, DTypeError, ShapeError, expected, outside, wrong
from tinygrad_bn.ops._common import is_floating, is_tensor, same_device
from tinygrad_bn.ops.softmax import REDUCTIONS


def check_current(op: str, size_average: Any, reduce: Any, reduction: str, also: tuple[str, ...] = ()) -> None:
    """Raise for PyTorch's deprecated arguments and for a reduction that does not exist."""
    if size_average is not None or reduce is not None:
        name = "reduce" if size_average is None else "size_average"
        hint = "use reduction='mean', 'sum' or 'none'"
        raise ArgumentError(wrong(op, name, "left out: PyTorch, too, has replaced it", "a value", hint))
    if reduction not in REDUCTIONS and reduction not in also:
        known = ", ".join(repr(r) for r in (*also, "mean", "sum")) + " or 'none'"
        raise ArgumentError(wrong(op, "reduction", known, repr(reduction)))


def over_all(losses: Tensor, reduction: str, counts: Tensor | None = None) -> Tensor:
    """Reduce losses; with ``counts`` the mean is the sum divided by theirs."""
    if reduction == "none":
        return losses
    if reduction == "sum":
        return ops.sum(losses)
    return ops.mean(losses) if counts is None else ops.div(ops.sum(losses), ops.sum(counts))


def check_alike(op: str, input: Tensor, target: Tensor) -> None:
    """Raise unless two tensors agree in shape, dtype, floating point, and device."""
    is_floating(op, "input", input)
    is_tensor(op, "target", target)
    same_device(op, input, "target", target)
    if target.array.shape != input.array.shape:
        raise ShapeError(expected(op, "target", f"the input's shape {input.array.shape}", target.array.shape))
    if target.dtype is not input.dtype:
        hint = "convert it with target.to(input.dtype)"
        raise DTypeError(expected(op, "target", f"dtype {input.dtype.name}, as input has", target.dtype.name, hint))


def weighed(op: str, losses: Tensor, weight: Tensor | None, name: str = "weight") -> Tensor:
    """Return losses times weights, whose shape must broadcast to theirs."""
    if weight is None:
        return losses
    same_device(op, losses, name, is_tensor(op, name, weight))
    out = ops.mul(losses, weight)
    if out.array.shape != losses.array.shape:
        want = f"a shape that broadcasts to {losses.array.shape}"
        raise ShapeError(expected(op, name, want, weight.array.shape))
    return out


def difference(op: str, input: Tensor, target: Tensor, size_average: Any, reduce: Any, reduction: str) -> Tensor:
    """Return input - target; shapes that differ are broadcast, with a warning to whoever called the loss."""
    check_current(op, size_average, reduce, reduction)
    is_tensor(op, "input", input)
    is_tensor(op, "target", target)
    if input.array.shape != target.array.shape:
        text = f"{op}: 'target' has shape {target.array.shape}, 'input' {input.array.shape}; they are broadcast."
        warnings.warn(text, UserWarning, stacklevel=outside())
    return ops.sub(input, target)
