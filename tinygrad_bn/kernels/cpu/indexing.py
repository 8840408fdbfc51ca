"""Kernels that gather and scatter rows. Serial: the order of additions is the order of the positions."""

from __future__ import annotations

from typing import Any

from tinygrad_bn.kernels.cpu._jit import jit


@jit()
def ravel_index(indices: Any, extents: Any, out: Any, status: Any) -> None:
    for m in range(out.size):
        at = 0
        for k in range(extents.size):
            i = indices[k, m]
            n = extents[k]
            if i < -n or i >= n:
                if status[0] == 0:
                    status[0] = 1
                    status[1] = m
                    status[2] = i
                    status[3] = n
                i = 0
            at = at * n + (i + n if i < 0 else i)
        out[m] = at


@jit()
def take_rows(x: Any, positions: Any, out: Any) -> None:
    for m in range(positions.size):
        row = x[positions[m]]
        into = out[m]
        for r in range(row.size):
            into[r] = row[r]


@jit()
def put_rows(x: Any, positions: Any, out: Any) -> None:
    for m in range(positions.size):
        row = x[m]
        into = out[positions[m]]
        for r in range(row.size):
            into[r] = row[r]


@jit()
def add_rows(x: Any, positions: Any, out: Any) -> None:
    for m in range(positions.size):
        row = x[m]
        into = out[positions[m]]
        for r in range(row.size):
            into[r] += row[r]


@jit()
def take_along(x: Any, positions: Any, out: Any) -> None:
    for a in range(out.shape[0]):
        for m in range(out.shape[1]):
            for b in range(out.shape[2]):
                out[a, m, b] = x[a, positions[a, m, b], b]


@jit()
def spread(gy: Any, positions: Any, out: Any) -> None:
    out[:] = 0
    for a in range(gy.shape[0]):
        for m in range(gy.shape[1]):
            for b in range(gy.shape[2]):
                out[a, positions[a, m, b], b] += gy[a, m, b]


@jit()
def check_index(index: Any, limit: Any, wrap: Any, out: Any, status: Any) -> None:
    for m in range(out.size):
        i = index[m]
        at = i + limit if wrap and i < 0 else i
        if at < 0 or at >= limit:
            if status[0] == 0:
                status[0] = 1
                status[1] = m
                status[2] = i
                status[3] = limit
            at = 0
        out[m] = at


@jit()
def put_along(x: Any, positions: Any, out: Any) -> None:
    for a in range(x.shape[0]):
        for m in range(x.shape[1]):
            for b in range(x.shape[2]):
                out[a, positions[a, m, b], b] = x[a, m, b]
