"""float16 and bfloat16 as words of 16 bits, to and from float32.

float16 is binary16 of IEEE 754-2019; bfloat16 is its binary32 cut short.

Read by the definition of the formats: a word is a sign, e bits of exponent and m bits of fraction. To nearest, ties to
even, subnormals included; what is beyond the largest number becomes infinity, NaN stays NaN. And what a loss scaler
does to gradients and to its scale.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_bn.kernels.spec import spec

Array = np.ndarray[Any, Any]

BFLOAT16, FLOAT16 = 0, 1
"""Kinds of words."""
_FORMS = {BFLOAT16: (8, 7), FLOAT16: (5, 10)}  # bits of exponent, bits of fraction


@spec()
def widen(x: Array, kind: int, out: Array) -> None:
    """out = the values of the words x (M,) uint16, float32: exact."""
    exponents, fractions = _FORMS[kind]
    bias = (1 << (exponents - 1)) - 1
    w = x.astype(np.int64)
    e, f = (w >> fractions) & ((1 << exponents) - 1), w & ((1 << fractions) - 1)
    normal = e > 0
    value = np.ldexp((f + (normal << fractions)).astype(np.float64), np.where(normal, e, 1) - bias - fractions)
    value = np.where(e == (1 << exponents) - 1, np.where(f == 0, np.inf, np.nan), value)
    out[...] = np.where(w >> 15 == 1, -value, value)


@spec()
def narrow(x: Array, kind: int, out: Array) -> None:
    """out = the words, uint16, of the numbers nearest to x (M,) float32."""
    exponents, fractions = _FORMS[kind]
    bias = (1 << (exponents - 1)) - 1
    finite = np.isfinite(x)
    a = np.abs(np.where(finite, x, 0).astype(np.float64))
    _, e = np.frexp(a)  # a = m 2^e, 1/2 <= m < 1
    step = np.where(a == 0, 1 - bias, np.maximum(e - 1, 1 - bias)) - fractions  # the last place counts 2^step
    places = np.rint(np.ldexp(a, -step)).astype(np.int64)  # a tie goes to the even one
    top = ((1 << exponents) - 1) << fractions
    word = places + ((step + bias + fractions - 1) << fractions)
    word = np.where(finite, np.minimum(word, top), np.where(np.isnan(x), top | (1 << (fractions - 1)), top))
    out[...] = word | (np.signbit(x).astype(np.int64) << 15)


@spec(updates="out", writes="")
def follow(x: Array, kind: int, out: Array) -> None:
    """out = x (M,) widened where out, float32, does not round to x: a master copy follows a parameter that others have
    changed."""
    rounded, wide = np.empty_like(x), np.empty_like(out)
    narrow(out, kind, rounded)
    widen(x, kind, wide)
    out[...] = np.where(rounded == x, out, wide)


@spec(updates="table found", writes="")
def unscale(table: Any, like: Array, scale: Array, found: Array) -> None:
    """Row: array. x *= 1 / scale[0]; found[0] = 1 where an element is not finite. Micikevicius et al. 2018
    (arXiv:1710.03740), section 3.2."""
    inverse = 1.0 / np.float64(scale[0])
    for (x,) in table:
        if not np.isfinite(x).all():
            found[0] = 1
        x *= x.dtype.type(inverse)


@spec(updates="scale tracker", writes="")
def update_scale(found: Array, growth: float, backoff: float, interval: int, scale: Array, tracker: Array) -> None:
    """scale (1,) float32 *= backoff after a step with found[0] != 0; *= growth after ``interval`` steps in a row
    without, unless that overflows. tracker (1,) int32 counts these."""
    if found[0] != 0:
        scale[0] *= backoff
        tracker[0] = 0
        return
    tracker[0] += 1
    if tracker[0] == interval:
        grown = np.float64(scale[0]) * growth
        if grown <= np.finfo(np.float32).max:
            scale[0] = grown
        tracker[0] = 0
