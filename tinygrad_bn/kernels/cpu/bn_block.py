"""Batch normalisation of a batch that is one block: x (N, C), N of at most 256.

    y  = act((x - mean) invstd weight + bias),  invstd = 1 / √(var + eps), var biased
    gx = weight invstd (g - mean(g) - x̂ mean(g x̂)),  gweight = Σ g x̂,  gbias = Σ g,  g = gy act'(z)

Ioffe & Szegedy 2015 (arXiv:1502.03167), Algorithm 1. A task is one register of channels: its statistics stay in
registers from the first look at x to the last (``bn_columns``).
"""

from __future__ import annotations

from typing import Any

from numba import prange

from tinygrad_bn.kernels.cpu._jit import parallel
from tinygrad_bn.kernels.cpu.bn_columns import block_backward, block_forward
from tinygrad_bn.kernels.cpu.simd import lanes

GRAIN = 1 << 14


@parallel(work="x", grain=GRAIN)
def batch_norm_block(x: Any, weight: Any, bias: Any, eps: Any, act: Any, slope: Any, y: Any, statistics: Any) -> None:
    samples, channels = x.shape
    width = lanes(x)
    for t in prange(-(-channels // width)):
        c0 = t * width
        block_forward(x, y, channels, c0, min(width, channels - c0), samples, eps, weight, bias, act, slope, statistics)


@parallel(work="gy", grain=GRAIN)
def batch_norm_block_backward(
    gy: Any, x: Any, weight: Any, bias: Any, statistics: Any, act: Any, slope: Any,
    gx: Any, gweight: Any, gbias: Any,
) -> None:  # fmt: skip
    samples, channels = x.shape
    width = lanes(x)
    for t in prange(-(-channels // width)):
        c0 = t * width
        n = min(width, channels - c0)
        block_backward(gy, x, gx, channels, c0, n, samples, statistics, weight, bias, act, slope, gweight, gbias)
