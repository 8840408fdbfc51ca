"""How a direct convolution is cut, found once a shape: a sum of taps, strips of the output, lines of the input.

Convolution and its gradient with respect to the input are both

    out[n, r, i p + a, j p' + b] = Σ_c Σ_taps of (a, b)  w[…, tap] x[n, c, i s + dy, j s' + dx]

over a grid of (i, j). A convolution of stride s has one phase (a, b) = (0, 0) and spread p = 1; its gradient has input
stride 1, spread p = s, and p p' phases, each of which meets the taps that lie on its rows and columns.

A strip is a piece of the grid: rows of one sample, a part of one row, or several samples; its points are numbered
flat. A line is a run of the input, ``dy`` and ``dx`` from the strip's first point, copied so that it is read in steps
of the strip: a register of points meets a tap in one contiguous load. Taps that lie whole rows apart share a line, so
that a filter of KH KW taps needs KW lines; in a strip of one row those do that lie whole columns apart.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]
Pair = tuple[int, int]

LINE = 16  # elements: planes are an odd number of these long, or channels would meet in a few sets of the cache
BUFFERS = ((1 << 18, 0.0), (1 << 19, 0.03), (1 << 20, 0.15))  # bytes of a strip's lines, and what is lost by so many
SPREADING = 0.3  # the cost of putting one result where it belongs, in multiply-adds by the register
POINTS = 1344  # of a strip, at most
SHARE = 8  # outputs whose results are kept before they are spread
PARTS = 8  # parts that the work should fall into, whatever the number of threads
DEPTH = 16  # channels of a block, at least
TILE = 48  # points of a tile, at most


class Tap(NamedTuple):
    """One element of the filters: the phase that it belongs to, how far it looks, its number in the filter."""

    a: int
    b: int
    dy: int
    dx: int
    number: int


class Line(NamedTuple):
    """A run of the input: where it begins, relative to a strip; its extents; its place among a channel's lines."""

    dy: int
    dx: int
    rows: int
    columns: int
    place: int


class Cut(NamedTuple):
    """The extents of a strip."""

    samples: int
    rows: int
    columns: int

    @property
    def points(self) -> int:
        """How many points of the grid a strip has."""
        return self.samples * self.rows * self.columns


@dataclass(frozen=True)
class Plan:
    """What ``direct_convolution`` needs to know beside its arrays.

    Attributes
    ----------
    taps : Array, shape (T, 6), int64
        Phase (a, b), (dy, dx), number in the filter, place in a channel's lines; sorted by phase.
    lines : Array, shape (L, 5), int64
        (dy, dx), rows, columns, place; none where the input is read in place.
    cut : Array, shape (6,), int64
        Of a strip: samples, rows, columns; channels of a block; parts of the outputs; elements of a channel's lines.
    work : int
        Elements of workspace for one share of the work.
    """

    taps: Array
    lines: Array
    cut: Array
    work: int


def taps_of_windows(kernel: Pair, before: Pair, dilation: Pair) -> tuple[Tap, ...]:
    """The taps of a convolution."""
    return tuple(
        Tap(0, 0, p * dilation[0] - before[0], q * dilation[1] - before[1], p * kernel[1] + q)
        for p in range(kernel[0])
        for q in range(kernel[1])
    )


