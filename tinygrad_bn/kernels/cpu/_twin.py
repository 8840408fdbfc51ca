"""What ``simd.py`` offers, on NumPy arrays: for runs with the JIT off. A vector is a short array; operators are
NumPy's."""

from __future__ import annotations

import ctypes
import math
from typing import Any

import numpy as np

WIDTH = 64


def _flat(a: Any) -> Any:
    """The array as one axis, without a copy."""
    flat = a.reshape(-1)
    if flat.size and not np.shares_memory(flat, a):
        raise ValueError("vector access needs a C-contiguous array")
    return flat


def _stretch(a: Any, i: int, n: int) -> Any:
    flat = _flat(a)
    if i < 0 or i + n > flat.size:
        raise IndexError(f"vector access to elements {i} to {i + n} of {flat.size}")
    return flat[i : i + n]


def lanes(a: Any) -> int:
    return WIDTH // int(a.itemsize)


def load(a: Any, i: int) -> Any:
    return _stretch(a, i, lanes(a)).copy()


def load_first(a: Any, i: int, n: int) -> Any:
    out = np.zeros(lanes(a), a.dtype)
    n = min(n, out.size)
    if n > 0:  # no lane asked for, none read
        out[:n] = _stretch(a, i, n)
    return out


def load_between(a: Any, i: int, m: int, n: int) -> Any:
    out = np.zeros(lanes(a), a.dtype)
    m, n = max(m, 0), min(n, out.size)
    if n > m:  # no lane asked for, none read
        out[m:n] = _stretch(a, i + m, n - m)
    return out


def fma_between(x: Any, y: Any, z: Any, m: int, n: int) -> Any:
    lane = np.arange(z.size)
    return np.where((lane >= m) & (lane < n), x * y + z, z)


def load_halves(a: Any, i: int, j: int, m: int, n: int) -> Any:
    half = lanes(a) // 2
    return np.concatenate([load_between(a, k, m, min(n, half))[:half] for k in (i, j)])


def store_halves(a: Any, i: int, j: int, v: Any, m: int, n: int) -> None:
    half = lanes(a) // 2
    store_between(a, i, v, m, min(n, half))
    store_between(a, j, v[half:], m, min(n, half))


