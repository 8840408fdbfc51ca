"""Sizes that the kernels of convolutions in groups of few channels and their callers agree on.

Pixels are registers: as many planes as one has lanes. Strips hold a band of rows, padded.
"""

from __future__ import annotations

LANES = 16  # of a register, at most
ROOM = 1024  # pixels of the strips of a band, about


def span(windows: int, kernel: int, dilation: int, stride: int) -> int:
    """How many elements of an axis so many windows see."""
    return (windows - 1) * stride + (kernel - 1) * dilation + 1


def before(kernel: int, dilation: int, stride: int, padding: int) -> int:
    """How many windows ahead of the u-th see an element of the u-th stride; at least 0."""
    return max(0, ((kernel - 1) * dilation - padding) // stride)


def after(stride: int, padding: int) -> int:
    """How many windows behind the u-th see it."""
    return (padding + stride - 1) // stride


def band_of(rows: int, fixed: int, each: int) -> int:
    """How many of the rows are computed at once, a row needing ``each`` pixels, all of them ``fixed`` more."""
    bands = -(-rows // max(1, (ROOM - fixed) // each))
    return -(-rows // bands)
