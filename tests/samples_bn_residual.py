"""Samples of batch normalisation to which a residual is added ahead of the activation."""

from __future__ import annotations

from typing import Any

import numpy as np
from op_samples import BN_SHAPES, Array, Call, Fault, Sample, batch, bn_faults, normal, positive, record

import tinygrad_bn as tb
from tinygrad_bn import errors
from tinygrad_bn.ops import batch_norm_residual, batch_norm_residual_eval
from tinygrad_bn.ops.batch_norm import batch_norm_train
from tinygrad_bn.ops.batch_norm_residual import batch_norm_residual_backward, batch_norm_residual_eval_backward

ACTIVATIONS = ("relu", "sigmoid", "none")


def oracle(x: Array, r: Array, w: Any, b: Any, eps: float, act: str, given: Any = None) -> Array:
    dims, shape = tuple(i for i in range(x.ndim) if i != 1), (1, -1) + (1,) * (x.ndim - 2)
    mean, var = given or (x.mean(dims), x.var(dims))
    z = (x - mean.reshape(shape)) / np.sqrt(var.reshape(shape) + eps)
    z = z * (1 if w is None else w.reshape(shape)) + (0 if b is None else b.reshape(shape)) + r
    return {"none": z, "relu": np.maximum(z, 0), "sigmoid": 1 / (1 + np.exp(-z))}[act]


def problem(shape: tuple[int, ...], given: bool = False) -> tuple[Array, ...]:
    """x, a residual, weight, bias, mean and var such that nothing lies within 0.02 of the ReLU's kink."""
    x, w, b, mean, var = batch(shape, given)
    r = normal(*shape, seed=7)
    if x.size:
        z = oracle(x, r, w, b, 1e-5, "none", (mean, var) if given else None)
        r = r + np.where(np.abs(z) < 0.02, 0.1 * np.where(z < 0, -1, 1), 0)
    return x, r, w, b, mean, var


def composed(lib: Any, x: Any, r: Any, w: Any, b: Any, eps: float, act: str, given: Any) -> Any:
    mean, var = given or (None, None)
    y = lib.nn.functional.batch_norm(x, mean, var, w, b, given is None, 0.1, eps) + r
    return y if act == "none" else getattr(lib, act)(y)


def call(act: str, given: Any = None, eps: float = 1e-5) -> Call:
    """The operation with a weight and a bias, of both modes and libraries."""

    def run(lib: Any, x: Any, r: Any, w: Any = None, b: Any = None) -> Any:
        if lib is not tb:
            constants = given and tuple(lib.from_numpy(a).to(x.dtype) for a in given)
            return composed(lib, x, r, w, b, eps, act, constants)
        if given is None:
            return batch_norm_residual(x, r, w, b, eps, act)[0]
        mean, var = (tb.tensor(a).to(x.dtype).to(device=x.device) for a in given)
        return batch_norm_residual_eval(x, r, mean, var, w, b, eps, act)

    return run


def samples(act: str, evaluated: bool) -> list[Sample]:
    out = []
    for shape in (*BN_SHAPES, *(((1, 3),) if evaluated else ())):
        x, r, w, b, *statistics = problem(shape, evaluated)
        given = tuple(statistics) if evaluated else None
        out.append(
            Sample(
                f"{shape}-{act}",
                call(act, given),
                (x, r, w, b),
                lambda x, r, w, b, given=given: oracle(x, r, w, b, 1e-5, act, given),
            )
        )
    x, r, w, b, *statistics = problem((4, 2, 3, 1), evaluated)
    given = tuple(statistics) if evaluated else None
    run = call(act, given)

    def last(a: Array) -> Array:
        return a.transpose(0, 2, 3, 1).copy()

    plain = x, r + np.where(np.abs(oracle(x, r, None, None, 1e-5, "none", given)) < 0.02, 0.1, 0)
    return [
        *out,
        Sample(f"plain-{act}", run, plain, lambda x, r: oracle(x, r, None, None, 1e-5, act, given)),
        Sample(
            f"channels_last-{act}",
            lambda lib, x, r, w, b: run(lib, x.permute(0, 3, 1, 2), r.permute(0, 3, 1, 2), w, b),
            (last(x), last(r), w, b),
            lambda x, r, w, b: oracle(x.transpose(0, 3, 1, 2), r.transpose(0, 3, 1, 2), w, b, 1e-5, act, given),
        ),
        Sample(
            f"layouts of two kinds-{act}",
            lambda lib, x, r, w, b: run(lib, x.permute(0, 3, 1, 2), r, w, b),
            (last(x), r, w, b),
            lambda x, r, w, b: oracle(x.transpose(0, 3, 1, 2), r, w, b, 1e-5, act, given),
        ),
        Sample(
            f"empty-{act}",
            run,
            (normal(0, 2, 3), normal(0, 2, 3), positive(2), normal(2)),
            lambda x, r, w, b: x,
            torch=None,
        ),
    ]