def fma_halves(x: Any, y: Any, z: Any, m: int, n: int) -> Any:
    lane = np.arange(z.size) % (z.size // 2)
    return np.where((lane >= m) & (lane < n), x * y + z, z)


def load_every(a: Any, i: int, k: int, n: int) -> Any:
    return _stretch(a, i, n * lanes(a))[k::n].copy()


def prefetch(a: Any, i: int) -> None:
    """Nothing to be done."""


def store_every2(a: Any, i: int, *vectors: Any) -> None:
    _stretch(a, i, 2 * lanes(a))[:] = np.stack(vectors, 1).ravel()


def store_every4(a: Any, i: int, *vectors: Any) -> None:
    _stretch(a, i, 4 * lanes(a))[:] = np.stack(vectors, 1).ravel()


def transpose(a: Any, i: int, m: int, b: Any, j: int, n: int) -> None:
    size = lanes(a)
    rows = np.stack([_stretch(a, i + k * m, size) for k in range(size)])
    for k in range(size):
        _stretch(b, j + k * n, size)[:] = rows[:, k]


def transpose_first(a: Any, i: int, m: int, b: Any, j: int, n: int, rows: int, columns: int) -> None:
    size = lanes(a)
    found = np.stack([_stretch(a, i + k * m, size) for k in range(size)])
    for k in range(min(rows, size)):
        _stretch(b, j + k * n, min(columns, size))[:] = found[:columns, k]


def spread(a: Any, i: int, m: int, b: Any, j: int, places: Any, p: int) -> None:
    spread_first(a, i, m, b, j, places, p, lanes(a), lanes(a))


def spread_first(a: Any, i: int, m: int, b: Any, j: int, places: Any, p: int, rows: int, columns: int) -> None:
    size = lanes(a)
    found = np.stack([load_first(a, i + k * m, rows if k < columns else 0) for k in range(size)])
    for k in range(min(rows, size)):
        _stretch(b, j + int(places[p + k]), size)[:] = found[:, k]


def store(a: Any, i: int, v: Any) -> None:
    _stretch(a, i, lanes(a))[:] = v


def store_first(a: Any, i: int, v: Any, n: int) -> None:
    n = min(n, lanes(a))
    if n > 0:
        _stretch(a, i, n)[:] = v[:n]


def store_between(a: Any, i: int, v: Any, m: int, n: int) -> None:
    m, n = max(m, 0), min(n, lanes(a))
    if n > m:
        _stretch(a, i + m, n - m)[:] = v[m:n]


def splat(x: Any) -> Any:
    return np.full(WIDTH // np.asarray(x).itemsize, x)


def zeros(a: Any) -> Any:
    return np.zeros(lanes(a), a.dtype)


def fma(x: Any, y: Any, z: Any) -> Any:
    return x * y + z


def sqrt(x: Any) -> Any:
    return np.sqrt(x)


def largest(x: Any, y: Any) -> Any:
    return np.where(y > x, y, x)


def smallest(x: Any, y: Any) -> Any:
    return np.where(y < x, y, x)


def exp(v: Any) -> Any:
    return np.exp(v)


def where_positive(z: Any, v: Any) -> Any:
    return np.where(np.isnan(z), z, np.where(z > 0, v, np.zeros_like(v)))


def first(v: Any, n: int) -> Any:
    return np.where(np.arange(v.size) < n, v, np.zeros_like(v))


def lane(v: Any, i: int) -> Any:
    return v[i]


def unless_nan(x: Any, y: Any) -> Any:
    return np.where(np.isnan(x), y, x)


def total(v: Any) -> Any:
    while v.size > 1:
        n = v.size // 2
        v = v[:n] + v[n:]
    return v[0]


def store_totals(a: Any, i: int, *vectors: Any) -> None:
    _stretch(a, i, len(vectors))[:] = [total(v) for v in vectors]


def array_at(address: int, n: int, like: Any) -> Any:
    kind = ctypes.c_float if like.itemsize == 4 else ctypes.c_double
    return np.ctypeslib.as_array((kind * int(n)).from_address(int(address)))


def pointer_to(a: Any) -> Any:
    return _flat(a)


def where_larger(v: Any, w: Any, a: Any, b: Any) -> Any:
    return np.where(v > w, a, b)


def where_larger_or_nan(v: Any, w: Any, a: Any, b: Any) -> Any:
    return np.where((v > w) | np.isnan(v), a, b)


def where_equal(v: Any, w: Any, a: Any, b: Any) -> Any:
    return np.where(v == w, a, b)


def peak(v: Any) -> Any:
    while v.size > 1:
        n = v.size // 2
        v = np.where(v[n:] > v[:n], v[n:], v[:n])
    return v[0]


def evens(v: Any, w: Any) -> Any:
    return np.concatenate([v, w])[::2].copy()


def odds(v: Any, w: Any) -> Any:
    return np.concatenate([v, w])[1::2].copy()


def zip_low(v: Any, w: Any) -> Any:
    return np.stack([v, w], 1).ravel()[: v.size].copy()


def zip_high(v: Any, w: Any) -> Any:
    return np.stack([v, w], 1).ravel()[v.size :].copy()


def load_whole(a: Any, i: int, v: Any) -> Any:
    return _stretch(a, i, v.size).astype(v.dtype)


def load_whole_first(a: Any, i: int, n: int, v: Any) -> Any:
    out = np.zeros_like(v)
    n = min(n, v.size)
    if n > 0:
        out[:n] = _stretch(a, i, n)
    return out


def store_whole(a: Any, i: int, v: Any) -> None:
    _stretch(a, i, v.size)[:] = v


def store_whole_first(a: Any, i: int, v: Any, n: int) -> None:
    n = min(n, v.size)
    if n > 0:
        _stretch(a, i, n)[:] = v[:n]


def misaligned(a: Any) -> int:
    return int(a.ctypes.data % WIDTH // a.itemsize)


def stream(a: Any, i: int, v: Any) -> None:
    if _stretch(a, i, lanes(a)).ctypes.data % WIDTH:
        raise ValueError(f"streamed store to element {i}, which is not at a multiple of {WIDTH} bytes")
    store(a, i, v)


def settle() -> None:
    """Stores of NumPy are seen as they are made."""


def blend(v: Any, w: Any, n: int) -> Any:
    return np.where(np.arange(v.size) < n, v, w)


def constant(v: Any, c: float) -> Any:
    return np.full(v.size, c, v.dtype)


def tanh_lanes(v: Any) -> Any:
    return np.tanh(v)


def erfc_lanes(v: Any) -> Any:
    return np.array([math.erfc(x) for x in v], v.dtype)
