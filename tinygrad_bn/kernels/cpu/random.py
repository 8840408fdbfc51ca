"""Random numbers by Philox 4x32-10 (Salmon et al. 2011); streams as in ``kernels/ref/random.py``.

Element i depends on (seed, offset, i) alone: any order, any number of threads.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import prange

from tinygrad_bn.kernels.cpu._jit import jit, parallel
from tinygrad_bn.kernels.ref.random import take_words

__all__ = ["dropout", "integers", "normal", "permutation", "take_words", "uniform"]

BLOCK = 4096
GRAIN = 1 << 14
u8 = np.uint64
LOW = u8(0xFFFFFFFF)
HALF = u8(32)


@jit()
def philox(block: Any, seed: Any) -> Any:
    """The four words of a block."""
    c0, c1, c2, c3 = block & LOW, block >> HALF, u8(0), u8(0)
    k0, k1 = seed & LOW, seed >> HALF
    for _ in range(10):
        low, high = c0 * u8(0xD2511F53), c2 * u8(0xCD9E8D57)
        c0, c1, c2, c3 = (high >> HALF) ^ c1 ^ k0, high & LOW, (low >> HALF) ^ c3 ^ k1, low & LOW
        k0, k1 = (k0 + u8(0x9E3779B9)) & LOW, (k1 + u8(0xBB67AE85)) & LOW
    return c0, c1, c2, c3


@jit()
def wide_word(key: Any, i: Any) -> Any:
    """The i-th pair of words, as one of 64 bits."""
    w = philox(u8(key[1] + i // 2), u8(key[0]))
    return (w[0] << HALF) | w[1] if i % 2 == 0 else (w[2] << HALF) | w[3]


@jit()
def unit_block(key: Any, first: Any, out: Any) -> None:
    """Numbers first, first + 1 … of [0, 1), first a multiple of 4: 24 bits for float32, 53 for float64."""
    seed = u8(key[0])
    if out.itemsize == 4:
        for b in range(-(-out.size // 4)):
            w = philox(u8(key[1] + first // 4 + b), seed)
            for j in range(min(4, out.size - 4 * b)):
                out[4 * b + j] = (w[j] >> u8(8)) * 2.0**-24
    else:
        for i in range(out.size):
            out[i] = (wide_word(key, first + i) >> u8(11)) * 2.0**-53


@parallel(work="out", grain=GRAIN)
def uniform(key: Any, low: Any, high: Any, out: Any) -> None:
    for block in prange(-(-out.size // BLOCK)):
        part = out[block * BLOCK : min(out.size, block * BLOCK + BLOCK)]
        unit_block(key, block * BLOCK, part)
        for i in range(part.size):
            part[i] = low + part[i] * (high - low)


@jit()
def unit_pair(key: Any, pair: Any, single: Any) -> Any:
    """Numbers 2 · pair and 2 · pair + 1 of [0, 1)."""
    if single:
        w = philox(u8(key[1] + pair // 2), u8(key[0]))
        a, b = (w[0], w[1]) if pair % 2 == 0 else (w[2], w[3])
        return (a >> u8(8)) * 2.0**-24, (b >> u8(8)) * 2.0**-24
    return (wide_word(key, 2 * pair) >> u8(11)) * 2.0**-53, (wide_word(key, 2 * pair + 1) >> u8(11)) * 2.0**-53


@parallel(work="out", grain=GRAIN)
def normal(key: Any, mean: Any, std: Any, out: Any) -> None:
    single = out.itemsize == 4
    for block in prange(-(-out.size // BLOCK)):
        lo = block * BLOCK
        hi = min(out.size, lo + BLOCK)
        for i in range(lo, hi, 2):
            u, v = unit_pair(key, i // 2, single)
            radius = math.sqrt(-2.0 * math.log1p(-u))
            out[i] = mean + std * (radius * math.cos(2.0 * math.pi * v))
            if i + 1 < hi:
                out[i + 1] = mean + std * (radius * math.sin(2.0 * math.pi * v))


@jit()
def integers(key: Any, low: Any, high: Any, out: Any) -> None:
    span = u8(high - low)
    for i in range(out.size):
        out[i] = low + np.int64(wide_word(key, i) % span)


@jit()
def permutation(key: Any, out: Any) -> None:
    for i in range(out.size):
        out[i] = i
    for i in range(out.size - 1, 0, -1):
        j = np.int64(wide_word(key, i) % u8(i + 1))
        out[i], out[j] = out[j], out[i]


@parallel(work="out", grain=GRAIN)
def dropout(x: Any, key: Any, p: Any, out: Any) -> None:
    scale = x.dtype.type(1.0 / (1.0 - p) if p < 1 else 0.0)
    limit = np.float32(p)
    seed = u8(key[0])
    for block in prange(-(-out.size // BLOCK)):
        lo = block * BLOCK
        hi = min(out.size, lo + BLOCK)
        for i in range(lo, hi, 4):
            w = philox(u8(key[1] + i // 4), seed)
            for j in range(min(4, hi - i)):
                keep = np.float32((w[j] >> u8(8)) * 2.0**-24) >= limit
                out[i + j] = x[i + j] * scale if keep else x.dtype.type(0)
