"""Losses of classes. All losses have PyTorch's names, arguments and reductions."""

from __future__ import annotations

from tinygrad_bn import ops
from tinygrad_bn.core.dtype import int64
from tinygrad_bn.core.mixed import mixed
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import ArgumentError, DTypeError, IndexRangeError, ShapeError, expected, wrong
from tinygrad_bn.functional._reduction import check_current, over_all
from tinygrad_bn.ops._common import is_floating, is_tensor, same_device
from tinygrad_bn.ops.softmax import cross_entropy_indices


@mixed(autocast="float")
def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: None = None,
    ignore_index: int = -100,
    reduce: None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Return the cross-entropy of scores against classes, -log softmax(input)[target].

    Parameters
    ----------
    input : Tensor, shape (C,), (N, C) or (N, C, d1, …), floating point
        Scores, not normalised.
    target : Tensor, shape (), (N,) or (N, d1, …), int64; or of the input's shape and dtype
        Class indices from 0 to C - 1 or ``ignore_index``; or the probability of each class.
    weight : Tensor, shape (C,), optional
        What each class counts.
    size_average, reduce : None
        PyTorch's deprecated arguments: use ``reduction``.
    ignore_index : int
        A class index that counts for nothing.
    reduction : {"mean", "sum", "none"}
        The mean is over the weights of the targets that are not ignored; over all targets given as probabilities.
    label_smoothing : float
        From 0 to 1: how much of each target is spread evenly over all classes.

    Returns
    -------
    Tensor, shape (), or the shape of class indices with ``reduction="none"``

    Raises
    ------
    IndexRangeError
        If a class index is out of range.
    ShapeError, DTypeError, DeviceError, ArgumentError

    References
    ----------
    Label smoothing: Szegedy et al. 2016 (arXiv:1512.00567), section 7.
    """
    op = "cross_entropy"
    plain = weight is None and label_smoothing == 0.0 and size_average is None and reduce is None
    if plain and not (isinstance(target, Tensor) and target.dtype.is_floating_point):
        return cross_entropy_indices(input, target, ignore_index, reduction)
    check_current(op, size_average, reduce, reduction)
    if not 0.0 <= label_smoothing <= 1.0:
        raise ArgumentError(wrong(op, "label_smoothing", "from 0 to 1", label_smoothing))
    is_floating(op, "input", input)
    is_tensor(op, "target", target)
    if target.dtype.is_floating_point:
        return _cross_entropy_probabilities(input, target, weight, ignore_index, reduction, label_smoothing)
    _check_weight(op, input, weight)
    losses = cross_entropy_indices(input, target, ignore_index, "none")  # first: it checks the classes
    counts = _counts(input, target, weight, ignore_index)
    losses = ops.mul(losses, counts)
    if label_smoothing:
        axis = _classes(input)
        spread = ops.sum(_scaled(ops.neg(ops.log_softmax(input, axis)), weight), axis)
        share = ops.mul(spread, label_smoothing / input.array.shape[axis])
        losses = ops.add(ops.mul(losses, 1.0 - label_smoothing), share)
    losses = ops.where(ops.ne(target, ignore_index), losses, 0.0)
    return over_all(losses, reduction, counts)


def _classes(input: Tensor) -> int:
    """The axis of the classes."""
    return 1 if input.array.ndim > 1 else 0


def _check_weight(op: str, input: Tensor, weight: Tensor | None) -> None:
    if weight is None:
        return
    is_tensor(op, "weight", weight)
    classes = input.array.shape[_classes(input)] if input.array.ndim else 0
    if weight.array.shape != (classes,):
        raise ShapeError(expected(op, "weight", f"shape (C,) = ({classes},)", weight.array.shape))
    if weight.dtype is not input.dtype:
        raise DTypeError(expected(op, "weight", f"dtype {input.dtype.name}, as input has", weight.dtype.name))
    same_device(op, input, "weight", weight)


def _counts(input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int) -> Tensor:
    """What each target counts: its class's weight, 0 where it is ignored."""
    valid = ops.ne(target, ignore_index)
    if weight is None:
        return ops.to(valid, input.dtype)
    picked = ops.getitem(weight, ops.reshape(ops.where(valid, target, 0), (-1,)) if target.array.size else target)
    return ops.where(valid, ops.reshape(picked, target.array.shape), 0.0)