def taps_of_gradient(kernel: Pair, stride: Pair, before: Pair, dilation: Pair) -> tuple[Tap, ...]:
    """The taps of the gradient with respect to the input: row i s + a meets (i s + a + before - p d) / s if whole."""

    def axis(k: int) -> list[tuple[int, int, int]]:
        found = []
        for p in range(kernel[k]):
            phase = (p * dilation[k] - before[k]) % stride[k]
            found.append((phase, (phase + before[k] - p * dilation[k]) // stride[k], p))
        return found

    taps = [Tap(a, b, dy, dx, p * kernel[1] + q) for a, dy, p in axis(0) for b, dx, q in axis(1)]
    return tuple(sorted(taps))


def lines_of(taps: Iterable[Tap], stride: Pair, cut: Cut) -> tuple[list[Line], dict[Pair, int], int]:
    """The lines that serve some taps in a strip, the place of each (dy, dx) in them, and their elements."""
    offsets = sorted({(t.dy, t.dx) for t in taps})
    if cut.samples == 1 and cut.rows == 1:
        runs = _shared(offsets, stride[1], axis=1)
    else:
        runs = _shared(offsets, stride[0], axis=0)
        common = sum(cut.rows + (run[-1][0] - run[0][0]) // stride[0] for run in runs)
        if cut.samples > 1 or common > cut.rows * len(offsets):
            runs = [[offset] for offset in offsets]
    lines, places, at = [], {}, 0
    for run in runs:
        (dy, dx), (far_y, far_x) = run[0], run[-1]
        rows = cut.rows + (far_y - dy) // stride[0]
        columns = cut.columns + (far_x - dx) // stride[1]
        lines.append(Line(dy, dx, rows, columns, at))
        for y, x in run:
            places[y, x] = at + (y - dy) // stride[0] * columns + (x - dx) // stride[1]
        at += cut.samples * rows * columns
    return lines, places, (-(-at // LINE) | 1) * LINE


def _shared(offsets: list[Pair], stride: int, axis: int) -> list[list[Pair]]:
    """Offsets in groups that differ along one axis only, by whole strides."""
    groups: dict[Pair, list[Pair]] = {}
    for offset in offsets:
        groups.setdefault((offset[1 - axis], offset[axis] % stride), []).append(offset)
    return list(groups.values())


def _candidates(samples: int, grid: Pair) -> Iterable[Cut]:
    """Strips to choose from: whole rows, parts of a row, whole samples."""
    rows, columns = grid
    if columns <= POINTS:
        for count in range(1, rows + 1):
            height = -(-rows // count)
            if height * columns <= POINTS and (count == 1 or height < -(-rows // (count - 1))):
                yield Cut(1, height, columns)
        for several in range(2, min(samples, POINTS // (rows * columns)) + 1):
            if rows * columns <= 4 * TILE and several * rows * columns <= 16 * TILE:
                yield Cut(several, rows, columns)
    for tiles in (28, 20, 14, 10, 7, 5, 4):
        if tiles * TILE < columns:
            yield Cut(1, 1, tiles * TILE)


def _pieces(extent: int, piece: int) -> list[tuple[int, int]]:
    """(size, how many) of the pieces that an extent is cut into."""
    rest = extent % piece
    return [(piece, extent // piece)] + ([(rest, 1)] if rest else [])


def _cost(cut: Cut, samples: int, grid: Pair, taps: int, phases: int, rows: int, channels: int, copying: int) -> float:
    """What a cut costs, about, in multiply-adds by the register."""
    tile = TILE if rows >= SHARE else 96 if rows > 3 else 128
    blocks = -(-rows // min(rows, SHARE)) * phases
    total = 0.0
    for s, times_s in _pieces(samples, cut.samples):
        for h, times_h in _pieces(grid[0], cut.rows):
            for w, times_w in _pieces(grid[1], cut.columns):
                whole, rest = divmod(s * h * w, tile)
                tiles = whole + 0.45 * 48 / tile * -(-rest // 16)
                work = blocks * (tiles * (24 * channels * taps / phases + 100) + 300) + channels * copying
                total += times_s * times_h * times_w * work
    return total


def _parts(cut: Cut, samples: int, groups: int, grid: Pair) -> int:
    return groups * -(-samples // cut.samples) * -(-grid[0] // cut.rows) * -(-grid[1] // cut.columns)


def _shares(parts: int, rows: int) -> int:
    """Into how many the outputs are cut, where there are too few parts; each copies the input's lines again."""
    return max(1, min(-(-PARTS // parts), rows // (2 * SHARE)))


@lru_cache(maxsize=1024)
def plan(
    taps: tuple[Tap, ...], stride: Pair, spread: Pair, shape: Pair, rows: int, groups: int, grid: Pair,
    itemsize: int, flat: bool,
) -> Plan:  # fmt: skip
    """Choose strips for an input of ``shape`` (samples, channels of a group) and ``rows`` outputs of a group.

    ``flat``: the input's planes are the grid, point by point, and may be read where they are.
    """
    samples, channels = shape
    phases = spread[0] * spread[1]
    best: tuple[float, Cut, int, bool] | None = None
    for cut in _candidates(samples, grid):
        in_place = flat and cut.samples == 1
        lines, _, elements = ([], {}, cut.points) if in_place else lines_of(taps, stride, cut)
        parts = _parts(cut, samples, groups, grid)
        copying = sum(cut.samples * line.rows * (16 + 10 * -(-line.columns // 16)) for line in lines)
        cost = _cost(cut, samples, grid, len(taps), phases, rows, channels, copying * _shares(parts, rows))
        if parts < PARTS and rows < SHARE * PARTS:
            cost *= 1 + 0.3 / parts
        for room, loss in BUFFERS:
            depth = max(min(DEPTH, channels), min(channels, room // (itemsize * elements)))
            blocks, bytes_ = -(-channels // depth), itemsize * elements * depth
            passes = blocks if phases > 1 or cut.samples > 1 or blocks > 1 else 0
            spent = cost * (1 + loss * (bytes_ > BUFFERS[0][0])) * (2 if bytes_ > room else 1)
            spent += SPREADING * phases * passes * samples * rows * grid[0] * grid[1]
            if best is None or spent < best[0]:
                best = spent, cut, -(-channels // blocks), in_place
    if best is None:
        raise ValueError(f"no strip of a grid of {grid}")
    _, cut, depth, in_place = best
    lines, places, elements = ([], {(0, 0): 0}, 0) if in_place else lines_of(taps, stride, cut)
    shares = _shares(_parts(cut, samples, groups, grid), rows)
    kept = phases * SHARE * cut.points if phases > 1 or cut.samples > 1 or depth < channels else 0
    return Plan(
        np.array([(*t, places[t.dy, t.dx]) for t in taps], np.int64).reshape(-1, 6),
        np.array(lines, np.int64).reshape(-1, 5),
        np.array([*cut, depth, shares, elements], np.int64),
        depth * elements + kept + 4 * LINE,
    )
