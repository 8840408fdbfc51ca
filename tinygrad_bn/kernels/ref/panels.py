"""Convolution by panels: the sum of ``direct_convolution``, of which only the cut differs."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_bn.kernels.ref.direct import seen
from tinygrad_bn.kernels.spec import spec

Array = np.ndarray[Any, Any]


@spec(writes="out", workspace="filters places work")
def panel_convolution(
    x: Array, w: Array, bias: Array, turned: bool, stride_h: int, stride_w: int, spread_h: int, spread_w: int,
    taps: Array, offsets: Array, shares: int, filters: Array, places: Array, work: Array, out: Array,
) -> None:  # fmt: skip
    """out[n, r, i p + a, j p' + b] = bias[r] + Σ_c Σ_taps of (a, b)  w[r, c, tap] x[n, c, i s + dy, j s' + dx].

    x is 0 outside; ``turned``: w[c, r, tap] in its place. The outputs of a panel are cut into ``shares``; ``taps``,
    ``offsets`` and the workspace are those of ``kernels.panels.Plan``, of the last two a row for each thread.
    """
    depth, groups = w.shape[1], (out if turned else x).shape[1] // w.shape[1]
    per_group = w.astype(np.float64).reshape(groups, -1, depth, w.shape[2] * w.shape[3])
    if turned:
        per_group = per_group.swapaxes(1, 2)
    wide = x.astype(np.float64)
    total = np.zeros(out.shape)
    rows = out.shape[1] // groups
    for a, b, dy, dx, number, _ in taps.tolist():
        into = total[:, :, a::spread_h, b::spread_w]
        view = seen(seen(wide, dy, stride_h, into.shape[2], 2), dx, stride_w, into.shape[3], 3)
        flat = view.reshape(len(x), groups, per_group.shape[2], into.shape[2] * into.shape[3])
        for g in range(groups):
            product = per_group[g, :, :, number] @ flat[:, g]
            into[:, g * rows : (g + 1) * rows] += product.reshape(len(x), rows, *into.shape[2:])
    out[...] = total + (bias[:, None, None] if bias.size else 0)
