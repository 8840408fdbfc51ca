"""Convolutions in groups of few channels, depthwise ones above all: direct sums, and when they pay; see
``kernels/cpu/depthwise_rows.py`` for the usual ones on the CPU and ``kernels/cpu/depthwise.py`` for all others, and
``kernels/cuda/depthwise.py`` for all on a GPU, which needs no workspace but for parts of sums."""

from __future__ import annotations

from math import lcm

from tinygrad_bn.core.device import Device
from tinygrad_bn.core.dtype import DType, int64
from tinygrad_bn.core.launch import launch, pool
from tinygrad_bn.core.memory import POOLED
from tinygrad_bn.core.tensor import Array
from tinygrad_bn.kernels import depthwise as sizes
from tinygrad_bn.kernels.depthwise import LANES, span
from tinygrad_bn.ops._geometry import Geometry

MOST = 4  # channels of a group, in and out, up to which sums by the channel beat products of matrices
PARTS = 16  # of the work on the gradient of the weights, from which the pool is used well
LARGE = 1 << 25  # bytes: more than the caches hold
LINE, WIDE = 64, 1 << 14  # bytes of a line of the caches; elements of the largest plane that is put together
BLOCKS, WINDOWS = 1024, 4096  # on a GPU: blocks that keep it busy, windows of a part of a sum at least
TOGETHER = 16  # channels of a sample that follow each other in one task: long runs of memory, sums in the first cache


def pays(inputs: int, outputs: int, g: Geometry, device: Device) -> bool:
    """Whether a convolution of this geometry is computed directly, group by group; the same seen from either side."""
    few = g.groups in (inputs, outputs) or max(inputs, outputs) <= MOST * g.groups
    return few and g.groups > 1 and device.type in ("cpu", "cuda")


def by_rows(w: Array, g: Geometry, device: Device) -> bool:
    """Whether rows in the lanes do (``kernels/cpu/depthwise_rows.py``), which need no transposition."""
    few = g.kernel == (3, 3) and g.stride in ((1, 1), (2, 2)) and g.dilation == (1, 1)
    return few and w.shape[1] == 1 and device.type == "cpu"


def _stage(out: Array, touched: int, dtype: DType, device: Device) -> Array:
    """Where each thread puts a plane together that is then written past the caches: in passes that touch more bytes
    than those hold.

    Planes are whole lines of them, or every plane would have the lines at its ends written twice, and slowly.
    """
    length = out.shape[2] * out.shape[3]
    wanted = touched + out.nbytes > LARGE and length <= WIDE and length * dtype.itemsize % LINE == 0
    return device.empty((max(1, pool.threads), length if wanted else 0), dtype)


def both(inputs: int, outputs: int, w: Array, g: Geometry, device: Device) -> bool:
    """Whether the gradients of input and weights are computed together."""
    return inputs == outputs and by_rows(w, g, device)


def _columns(g: Geometry) -> int:
    """Of the strips of the input."""
    return max(g.before[1] + g.input[1], span(g.output[1], g.kernel[1], g.dilation[1], g.stride[1]))


def _band(g: Geometry, depth: int) -> tuple[int, int]:
    """How many rows of outputs are computed at once, and how many of the input they need."""
    last, wide = span(1, g.kernel[0], g.dilation[0], g.stride[0]), _columns(g)
    fixed, each = depth * (last - g.stride[0]) * wide, depth * g.stride[0] * wide + g.output[1]
    band = sizes.band_of(g.output[0], fixed, each)
    return band, span(band, g.kernel[0], g.dilation[0], g.stride[0])


def _room(pixels: int, numbers: int, dtype: DType, device: Device) -> tuple[Array, Array]:
    """A table, and workspace for each thread: what one computes changes no bit of another's results."""
    table, shares = device.empty((numbers,), int64), max(1, pool.threads)
    return table, _pages(shares * (pixels + LANES) * LANES, dtype, device).reshape(shares, -1)


