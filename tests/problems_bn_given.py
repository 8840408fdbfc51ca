"""Problems of batch normalisation by statistics that are found elsewhere; see ``problems.py``."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import strategies
from hypothesis import strategies as st
from problems import HOT, MAKERS, SCALES, Arguments, Array, blank

from tinygrad_bn.core.device import ref


@st.composite
def given_(draw: st.DrawFn, name: str, dtype: str) -> Arguments:
    p = draw(strategies.batches(dtype, max_mean=100.0))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    return problem(rng, name, p, draw(st.integers(1, min(p.x.shape[0], 3))), draw(st.booleans()))


def problem(rng: Any, name: str, p: Any, cuts: int, more: bool) -> Arguments:
    c, dtype = p.x.shape[1], p.x.dtype
    rows = blank((4, c), dtype)
    if name == "batch_norm_statistics":
        return {"x": p.x, "eps": p.eps, "statistics": rows, "parts": blank((c, cuts, 3), np.float64)}
    if name == "batch_norm_finish":
        cut = [p.x.shape[0] * i // cuts for i in range(cuts + 1)]
        pieces = [p.x[a:b].astype(np.float64) for a, b in itertools.pairwise(cut)]
        means = [piece.mean((0, 2)) for piece in pieces]
        m2 = [piece.var((0, 2)) * piece[:, 0].size for piece in pieces]
        counts = [np.full(c, piece[:, 0].size, np.float64) for piece in pieces]
        parts = np.stack([np.stack(part, 1) for part in zip(counts, means, m2, strict=True)], 1)
        return {"parts": parts, "eps": p.eps, "statistics": rows}
    ref.kernels.batch_norm_statistics.serial(p.x, p.eps, rows, blank((c, 1, 3), np.float64))
    residual = rng.standard_normal(p.x.shape if more else 0).astype(dtype)
    affine = {"weight": p.weight, "bias": p.bias}
    act = {"statistics": rows, "act": p.act, "slope": p.slope}
    return {"x": p.x, "residual": residual, **affine, **act, "y": blank(p.x.shape, dtype)}


def _terms(before: Arguments) -> dict[str, Array]:
    """What is added in y; of the statistics, what the mean cancels against."""
    if "y" in before:
        mean, _, _, invstd = before["statistics"].astype(np.float64)
        hat = np.abs(before["x"] - mean[:, None]) * invstd[:, None]
        hat = hat * np.abs(before["weight"])[:, None] if before["weight"].size else hat
        hat = hat + np.abs(before["bias"])[:, None] if before["bias"].size else hat
        return {"y": hat + np.abs(before["residual"]) if before["residual"].size else hat}
    if "x" in before:
        wide = before["x"].astype(np.float64)
        mean, var = wide.mean((0, 2)), wide.var((0, 2))
    else:
        n, m, _ = before["parts"].transpose(2, 0, 1)
        mean = (n * m).sum(1) / n.sum(1)
        var = (before["parts"][..., 2] + n * (m - mean[:, None]) ** 2).sum(1) / n.sum(1)
    size = np.abs(mean) + np.sqrt(var)
    scale = np.stack([size, 0.1 * size, var + 1e-12, 1 / np.sqrt(var + before["eps"])])
    found = {"statistics": scale}
    if "x" not in before:
        found["parts"] = np.abs(before["parts"]) + np.stack(
            [0 * n, size[:, None] + 0 * n, (var + size**2)[:, None] * n], 2
        )
    return found


NAMES = ("batch_norm_statistics", "batch_norm_finish", "batch_norm_given")
MAKERS.update(dict.fromkeys(NAMES, (given_, 1e-5)))
SCALES.update(dict.fromkeys(NAMES, _terms))


def _large(name: str, n: int, c: int, length: int, cuts: int) -> Arguments:
    rng = np.random.default_rng(0)
    x, gy = (rng.standard_normal((n, c, length)).astype(np.float32) for _ in range(2))
    weight, bias = (rng.standard_normal(c).astype(np.float32) for _ in range(2))
    return problem(rng, name, strategies.Batch(x, gy, weight, bias, 1e-5, 1, 0), cuts, cuts > 1)


SHAPES = {"rows": (16, 9, 200, 1), "parts": (64, 3, 333, 4), "columns": (700, 50, 1, 2)}
HOT.update(
    {
        f"{name} {shape}": lambda name=name, shape=shape: _large(name, *SHAPES[shape])
        for name in ("batch_norm_statistics", "batch_norm_given")
        for shape in SHAPES
    }
)
