"""3×3 convolutions of stride 1 in float32 on the CPU: Winograd's algorithm, and when it pays; see
``kernels/winograd.py``.

Against float64 the error of normal data is up to 4e-7 √C of the largest result, that of the direct sums about 4e-7.
"""

from __future__ import annotations

from tinygrad_bn.core.device import Device
from tinygrad_bn.core.dtype import DType, float32
from tinygrad_bn.core.launch import launch, pool
from tinygrad_bn.core.tensor import Array
from tinygrad_bn.kernels import winograd
from tinygrad_bn.ops._geometry import Geometry

LEAST = 8  # channels in and out from which the transforms pay
CHUNK = 1 << 20  # elements of the transformed input and gradient that are held at once


def pays(inputs: int, outputs: int, g: Geometry, dtype: DType, device: Device) -> bool:
    """Whether a convolution of this geometry goes by Winograd's algorithm."""
    return (
        dtype is float32
        and device.type == "cpu"
        and g.kernel == (3, 3)
        and g.stride == g.dilation == (1, 1)
        and g.groups == 1
        and min(inputs, outputs) >= LEAST
        and min(g.output) >= 4
    )


def forward(x: Array, w: Array, bias: Array, out: Array, g: Geometry, device: Device) -> None:
    """out = w ⋆ x + bias."""
    _convolve(x, w, False, bias, g.before, out, device)


def backward_input(gy: Array, w: Array, out: Array, g: Geometry, device: Device) -> None:
    """out = the transposed convolution of gy: the filters turned, what was padded cut off."""
    before = (2 - g.before[0], 2 - g.before[1])
    _convolve(gy, w, True, w.reshape(-1)[:0], before, out, device)


def _convolve(
    x: Array, w: Array, turned: bool, bias: Array, before: tuple[int, int], out: Array, device: Device
) -> None:
    u = device.empty((winograd.POINTS, *w.shape[:2]), float32)
    launch(device.kernels.winograd_filters, w, turned, u)
    shares = max(1, pool.threads)  # each tile is computed by itself: how they are shared changes no bit
    work = device.empty((shares, winograd.block_work(x.shape[1], out.shape[1])), float32)
    launch(device.kernels.winograd_convolution, x, u, turned, bias, *before, work, out)


def backward_weight(gy: Array, x: Array, out: Array, g: Geometry, device: Device) -> None:
    """out = the gradient of w in w ⋆ x, chunk by chunk of tiles."""
    k = device.kernels
    (samples, inputs), outputs = x.shape[:2], gy.shape[1]
    down, across = (-(-n // 4) for n in g.output)
    count = samples * down * across
    blocks = max(1, min(-(-count // winograd.BLOCK), CHUNK // (winograd.POINTS * winograd.BLOCK * (inputs + outputs))))
    tiles = (blocks | 1) * winograd.BLOCK
    # an odd number of cache lines from point to point, or the points of a tile would meet in a few sets of the cache
    v = device.empty((winograd.POINTS, inputs | 1, tiles), float32)
    m = device.empty((winograd.POINTS, outputs | 1, tiles), float32)
    u = device.empty((winograd.POINTS, outputs, inputs), float32)
    term = device.empty(u.shape, float32)
    patch_work = device.empty((inputs, winograd.line_work()), float32)
    result_work = device.empty((outputs, winograd.line_work()), float32)
    for first in range(0, count, tiles):
        launch(k.winograd_patches, x, first, *g.before, down, across, patch_work, v)
        launch(k.winograd_results, gy, first, result_work, m)
        launch(k.winograd_accumulate, m, v, first > 0, term, u)
    launch(k.winograd_filter_gradient, u, out)
