"""Matrix products. The three kernel forms (nn, nt, tn) are closed under differentiation: no operand is ever
transposed by a
copy on the way back."""

from __future__ import annotations

import numpy as np

from tinygrad_bn.core.launch import launch
from tinygrad_bn.core.mixed import mixed
from tinygrad_bn.core.registry import operation
from tinygrad_bn.core.tape import Gradients, MultiNode, Node, gradient_buffer, mode, nodes_of, record
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import DTypeError, ShapeError, expected
from tinygrad_bn.ops import movement, sums
from tinygrad_bn.ops._broadcast import broadcast_shape
from tinygrad_bn.ops._common import is_floating, is_tensor, plain, same_device
from tinygrad_bn.ops._layout import product
from tinygrad_bn.ops._operands import NOTHING, fit
from tinygrad_bn.ops.composite import through_composite

NO_BIAS = {name: np.empty(0, name) for name in ("float32", "float64")}
NO_MATRIX = {name: np.empty((0, 0), name) for name in ("float32", "float64")}


class Product(Node):
    """nn: gA = gC Bᵀ, gB = Aᵀ gC; nt: gA = gC B, gB = gCᵀ A; tn: gA = B gCᵀ, gB = A gC."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        form, shape_a, shape_b = self.constants
        a, b = self.unpack()
        na, nb = self.inputs
        if form == "nn":
            ga = None if na is None else product_of(gy, b, "nt")
            gb = None if nb is None else product_of(a, gy, "tn")
        elif form == "nt":
            ga = None if na is None else product_of(gy, b, "nn")
            gb = None if nb is None else product_of(gy, a, "tn")
        else:
            ga = None if na is None else product_of(b, gy, "nt")
            gb = None if nb is None else product_of(a, gy, "nn")
        return None if ga is None else fit(ga, shape_a), None if gb is None else fit(gb, shape_b)


@operation(Product)
def product_of(a: Tensor, b: Tensor, form: str) -> Tensor:
    """Return the product of two tensors of 2 or 3 axes, A transposed in form "tn", B in "nt"; a batch of 1 stands for
    all."""
    x, y = plain(a), plain(b)
    m = x.shape[-1] if form == "tn" else x.shape[-2]
    n = y.shape[-2] if form == "nt" else y.shape[-1]
    if x.ndim == 2 and y.ndim == 2:
        shape: tuple[int, ...] = (m, n)
    else:
        batches = [z.shape[0] for z in (x, y) if z.ndim == 3 and z.shape[0] != 1]
        shape = (batches[0] if batches else 1, m, n)
    out = a.device.empty(shape, a.dtype)
    if x.size and y.size:
        launch(getattr(a.device.kernels, f"matmul_{form}"), x, y, out)
    else:
        launch(a.device.kernels.fill, 0, out)
    saved = (a if b.node is not None else NOTHING, b if a.node is not None else NOTHING)
    return record(Product, Tensor(out, a.dtype, a.device), (a, b), saved, (form, x.shape, y.shape))


@mixed(autocast="low")
def matmul(input: Tensor, other: Tensor) -> Tensor:
    """Return the matrix product, with PyTorch's rules for axes.

    Parameters
    ----------
    input : Tensor, shape (K,), (M, K) or (…, M, K)
    other : Tensor, shape (K,), (K, N) or (…, K, N)
        Axes ahead of the last two broadcast; a vector is a row on the left, a column on the right.

    Returns
    -------
    Tensor, shape (…, M, N), without the axis of a vector

    Raises
    ------
    ShapeError, DTypeError
    """
    a, b = is_tensor("matmul", "input", input), is_tensor("matmul", "other", other)
    same_device("matmul", a, "other", b)
    if a.array.ndim == 0 or b.array.ndim == 0:
        raise ShapeError(f"matmul: operands must have at least one axis. Got {a.array.shape} and {b.array.shape}.")
    if a.dtype is not b.dtype:
        raise DTypeError(expected("matmul", "other", f"dtype {a.dtype.name}, as input has", b.dtype.name))
    is_floating("matmul", "input", a)
    row, column = a.array.ndim == 1, b.array.ndim == 1
    if row:
        a = movement.reshape(a, (1, -1)) if a.array.size else movement.reshape(a, (1, 0))
    if column:
        b = movement.reshape(b, (b.array.size, 1))
    if a.array.shape[-1] != b.array.shape[-2]:
        want = f"{a.array.shape[-1]} as its {'first' if b.array.ndim == 2 else 'second-last'} extent"
        raise ShapeError(expected("matmul", "other", want, f"shape {other.array.shape}"))
    out = _batched(a, b)
    if row or column:
        keep = out.array.shape[:-2] + (() if row else out.array.shape[-2:-1]) + (() if column else out.array.shape[-1:])
        out = movement.reshape(out, keep)
    return out


def _batched(a: Tensor, b: Tensor) -> Tensor:
    """The product of tensors of two axes and more."""
    batch = broadcast_shape("matmul", [a.array.shape[:-2], b.array.shape[:-2]])
    m, n = a.array.shape[-2], b.array.shape[-1]
    if b.array.ndim == 2 and a.array.ndim > 2:
        flat = movement.reshape(a, (product(a.array.shape[:-1]), a.array.shape[-1]))
        return movement.reshape(_chosen(flat, b), (*batch, m, n))
    if a.array.ndim == 2 and b.array.ndim == 2:
        return _chosen(a, b)
    return movement.reshape(_chosen(_as_batch(a, batch), _as_batch(b, batch)), (*batch, m, n))


def _as_batch(x: Tensor, batch: tuple[int, ...]) -> Tensor:
    """The tensor with one batch axis, of extent 1 where it is one matrix for all."""
    own = x.array.shape[:-2]
    if product(own) == 1:
        return movement.reshape(x, (1, *x.array.shape[-2:]))
    if own != batch:
        x = sums.expand(x, (*batch, *x.array.shape[-2:]))
    return movement.reshape(x, (product(batch), *x.array.shape[-2:]))


def _chosen(a: Tensor, b: Tensor) -> Tensor:
    """The product by the form that needs no copy of a transposed operand."""
    if not b.contiguous_array and a.contiguous_array and b.array.swapaxes(-1, -2).flags.c_contiguous:
        return product_of(a, movement.transpose(b, -2, -1), "nt")
    if not a.contiguous_array and b.contiguous_array and a.array.swapaxes(-1, -2).flags.c_contiguous:
        return product_of(movement.transpose(a, -2, -1), b, "tn")
    return product_of(a, b, "nn")


class Linear(Node):
    """gx = gy W, gW = gyᵀ x, gb = Σ gy."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        x, weight = self.unpack()
        nx, nw, nb = self.inputs
        return linear_backward(gy, x, weight, nx is not None, nw is not None, nb is not None, (nw, nb))


