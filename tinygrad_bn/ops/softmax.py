"""Softmax, log-softmax, logsumexp and the cross-entropy of class indices."""

from __future__ import annotations

import numpy as np

from tinygrad_bn.core.dtype import as_dtype, int64
from tinygrad_bn.core.launch import launch, launch_checked
from tinygrad_bn.core.registry import operation
from tinygrad_bn.core.tape import Gradients, Node, nodes_of, record
from tinygrad_bn.core.tensor import Array, Tensor
from tinygrad_bn.errors import ArgumentError, DTypeError, ShapeError, expected, wrong
from tinygrad_bn.ops import arithmetic, comparison, functions, indexing, movement, sums
from tinygrad_bn.ops._common import axes, axis, is_floating, is_tensor, new, plain, same_device
from tinygrad_bn.ops._layout import product, split_at, with_ones
from tinygrad_bn.ops.composite import through_composite

WORK = 2048  # elements of the samples whose exponentials are taken together
NO_WORK = {name: np.empty(0, name) for name in ("float32", "float64")}  # rows need none on the CPU
ROWS, PARTS = 8192, 1792  # the rows whose losses one block of a GPU adds up; what more of them leave their sums in
REDUCTIONS = {"mean": 0, "sum": 1, "none": 2}  # as the kernel takes them


