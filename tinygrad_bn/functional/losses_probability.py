"""Losses of probabilities: binary cross-entropy and the Kullback-Leibler divergence."""

from __future__ import annotations

import math
import warnings

from tinygrad_bn import ops
from tinygrad_bn.core.mixed import mixed
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import ArgumentError, outside, wrong
from tinygrad_bn.functional._reduction import check_alike, check_current, over_all, weighed
from tinygrad_bn.ops._common import is_floating, is_tensor, same_device


@mixed(autocast="float")
def binary_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: None = None,
    reduce: None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return -(target ln input + (1 - target) ln(1 - input)), its mean by default.

    Parameters
    ----------
    input : Tensor, any shape, floating point
        Probabilities. Their logarithms count as -100 where they are below it.
    target : Tensor, of the input's shape and dtype
        Probabilities.
    weight : Tensor, of a shape that broadcasts to the input's, optional
        What each element counts; the mean is over the elements.
    size_average, reduce : None
        PyTorch's deprecated arguments: use ``reduction``.
    reduction : {"mean", "sum", "none"}

    Raises
    ------
    ArgumentError
        If something is not from 0 to 1.
    ShapeError, DTypeError, DeviceError
    """
    op = "binary_cross_entropy"
    check_current(op, size_average, reduce, reduction)
    check_alike(op, input, target)
    _check_probabilities(op, "input", input)
    _check_probabilities(op, "target", target)
    return over_all(weighed(op, ops.bce(input, target), weight), reduction)


def _check_probabilities(op: str, name: str, x: Tensor) -> None:
    if not ops.all(ops.logical_and(ops.ge(x, 0.0), ops.le(x, 1.0))).item():
        hint = "binary_cross_entropy_with_logits takes scores" if name == "input" else None
        raise ArgumentError(wrong(op, name, "from 0 to 1", "other values", hint))


@mixed(autocast="float")
def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: None = None,
    reduce: None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """Return the binary cross-entropy of sigmoid(input), (1 - target) ln(1 + e^input) + target ln(1 + e^-input).

    Parameters
    ----------
    input : Tensor, any shape, floating point
        Scores; no exponential overflows, no small loss is lost in a difference.
    target : Tensor, of the input's shape and dtype
        Probabilities.
    weight : Tensor, of a shape that broadcasts to the input's, optional
        What each element counts; the mean is over the elements.
    size_average, reduce : None
        PyTorch's deprecated arguments: use ``reduction``.
    reduction : {"mean", "sum", "none"}
    pos_weight : Tensor, of a shape that broadcasts to the input's, optional
        What positive targets count: a factor of the second term.

    Raises
    ------
    ShapeError, DTypeError, DeviceError, ArgumentError
    """
    op = "binary_cross_entropy_with_logits"
    check_current(op, size_average, reduce, reduction)
    check_alike(op, input, target)
    if pos_weight is None:
        losses = ops.bce_logits(input, target)
    else:
        negative = ops.mul(ops.sub(1.0, target), ops.softplus(input, 1.0, math.inf))
        positive = ops.mul(target, ops.softplus(ops.neg(input), 1.0, math.inf))
        losses = ops.add(negative, weighed(op, positive, pos_weight, "pos_weight"))
    return over_all(weighed(op, losses, weight), reduction)


@mixed(autocast="float")
def kl_div(
    input: Tensor,
    target: Tensor,
    size_average: None = None,
    reduce: None = None,
    reduction: str = "mean",
    log_target: bool = False,
) -> Tensor:
    """Return the terms of the Kullback-Leibler divergence, target (ln target - input), their mean by default.

    Parameters
    ----------
    input : Tensor, any shape, floating point
        Logarithms of probabilities.
    target : Tensor, of a shape that broadcasts with the input's, floating point
        Probabilities, or their logarithms.
    size_average, reduce : None
        PyTorch's deprecated arguments: use ``reduction``.
    reduction : {"batchmean", "mean", "sum", "none"}
        "batchmean", the sum divided by the input's first extent, is the divergence; "mean", over all elements, is not,
        and warns, as in PyTorch.
    log_target : bool
        Whether ``target`` holds logarithms.

    Raises
    ------
    DTypeError, DeviceError, ShapeError, ArgumentError
    """
    op = "kl_div"
    check_current(op, size_average, reduce, reduction, ("batchmean",))
    is_floating(op, "input", input)
    is_tensor(op, "target", target)
    same_device(op, input, "target", target)
    if reduction == "mean":
        text = "kl_div: reduction='mean' divides by the number of elements; the divergence is reduction='batchmean'."
        warnings.warn(text, UserWarning, stacklevel=outside())
    if log_target:
        losses = ops.mul(ops.exp(target), ops.sub(target, input))
    else:
        logarithm = ops.log(ops.where(ops.ne(target, 0.0), target, 1.0))  # 0 ln 0 = 0
        losses = ops.sub(ops.mul(target, logarithm), ops.mul(target, input))
    if reduction == "batchmean":
        return ops.div(ops.sum(losses), input.array.shape[0] if input.array.ndim else 1)
    return over_all(losses, reduction)
