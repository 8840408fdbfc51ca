"""Losses of pairs and of signs: cosine similarity, ranking, hinge and soft margin."""

from __future__ import annotations

from tinygrad_bn import ops
from tinygrad_bn.core.mixed import mixed
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import ShapeError, expected
from tinygrad_bn.functional._reduction import check_current, over_all
from tinygrad_bn.ops._broadcast import broadcast_shape
from tinygrad_bn.ops._common import is_floating, is_tensor, same_device
from tinygrad_bn.ops._operands import pair


@mixed(autocast="float")
def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """Return Σ x1 x2 / (max(‖x1‖, eps) max(‖x2‖, eps)) along an axis.

    Parameters
    ----------
    x1, x2 : Tensor, of shapes that broadcast, floating point
    dim : int
        The axis of the broadcast shape that is summed over.
    eps : float
        Shorter vectors count as being of this length.
    """
    a, b = pair("cosine_similarity", is_floating("cosine_similarity", "x1", x1), x2)
    shape = broadcast_shape("cosine_similarity", (a.array.shape, b.array.shape))
    a, b = ops.expand(a, shape), ops.expand(b, shape)
    return ops.sum(ops.mul(ops.div(a, _length(a, dim, eps)), ops.div(b, _length(b, dim, eps))), dim)


def _length(x: Tensor, dim: int, eps: float) -> Tensor:
    """The norm along an axis, at least eps; the derivative at 0 is 0."""
    square = ops.sum(ops.mul(x, x), dim, True)
    some = ops.gt(square, 0.0)
    return ops.clamp(ops.where(some, ops.sqrt(ops.where(some, square, 1.0)), square), min=eps)


@mixed(autocast="float")
def cosine_embedding_loss(
    input1: Tensor,
    input2: Tensor,
    target: Tensor,
    margin: float = 0.0,
    size_average: None = None,
    reduce: None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return 1 - cos(input1, input2) where target is 1, max(0, cos - margin) where it is -1; its mean by default.

    Parameters
    ----------
    input1, input2 : Tensor, shape (N, D) or (D,), floating point
    target : Tensor, shape (N,) or ()
        1 or -1.
    margin : float
    size_average, reduce : None
        PyTorch's deprecated arguments: use ``reduction``.
    reduction : {"mean", "sum", "none"}

    Raises
    ------
    ShapeError
        If the shapes do not fit.

    Notes
    -----
    The squared lengths count 1e-12 more than they are, as in PyTorch.
    """
    op = "cosine_embedding_loss"
    check_current(op, size_average, reduce, reduction)
    t = _target(op, is_floating(op, "input1", input1), target)
    a, b = pair(op, input1, is_floating(op, "input2", input2))
    if t.array.ndim > 1 or a.array.ndim != t.array.ndim + 1 or b.array.ndim != a.array.ndim:
        want = "(N,) for inputs (N, D), () for inputs (D,)"
        raise ShapeError(expected(op, "target", want, f"{t.array.shape} for {a.array.shape} and {b.array.shape}"))
    squares = [ops.add(ops.sum(ops.mul(x, x), -1), 1e-12) for x in (a, b)]
    cosine = ops.div(ops.sum(ops.mul(a, b), -1), ops.sqrt(ops.mul(*squares)))
    alike = ops.where(ops.eq(t, 1), ops.sub(1.0, cosine), 0.0)
    apart = ops.where(ops.eq(t, -1), ops.clamp(ops.sub(cosine, margin), min=0.0), 0.0)
    return over_all(ops.add(alike, apart), reduction)


def _target(op: str, input: Tensor, target: Tensor) -> Tensor:
    same_device(op, input, "target", is_tensor(op, "target", target))
    return target


@mixed(autocast="float")
def margin_ranking_loss(
    input1: Tensor,
    input2: Tensor,
    target: Tensor,
    margin: float = 0.0,
    size_average: None = None,
    reduce: None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return max(0, margin - target (input1 - input2)), its mean by default.

    Parameters
    ----------
    input1, input2, target : Tensor, of one number of axes, shapes that broadcast
        The target is 1 where input1 should be larger, -1 where input2 should.
    margin : float
    size_average, reduce : None
        PyTorch's deprecated arguments: use ``reduction``.
    reduction : {"mean", "sum", "none"}

    Raises
    ------
    ShapeError
        If the numbers of axes differ.
    """
    op = "margin_ranking_loss"
    check_current(op, size_average, reduce, reduction)
    t = _target(op, is_floating(op, "input1", input1), target)
    if not input1.array.ndim == is_tensor(op, "input2", input2).array.ndim == t.array.ndim:
        raise ShapeError(expected(op, "target", f"as many axes as the inputs, {input1.array.ndim}", t.array.shape))
    off = ops.mul(ops.sub(input1, input2), t)
    return over_all(ops.clamp(ops.sub(margin, off), min=0.0), reduction)


@mixed(autocast="float")
def hinge_embedding_loss(
    input: Tensor,
    target: Tensor,
    margin: float = 1.0,
    size_average: None = None,
    reduce: None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return the input where target is 1, max(0, margin - input) where it is -1; its mean by default.

    Parameters
    ----------
    input : Tensor, any shape, floating point
        Distances.
    target : Tensor, of a shape that broadcasts with the input's
        1 or -1.
    margin : float
    size_average, reduce : None
        PyTorch's deprecated arguments: use ``reduction``.
    reduction : {"mean", "sum", "none"}
    """
    op = "hinge_embedding_loss"
    check_current(op, size_average, reduce, reduction)
    t = _target(op, is_floating(op, "input", input), target)
    near = ops.where(ops.ne(t, -1), input, 0.0)
    far = ops.where(ops.ne(t, 1), ops.clamp(ops.sub(margin, input), min=0.0), 0.0)
    return over_all(ops.add(near, far), reduction)


@mixed(autocast="float")
def soft_margin_loss(
    input: Tensor, target: Tensor, size_average: None = None, reduce: None = None, reduction: str = "mean"
) -> Tensor:
    """Return ln(1 + e^(-target · input)), its mean by default; no exponential overflows.

    Parameters
    ----------
    input : Tensor, any shape, floating point
    target : Tensor, of a shape that broadcasts with the input's
        1 or -1.
    size_average, reduce : None
        PyTorch's deprecated arguments: use ``reduction``.
    reduction : {"mean", "sum", "none"}
    """
    op = "soft_margin_loss"
    check_current(op, size_average, reduce, reduction)
    t = _target(op, is_floating(op, "input", input), target)
    return over_all(ops.neg(ops.logsigmoid(ops.mul(input, t))), reduction)
