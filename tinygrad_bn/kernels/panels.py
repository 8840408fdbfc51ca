"""How a convolution, or its gradient, is done by panels: products of matrices whose columns exist a panel at a time.

Terms are those of ``kernels/direct.py``. The points of the grid are numbered through all samples. A panel holds, of a
few registers of neighbouring points, what each tap sees of each channel, one element of the sum behind the other; the
filters are laid out likewise, a few outputs beside each other. Then the sums read both from end to end, whatever the
strides and however many points a row has, and only the last panel is not full.

That pays where the outputs are many, since each meets the whole panel, and as long as a panel stays in the cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from tinygrad_bn.kernels.direct import Pair, Tap

Array = np.ndarray[Any, Any]

POINTS = 48  # of a panel, at most
ROWS = 8  # outputs of a tile, at most
SHARES = 8  # shares of the outputs that a panel's work can be cut into
ROOM = 1 << 20  # bytes of a panel, at most
LEAST, WORK, FULL = 64, 1 << 24, 0.9  # where panels pay: outputs and terms of a sum, products, part of panels in use
MANY = 128  # outputs that pay for laying out neighbouring points again for each of several taps


@dataclass(frozen=True)
class Plan:
    """What ``panel_convolution`` needs to know beside its arrays.

    Attributes
    ----------
    taps : Array, shape (T, 6), int64
        Phase (a, b), (dy, dx), number in the filter, number of its offset; sorted by phase.
    offsets : Array, shape (D, 2), int64
        The distinct (dy, dx).
    filters, places, work : int
        Elements of workspace: for all, and for each share of the work.
    """

    taps: Array
    offsets: Array
    filters: int
    places: int
    work: int


@lru_cache(maxsize=1024)
def plan(taps: tuple[Tap, ...], phases: int, channels: int, rows: int, groups: int) -> Plan:
    """Lay out panels for so many channels and outputs of a group."""
    offsets = sorted({(t.dy, t.dx) for t in taps})
    table = [(*t, offsets.index((t.dy, t.dx))) for t in taps]
    return Plan(
        np.array(table, np.int64).reshape(-1, 6),
        np.array(offsets, np.int64).reshape(-1, 2),
        groups * (rows + ROWS) * (len(taps) * channels + 1),
        8 * POINTS,
        (len(offsets) * channels + 1 + phases * ROWS + 3) * POINTS,
    )


def pays(
    taps: tuple[Tap, ...], strided: bool, samples: int, channels: int, rows: int, grid: Pair, itemsize: int
) -> bool:
    """Whether panels are ahead of strips, as was measured; ``strided``: a convolution that is, or its gradient."""
    offsets, terms, points = len({(t.dy, t.dx) for t in taps}), channels * len(taps), samples * grid[0] * grid[1]
    if min(rows, terms) < LEAST or rows * terms * points < WORK or offsets * channels * POINTS * itemsize > ROOM:
        return False
    if -(-points // POINTS) * POINTS * FULL > points:
        return False
    return offsets == 1 or rows * len(taps) >= MANY * (1 if strided else 2) * offsets
