"""3×3 convolutions of stride 1 in float32 on the CPU: Winograd's algorithm, and when it pays; see
``kernels/winograd.py``.

Against float64 the error of normal data is up to 4e-7 √C of the largest result, that of the direct sums about 4e-7.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from tinygrad_bn.core.device import Device
from tinygrad_bn.core.dtype import DType, float32, float64
from tinygrad_bn.core.launch import launch, pool
from tinygrad_bn.core.tensor import Array
from tinygrad_bn.kernels import winograd
from tinygrad_bn.ops._geometry import Geometry

NO_PARTS = np.empty((0, 0, 3))
Norm = tuple[Array, Array, Array, int]  # statistics, weight, bias and activation of a batch normalisation of the input
PLAIN: Norm = (np.empty((4, 0), np.float32), np.empty(0, np.float32), np.empty(0, np.float32), 0)  # not normalised
Grid = tuple[int, int, int, int]  # rows and columns of tiles of a picture, and of a unit of it
LEAST = 8  # channels in and out from which the transforms pay
HELD = 32  # outputs that are transformed back at once
SHARES = 4  # of the blocks whose moments are wanted, at least
PARTS = 8  # of the sums of the filters' gradient, at most, and
TOTAL = 1 << 19  # elements of all of them, as long as there are two
SMALL = 1 << 18  # elements of sums that are added up block by block
ROOM = 1 << 22  # elements of transformed tiles in memory at once
WIDE = 16  # tiles side by side in a unit of the filters' gradient, at most, and
UNIT = 32  # tiles in a unit
TILES = 64  # of a block
BLOCKS = (32, 48, 64, 80)  # tiles that are transformed at once


def fits(g: Geometry, dtype: DType, device: Device) -> bool:
    """Whether a convolution of this geometry can go by Winograd's algorithm."""
    return (
        dtype is float32
        and device.type == "cpu"
        and g.kernel == (3, 3)
        and g.stride == g.dilation == (1, 1)
        and g.groups == 1
    )


def pays(inputs: int, outputs: int, g: Geometry, dtype: DType, device: Device) -> bool:
    """Whether it is also the fastest way."""
    return fits(g, dtype, device) and min(inputs, outputs) >= LEAST and min(g.output) >= 4


def forward(x: Array, w: Array, bias: Array, out: Array, g: Geometry, device: Device) -> None:
    """out = w ⋆ x + bias."""
    convolve(x, w, False, bias, g.before, out, device)