def _pages(size: int, dtype: DType, device: Device) -> Array:
    """So many elements of memory that is aligned, as large buffers are: registers should not lie across cache lines."""
    return device.empty((max(size, POOLED // dtype.itemsize),), dtype)[:size]


def _nothing(dtype: DType, device: Device) -> tuple[Array, Array]:
    """Table and workspace of a GPU's kernels."""
    return device.empty((0,), int64), device.empty((0,), dtype)


def forward(x: Array, w: Array, bias: Array, out: Array, g: Geometry, dtype: DType, device: Device) -> None:
    """out = w ⋆ x + bias."""
    if device.type != "cpu":
        launch(device.kernels.depthwise, x, w, bias, *g.steps, 1, *_nothing(dtype, device), out)
        return
    if by_rows(w, g, device):
        steps = (g.stride[0], *g.before, TOGETHER)
        launch(device.kernels.depthwise_rows, x, w, bias, *steps, _stage(out, x.nbytes, dtype, device), out)
        return
    each, taps = w.shape[0] // g.groups, w[0].size
    band, held = _band(g, w.shape[1])
    pixels = w.shape[1] * held * _columns(g) + each * (taps + 1) + band * g.output[1]
    table, work = _room(pixels, held * g.input[1] + 4 * taps, dtype, device)
    launch(device.kernels.depthwise, x, w, bias, *g.steps, band, table, work, out)


def backward_input(gy: Array, w: Array, out: Array, g: Geometry, dtype: DType, device: Device) -> None:
    """out = the transposed convolution of gy."""
    if device.type != "cpu":
        launch(device.kernels.depthwise_input, gy, w, *g.steps, 1, *_nothing(dtype, device), out)
        return
    (height, width), (kh, kw), (sh, sw), (dh, dw), (top, left) = g.input, g.kernel, g.stride, g.dilation, g.before
    each, columns = w.shape[0] // g.groups, g.output[1]
    more = sizes.before(kh, dh, sh, top) + sizes.after(sh, top)
    wide = sizes.before(kw, dw, sw, left) + max(columns, -(-width // sw) + sizes.after(sw, left))
    band = sizes.band_of(-(-height // sh), each * more * wide, each * wide + sh * width)
    pixels = each * (band + more) * wide + each * w[0].size + 1 + band * sh * width
    numbers = (band + more) * columns + 4 * each * g.taps + sh * sw + 1
    table, work = _room(pixels, numbers, dtype, device)
    launch(device.kernels.depthwise_input, gy, w, *g.steps, band, table, work, out)


def backward_weight(gy: Array, x: Array, out: Array, g: Geometry, dtype: DType, device: Device) -> None:
    """out = the gradient of w in w ⋆ x."""
    if device.type != "cpu":
        sums = out.size * -(-g.taps // 9)
        parts = max(1, min(-(-BLOCKS * g.taps // sums), x.shape[0] * g.length // WINDOWS))
        table, work = _nothing(dtype, device)
        partial = device.empty((parts if parts > 1 else 0, out.size), dtype)
        launch(device.kernels.depthwise_weight, gy, x, *g.steps, 1, parts, table, partial, work, out)
        return
    taps = out[0].size
    band, held = _band(g, out.shape[1])
    pixels = out.shape[1] * held * _columns(g) + band * g.output[1]
    table, work = _room(pixels, held * g.input[1] + band * g.output[1] + 4 * taps, dtype, device)
    blocks = lcm(g.groups, LANES) // LANES
    parts = max(1, min(PARTS // blocks, x.shape[0] * g.groups // (LANES * blocks)))
    partial = _pages(parts * blocks * LANES * (out.size // g.groups), dtype, device)
    launch(device.kernels.depthwise_weight, gy, x, *g.steps, band, parts, table, partial, work, out)


def backward(gy: Array, x: Array, w: Array, gx: Array, gw: Array, g: Geometry, dtype: DType, device: Device) -> None:
    """Both gradients, where ``both`` says so."""
    parts = max(1, min(PARTS // -(-g.groups // TOGETHER), x.shape[0]))
    partial = _pages(parts * gw.size * LANES, dtype, device)
    steps = (g.stride[0], *g.before, TOGETHER)
    work = _stage(gx, gy.nbytes + x.nbytes, dtype, device)
    launch(device.kernels.depthwise_rows_back, gy, x, w, *steps, parts, partial, work, gx, gw)
