"""A linear layer and the batch normalisation behind it, in one kernel each way.

    z = x Wᵀ,  y = act(BN(z))
    gz = BN'(gy),  gW = gzᵀ x,  gx = gz W

A part of the columns of z stays on one core: forward it is normalised as soon as it is there; backward its gradients
are made, and at once the rows of gW that they belong to. Only gx, whose parts are columns too, needs all of gz. What
one core has written costs another 30 ns a cache line. For batches that are one block of ``bn_columns``.
"""

from __future__ import annotations

from typing import Any

from numba import prange

from tinygrad_bn.kernels.cpu._jit import parallel
from tinygrad_bn.kernels.cpu.bn_columns import block_backward, block_forward
from tinygrad_bn.kernels.cpu.matmul import GRAIN, SHARE, dot_columns, outer_block, parts
from tinygrad_bn.kernels.cpu.simd import lanes, pointer_to
from tinygrad_bn.kernels.cpu.tiles import REGISTERS


def _forward_work(x: Any, weight: Any, *rest: Any) -> int:
    return x.size * len(weight)  # type: ignore[no-any-return]


@parallel(work=_forward_work, grain=GRAIN)
def linear_batch_norm(
    x: Any, weight: Any, gain: Any, bias: Any, eps: Any, act: Any, slope: Any,
    z: Any, statistics: Any, y: Any,
) -> None:  # fmt: skip
    m, n = z.shape
    k = x.shape[1]
    fx, fw, fz, fy, rows = x.reshape(-1), weight.reshape(-1), z.reshape(-1), y.reshape(-1), statistics.reshape(-1)
    width = lanes(fz)
    blocks = parts(n, SHARE)
    for block in prange(blocks):
        first = block * SHARE
        last = first + SHARE if block < blocks - 1 else n
        dot_columns(pointer_to(fx), 0, pointer_to(fw), 0, pointer_to(fx), 0, pointer_to(fz), 0, m, n, k, first, last)
        for c in range(first, last, width):
            block_forward(fz, fy, n, c, min(width, last - c), m, eps, gain, bias, act, slope, rows)


def _backward_work(
    gy: Any, x: Any, weight: Any, gain: Any, bias: Any, z: Any, statistics: Any, act: Any, slope: Any,
    gz: Any, gx: Any, *rest: Any,
) -> int:  # fmt: skip
    return len(gy) * (weight.size + (weight.size if gx.size else 0))  # type: ignore[no-any-return]


@parallel(work=_backward_work, grain=GRAIN)
def linear_batch_norm_backward(
    gy: Any, x: Any, weight: Any, gain: Any, bias: Any, z: Any, statistics: Any, act: Any, slope: Any,
    gz: Any, gx: Any, gweight: Any, ggain: Any, gbias: Any,
) -> None:  # fmt: skip
    m, n = gy.shape
    k = x.shape[1]
    fgy, fz, fgz, rows = gy.reshape(-1), z.reshape(-1), gz.reshape(-1), statistics.reshape(-1)
    fx, fw, fgx, fgw = x.reshape(-1), weight.reshape(-1), gx.reshape(-1), gweight.reshape(-1)
    width = lanes(fz)
    blocks = parts(n, SHARE)
    for block in prange(blocks):
        first = block * SHARE
        last = first + SHARE if block < blocks - 1 else n
        for c in range(first, last, width):
            block_backward(fgy, fz, fgz, n, c, min(width, last - c), m, rows, gain, bias, act, slope, ggain, gbias)
        outer_block(pointer_to(fgz), first, 1, n, pointer_to(fx), 0, pointer_to(fgw), first * k, last - first, k, k, m)
    if gx.size:
        share = REGISTERS * width
        blocks = parts(k, share)
        for block in prange(blocks):
            first = block * share
            last = first + share if block < blocks - 1 else k
            outer_block(pointer_to(fgz), 0, n, 1, pointer_to(fw), first, pointer_to(fgx), first, m, last - first, k, n)
