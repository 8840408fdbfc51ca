"""Sizes that the direct kernels of the filters' gradient and their callers agree on.

A strip holds what the windows of a block of outputs read: of each channel the rows that some tap needs, padding
included, whole samples one behind the other. A block of gradients holds as many outputs as fit a few registers, pixel
by pixel.
"""

from __future__ import annotations

from math import gcd

LANES = 16  # of a register, at most
REGISTERS = 3  # of outputs in a block, at most
DOTS = 6  # taps of a tile of dots, at most
TOTALS = 4 * LANES * LANES  # room for the sums of a tile of dots, and for two squares of registers
LEAST = 4  # taps of the smallest tile: their number is rounded up to a multiple


def row_step(kernel: int, stride: int, dilation: int) -> int:
    """How far apart the rows lie that any tap reads: those between are left out of the strip."""
    return stride if kernel == 1 else gcd(stride, dilation)


def reach(count: int, kernel: int, stride: int, dilation: int) -> int:
    """Places along an axis from the first tap of the first of ``count`` windows to the last of the last."""
    return (count - 1) * stride + (kernel - 1) * dilation + 1


def strip_rows(rows: int, kernel: int, stride: int, dilation: int) -> int:
    """Rows of the input in the strip of so many rows of outputs."""
    return (reach(rows, kernel, stride, dilation) - 1) // row_step(kernel, stride, dilation) + 1


def channel_step(samples: int, rows: int, columns: int) -> int:
    """Elements from channel to channel of a strip: an odd number of cache lines, or the channels would meet in a few
    sets of the cache; the last store may reach a register beyond."""
    return ((samples * rows * columns + LANES - 1) // LANES + 1 | 1) * LANES


def block_work(pixels: int) -> int:
    """Elements of a block of gradients, and of the square on which its edges are transposed."""
    return (pixels + LANES) * REGISTERS * LANES + LANES * LANES


def places(taps: int) -> int:
    """Elements of the list of taps of a range: rounded up to whole tiles."""
    return -(-taps // LEAST) * LEAST + LEAST
