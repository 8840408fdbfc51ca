"""Kernels as source: what the kernels that walk arrays of several axes have in common.

A walk takes the elements of a result one after another, by their number, and finds where each lies in each array: the
number is divided by the extents of the axes, from the last to the first but one, and what remains along an axis is
multiplied by the array's step there. Divisions of 32 bits take a third of the time of those of 64, and suffice
up to 2³¹ elements.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from types import FunctionType
from typing import Any

from tinygrad_bn.kernels.cuda.entry import Entry, entry

__all__ = ["NARROW", "extents", "places", "steps", "written"]

NARROW = 1 << 31
"""Below so many elements, they are numbered by 32 bits."""


def written(name: str, text: str, scope: dict[str, Any], static: str = "") -> Entry:
    """Return a kernel of given source, whose global names are those of a module."""
    text = textwrap.dedent(text).lstrip()
    found: dict[str, Any] = {}
    exec(compile(text, scope["__file__"], "exec"), dict(scope), found)
    function: FunctionType = found[name]
    return entry(static=static, text=text)(function)


def extents(rank: int) -> list[str]:
    """The parameters that tell the extents of all axes but the first."""
    return [f"e{axis}" for axis in range(1, rank)]


def steps(array: str, rank: int) -> list[str]:
    """The parameters that tell an array's steps along the axes."""
    return [f"{array}_{axis}" for axis in range(rank)]


def places(arrays: Sequence[str], rank: int, wide: bool, number: str = "i") -> list[str]:
    """Lines that set ``x_at`` for each array ``x``: where its element of that number lies."""
    word = "" if wide else "np.uint32"
    lines = [f"rest = {word}({number})"]
    for axis in range(rank - 1, 0, -1):
        opens = "=" if axis == rank - 1 else "+="
        lines += [f"above = {word}(rest // {word}(e{axis}))", f"k = np.int64(rest - above * {word}(e{axis}))"]
        lines += [f"{array}_at {opens} k * {array}_{axis}" for array in arrays]
        lines.append("rest = above")
    return lines + [f"{array}_at {'=' if rank == 1 else '+='} np.int64(rest) * {array}_0" for array in arrays]
