"""Problems: how each kernel's arguments are drawn, and large ones for the pool.

``problems_<topic>.py`` beside this file add those of other topics to ``MAKERS``, ``SUMS``, ``SCALES``, ``SINGLE`` and
``HOT``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import strategies
from hypothesis import assume
from hypothesis import strategies as st

from tinygrad_bn.core.device import ref
from tinygrad_bn.kernels.ref.reduction import SHARE
from tinygrad_bn.kernels.spec import parameters_of

Array = np.ndarray[Any, Any]
Arguments = dict[str, Any]


def blank(shape: Any, dtype: Any) -> Array:
    """Memory that holds what no kernel should leave there."""
    return np.full(shape, np.nan if np.dtype(dtype).kind == "f" else 77, dtype)


UNARY = ("neg", "abs", "sign", "exp", "log", "sqrt", "tanh", "sigmoid", "relu", "logical_not")
BINARY = (
    "add",
    "sub",
    "mul",
    "div",
    "pow",
    "maximum",
    "minimum",
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
    "logical_and",
    "logical_or",
    "sigmoid_backward",
    "tanh_backward",
    "relu_backward",
    "sqrt_backward",
)
TERNARY = ("where", "clamp", "within", "maximum_backward")
TO_BOOL = ("logical_not", "eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or", "within")
ROUGH = {
    "exp": 4e-7,
    "log": 4e-7,
    "tanh": 4e-7,
    "sigmoid": 4e-7,
    "pow": 1e-6,
    "sigmoid_backward": 1e-6,
    "tanh_backward": 1e-6,
}
"""Relative errors of float32 where bits may differ."""


@st.composite
def elementwise(draw: st.DrawFn, name: str, dtype: str) -> Arguments:
    """Flat operands, some of one element; or four axes of which each operand broadcasts its own."""
    names = parameters_of(getattr(ref.kernels, name).serial)[:-1]
    safe = not name.endswith("_backward")
    if draw(st.booleans()):
        n = draw(st.one_of(st.integers(0, 3), st.integers(0, 70)))
        full = draw(st.integers(0, len(names) - 1))
        operands = [(n,) if i == full or draw(st.booleans()) else (1,) for i in range(len(names))]
        shape: tuple[int, ...] = (n,)
    else:
        shape = (*[draw(st.integers(1, 4)) for _ in range(3)], draw(st.integers(1, 20)))
        operands = [tuple(1 if draw(st.integers(0, 2)) == 0 else k for k in shape) for _ in names]
        shape = np.broadcast_shapes(*operands)
    out: Arguments = {}
    for i, (operand, s) in enumerate(zip(names, operands, strict=True)):
        if operand == "condition":
            out[operand] = draw(strategies.values(s, dtype)) > 0
        else:
            out[operand] = draw(strategies.values(s, dtype, specials=safe, positive=name == "sqrt_backward" and i == 1))
    return {**out, "out": blank(shape, bool if name in TO_BOOL else dtype)}


def _abr(draw: st.DrawFn, least: int = 1, wide: int = 40) -> tuple[int, int, int]:
    return draw(st.integers(1, 5)), draw(st.integers(least, 30)), draw(st.one_of(st.just(1), st.integers(1, wide)))


@st.composite
def rows(draw: st.DrawFn, name: str, dtype: str) -> Arguments:
    """Softmax and its relatives, and sums, over (A, R, B)."""
    a, r, b = _abr(draw)
    if draw(st.integers(0, 9)) == 0:
        r = 1100  # more than a block
    whole = (a, r, b)
    draw_values = lambda s, **k: draw(strategies.values(s, dtype, **k))  # noqa: E731
    match name:
        case "sum":
            return {"x": draw_values(whole), "scale": draw(st.sampled_from([1.0, 0.25])), "out": blank((a, b), dtype)}
        case "sum_all":
            n = draw(st.one_of(st.integers(1, 99), st.sampled_from([SHARE - 1, SHARE, 2 * SHARE + 77])))
            x = draw_values((min(n, 99),))
            parts = blank(-(-n // SHARE), np.float64)
            return {"x": np.resize(x, (1, n, 1)), "scale": 0.25, "parts": parts, "out": blank((1, 1), dtype)}
        case "sum_int":
            return {"x": draw(st.integers(0, 99)) + np.arange(a * r * b).reshape(whole), "out": blank((a, b), np.int64)}
        case "extreme":
            x = draw_values(whole, specials=True)
            return {
                "x": x,
                "largest": draw(st.booleans()),
                "out": blank((a, b), dtype),
                "index": blank((a, b), np.int64),
            }
        case "logsumexp":
            return {"x": draw_values(whole), "out": blank((a, b), dtype)}
        case "softmax" | "log_softmax":
            return {"x": draw_values(whole), "out": blank(whole, dtype)}
        case _:
            return {"gy": draw_values(whole), "y": draw_values(whole) / 30, "out": blank(whole, dtype)}


@st.composite
def entropy(draw: st.DrawFn, name: str, dtype: str) -> Arguments:
    a, c, b = _abr(draw, wide=5)
    c = draw(st.sampled_from([c, c, 48, 131]))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    x, target = draw(strategies.values((a, c, b), dtype)), rng.integers(0, c, (a, b))
    ignore = draw(st.sampled_from([-100, 0]))
    reduction = draw(st.integers(0, 2))
    if reduction == 0 and (target == ignore).all():
        ignore = -100
    shape = (a, b) if reduction == 2 else (1, 1)
    forward = {
        "x": x,
        "target": target,
        "ignore_index": ignore,
        "reduction": reduction,
        "out": blank(shape, dtype),
        "lse": blank((a, b), dtype),
        "scale": blank((1,), dtype),
        "work": blank(draw(st.integers(1, 3)) * (c + 1) * b, dtype),
        "status": np.zeros(4, np.int64),
    }
    if name == "cross_entropy":
        return forward
    ref.kernels.cross_entropy.serial(*forward.values())
    return {
        "gy": draw(strategies.values(shape, dtype)),
        "x": x,
        "target": target,
        "lse": forward["lse"],
        "scale": forward["scale"],
        "ignore_index": ignore,
        "out": blank(x.shape, dtype),
    }


@st.composite
def products(draw: st.DrawFn, name: str, dtype: str) -> Arguments:
    edge = st.one_of(st.integers(1, 9), st.sampled_from([16, 17, 31, 48, 50, 65, 100]))
    m, n, k = draw(edge), draw(edge), draw(edge)
    if name == "linear":
        bias = draw(st.sampled_from([0, n]))
        return {
            "x": draw(strategies.values((m, k), dtype)),
            "weight": draw(strategies.values((n, k), dtype)),
            "bias": draw(strategies.values((bias,), dtype)),
            "out": blank((m, n), dtype),
        }
    if name == "linear_backward":
        for_x, for_weight, for_bias = (draw(st.booleans()) for _ in range(3))
        none = np.empty((0, 0), dtype)
        return {
            "gy": draw(strategies.values((m, n), dtype)),
            "x": draw(strategies.values((m, k), dtype)) if for_weight else none,
            "weight": draw(strategies.values((n, k), dtype)) if for_x else none,
            "gx": blank((m, k), dtype) if for_x else none,
            "gweight": blank((n, k), dtype) if for_weight else none,
            "gbias": blank(n if for_bias else 0, dtype),
        }
    batch = draw(st.integers(1, 3))
    left = (k, m) if name == "matmul_tn" else (m, k)
    right = (n, k) if name == "matmul_nt" else (k, n)
    a = draw(strategies.values((draw(st.sampled_from([1, batch])), *left), dtype))
    b = draw(strategies.values((draw(st.sampled_from([1, batch])), *right), dtype))
    return {"a": a, "b": b, "out": blank((max(a.shape[0], b.shape[0]), m, n), dtype)}


@st.composite
def normalisations(draw: st.DrawFn, name: str, dtype: str) -> Arguments:
    large = 1e4 if name == "batch_norm_train" and dtype == "float32" else 100.0
    p = draw(strategies.batches(dtype, max_mean=large))
    n, c, _ = p.x.shape
    cuts = draw(st.integers(1, min(n, 3)))
    statistics = blank((4, c), dtype)
    train = {
        "x": p.x,
        "weight": p.weight,
        "bias": p.bias,
        "eps": p.eps,
        "act": p.act,
        "slope": p.slope,
        "y": blank(p.x.shape, dtype),
        "statistics": statistics,
        "parts": blank((c, cuts, 3), np.float64),
    }
    if name == "batch_norm_train":
        return train
    ref.kernels.batch_norm_train.serial(*train.values())
    if p.act in (1, 3) and name.endswith("backward"):
        plain = {**train, "act": 0, "y": np.empty(p.x.shape)}
        ref.kernels.batch_norm_train.serial(*plain.values())
        assume(np.abs(plain["y"]).min() > 1e-4)  # nothing so near the kink that rounding decides
    gradients = {"gx": blank(p.x.shape, dtype), "gweight": blank(c, dtype), "gbias": blank(c, dtype)}
    if name == "batch_norm_backward":
        return {
            "gy": p.gy,
            "x": p.x,
            "weight": p.weight,
            "bias": p.bias,
            "statistics": statistics,
            "act": p.act,
            "slope": p.slope,
            **gradients,
            "parts": train["parts"],
        }
    mean, var = statistics[0].copy(), statistics[2].copy()
    given_ = {"x": p.x, "weight": p.weight, "bias": p.bias, "mean": mean, "var": var, "eps": p.eps}
    given_ |= {"act": p.act, "slope": p.slope}
    if name == "batch_norm_eval":
        return {**given_, "y": blank(p.x.shape, dtype), "statistics": blank((4, c), dtype)}
    scratch = {"statistics": blank((4, c), dtype), "parts": blank((c, cuts, 3), np.float64)}
    return {"gy": p.gy, **given_, **gradients, **scratch}


@st.composite
def updates(draw: st.DrawFn, name: str, dtype: str) -> Arguments:
    c = draw(st.integers(1, 20))
    statistics = draw(strategies.values((4, c), dtype, positive=True))
    if draw(st.booleans()):
        row, channel = draw(st.sampled_from([0, 2])), draw(st.integers(0, c - 1))
        statistics[row, channel] = draw(st.sampled_from([np.nan, np.inf]))
    return {
        "statistics": statistics,
        "count": draw(st.integers(1, 50)),
        "momentum": draw(st.sampled_from([0.1, 1.0, -1.0])),
        "unbiased": draw(st.booleans()),
        "running_mean": draw(strategies.values((c,), dtype)),
        "running_var": draw(strategies.values((c,), dtype, positive=True)),
        "tracked": np.array(draw(st.integers(0, 9))),
        "skipped": np.array(draw(st.integers(0, 9))),
    }


@st.composite
def gathers(draw: st.DrawFn, name: str, dtype: str) -> Arguments:
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    s, r, m = draw(st.integers(1, 6)), draw(st.integers(0, 5)), draw(st.integers(0, 8))
    b = draw(st.integers(1, 4))
    match name:
        case "ravel_index":
            extents = rng.integers(1, 5, draw(st.integers(1, 3)))
            indices = np.stack([rng.integers(-n - draw(st.integers(0, 1)), n, m) for n in extents])
            return {
                "indices": indices,
                "extents": extents,
                "out": np.zeros(m, np.int64),
                "status": np.zeros(4, np.int64),
            }
        case "take_rows":
            return {
                "x": draw(strategies.values((s, r), dtype)),
                "positions": rng.integers(0, s, m),
                "out": blank((m, r), dtype),
            }
        case "put_rows" | "add_rows":
            return {
                "x": draw(strategies.values((m, r), dtype)),
                "positions": rng.integers(0, s, m),
                "out": draw(strategies.values((s, r), dtype)),
            }
        case "take_along":
            positions = rng.integers(0, s, (2, m, b))
            return {
                "x": draw(strategies.values((2, s, b), dtype)),
                "positions": positions,
                "out": blank((2, m, b), dtype),
            }
        case _:
            positions = rng.integers(0, s, (2, m, b))
            return {
                "gy": draw(strategies.values((2, m, b), dtype)),
                "positions": positions,
                "out": blank((2, s, b), dtype),
            }


@st.composite
def draws(draw: st.DrawFn, name: str, dtype: str) -> Arguments:
    key = np.array([draw(st.integers(-(2**63), 2**63 - 1)), draw(st.integers(0, 2**40))])
    n = draw(st.one_of(st.integers(0, 9), st.integers(0, 5000)))
    match name:
        case "take_words":
            return {"state": key, "count": n, "key": np.zeros(2, np.int64)}
        case "uniform":
            low, high = draw(st.sampled_from([(-1.0, 3.0), (-0.1, 0.2)]))  # exact in float32, and not
            return {"key": key, "low": low, "high": high, "out": blank(n, dtype)}
        case "normal":
            return {"key": key, "mean": 1.0, "std": 2.0, "out": blank(n, dtype)}
        case "integers":
            return {"key": key, "low": -3, "high": draw(st.sampled_from([-2, 5, 2**62])), "out": blank(n, np.int64)}
        case "permutation":
            return {"key": key, "out": blank(min(n, 300), np.int64)}
        case _:
            p = draw(st.sampled_from([0.0, 0.25, 0.999, 1.0]))
            return {"x": draw(strategies.values((n,), dtype)), "key": key, "p": p, "out": blank(n, dtype)}


@st.composite
def fillings(draw: st.DrawFn, name: str, dtype: str) -> Arguments:
    n = draw(st.integers(0, 9))
    match name:
        case "copy":
            x = draw(strategies.values((n, 3), "float64"))
            return {"x": x.T if draw(st.booleans()) else x.T.copy(), "out": blank((3, n), dtype)}
        case "fill":
            return {"value": 2.5, "out": blank((n, 2), dtype)}
        case "arange":
            return {"start": 1.5, "step": -0.5, "out": blank(n, dtype)}
        case _:
            return {"start": -1.0, "end": 2.0, "out": blank(n, dtype)}


MAKERS: dict[str, tuple[Callable[[str, str], st.SearchStrategy[Arguments]], float]] = {
    **dict.fromkeys((*UNARY, *BINARY, *TERNARY), (elementwise, 0.0)),
    **dict.fromkeys(
        ("sum", "sum_all", "logsumexp", "softmax", "log_softmax", "softmax_backward", "log_softmax_backward"),
        (rows, 1e-06),
    ),
    **dict.fromkeys(("sum_int", "extreme"), (rows, 0.0)),
    **dict.fromkeys(("cross_entropy", "cross_entropy_backward"), (entropy, 2e-06)),
    **dict.fromkeys(("matmul_nn", "matmul_nt", "matmul_tn", "linear", "linear_backward"), (products, 2e-06)),
    **dict.fromkeys(
        ("batch_norm_train", "batch_norm_backward", "batch_norm_eval", "batch_norm_eval_backward"),
        (normalisations, 1e-05),
    ),
    "batch_norm_update": (updates, 1e-6),
    **dict.fromkeys(("ravel_index", "take_rows", "put_rows", "take_along"), (gathers, 0.0)),
    **dict.fromkeys(("add_rows", "spread"), (gathers, 1e-06)),
    **dict.fromkeys(("take_words", "integers", "permutation", "dropout"), (draws, 0.0)),
    **dict.fromkeys(("uniform", "normal"), (draws, 1e-06)),
    **dict.fromkeys(("copy", "fill", "arange", "linspace"), (fillings, 0.0)),
}
"""How a kernel's arguments are drawn, and to what relative error float32 must agree (0: to the bit)."""
WITH_TABLES = {"sgd", "adam", "adagrad", "rmsprop", "scale", "square_sums"}


