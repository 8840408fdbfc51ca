"""Normalisation within a sample: group norm and layer norm, by one kernel; instance norm is group norm of one channel.

The input is seen as (N, G, D, L): each (n, g) has a mean and a variance, each (g, d), a channel, a weight and a bias.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tinygrad_bn.core.dtype import float64
from tinygrad_bn.core.launch import launch
from tinygrad_bn.core.registry import operation
from tinygrad_bn.core.tape import Gradients, MultiNode, Node, mode, nodes_of, record
from tinygrad_bn.core.tensor import Array, Tensor
from tinygrad_bn.errors import ArgumentError, DTypeError, ShapeError, expected, wrong
from tinygrad_bn.ops import arithmetic, functions, movement, sums
from tinygrad_bn.ops._channels import check_channels
from tinygrad_bn.ops._common import as_shape, is_floating, is_tensor, new, plain, same_device
from tinygrad_bn.ops._layout import product
from tinygrad_bn.ops.batch_norm import NOTHING, Statistics
from tinygrad_bn.ops.composite import through_composite
from tinygrad_bn.ops.creation import zeros_like

View = tuple[int, int, int, int]
INNER = (2, 3)


class GroupNorm(Node):
    """gx, gweight, gbias by ``group_norm_backward``; x̂ is recomputed."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        x, weight = self.unpack()
        return group_norm_backward(gy, x, weight, *self.constants)


def normalise(x: Tensor, view: View, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, Array]:
    """Normalise by the statistics of each (n, g), the input seen as (N, G, D, L); weight and bias have G · D elements.

    Returns
    -------
    y : Tensor, of the input's shape
    rows : numpy.ndarray, shape (4, N·G)
        Mean (hi and lo), biased variance and 1 / √(var + eps), as the kernel wrote them.
    """
    dtype, device = x.dtype, x.device
    w = NOTHING[dtype.name] if weight is None else weight
    b = NOTHING[dtype.name] if bias is None else bias
    y = new(x.array.shape, dtype, device)
    rows = device.empty((4, view[0] * view[1]), dtype)
    if y.array.size:
        gain, beta = plain(w).reshape(-1), plain(b).reshape(-1)
        launch(device.kernels.group_norm, plain(x).reshape(view), gain, beta, eps, y.array.reshape(view), rows)
    return record(GroupNorm, y, (x, w, b), (x, w), (b.array.shape, view, rows, eps)), rows