def forward_with_moments(x: Array, norm: Norm, w: Array, out: Array, g: Geometry, device: Device) -> Array:
    """out = w ⋆ x, of x normalised; return count, mean and M2 of the results in parts, (O, P, 3)."""
    tiles = _tiles(x.shape[1], _count(out), SHARES)  # whatever the number of threads: the sums shall not depend on it
    parts = device.empty((out.shape[1], -(-_count(out) // tiles), 3), float64)
    convolve(x, w, False, w.reshape(-1)[:0], g.before, out, device, norm, tiles, parts)
    return parts


def backward_input(gy: Array, w: Array, out: Array, g: Geometry, device: Device) -> None:
    """out = the transposed convolution of gy: the filters turned, what was padded cut off."""
    before = (2 - g.before[0], 2 - g.before[1])
    convolve(gy, w, True, w.reshape(-1)[:0], before, out, device)


def convolve(
    x: Array, w: Array, turned: bool, bias: Array, before: tuple[int, int], out: Array, device: Device,
    norm: Norm = PLAIN, tiles: int = 0, parts: Array = NO_PARTS, blocks: tuple[int, int] = (1, 1),
) -> None:  # fmt: skip
    """out = w ⋆ x + bias, x padded by ``before``; of filters ``turned`` by 180°, outputs and inputs exchanged, or of
    blocks of 3×3, inputs of w."""
    inputs, outputs = x.shape[1] * blocks[0] * blocks[1], out.shape[1]
    u = device.empty((winograd.POINTS, winograd.filter_plane(outputs, inputs)), float32)
    launch(device.kernels.winograd_filters, w, turned, u)
    shares = max(1, pool.threads)  # each tile is computed by itself: how they are shared changes no bit
    tiles = tiles or _tiles(inputs, _count(out), shares)
    held = min(HELD, winograd.padded(outputs, winograd.HEIGHT))
    work = device.empty((shares, winograd.block_work(inputs, held, tiles)), float32)
    launch(device.kernels.winograd_convolution, x, *norm, u, bias, *before, *blocks, tiles, held, work, out, parts)


def _count(y: Array) -> int:
    """The number of tiles of results."""
    return int(y.shape[0]) * -(-int(y.shape[2]) // 4) * -(-int(y.shape[3]) // 4)


@lru_cache(maxsize=1024)
def _tiles(inputs: int, count: int, shares: int) -> int:
    """Tiles of a block: so that the largest share has least to do. Many would be better than few, since the filters are
    read once a block, but not where their inputs fill the second-level cache."""
    if count < 2 * winograd.LANES * shares:
        return winograd.LANES
    once = 2 if inputs <= 128 else 0  # the time that a block takes besides, in tiles
    return min(BLOCKS, key=lambda tiles: math.ceil(math.ceil(count / tiles) / shares) * (tiles + once))


def backward_weight(gy: Array, x: Array, out: Array, g: Geometry, device: Device, norm: Norm = PLAIN) -> None:
    """out = the gradient of w in w ⋆ x, of x normalised."""
    inputs, outputs = x.shape[1], gy.shape[1]
    plane = winograd.gradient_plane(outputs, inputs)
    grid = _grid(gy)
    units = x.shape[0] * -(-grid[0] // grid[2]) * -(-grid[1] // grid[3])
    sums = _gradient_in_parts if winograd.POINTS * plane <= SMALL else _gradient_at_once
    u = sums(gy, x, g, norm, grid, units, plane, device)
    launch(device.kernels.winograd_filter_gradient, u, out)


def _grid(gy: Array) -> Grid:
    """Rows and columns of tiles, and of a unit's tiles: units alike, as large as ``UNIT`` permits."""
    down, across = -(-int(gy.shape[2]) // 4), -(-int(gy.shape[3]) // 4)
    wide = -(-across // -(-across // WIDE))
    high = max(1, min(down, UNIT // wide))
    return down, across, -(-down // -(-down // high)), wide


def _gradient_in_parts(
    gy: Array, x: Array, g: Geometry, norm: Norm, grid: Grid, units: int, plane: int, device: Device
) -> Array:
    """Products of the transformed tiles, block by block: in parts, whatever the number of threads."""
    inputs, outputs = x.shape[1], gy.shape[1]
    tiles = max(grid[2] * grid[3], TILES if inputs + outputs <= 64 else TILES // 2)
    parts = PARTS
    while parts > 2 and (parts * winograd.POINTS * plane > TOTAL or parts > units):
        parts //= 2
    shares = max(1, min(parts, pool.threads))
    u = device.empty((parts, winograd.POINTS, plane), float32)
    work = device.empty((shares, winograd.gradient_work(outputs, inputs, *grid[2:], tiles)), float32)
    launch(device.kernels.winograd_gradient, x, *norm, gy, *g.before, *grid[2:], tiles, work, u)
    return u


def _gradient_at_once(
    gy: Array, x: Array, g: Geometry, norm: Norm, grid: Grid, units: int, plane: int, device: Device
) -> Array:
    """Products of many tiles, transformed to memory, point by point."""
    inputs, outputs = x.shape[1], gy.shape[1]
    each = winograd.POINTS * (winograd.points_plane(inputs, 1) + winograd.points_plane(outputs, 1))
    most = max(1, ROOM // (each * grid[2] * grid[3]))
    count = -(-units // -(-units // most))
    u = device.empty((1, winograd.POINTS, plane), float32)
    work = device.empty((max(1, pool.threads), winograd.unit_work(*grid[2:])), float32)
    most = count * grid[2] * grid[3]
    room = tuple(device.empty((winograd.POINTS * winograd.points_plane(c, most),), float32) for c in (inputs, outputs))
    for first in range(0, units, count):
        last = min(units, first + count)
        tiles = winograd.tiles_before(last, grid) - winograd.tiles_before(first, grid)
        planes = winograd.points_plane(inputs, tiles), winograd.points_plane(outputs, tiles)
        v, m = (a[: winograd.POINTS * n].reshape(winograd.POINTS, n) for a, n in zip(room, planes, strict=True))
        launch(device.kernels.winograd_points, x, *norm, gy, *g.before, *grid[2:], first, last, work, v, m)
        launch(device.kernels.winograd_products, m, v, tiles, first > 0, u)
    return u
