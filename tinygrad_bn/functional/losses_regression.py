"""Losses of values: squared, absolute, and those between the two."""

from __future__ import annotations

from tinygrad_bn import ops
from tinygrad_bn.core.mixed import mixed
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import ArgumentError, ShapeError, expected, wrong
from tinygrad_bn.functional._reduction import difference, over_all, weighed
from tinygrad_bn.ops._common import is_tensor


@mixed(autocast="float")
def mse_loss(
    input: Tensor,
    target: Tensor,
    size_average: None = None,
    reduce: None = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    """Return the squared error (input - target)², its mean by default.

    Parameters
    ----------
    input, target : Tensor, of one shape
        Shapes that differ are broadcast, with a warning: most often that is a mistake.
    size_average, reduce : None
        PyTorch's deprecated arguments: use ``reduction``.
    reduction : {"mean", "sum", "none"}
    weight : Tensor, of the input's shape, optional
        What each element counts; the mean is over the weights.
    """
    off = difference("mse_loss", input, target, size_average, reduce, reduction)
    return _weighted_mean("mse_loss", ops.mul(off, off), input, weight, reduction)


@mixed(autocast="float")
def l1_loss(
    input: Tensor,
    target: Tensor,
    size_average: None = None,
    reduce: None = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    """Return the absolute error |input - target|, its mean by default.

    Parameters
    ----------
    input, target : Tensor, of one shape
        Shapes that differ are broadcast, with a warning.
    size_average, reduce : None
        PyTorch's deprecated arguments: use ``reduction``.
    reduction : {"mean", "sum", "none"}
    weight : Tensor, of the input's shape, optional
        What each element counts; the mean is over the weights.
    """
    off = difference("l1_loss", input, target, size_average, reduce, reduction)
    return _weighted_mean("l1_loss", ops.abs(off), input, weight, reduction)


@mixed(autocast="float")
def smooth_l1_loss(
    input: Tensor,
    target: Tensor,
    size_average: None = None,
    reduce: None = None,
    reduction: str = "mean",
    beta: float = 1.0,
) -> Tensor:
    """Return d² / (2 beta) where |d| = |input - target| < beta, |d| - beta / 2 elsewhere; its mean by default.

    Parameters
    ----------
    input, target : Tensor, of one shape, floating point
        Shapes that differ are broadcast, with a warning.
    size_average, reduce : None
        PyTorch's deprecated arguments: use ``reduction``.
    reduction : {"mean", "sum", "none"}
    beta : float
        At least 0, which stands for ``l1_loss``.

    Raises
    ------
    ArgumentError
        If beta is below 0.

    References
    ----------
    Girshick 2015 (arXiv:1504.08083).
    """
    off = difference("smooth_l1_loss", input, target, size_average, reduce, reduction)
    if beta < 0:
        raise ArgumentError(wrong("smooth_l1_loss", "beta", "at least 0", beta))
    return over_all(ops.huber(off, beta, 1.0 / beta) if beta else ops.abs(off), reduction)


@mixed(autocast="float")
def huber_loss(
    input: Tensor, target: Tensor, reduction: str = "mean", delta: float = 1.0, weight: Tensor | None = None
) -> Tensor:
    """Return d² / 2 where |d| = |input - target| < delta, delta (|d| - delta / 2) elsewhere; its mean by default.

    Parameters
    ----------
    input, target : Tensor, of one shape, floating point
        Shapes that differ are broadcast, with a warning.
    reduction : {"mean", "sum", "none"}
    delta : float
        Above 0.
    weight : Tensor, of the input's shape, optional
        What each element counts; the mean is over the elements.

    Raises
    ------
    ArgumentError
        If delta is not above 0.

    References
    ----------
    Huber 1964 (Annals of Mathematical Statistics 35, 73).
    """
    off = difference("huber_loss", input, target, None, None, reduction)
    if not delta > 0:
        raise ArgumentError(wrong("huber_loss", "delta", "above 0", delta))
    _same_shape("huber_loss", input, weight)
    return over_all(weighed("huber_loss", ops.huber(off, delta), weight), reduction)


def _same_shape(op: str, input: Tensor, weight: Tensor | None) -> None:
    if weight is not None and is_tensor(op, "weight", weight).array.shape != input.array.shape:
        raise ShapeError(expected(op, "weight", f"the input's shape {input.array.shape}", weight.array.shape))


def _weighted_mean(op: str, losses: Tensor, input: Tensor, weight: Tensor | None, reduction: str) -> Tensor:
    _same_shape(op, input, weight)
    return over_all(weighed(op, losses, weight), reduction, weight)
