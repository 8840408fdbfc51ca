"""Convolution as three operations, of which each one's derivatives are the other two.

    convolution          y  = w ⋆ x      (correlation: the filters are not flipped)
    convolution_input    gx = ∂⟨gy, w ⋆ x⟩ / ∂x, which is also the transposed convolution
    convolution_weight   gw = ∂⟨gy, w ⋆ x⟩ / ∂w

Which algorithm each goes by is decided in ``_algorithm``. Here is the one that every device has: products of matrices
and one of im2col and its adjoint (``kernels/cpu/convolution.py``), over chunks of samples so that the columns, KH KW
times the input, are never all there. Derivatives of any order follow.
"""

from __future__ import annotations

from collections.abc import Iterator

from tinygrad_bn.core.device import Device
from tinygrad_bn.core.dtype import DType
from tinygrad_bn.core.launch import launch
from tinygrad_bn.core.registry import operation
from tinygrad_bn.core.tape import Gradients, Node, record
from tinygrad_bn.core.tensor import Array, Tensor
from tinygrad_bn.ops import _depthwise, _direct, _direct_weight, _winograd, _winograd_pieces, sums
from tinygrad_bn.ops._algorithm import algorithm
from tinygrad_bn.ops._common import plain
from tinygrad_bn.ops._geometry import Geometry
from tinygrad_bn.ops._operands import NOTHING
from tinygrad_bn.ops.matmul import NO_BIAS
from tinygrad_bn.ops.movement import contiguous

COLUMNS = 1 << 20  # elements of the columns of one chunk, unless one sample has more
GPU_COLUMNS = 1 << 26  # the same on a GPU, whose launches cost more and whose caches are larger
LONG = 64  # windows from which one product a sample is as good as one a chunk


class Convolution(Node):
    """gx = convolution_input(gy, w), gw = convolution_weight(gy, x), gb = Σ gy."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        x, weight = self.unpack()
        (geometry,) = self.constants
        nodes = self.inputs
        gy = contiguous(gy)
        if nodes[0] is not None and nodes[1] is not None and _shared(gy, x, weight, geometry):
            both = _both_gradients(gy, x, weight, geometry)
            return both if len(nodes) == 2 else (*both, _bias_gradient(nodes[2], gy))
        gx = None if nodes[0] is None else convolution_input(gy, weight, None, geometry)
        gweight = None if nodes[1] is None else convolution_weight(gy, x, geometry)
        return (gx, gweight) if len(nodes) == 2 else (gx, gweight, _bias_gradient(nodes[2], gy))


class ConvolutionInput(Node):
    """With h the gradient of gx: that of gy is convolution(h, w), that of w convolution_weight(gy, h)."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        y, weight = self.unpack()
        (geometry,) = self.constants
        nodes = self.inputs
        h = contiguous(gy)
        ggy = None if nodes[0] is None else convolution(h, weight, None, geometry)
        gweight = None if nodes[1] is None else convolution_weight(y, h, geometry)
        return (ggy, gweight) if len(nodes) == 2 else (ggy, gweight, _bias_gradient(nodes[2], h))


