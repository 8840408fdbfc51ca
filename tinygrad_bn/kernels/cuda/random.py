"""Random numbers by Philox 4x32-10 (Salmon et al. 2011); streams as in ``kernels/ref/random.py``, word for word.

A block of four words depends on (seed, offset, its number) alone: a thread computes what it needs. Uniform numbers,
integers, permutations and dropout have the bits that they have on the processor; normal numbers are rounded
differently, by a unit of the last place or two.

Permutation. Step i = n - 1 … 1 of Fisher and Yates exchanges cells i and j_i <= i; cell i is not touched again. With
A_i, what cell i holds ahead of step i, cell j_i holds A_q ahead of it, q the step next above i that drew j_i too, or
what it held in the beginning; and A_i itself is A_p, p the step next above i that drew i. So the steps of a window are
taken all at once: each thread looks for its p and q among the steps ahead of it, and follows p to its end.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinygrad_bn.kernels.cuda.array import address
from tinygrad_bn.kernels.cuda.entry import blocks, device, entry
from tinygrad_bn.kernels.cuda.maths import NAMES
from tinygrad_bn.kernels.cuda.target import SIMULATED, THREADS, cuda
from tinygrad_bn.kernels.cuda.vector import load4, store4
from tinygrad_bn.kernels.cuda.words import real

__all__ = ["dropout", "integers", "normal", "permutation", "take_words", "uniform"]

log, sqrt = NAMES["log"], NAMES["sqrt"]
u4, u8 = np.uint32, np.uint64
M0, M1 = u8(0xD2511F53), u8(0xCD9E8D57)
W0, W1 = u4(0x9E3779B9), u4(0xBB67AE85)
HALF, ELEVEN, EIGHT = u8(32), u8(11), u4(8)
LOW = 0xFFFFFFFF

cospi: Any
sinpi: Any
if SIMULATED:
    cospi = lambda x: np.float32(np.cos(np.pi * np.float64(x)))  # noqa: E731
    sinpi = lambda x: np.float32(np.sin(np.pi * np.float64(x)))  # noqa: E731
else:
    from numba.cuda import libdevice

    cospi, sinpi = libdevice.cospif, libdevice.sinpif


@device
def philox(block: Any, seed: Any) -> Any:
    """The four words of a block, uint32; its number and the seed are int64."""
    c0, c1, c2, c3 = u4(block & LOW), u4((block >> 32) & LOW), u4(0), u4(0)
    k0, k1 = u4(seed & LOW), u4((seed >> 32) & LOW)
    for _ in range(10):
        low, high = u8(c0) * M0, u8(c2) * M1
        c0, c2 = u4(u4(high >> HALF) ^ c1 ^ k0), u4(u4(low >> HALF) ^ c3 ^ k1)
        c1, c3 = u4(high & u8(LOW)), u4(low & u8(LOW))
        k0, k1 = u4(k0 + W0), u4(k1 + W1)
    return c0, c1, c2, c3


@device
def joined(a: Any, b: Any) -> Any:
    """Two words as one of 64 bits, uint64."""
    return u8(u8(u8(a) << HALF) | u8(b))


@device
def wide_word(key: Any, i: Any) -> Any:
    """The i-th pair of words, as one of 64 bits."""
    a, b, c, d = philox(key[1] + (i >> 1), key[0])
    even = (i & 1) == 0
    return joined(a if even else c, b if even else d)


@device
def unit(word: Any) -> Any:
    """A number of [0, 1) from 24 bits of a word: exact, also in float32."""
    return real(u4(word >> EIGHT)) * 5.9604644775390625e-08


@device
def unit_wide(word: Any) -> Any:
    """A number of [0, 1) from 53 bits of two words."""
    return np.float64(u8(word >> ELEVEN)) * np.float64(1.1102230246251565e-16)


@entry(threads=1)
def _take_words(state: Any, count: Any, key: Any) -> None:
    key[0] = state[0]
    key[1] = state[1]
    state[1] += (count + 3) // 4


def take_words(state: Any, count: Any, key: Any) -> None:
    _take_words[1](state, count, key)


@device
def spread(u: Any, low: Any, span: Any, exact: Any) -> Any:
    """low + u span, rounded once as on the processor: in float64 unless float32 is as good."""
    if exact:
        return real(low) + u * real(span)
    return real(np.float64(low) + np.float64(u) * np.float64(span))


@entry(static="exact aligned")
def _uniform(key: Any, low: Any, span: Any, out: Any, n: Any, exact: Any, aligned: Any) -> None:
    b = cuda.grid(1)
    while 4 * b < n:
        i = 4 * b
        w0, w1, w2, w3 = philox(key[1] + b, key[0])
        y0, y1 = spread(unit(w0), low, span, exact), spread(unit(w1), low, span, exact)
        y2, y3 = spread(unit(w2), low, span, exact), spread(unit(w3), low, span, exact)
        if aligned and i + 3 < n:
            store4(out, i, y0, y1, y2, y3)
        else:
            out[i] = y0
            if i + 1 < n:
                out[i + 1] = y1
            if i + 2 < n:
                out[i + 2] = y2
            if i + 3 < n:
                out[i + 3] = y3
        b += cuda.gridsize(1)


@entry
def _uniform_wide(key: Any, low: Any, span: Any, out: Any, n: Any) -> None:
    b = cuda.grid(1)
    while 2 * b < n:
        w0, w1, w2, w3 = philox(key[1] + b, key[0])
        out[2 * b] = low + unit_wide(joined(w0, w1)) * span
        if 2 * b + 1 < n:
            out[2 * b + 1] = low + unit_wide(joined(w2, w3)) * span
        b += cuda.gridsize(1)


def _is_aligned(*arrays: Any) -> bool:
    return all(address(a) % (4 * a.itemsize) == 0 for a in arrays)


def _exact(low: float, span: float) -> bool:
    """Whether low + u span is rounded once in float32 too: the product of 24 bits and the sum lose nothing before."""
    single = float(np.float32(span)) == span and float(np.float32(low)) == low
    return single and (low == 0 or (math.frexp(span)[0] == 0.5 and abs(low) <= 1024 * span))


def uniform(key: Any, low: Any, high: Any, out: Any) -> None:
    n, low, high = out.size, np.float64(low), np.float64(high)
    if out.itemsize == 8:
        _uniform_wide[blocks(-(-n // 2))](key, low, high - low, out, n)
    elif n:
        exact = _exact(float(low), float(high - low))
        kind = np.float32 if exact else np.float64
        _uniform[blocks(-(-n // 4))](key, kind(low), kind(high - low), out, n, exact, _is_aligned(out))


@device
def pair(u: Any, v: Any, mean: Any, std: Any) -> Any:
    """Box and Muller in float32; 1 - u and 2 v are exact, and so is the reduction of the angle."""
    radius = std * sqrt(-2.0 * log(1.0 - u))
    return mean + radius * cospi(2.0 * v), mean + radius * sinpi(2.0 * v)


@entry(static="aligned")
def _normal(key: Any, mean: Any, std: Any, out: Any, n: Any, aligned: Any) -> None:
    b = cuda.grid(1)
    while 4 * b < n:
        i = 4 * b
        w0, w1, w2, w3 = philox(key[1] + b, key[0])
        y0, y1 = pair(unit(w0), unit(w1), mean, std)
        y2, y3 = pair(unit(w2), unit(w3), mean, std)
        if aligned and i + 3 < n:
            store4(out, i, y0, y1, y2, y3)
        else:
            out[i] = y0
            if i + 1 < n:
                out[i + 1] = y1
            if i + 2 < n:
                out[i + 2] = y2
            if i + 3 < n:
                out[i + 3] = y3
        b += cuda.gridsize(1)


@entry
def _normal_wide(key: Any, mean: Any, std: Any, out: Any, n: Any) -> None:
    b = cuda.grid(1)
    while 2 * b < n:
        w0, w1, w2, w3 = philox(key[1] + b, key[0])
        u, angle = unit_wide(joined(w0, w1)), 6.283185307179586 * unit_wide(joined(w2, w3))
        radius = std * sqrt(-2.0 * math.log1p(-u))
        out[2 * b] = mean + radius * math.cos(angle)
        if 2 * b + 1 < n:
            out[2 * b + 1] = mean + radius * math.sin(angle)
        b += cuda.gridsize(1)


def normal(key: Any, mean: Any, std: Any, out: Any) -> None:
    n = out.size
    if out.itemsize == 8:
        _normal_wide[blocks(-(-n // 2))](key, float(mean), float(std), out, n)
    elif n:
        _normal[blocks(-(-n // 4))](key, float(mean), float(std), out, n, _is_aligned(out))


@entry
def _integers(key: Any, low: Any, span: Any, out: Any, n: Any) -> None:
    i = cuda.grid(1)
    while i < n:
        out[i] = low + np.int64(wide_word(key, i) % span)
        i += cuda.gridsize(1)


def integers(key: Any, low: Any, high: Any, out: Any) -> None:
    if out.size:
        _integers[blocks(out.size)](key, np.int64(low), u8(int(high) - int(low)), out, out.size)


@entry
def _count(out: Any, n: Any) -> None:
    i = cuda.grid(1)
    while i < n:
        out[i] = i
        i += cuda.gridsize(1)


@entry
def _permute(key: Any, out: Any, n: Any) -> None:
    drawn = cuda.shared.array(THREADS, np.int64)
    above = cuda.shared.array(THREADS, np.int32)
    held = cuda.shared.array(THREADS, np.int64)
    t = cuda.threadIdx.x
    for top in range(n - 1, 0, -THREADS):  # a window: steps top, top - 1, … 1 by threads 0, 1, …
        i = top - t
        j = i
        there = np.int64(0)
        if i > 0:
            j = np.int64(wide_word(key, i) % u8(i + 1))
            held[t] = out[i]
            there = out[j]
        drawn[t] = j
        cuda.syncthreads()
        p = q = np.int32(-1)
        last = j == 0 or j <= top - THREADS  # whether what is put into cell j stays there: no step of its own follows
        for m in range(min(THREADS, top)):
            other = drawn[m]
            if m < t:
                p = np.int32(m) if other == i else p
                q = np.int32(m) if other == j else q
            elif m > t and other == j:
                last = False
        above[t] = p
        cuda.syncthreads()
        if i > 0:
            k = np.int32(t)
            while above[k] >= 0:
                k = above[k]
            if q >= 0:
                while above[q] >= 0:
                    q = above[q]
                there = held[q]
            out[i] = there
            if last:
                out[j] = held[k]
        cuda.syncthreads()


def permutation(key: Any, out: Any) -> None:
    if out.size:
        _count[blocks(out.size)](out, out.size)
        _permute[1](key, out, out.size)


@device
def kept(word: Any, limit: Any) -> Any:
    return u4(word >> EIGHT) >= limit


@entry(static="aligned")
def _dropout(x: Any, key: Any, limit: Any, scale: Any, out: Any, n: Any, aligned: Any) -> None:
    b = cuda.grid(1)
    while 4 * b < n:
        i = 4 * b
        w0, w1, w2, w3 = philox(key[1] + b, key[0])
        if aligned and i + 3 < n:
            x0, x1, x2, x3 = load4(x, i)
            y0, y1 = (x0 * scale if kept(w0, limit) else 0.0), (x1 * scale if kept(w1, limit) else 0.0)
            y2, y3 = (x2 * scale if kept(w2, limit) else 0.0), (x3 * scale if kept(w3, limit) else 0.0)
            store4(out, i, y0, y1, y2, y3)
        else:
            out[i] = x[i] * scale if kept(w0, limit) else 0.0
            if i + 1 < n:
                out[i + 1] = x[i + 1] * scale if kept(w1, limit) else 0.0
            if i + 2 < n:
                out[i + 2] = x[i + 2] * scale if kept(w2, limit) else 0.0
            if i + 3 < n:
                out[i + 3] = x[i + 3] * scale if kept(w3, limit) else 0.0
        b += cuda.gridsize(1)


def dropout(x: Any, key: Any, p: Any, out: Any) -> None:
    n = out.size
    if n:
        limit = u4(math.ceil(float(np.float32(p)) * 2**24))  # of 24 bits, which are compared as they are
        scale = 1 / (1 - p) if p < 1 else 0.0
        _dropout[blocks(-(-n // 4))](x, key, limit, scale, out, n, _is_aligned(x, out))
