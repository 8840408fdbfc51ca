"""Windows that move over a plane: how the kernels lay the rows of a plane out in their workspace.

A row is cut into its phases, so that what neighbouring windows read lies side by side whatever the stride s is:
column w stands at place u of phase q, w + p = s u + q, each phase a line with room for the padding at its ends. The
j-th element of window c then is at place c + (j d) // s of phase (j d) % s.
"""

from __future__ import annotations

from typing import NamedTuple

LANES = 16  # of a register, at most: what may be read and written beyond a line's last place
BAND = 16  # rows of results that are worked out together


class Geometry(NamedTuple):
    """A plane, its results, and the windows: kernel, stride, padding, dilation along either axis."""

    height: int
    width: int
    rows: int
    columns: int
    kh: int
    kw: int
    sh: int
    sw: int
    ph: int
    pw: int
    dh: int
    dw: int


def line_size(g: Geometry) -> int:
    """Places of a line of the plane: its columns, and the windows' last elements; whole registers."""
    places = max(g.columns + (g.kw - 1) * g.dw // g.sw, (g.width - 1 + g.pw) // g.sw + 1)
    return (places + 2 * LANES - 1) // LANES * LANES


def phases(g: Geometry) -> int:
    """How many phases of a row are kept: of wide strides those that windows read."""
    return g.sw if g.sw < 3 else min(g.sw, (g.kw - 1) * g.dw + 1)


def forward_work(g: Geometry) -> int:
    """Elements of workspace of a share of the planes, forward: a line about the columns, and the rows of the plane
    that a band of results reads."""
    rows = min(g.height, (min(BAND, g.rows) - 1) * g.sh + (g.kh - 1) * g.dh + 1)
    return line_size(g) * (1 + phases(g) * rows)


def back_rows(g: Geometry) -> int:
    """The most rows of results that read a band of ``BAND * sh`` rows of the plane."""
    return min(g.rows, (min(BAND * g.sh, g.height) - 1 + (g.kh - 1) * g.dh) // g.sh + 2)


def back_line(g: Geometry) -> int:
    """Places of a line of results, with room at its ends; whole registers."""
    places = (g.kw - 1) * g.dw // g.sw + max(g.columns, (g.width - 1 + g.pw) // g.sw + 1)
    return (places + 2 * LANES - 1) // LANES * LANES


def backward_work(g: Geometry) -> int:
    """Elements of workspace of a share of the planes, backward: two bands of results, and two lines."""
    return back_line(g) * 2 * (1 + back_rows(g))
