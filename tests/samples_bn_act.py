"""Samples of batch normalisation with the activations that ``op_samples`` and ``samples_bn_residual`` leave out."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from op_samples import Call, Sample, normal, record
from samples_bn_residual import oracle, problem

import tinygrad_bn as tb
from tinygrad_bn.ops import batch_norm_residual, batch_norm_residual_eval
from tinygrad_bn.ops._activations import named
from tinygrad_bn.ops.batch_norm import batch_norm_eval, batch_norm_train
from tinygrad_bn.ops.batch_norm_residual import batch_norm_residual_backward, batch_norm_residual_eval_backward

_erf = np.vectorize(math.erf, otypes=[np.float64])

CURVES: dict[str, Any] = {
    "leaky_relu": lambda z: np.where(z > 0, z, 0.2 * z),
    "folded": lambda z: np.where(z > 0, z, -0.2 * z),
    "tanh": np.tanh,
    "silu": lambda z: z / (1 + np.exp(-z)),
    "gelu": lambda z: z * (1 + _erf(z / math.sqrt(2))) / 2,
    "gelu_tanh": lambda z: z * (1 + np.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))) / 2,
}


def theirs(lib: Any, z: Any, act: str) -> Any:
    """The activation by PyTorch."""
    f = lib.nn.functional
    match act:
        case "leaky_relu" | "folded":
            return f.leaky_relu(z, 0.2 if act == "leaky_relu" else -0.2)
        case "gelu_tanh":
            return f.gelu(z, approximate="tanh")
        case _:
            return getattr(f if act in ("silu", "gelu") else lib, act)(z)


def ours(act: str) -> str:
    """The activation by name; "folded" is a leaky ReLU whose output does not tell its slope."""
    slope = -0.2 if act == "folded" else 0.2
    return named("batch_norm", "leaky_relu" if act == "folded" else act, slope)


def call(act: str, residual: bool, given: Any) -> Call:
    def run(lib: Any, x: Any, r: Any, w: Any, b: Any) -> Any:
        if lib is not tb:
            mean, var = (lib.from_numpy(a).to(x.dtype) for a in given) if given else (None, None)
            z = lib.nn.functional.batch_norm(x, mean, var, w, b, given is None, 0.1, 1e-5)
            return theirs(lib, z + r, act)
        constants = tuple(tb.tensor(a).to(x.dtype).to(device=x.device) for a in given) if given else ()
        if residual:
            if given:
                return batch_norm_residual_eval(x, r, *constants, w, b, 1e-5, ours(act))
            return batch_norm_residual(x, r, w, b, 1e-5, ours(act))[0]
        if given:
            return batch_norm_eval(x, *constants, w, b, 1e-5, ours(act))
        return batch_norm_train(x, w, b, 1e-5, ours(act))[0]

    if residual:
        return run
    return lambda lib, x, w, b: run(lib, x, 0, w, b)


def sample(act: str, shape: tuple[int, ...], residual: bool, evaluated: bool) -> Sample:
    x, r, w, b, *statistics = problem(shape, evaluated)
    given = tuple(statistics) if evaluated else None
    name, run = f"{shape}-{act}", call(act, residual, given)
    if residual:
        return Sample(name, run, (x, r, w, b), lambda *a: CURVES[act](oracle(*a, 1e-5, "none", given)))
    no = np.zeros(())
    z = oracle(x, no, w, b, 1e-5, "none", given)
    b = b + 0.05 * (np.abs(z).min() < 0.02)  # nothing at a kink
    return Sample(name, run, (x, w, b), lambda x, w, b: CURVES[act](oracle(x, no, w, b, 1e-5, "none", given)))


SHAPES: tuple[tuple[int, ...], ...] = ((3, 2, 2, 3), (5, 17))

for _residual in (False, True):
    for _evaluated in (False, True):
        _name = "batch_norm" + ("_residual" if _residual else "") + ("_eval" if _evaluated else "")
        record(
            _name if _residual or _evaluated else "batch_norm_train",
            [sample(a, s, _residual, _evaluated) for a in CURVES for s in SHAPES[: 1 if _evaluated else 2]],
        )


def gradients(act: str, evaluated: bool) -> Call:
    """The operation's gradients as functions of all that they are computed from, what is kept among it."""

    def run(lib: Any, gy: Any, x: Any, kept: Any, w: Any, b: Any) -> Any:
        if evaluated:
            c = x.shape[1]
            mean, var = tb.zeros(c, dtype=x.dtype, device=x.device), tb.ones(c, dtype=x.dtype, device=x.device)
            return batch_norm_residual_eval_backward(gy, x, kept, w, b, mean, var, 1e-5, ours(act))
        statistics = batch_norm_train(x.detach())[1]
        return batch_norm_residual_backward(gy, x, kept, w, b, statistics, 1e-5, ours(act))

    return run


for _name, _evaluated in (("batch_norm_residual_backward", False), ("batch_norm_residual_eval_backward", True)):
    x_, r_, w_, b_, *_ = problem((3, 2, 2, 3), False)
    record(
        _name,
        [
            Sample(f"kept-{act}", gradients(act, _evaluated), (normal(3, 2, 2, 3, seed=3), x_, r_, w_, b_), torch=None)
            for act in ("tanh", "silu", "gelu", "gelu_tanh")
        ],
    )