def faults(op: Call) -> list[Fault]:
    x = tb.zeros(4, 3)
    inherited = bn_faults(lambda x, *args, **kwargs: op(x, x, *args, **kwargs))
    cases: list[tuple[str, Any, type[errors.TinygradError], str]] = [
        ("residual's shape", tb.zeros(4, 1), errors.ShapeError, r"the input's shape \(4, 3\)\. Got \(4, 1\)\.$"),
        ("residual's dtype", tb.zeros(4, 3, dtype=tb.float64), errors.DTypeError, r"dtype float32, as input has\. Got"),
        ("residual's device", tb.zeros(4, 3, device="ref"), errors.DeviceError, "on device cpu"),
        ("no residual", np.zeros((4, 3), np.float32), errors.DTypeError, "a Tensor"),
    ]
    return inherited + [
        Fault(name, lambda r=r: op(x, r, None), error, rf"^batch_norm: 'residual' must (be|have) {text}")
        for name, r, error, text in cases
    ]


def _eval_with(x: Any, r: Any, *args: Any, **kwargs: Any) -> Any:
    return batch_norm_residual_eval(x, r, tb.zeros(3), tb.ones(3), *args, **kwargs)


record(
    "batch_norm_residual",
    [s for act in ACTIVATIONS for s in samples(act, False)],
    [
        *faults(batch_norm_residual),
        Fault(
            "one value",
            lambda: batch_norm_residual(tb.zeros(1, 3), tb.zeros(1, 3)),
            errors.ArgumentError,
            r"^batch_norm: 'input' must have more than one value a channel in training\. Got shape \(1, 3\)\.\nHint:",
        ),
    ],
)
record("batch_norm_residual_eval", [s for act in ACTIVATIONS for s in samples(act, True)], faults(_eval_with))


def gradients(act: str, evaluated: bool) -> Call:
    """The operation's gradients as functions of all that they are computed from, the output among it."""

    def run(lib: Any, gy: Any, x: Any, y: Any, w: Any, b: Any) -> Any:
        if evaluated:
            c = x.shape[1]
            mean, var = tb.zeros(c, dtype=x.dtype, device=x.device), tb.ones(c, dtype=x.dtype, device=x.device)
            return batch_norm_residual_eval_backward(gy, x, y, w, b, mean, var, 1e-5, act)
        statistics = batch_norm_train(x.detach())[1]
        return batch_norm_residual_backward(gy, x, y, w, b, statistics, 1e-5, act)

    return run


for _name, _evaluated in (("batch_norm_residual_backward", False), ("batch_norm_residual_eval_backward", True)):
    record(
        _name,
        [
            Sample(
                f"{shape}-{act}",
                gradients(act, _evaluated),
                (normal(*shape, seed=3), *batch(shape)[:1], positive(*shape), *batch(shape)[1:3]),
                torch=None,
            )
            for act in ("relu", "sigmoid")
            for shape in ((6, 3), (3, 2, 2, 3))
        ],
    )
