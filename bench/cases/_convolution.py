"""Convolution and pooling in float64, in plain NumPy: a sum over the places of the kernel, one at a time.

Place (i, j) of a kernel of side k sees, of the padded input, rows i, i + s, i + 2s … and columns j, j + s, j + 2s …
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np

from bench.harness.case import Array

Places = Iterator[tuple[int, int, tuple[slice, ...]]]


def extent(size: int, kernel: int, stride: int, padding: int) -> int:
    """Return the height or width that a kernel leaves."""
    return (size + 2 * padding - kernel) // stride + 1


def padded(x: Array, padding: int, value: float = 0.0) -> Array:
    """Return (N, C, H, W) with that many rows and columns more on each side."""
    sides = (padding, padding)
    return np.pad(x, ((0, 0), (0, 0), sides, sides), constant_values=value)


def places(kernel: int, stride: int, height: int, width: int) -> Places:
    """Yield i, j and what the kernel's place (i, j) sees for outputs of that height and width."""
    for i, j in product(range(kernel), repeat=2):
        rows, columns = (slice(a, a + stride * (n - 1) + 1, stride) for a, n in ((i, height), (j, width)))
        yield i, j, (slice(None), slice(None), rows, columns)


def _flat(x: Array) -> Array:
    return np.ascontiguousarray(x).reshape(*x.shape[:2], -1)


def conv(x: Array, weight: Array, stride: int, padding: int) -> Array:
    """Return Σ_ij weight[:, :, i, j] x_ij, shape (N, O, H', W')."""
    outputs, _, kernel, _ = weight.shape
    height, width = (extent(n, kernel, stride, padding) for n in x.shape[2:])
    wide = padded(x, padding)
    y = np.zeros((len(x), outputs, height * width))
    for i, j, seen in places(kernel, stride, height, width):
        y += weight[:, :, i, j] @ _flat(wide[seen])
    return y.reshape(len(x), outputs, height, width)


def conv_input(g: Array, weight: Array, shape: tuple[int, ...], stride: int, padding: int) -> Array:
    """Return the gradient of an input of that shape: each place gives back weight[:, :, i, j]ᵀ g."""
    wide = padded(np.zeros(shape), padding)
    flat = _flat(g)
    for i, j, seen in places(weight.shape[2], stride, *g.shape[2:]):
        wide[seen] += (weight[:, :, i, j].T @ flat).reshape(len(g), -1, *g.shape[2:])
    return wide[:, :, padding : padding + shape[2], padding : padding + shape[3]]


def conv_weight(x: Array, g: Array, kernel: int, stride: int, padding: int) -> Array:
    """Return the gradient of the weight: Σ_n g_n x_ijᵀ at each place."""
    wide, flat = padded(x, padding), _flat(g)
    gweight = np.empty((g.shape[1], x.shape[1], kernel, kernel))
    for i, j, seen in places(kernel, stride, *g.shape[2:]):
        gweight[:, :, i, j] = (flat @ _flat(wide[seen]).transpose(0, 2, 1)).sum(0)
    return gweight


def max_pool(x: Array, kernel: int, stride: int, padding: int) -> tuple[Array, Array]:
    """Return the largest value of each window and the number i·k + j of its first place."""
    height, width = (extent(n, kernel, stride, padding) for n in x.shape[2:])
    wide = padded(x, padding, -np.inf)
    y = np.full((*x.shape[:2], height, width), -np.inf)
    place = np.zeros(y.shape, np.int64)
    for i, j, seen in places(kernel, stride, height, width):
        larger = wide[seen] > y
        place[larger] = i * kernel + j
        y[larger] = wide[seen][larger]
    return y, place


def max_pool_input(g: Array, place: Array, shape: tuple[int, ...], kernel: int, stride: int, padding: int) -> Array:
    """Return the gradient of an input of that shape: all of g goes to the place that was the largest."""
    wide = padded(np.zeros(shape), padding)
    for i, j, seen in places(kernel, stride, *g.shape[2:]):
        wide[seen] += g * (place == i * kernel + j)
    return wide[:, :, padding : padding + shape[2], padding : padding + shape[3]]


def avg_pool(x: Array, kernel: int, stride: int, padding: int) -> Array:
    """Return the mean of each window; zeros of the padding count."""
    height, width = (extent(n, kernel, stride, padding) for n in x.shape[2:])
    wide = padded(x, padding)
    y = np.zeros((*x.shape[:2], height, width))
    for _, _, seen in places(kernel, stride, height, width):
        y += wide[seen]
    return y / kernel**2


def avg_pool_input(g: Array, shape: tuple[int, ...], kernel: int, stride: int, padding: int) -> Array:
    """Return the gradient of an input of that shape: each place of a window has its share."""
    wide = padded(np.zeros(shape), padding)
    for _, _, seen in places(kernel, stride, *g.shape[2:]):
        wide[seen] += g / kernel**2
    return wide[:, :, padding : padding + shape[2], padding : padding + shape[3]]
