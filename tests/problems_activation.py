"""Problems of the kernels of activations and of the terms of losses."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import strategies
from hypothesis import strategies as st
from problems import HOT, MAKERS, SCALES, Arguments, Array, blank, elementwise
from scipy.special import expit, ndtr

from tinygrad_bn.core.device import ref
from tinygrad_bn.kernels.spec import parameters_of

SETTINGS = {
    "slope": (0.01, -0.5, 2.0),
    "alpha": (1.0, 0.3),
    "rate": (1.0, 0.5),
    "beta": (1.0, 3.0),
    "threshold": (20.0, 1.0, np.inf),
    "delta": (1.0, 0.1),
    "scale": (1.0, 10.0),
    "low": (-1.0, 0.0),
    "high": (0.5, 6.0),
}
"""What is one number for all elements."""


@st.composite
def pointwise(draw: st.DrawFn, name: str, dtype: str) -> Arguments:
    """Operands of one shape, flat or of four axes, or of one element; settings of one element."""
    names = parameters_of(getattr(ref.kernels, name).serial)[:-1]
    n = draw(st.one_of(st.integers(0, 3), st.integers(0, 70)))
    shape: tuple[int, ...] = draw(st.sampled_from([(n,), (1, 2, 3, n)]))
    out: Arguments = {}
    full = draw(st.integers(0, len([k for k in names if k not in SETTINGS]) - 1))
    for i, key in enumerate(names):
        if key in SETTINGS:
            out[key] = np.full((1,) * len(shape), draw(st.sampled_from(SETTINGS[key])), dtype)
            continue
        own = shape if i == full or draw(st.booleans()) else (1,) * len(shape)
        out[key] = draw(strategies.values(own, dtype, specials=len(names) == 1 or name in CALM))
        if name.startswith("bce") and (key == "target" or not name.startswith("bce_logits")):
            out[key] = np.clip(np.abs(out[key]), 0, 1) if key != "gy" else out[key]
    return {**out, "out": blank(shape, dtype)}


CALM = ("leaky_relu", "elu", "softplus", "huber")
"""Kernels with settings that are also tried on NaN, infinities and the like."""
EXACT = {
    "leaky_relu": 1e-7,
    "leaky_relu_backward": 1e-7,
    "hardtanh_backward": 0.0,
    "huber": 3e-7,
    "huber_backward": 3e-7,
}
"""To what relative error float32 must agree. Else 3e-6, and 2e-5 in gradients: digits are lost far out in a tail."""
WANTED = (
    "leaky_relu leaky_relu_backward hardtanh_backward elu elu_backward gelu gelu_backward gelu_tanh gelu_tanh_backward "
    "silu silu_backward mish mish_backward softplus softplus_backward logsigmoid logsigmoid_backward huber "
    "huber_backward bce bce_backward bce_logits bce_logits_backward"
)
MAKERS.update({n: (pointwise, EXACT.get(n, 2e-5 if n.endswith("_backward") else 3e-6)) for n in WANTED.split()})
MAKERS.update(dict.fromkeys(("erf", "expm1", "log1p"), (elementwise, 4e-7)))


def _sizes_of(slope: Callable[[Array, Array], Array]) -> Callable[[Arguments], dict[str, Array]]:
    """Where the two terms of a slope cancel: the sum of their sizes, which ``slope`` makes of x and |x|.

    What comes from below the smallest normal number may become 0.
    """

    def sizes(before: Arguments) -> dict[str, Array]:
        x = before["x"].astype(np.float64)
        return {"out": np.broadcast_to(np.abs(before["gy"]) * slope(x, np.abs(x)) + 1e-30, before["out"].shape)}

    return sizes


SCALES.update(
    gelu_backward=_sizes_of(lambda x, a: ndtr(x) + a * np.exp(-(x**2) / 2)),
    gelu_tanh_backward=_sizes_of(lambda x, a: expit(1.6 * x + 0.0713 * x**3) * (1 + a + a**3)),
    silu_backward=_sizes_of(lambda x, a: expit(x) * (1 + a)),
    mish_backward=_sizes_of(lambda x, a: expit(x) * (2 + 2 * a)),
    elu_backward=_sizes_of(lambda x, a: 0 * x),
    softplus_backward=_sizes_of(lambda x, a: 0 * x),
    logsigmoid_backward=_sizes_of(lambda x, a: 0 * x),
)


def _logits_sizes(before: Arguments) -> dict[str, Array]:
    x, t = before["x"].astype(np.float64), before["target"]
    size = np.abs(before["gy"]) * ((1 - t) * expit(x) + t * expit(-x)) + 1e-30
    return {"out": np.broadcast_to(size, before["out"].shape)}


SCALES["bce_logits_backward"] = _logits_sizes


def _large(name: str) -> Arguments:
    rng = np.random.default_rng(0)
    names = parameters_of(getattr(ref.kernels, name).serial)
    return {
        k: np.full(1, SETTINGS[k][0], np.float32) if k in SETTINGS else rng.standard_normal(200_003).astype(np.float32)
        for k in names
    }


HOT.update(
    {name: lambda name=name: _large(name) for name in ("gelu", "elu_backward", "softplus", "bce_logits_backward")}
)