class LinearBackward(MultiNode):
    """The derivatives of the three products, through their composite."""

    __slots__ = ()

    def backward_all(self, *gradients: Tensor | None) -> Gradients:
        def composite(gy: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
            gx = product_of(gy, weight, "nn") if wanted[0] else gy
            gweight = product_of(gy, x, "tn") if wanted[1] else gy
            return gx, gweight, sums.column_sum(gy)

        wanted = self.constants[1]
        return through_composite(composite, self.unpack(), gradients)


@operation(LinearBackward)
def linear_backward(
    gy: Tensor,
    x: Tensor,
    weight: Tensor,
    for_x: bool,
    for_weight: bool,
    for_bias: bool,
    homes: tuple[Node | None, Node | None] = (None, None),
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return the gradients of ``linear`` that are wanted, None for the others, all in one launch.

    Parameters
    ----------
    gy : Tensor, shape (M, out_features)
    x : Tensor, shape (M, in_features)
        Not looked at unless the weight's gradient is wanted.
    weight : Tensor, shape (out_features, in_features)
        Not looked at unless the input's gradient is wanted.
    for_x, for_weight, for_bias : bool
    homes : pair of Node or None
        Where the gradients of weight and bias go (``gradient_buffer``).
    """
    g = gy.array if gy.contiguous_array else plain(gy)
    device, dtype = gy.device, gy.dtype
    m, n = g.shape
    none, no_bias = NO_MATRIX[dtype.name], NO_BIAS[dtype.name]
    inputs = weights = none
    gx = gweight = gbias = None
    if for_x:
        weights = weight.array if weight.contiguous_array else plain(weight)
        gx = Tensor(device.empty((m, weights.shape[1]), dtype), dtype, device)
    if for_weight:
        inputs = x.array if x.contiguous_array else plain(x)
        gweight = gradient_buffer(homes[0], (n, inputs.shape[1]), dtype, device)
    if for_bias:
        gbias = gradient_buffer(homes[1], (n,), dtype, device)
    gradients = (gx, gweight, gbias)
    if m and n:
        launch(
            device.kernels.linear_backward, g, inputs, weights,
            none if gx is None else gx.array,
            none if gweight is None else gweight.array,
            no_bias if gbias is None else gbias.array,
        )  # fmt: skip
    else:
        _clear(*gradients)
    if mode.grad:
        nodes = nodes_of(LinearBackward, gy, x, weight)
        if nodes is not None:
            LinearBackward(nodes, (gy, x, weight), (3, (for_x, for_weight))).attach(gradients)
    return gradients


def _clear(*tensors: Tensor | None) -> None:
    for t in tensors:
        if t is not None:
            launch(t.device.kernels.fill, 0, t.array)


@operation(Linear)
def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return input weightᵀ + bias.

    Parameters
    ----------
    input : Tensor, shape (…, in_features)
    weight : Tensor, shape (out_features, in_features)
    bias : Tensor, shape (out_features,), optional

    Returns
    -------
    Tensor, shape (…, out_features)

    Raises
    ------
    ShapeError, DTypeError, DeviceError
    """
    x = input
    if not (isinstance(x, Tensor) and isinstance(weight, Tensor) and (bias is None or isinstance(bias, Tensor))):
        _explain_linear(x, weight, bias)  # type: ignore[unreachable]  # a caller may pass anything
    array, weights, dtype, device = x.array, weight.array, x.dtype, x.device
    shape, wshape = array.shape, weights.shape
    if not (
        len(wshape) == 2
        and shape
        and shape[-1] == wshape[1]
        and dtype.is_floating_point
        and dtype is weight.dtype
        and device is weight.device
        and (bias is None or (bias.array.shape == wshape[:1] and bias.dtype is dtype and bias.device is device))
    ):
        _explain_linear(x, weight, bias)
    if len(shape) != 2:
        flat = movement.reshape(x, (product(shape[:-1]), shape[-1]))
        return movement.reshape(linear(flat, weight, bias), (*shape[:-1], wshape[0]))
    out = device.empty((shape[0], wshape[0]), dtype)
    launch(
        device.kernels.linear,
        array if x.contiguous_array else plain(x),
        weights if weight.contiguous_array else plain(weight),
        NO_BIAS[dtype.name] if bias is None else plain(bias),
        out,
    )
    y = Tensor(out, dtype, device)
    if mode.grad:
        nodes = nodes_of(Linear, x, weight, NOTHING if bias is None else bias)
        if nodes is not None:
            y.node = Linear(nodes, (NOTHING if nodes[1] is None else x, NOTHING if nodes[0] is None else weight))
    return y


def _explain_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Raise for what does not fit."""
    is_floating("linear", "input", x)
    is_tensor("linear", "weight", weight)
    shape: tuple[int, ...] = x.array.shape
    wshape = weight.array.shape
    if not shape:
        raise ShapeError(expected("linear", "input", "shape (…, in_features)", shape))
    if len(wshape) != 2 or wshape[1] != shape[-1]:
        raise ShapeError(expected("linear", "weight", f"shape (out_features, in_features = {shape[-1]})", wshape))
    _check_like("weight", weight, x)
    if bias is not None:
        is_tensor("linear", "bias", bias)
        if bias.array.shape != wshape[:1]:
            raise ShapeError(expected("linear", "bias", f"shape (out_features,) = {wshape[:1]}", bias.array.shape))
        _check_like("bias", bias, x)


def _check_like(name: str, t: Tensor, x: Tensor) -> None:
    if t.dtype is not x.dtype:
        raise DTypeError(expected("linear", name, f"dtype {x.dtype.name}, as input has", t.dtype.name))
    if t.device is not x.device:
        same_device("linear", x, name, t)


def mm(input: Tensor, mat2: Tensor) -> Tensor:
    """Return the product of two matrices, shapes (M, K) and (K, N); nothing broadcasts."""
    return _of_axes("mm", input, mat2, 2)


def bmm(input: Tensor, mat2: Tensor) -> Tensor:
    """Return the products of two batches of matrices, shapes (B, M, K) and (B, K, N); nothing broadcasts."""
    out = _of_axes("bmm", input, mat2, 3)
    batch = input.array.shape[0]
    if mat2.array.shape[0] != batch:
        raise ShapeError(expected("bmm", "mat2", f"a batch of {batch}, as input has", mat2.array.shape[0]))
    return out


def _of_axes(op: str, a: Tensor, b: Tensor, ndim: int) -> Tensor:
    for name, t in (("input", a), ("mat2", b)):
        if is_tensor(op, name, t).array.ndim != ndim:
            raise ShapeError(expected(op, name, f"{ndim} axes", f"shape {t.array.shape}"))
    return matmul(a, b)
