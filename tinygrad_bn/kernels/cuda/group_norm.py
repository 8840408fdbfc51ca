"""Normalisation within a sample, of an input seen as (N, G, D, L): a mean and variance for each (n, g).

    y  = (x - mean) invstd w_c + b_c,  invstd = 1 / √(var + eps), var biased, c = g D + d
    gx = invstd (h - mean(h) - x̂ mean(h x̂)),  h = gy w_c;  gw_c = Σ gy x̂ and gb_c = Σ gy over n and L

Wu & He 2018 (arXiv:1803.08494). A row is an (n, g): D L numbers side by side, which a power of 2 of a block's threads
share: they find its statistics as ``bn_rows`` does, and at once go over it again, out of a cache. So of memory, forward
reads and writes 1 value an element, backward reads 2 and writes 1 for gx (``gn_rows``), and reads 2 for gw and gb,
which are sums over the rows (``gn_sums``). All sums are in an order that shape and GPU fix. x, y, gy, gx may be
float16, or bfloat16 as uint16: then the rest is float32.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from tinygrad_bn.kernels.cuda import gn_rows, gn_sums
from tinygrad_bn.kernels.cuda.bn_launch import BLOCKS, LEAST, LONG, MOST, stripes_of, walk_of
from tinygrad_bn.kernels.cuda.driver import driver
from tinygrad_bn.kernels.cuda.target import THREADS
from tinygrad_bn.kernels.cuda.words import kind_of, seen, width_of

__all__ = ["cuts", "group_norm", "group_norm_backward"]

Array = np.ndarray[Any, Any]


@lru_cache(4096)
def cuts(samples: int, channels: int, length: int) -> int:
    """Return into how many parts the samples are best cut for the sums of a channel: fixed by the shape and the GPU."""
    wanted = BLOCKS * driver().processors
    if length >= LONG:
        return max(1, min(wanted // max(channels, 1), samples * length // LEAST))
    stripes = stripes_of(channels, length, 4 if channels * length % 4 == 0 else 1)
    return max(1, min(wanted // stripes.sums, samples // (4 * stripes.by)))


@lru_cache(4096)
def _threads(units: int) -> int:
    """The logarithm of how many threads share a row of so many units: four each, but 32 where there are as many."""
    wide = 0
    while 1 << wide < THREADS and (4 << wide < units or (wide < 5 and 1 << wide < units)):
        wide += 1
    return wide


def _extents(x: Array, width: int) -> tuple[tuple[int, int], tuple[Any, ...]]:
    """The grid over the rows, and what a kernel is told of them."""
    n, groups, depth, length = x.shape
    wide = _threads(depth * length // width)
    across = 1 << wide
    per = length // width if length > 1 else 1
    units = depth * length // width
    ahead, rest = divmod(across, per)
    grid = -(-n * groups // (THREADS >> wide)), 1
    return grid, (n * groups, groups, depth, np.int32(units), wide, np.int32(per), np.int32(ahead), np.int32(rest))


def _width(x: Array, weight: Array, *others: Array) -> int:
    depth, length = x.shape[2:]
    width = width_of(length if length > 1 else depth, x, *others)
    return width if weight.size == 0 or width_of(4, weight) == 4 else 1


def group_norm(x: Array, weight: Array, bias: Array, eps: float, y: Array, statistics: Array) -> None:
    width = _width(x, weight, y)
    width = width if bias.size == 0 or width_of(4, bias) == 4 else 1
    grid, extents = _extents(x, width)
    gn_rows._forward[grid](
        seen(x, width), weight, bias, np.float64(eps), seen(y, width), statistics,
        int(weight.size > 0), int(bias.size > 0), *extents, width, kind_of(x), int(x.shape[3] == 1),
    )  # fmt: skip


def group_norm_backward(
    gy: Array, x: Array, weight: Array, statistics: Array,
    gx: Array, gweight: Array, gbias: Array, recent: Array, sums: Array,
) -> None:  # fmt: skip
    width = _width(x, weight, gy, gx)
    grid, extents = _extents(x, width)
    gn_rows._backward[grid](
        seen(gy, width), seen(x, width), weight, statistics, seen(gx, width),
        int(weight.size > 0), *extents, width, kind_of(x), int(x.shape[3] == 1),
    )  # fmt: skip
    if gweight.size or gbias.size:
        _sums(gy, x, statistics, gweight, gbias, sums)


def _sums(gy: Array, x: Array, statistics: Array, gweight: Array, gbias: Array, sums: Array) -> None:
    """gw and gb: parts of the samples in blocks of their own, then their sums."""
    n, groups, depth, length = x.shape
    channels, kind = groups * depth, kind_of(x)
    rows = length >= LONG
    if rows:
        width = width_of(length, gy, x)
        most, per, step, jump = walk_of(n, channels, length, width)
        used = min(sums.shape[0], most, MOST)
        gn_sums._rows[channels, used](
            seen(gy, width), seen(x, width), statistics, sums, n * groups, groups, depth, length, per, step, jump,
            np.int32(THREADS // int(per)), *divmod(most, used), width, kind,
        )  # fmt: skip
    else:
        width = min(width_of(channels * length, gy, x), 4)
        stripes = stripes_of(channels, length, width)
        used = min(sums.shape[0], n, MOST)
        gn_sums._columns[stripes.sums, used](
            gy, x, statistics, sums, n * groups, groups, depth, length, stripes.group, stripes.wide, *divmod(n, used),
            width, kind, int(depth * length % width == 0),
        )  # fmt: skip
    gn_sums._total[-(-channels // THREADS)](
        sums, statistics, used, channels, gweight, gbias, int(gweight.size > 0), int(gbias.size > 0)
    )
