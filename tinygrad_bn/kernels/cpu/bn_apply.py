"""What is computed of every value of channels whose values lie in rows, from their statistics.

    z  = ((x - hi) - lo) gain + beta (+ r),  y = act(z),  gain = invstd weight
    gx = gain (g - k1 - d k2),  d = (x - hi) - lo

The rows of a task's channels follow one another in memory, and registers go over them without a seam: the one that
straddles two channels takes lanes of both. So all stores but a run's first and last fill registers, and may go past the
caches: those of LARGE results do, which saves reading the memory that they overwrite. Samples are visited last to
first: the pass ahead of this one leaves the last in the cache. None and ReLU are a bound below; the other activations
go over a sample's run once more, in the cache (``bn_activation``).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_bn.kernels.cpu._jit import jit
from tinygrad_bn.kernels.cpu.bn_activation import RELU, activate
from tinygrad_bn.kernels.cpu.bn_rows import LARGE
from tinygrad_bn.kernels.cpu.bn_statistics import at_or
from tinygrad_bn.kernels.cpu.simd import (
    fma,
    lanes,
    largest,
    load,
    load_first,
    pointer_to,
    splat,
    store,
    store_first,
    zeros,
)
from tinygrad_bn.kernels.cpu.streams import blend, misaligned, settle, stream


@jit(inline=True)
def put(y: Any, i: Any, v: Any, past: Any) -> None:
    if past:
        stream(y, i, v)
    else:
        store(y, i, v)


@jit(inline=True)
def plus(z: Any, r: Any, i: Any) -> Any:
    return z if r is None else z + load(r, i)


@jit(inline=True)
def plus_first(z: Any, r: Any, i: Any, n: Any) -> Any:
    return z if r is None else z + load_first(r, i, n)


@jit(inline=True)
def ahead_of_registers(skew: Any, i: Any, length: Any, width: Any, past: Any) -> Any:
    """How many values, from i on, lie ahead of the first register that may be streamed."""
    return min(-(skew + i) % width, length) if past else 0


@jit()
def rows_apply(
    x: Any, r: Any, y: Any, c0: Any, c1: Any, channels: Any, length: Any, n0: Any, n1: Any,
    statistics: Any, weight: Any, bias: Any, act: Any, slope: Any,
) -> None:  # fmt: skip
    """y = act(z) of channels c0 … c1, samples n0 … n1; r is a pointer, or None."""
    width = lanes(x)
    px, py = pointer_to(x), pointer_to(y)
    past = act <= RELU and length >= width and y.size * y.itemsize > LARGE
    skew = misaligned(y)
    floor = splat(x.dtype.type(0.0 if act == RELU else -np.inf))
    h0 = e0 = s0 = b0 = zeros(x)
    for n in range(n1 - 1, n0 - 1, -1):
        start = (n * channels + c0) * length
        i = start
        end = start
        for c in range(c0, c1):
            h, e = splat(statistics[0, c]), splat(statistics[1, c])
            s, b = splat(statistics[3, c] * at_or(weight, c, 1)), splat(at_or(bias, c, 0))
            if c == c0:
                head = ahead_of_registers(skew, i, length, width, past)
                if head:
                    z = plus_first(fma((load_first(px, i, head) - h) - e, s, b), r, i, head)
                    store_first(py, i, largest(z, floor), head)
                    i += head
            elif i < end:
                v = load(px, i)
                z = blend(fma((v - h0) - e0, s0, b0), fma((v - h) - e, s, b), end - i)
                put(py, i, largest(plus(z, r, i), floor), past)
                i += width
            end += length
            while i + 4 * width <= end:
                for j in range(i, i + 4 * width, width):
                    put(py, j, largest(plus(fma((load(px, j) - h) - e, s, b), r, j), floor), past)
                i += 4 * width
            while i + width <= end:
                put(py, i, largest(plus(fma((load(px, i) - h) - e, s, b), r, i), floor), past)
                i += width
            h0, e0, s0, b0 = h, e, s, b
        if i < end:
            z = plus_first(fma((load_first(px, i, end - i) - h0) - e0, s0, b0), r, i, end - i)
            store_first(py, i, largest(z, floor), end - i)
        if act > RELU:
            activate(py, start, end, act, slope)
    if past:
        settle()