def copied(arguments: Arguments) -> Arguments:
    return {k: v.copy(order="K") if isinstance(v, np.ndarray) else v for k, v in arguments.items()}


SUMS = {"sum", "sum_all", "matmul_nn", "matmul_nt", "matmul_tn", "linear", "linear_backward", "add_rows", "spread"}
SINGLE: set[str] = set()  # kernels of float32 alone
SCALES: dict[str, Callable[[Arguments], dict[str, Array]]] = {}
"""The size of the terms that cancel in a kernel's results, given its arguments, where that is no sum of sizes."""


def _hot() -> dict[str, Callable[[], Arguments]]:
    """Large enough for the pool; shapes that take every branch of the partition."""
    rng = np.random.default_rng(0)

    def f(*shape: int) -> Array:
        return rng.standard_normal(shape).astype(np.float32)

    def bn(n: int, c: int, length: int, cuts: int, backward: bool = False, act: int = 1) -> Arguments:
        train = {
            "x": f(n, c, length),
            "weight": f(c),
            "bias": f(c),
            "eps": 1e-5,
            "act": act,
            "slope": 0 if act < 2 else 0.25,
            "y": blank((n, c, length), np.float32),
            "statistics": blank((4, c), np.float32),
            "parts": blank((c, cuts, 3), np.float64),
        }
        if not backward:
            return train
        ref.kernels.batch_norm_train.serial(*train.values())
        return {
            "gy": f(n, c, length),
            "x": train["x"],
            "weight": train["weight"],
            "bias": train["bias"],
            "statistics": train["statistics"],
            "act": act,
            "slope": train["slope"],
            "gx": blank((n, c, length), np.float32),
            "gweight": blank(c, np.float32),
            "gbias": blank(c, np.float32),
            "parts": train["parts"],
        }

    def losses(backward: bool) -> Arguments:
        a, c = 301, 77
        target = rng.integers(-1, c, (a, 1))
        forward = {
            "x": f(a, c, 1),
            "target": target,
            "ignore_index": -1,
            "reduction": 0,
            "out": blank((1, 1), np.float32),
            "lse": blank((a, 1), np.float32),
            "scale": blank((1,), np.float32),
            "work": blank(c + 1, np.float32),
            "status": np.zeros(4, np.int64),
        }
        if not backward:
            return forward
        ref.kernels.cross_entropy.serial(*forward.values())
        given_ = {n: forward[n] for n in ("x", "target", "lse", "scale", "ignore_index")}
        return {"gy": f(1, 1), **given_, "out": blank((a, c, 1), np.float32)}

    def product(name: str, m: int, n: int, k: int, batch: int = 1) -> Arguments:
        left = (batch, k, m) if name == "matmul_tn" else (batch, m, k)
        return {
            "a": f(*left),
            "b": f(*((batch, n, k) if name == "matmul_nt" else (batch, k, n))),
            "out": blank((batch, m, n), np.float32),
        }

    return {
        "exp": lambda: {"x": f(100_003), "out": blank(100_003, np.float32)},
        "add": lambda: {"x": f(200_003), "y": f(200_003), "out": blank(200_003, np.float32)},
        "sum rows": lambda: {"x": f(37, 5001, 1), "scale": 0.5, "out": blank((37, 1), np.float32)},
        "sum columns": lambda: {"x": f(3, 999, 77), "scale": 0.5, "out": blank((3, 77), np.float32)},
        "sum_all": lambda: {
            "x": f(1, 9 * SHARE + 5, 1),
            "scale": 0.5,
            "parts": blank(10, np.float64),
            "out": blank((1, 1), np.float32),
        },
        "cross_entropy": lambda: losses(False),
        "cross_entropy_backward": lambda: losses(True),
        "softmax": lambda: {"x": f(700, 101, 1), "out": blank((700, 101, 1), np.float32)},
        "batch_norm_train rows": lambda: bn(16, 9, 200, 1),
        "batch_norm_train parts": lambda: bn(64, 3, 333, 4),
        "batch_norm_train columns": lambda: bn(700, 50, 1, 2),
        "batch_norm_backward rows": lambda: bn(16, 9, 200, 1, True),
        "batch_norm_backward parts": lambda: bn(64, 3, 333, 4, True),
        "batch_norm_backward columns": lambda: bn(700, 50, 1, 2, True),
        "batch_norm_train sigmoid": lambda: bn(64, 3, 333, 4, act=2),
        **{f"batch_norm_train act {act}": lambda act=act: bn(16, 9, 200, 1, act=act) for act in (3, 4, 5, 6, 7)},
        "batch_norm_backward sigmoid rows": lambda: bn(64, 3, 333, 4, True, act=2),
        "batch_norm_backward sigmoid columns": lambda: bn(700, 50, 1, 2, True, act=2),
        "matmul_nn": lambda: product("matmul_nn", 101, 67, 83),
        "matmul_nt": lambda: product("matmul_nt", 101, 67, 83),
        "matmul_tn": lambda: product("matmul_tn", 101, 67, 83),
        "matmul_nn large": lambda: product("matmul_nn", 130, 210, 5000),
        "linear": lambda: {"x": f(203, 97), "weight": f(101, 97), "bias": f(101), "out": blank((203, 101), np.float32)},
        "linear_backward": lambda: {
            "gy": f(203, 101),
            "x": f(203, 97),
            "weight": f(101, 97),
            "gx": blank((203, 97), np.float32),
            "gweight": blank((101, 97), np.float32),
            "gbias": blank(101, np.float32),
        },
        "uniform": lambda: {"key": np.array([1, 2]), "low": 0.0, "high": 1.0, "out": blank(50_001, np.float32)},
        "normal": lambda: {"key": np.array([1, 2]), "mean": 0.0, "std": 1.0, "out": blank(50_001, np.float32)},
        "dropout": lambda: {"x": f(50_001), "key": np.array([1, 2]), "p": 0.3, "out": blank(50_001, np.float32)},
    }


HOT = _hot()
