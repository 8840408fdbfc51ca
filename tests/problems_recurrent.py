"""Problems of the kernels of recurrent steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import strategies
from hypothesis import strategies as st
from problems import HOT, MAKERS, Arguments, blank

Array = np.ndarray[Any, Any]


def _arguments(name: str, n: int, size: int, relu: bool, dtype: str, values: Any) -> Arguments:
    """The arguments of a step; ``values(shape)`` draws what is read."""
    state, part = (n, size), {"r": 1, "g": 3, "l": 4}[name[0]] * size
    activations = np.tanh(values((n, 4 * size))).astype(dtype)
    match name:
        case "rnn_step":
            return {"a": values(state), "b": values(state), "relu": relu, "out": blank(state, dtype)}
        case "rnn_step_backward":
            y = np.maximum(values(state), 0) if relu else np.tanh(values(state))
            return {
                "gy": values(state),
                "gnext": values(state),
                "y": y.astype(dtype),
                "relu": relu,
                "ga": blank(state, dtype),
            }
        case "gru_step" | "lstm_step":
            out: Arguments = {"a": values((n, part)), "b": values((n, part)), "h": values(state)}
            out["acts"] = blank((n, 4 * size), dtype)
            if name == "lstm_step":
                out["c"] = out.pop("h")
                out["acts"] = out.pop("acts")
                out["cell"] = blank(state, dtype)
            return {**out, "out": blank(state, dtype)}
        case "gru_step_backward":
            return {
                "gy": values(state),
                "gnext": values(state),
                "carry": values(state),
                "acts": activations,
                "h": values(state),
                "ga": blank((n, part), dtype),
                "gb": blank((n, part), dtype),
            }
        case _:
            return {
                "gy": values(state),
                "gnext": values(state),
                "gc": values(state),
                "acts": activations,
                "c": values(state),
                "cell": values(state),
                "ga": blank((n, part), dtype),
            }


NAMES = tuple(f"{kind}_step{way}" for kind in ("rnn", "gru", "lstm") for way in ("", "_backward"))


@st.composite
def steps(draw: st.DrawFn, name: str, dtype: str) -> Arguments:
    n, size = draw(st.integers(0, 4)), draw(st.one_of(st.integers(1, 5), st.just(17)))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    scale = draw(st.sampled_from([1.0, 5.0]))
    if draw(st.booleans()):
        values = lambda shape: draw(strategies.values(shape, dtype)) / 30  # noqa: E731
    else:
        values = lambda shape: (rng.standard_normal(shape) * scale).astype(dtype)  # noqa: E731
    return _arguments(name, n, size, draw(st.booleans()), dtype, values)


def _hot(name: str) -> Any:
    def make() -> Arguments:
        rng = np.random.default_rng(0)
        return _arguments(name, 301, 457, False, "float32", lambda shape: rng.standard_normal(shape).astype(np.float32))

    return make


MAKERS.update(dict.fromkeys(NAMES, (steps, 5e-6)))
HOT.update({name: _hot(name) for name in NAMES})
