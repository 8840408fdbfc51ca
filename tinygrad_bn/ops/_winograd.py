"""3×3 convolutions of stride 1 in float32 on the CPU: Winograd's algorithm, and when it pays; see
``kernels/winograd.py``.

Against float64 the error of normal data is up to 4e-7 √C of the largest result, that of the direct sums about 4e-7.
"""

from __future__ import annotations

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
LEAST = 8  # channels in and out from which the transforms pay
HELD = 32  # outputs that are transformed back at once
SHARES = 4  # of the blocks whose moments are wanted, at least
PARTS = 8  # of the sums of the filters' gradient, at most, and
TOTAL = 1 << 19  # elements of all of them, as long as there are two


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
    _convolve(x, w, False, bias, g.before, out, device)


def forward_with_moments(x: Array, norm: Norm, w: Array, out: Array, g: Geometry, device: Device) -> Array:
    """out = w ⋆ x, of x normalised; return count, mean and M2 of the results in parts, (O, P, 3)."""
    tiles = _tiles(x.shape[1], _count(out), SHARES)  # whatever the number of threads: the sums shall not depend on it
    parts = device.empty((out.shape[1], -(-_count(out) // tiles), 3), float64)
    _convolve(x, w, False, w.reshape(-1)[:0], g.before, out, device, norm, tiles, parts)
    return parts


def backward_input(gy: Array, w: Array, out: Array, g: Geometry, device: Device) -> None:
    """out = the transposed convolution of gy: the filters turned, what was padded cut off."""
    before = (2 - g.before[0], 2 - g.before[1])
    _convolve(gy, w, True, w.reshape(-1)[:0], before, out, device)


def _convolve(
    x: Array, w: Array, turned: bool, bias: Array, before: tuple[int, int], out: Array, device: Device,
    norm: Norm = PLAIN, tiles: int = 0, parts: Array = NO_PARTS,
) -> None:  # fmt: skip
    inputs, outputs = x.shape[1], out.shape[1]
    u = device.empty((winograd.POINTS, winograd.filter_plane(outputs, inputs)), float32)
    launch(device.kernels.winograd_filters, w, turned, u)
    shares = max(1, pool.threads)  # each tile is computed by itself: how they are shared changes no bit
    tiles = tiles or _tiles(inputs, _count(out), shares)
    held = min(HELD, winograd.padded(outputs, winograd.HEIGHT))
    work = device.empty((shares, winograd.block_work(inputs, held, tiles)), float32)
    launch(device.kernels.winograd_convolution, x, *norm, u, bias, *before, tiles, held, work, out, parts)


def _count(y: Array) -> int:
    """The number of tiles of results."""
    return int(y.shape[0]) * -(-int(y.shape[2]) // 4) * -(-int(y.shape[3]) // 4)


def _tiles(inputs: int, count: int, shares: int) -> int:
    """Tiles of a block: many, since the filters are read once a block, but one point's inputs shall fit the first-level
    cache, all points' the second; and no more than leave a block for each share."""
    tiles = 96 if inputs <= 16 else 64 if inputs <= 128 else 32
    return max(winograd.LANES, min(tiles, count // shares // winograd.LANES * winograd.LANES))


def backward_weight(gy: Array, x: Array, out: Array, g: Geometry, device: Device, norm: Norm = PLAIN) -> None:
    """out = the gradient of w in w ⋆ x, of x normalised."""
    inputs, outputs = x.shape[1], gy.shape[1]
    plane = winograd.gradient_plane(outputs, inputs)
    tiles = 64 if _count(gy) >= 128 and inputs + outputs <= 256 else 32
    parts = PARTS
    while parts > 2 and (parts * winograd.POINTS * plane > TOTAL or parts * tiles > _count(gy)):
        parts //= 2
    shares = max(1, min(parts, pool.threads))
    u = device.empty((parts, winograd.POINTS, plane), float32)
    work = device.empty((shares, winograd.gradient_work(outputs, inputs, tiles)), float32)
    launch(device.kernels.winograd_gradient, x, *norm, gy, *g.before, tiles, work, u)
    launch(device.kernels.winograd_filter_gradient, u, out)
