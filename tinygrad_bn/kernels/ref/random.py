"""Random numbers by Philox 4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").

Block b of a stream is Philox of the counter b under the key ``seed``: four 32-bit words. A key array (seed, offset)
says where a kernel's words begin; word w is word w mod 4 of block offset + w div 4, whatever the device and the
number of threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_bn.kernels.spec import spec

Array = np.ndarray[Any, Any]
U32 = np.uint64(0xFFFFFFFF)


def words(key: Array, count: int) -> Array:
    """The first ``count`` words from a key on, uint64 below 2^32."""
    blocks = np.arange(-(-count // 4), dtype=np.uint64) + np.uint64(key[1])
    c0, c1 = blocks & U32, blocks >> np.uint64(32)
    c2, c3 = np.zeros_like(c0), np.zeros_like(c0)
    seed = int(key[0]) & 0xFFFFFFFFFFFFFFFF
    k0, k1 = seed & 0xFFFFFFFF, seed >> 32
    for _ in range(10):
        low, high = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        c0, c1, c2, c3 = (
            (high >> np.uint64(32)) ^ c1 ^ np.uint64(k0),
            high & U32,
            (low >> np.uint64(32)) ^ c3 ^ np.uint64(k1),
            low & U32,
        )
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=1).ravel()[:count]


def unit_numbers(key: Array, count: int, itemsize: int) -> Array:
    """Numbers of [0, 1): 24 bits of a word for float32, 53 of two words for float64."""
    if itemsize == 4:
        return np.asarray((words(key, count) >> np.uint64(8)) * 2.0**-24)
    w = words(key, 2 * count)
    return np.asarray((((w[::2] << np.uint64(32)) | w[1::2]) >> np.uint64(11)) * 2.0**-53)


@spec(writes="key", updates="state")
def take_words(state: Array, count: int, key: Array) -> None:
    """Hand out the next ``count`` words of a generator: key = state, its offset moved on by whole blocks."""
    key[:] = state
    state[1] += -(-count // 4)


@spec()
def uniform(key: Array, low: float, high: float, out: Array) -> None:
    """Numbers of [low, high)."""
    out[:] = low + unit_numbers(key, out.size, out.itemsize) * (high - low)


@spec()
def normal(key: Array, mean: float, std: float, out: Array) -> None:
    """Gaussian numbers by Box and Muller: pairs √(-2 ln(1 - u)) (cos, sin)(2π v)."""
    pairs = -(-out.size // 2)
    u = unit_numbers(key, 2 * pairs, out.itemsize)
    radius, angle = np.sqrt(-2 * np.log1p(-u[::2])), 2 * np.pi * u[1::2]
    both = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).ravel()
    out[:] = mean + std * both[: out.size]


@spec()
def integers(key: Array, low: int, high: int, out: Array) -> None:
    """Integers of [low, high), from two words each."""
    w = words(key, 2 * out.size)
    wide = (w[::2] << np.uint64(32)) | w[1::2]
    out[:] = low + (wide % np.uint64(high - low)).astype(np.int64)


@spec()
def permutation(key: Array, out: Array) -> None:
    """The numbers below out.size in random order (Fisher and Yates)."""
    out[:] = np.arange(out.size)
    w = words(key, 2 * out.size)
    wide = (w[::2] << np.uint64(32)) | w[1::2]
    for i in range(out.size - 1, 0, -1):
        j = int(wide[i] % np.uint64(i + 1))
        out[i], out[j] = out[j], out[i]


@spec()
def dropout(x: Array, key: Array, p: float, out: Array) -> None:
    """x / (1 - p) where a number of [0, 1) is at least p, else 0."""
    keep = unit_numbers(key, x.size, 4) >= np.float32(p)
    with np.errstate(all="ignore"):
        out[:] = np.where(keep, x * x.dtype.type(1 / (1 - p) if p < 1 else 0), 0)
