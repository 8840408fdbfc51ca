"""float16 and bfloat16 as words of 16 bits, to and from float32, and what a loss scaler does; ``kernels/ref/half.py``
says what.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_bn.kernels.cuda.copying import aligned
from tinygrad_bn.kernels.cuda.driver import driver
from tinygrad_bn.kernels.cuda.entry import blocks, entry
from tinygrad_bn.kernels.cuda.target import cuda
from tinygrad_bn.kernels.cuda.vector import at, load4, raise_to, store4
from tinygrad_bn.kernels.cuda.words import BFLOAT16, FLOAT16, number, real, word
from tinygrad_bn.kernels.ref.half import FLOAT16 as BINARY16

__all__ = ["follow", "narrow", "unscale", "update_scale", "widen"]

Array = np.ndarray[Any, Any]
_MOST = float(np.finfo(np.float32).max)


@entry(static="kind fours")
def _widen(x: Any, out: Any, n: Any, kind: Any, fours: Any) -> None:
    i = cuda.grid(1)
    if fours:
        while 4 * i < n:
            a, b, c, d = load4(x, 4 * i)
            store4(out, 4 * i, number(a, kind), number(b, kind), number(c, kind), number(d, kind))
            i += cuda.gridsize(1)
    else:
        while i < n:
            out[i] = number(x[i], kind)
            i += cuda.gridsize(1)


@entry(static="kind fours")
def _narrow(x: Any, out: Any, n: Any, kind: Any, fours: Any) -> None:
    i = cuda.grid(1)
    if fours:
        while 4 * i < n:
            a, b, c, d = load4(x, 4 * i)
            e, f = np.uint16(word(a, kind)), np.uint16(word(b, kind))
            store4(out, 4 * i, e, f, np.uint16(word(c, kind)), np.uint16(word(d, kind)))
            i += cuda.gridsize(1)
    else:
        while i < n:
            out[i] = np.uint16(word(x[i], kind))
            i += cuda.gridsize(1)


@entry(static="kind")
def _follow(x: Any, out: Any, n: Any, kind: Any) -> None:
    i = cuda.grid(1)
    while i < n:
        if np.uint32(word(out[i], kind)) != np.uint32(x[i]):
            out[i] = number(x[i], kind)
        i += cuda.gridsize(1)


@entry(real="like")
def _unscale(table: Any, like: Any, scale: Any, found: Any, rows: Any, one: Any) -> None:
    """x - x is NaN where x is not finite; ``one`` is what 1 is as an integer of found's size."""
    inverse = real(np.float64(1.0) / np.float64(scale[0]))
    bad = False
    for row in range(rows):
        x = at(table[2 * row], like)
        n = table[2 * row + 1]
        i = cuda.grid(1)
        while i < n:
            v = x[i]
            if v - v != 0.0:
                bad = True
            x[i] = v * inverse
            i += cuda.gridsize(1)
    if bad:
        raise_to(found, 0, one)


@entry
def _update_scale(found: Any, growth: Any, backoff: Any, interval: Any, scale: Any, tracker: Any, most: Any) -> None:
    if cuda.grid(1) == 0:
        if found[0] != 0:
            scale[0] = np.float64(scale[0]) * backoff
            tracker[0] = 0
        else:
            count = tracker[0] + 1
            if count == interval:
                grown = np.float64(scale[0]) * growth
                if grown <= most:
                    scale[0] = grown
                count = 0
            tracker[0] = count


def _kind(kind: int) -> int:
    return FLOAT16 if kind == BINARY16 else BFLOAT16


def widen(x: Array, kind: int, out: Array) -> None:
    """out = the values of the words x (M,) uint16, float32: exact."""
    n = x.size
    if n:
        fours = n % 4 == 0 and aligned(x) and aligned(out)
        _widen[blocks(n // 4 if fours else n)](x, out, n, _kind(kind), fours)


def narrow(x: Array, kind: int, out: Array) -> None:
    """out = the words, uint16, of the numbers nearest to x (M,) float32."""
    n = x.size
    if n:
        fours = n % 4 == 0 and aligned(x) and aligned(out)
        _narrow[blocks(n // 4 if fours else n)](x, out, n, _kind(kind), fours)


def follow(x: Array, kind: int, out: Array) -> None:
    """out = x (M,) widened where out, float32, does not round to x."""
    if x.size:
        _follow[blocks(x.size)](x, out, x.size, _kind(kind))


def unscale(table: Any, like: Array, scale: Array, found: Array) -> None:
    """Row: array. x *= 1 / scale[0]; found[0] = 1 where an element is not finite."""
    if len(table):
        whole: Any = np.int32 if found.dtype == np.float32 else np.int64
        one = np.ones(1, found.dtype).view(whole)[0]
        _unscale[4 * driver().processors](table, like, scale, found.view(whole), len(table), one)


def update_scale(found: Array, growth: float, backoff: float, interval: int, scale: Array, tracker: Array) -> None:
    """scale (1,) *= backoff after a step with found[0] != 0; *= growth after ``interval`` steps in a row without."""
    _update_scale[1](found, np.float64(growth), np.float64(backoff), interval, scale, tracker, np.float64(_MOST))