@operation(GroupNorm)
def group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """Normalise each group of channels of each sample by its own statistics.

    y = (x - mean) / √(var + eps) · weight + bias, with the biased variance over the channels of a group and all places.

    Parameters
    ----------
    input : Tensor, shape (N, C, …), float32 or float64
        Any strides.
    num_groups : int
        A divisor of C.
    weight, bias : Tensor, shape (C,), optional
    eps : float
        Inside the square root.

    Returns
    -------
    Tensor, shape (N, C, …)

    Raises
    ------
    ShapeError, DTypeError, DeviceError
    ArgumentError
        If ``num_groups`` is no divisor of C; if a batch of one sample has one value a group.

    Notes
    -----
    Statistics of float32 are taken in blocks, each in two passes, merged in float64. A group of equal values gives
    exactly ``bias``.

    References
    ----------
    Wu & He 2018 (arXiv:1803.08494).
    """
    op, x = "group_norm", input
    is_floating(op, "input", x)
    shape = x.array.shape
    if len(shape) < 2:
        raise ShapeError(expected(op, "input", "at least 2 axes, (N, C, …)", f"shape {shape}"))
    channels = shape[1]
    if isinstance(num_groups, bool) or not isinstance(num_groups, int | np.integer) or num_groups < 1:
        raise ArgumentError(wrong(op, "num_groups", "an int of at least 1", repr(num_groups)))
    if channels % num_groups:
        raise ArgumentError(wrong(op, "num_groups", f"a divisor of the number of channels, C = {channels}", num_groups))
    for name, t in (("weight", weight), ("bias", bias)):
        if t is not None:
            check_channels(op, x, name, t)
    view = (shape[0], int(num_groups), channels // int(num_groups), product(shape[2:]))
    if view[0] * view[2] * view[3] == 1:
        raise ArgumentError(expected(op, "input", "more than one value a group", f"shape {shape}"))
    return normalise(x, view, weight, bias, float(eps))[0]


@operation(GroupNorm)
def layer_norm(
    input: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise over the last axes, each position of the others by its own statistics.

    y = (x - mean) / √(var + eps) · weight + bias, with the biased variance.

    Parameters
    ----------
    input : Tensor, shape (…, *normalized_shape), float32 or float64
        Any strides.
    normalized_shape : int or sequence of int
        The extents of the axes that are normalised over.
    weight, bias : Tensor, shape normalized_shape, optional
        A number for each element.
    eps : float
        Inside the square root.

    Returns
    -------
    Tensor, of the input's shape

    Raises
    ------
    ShapeError, DTypeError, DeviceError
    ArgumentError
        If ``normalized_shape`` is empty or no ints.

    References
    ----------
    Ba, Kiros & Hinton 2016 (arXiv:1607.06450).
    """
    op = "layer_norm"
    inner = check_inner(op, input, normalized_shape, ("weight", weight), ("bias", bias))
    shape = input.array.shape
    view = (product(shape[: len(shape) - len(inner)]), 1, product(inner), 1)
    return normalise(input, view, weight, bias, float(eps))[0]


def inner_shape(op: str, normalized_shape: object) -> tuple[int, ...]:
    """Return the extents of the axes to normalise over, given as an int or as ints; raise if there are none."""
    given = normalized_shape if isinstance(normalized_shape, tuple | list) else (normalized_shape,)
    inner = as_shape(op, [given], "normalized_shape")
    if not inner:
        raise ArgumentError(expected(op, "normalized_shape", "at least one axis", inner))
    return inner


def check_inner(op: str, x: Tensor, normalized_shape: object, *named: tuple[str, Tensor | None]) -> tuple[int, ...]:
    """Return ``normalized_shape`` as ints; raise unless the input ends in it and the named tensors have it."""
    is_floating(op, "input", x)
    inner = inner_shape(op, normalized_shape)
    if x.array.shape[-len(inner) :] != inner:
        want = f"a shape that ends in normalized_shape = {inner}"
        raise ShapeError(expected(op, "input", want, f"shape {x.array.shape}"))
    for name, t in named:
        if t is None:
            continue
        is_tensor(op, name, t)
        if t.array.shape != inner:
            raise ShapeError(expected(op, name, f"shape normalized_shape = {inner}", t.array.shape))
        if t.dtype is not x.dtype:
            raise DTypeError(expected(op, name, f"dtype {x.dtype.name}, as input has", t.dtype.name))
        same_device(op, x, name, t)
    return inner


def instance_norm_rows(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Statistics | None]:
    """Normalise each channel of each sample by its own statistics: group norm of as many groups as channels.

    Returns
    -------
    y : Tensor, shape (N, C, …)
    statistics : Statistics or None
        Of each channel, averaged over the samples; None of an empty batch.
    """
    shape = x.array.shape
    view = (shape[0], shape[1], 1, product(shape[2:]))
    y, rows = normalise(x, view, weight, bias, eps)
    if not x.array.size:
        return y, None
    table = Tensor(rows.reshape(4, *shape[:2]), x.dtype, x.device)
    return y, Statistics(sums.mean(table, 1).array, view[3])


# ------------------------------------------------------------------------------------------------------------ gradients


class GroupNormBackward(MultiNode):
    """The derivatives of the gradients, through their composite."""

    __slots__ = ()

    def backward_all(self, *gradients: Tensor | None) -> Gradients:
        inputs = self.unpack()
        _, view, eps, shape = self.constants
        if not inputs[1].array.size:
            return tuple(zeros_like(t) for t in inputs)

        def composite(gy: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
            return _gradients(gy, x, weight, view, eps, shape)

        return through_composite(composite, inputs, gradients)


def _gradients(
    gy: Tensor, x: Tensor, weight: Tensor, view: View, eps: float, shape: tuple[int, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    """The three gradients as a composite; those of weight and bias are of one shape."""
    g, wide = movement.reshape(gy, view), movement.reshape(x, view)
    centred = arithmetic.sub(wide, sums.mean(wide, INNER, True))
    var = sums.mean(arithmetic.mul(centred, centred), INNER, True)
    invstd = functions.pow(arithmetic.add(var, eps), -0.5)
    hat = arithmetic.mul(centred, invstd)
    h = g
    if weight.array.size:
        h = arithmetic.mul(g, movement.reshape(weight, (1, view[1], view[2], 1)))
    inner = arithmetic.sub(h, sums.mean(h, INNER, True))
    inner = arithmetic.sub(inner, arithmetic.mul(hat, sums.mean(arithmetic.mul(h, hat), INNER, True)))
    gx = movement.reshape(arithmetic.mul(invstd, inner), x.array.shape)
    gweight, gbias = (movement.reshape(sums.sum(t, (0, 3)), shape) for t in (arithmetic.mul(g, hat), g))
    return gx, gweight, gbias


def _cuts(view: View) -> int:
    """Into how many parts the samples are cut: fixed by the shape, whatever the threads.

    Where elements are channels, a part's sums take as much memory as some of its samples; so it has 16 at least.
    """
    samples, size = view[0], product(view)
    most = samples if view[3] > 1 else samples // 16
    return max(1, min(most, 16, size >> 13))


def _cuts_on_gpu(view: View) -> int:
    from tinygrad_bn.kernels.cuda.group_norm import cuts

    return cuts(view[0], view[1] * view[2], view[3]) if product(view) else 1


@operation(GroupNormBackward)
def group_norm_backward(
    gy: Tensor, x: Tensor, weight: Tensor, bias_shape: tuple[int, ...], view: View, rows: Array, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of group norm with respect to x, weight and bias; those of an absent one have no elements.

    gx = invstd (h - mean(h) - x̂ mean(h x̂)) with h = gy weight, gweight = Σ gy x̂, gbias = Σ gy. ``rows`` are the
    statistics of the input seen as ``view`` (N, G, D, L), as the forward kernel left them.
    """
    dtype, device = x.dtype, x.device
    gx = new(x.array.shape, dtype, device)
    gweight, gbias = new(weight.array.shape, dtype, device), new(bias_shape, dtype, device)
    scratch = (_cuts_on_gpu(view) if device.type == "cuda" else _cuts(view), 2, view[1] * view[2])
    if gx.array.size:
        wanted = view[3] == 1 and gweight.array.size + gbias.array.size > 0
        launch(
            device.kernels.group_norm_backward,
            plain(gy).reshape(view), plain(x).reshape(view), plain(weight).reshape(-1), rows,
            gx.array.reshape(view), gweight.array.reshape(-1), gbias.array.reshape(-1),
            device.empty(scratch if wanted else (0, 2, scratch[2]), dtype), device.empty(scratch, float64),
        )  # fmt: skip
    else:
        for t in (gweight, gbias):
            launch(device.kernels.fill, 0, t.array)
    if mode.grad:
        nodes = nodes_of(GroupNormBackward, gy, x, weight)
        if nodes is not None:
            shape = next((s for s in (weight.array.shape, bias_shape) if product(s)), scratch[2:])
            GroupNormBackward(nodes, (gy, x, weight), (3, view, eps, shape)).attach((gx, gweight, gbias))
    return gx, gweight, gbias
