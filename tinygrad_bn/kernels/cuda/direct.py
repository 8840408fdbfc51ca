"""Direct convolution, and its gradient with respect to the input, as one product of matrices without its columns.

    out[n, r, i p + a, j p' + b] = bias[r] + Σ_c Σ_taps of (a, b)  w[r, c, tap] x[n, c, i s + dy, j s' + dx]

For each group and phase (a, b) that is C = A B: the rows are outputs r, the columns points (n, i, j) of the grid, and
k = (c, tap) runs over channels and the phase's taps. B is what im2col would write; here its elements are found where
the tile is loaded: a thread keeps its points, and takes k apart by a multiplication (Granlund & Montgomery 1994,
PLDI) and the table of taps. Tiles as in ``tiles``; the bias is added where the sums are written.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from tinygrad_bn.kernels.cuda.convolution import limited, part
from tinygrad_bn.kernels.cuda.entry import Entry, device
from tinygrad_bn.kernels.cuda.target import cuda
from tinygrad_bn.kernels.cuda.tiles import Panel, Tile, aligned, choose, column, made, row, spread
from tinygrad_bn.kernels.cuda.vector import load4, store4

__all__ = ["direct_convolution", "kernel"]

Array = np.ndarray[Any, Any]

_OFF = 1 << 30  # a place off every input, for points beyond the last
_SHIFT = 40  # k // taps = k m >> 40 with m = ⌈2⁴⁰ / taps⌉, where k taps < 2⁴⁰
_PARAMETERS = (
    "a, b, bias, out, taps, channels, m, count, high, width, tall, wide, sh, sw, ph, pw, grid_h, grid_w, samples,"
    " groups, rows, across"
)


@device
def first_of(taps, count, across, phase):  # type: ignore[no-untyped-def]
    """The first of the taps, which are sorted by phase, that belongs to a phase or a later one."""
    low = 0
    high = count
    while low < high:
        middle = (low + high) >> 1
        if taps[6 * middle] * across + taps[6 * middle + 1] < phase:
            low = middle + 1
        else:
            high = middle
    return low


_USED = cuda, load4, store4, part, first_of  # by the generated source


def _begin(tile: Tile, turned: bool, phased: bool, filters: Panel) -> list[str]:
    """The block's tile, group and phase; the thread's points."""
    lines = [
        "i0 = cuda.blockIdx.x % rows",
        "z = cuda.blockIdx.x // rows",
        f"i0 = np.int32(i0 * {tile.rows})",
        "j0 = z % across",
        "z = z // across",
        f"j0 = np.int32(j0 * {tile.columns})",
        "group = np.int32(z % groups)",
        "phase = z // groups",
        "up = np.int32(phase // pw)",
        "left = np.int32(phase % pw)",
        "first = np.int32(0)",
        "terms = np.int32(count)",
        "grid_h = np.int32(grid_h)",
        "grid_w = np.int32(grid_w)",
    ]
    if phased:
        lines += [
            "grid_h = np.int32((tall - up + ph - 1) // ph)",
            "grid_w = np.int32((wide - left + pw - 1) // pw)",
            "first = np.int32(first_of(taps, count, pw, phase))",
            "terms = np.int32(first_of(taps, count, pw, phase + 1) - first)",
        ]
    lines += [
        "length = np.int32(grid_h * grid_w)",
        "n = np.int32(samples * length)",
        "share = np.int64(max(terms, 1))",
        f"share = ({(1 << _SHIFT) - 1} + share) // share",
        "k = np.int32(channels * terms)",
        "plane = np.int32(high * width)",
        "if j0 >= n or i0 >= m:",
        "    return",
        f"bd = np.int32(t >> {tile.columns.bit_length() - 1})",
        f"bc = np.int32(t & {tile.columns - 1})",
        f"steps = max((k + {tile.depth - 1}) // {tile.depth}, 1)",
    ]
    for i in sorted({i for _, i, _ in spread(_count(tile, "b"), tile.columns, tile.threads)}):
        lines += [
            f"at = j0 + bc + {i}",
            f"by{i} = np.int32({-_OFF})",
            f"bx{i} = np.int32(0)",
            f"bp{i} = 0",
            "if at < n:",
            "    sample = part(at, length)",
            "    at = at - sample * length",
            "    line = part(at, grid_w)",
            f"    by{i} = np.int32(line * sh)",
            f"    bx{i} = np.int32((at - line * grid_w) * sw)",
            f"    bp{i} = (sample * groups + group) * channels * np.int64(plane)",
        ]
    if not turned:
        return lines + filters.begin(tile)
    return [
        *lines,
        f"ad = np.int32(t >> {tile.rows.bit_length() - 1})",
        f"ac = np.int32(t & {tile.rows - 1})",
        "ap = (np.int64(group) * channels * m + i0 + ac) * count",
        "am = np.int32(m * count)",
    ]


def _count(tile: Tile, name: str) -> int:
    return (tile.rows if name == "a" else tile.columns) * tile.depth // tile.threads


def _decoded(name: str, tile: Tile, o: int) -> list[str]:
    """Take a place along K apart: the channel and the tap's place in the table."""
    return [
        f"place = np.int32(step * {tile.depth} + {name}d + {o})",
        f"c = (np.int64(place) * share) >> {_SHIFT}",
        "tap = np.int32((first + place - c * terms) * 6 if place < k else 0)",
    ]


