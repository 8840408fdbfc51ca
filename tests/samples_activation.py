"""Samples of activations, of the functions they are made of, and of the terms of losses."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from op_samples import SHAPES, Fault, Sample, away, normal, positive, record, unary

import tinygrad_bn as tb
from tinygrad_bn import errors, ops
from tinygrad_bn.ops import activation, losses, smooth

Array = np.ndarray[Any, Any]
Call = Callable[..., Any]


def gauss(x: Array) -> Array:
    return np.asarray(np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi))


def phi(x: Array) -> Array:
    return np.asarray(np.vectorize(math.erf, otypes=[float])(x / math.sqrt(2)) / 2 + 0.5)


def sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


unary("erf", normal, np.vectorize(math.erf, otypes=[float]))
unary("expm1", normal, np.expm1)
unary("log1p", lambda *s: np.asarray(positive(*s) - 0.9), np.log1p)


def not_floating(name: str, call: Call | None = None) -> list[Fault]:
    run = call or (lambda x: getattr(ops, name)(x))
    return [
        Fault(
            "integers",
            lambda: run(tb.tensor([1, 2])),
            errors.DTypeError,
            rf"^{name}: 'input' must be a floating-point tensor\. Got int64\.",
        ),
        Fault("no tensor", lambda: run([1.0]), errors.DTypeError, rf"^{name}: 'input' must be a Tensor\. Got list\."),
    ]


def functional(lib: Any) -> Any:
    return lib.functional if lib is tb else lib.nn.functional


def activate(
    name: str,
    values: Call,
    reference: Call,
    options: dict[str, Any] | None = None,
    *others: tuple[dict[str, Any], Call],
    faults: list[Fault] | None = None,
    entries: tuple[str, ...] = (),
) -> None:
    """Samples over all shapes with ``options``, and of one shape with each of ``others``."""

    def call(chosen: dict[str, Any]) -> Call:
        return lambda lib, x: getattr(functional(lib), name)(x, **chosen)

    samples = [Sample(f"{s}", call(options or {}), (values(*s),), reference) for s in SHAPES]
    samples += [Sample(f"{o}", call(o), (values(4, 5),), r) for o, r in others]
    record(name, samples, not_floating(name) + (faults or []), entries or (name, f"{name}_backward"))


def leaky(slope: float) -> Call:
    return lambda x: np.where(x > 0, x, slope * x)


activate(
    "leaky_relu", away, leaky(0.01), {}, ({"negative_slope": 0.3}, leaky(0.3)), ({"negative_slope": -2}, leaky(-2))
)


def between(*shape: int, seed: int = 0) -> Array:
    """Not within 0.1 of -1, 0, 1 or 6."""
    return np.asarray(
        np.random.default_rng([seed, 7, *shape]).choice([-2.5, -1.4, -0.5, 0.3, 0.8, 1.7, 5.0, 7.0], shape)
    )


activate(
    "hardtanh",
    between,
    lambda x: np.clip(x, -1, 1),
    {},
    ({"min_val": 0.0, "max_val": 6.0}, lambda x: np.clip(x, 0, 6)),
    ({"min_val": 0.5, "max_val": 0.5}, lambda x: np.full_like(x, 0.5)),
    faults=[
        Fault(
            "limits",
            lambda: ops.hardtanh(tb.zeros(2), 1.0, 0.0),
            errors.ArgumentError,
            r"^hardtanh: 'min_val' must be at most max_val = 0\.0\. Got 1\.0\.$",
        )
    ],
)


def elu(alpha: float, scale: float = 1.0, rate: float = 1.0) -> Call:
    return lambda x: scale * np.where(x > 0, x, alpha * np.expm1(x * rate))


activate("elu", away, elu(1.0), {}, ({"alpha": 0.4}, elu(0.4)), ({"alpha": -1.5}, elu(-1.5)))
record(
    "selu and celu",
    [
        Sample("selu", lambda lib, x: lib.selu(x), (away(3, 4),), elu(1.6732632423543772, 1.0507009873554805)),
        Sample("celu", lambda lib, x: lib.celu(x), (away(3, 4),), elu(1.0)),
        Sample("celu 2.5", lambda lib, x: lib.celu(x, 2.5), (away(3, 4),), elu(2.5, rate=0.4)),
        Sample("celu below 0", lambda lib, x: lib.celu(x, -0.5), (away(3, 4),), elu(-0.5, rate=-2.0)),
    ],
    [
        Fault(
            "alpha",
            lambda: ops.celu(tb.zeros(2), 0.0),
            errors.ArgumentError,
            r"^celu: 'alpha' must be other than 0\. Got 0\.0\.$",
        ),
        *not_floating("selu"),
        *not_floating("celu"),
    ],
    ops=("elu", "elu_backward"),
)
record(
    "prelu",
    [
        Sample(
            f"{s}-{w}",
            lambda lib, x, weight: lib.prelu(x, weight),
            (away(*s), normal(*w)),
            lambda x, weight: np.where(x > 0, x, x * weight.reshape(-1, *[1] * max(x.ndim - 2, 0))).reshape(x.shape),
        )
        for s, w in (
            ((3, 4), (4,)),
            ((2, 3, 4, 5), (3,)),
            ((2, 3), (1,)),
            ((5,), (1,)),
            ((2, 1, 3), (1,)),
            ((0, 2), (2,)),
        )
    ],
    [
        *not_floating("prelu", lambda x: ops.prelu(x, tb.ones(1))),
        Fault(
            "slopes",
            lambda: ops.prelu(tb.zeros(2, 3), tb.ones(2)),
            errors.ShapeError,
            r"^prelu: 'weight' must have shape \(C,\) = \(3,\) or \(1,\)\. Got \(2,\)\.$",
        ),
        Fault(
            "devices",
            lambda: ops.prelu(tb.zeros(2, 3), tb.ones(3, device="ref")),
            errors.DeviceError,
            r"^prelu: 'weight' must be on device cpu",
        ),
    ],
    ops=("where",),
)

CUBIC = math.sqrt(2 / math.pi)
activate(
    "gelu",
    normal,
    lambda x: x * phi(x),
    {},
    ({"approximate": "tanh"}, lambda x: 0.5 * x * (1 + np.tanh(CUBIC * (x + 0.044715 * x**3)))),
    faults=[
        Fault(
            "approximation",
            lambda: ops.gelu(tb.zeros(2), "sigmoid"),
            errors.ArgumentError,
            r"^gelu: 'approximate' must be 'none' or 'tanh'\. Got 'sigmoid'\.$",
        )
    ],
)
activate("silu", normal, lambda x: x * sigmoid(x))
activate("mish", normal, lambda x: x * np.tanh(np.log1p(np.exp(x))))


def softplus(beta: float) -> Call:
    return lambda x: np.log1p(np.exp(beta * x)) / beta


activate(
    "softplus",
    normal,
    softplus(1.0),
    {},
    ({"beta": 3.0}, softplus(3.0)),
    ({"beta": -0.5}, softplus(-0.5)),
    ({"beta": 2.0, "threshold": -9.0}, lambda x: x),
    faults=[
        Fault(
            "beta",
            lambda: ops.softplus(tb.zeros(2), 0.0),
            errors.ArgumentError,
            r"^softplus: 'beta' must be other than 0\. Got 0\.0\.$",
        )
    ],
)
activate("logsigmoid", normal, lambda x: -np.log1p(np.exp(-x)))

record(
    "composite activations",
    [
        Sample("relu6", lambda lib, x: functional(lib).relu6(x), (between(4, 5),), lambda x: np.clip(x, 0, 6)),
        Sample(
            "hardsigmoid",
            lambda lib, x: functional(lib).hardsigmoid(x),
            (2 * between(4, 5),),
            lambda x: np.clip(x + 3, 0, 6) / 6,
            torch_gradient=False,  # PyTorch multiplies by 1/6 of float32
        ),
        Sample(
            "hardswish",
            lambda lib, x: functional(lib).hardswish(x),
            (2 * between(4, 5),),
            lambda x: x * np.clip(x + 3, 0, 6) / 6,
        ),
        Sample("softsign", lambda lib, x: functional(lib).softsign(x), (away(4, 5),), lambda x: x / (1 + np.abs(x))),
        Sample("tanhshrink", lambda lib, x: functional(lib).tanhshrink(x), (normal(4, 5),), lambda x: x - np.tanh(x)),
    ],
    ops=("hardtanh", "hardtanh_backward"),
)

# --------------------------------------------------------------------------------------------------- gradient kernels

record(
    "gradients of activations",
    [
        Sample(
            name, lambda lib, g, x, f=function, a=rest: f(g, x, *a), (away(3, 4), between(3, 4, seed=1)), oracle, None
        )
        for name, function, rest, oracle in (
            ("leaky_relu", activation.leaky_relu_backward, (0.2,), lambda g, x: np.where(x > 0, g, 0.2 * g)),
            (
                "hardtanh",
                activation.hardtanh_backward,
                (-1.0, 6.0),
                lambda g, x: np.where((x > -1) & (x < 6), g, 0.0),
            ),
            (
                "elu",
                activation.elu_backward,
                (0.7, 1.3, 2.0),
                lambda g, x: g * np.where(x > 0, 1.3, 1.4 * np.exp(2 * x)),
            ),
            ("gelu", smooth.gelu_backward, ("none",), lambda g, x: g * (phi(x) + x * gauss(x))),
            ("gelu tanh", smooth.gelu_backward, ("tanh",), None),
            ("silu", smooth.silu_backward, (), lambda g, x: g * sigmoid(x) * (1 + x * (1 - sigmoid(x)))),
            ("mish", smooth.mish_backward, (), None),
            ("softplus", smooth.softplus_backward, (0.5, 3.0), lambda g, x: g * np.where(x > 6, 1, sigmoid(x / 2))),
            ("logsigmoid", smooth.logsigmoid_backward, (), lambda g, x: g * sigmoid(-x)),
            ("huber", losses.huber_backward, (1.0, 0.5), lambda g, x: g * 0.5 * np.clip(x, -1, 1)),
        )
    ],
    ops=("leaky_relu_backward",),
)

# ------------------------------------------------------------------------------------------------------ terms of losses


def shares(*shape: int, seed: int = 0) -> Array:
    """From 0.05 to 0.95."""
    return np.asarray(np.random.default_rng([seed, 8, *shape]).uniform(0.05, 0.95, shape))


def zeros_of(lib: Any, x: Any) -> Any:
    return x * 0.0


LOSS_SHAPES = ((), (1,), (0,), (3, 4), (2, 3, 4))

record(
    "huber",
    [
        Sample(
            f"{s}",
            lambda lib, x: (
                ops.huber(x, 1.0) if lib is tb else lib.nn.functional.huber_loss(x, zeros_of(lib, x), reduction="none")
            ),
            (between(*s),),
            lambda x: np.where(np.abs(x) < 1, x * x / 2, np.abs(x) - 0.5),
        )
        for s in LOSS_SHAPES
    ]
    + [
        Sample(
            "delta and scale",
            lambda lib, x: ops.huber(x, 0.65, 3.0),
            (between(4, 5),),
            lambda x: 3 * np.where(np.abs(x) < 0.65, x * x / 2, 0.65 * (np.abs(x) - 0.325)),
            None,
        )
    ],
    not_floating("huber"),
    ops=("huber", "huber_backward"),
)


def bce(x: Array, t: Array) -> Array:
    return np.asarray(-t * np.log(x) - (1 - t) * np.log1p(-x))


def logits(x: Array, t: Array) -> Array:
    return np.asarray((1 - t) * np.logaddexp(0, x) + t * np.logaddexp(0, -x))


record(
    "bce",
    [
        Sample(
            f"{s}",
            lambda lib, x, t: (
                ops.bce(x, t) if lib is tb else lib.nn.functional.binary_cross_entropy(x, t, reduction="none")
            ),
            (shares(*s), shares(*s, seed=1)),
            bce,
        )
        for s in LOSS_SHAPES
    ]
    + [
        Sample(
            "gradient",
            lambda lib, g, x, t: losses.bce_backward(g, x, t),
            (away(3, 4), shares(3, 4), shares(3, 4, seed=1)),
            lambda g, x, t: g * (x - t) / (x * (1 - x)),
            None,
        )
    ],
    not_floating("bce", lambda x: ops.bce(x, x)),
    ops=("bce", "bce_backward"),
)
record(
    "bce_logits",
    [
        Sample(
            f"{s}",
            lambda lib, x, t: (
                ops.bce_logits(x, t)
                if lib is tb
                else lib.nn.functional.binary_cross_entropy_with_logits(x, t, reduction="none")
            ),
            (normal(*s), shares(*s, seed=1)),
            logits,
        )
        for s in LOSS_SHAPES
    ]
    + [
        Sample(
            "gradient",
            lambda lib, g, x, t: losses.bce_logits_backward(g, x, t),
            (away(3, 4), normal(3, 4), shares(3, 4, seed=1)),
            lambda g, x, t: g * (sigmoid(x) - t),
            None,
        )
    ],
    not_floating("bce_logits", lambda x: ops.bce_logits(x, x)),
    ops=("bce_logits", "bce_logits_backward"),
)
