"""Products of matrices by kernels of our own: what there is where cuBLAS is not installed, and in the simulator.

    out[z, i, j] = Σ_k A[z, i, k] B[z, k, j] + bias[j]

A lies as (M, K) or, in form "tn", as (K, M); B as (K, N) or, in form "nt", as (N, K). Tiles as in ``tiles``; float32
sums are of float32 products, along K from the beginning.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from tinygrad_bn.kernels.cuda.entry import Entry, blocks, entry
from tinygrad_bn.kernels.cuda.target import cuda
from tinygrad_bn.kernels.cuda.tiles import Panel, Tile, aligned, choose, column, made, row
from tinygrad_bn.kernels.cuda.vector import load4, store4

__all__ = ["kernel", "product"]

Array = np.ndarray[Any, Any]
_USED = cuda, load4, store4  # by the generated source

_PARAMETERS = "a, b, bias, out, m, n, k, step_a, step_b, tall, across"


@entry
def _without_terms(bias, biased, out, n, size):  # type: ignore[no-untyped-def]
    i = cuda.grid(1)
    while i < size:
        if biased:
            out[i] = bias[i % n]
        else:
            out[i] = 0.0
        i += cuda.gridsize(1)


def _begin(tile: Tile, panels: tuple[Panel, Panel]) -> list[str]:
    """Which tile is the block's: those of one column of tiles follow each other, and share B's part in the cache."""
    return [
        "i0 = cuda.blockIdx.x % tall",
        "z = cuda.blockIdx.x // tall",
        f"i0 = i0 * {tile.rows}",
        "j0 = z % across",
        "z = z // across",
        f"j0 = j0 * {tile.columns}",
        *[line for panel in panels for line in panel.begin(tile)],
        f"steps = max((k + {tile.depth - 1}) // {tile.depth}, 1)",
    ]


def _end(tile: Tile, biased: bool, fours: bool) -> list[str]:
    """Write the sums, a run of four at once where rows are whole runs."""
    lines = []
    for h in range(0, tile.wide, 4):
        at = [f"j0 + {column(tile, j)}" for j in range(h, h + 4)]
        lines.append(f"j = {at[0]}")
        if biased:
            lines += [f"e{q} = bias[{at[q]}] if {at[q]} < n else 0.0" for q in range(4)]
        for i in range(tile.high):
            lines += [f"i = i0 + {row(tile, i)}", "place = (z * m + i) * n + j"]
            sums = [f"c{i}_{h + q}" + (f" + e{q}" if biased else "") for q in range(4)]
            if fours:
                lines += ["if i < m and j < n:", f"    store4(out, place, {', '.join(sums)})"]
                continue
            lines.append("if i < m:")
            for q in range(4):
                lines += [f"    if j + {q} < n:", f"        out[place + {q}] = {sums[q]}"]
    return lines


@cache
def kernel(form: str, fours: tuple[bool, bool, bool], biased: bool, tile: Tile) -> Entry:
    """Return the kernel for a form; ``fours``: of A, B and out, whether four elements are one access."""
    panels = (
        Panel("a", form != "tn", fours[0], "m", "i0", "z * step_a"),
        Panel("b", form == "nt", fours[1], "n", "j0", "z * step_b"),
    )
    return made(
        f"_{form}", _PARAMETERS, tile, globals(),
        begin=_begin(tile, panels),
        fetch=[line for panel in panels for line in panel.fetch(tile)],
        stash=[line for panel in panels for line in panel.stash(tile)],
        end=_end(tile, biased, fours[2]),
    )  # fmt: skip


def product(form: str, a: Array, b: Array, bias: Array, out: Array) -> None:
    """Write a product; arguments as ``kernels/ref/matmul.py`` has them, contiguous."""
    m, n = out.shape[-2:]
    k = a.shape[-2] if form == "tn" else a.shape[-1]
    if not out.size:
        return
    if not k:
        _without_terms[blocks(out.size)](bias if bias.size else out, bool(bias.size), out, n, out.size)
        return
    batch = out.size // (m * n)
    tile = choose(m, n, batch, out.dtype)
    tall, across = -(-m // tile.rows), -(-n // tile.columns)
    fours = (aligned(a, m if form == "tn" else k), aligned(b, k if form == "nt" else n), aligned(out, n))
    _kernel = kernel(form, fours, bool(bias.size), tile)
    sizes = (np.int32(extent) for extent in (m, n, k))
    steps = (m * k if a.size > m * k else 0, k * n if b.size > k * n else 0)
    _kernel[tall * across * batch](a, b, bias, out, *sizes, *steps, tall, across)