def _launch_rows(name: str, like: Tensor, dim: int, *inputs: Tensor) -> Tensor:
    """Launch a kernel on (A, R, B) arrays; the result has the shape of the inputs."""
    shape = like.array.shape
    out = new(shape, like.dtype, like.device)
    if dim == len(shape) - 1 and out.array.size and all(x.contiguous_array for x in inputs):
        rows = (out.array.size // shape[-1], shape[-1], 1)
        launch(getattr(like.device.kernels, name), *[x.array.reshape(rows) for x in inputs], out.array.reshape(rows))
        return out
    dims = (dim,) if like.array.ndim else ()
    views: list[Array] = [split_at(x, dims)[0] for x in inputs]
    if views[0].size:
        launch(getattr(like.device.kernels, name), *views, out.array.reshape(views[0].shape))
    return out


class Softmax(Node):
    """gx = y (gy - Σ gy y)."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        return (softmax_backward(gy, self.unpack_output(), self.constants[0]),)


@operation(Softmax)
def softmax(input: Tensor, dim: int, *, dtype: object = None) -> Tensor:
    """Return e^x / Σ e^x along an axis, computed from x - max x."""
    x = is_floating("softmax", "input", input if dtype is None else movement.to(input, as_dtype(dtype, "softmax")))
    d = axis("softmax", dim, x.array.ndim)
    return record(Softmax, _launch_rows("softmax", x, d, x), (x,), constants=(d,), save_output=True)


class SoftmaxBackward(Node):
    """The derivative of y (gy - Σ gy y), through its composite."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        d = self.constants[0]

        def composite(g: Tensor, y: Tensor) -> Tensor:
            return arithmetic.mul(y, arithmetic.sub(g, sums.sum(arithmetic.mul(g, y), d, True)))

        return through_composite(composite, self.unpack(), (gy,))


@operation(SoftmaxBackward)
def softmax_backward(gy: Tensor, y: Tensor, dim: int) -> Tensor:
    """Return y (gy - Σ gy y): the gradient of y = softmax(x)."""
    return record(SoftmaxBackward, _launch_rows("softmax_backward", y, dim, gy, y), (gy, y), (gy, y), (dim,))


class LogSoftmax(Node):
    """gx = gy - e^y Σ gy."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        return (log_softmax_backward(gy, self.unpack_output(), self.constants[0]),)


@operation(LogSoftmax)
def log_softmax(input: Tensor, dim: int, *, dtype: object = None) -> Tensor:
    """Return x - logsumexp(x) along an axis: the logarithm of softmax, without its underflow."""
    x = is_floating(
        "log_softmax", "input", input if dtype is None else movement.to(input, as_dtype(dtype, "log_softmax"))
    )
    d = axis("log_softmax", dim, x.array.ndim)
    return record(LogSoftmax, _launch_rows("log_softmax", x, d, x), (x,), constants=(d,), save_output=True)


class LogSoftmaxBackward(Node):
    """The derivative of gy - e^y Σ gy, through its composite."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        d = self.constants[0]

        def composite(g: Tensor, y: Tensor) -> Tensor:
            return arithmetic.sub(g, arithmetic.mul(functions.exp(y), sums.sum(g, d, True)))

        return through_composite(composite, self.unpack(), (gy,))


@operation(LogSoftmaxBackward)
def log_softmax_backward(gy: Tensor, y: Tensor, dim: int) -> Tensor:
    """Return gy - e^y Σ gy: the gradient of y = log_softmax(x)."""
    return record(LogSoftmaxBackward, _launch_rows("log_softmax_backward", y, dim, gy, y), (gy, y), (gy, y), (dim,))


class LogSumExp(Node):
    """gx = gy e^(x - y)."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        (x,) = self.unpack()
        kept = self.constants[0]
        y = movement.reshape(self.unpack_output(), kept)
        return (arithmetic.mul(movement.reshape(gy, kept), functions.exp(arithmetic.sub(x, y))),)


@operation(LogSumExp)
def logsumexp(input: Tensor, dim: int | tuple[int, ...] | list[int], keepdim: bool = False) -> Tensor:
    """Return ln Σ e^x over axes, computed from x - max x; -inf of no elements."""
    x = is_floating("logsumexp", "input", input)
    dims = axes("logsumexp", dim, x.array.ndim)
    view, kept = split_at(x, dims)
    out = new(with_ones(x.array.shape, dims) if keepdim else kept, x.dtype, x.device)
    if view.size:
        launch(x.device.kernels.logsumexp, view, out.array.reshape(view.shape[0], view.shape[2]))
    else:
        launch(x.device.kernels.fill, float("-inf"), out.array)
    return record(LogSumExp, out, (x,), (x,), (with_ones(x.array.shape, dims),), save_output=True)


# ---------------------------------------------------------------------------------------------------- cross-entropy


class CrossEntropy(Node):
    """gx = gy scale (softmax(x) - onehot(target)), 0 where the target is ignored."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        x, target, lse, scale = self.unpack()
        return (cross_entropy_backward(gy, x, target, lse, scale, *self.constants),)


@operation(CrossEntropy)
def cross_entropy_indices(input: Tensor, target: Tensor, ignore_index: int = -100, reduction: str = "mean") -> Tensor:
    """Return the cross-entropy of scores against class indices, -log softmax(input)[target].

    Parameters
    ----------
    input : Tensor, shape (C,), (N, C) or (N, C, d1, …), floating point
        Scores, not normalised.
    target : Tensor, shape (), (N,) or (N, d1, …), int64
        Class indices from 0 to C - 1, or ``ignore_index``.
    ignore_index : int
        A target that counts for nothing.
    reduction : {"mean", "sum", "none"}
        The mean is over the targets that are not ignored; summed in float64.

    Raises
    ------
    IndexRangeError
        If a class index is out of range.
    """
    x, t = input, target
    code = REDUCTIONS.get(reduction)
    if code is None:
        raise ArgumentError(wrong("cross_entropy", "reduction", "'mean', 'sum' or 'none'", repr(reduction)))
    if not (isinstance(x, Tensor) and isinstance(t, Tensor) and t.dtype is int64 and t.device is x.device):
        _explain_classes(x, t)
    scores = x.array if x.contiguous_array else plain(x)
    classes = t.array if t.contiguous_array else plain(t)
    device, dtype, shape, places = x.device, x.dtype, scores.shape, classes.shape
    if not dtype.is_floating_point:
        _explain_classes(x, t)
    if len(shape) == 2 and places == shape[:1]:
        (a, c), b = shape, 1
        many = a > ROWS and device.type == "cuda"  # several blocks add up the losses there
        work = device.empty((PARTS,), dtype) if many else NO_WORK[dtype.name]
    else:
        a, c, b = _as_samples(x, t)
        sample = (c + 1) * b
        work = device.empty((sample * max(1, min(a, WORK // max(sample, 1))),), dtype)
    flat = (1, 1) if code != 2 else (a, b)
    out, lse, scale = device.empty(flat, dtype), device.empty((a, b), dtype), device.empty((1,), dtype)
    view = classes.reshape((a, b))
    launch_checked(
        device, "cross_entropy", device.kernels.cross_entropy,
        scores.reshape((a, c, b)), view, ignore_index, code, out, lse, scale, work,
    )  # fmt: skip
    y = Tensor(out.reshape(places if code == 2 else ()), dtype, device)
    if x.node is not None:
        nodes = nodes_of(CrossEntropy, x)
        if nodes is not None:
            saved = (x, Tensor(view, int64, device), Tensor(lse, dtype, device), Tensor(scale, dtype, device))
            y.node = CrossEntropy(nodes, saved, ((a, c, b), flat, ignore_index))
    return y


def _as_samples(x: Tensor, t: Tensor) -> tuple[int, int, int]:
    """The shape of the scores as (A, C, B); raises where the classes' does not fit."""
    shape = x.array.shape
    if not shape or t.array.shape != shape[:1] * (len(shape) > 1) + shape[2:]:
        _explain_classes(x, t)
    return (1, shape[0], 1) if len(shape) == 1 else (shape[0], shape[1], product(shape[2:]))


def _explain_classes(x: Tensor, t: Tensor) -> None:
    """Raise for what does not fit."""
    op = "cross_entropy"
    is_floating(op, "input", x)
    is_tensor(op, "target", t)
    same_device(op, x, "target", t)
    shape = x.array.shape
    if not shape:
        raise ShapeError(expected(op, "input", "shape (C,), (N, C) or (N, C, d1, …)", shape))
    want = shape[:1] + shape[2:] if len(shape) > 1 else ()
    if t.array.shape != want:
        names = "(N,)" if len(shape) == 2 else "()" if len(shape) == 1 else "(N, d1, …)"
        raise ShapeError(expected(op, "target", f"shape {names} = {want}", t.array.shape))
    if t.dtype is not int64:
        hint = "class probabilities must have the input's shape and dtype" if t.dtype.is_floating_point else None
        raise DTypeError(expected(op, "target", "dtype int64, class indices", t.dtype.name, hint))


class CrossEntropyBackward(Node):
    """The derivative of gy scale (softmax(x) - onehot), through its composite."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        g, x, target, scale = self.unpack()
        shape, flat, ignore_index = self.constants
        a, _, b = shape
        classes = movement.reshape(target, (a, 1, b))
        valid = comparison.ne(classes, ignore_index)
        onehot = indexing.spread(movement.to(valid, x.dtype), comparison.where(valid, classes, 0), 1, shape)

        def composite(g: Tensor, x: Tensor) -> Tensor:
            slope = arithmetic.sub(softmax(movement.reshape(x, shape), 1), onehot)
            slope = comparison.where(valid, slope, 0.0)
            factor = arithmetic.mul(movement.reshape(g, (flat[0], 1, flat[1])), scale)
            return movement.reshape(arithmetic.mul(slope, factor), x.array.shape)

        return through_composite(composite, (g, x), (gy,))


@operation(CrossEntropyBackward)
def cross_entropy_backward(
    gy: Tensor,
    x: Tensor,
    target: Tensor,
    lse: Tensor,
    scale: Tensor,
    shape: tuple[int, int, int],
    flat: tuple[int, int],
    ignore_index: int,
) -> Tensor:
    """Return gy scale (softmax(x) - onehot(target)), the gradient of cross_entropy.

    ``shape`` is x seen as (A, C, B), ``flat`` is gy seen as (A, B), or (1, 1) where the losses were reduced.
    """
    out = x.device.empty(shape, x.dtype)
    launch(
        x.device.kernels.cross_entropy_backward,
        (gy.array if gy.contiguous_array else plain(gy)).reshape(flat),
        (x.array if x.contiguous_array else plain(x)).reshape(shape),
        target.array,
        lse.array,
        scale.array,
        ignore_index,
        out,
    )
    gx = Tensor(out.reshape(x.array.shape), x.dtype, x.device)
    return record(CrossEntropyBackward, gx, (gy, x), (gy, x, target, scale), (shape, flat, ignore_index))
