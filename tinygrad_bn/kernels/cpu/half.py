"""float16 and bfloat16 as words of 16 bits, to and from float32, by integer arithmetic that vectorises.

bfloat16 is the upper half of a float32. A float16 has its exponent 112 below float32's: one of its numbers, subnormals
included, is the float32 with exponent and fraction moved up by 13 bits, times 2^112. On the way back the bits that fall
off are rounded to nearest, ties to even, by an addition that carries into the exponent; below 2^-14, by one of
floating-point numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from tinygrad_bn.kernels.cpu._jit import jit, parallel
from tinygrad_bn.kernels.cpu.simd import array_at
from tinygrad_bn.kernels.ref.half import BFLOAT16

GRAIN = 1 << 16
PARTS = 16
MOST = float(np.finfo(np.float32).max)
u2 = np.uint16
u4 = np.uint32
f4 = np.float32


@jit(inline=True)
def from_bfloat16(w: Any) -> Any:
    return u4(u4(w) << u4(16)).view(np.float32)


@jit(inline=True)
def from_float16(w: Any) -> Any:
    h = u4(w)
    magnitude = f4(u4(u4(h & u4(0x7FFF)) << u4(13)).view(np.float32) * f4(2.0**112)).view(np.uint32)
    special = u4(0x7F800000) if u4(h & u4(0x7C00)) == u4(0x7C00) else u4(0)
    return u4(u4(magnitude | special) | u4(u4(h & u4(0x8000)) << u4(16))).view(np.float32)


@jit(inline=True)
def to_bfloat16(x: Any) -> Any:
    bits = f4(x).view(np.uint32)
    upper = u4(bits >> u4(16))
    rounded = u4(u4(bits + u4(u4(0x7FFF) + u4(upper & u4(1)))) >> u4(16))
    return u2(u4(upper | u4(0x40)) if u4(bits & u4(0x7FFFFFFF)) > u4(0x7F800000) else rounded)


@jit(inline=True)
def to_float16(x: Any) -> Any:
    """Below 2^-14 the place that counts 2^-24 is the last of x + 1/2: adding it rounds, to nearest, ties to even."""
    bits = f4(x).view(np.uint32)
    a = u4(bits & u4(0x7FFFFFFF))
    odd = u4(u4(a >> u4(13)) & u4(1))
    normal = u4(u4(a + u4(u4(0xC8000FFF) + odd)) >> u4(13))
    small = u4(f4(a.view(np.float32) + f4(0.5)).view(np.uint32) - u4(0x3F000000))
    word = normal if a >= u4(0x38800000) else small  # from 2^-14 on
    word = u4(0x7C00) if a >= u4(0x477FF000) else word  # 65520, halfway beyond the largest
    word = u4(0x7E00) if a > u4(0x7F800000) else word
    return u2(u4(word | u4(u4(bits >> u4(16)) & u4(0x8000))))


@jit(inline=True)
def widen_stretch(x: Any, kind: Any, out: Any) -> None:
    if kind == BFLOAT16:
        for i in range(x.size):
            out[i] = from_bfloat16(x[i])
    else:
        for i in range(x.size):
            out[i] = from_float16(x[i])


@jit(inline=True)
def narrow_stretch(x: Any, kind: Any, out: Any) -> None:
    if kind == BFLOAT16:
        for i in range(x.size):
            out[i] = to_bfloat16(x[i])
    else:
        for i in range(x.size):
            out[i] = to_float16(x[i])


@parallel(work="x", grain=GRAIN)
def widen(x: Any, kind: Any, out: Any) -> None:
    n = x.size
    for part in prange(PARTS):
        lo, hi = n * part // PARTS, n * (part + 1) // PARTS
        widen_stretch(x[lo:hi], kind, out[lo:hi])


@parallel(work="x", grain=GRAIN)
def narrow(x: Any, kind: Any, out: Any) -> None:
    n = x.size
    for part in prange(PARTS):
        lo, hi = n * part // PARTS, n * (part + 1) // PARTS
        narrow_stretch(x[lo:hi], kind, out[lo:hi])


@jit(inline=True)
def follow_stretch(x: Any, kind: Any, out: Any) -> None:
    if kind == BFLOAT16:
        for i in range(x.size):
            out[i] = out[i] if to_bfloat16(out[i]) == x[i] else from_bfloat16(x[i])
    else:
        for i in range(x.size):
            out[i] = out[i] if to_float16(out[i]) == x[i] else from_float16(x[i])


@parallel(work="x", grain=GRAIN)
def follow(x: Any, kind: Any, out: Any) -> None:
    n = x.size
    for part in prange(PARTS):
        lo, hi = n * part // PARTS, n * (part + 1) // PARTS
        follow_stretch(x[lo:hi], kind, out[lo:hi])


@jit()
def unscale(table: Any, like: Any, scale: Any, found: Any) -> None:
    """x - x is NaN where x is not finite."""
    inverse = like.dtype.type(1.0 / np.float64(scale[0]))
    zero = like.dtype.type(0)
    for row in range(table.shape[0]):
        x = array_at(table[row, 0], table[row, 1], like)
        bad = 0
        for i in range(x.size):
            bad += 0 if x[i] - x[i] == zero else 1
            x[i] *= inverse
        if bad > 0:
            found[0] = 1


@jit()
def update_scale(found: Any, growth: Any, backoff: Any, interval: Any, scale: Any, tracker: Any) -> None:
    if found[0] != 0:
        scale[0] *= backoff
        tracker[0] = 0
    else:
        tracker[0] += 1
        if tracker[0] == interval:
            grown = np.float64(scale[0]) * growth
            if grown <= MOST:
                scale[0] = grown
            tracker[0] = 0
