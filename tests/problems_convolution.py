"""Problems of the kernels under convolution."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import strategies
from hypothesis import strategies as st
from problems import HOT, MAKERS, SUMS, Arguments, blank


@st.composite
def windows(draw: st.DrawFn, name: str, dtype: str) -> Arguments:
    """Windows of any stride, dilation and padding, on and off the input."""
    n, c = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    size, kernel, count = ([draw(st.integers(1, most)) for _ in "hw"] for most in (9, 3, 7))
    steps = {
        **{f"stride_{k}": draw(st.integers(1, 3)) for k in "hw"},
        **{k: draw(st.integers(0, 4)) for k in ("top", "left")},
        **{f"dilation_{k}": draw(st.integers(1, 3)) for k in "hw"},
    }
    x, columns = (n, c, *size), (c, *kernel, n, *count)
    if name == "im2col":
        return {"x": draw(strategies.values(x, dtype, specials=True)), **steps, "out": blank(columns, dtype)}
    return {"columns": draw(strategies.values(columns, dtype)), **steps, "out": blank(x, dtype)}


@st.composite
def exchanges(draw: st.DrawFn, name: str, dtype: str) -> Arguments:
    a, b, length = (draw(st.integers(1, most)) for most in (5, 5, 40))
    if name == "accumulate":
        return {k: draw(strategies.values((length,), dtype)) for k in ("x", "out")}
    if name == "add_bias":
        return {"bias": draw(strategies.values((b,), dtype)), "out": draw(strategies.values((a, b, length), dtype))}
    return {
        "x": draw(strategies.values((a, b, length), dtype)),
        "bias": draw(strategies.values((draw(st.sampled_from([0, a])),), dtype)),
        "out": blank((b, a, length), dtype),
    }


MAKERS["im2col"] = (windows, 0.0)
MAKERS["col2im"] = (windows, 1e-6)
MAKERS.update(dict.fromkeys(("exchange", "add_bias", "accumulate"), (exchanges, 0.0)))
SUMS.add("col2im")


def _hot() -> dict[str, Callable[[], Arguments]]:
    """Large enough for the pool: several samples and one, strides of 1 and more."""
    rng = np.random.default_rng(0)

    def f(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    def steps(stride: int) -> Arguments:
        return {"stride_h": stride, "stride_w": stride, "top": 1, "left": 2, "dilation_h": 2, "dilation_w": 1}

    return {
        "im2col": lambda: {"x": f(3, 5, 37, 41), **steps(1), "out": blank((5, 3, 3, 3, 35, 43), np.float32)},
        "im2col strided": lambda: {"x": f(1, 9, 90, 90), **steps(2), "out": blank((9, 3, 3, 1, 44, 46), np.float32)},
        "col2im": lambda: {"columns": f(5, 3, 3, 3, 35, 43), **steps(1), "out": blank((3, 5, 37, 41), np.float32)},
        "col2im strided": lambda: {
            "columns": f(9, 3, 3, 1, 44, 46), **steps(2), "out": blank((1, 9, 90, 90), np.float32),
        },
        "exchange": lambda: {"x": f(17, 9, 1001), "bias": f(17), "out": blank((9, 17, 1001), np.float32)},
        "add_bias": lambda: {"bias": f(17), "out": f(9, 17, 1001)},
        "accumulate": lambda: {"x": f(200_003), "out": f(200_003)},
    }  # fmt: skip


HOT.update(_hot())
