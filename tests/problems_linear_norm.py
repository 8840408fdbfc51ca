"""Problems of a linear layer and the batch normalisation behind it; see ``problems.py``."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st
from problems import HOT, MAKERS, SCALES, Arguments, Array, blank

from tinygrad_bn.core.device import ref


@st.composite
def chains(draw: st.DrawFn, name: str, dtype: str) -> Arguments:
    m, k, n = draw(st.integers(2, 20)), draw(st.integers(1, 20)), draw(st.integers(1, 60))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    forward = chain(rng, m, k, n, draw(st.integers(0, 7)), dtype, affine=draw(st.booleans()))
    ref.kernels.linear_batch_norm.serial(*forward.values())
    z = forward["z"].astype(np.float64)
    assume(z.var(0).min() > 1e-2 * (1 + z.mean(0) ** 2).max())  # else rounding of z decides on everything behind it
    if forward["act"] in (1, 3):
        plain = {**forward, "act": 0, "y": np.empty((m, n), dtype)}
        ref.kernels.linear_batch_norm.serial(*plain.values())
        assume(np.abs(plain["y"]).min() > 1e-4)
    if name == "linear_batch_norm":
        empty = {key: blank(forward[key].shape, dtype) for key in ("z", "statistics", "y")}
        return {**forward, **empty}
    return back(rng, forward, for_x=draw(st.booleans()))


def chain(
    rng: Any, m: int, k: int, n: int, act: int, dtype: str, affine: bool = True, slope: float = 0.25
) -> Arguments:
    return {
        "x": rng.standard_normal((m, k)).astype(dtype),
        "weight": rng.standard_normal((n, k)).astype(dtype),
        "gain": rng.uniform(-2, 2, n if affine else 0).astype(dtype),
        "bias": rng.standard_normal(n if affine else 0).astype(dtype),
        "eps": 1e-5,
        "act": act,
        "slope": slope,
        "z": blank((m, n), dtype),
        "statistics": blank((4, n), dtype),
        "y": blank((m, n), dtype),
    }


def back(rng: Any, forward: Arguments, for_x: bool) -> Arguments:
    x, weight, z = forward["x"], forward["weight"], forward["z"]
    return {
        "gy": rng.standard_normal(z.shape).astype(z.dtype),
        **{key: forward[key] for key in ("x", "weight", "gain", "bias", "z", "statistics", "act", "slope")},
        "gz": blank(z.shape, z.dtype),
        "gx": blank(x.shape if for_x else (0, 0), z.dtype),
        "gweight": blank(weight.shape, z.dtype),
        "ggain": blank(z.shape[1:], z.dtype),
        "gbias": blank(z.shape[1:], z.dtype),
    }


def _terms(before: Arguments) -> dict[str, Array]:
    """The size of what cancels: of the products' terms, through the slope of the normalisation."""
    x, w = np.abs(before["x"].astype(np.float64)), np.abs(before["weight"].astype(np.float64))
    z = x @ w.T
    if "gy" not in before:
        deviation = (before["x"].astype(np.float64) @ before["weight"].astype(np.float64).T).std(0)
        gain = np.abs(before["gain"]).max(initial=1.0)
        steep = z.max(0) / deviation
        rows = np.stack([z.max(0), z.max(0), z.max(0) ** 2, steep / deviation])
        return {"z": z, "statistics": rows, "y": np.broadcast_to(gain * steep, z.shape)}
    steep = (np.abs(before["gain"]).max(initial=1.0) * before["statistics"][3]).max()
    hat = (1 + (z * before["statistics"][3]).max()) ** 2
    g = np.abs(before["gy"]).sum()
    sizes = {"gx": steep * g * w.max() * hat, "gweight": steep * g * x.max() * hat, "ggain": g * hat, "gbias": g * hat}
    return {key: np.full(before[key].shape, size) for key, size in sizes.items()}


NAMES = ("linear_batch_norm", "linear_batch_norm_backward")
MAKERS.update(dict.fromkeys(NAMES, (chains, 1e-5)))
SCALES.update(dict.fromkeys(NAMES, _terms))


def _large(backward: bool, act: int, for_x: bool = True) -> Arguments:
    rng = np.random.default_rng(0)
    forward = chain(rng, 60, 203, 101, act, "float32", slope=0 if act < 2 else 0.25)
    if not backward:
        return forward
    ref.kernels.linear_batch_norm.serial(*forward.values())
    return back(rng, forward, for_x)


HOT.update(
    {
        "linear_batch_norm": lambda: _large(False, 2),
        "linear_batch_norm relu": lambda: _large(False, 1),
        "linear_batch_norm_backward": lambda: _large(True, 2),
        "linear_batch_norm_backward parameters": lambda: _large(True, 1, False),
    }
)
