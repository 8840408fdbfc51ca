"""The gradient of a convolution's filters as one product of matrices without its columns.

gw[o, c, p, q] = Σ_{n,i,j} gy[n, o, i, j] x[n, c, i s_h + p d_h - top, j s_w + q d_w - left]

For each group that is C = A B: the rows are outputs o, the columns taps (c, p, q), and k = (n, i, j) runs over the
windows of the batch, in parts that blocks of their own add up; a second kernel adds the parts in order. A thread keeps
its taps, and takes each k apart as it goes. Tiles as in ``tiles``.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from tinygrad_bn.kernels.cuda.convolution import limited, part
from tinygrad_bn.kernels.cuda.entry import Entry, blocks, entry
from tinygrad_bn.kernels.cuda.target import cuda
from tinygrad_bn.kernels.cuda.tiles import Tile, aligned, choose, column, made, row, spread
from tinygrad_bn.kernels.cuda.vector import load4, store4

__all__ = ["add_parts", "direct_weight", "kernel"]

Array = np.ndarray[Any, Any]
_USED = cuda, load4, store4, part  # by the generated source

_PARAMETERS = (
    "a, b, out, m, n, high, width, length, wide, kh, kw, sh, sw, top, left, dh, dw, windows,"
    " share, groups, rows, across"
)


@entry
def _add_parts(parts, out, size, count):  # type: ignore[no-untyped-def]
    """out = Σ of the parts, each as large as out, one behind the other."""
    i = cuda.grid(1)
    while i < size:
        total = np.float64(parts[i])
        for p in range(1, count):
            total += np.float64(parts[p * size + i])
        out[i] = real(total)  # type: ignore[name-defined]  # noqa: F821  # the kernel's type
        i += cuda.gridsize(1)


def add_parts(parts: Array, out: Array, count: int) -> None:
    """Add parts of sums, which lie one behind the other."""
    _add_parts[blocks(out.size)](parts, out, out.size, count)


def _count(tile: Tile, name: str) -> int:
    return (tile.rows if name == "a" else tile.columns) * tile.depth // tile.threads


def _begin(tile: Tile) -> list[str]:
    """The block's tile, group and part; the thread's place along K, its rows and its taps."""
    lines = [
        "i0 = cuda.blockIdx.x % rows",
        "z = cuda.blockIdx.x // rows",
        f"i0 = np.int32(i0 * {tile.rows})",
        "j0 = z % across",
        "z = z // across",
        f"j0 = np.int32(j0 * {tile.columns})",
        "group = np.int32(z % groups)",
        "number = np.int32(z // groups)",
        "begin = number * share",
        "k = np.int32(min(windows - begin, share))",
        f"d = np.int32(t & {tile.depth - 1})",
        f"r = np.int32(t >> {tile.depth.bit_length() - 1})",
        "depth = n // (kh * kw)",
        f"steps = max((k + {tile.depth - 1}) // {tile.depth}, 1)",
    ]
    for e, _, o in spread(_count(tile, "b"), tile.depth, tile.threads):
        lines += [
            f"at = j0 + r + {o}",
            "line = part(at, kw)",
            "c = part(line, kh)",
            f"by{e} = np.int32((line - c * kh) * dh - top)",
            f"bx{e} = np.int32((at - line * kw) * dw - left)",
            f"bp{e} = np.int32(c * high * width)",
            "if at >= n:",
            f"    by{e} = np.int32({-1 << 30})",
        ]
    return lines


def _fetch(tile: Tile) -> list[str]:
    lines = [
        f"at = step * {tile.depth} + d",
        "inner = at < k",
        "at = begin + at if inner else 0",
        "sample = part(at, length)",
        "at = at - sample * length",
        "line = part(at, wide)",
        "y0 = np.int32(line * sh)",
        "x0 = np.int32((at - line * wide) * sw)",
        "image = sample * groups + group",
        "ap = (image * m + i0 + r) * length + at",
        "bp = image * depth * (np.int64(high) * width)",
    ]
    for e, _, o in spread(_count(tile, "a"), tile.depth, tile.threads):
        lines += [f"a{e} = 0.0", f"if inner and np.int32(i0 + r + {o}) < m:", f"    a{e} = a[ap + {o} * length]"]
    for e, _, _ in spread(_count(tile, "b"), tile.depth, tile.threads):
        lines += [
            f"y = np.int32(by{e} + y0)",
            f"x = np.int32(bx{e} + x0)",
            f"b{e} = 0.0",
            "if inner and 0 <= y and y < high and 0 <= x and x < width:",
            f"    b{e} = b[bp + bp{e} + y * width + x]",
        ]
    return lines


def _stash(tile: Tile) -> list[str]:
    lines = []
    for name, pitch in zip("ab", tile.pitches, strict=True):
        lines.append(f"place = into_{name} + d * {pitch} + r")
        for e, _, o in spread(_count(tile, name), tile.depth, tile.threads):
            lines.append(f"s{name}[np.uint32(place + {o})] = {name}{e}")
    return lines


def _end(tile: Tile, fours: bool) -> list[str]:
    lines = ["base = (np.int64(number) * groups + group) * m * n"]
    for h in range(0, tile.wide, 4):
        lines.append(f"j = j0 + {column(tile, h)}")
        for i in range(tile.high):
            lines += [f"i = i0 + {row(tile, i)}", "place = base + i * n + j"]
            if fours:
                sums = ", ".join(f"c{i}_{h + q}" for q in range(4))
                lines += ["if i < m and j < n:", f"    store4(out, place, {sums})"]
                continue
            lines.append("if i < m:")
            for q in range(4):
                lines += [f"    if j + {q} < n:", f"        out[place + {q}] = c{i}_{h + q}"]
    return lines


@cache
def kernel(fours: bool, tile: Tile) -> Entry:
    """Return the kernel; ``fours``: whether four elements of its sums are one access."""
    return made(
        "_direct_weight", _PARAMETERS, tile, globals(), warps=8,
        begin=_begin(tile), fetch=_fetch(tile), stash=_stash(tile), end=_end(tile, fours),
    )  # fmt: skip


def direct_weight(
    x: Array, gy: Array, stride_h: int, stride_w: int, top: int, left: int, dilation_h: int, dilation_w: int,
    samples: int, rows: int, columns: int, channels: int, places: Array, work: Array, parts: Array, gw: Array,
) -> None:  # fmt: skip
    """x (N, C, H, W), gy (N, O, OH, OW), gw (O, C / groups, KH, KW); of the workspace only ``parts`` is used, and of
    its extents only how many there are."""
    outputs, depth, kh, kw = gw.shape
    high, width = x.shape[2:]
    length = gy.shape[2] * gy.shape[3]
    groups = x.shape[1] // depth
    m, n, windows = outputs // groups, depth * kh * kw, gy.shape[0] * length
    limited(windows)
    tile = choose(m, n, groups * parts.shape[0], gw.dtype)
    share = -(-windows // (parts.shape[0] * tile.depth)) * tile.depth
    count = -(-windows // share)
    sums = gw if count == 1 else parts
    tall, across = -(-m // tile.rows), -(-n // tile.columns)
    _kernel = kernel(aligned(sums, n), tile)
    sizes = np.int32(m), np.int32(n), np.int32(high), np.int32(width), length, gy.shape[3], kh, kw
    _kernel[tall * across * groups * count](
        gy, x, sums, *sizes, stride_h, stride_w, top, left, dilation_h, dilation_w, windows, share, groups, tall, across
    )
    if count > 1:
        add_parts(parts, gw, count)
