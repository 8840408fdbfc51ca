"""Problems of the kernels under group, layer and instance norm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st
from problems import HOT, MAKERS, SCALES, Arguments, blank

from tinygrad_bn.core.device import ref

Array = np.ndarray[Any, Any]


def _forward(x: Array, weight: Array, bias: Array, eps: float) -> Arguments:
    rows = x.shape[0] * x.shape[1]
    statistics = blank((4, rows), x.dtype)
    return {"x": x, "weight": weight, "bias": bias, "eps": eps, "y": blank(x.shape, x.dtype), "statistics": statistics}


def _backward(forward: Arguments, gy: Array, parts: int) -> Arguments:
    ref.kernels.group_norm.serial(*forward.values())
    x, weight, bias = forward["x"], forward["weight"], forward["bias"]
    channels = x.shape[1] * x.shape[2]
    lately = parts if x.shape[3] == 1 and weight.size + bias.size else 0
    return {
        "gy": gy,
        "x": x,
        "weight": weight,
        "statistics": forward["statistics"],
        "gx": blank(x.shape, x.dtype),
        "gweight": blank(weight.size, x.dtype),
        "gbias": blank(bias.size, x.dtype),
        "recent": blank((lately, 2, channels), x.dtype),
        "sums": blank((parts, 2, channels), np.float64),
    }


@st.composite
def rows_of_groups(draw: st.DrawFn, name: str, dtype: str) -> Arguments:
    """Rows of one value and of many, channels of one place and of many, large means, absent weights."""
    long = draw(st.integers(0, 9)) == 0
    length = draw(st.sampled_from([1, 1, 2, 7, 40])) if not long else draw(st.sampled_from([1, 4100]))
    depth = 4200 if long and length == 1 else draw(st.one_of(st.integers(1, 4), st.integers(1, 70)))
    n, g = draw(st.sampled_from([1, 2, 3, 70])), draw(st.integers(1, 3))
    if long:
        n, depth = 1, depth if length == 1 else 2
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    deviation = draw(st.sampled_from([1.0, 1e-3, 50.0]))
    ratio = draw(st.sampled_from([0.0, 1.0, -100.0, 1e4 if name == "group_norm" and dtype == "float32" else 100.0]))
    shape = (n, g, depth, length)
    x = deviation * (rng.standard_normal(shape) + ratio * rng.uniform(0.5, 1.0, (n, g, 1, 1)))
    weight, bias = (rng.uniform(-2, 2, draw(st.sampled_from([0, g * depth]))).astype(dtype) for _ in range(2))
    forward = _forward(x.astype(dtype), weight, bias, draw(st.sampled_from([1e-5, 0.1])))
    if name == "group_norm":
        return forward
    return _backward(forward, rng.standard_normal(shape).astype(dtype), draw(st.integers(1, min(n, 3))))


def _sizes(before: Arguments) -> dict[str, Array]:
    """The terms that cancel in the gradients."""
    x, g = before["x"].astype(np.float64), np.abs(before["gy"].astype(np.float64))
    mean, _, _, invstd = before["statistics"].astype(np.float64).reshape(4, *x.shape[:2], 1, 1)
    hat = np.abs(x - mean) * invstd
    weight = before["weight"]
    h = g * np.abs(weight).reshape(1, *x.shape[1:3], 1) if weight.size else g
    most = h.max((2, 3), keepdims=True)
    size = {"gweight": (g * hat).sum((0, 3)).ravel(), "gbias": g.sum((0, 3)).ravel()}
    return {"gx": invstd * (h + most * (1 + hat)), **{k: v[: before[k].size] for k, v in size.items()}}


MAKERS["group_norm"] = (rows_of_groups, 1e-5)
MAKERS["group_norm_backward"] = (rows_of_groups, 1e-5)
SCALES["group_norm_backward"] = _sizes


def _hot() -> dict[str, Callable[[], Arguments]]:
    """Large enough for the pool: runs and elements, cut along the samples, along the groups, and both."""
    rng = np.random.default_rng(0)

    def f(*shape: int) -> Array:
        return rng.standard_normal(shape).astype(np.float32)

    def forward(*shape: int) -> Arguments:
        channels = shape[1] * shape[2]
        return _forward(f(*shape), f(channels), f(channels), 1e-5)

    def backward(parts: int, *shape: int) -> Arguments:
        return _backward(forward(*shape), f(*shape), parts)

    return {
        "group_norm runs": lambda: forward(5, 4, 9, 101),
        "group_norm elements": lambda: forward(333, 1, 77, 1),
        "group_norm_backward runs": lambda: backward(5, 5, 4, 9, 101),
        "group_norm_backward few samples": lambda: backward(1, 2, 7, 9, 201),
        "group_norm_backward elements": lambda: backward(6, 333, 1, 77, 1),
        "group_norm_backward groups of elements": lambda: backward(2, 200, 5, 21, 1),
    }


HOT.update(_hot())