def _scaled(x: Tensor, weight: Tensor | None) -> Tensor:
    """Each class's values times its weight."""
    if weight is None:
        return x
    return ops.mul(x, ops.reshape(weight, (-1,) + (1,) * (x.array.ndim - 1 - _classes(x))))


def _cross_entropy_probabilities(
    input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, reduction: str, label_smoothing: float
) -> Tensor:
    """-Σ_c weight_c target_c log softmax(input)_c; the mean is over the targets."""
    op = "cross_entropy"
    shape = input.array.shape
    if not shape or target.array.shape != shape:
        raise ShapeError(
            expected(op, "target", f"the input's shape {shape} as class probabilities", target.array.shape)
        )
    if target.dtype is not input.dtype:
        raise DTypeError(expected(op, "target", f"dtype {input.dtype.name}, as input has", target.dtype.name))
    same_device(op, input, "target", target)
    if ignore_index >= 0:
        raise ArgumentError(wrong(op, "ignore_index", "left out for targets that are probabilities", ignore_index))
    _check_weight(op, input, weight)
    classes = _classes(input)
    if label_smoothing:
        target = ops.add(ops.mul(target, 1.0 - label_smoothing), label_smoothing / shape[classes])
    terms = ops.mul(ops.neg(ops.log_softmax(input, classes)), _scaled(target, weight))
    return over_all(ops.sum(terms, classes), reduction)


@mixed(autocast="float")
def nll_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: None = None,
    ignore_index: int = -100,
    reduce: None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return the negative log-likelihood, -input[target], of log-probabilities.

    Parameters
    ----------
    input : Tensor, shape (C,), (N, C) or (N, C, d1, …), floating point
        Log-probabilities, as ``log_softmax`` returns them.
    target : Tensor, shape (), (N,) or (N, d1, …), int64
        Class indices from 0 to C - 1, or ``ignore_index``.
    weight : Tensor, shape (C,), optional
        What each class counts.
    size_average, reduce : None
        PyTorch's deprecated arguments: use ``reduction``.
    ignore_index : int
    reduction : {"mean", "sum", "none"}
        The mean is over the weights of the targets that are not ignored.

    Raises
    ------
    IndexRangeError
        If a class index is out of range.
    ShapeError, DTypeError, DeviceError, ArgumentError
    """
    op = "nll_loss"
    check_current(op, size_average, reduce, reduction)
    is_floating(op, "input", input)
    _check_indices(op, input, target, ignore_index)
    _check_weight(op, input, weight)
    axis = _classes(input)
    counts = _counts(input, target, weight, ignore_index)
    valid = ops.ne(target, ignore_index)
    at = ops.unsqueeze(ops.where(valid, target, 0), axis)
    picked = ops.squeeze(ops.take_along(input, at, axis), axis)
    losses = ops.where(valid, ops.mul(ops.neg(picked), counts), 0.0)
    return over_all(losses, reduction, counts)


def _check_indices(op: str, input: Tensor, target: Tensor, ignore_index: int) -> None:
    is_tensor(op, "target", target)
    same_device(op, input, "target", target)
    shape = input.array.shape
    if not shape:
        raise ShapeError(expected(op, "input", "shape (C,), (N, C) or (N, C, d1, …)", shape))
    want = shape[:1] + shape[2:] if len(shape) > 1 else ()
    if target.array.shape != want:
        raise ShapeError(expected(op, "target", f"shape {want}, one class index an input", target.array.shape))
    if target.dtype is not int64:
        raise DTypeError(expected(op, "target", "dtype int64, class indices", target.dtype.name))
    classes = shape[_classes(input)]
    outside = ops.logical_or(ops.lt(target, 0), ops.ge(target, classes))
    if ops.sum(ops.logical_and(outside, ops.ne(target, ignore_index))).item():
        raise IndexRangeError(expected(op, "target", f"classes from 0 to {classes - 1} or {ignore_index}", "others"))
