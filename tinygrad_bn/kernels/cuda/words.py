"""Elements of a tensor as numbers: float32 and float64 as they are, float16 and bfloat16 as words of 16 bits.

A kernel says what its tensors hold by ``kind``, and how many elements it takes at once, a unit, by ``width``; both are
constants of the compiled code.

    PLAIN      real              width 4: one access of 16 bytes of float32, two of float64; width 1: an element
    BFLOAT16   float32, upper    width 8: one access of 16 bytes, the array given as words of 32 bits, which hold two
    FLOAT16    IEEE binary16         elements each; width 4: one of 8 bytes; width 1: an element

``fetch`` brings a unit as it lies in memory, so that several can be under way; ``number`` tells what a word stands
for; ``put`` rounds, to nearest, ties to even, and writes a unit. Of a unit of 8 elements the even ones come first.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_bn.kernels.cuda.array import address
from tinygrad_bn.kernels.cuda.entry import device
from tinygrad_bn.kernels.cuda.target import SIMULATED
from tinygrad_bn.kernels.cuda.vector import as_bits, as_number, load4, store4

__all__ = [
    "BFLOAT16", "FLOAT16", "PLAIN", "fetch", "first_of", "kind_of", "number", "numbers", "odd", "put", "real", "seen",
    "width_of",
]  # fmt: skip

PLAIN, BFLOAT16, FLOAT16 = 0, 1, 2
Array = np.ndarray[Any, Any]
real: Any = np.float64
"""The name by which kernels call their own type: each is compiled with another in its place."""

if SIMULATED:

    def half_number(w: Any) -> Any:
        """Return the float32 that the lower 16 bits are in binary16."""
        return np.float32(np.uint16(w & np.uint32(0xFFFF)).view(np.float16))

    def half_word(x: Any) -> Any:
        """Return the float16 nearest to a float32, as uint32."""
        return np.uint32(np.float16(x).view(np.uint16))

else:
    from tinygrad_bn.kernels.cuda.intrinsics_half import half_number, half_word


@device
def upper(w: Any) -> Any:
    """The upper half of a word of 32 bits."""
    return np.uint32(np.uint32(w) >> np.uint32(16))


@device
def number(w: Any, kind: Any) -> Any:
    """The number that an element is; of a word of 32 bits, that of its lower half."""
    if kind == BFLOAT16:
        return real(as_number(np.uint32(np.uint32(w) << np.uint32(16))))
    if kind == FLOAT16:
        return real(half_number(np.uint32(w)))
    return real(w)


@device
def numbers(raw: Any, kind: Any) -> Any:
    """The four elements of a unit; of one of 8, the even ones."""
    a, b, c, d = raw
    return number(a, kind), number(b, kind), number(c, kind), number(d, kind)


@device
def odd(raw: Any) -> Any:
    """A unit of 8 as if its odd elements were the even ones."""
    a, b, c, d = raw
    return upper(a), upper(b), upper(c), upper(d)


@device
def word(x: Any, kind: Any) -> Any:
    """The word nearest to a number, as uint32; a NaN stays one."""
    if kind == FLOAT16:
        return half_word(np.float32(x))
    bits = as_bits(np.float32(x))
    high = np.uint32(bits >> np.uint32(16))
    carry = np.uint32(np.uint32(0x7FFF) + np.uint32(high & np.uint32(1)))
    rounded = np.uint32(np.uint32(bits + carry) >> np.uint32(16))
    if np.uint32(bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000):
        rounded = np.uint32(high | np.uint32(0x40))
    return rounded


@device
def pair(a: Any, b: Any, kind: Any) -> Any:
    """Two numbers as one word of 32 bits."""
    return np.uint32(word(a, kind) | np.uint32(word(b, kind) << np.uint32(16)))


@device
def first_of(p: Any, o: Any, width: Any, kind: Any) -> Any:
    """Element o, the first of a unit."""
    return number(p[o >> 1] if width == 8 else p[o], kind)


@device
def fetch(p: Any, o: Any, width: Any) -> Any:
    """The unit that begins with element o, as it lies in memory; of width 1, four times the same."""
    if width == 8:
        return load4(p, o >> 1)
    if width == 4:
        return load4(p, o)
    w = p[o]
    return w, w, w, w


@device
def put(p: Any, o: Any, a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, g: Any, h: Any, width: Any, kind: Any) -> None:
    """Write a unit: a … d, or of width 8 the even elements a … d and the odd ones e … h, or of width 1 only a."""
    if width == 8:
        store4(p, o >> 1, pair(a, e, kind), pair(b, f, kind), pair(c, g, kind), pair(d, h, kind))
    elif width == 4:
        if kind == PLAIN:
            store4(p, o, a, b, c, d)
        else:
            store4(
                p,
                o,
                np.uint16(word(a, kind)),
                np.uint16(word(b, kind)),
                np.uint16(word(c, kind)),
                np.uint16(word(d, kind)),
            )
    elif kind == PLAIN:
        p[o] = a
    else:
        p[o] = np.uint16(word(a, kind))


def kind_of(array: Array) -> int:
    """Return what an array holds."""
    return {"H": BFLOAT16, "e": FLOAT16}.get(array.dtype.char, PLAIN)


def width_of(length: int, *arrays: Array) -> int:
    """Return how many elements kernels may take at once of arrays whose runs of ``length`` begin one behind the other;
    where an array is empty, it is not taken into account."""
    size = arrays[0].itemsize
    begins = [address(a) for a in arrays if a.size]
    for width in (8, 4):
        fits = length % width == 0 and (width == 4 or size == 2)
        if fits and not any(at % (width * size) for at in begins):
            return width
    return 1


def seen(array: Array, width: int) -> Array:
    """Return an array as kernels of a width take it."""
    return array.reshape(-1).view(np.uint32) if width == 8 and array.size else array
