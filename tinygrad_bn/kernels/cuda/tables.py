"""Kernels on tables of addresses, as source: what all of them have in common.

A row of a table holds the addresses of a parameter's arrays and, last, their number of elements; it lies on the GPU,
and the host does not look at it. Parameters are cut into chunks, numbered from the first row to the last, which the
blocks take in turn: one huge parameter and a hundred tiny ones keep all multiprocessors busy alike. To find its chunks
a block walks over the sizes, which it keeps in shared memory. Where all arrays of a row begin at multiples of 16 bytes,
four elements are taken at a time.

The source is written out, since what is loaded and stored differs from kernel to kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tinygrad_bn.kernels.cuda.driver import driver
from tinygrad_bn.kernels.cuda.entry import Entry
from tinygrad_bn.kernels.cuda.target import THREADS, cuda
from tinygrad_bn.kernels.cuda.vector import at, load4, store4
from tinygrad_bn.kernels.cuda.walks import written

__all__ = ["Column", "grid", "update"]

CHUNK = 8 * THREADS
_WAVES = 4  # blocks of a multiprocessor
_SCOPE = {"CHUNK": CHUNK, "THREADS": THREADS, "cuda": cuda, "at": at, "load4": load4, "store4": store4, "np": np}


class Column(NamedTuple):
    """An array of each row: its name, whether it is written, and the condition under which it is touched at all."""

    name: str
    written: bool = True
    used: str = ""

    def touched(self, lines: Sequence[str]) -> list[str]:
        """Lines that run only where the array is in use."""
        return [f"if {self.used}:", *["    " + line for line in lines]] if self.used else list(lines)


def grid() -> int:
    """Return how many blocks a kernel on a table has."""
    return _WAVES * driver().processors


def _quad(name: str) -> list[str]:
    return [f"{name}{k}" for k in range(4)]


def _four(columns: Sequence[Column], one: str, numbers: str) -> list[str]:
    """Update elements i … i + 3."""
    lines = []
    for c in columns:
        names = _quad(c.name)
        if c.used:
            lines.append(" = ".join(names) + " = 0.0")
        lines += c.touched([f"{', '.join(names)} = load4({c.name}, i)"])
    for k in range(4):
        results = ", ".join(f"{c.name}{k}" for c in columns if c.written)
        lines.append(f"{results} = {one}({', '.join(f'{c.name}{k}' for c in columns)}, {numbers})")
    for c in columns:
        if c.written:
            lines += c.touched([f"store4({c.name}, i, {', '.join(_quad(c.name))})"])
    return lines


def _single(columns: Sequence[Column], one: str, numbers: str) -> list[str]:
    """Update element i."""
    lines = []
    for c in columns:
        lines += [f"{c.name}0 = 0.0"] if c.used else []
        lines += c.touched([f"{c.name}0 = {c.name}[i]"])
    results = ", ".join(f"{c.name}0" for c in columns if c.written)
    lines.append(f"{results} = {one}({', '.join(f'{c.name}0' for c in columns)}, {numbers})")
    for c in columns:
        lines += c.touched([f"{c.name}[i] = {c.name}0"]) if c.written else []
    return lines


def _indented(lines: Sequence[str], depth: int) -> str:
    return "\n".join(" " * depth + line for line in lines)


_WALK = """
def {name}(table, like, hyper, rows, quad, found, guard):
    sizes = cuda.shared.array(THREADS, np.int64)
{shared}
    t = cuda.threadIdx.x
{begin}
    chunk, first_chunk = cuda.blockIdx.x, 0
    if guard != 0 and found[0] != 0:
        rows = 0
    for base in range(0, rows, THREADS):
        if base + t < rows:
            row = (base + t) * {width}
            sizes[t] = table[row + {width} - 1]
{each_row}
        cuda.syncthreads()
        for r in range(min(THREADS, rows - base)):
            n = sizes[r]
            row = (base + r) * {width}
            end = first_chunk + (n + CHUNK - 1) // CHUNK
            while chunk < end:
                lo = (chunk - first_chunk) * CHUNK
                hi = min(lo + CHUNK, n)
{take}
{pointers}
                whole = lo + ((hi - lo) & -4) if ({addresses}) & (quad - 1) == 0 else lo
                for i in range(lo + 4 * t, whole, 4 * THREADS):
{four}
                for i in range(whole + t, hi, THREADS):
{single}
                chunk += cuda.gridDim.x
            first_chunk = end
        cuda.syncthreads()
"""


def update(
    name: str,
    columns: Sequence[Column],
    one: Any,
    numbers: str,
    begin: Sequence[str],
    scope: dict[str, Any],
    rows: dict[str, Sequence[str]] | None = None,
) -> Entry:
    """Return a kernel that updates elements of all rows.

    Parameters
    ----------
    name : str
    columns : sequence of Column
        The arrays of a row that are walked, in the table's order; behind them are the steps if ``rows`` is given.
    one : Device
        What makes of an element of each array, and ``numbers``, the new elements of those that are written.
    numbers : str
        Names, separated by commas.
    begin : lines
        They set numbers that are the same for all rows, from ``hyper``.
    scope : dict
        The names that lines use, of a module.
    rows : dict, optional
        Numbers of a row, computed by one thread of a block: name, lines that set it from ``step``.
    """
    width = len(columns) + 1 + (rows is not None)
    each, shared, take = [], [], []
    if rows is not None:
        each.append(f"step = at(table[row + {width} - 2], like)[0]")
        for number, lines in rows.items():
            shared.append(f"{number}_of = cuda.shared.array(THREADS, real)")
            each += [*lines, f"{number}_of[t] = {number}"]
            take.append(f"{number} = {number}_of[r]")
    text = _WALK.format(
        name=name,
        width=width,
        shared=_indented(shared, 4),
        begin=_indented(begin, 4),
        each_row=_indented(each, 12),
        take=_indented(take, 16),
        pointers=_indented([f"{c.name} = at(table[row + {k}], like)" for k, c in enumerate(columns)], 16),
        addresses=" | ".join(f"table[row + {k}]" for k in range(len(columns))),
        four=_indented(_four(columns, "one", numbers), 20),
        single=_indented(_single(columns, "one", numbers), 20),
    )
    return written(name, text, {**scope, **_SCOPE, "one": one})
