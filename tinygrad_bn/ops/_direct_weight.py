"""The gradient of a convolution's filters as a direct sum: how it is cut on the CPU, see
``kernels/cpu/direct_weight.py``, and on a GPU, see ``kernels/cuda/direct_weight.py``."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from tinygrad_bn.core.device import Device
from tinygrad_bn.core.dtype import DType, int64
from tinygrad_bn.core.launch import launch, pool
from tinygrad_bn.core.tensor import Array
from tinygrad_bn.kernels import direct_weight as sizes
from tinygrad_bn.ops._geometry import Geometry

PIXELS, MANY_PIXELS = 256, 1024  # of a block, registers along the outputs and along the pixels
MANY, IN_PLACE = 64, 256  # channels in and out from which 1×1 filters have a kernel of their own; pixels of its blocks
FEW, LONG = 16, 1000  # outputs, and taps of a group, that count as few; pixels that count as many
STRIP = 1 << 17  # elements of a strip, which shares the second-level cache with a block
WIDE, NARROW = 256, 64  # taps of a range, at most and at least: so many products pay for laying out a block once more
SUMS = 1 << 16  # products of a range with all outputs, which share the cache too: then a range may be wider
TASKS = 8  # parts times ranges, where there is enough to share
BLOCKS, WINDOWS, SIDE = 512, 1024, 128  # on a GPU: blocks that keep it busy, windows of a part at least, a block's side
SHARE, SMALL = 8, 1 << 17  # what the parts may take, each as large as the filters: of x and gy; elements at any rate


class Plan(NamedTuple):
    """How the sum is cut: blocks of ``samples`` × ``rows`` × ``columns`` pixels, ``parts`` of neighbouring blocks,
    ``ranges`` of ``channels``; and the elements of workspace of a share."""

    samples: int
    rows: int
    columns: int
    channels: int
    work: int
    parts: int
    ranges: int


def along_pixels(depth: int, outputs: int, g: Geometry) -> bool:
    """Whether registers lie along the pixels, for groups of ``depth`` channels and so many outputs.

    Along outputs they would stay half empty where there are few; and where there are few taps, or x is read in place,
    transposing the gradients costs more than summing lanes.
    """
    if outputs <= FEW:
        return g.length >= 16 * outputs
    return g.length >= LONG and (g.pointwise or depth * g.taps <= 2 * FEW)


def _even(extent: int, most: int) -> int:
    """The size of equal pieces of an extent, none larger than ``most``."""
    return -(-extent // -(-extent // most))


def _shared_evenly(count: int, most: int = 1 << 30) -> int:
    """At least ``count`` where ``most`` allows it: 1, 2, or a multiple of 4, for two threads and for four."""
    if most < 4 or count < 3:
        return max(1, min(count, most))
    return min(-(-count // 4), most // 4) * 4


@lru_cache(maxsize=4096)
def plan(batch: int, depth: int, outputs: int, g: Geometry, pixels: bool) -> Plan:
    """Cut the sum of a batch, with ``depth`` channels in a group; the number of threads has no say."""
    most = MANY_PIXELS if pixels else PIXELS
    columns = _even(g.output[1], most)
    rows = _even(g.output[0], max(1, most // columns))
    whole = (rows, columns) == g.output
    samples = _even(batch, max(1, most // g.length)) if whole else 1
    lines = sizes.strip_rows(rows, g.kernel[0], g.stride[0], g.dilation[0])
    if pixels:
        phases = g.stride[0] // sizes.row_step(g.kernel[0], g.stride[0], g.dilation[0])
        each = g.kernel[1] * sizes.channel_step(samples, -(-lines // phases) * phases, columns)
    else:
        each = sizes.channel_step(samples, lines, sizes.reach(columns, g.kernel[1], g.stride[1], g.dilation[1]))
    most = max(1, min(max(WIDE, SUMS // outputs) // g.taps, STRIP // each))
    blocks = -(-batch // samples) * -(-g.output[0] // rows) * -(-g.output[1] // columns)
    operands = batch * (depth * g.input[0] * g.input[1] + outputs * g.length)
    parts = max(1, min(blocks, max(operands // SHARE, SMALL) // (depth * g.taps * outputs)))
    wanted = min(-(-TASKS // (g.groups * parts)), depth * g.taps // NARROW)
    channels = -(-depth // _shared_evenly(max(-(-depth // most), wanted)))
    ranges = -(-depth // channels)
    parts = _shared_evenly(-(-TASKS // (g.groups * ranges)), parts)
    work = sizes.TOTALS if pixels else sizes.block_work(samples * rows * columns)
    return Plan(samples, rows, columns, channels, channels * each + work, parts, ranges)


def workspace(cut: Plan, shares: int, outputs: int, g: Geometry, dtype: DType, device: Device) -> tuple[Array, ...]:
    """The kernels' ``places``, ``work`` and ``parts``, for groups of so many outputs."""
    taps = cut.channels * g.taps
    held, pitch = (-(-n // unit) * unit for n, unit in ((taps, sizes.LEAST), (outputs, sizes.LANES)))
    return (
        device.empty((shares, sizes.places(taps)), int64),
        device.empty((shares, cut.work), dtype),
        device.empty((cut.parts, g.groups, cut.ranges, held, pitch), dtype),
    )


@lru_cache(maxsize=4096)
def pointwise_plan(batch: int, depth: int, outputs: int, g: Geometry) -> tuple[bool, tuple[int, ...], int]:
    """Of 1×1 filters: whether registers lie along x; samples, rows and columns of a block, registers of a range;
    parts."""
    turned = g.stride == (1, 1) and depth <= outputs
    columns = _even(g.output[1], IN_PLACE)
    rows = _even(g.output[0], max(1, IN_PLACE // columns))
    whole = (rows, columns) == g.output
    samples = _even(batch, max(1, IN_PLACE // g.length)) if whole else 1
    blocks = -(-batch // samples) * -(-g.output[0] // rows) * -(-g.output[1] // columns)
    operands = batch * (depth * g.input[0] * g.input[1] + outputs * g.length)
    parts = max(1, min(blocks, max(operands // SHARE, SMALL) // (depth * outputs)))
    registers = -(-(depth if turned else outputs) // sizes.LANES)
    ranges = min(-(-TASKS // (g.groups * parts)), registers)
    parts = _shared_evenly(-(-TASKS // (g.groups * ranges)), parts)
    return turned, (samples, rows, columns, -(-registers // ranges)), parts


def _pointwise(gy: Array, x: Array, out: Array, g: Geometry, dtype: DType, device: Device) -> None:
    depth, outputs = out.shape[1], out.shape[0] // g.groups
    if g.pointwise:
        x, gy = (a.reshape(*a.shape[:2], 1, -1) for a in (x, gy))
        g = g._replace(input=(1, g.length), output=(1, g.length))
    turned, cut, parts = pointwise_plan(x.shape[0], depth, outputs, g)
    wide, long = (outputs, depth) if turned else (depth, outputs)
    held, pitch = (-(-n // unit) * unit for n, unit in ((wide, sizes.LEAST), (long, sizes.LANES)))
    shares = max(1, pool.threads)
    launch(
        device.kernels.pointwise_weight, x, gy, *g.stride, turned, *cut,
        device.empty((shares, sizes.places(wide)), int64),
        device.empty((shares, sizes.block_work(cut[0] * cut[1] * cut[2])), dtype),
        device.empty((parts, g.groups, held, pitch), dtype), out,
    )  # fmt: skip


def _on_gpu(gy: Array, x: Array, out: Array, g: Geometry, dtype: DType, device: Device) -> None:
    """Sum so many parts of the windows side by side that the GPU is busy."""
    depth, outputs = out.shape[1], out.shape[0] // g.groups
    windows = x.shape[0] * g.length
    tiles = g.groups * -(-outputs // SIDE) * -(-depth * g.taps // SIDE)
    parts = max(1, min(-(-BLOCKS // tiles), windows // WINDOWS))
    room = device.empty((parts if parts > 1 else 1, out.size if parts > 1 else 0), dtype)
    none = device.empty((0,), int64), device.empty((0,), dtype)
    launch(device.kernels.direct_weight, x, gy, *g.steps, x.shape[0], *g.output, depth, *none, room, out)


def backward_weight(gy: Array, x: Array, out: Array, g: Geometry, dtype: DType, device: Device) -> None:
    """out = the gradient of w in w ⋆ x."""
    depth, outputs = out.shape[1], out.shape[0] // g.groups
    if device.type != "cpu":
        _on_gpu(gy, x, out, g, dtype, device)
        return
    if g.taps == 1 and g.before == (0, 0) and min(depth, outputs) >= MANY:
        _pointwise(gy, x, out, g, dtype, device)
        return
    pixels = along_pixels(depth, outputs, g)
    cut = plan(x.shape[0], depth, outputs, g, pixels)
    # each part is summed by itself: how they are shared among threads changes no bit
    room = workspace(cut, max(1, pool.threads), outputs, g, dtype, device)
    kernel = device.kernels.direct_weight_pixels if pixels else device.kernels.direct_weight
    launch(kernel, x, gy, *g.steps, cut.samples, cut.rows, cut.columns, cut.channels, *room, out)
