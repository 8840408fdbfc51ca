"""Records of recurrent layers in one direction. PyTorch's are compared with in ``test_rnn.py``."""

from __future__ import annotations

from typing import Any

import numpy as np
from op_samples import Sample, normal, record

from tinygrad_bn.ops.recurrent import GATES, recurrent, recurrent_composite

Array = np.ndarray[Any, Any]


def _sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def _sequence(kind: str, reverse: bool) -> Any:
    """The layer in NumPy, element by element of its formulas."""

    def run(a: Array, h: Array, c: Array, w: Array, b: Array) -> list[Array]:
        y = np.empty((*a.shape[:2], h.shape[1]))
        for t in reversed(range(len(a))) if reverse else range(len(a)):
            p = h @ w.T + b
            if kind == "lstm":
                i, f, g, o = np.split(a[t] + p, 4, 1)
                c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(g)
                h = _sigmoid(o) * np.tanh(c)
            elif kind == "gru":
                (ar, az, an), (pr, pz, pn) = np.split(a[t], 3, 1), np.split(p, 3, 1)
                z = _sigmoid(az + pz)
                h = (1 - z) * np.tanh(an + _sigmoid(ar + pr) * pn) + z * h
            else:
                h = np.maximum(a[t] + p, 0) if kind == "relu" else np.tanh(a[t] + p)
            y[t] = h
        return [y, h, c] if kind == "lstm" else [y, h]

    return run


def _arrays(kind: str, t: int, n: int, h: int, shift: float = 0.0) -> tuple[Array, ...]:
    g = GATES[kind]
    shapes = ((t, n, g * h), (n, h), (n, h), (g * h, h), (g * h,))
    return tuple(normal(*s, seed=i) * 0.7 + shift for i, s in enumerate(shapes))


def _call(kind: str, reverse: bool, function: Any = recurrent) -> Any:
    def call(lib: Any, gates: Any, h: Any, c: Any, w: Any, b: Any) -> Any:
        out = function(gates, h, c if kind == "lstm" else None, w, b, kind, reverse)
        return [t for t in out if t is not None]

    return call


SIZES = {"tanh": (3, 2, 3), "gru": (2, 2, 3), "lstm": (3, 2, 2)}

record(
    "recurrent",
    [
        Sample(f"{kind}-{reverse}", _call(kind, reverse), _arrays(kind, *size), _sequence(kind, reverse), None)
        for kind, size in SIZES.items()
        for reverse in (False, True)
    ]
    + [
        Sample("relu", _call("relu", False), _arrays("relu", 3, 2, 3, 2.0), _sequence("relu", False), None),
        Sample("one step", _call("lstm", True), _arrays("lstm", 1, 1, 1), _sequence("lstm", True), None),
        Sample("no batch", _call("gru", False), _arrays("gru", 2, 0, 3), _sequence("gru", False), None),
    ]
    + [
        Sample(
            f"composite {kind}",
            _call(kind, True, recurrent_composite),
            _arrays(kind, *size),
            _sequence(kind, True),
            None,
        )
        for kind, size in SIZES.items()
    ],
    ops=("recurrent", "recurrent_backward"),
)
