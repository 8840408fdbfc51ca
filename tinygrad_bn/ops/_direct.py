"""Direct convolution and its gradient with respect to the input, for any geometry; on the CPU by strips or by panels,
see ``kernels/direct.py`` and ``kernels/panels.py``, on a GPU by tiles of a product, see ``kernels/cuda/direct.py``."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from tinygrad_bn.core.device import Device
from tinygrad_bn.core.dtype import DType, int64
from tinygrad_bn.core.launch import launch, pool
from tinygrad_bn.core.tensor import Array
from tinygrad_bn.kernels import panels
from tinygrad_bn.kernels.direct import Plan, plan, taps_of_gradient, taps_of_windows
from tinygrad_bn.ops._geometry import Geometry


@lru_cache(maxsize=1024)
def planned(turned: bool, g: Geometry, samples: int, channels: int, rows: int, itemsize: int) -> Plan | panels.Plan:
    """How a convolution, or its gradient, is cut, from so many channels of a group to so many rows."""
    one = (1, 1)
    if turned:
        size, stride, spread = g.input, one, g.stride
        taps = taps_of_gradient(g.kernel, g.stride, g.before, g.dilation)
    else:
        size, stride, spread = g.output, g.stride, one
        taps = taps_of_windows(g.kernel, g.before, g.dilation)
    grid = (1, g.length) if g.pointwise else (-(-size[0] // spread[0]), -(-size[1] // spread[1]))
    if panels.pays(taps, g.stride != one, samples, channels, rows, grid, itemsize):
        return panels.plan(taps, spread[0] * spread[1], channels, rows, g.groups)
    return plan(taps, stride, spread, (samples, channels), rows, g.groups, grid, itemsize, g.pointwise)


@lru_cache(maxsize=1024)
def _tables(turned: bool, g: Geometry, device: Device) -> tuple[Array, Array, Array]:
    """The table of taps on a GPU, and the two that say how the CPU cuts the work, empty."""
    if turned:
        taps = taps_of_gradient(g.kernel, g.stride, g.before, g.dilation)
    else:
        taps = taps_of_windows(g.kernel, g.before, g.dilation)
    table = np.array([(*tap, 0) for tap in taps], np.int64)
    none = (np.empty((0, 5), np.int64), np.empty(0, np.int64))
    return device.kept(table), *none


def forward(x: Array, w: Array, bias: Array, out: Array, g: Geometry, dtype: DType, device: Device) -> None:
    """out = w ⋆ x + bias."""
    _convolve(x, w, bias, False, (*g.stride, 1, 1), out, g, dtype, device)


def backward_input(gy: Array, w: Array, bias: Array, out: Array, g: Geometry, dtype: DType, device: Device) -> None:
    """out = the transposed convolution of gy, plus bias."""
    _convolve(gy, w, bias, True, (1, 1, *g.stride), out, g, dtype, device)


def _convolve(
    x: Array, w: Array, bias: Array, turned: bool, steps: tuple[int, ...], out: Array, g: Geometry, dtype: DType,
    device: Device,
) -> None:  # fmt: skip
    n, c, r = x.shape[0], x.shape[1], out.shape[1]
    if device.type != "cpu":
        tables = _tables(turned, g, device)
        launch(device.kernels.direct_convolution, x, w, bias, turned, *steps, *tables, device.empty((0, 0), dtype), out)
        return
    found = planned(turned, g, n, c // g.groups, r // g.groups, dtype.itemsize)
    if g.pointwise:
        x, out = x.reshape(n, c, 1, -1), out.reshape(n, r, 1, -1)
    shares = max(1, pool.threads)  # each strip or panel is computed by itself: how they are shared changes no bit
    work = device.empty((shares, found.work), dtype)
    if isinstance(found, Plan):
        kernel = device.kernels.direct_convolution
        launch(kernel, x, w, bias, turned, *steps, found.taps, found.lines, found.cut, work, out)
        return
    filters, places = device.empty((found.filters,), dtype), device.empty((shares, found.places), int64)
    kernel = device.kernels.panel_convolution
    launch(kernel, x, w, bias, turned, *steps, found.taps, found.offsets, panels.SHARES, filters, places, work, out)
