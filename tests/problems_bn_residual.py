"""Problems of batch normalisation with a residual; see ``problems.py``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import strategies
from hypothesis import assume
from hypothesis import strategies as st
from problems import HOT, MAKERS, SCALES, Arguments, Array, blank

from tinygrad_bn.core.device import ref


def problem(rng: Any, p: Any, name: str, code: int, cuts: int, dtype: str) -> Arguments:
    """The arguments of one of the four kernels, from a batch p and whatever else is drawn."""
    n, c, length = p.x.shape
    rows, scratch = blank((4, c), dtype), blank((c, cuts, 3), np.float64)
    residual = rng.standard_normal((n, c, length)).astype(dtype)
    fixed: Arguments = {}
    if "eval" in name:
        fixed = {
            "mean": p.x.mean((0, 2), dtype=np.float64).astype(dtype),
            "var": (p.x.var((0, 2), dtype=np.float64) + 0.1).astype(dtype),
        }
    y = {"y": blank(p.x.shape, dtype)}
    act = {"act": code, "slope": p.slope}
    affine = {"weight": p.weight, "bias": p.bias, **fixed}
    work = {"statistics": rows} if fixed else {"statistics": rows, "parts": scratch}
    forward = {"x": p.x, "residual": residual, **affine, "eps": p.eps, **act, **y, **work}
    if not name.endswith("backward"):
        return forward
    getattr(ref.kernels, name.removesuffix("_backward")).serial(*forward.values())
    gradients = {"gx": blank(p.x.shape, dtype), "gresidual": blank(p.x.shape, dtype)}
    gradients |= {"gweight": blank(c, dtype), "gbias": blank(c, dtype)}
    kept = residual if code > 4 or p.slope < 0 else forward["y"]
    given = {"gy": p.gy, "x": p.x, "kept": kept, **affine}
    if fixed:
        return {**given, "eps": p.eps, **act, **gradients, "statistics": rows, "parts": scratch}
    return {**given, "statistics": rows, **act, **gradients, "parts": scratch}


@st.composite
def normalisations(draw: st.DrawFn, name: str, dtype: str) -> Arguments:
    """As those of batch normalisation; y comes from the reference, so that no rounding decides on a slope."""
    backward = name.endswith("backward")
    p = draw(strategies.batches(dtype, max_mean=100.0))
    act = draw(st.integers(1, 7)) if backward else p.act
    slope = p.slope if act == 3 else 0.0
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    arguments = problem(rng, replace(p, slope=slope), name, act, draw(st.integers(1, min(p.x.shape[0], 3))), dtype)
    assume("eval" not in name or (arguments["var"] > 0.05).all())
    return arguments


def _terms(before: Arguments) -> dict[str, Array]:
    """The size of what cancels in the gradients' sums; in the output, of what is added."""
    x = before["x"].astype(np.float64)
    if "mean" in before:
        mean, invstd = before["mean"].astype(np.float64), 1 / np.sqrt(before["var"].astype(np.float64) + before["eps"])
    elif "gy" in before:
        mean, _, _, invstd = before["statistics"].astype(np.float64)
    else:
        mean, invstd = x.mean((0, 2)), 1 / np.sqrt(x.var((0, 2)) + before["eps"])
    hat = np.abs(x - mean[:, None]) * invstd[:, None]
    gain = np.abs(before["weight"]) * invstd if before["weight"].size else invstd
    if "gy" not in before:
        bias = np.abs(before["bias"])[:, None] if before["bias"].size else 0
        return {"y": hat * (gain / invstd)[:, None] + bias + np.abs(before["residual"])}
    g = np.abs(before["gy"].astype(np.float64))
    gx = gain[:, None] * (g + g.max() * (1 + hat))
    return {"gx": gx, "gresidual": g, "gweight": (g * hat).sum((0, 2)), "gbias": g.sum((0, 2))}


NAMES = tuple(f"batch_norm_residual{tail}" for tail in ("", "_backward", "_eval", "_eval_backward"))
MAKERS.update(dict.fromkeys(NAMES, (normalisations, 1e-5)))
SCALES.update(dict.fromkeys(NAMES, _terms))


def _large(name: str, n: int, c: int, length: int, cuts: int, act: int) -> Arguments:
    rng = np.random.default_rng(0)
    x, gy = (rng.standard_normal((n, c, length)).astype(np.float32) for _ in range(2))
    weight, bias = (rng.standard_normal(c).astype(np.float32) for _ in range(2))
    return problem(
        rng, strategies.Batch(x, gy, weight, bias, 1e-5, act, 0 if act < 2 else 0.0), name, act, cuts, "float32"
    )


SHAPES = {"rows": (16, 9, 200, 1), "parts": (64, 3, 333, 4), "columns": (700, 50, 1, 2)}


def _plain_eval_backward() -> Arguments:
    """The kernel without a residual, whose batch is cut into parts."""
    given = _large("batch_norm_residual_eval_backward", *SHAPES["parts"], 1)
    del given["kept"], given["gresidual"]
    return given


HOT["batch_norm_eval_backward parts"] = _plain_eval_backward
HOT.update(
    {
        f"{name} {shape}": lambda name=name, shape=shape: _large(name, *SHAPES[shape], 2 if shape == "parts" else 1)
        for name in NAMES
        for shape in SHAPES
    }
)
