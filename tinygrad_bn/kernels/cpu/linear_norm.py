"""A linear layer and the batch normalisation behind it, in one kernel each way.

    z = x Wᵀ,  y = act(BN(z))

A part of the columns of z is normalised as soon as it is there, on the core that made it. Backward, every column's
gradient of z is made first, then both products. For batches that are one block of ``bn_columns``.
"""

from __future__ import annotations

from typing import Any

from numba import prange

from tinygrad_bn.kernels.cpu._jit import parallel
from tinygrad_bn.kernels.cpu.bn_columns import block_backward, block_forward
from tinygrad_bn.kernels.cpu.matmul import GRAIN, SHARE, SLICES, dot_columns, parts, product_rows
from tinygrad_bn.kernels.cpu.simd import lanes, pointer_to


def _forward_work(x: Any, weight: Any, *rest: Any) -> int:
    return x.size * weight.shape[0]  # type: ignore[no-any-return]


@parallel(work=_forward_work, grain=GRAIN)
def linear_batch_norm(
    x: Any, weight: Any, gain: Any, bias: Any, eps: Any, act: Any, z: Any, statistics: Any, y: Any
) -> None:
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
            block_forward(fz, fy, n, c, min(width, last - c), m, eps, gain, bias, act, rows)


def _backward_work(gy: Any, x: Any, weight: Any, gain: Any, bias: Any, z: Any, statistics: Any, act: Any, gz: Any,
                   gx: Any, *rest: Any) -> int:  # fmt: skip
    return gy.shape[0] * (weight.size + (weight.size if gx.size else 0))  # type: ignore[no-any-return]


@parallel(work=_backward_work, grain=GRAIN)
def linear_batch_norm_backward(
    gy: Any, x: Any, weight: Any, gain: Any, bias: Any, z: Any, statistics: Any, act: Any,
    gz: Any, gx: Any, gweight: Any, ggain: Any, gbias: Any,
) -> None:  # fmt: skip
    m, n = gy.shape
    k = x.shape[1]
    fgy, fz, fgz, rows = gy.reshape(-1), z.reshape(-1), gz.reshape(-1), statistics.reshape(-1)
    width = lanes(fz)
    for t in prange(-(-n // width)):
        c = t * width
        block_backward(fgy, fz, fgz, n, c, min(width, n - c), m, rows, gain, bias, act, ggain, gbias)
    slices = max(1, min(SLICES, max(m, n) // 24))
    for slice_ in prange(slices):
        product_rows(fgz, 1, n, x.reshape(-1), gweight.reshape(-1), n, k, m, slice_, slices)
        if gx.size:
            product_rows(fgz, n, 1, weight.reshape(-1), gx.reshape(-1), m, k, n, slice_, slices)
