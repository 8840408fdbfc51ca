"""The passes of batch normalisation on the GPU, for any shape (N, C, L): which kernel, in how many blocks.

Runs of 32 places and more go by ``bn_rows``, shorter ones by ``bn_columns``. The grid of the summing passes is C P, or
stripes of channels times P, where P is what ``parts`` (C, P, 3) has room for; ``cuts`` tells whoever makes it how many
keep a GPU busy: eight blocks a multiprocessor, of 4,096 elements at least. Channels lie on the grid's first axis, which
has room for 2^31 blocks, and shares of the batch on its second: blocks that run at a time read what lies together.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from tinygrad_bn.kernels.cuda import bn_column_gradients, bn_columns, bn_merge, bn_rows
from tinygrad_bn.kernels.cuda.bn_columns import ACROSS
from tinygrad_bn.kernels.cuda.bn_merge import MERGED
from tinygrad_bn.kernels.cuda.curves import tells
from tinygrad_bn.kernels.cuda.driver import driver
from tinygrad_bn.kernels.cuda.target import THREADS
from tinygrad_bn.kernels.cuda.words import kind_of, seen, width_of

__all__ = ["BLOCKS", "LEAST", "LONG", "MOST", "Passes", "cuts", "stripes_of", "walk_of"]

Array = np.ndarray[Any, Any]
LONG = 32  # places of a run from which a block has one channel
BLOCKS = 8  # of a multiprocessor
MOST = 65535  # blocks of the grid's second axis
LEAST = 4096 if THREADS == 256 else 64  # elements of a block


class _Stripes:
    """How columns are shared out: blocks ``across`` threads wide; where values are summed, ``group`` channels each."""

    def __init__(self, channels: int, length: int, width: int) -> None:
        columns = channels * length
        wide = 0
        while 1 << wide < ACROSS and width << wide < columns:
            wide += 1
        across = 1 << wide
        group = min(across * width // length, channels)
        while group * length % width:
            group -= 1
        self.wide, self.by, self.group = wide, THREADS // across, group
        self.sums = -(-channels // group)
        self.values = -(-columns // (across * width))


stripes_of = lru_cache(4096)(_Stripes)


@lru_cache(4096)
def walk_of(samples: int, channels: int, length: int, width: int) -> tuple[Any, ...]:
    """How a thread goes through a channel: units of it, units of a run, units and elements from one to the next."""
    per = length // width
    whole, rest = divmod(THREADS, per)
    return samples * per, np.int32(per), np.int32(rest), whole * channels * length + rest * width


@lru_cache(4096)
def cuts(channels: int, samples: int, length: int) -> int:
    """Return into how many parts the values of each channel are best cut: fixed by the shape and the GPU."""
    wanted = BLOCKS * driver().processors
    if length >= LONG:
        return max(1, min(wanted // max(channels, 1), samples * length // LEAST))
    width = 4 if channels * length % 4 == 0 else 1
    stripes = stripes_of(channels, length, width)
    return max(1, min(wanted // stripes.sums, samples // (4 * stripes.by)))


class Passes:
    """The passes over the arrays of one call, all of x's shape (N, C, L), element type and layout.

    Parameters
    ----------
    x : numpy.ndarray
    weight, bias : numpy.ndarray, shape (C,) or (0,)
    statistics : numpy.ndarray, shape (4, C)
    act : int
    slope : float
    others : numpy.ndarray
        What else is read or written of x's shape; empty ones do not count.
    """

    def __init__(
        self, x: Array, weight: Array, bias: Array, statistics: Array, act: int, slope: float, *others: Array
    ) -> None:
        self.samples, self.channels, self.length = n, c, length = x.shape
        self.rows = length >= LONG
        self.kind = kind_of(x)
        width = width_of(length if self.rows else c * length, x, *others)
        self.width = width if self.rows else min(width, 4)  # a thread keeps the numbers of four columns, not eight
        self.x = seen(x, self.width)
        self.affine = weight, bias
        self.flags = int(weight.size > 0), int(bias.size > 0)
        self.statistics, self.act, self.slope = statistics, act, float(slope)
        if self.rows:
            self.most, *walk = walk_of(n, c, length, self.width)
            self.walk = c, length, *walk
        else:
            self.stripes = stripes_of(c, length, self.width)
            self.most = n
        blocks = BLOCKS * driver().processors
        work = n * length // LEAST if self.rows else n // (4 * self.stripes.by)
        self.splits = max(1, min(blocks // (c if self.rows else self.stripes.values), work, MOST))
        self.shares = divmod(self.most, self.splits)

    def _parts(self, parts: Array) -> tuple[int, int]:
        """How many parts of a channel there is room for, and how many are used."""
        return parts.shape[1], min(parts.shape[1], self.most, MOST)

    def moments(self, parts: Array) -> int:
        """Write count, mean and M2 of each part of each channel; return how many parts a channel has."""
        stride, used = self._parts(parts)
        given = self.x, self.statistics, parts
        constants = self.width, self.kind
        if self.rows:
            bn_rows._moments[self.channels, used](*given, *self.walk, stride, *divmod(self.most, used), *constants)
        else:
            s = self.stripes
            extents = self.channels, self.length, s.group, s.wide
            bn_columns._moments[s.sums, used](*given, *extents, stride, *divmod(self.most, used), *constants)
        return used

    def finish(self, parts: Array, used: int, eps: float) -> None:
        """Write the statistics."""
        bn_merge.finish(parts, used, eps, self.statistics)

    def train(self, residual: Array | None, parts: Array, eps: float, y: Array) -> None:
        """Find the statistics, then y."""
        used = self.moments(parts)
        if self.rows and used <= MERGED:
            self.apply(residual, y, parts, used, eps)
        else:
            self.finish(parts, used, eps)
            self.apply(residual, y)

    def apply(
        self, residual: Array | None, y: Array, parts: Array | None = None, used: int = 1, eps: float = 0.0
    ) -> None:
        """y = act((x - mean) invstd weight + bias + residual); where parts are given, they are merged first."""
        added = residual is not None
        r = self.x if residual is None else seen(residual, self.width)
        given = self.x, r, *self.affine, self.statistics
        out = self.slope, seen(y, self.width), *self.flags
        constants = self.width, self.kind, self.act, int(added)
        if self.rows:
            scratch = np.empty(0) if parts is None else parts
            stride = 1 if parts is None else parts.shape[1]
            merging = scratch, np.float64(eps)
            bn_rows._apply[self.channels, self.splits](
                *given, *merging, *out, *self.walk, stride, used, *self.shares, *constants, int(parts is not None)
            )
        else:
            s = self.stripes
            extents = self.channels, self.length, s.wide
            bn_columns._apply[s.values, self.splits](*given, *out, *extents, *self.shares, *constants)

    def sums(self, gy: Array, kept: Array | None, gr: Array | None, gx: Array | None, parts: Array) -> int:
        """Write Σ g and Σ g d of each part of each channel, g to gr where it is given, gain g to gx where it is given;
        ``kept`` is the output if that tells the slope, else the residual. Return how many parts a channel has."""
        stride, used = self._parts(parts)
        role = 0 if kept is None else 1 if tells(self.act, self.slope) else 2
        k, r, out = (self.x if a is None else seen(a, self.width) for a in (kept, gr, gx))
        given = seen(gy, self.width), self.x, k, *self.affine, self.statistics, self.slope, r, out, parts, *self.flags
        writes = int(gr is not None) + 2 * int(gx is not None)
        constants = self.width, self.kind, self.act, role, writes
        if self.rows:
            bn_rows._sums[self.channels, used](*given, *self.walk, stride, *divmod(self.most, used), *constants)
        else:
            s = self.stripes
            extents = self.channels, self.length, s.group, s.wide
            bn_column_gradients._sums[s.sums, used](*given, *extents, stride, *divmod(self.most, used), *constants)
        return used

    def gradient(self, g: Array, act: int, gx: Array, gweight: Array, gbias: Array, parts: Array, used: int) -> None:
        """gx = gain (g act' - k1 - d k2), gweight and gbias, from the parts that ``sums`` has left."""
        stride = parts.shape[1]
        count = float(self.samples * self.length)
        merges = self.rows and used <= MERGED
        if not merges:
            bn_merge.gather(parts, used, self.statistics, count, gweight, gbias)
        given = seen(g, self.width), self.x, *self.affine, self.statistics, parts
        out = seen(gx, self.width)
        if self.rows:
            bn_rows._gradient[self.channels, self.splits](
                *given, np.float64(count), self.slope, out, gweight, gbias, *self.flags, *self.walk, stride, used,
                *self.shares, self.width, self.kind, act, int(merges),
            )  # fmt: skip
        else:
            s = self.stripes
            extents = self.channels, self.length, s.wide
            bn_column_gradients._gradient[s.values, self.splits](
                *given, self.slope, out, *self.flags, *extents, stride, *self.shares, self.width, self.kind, act
            )

    def constant_sums(
        self, gy: Array, kept: Array | None, gr: Array | None, gx: Array, gweight: Array, gbias: Array, parts: Array
    ) -> None:
        """The gradients where the statistics are constants: gx = gain g."""
        used = self.sums(gy, kept, gr, gx, parts)
        bn_merge.gather(parts, used, self.statistics, 0.0, gweight, gbias)