class ConvolutionWeight(Node):
    """With h the gradient of gw: that of gy is convolution(x, h), that of x convolution_input(gy, h)."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        y, x = self.unpack()
        (geometry,) = self.constants
        h = contiguous(gy)
        ggy = None if self.inputs[0] is None else convolution(x, h, None, geometry)
        gx = None if self.inputs[1] is None else convolution_input(y, h, None, geometry)
        return ggy, gx


def _bias_gradient(node: Node | None, gy: Tensor) -> Tensor | None:
    return None if node is None else sums.sum(gy, (0, 2, 3))


def _record(
    kind: type[Node], out: Array, first: Tensor, second: Tensor, bias: Tensor | None, geometry: Geometry
) -> Tensor:
    """Put one of the three on the tape, saving of its two factors what the wanted gradients need."""
    saved = (NOTHING if second.node is None else first, NOTHING if first.node is None else second)
    inputs = (first, second) if bias is None else (first, second, bias)
    return record(kind, Tensor(out, first.dtype, first.device), inputs, saved, (geometry,))


@operation(Convolution)
def convolution(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """Return y = w ⋆ x + b, of arguments that fit.

    Parameters
    ----------
    x : Tensor, shape (N, C, H, W)
    weight : Tensor, shape (O, C / groups, KH, KW)
    bias : Tensor, shape (O,), optional
    geometry : Geometry

    Returns
    -------
    Tensor, shape (N, O, OH, OW)
    """
    shift = NO_BIAS[x.dtype.name] if bias is None else plain(bias)
    out = x.device.empty((x.array.shape[0], weight.array.shape[0], *geometry.output), x.dtype)
    _forward(plain(x), plain(weight), shift, out, geometry, x.dtype, x.device)
    return _record(Convolution, out, x, weight, bias, geometry)


@operation(ConvolutionInput)
def convolution_input(gy: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """Return the gradient of ``convolution`` with respect to its input: the transposed convolution of gy.

    Parameters
    ----------
    gy : Tensor, shape (N, O, OH, OW)
    weight : Tensor, shape (O, C / groups, KH, KW)
    bias : Tensor, shape (C,), optional
        Added to the result.
    geometry : Geometry

    Returns
    -------
    Tensor, shape (N, C, H, W)
    """
    shift = NO_BIAS[gy.dtype.name] if bias is None else plain(bias)
    shape = (gy.array.shape[0], weight.array.shape[1] * geometry.groups, *geometry.input)
    out = gy.device.empty(shape, gy.dtype)
    _backward_input(plain(gy), plain(weight), shift, out, geometry, gy.dtype, gy.device)
    return _record(ConvolutionInput, out, gy, weight, bias, geometry)


@operation(ConvolutionWeight)
def convolution_weight(gy: Tensor, x: Tensor, geometry: Geometry) -> Tensor:
    """Return the gradient of ``convolution`` with respect to its weight.

    Parameters
    ----------
    gy : Tensor, shape (N, O, OH, OW)
    x : Tensor, shape (N, C, H, W)
    geometry : Geometry

    Returns
    -------
    Tensor, shape (O, C / groups, KH, KW)
    """
    shape = (gy.array.shape[1], x.array.shape[1] // geometry.groups, *geometry.kernel)
    out = x.device.empty(shape, x.dtype)
    _backward_weight(plain(gy), plain(x), out, geometry, x.dtype, x.device)
    return _record(ConvolutionWeight, out, gy, x, None, geometry)


def _shared(gy: Tensor, x: Tensor, weight: Tensor, g: Geometry) -> bool:
    """Whether one pass over gy computes the gradients of x and weight."""
    inputs, outputs = x.array.shape[1], gy.array.shape[1]
    if not (_depthwise.both(inputs, outputs, weight.array, g, gy.device) and gy.array.size and x.array.size):
        return False
    return algorithm(inputs, outputs, g, gy.dtype, gy.device) == "depthwise"


def _both_gradients(gy: Tensor, x: Tensor, weight: Tensor, g: Geometry) -> tuple[Tensor, Tensor]:
    """What ``convolution_input`` and ``convolution_weight`` return, and record, in one pass."""
    gx, gw = gy.device.empty(x.array.shape, gy.dtype), gy.device.empty(weight.array.shape, gy.dtype)
    _depthwise.backward(plain(gy), plain(x), plain(weight), gx, gw, g, gy.dtype, gy.device)
    return _record(ConvolutionInput, gx, gy, weight, None, g), _record(ConvolutionWeight, gw, gy, x, None, g)


# --------------------------------------------------------------------------------------------- the three, on arrays


def _chunks(samples: int, depth: int, g: Geometry, dtype: DType, device: Device) -> Iterator[tuple[int, int, Array]]:
    """Cut the batch: the first sample, how many, and room for their columns, (depth, samples · windows) flat."""
    each = depth * g.length
    step = min(samples, max(1, (GPU_COLUMNS if device.type == "cuda" else COLUMNS) // each))
    room = device.empty((step * each,), dtype)
    for first in range(0, samples, step):
        count = min(step, samples - first)
        yield first, count, room[: count * each]


def _forward(x: Array, w: Array, bias: Array, out: Array, g: Geometry, dtype: DType, device: Device) -> None:
    if not (x.size and w.size and out.size):
        launch(device.kernels.fill, 0, out)
        _add_bias(bias, out, device)
        return
    match algorithm(x.shape[1], out.shape[1], g, dtype, device):
        case "winograd":
            _winograd.forward(x, w, bias, out, g, device)
        case "pieces":
            _winograd_pieces.forward(x, w, bias, out, g, device)
        case "depthwise":
            _depthwise.forward(x, w, bias, out, g, dtype, device)
        case "direct":
            _direct.forward(x, w, bias, out, g, dtype, device)
        case _:
            _forward_columns(x, w, bias, out, g, dtype, device)


def _add_bias(bias: Array, out: Array, device: Device) -> None:
    if bias.size and out.size:
        launch(device.kernels.add_bias, bias, out.reshape(*out.shape[:2], -1))


def _forward_columns(x: Array, w: Array, bias: Array, out: Array, g: Geometry, dtype: DType, device: Device) -> None:
    (n, c), o = x.shape[:2], w.shape[0]
    if not (g.pointwise and g.groups == 1 and g.length >= LONG):
        _forward_chunks(x, w, bias, out, g, dtype, device)
        return
    windows = x.reshape(n, c, g.length), out.reshape(n, o, g.length)
    launch(device.kernels.matmul_nn, w.reshape(1, o, c), *windows)
    _add_bias(bias, out, device)


def _forward_chunks(x: Array, w: Array, bias: Array, out: Array, g: Geometry, dtype: DType, device: Device) -> None:
    (n, c), o, k = x.shape[:2], w.shape[0], device.kernels
    depth = c * g.taps
    filters = w.reshape(g.groups, o // g.groups, depth // g.groups)
    product = None
    for first, count, room in _chunks(n, depth, g, dtype, device):
        width = count * g.length
        launch(k.im2col, x[first : first + count], *g.steps, room.reshape(c, *g.kernel, count, *g.output))
        columns = room.reshape(g.groups, depth // g.groups, width)
        part = out[first : first + count].reshape(count, o, g.length)
        if count == 1:
            launch(k.matmul_nn, filters, columns, part.reshape(g.groups, o // g.groups, width))
            if bias.size:
                launch(k.add_bias, bias, part)
            continue
        product = device.empty((o * width,), dtype) if product is None else product[: o * width]
        launch(k.matmul_nn, filters, columns, product.reshape(g.groups, o // g.groups, width))
        launch(k.exchange, product.reshape(o, count, g.length), bias, part)


def _backward_input(gy: Array, w: Array, bias: Array, out: Array, g: Geometry, dtype: DType, device: Device) -> None:
    how = algorithm(gy.shape[1], out.shape[1], g, dtype, device)
    if not (gy.size and w.size and out.size):
        launch(device.kernels.fill, 0, out)
    elif how == "direct":
        _direct.backward_input(gy, w, bias, out, g, dtype, device)
        return
    elif how == "winograd":
        _winograd.backward_input(gy, w, out, g, device)
    elif how == "pieces":
        _winograd_pieces.backward_input(gy, w, out, g, device)
    elif how == "depthwise":
        _depthwise.backward_input(gy, w, out, g, dtype, device)
    else:
        _backward_input_columns(gy, w, out, g, dtype, device)
    _add_bias(bias, out, device)


def _backward_input_columns(gy: Array, w: Array, out: Array, g: Geometry, dtype: DType, device: Device) -> None:
    (n, o), c, k = gy.shape[:2], out.shape[1], device.kernels
    if g.pointwise and g.groups == 1 and g.length >= LONG:
        launch(k.matmul_tn, w.reshape(1, o, c), gy.reshape(n, o, g.length), out.reshape(n, c, g.length))
        return
    depth = c * g.taps
    filters = w.reshape(g.groups, o // g.groups, depth // g.groups)
    for first, count, room in _chunks(n, depth, g, dtype, device):
        width = count * g.length
        rows = _channels_first(gy[first : first + count], g, dtype, device)
        launch(k.matmul_tn, filters, rows, room.reshape(g.groups, depth // g.groups, width))
        columns = room.reshape(c, *g.kernel, count, *g.output)
        launch(k.col2im, columns, *g.steps, out[first : first + count])


def _backward_weight(gy: Array, x: Array, out: Array, g: Geometry, dtype: DType, device: Device) -> None:
    if not (gy.size and x.size):
        launch(device.kernels.fill, 0, out)
        return
    match algorithm(x.shape[1], gy.shape[1], g, dtype, device, of_filters=True):
        case "winograd":
            _winograd.backward_weight(gy, x, out, g, device)
        case "pieces":
            _winograd_pieces.backward_weight(gy, x, out, g, device)
        case "depthwise":
            _depthwise.backward_weight(gy, x, out, g, dtype, device)
        case "direct":
            _direct_weight.backward_weight(gy, x, out, g, dtype, device)
        case _:
            _backward_weight_columns(gy, x, out, g, dtype, device)


def _backward_weight_columns(gy: Array, x: Array, out: Array, g: Geometry, dtype: DType, device: Device) -> None:
    (n, c), o, k = x.shape[:2], gy.shape[1], device.kernels
    depth = c * g.taps
    total = out.reshape(g.groups, o // g.groups, depth // g.groups)
    term = total
    for first, count, room in _chunks(n, depth, g, dtype, device):
        width = count * g.length
        rows = _channels_first(gy[first : first + count], g, dtype, device)
        launch(k.im2col, x[first : first + count], *g.steps, room.reshape(c, *g.kernel, count, *g.output))
        launch(k.matmul_nt, rows, room.reshape(g.groups, depth // g.groups, width), term)
        if term is not total:
            launch(k.accumulate, term.reshape(-1), total.reshape(-1))
        elif first + count < n:
            term = device.empty(total.shape, dtype)


def _channels_first(gy: Array, g: Geometry, dtype: DType, device: Device) -> Array:
    """Samples (N, O, OH, OW) as (groups, O / groups, N · OH · OW)."""
    n, o = gy.shape[:2]
    shape = (g.groups, o // g.groups, n * g.length)
    if n == 1:
        return gy.reshape(shape)
    out = device.empty(shape, dtype)
    none = NO_BIAS[dtype.name]
    launch(device.kernels.exchange, gy.reshape(n, o, g.length), none, out.reshape(o, n, g.length))
    return out