def _fetch(tile: Tile, turned: bool, filters: Panel) -> list[str]:
    lines = []
    if turned:
        done = -1
        for e, i, o in spread(_count(tile, "a"), tile.rows, tile.threads):
            if o != done:
                lines += _decoded("a", tile, o)
                done = o
            lines += [
                f"a{e} = 0.0",
                f"if np.int32(i0 + ac + {i}) < m and place < k:",
                f"    a{e} = a[ap + c * am + {i} * count + taps[tap + 4]]",
            ]
    else:
        lines += filters.fetch(tile)
    done = -1
    for e, i, o in spread(_count(tile, "b"), tile.columns, tile.threads):
        if o != done:
            lines += _decoded("b", tile, o)
            lines += ["dy = np.int32(taps[tap + 2])", "dx = np.int32(taps[tap + 3])"]
            done = o
        lines += [
            f"y = np.int32(by{i} + dy)",
            f"x = np.int32(bx{i} + dx)",
            f"b{e} = 0.0",
            "if place < k and 0 <= y and y < high and 0 <= x and x < width:",
            f"    b{e} = b[bp{i} + c * plane + y * width + x]",
        ]
    return lines


def _stash(tile: Tile, turned: bool, filters: Panel) -> list[str]:
    lines = [] if turned else filters.stash(tile)
    for name in "ab" if turned else "b":
        side, pitch = (tile.rows, tile.pitches[0]) if name == "a" else (tile.columns, tile.pitches[1])
        lines.append(f"place = into_{name} + {name}d * {pitch} + {name}c")
        for e, i, o in spread(_count(tile, name), side, tile.threads):
            lines.append(f"s{name}[np.uint32(place + {o * pitch + i})] = {name}{e}")
    return lines


def _end(tile: Tile, biased: bool, fours: bool) -> list[str]:
    """Write the sums, a run of points at once where samples are whole runs of them."""
    lines = ["area = tall * wide"]
    for q in range(tile.wide if not fours else tile.wide // 4):
        first = q * 4 if fours else q
        lines += [
            f"at = j0 + {column(tile, first)}",
            "if at < n:",
            "    sample = part(at, length)",
            "    at = at - sample * length",
            "    line = part(at, grid_w)",
            "    place = (line * ph + up) * wide + (at - line * grid_w) * pw + left",
            "    place += (sample * groups + group) * m * area",
        ]
        for i in range(tile.high):
            lines += [f"    i = i0 + {row(tile, i)}", "    if i < m:"]
            plus = ""
            if biased:
                lines.append("        e = bias[group * m + i]")
                plus = " + e"
            if fours:
                sums = ", ".join(f"c{i}_{first + j}{plus}" for j in range(4))
                lines.append(f"        store4(out, place + i * area, {sums})")
            else:
                lines.append(f"        out[place + i * area] = c{i}_{first}{plus}")
    return lines


@cache
def kernel(turned: bool, phased: bool, biased: bool, fours: tuple[bool, bool], tile: Tile) -> Entry:
    """Return the kernel for a form; ``fours``: of the filters and of out, whether four elements are one access."""
    filters = Panel("a", True, fours[0], "m", "i0", "group * m * k")
    return made(
        "_direct_input" if turned else "_direct", _PARAMETERS, tile, globals(),
        begin=_begin(tile, turned, phased, filters),
        fetch=_fetch(tile, turned, filters),
        stash=_stash(tile, turned, filters),
        end=_end(tile, biased, fours[1]),
    )  # fmt: skip


def direct_convolution(
    x: Array, w: Array, bias: Array, turned: bool, stride_h: int, stride_w: int, spread_h: int, spread_w: int,
    taps: Array, lines: Array, cut: Array, work: Array, out: Array,
) -> None:  # fmt: skip
    """x (N, C, H, W), w (O, C / groups, KH, KW), out (N, R, OH, OW); ``lines``, ``cut`` and ``work`` are the CPU's."""
    if not out.size:
        return
    samples, channels, high, width = x.shape
    tall, wide = out.shape[2:]
    groups = (out.shape[1] if turned else channels) // w.shape[1]
    depth, m = channels // groups, out.shape[1] // groups
    grid_h, grid_w = -(-tall // spread_h), -(-wide // spread_w)
    points, phases = samples * grid_h * grid_w, spread_h * spread_w
    limited(points)
    tile = choose(m, points, groups * phases, out.dtype)
    rows, across = -(-m // tile.rows), -(-points // tile.columns)
    count = taps.shape[0]
    fours = (
        not turned and aligned(w, depth * count),
        phases == 1 and aligned(out, tall * wide),
    )
    _kernel = kernel(bool(turned), phases > 1, bool(bias.size), fours, tile)
    sizes = (np.int32(m), count, np.int32(high), np.int32(width), tall, wide)
    _kernel[rows * across * groups * phases](
        w, x, bias, out, taps, depth, *sizes, stride_h, stride_w, spread_h, spread_w, grid_h, grid_w, samples, groups,
        rows, across,
    )  # fmt: skip
