"""One record per public operation: samples with an oracle in NumPy and the same call in PyTorch, and its error cases.

The generic suite (``test_ops.py``) is generated from these. A sample's ``call`` takes the library first, so that the
same lambda runs here and in PyTorch: names and argument orders are the same. Values keep away from kinks by more than
the steps of ``check_vjp``; sizes 0 and 1 are among the shapes. ``samples_<topic>.py`` beside this file hold further
records.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import tinygrad_bn as tb
from tinygrad_bn import errors, ops
from tinygrad_bn.ops import arithmetic, functions, indexing, joining
from tinygrad_bn.ops._operands import NOTHING
from tinygrad_bn.ops.batch_norm import batch_norm_eval, batch_norm_train
from tinygrad_bn.ops.matmul import linear_backward, product_of
from tinygrad_bn.ops.random import masked_dropout
from tinygrad_bn.ops.softmax import cross_entropy_indices, log_softmax_backward, softmax_backward

Array = np.ndarray[Any, Any]
Call = Callable[..., Any]


@dataclass(frozen=True)
class Sample:
    """One call of an operation.

    Attributes
    ----------
    name : str
    call : callable
        ``call(library, *tensors)``.
    arrays : tuple of numpy.ndarray
        Floating-point ones are float64, converted by the suite.
    numpy : callable or None
        The oracle on float64 arrays; None where the reference device is the only one.
    torch : callable, True or None
        ``torch(torch, *tensors)``; True: ``call`` itself; None: PyTorch has no such thing.
    order : int
        Up to which derivatives exist.
    view : bool
        Whether outputs may share memory with inputs.
    torch_gradient : bool
        Whether PyTorch's first derivatives are the same.
    """

    name: str
    call: Call
    arrays: tuple[Array, ...]
    numpy: Call | None = None
    torch: Any = True
    order: int = 2
    view: bool = False
    torch_gradient: bool = True


@dataclass(frozen=True)
class Fault:
    """A call that must raise: ``call()``, the exception's class, and a pattern that its message matches."""

    name: str
    call: Callable[[], Any]
    error: type[Exception]
    message: str


@dataclass
class OpSamples:
    """The record of an operation; ``ops`` names the registry's entries that its samples exercise."""

    name: str
    samples: list[Sample]
    faults: list[Fault] = field(default_factory=list)
    ops: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.ops = self.ops or (self.name,)


RECORDS: list[OpSamples] = []


def record(name: str, samples: list[Sample], faults: list[Fault] | None = None, ops: tuple[str, ...] = ()) -> None:
    RECORDS.append(OpSamples(name, samples, faults or [], ops))


# ------------------------------------------------------------------------------------------------------------- values


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def away(*shape: int, seed: int = 0) -> Array:
    """Of either sign, 0.2 and more from 0."""
    rng = np.random.default_rng([seed, 1, *shape])
    return np.asarray(rng.uniform(0.2, 2.0, shape) * rng.choice([-1.0, 1.0], shape))


def positive(*shape: int, seed: int = 0) -> Array:
    return np.asarray(np.random.default_rng([seed, 2, *shape]).uniform(0.3, 2.5, shape))


def distinct(*shape: int, seed: int = 0) -> Array:
    """No two within 0.05: for extremes."""
    n = math.prod(shape)
    return np.random.default_rng([seed, 3, *shape]).permutation(n).reshape(shape) * 0.07 - 0.03 * n


def integers(low: int, high: int, *shape: int, seed: int = 0) -> Array:
    return np.asarray(np.random.default_rng([seed, 4, *shape]).integers(low, high, shape))


def booleans(*shape: int, seed: int = 0) -> Array:
    return integers(0, 2, *shape, seed=seed).astype(bool)


# ---------------------------------------------------------------------------------------------------- unary elementwise

SHAPES: tuple[tuple[int, ...], ...] = ((), (1,), (0,), (7,), (3, 4), (2, 0, 3), (2, 3, 4, 5))


def not_a_tensor(op: str, name: str = "input") -> Fault:
    return Fault(
        "no tensor",
        lambda: getattr(ops, op)([1.0, 2.0]),
        errors.DTypeError,
        rf"^{op}: '{name}' must be a Tensor\. Got list\.\nHint: convert it with tb\.tensor",
    )


def unary(name: str, values: Call, reference: Call, *, torch: Any = True, order: int = 2, extra: Any = ()) -> None:
    def call(lib: Any, x: Any) -> Any:
        return getattr(lib, name)(x)

    samples = [Sample(f"{s}", call, (values(*s),), reference, torch, order) for s in SHAPES]
    record(name, samples + list(extra), [not_a_tensor(name)])


unary("neg", normal, np.negative)
unary("abs", away, np.abs)
unary("sign", away, np.sign)
unary("exp", normal, np.exp)
unary("log", positive, np.log)
unary("sqrt", positive, np.sqrt)
unary("tanh", normal, np.tanh)
unary("sigmoid", normal, lambda x: 1 / (1 + np.exp(-x)))
unary("relu", away, lambda x: np.where(x > 0, x, 0.0))
unary("logical_not", away, np.logical_not, order=0)


def integer_unary(name: str, reference: Call) -> Sample:
    return Sample("int64", lambda lib, x: getattr(lib, name)(x), (integers(-5, 6, 3, 4),), reference, order=0)


record(
    "integers of functions",
    [
        integer_unary("neg", np.negative),
        integer_unary("abs", np.abs),
        integer_unary("sign", np.sign),
        integer_unary("relu", lambda x: np.maximum(x, 0)),
        integer_unary("logical_not", np.logical_not),
    ],
    ops=("neg", "abs", "sign"),
)

# --------------------------------------------------------------------------------------------------- binary elementwise

PAIRS: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = (
    ((), ()),
    ((3, 4), (3, 4)),
    ((3, 4), (4,)),
    ((3, 1), (1, 4)),
    ((4,), (2, 3, 4)),
    ((2, 3), ()),
    ((), (2, 3)),
    ((1,), (5,)),
    ((2, 3, 4), (3, 1)),
    ((0, 3), (1, 3)),
    ((2, 0), (2, 0)),
    ((2, 1, 3, 1, 2), (1, 4, 1, 3, 1)),
    ((2, 3, 4, 2), (3, 1, 1)),
)


def binary(
    name: str, values: Call, reference: Call, *, order: int = 2, second: Call | None = None, **options: Any
) -> None:
    def call(lib: Any, x: Any, y: Any) -> Any:
        return getattr(lib, name)(x, y)

    def made(make: Call, shape: tuple[int, ...], seed: int) -> Array:
        return np.asarray(make(*shape, seed=seed))

    samples = [
        Sample(f"{a}-{b}", call, (made(values, a, 0), made(second or values, b, 9)), reference, True, order, **options)
        for a, b in PAIRS
    ]
    faults = [
        Fault(
            "shapes",
            lambda: getattr(tb, name)(tb.zeros(2, 3), tb.zeros(4)),
            errors.ShapeError,
            rf"^{name}: shapes must broadcast: axes equal or 1, counted from the last\. Got \(2, 3\) and \(4,\)\.$",
        ),
        Fault(
            "devices",
            lambda: getattr(tb, name)(tb.zeros(2), tb.zeros(2, device="ref")),
            errors.DeviceError,
            rf"^{name}: 'other' must be on device cpu, as the first argument is\. Got ref\.$",
        ),
        Fault(
            "no operand",
            lambda: getattr(tb, name)(tb.zeros(2), "one"),
            errors.DTypeError,
            rf"^{name}: 'other' must be a Tensor or a number\. Got str\.$",
        ),
    ]
    if options.get("numbers", True):
        faults.append(
            Fault(
                "no tensor", lambda: getattr(tb, name)(1.0, 2.0), errors.DTypeError, rf"^{name}: '\w+' must be a Tensor"
            )
        )
    record(name, samples, faults)


def apart(*shape: int, seed: int = 0) -> Array:
    """Two of them with other seeds are nowhere within 0.05 of each other."""
    return np.round(normal(*shape, seed=seed) * 5) / 5 + (0.1 if seed else 0.0)


binary("add", normal, np.add)
binary("sub", normal, np.subtract)
binary("mul", normal, np.multiply)
binary("div", normal, np.divide, second=away)
binary("pow", positive, np.power, second=normal)
binary("maximum", apart, np.maximum)
binary("minimum", apart, np.minimum)
for _name, _function in (
    ("eq", np.equal),
    ("ne", np.not_equal),
    ("lt", np.less),
    ("le", np.less_equal),
    ("gt", np.greater),
    ("ge", np.greater_equal),
    ("logical_and", np.logical_and),
    ("logical_or", np.logical_or),
):
    binary(_name, apart, _function, order=0)


def _fault(name: str, call: Callable[[], Any], error: type[Exception], message: str) -> Fault:
    return Fault(name, call, error, message)


record(
    "operators",
    [
        Sample(
            "numbers",
            lambda lib, x: (2.0 - x) * 3 / (x + 4) + 1 / x - -x,
            (away(3, 4),),
            lambda x: (2 - x) * 3 / (x + 4) + 1 / x + x,
        ),
        Sample(
            "powers",
            lambda lib, x: x**2 + x**3.0 + 2.0**x + x**-1,
            (positive(5),),
            lambda x: x**2 + x**3 + 2.0**x + 1 / x,
        ),
        Sample("power of negative", lambda lib, x: x**3 + x**0, (away(6),), lambda x: x**3 + 1),
        Sample(
            "alpha",
            lambda lib, x, y: lib.add(x, y, alpha=2) - lib.sub(x, y, alpha=3),
            (normal(3), normal(3, seed=1)),
            lambda x, y: 5 * y,
        ),
        Sample("used twice", lambda lib, x: x * x + x, (normal(4),), lambda x: x * x + x),
        Sample("matmul", lambda lib, a, b: a @ b, (normal(2, 3), normal(3, 4)), lambda a, b: a @ b),
        Sample(
            "comparisons",
            lambda lib, x, y: (x < y) & (x != y) | ~(x >= 0),
            (apart(3, 4), apart(4, seed=1)),
            lambda x, y: (x < y) & (x != y) | ~(x >= 0),
            order=0,
        ),
        Sample("abs and neg", lambda lib, x: abs(x) + -x, (away(5),), lambda x: np.abs(x) - x),
    ],
    [
        _fault(
            "number too large",
            lambda: tb.zeros(2, dtype=tb.uint8) + 300,
            errors.DTypeError,
            r"^a Python number must fit the tensor's dtype uint8\. Got 300\.$",
        ),
        _fault(
            "negative power of integers",
            lambda: tb.ones(2, dtype=tb.int64) ** -1,
            errors.ArgumentError,
            r"^pow: 'exponent' must be at least 0 for an integer tensor\. Got -1\.$",
        ),
    ],
    ops=("add", "pow"),
)

record(
    "where",
    [
        Sample(
            f"{a}-{b}-{c}",
            lambda lib, m, x, y: lib.where(m, x, y),
            (np.asarray(booleans(*a)), np.asarray(normal(*b)), np.asarray(normal(*c, seed=1))),
            np.where,
        )
        for a, b, c in (
            ((3, 4), (3, 4), (3, 4)),
            ((3, 4), (4,), (3, 1)),
            ((4,), (2, 3, 4), ()),
            ((0, 2), (2,), (1, 2)),
            ((), (), ()),
        )
    ]
    + [
        Sample(
            "number",
            lambda lib, m, x: lib.where(m, x, 0.5),
            (booleans(3, 4), normal(4)),
            lambda m, x: np.where(m, x, 0.5),
        ),
    ],
    [
        _fault(
            "no condition",
            lambda: tb.where([True], tb.zeros(1), tb.zeros(1)),
            errors.DTypeError,
            r"^where: 'condition' must be a Tensor\. Got list\.",
        ),
        _fault(
            "shapes",
            lambda: tb.where(tb.zeros(3, dtype=tb.bool), tb.zeros(2), 0.0),
            errors.ShapeError,
            r"^where: shapes must broadcast.*Got \(3,\) and \(2,\) and \(\)\.$",
        ),
        _fault(
            "devices",
            lambda: tb.where(tb.zeros(3, dtype=tb.bool), tb.zeros(3, device="ref"), 0.0),
            errors.DeviceError,
            r"^where: 'input' must be on device cpu",
        ),
    ],
)

record(
    "clamp",
    [
        Sample("both", lambda lib, x: lib.clamp(x, -0.6, 0.6), (apart(3, 4, seed=1),), lambda x: np.clip(x, -0.6, 0.6)),
        Sample("min", lambda lib, x: lib.clamp(x, min=0.05), (apart(2, 3, 4),), lambda x: np.maximum(x, 0.05)),
        Sample("max", lambda lib, x: lib.clamp(x, max=0.05), (apart(5),), lambda x: np.minimum(x, 0.05)),
        Sample("crossed", lambda lib, x: lib.clamp(x, 1.05, -1.05), (apart(5),), lambda x: np.full(5, -1.05)),
        Sample("none", lambda lib, x: lib.clamp(x, 0.0, 1.0), (apart(0, 3),), lambda x: x),
        Sample(
            "one", lambda lib, x: lib.clamp(x, 0.05, 1.05), (np.asarray(apart()),), lambda x: np.clip(x, 0.05, 1.05)
        ),
        Sample(
            "integers", lambda lib, x: lib.clamp(x, -1, 2), (integers(-5, 6, 9),), lambda x: np.clip(x, -1, 2), order=0
        ),
        Sample(
            "integers, min",
            lambda lib, x: lib.clamp(x, min=0),
            (integers(-5, 6, 9),),
            lambda x: np.maximum(x, 0),
            order=0,
        ),
    ],
    [
        not_a_tensor("clamp"),
        _fault(
            "no limit",
            lambda: tb.clamp(tb.zeros(2)),
            errors.ArgumentError,
            r"^clamp: at least one of 'min' and 'max' must be given\. Got None for both\.$",
        ),
    ],
)

# ----------------------------------------------------------------------------------------------------------- reductions

DIMS: tuple[tuple[tuple[int, ...], Any], ...] = (
    ((3, 4), None),
    ((3, 4), 0),
    ((3, 4), -1),
    ((2, 3, 4), 1),
    ((2, 3, 4), (0, 2)),
    ((2, 3, 4, 5), (0, 2, 3)),
    ((5,), 0),
    ((2, 3, 4, 5), (1, 2)),
    ((1, 3), 0),
    ((2, 3), ()),
    ((), None),
    ((33, 70), 0),
    ((3, 2100), 1),
)
EMPTY: tuple[tuple[tuple[int, ...], Any], ...] = (((0,), 0), ((0, 3), 0), ((0, 3), 1), ((2, 0, 3), (0, 2)))


def _np_dims(dim: Any) -> Any:
    return None if dim in (None, ()) else dim


def dim_faults(op: str, call: Call) -> list[Fault]:
    x = tb.zeros(2, 3)
    return [
        not_a_tensor(op)
        if op not in ("softmax", "log_softmax", "logsumexp")
        else Fault(
            "no tensor", lambda: getattr(tb, op)([1.0], 0), errors.DTypeError, rf"^{op}: 'input' must be a Tensor"
        ),
        _fault("axis", lambda: call(x, 2), errors.ShapeError, rf"^{op}: 'dim' must be from -2 to 1\. Got 2\.$"),
        _fault("axis type", lambda: call(x, 1.0), errors.ArgumentError, rf"^{op}: 'dim' must be an int\. Got float\.$"),
    ]


def repeated_axis(op: str, call: Call) -> Fault:
    return _fault(
        "axis twice",
        lambda: call(tb.zeros(2, 3), (0, -2)),
        errors.ArgumentError,
        rf"^{op}: 'dim' must be free of repeated axes\. Got \(0, -2\)\.$",
    )


def reduction(name: str, numpy: Call, shapes: Any, **options: Any) -> list[Sample]:
    out = []
    for shape, dim in shapes:
        for keepdim in (False, True):
            if dim is None and keepdim:
                continue

            def call(lib: Any, x: Any, dim: Any = dim, keepdim: bool = keepdim) -> Any:
                return getattr(lib, name)(x) if dim is None else getattr(lib, name)(x, dim, keepdim=keepdim)

            def oracle(x: Array, dim: Any = dim, keepdim: bool = keepdim) -> Array:
                return np.asarray(numpy(x, axis=_np_dims(dim), keepdims=keepdim))

            kept = "-keep" if keepdim else ""
            out.append(Sample(f"{shape}-{dim}{kept}", call, (np.asarray(normal(*shape)),), oracle, **options))
    return out


record(
    "sum",
    [
        *reduction("sum", np.sum, DIMS + EMPTY),
        Sample("integers", lambda lib, x: lib.sum(x, 1), (integers(-9, 9, 3, 4),), lambda x: x.sum(1), order=0),
        Sample("booleans", lambda lib, x: lib.sum(x), (booleans(3, 4),), np.sum, order=0),
        Sample("integers, none", lambda lib, x: lib.sum(x, 0), (integers(-9, 9, 0, 4),), lambda x: x.sum(0), order=0),
    ],
    [*dim_faults("sum", tb.sum), repeated_axis("sum", tb.sum)],
)
record(
    "mean",
    [
        *reduction("mean", np.mean, DIMS),
        Sample("none", lambda lib, x: lib.mean(x, 0), (normal(0, 3),), lambda x: np.full(3, np.nan), order=0),
    ],
    [
        *dim_faults("mean", tb.mean),
        repeated_axis("mean", tb.mean),
        _fault(
            "integers",
            lambda: tb.mean(tb.arange(3)),
            errors.DTypeError,
            r"^mean: 'input' must be a floating-point tensor\. Got int64\.\nHint: convert it with \.float\(\)",
        ),
    ],
)

VAR_DIMS = tuple((s, d) for s, d in DIMS if s not in ((), (1, 3)) and d != ())
record(
    "var",
    [
        *reduction("var", lambda x, axis, keepdims: np.var(x, axis=axis, ddof=1, keepdims=keepdims), VAR_DIMS),
        Sample("biased", lambda lib, x: lib.var(x, 0, unbiased=False), (normal(5, 3),), lambda x: x.var(0)),
        Sample("correction", lambda lib, x: lib.var(x, 0, correction=2), (normal(5, 3),), lambda x: x.var(0, ddof=2)),
        Sample("positional", lambda lib, x: lib.var(x, False), (normal(5, 3),), np.var),
        Sample("too few", lambda lib, x: lib.var(x, 0), (normal(1, 3),), lambda x: np.full(3, np.nan), order=0),
    ],
    [
        *dim_faults("var", tb.var),
        _fault("integers", lambda: tb.var(tb.arange(3)), errors.DTypeError, "^var: 'input' must be a f"),
    ],
    ops=("sum", "mean"),
)
record(
    "std",
    [*reduction("std", lambda x, axis, keepdims: np.std(x, axis=axis, ddof=1, keepdims=keepdims), VAR_DIMS[:6])],
    ops=("sum", "sqrt"),
)


def extremes(name: str) -> list[Sample]:
    find, at = getattr(np, name), getattr(np, "arg" + name)
    out = [
        Sample(f"all {s}", lambda lib, x: getattr(lib, name)(x), (np.asarray(distinct(*s)),), find)
        for s in ((3, 4), (), (1,), (2, 3, 4))
    ]
    for shape, dim in (((3, 4), 0), ((3, 4), -1), ((2, 3, 4), 1), ((5,), 0), ((2, 1), 1), ((0, 3), 1)):
        for keepdim in (False, True):

            def call(lib: Any, x: Any, dim: int = dim, keepdim: bool = keepdim) -> Any:
                found = getattr(lib, name)(x, dim, keepdim=keepdim)
                return found.values, found.indices

            def oracle(x: Array, dim: int = dim, keepdim: bool = keepdim) -> Any:
                return find(x, axis=dim, keepdims=keepdim), at(x, axis=dim, keepdims=keepdim)

            out.append(Sample(f"{shape}-{dim}-{keepdim}", call, (distinct(*shape),), oracle))
    return [
        *out,
        Sample(
            "tensor",
            lambda lib, x, y: getattr(lib, name)(x, y),
            (apart(3, 4), apart(4, seed=1)),
            getattr(np, name + "imum"),
        ),
        Sample(
            "integers",
            lambda lib, x: getattr(lib, name)(x, 1),
            (integers(-50, 50, 3, 4),),
            lambda x: (find(x, axis=1), at(x, axis=1)),
            order=0,
        ),
        Sample(
            "nan",
            lambda lib, x: getattr(lib, name)(x, 0),
            (np.array([[1.0, np.nan], [np.nan, 2.0], [5.0, -7.0]]),),
            lambda x: (find(x, axis=0), at(x, axis=0)),
            order=0,
        ),
    ]


for _name in ("max", "min"):
    record(
        _name,
        extremes(_name),
        [
            *dim_faults(_name, getattr(tb, _name)),
            _fault(
                "empty",
                lambda n=_name: getattr(tb, n)(tb.zeros(0, 3)),
                errors.ShapeError,
                rf"^{_name}: 'input' must have at least one element\. Got shape \(0, 3\)\.$",
            ),
            _fault(
                "empty axis",
                lambda n=_name: getattr(tb, n)(tb.zeros(0, 3), 0),
                errors.ShapeError,
                rf"^{_name}: 'input' must have at least one element along axis 0\. Got shape \(0, 3\)\.$",
            ),
        ],
    )
    record(
        f"arg{_name}",
        [
            Sample(
                f"{s}-{d}",
                lambda lib, x, n=_name, d=d: getattr(lib, f"arg{n}")(x, d),
                (np.asarray(distinct(*s)),),
                lambda x, n=_name, d=d: getattr(np, f"arg{n}")(x, axis=d),
                order=0,
            )
            for s, d in (((3, 4), None), ((3, 4), 0), ((2, 3, 4), -1), ((1,), 0), ((), None), ((0, 2), 1))
        ]
        + [
            Sample(
                "keep",
                lambda lib, x, n=_name: getattr(lib, f"arg{n}")(x, 1, keepdim=True),
                (distinct(3, 4),),
                lambda x, n=_name: getattr(np, f"arg{n}")(x, axis=1, keepdims=True),
                order=0,
            ),
            Sample(
                "ties",
                lambda lib, x, n=_name: getattr(lib, f"arg{n}")(x, 0),
                (np.zeros((4, 2)),),
                lambda x: np.zeros(2, int),
                order=0,
            ),
        ],
        [
            *dim_faults(f"arg{_name}", getattr(tb, f"arg{_name}")),
            _fault(
                "empty",
                lambda n=_name: getattr(tb, f"arg{n}")(tb.zeros(0)),
                errors.ShapeError,
                rf"^arg{_name}: 'input' must have",
            ),
        ],
    )

# ------------------------------------------------------------------------------------------------------------ movement

record(
    "reshape",
    [
        Sample(
            f"{a}-{b}",
            lambda lib, x, b=b: lib.reshape(x, b),
            (np.asarray(normal(*a)),),
            lambda x, b=b: x.reshape(b),
            view=True,
        )
        for a, b in (
            ((3, 4), (2, 6)),
            ((3, 4), (-1,)),
            ((2, 3, 4), (4, -1)),
            ((), (1, 1)),
            ((1,), ()),
            ((0, 3), (3, 0)),
            ((6,), (6,)),
        )
    ]
    + [
        Sample(
            "unpacked", lambda lib, x: x.reshape(2, -1) + x.view(2, 6), (normal(3, 4),), lambda x: 2 * x.reshape(2, 6)
        ),
        Sample(
            "of permuted",
            lambda lib, x: x.permute(2, 0, 1).reshape(4, 6),
            (normal(2, 3, 4),),
            lambda x: x.transpose(2, 0, 1).reshape(4, 6),
            view=True,
        ),
    ],
    [
        not_a_tensor("reshape"),
        _fault(
            "size",
            lambda: tb.zeros(2, 3).reshape(4, 2),
            errors.ShapeError,
            r"^reshape: 'shape' must have 6 elements, as shape \(2, 3\) has\. Got \(4, 2\)\.$",
        ),
        _fault(
            "no remainder",
            lambda: tb.zeros(2, 3).reshape(4, -1),
            errors.ShapeError,
            r"^reshape: 'shape' must have 6 elements",
        ),
        _fault(
            "two unknown",
            lambda: tb.zeros(2, 3).reshape(-1, -1),
            errors.ShapeError,
            r"^reshape: 'shape' must be extents of at least 0, at most one of them -1\. Got \(-1, -1\)\.$",
        ),
        _fault(
            "no int",
            lambda: tb.zeros(2, 3).reshape(2.0, 3),
            errors.ArgumentError,
            r"^reshape: 'shape' must be ints\. Got float 2\.0\.$",
        ),
    ],
)
record(
    "permute",
    [
        Sample(
            f"{order}",
            lambda lib, x, order=order: lib.permute(x, order),
            (np.asarray(normal(*shape)),),
            lambda x, order=order: x.transpose(order),
            view=True,
        )
        for shape, order in (
            ((2, 3, 4), (2, 0, 1)),
            ((2, 3), (-1, 0)),
            ((), ()),
            ((0, 2, 3), (1, 2, 0)),
            ((2, 3, 4, 5), (0, 2, 3, 1)),
        )
    ],
    [
        not_a_tensor("permute"),
        _fault(
            "not all",
            lambda: tb.zeros(2, 3).permute(0),
            errors.ArgumentError,
            r"^permute: 'dims' must be a permutation of the 2 axes\. Got \(0,\)\.$",
        ),
        _fault(
            "twice",
            lambda: tb.zeros(2, 3).permute(0, 0),
            errors.ArgumentError,
            r"^permute: 'dims' must be a permutation",
        ),
        _fault(
            "axis",
            lambda: tb.zeros(2, 3).permute(0, 2),
            errors.ShapeError,
            r"^permute: 'dims' must be from -2 to 1\. Got 2\.$",
        ),
    ],
)
record(
    "transpose",
    [
        Sample("two", lambda lib, x: lib.transpose(x, 0, 1), (normal(2, 3),), lambda x: x.T, view=True),
        Sample(
            "outer",
            lambda lib, x: lib.transpose(x, 0, -1),
            (normal(2, 3, 4),),
            lambda x: x.transpose(2, 1, 0),
            view=True,
        ),
        Sample(
            "properties",
            lambda lib, x: (x.mT, x.t()) if x.ndim == 2 else x.mT,
            (normal(2, 3),),
            lambda x: (x.T, x.T),
            view=True,
        ),
        Sample("no axis", lambda lib, x: lib.transpose(x, 0, -1), (np.asarray(normal()),), lambda x: x, view=True),
    ],
    [
        _fault(
            "axis",
            lambda: tb.zeros(2, 3).transpose(0, 2),
            errors.ShapeError,
            r"^transpose: 'dim1' must be from -2 to 1\. Got 2\.$",
        )
    ],
    ops=("permute",),
)
record(
    "expand",
    [
        Sample(
            f"{a}-{b}",
            lambda lib, x, b=b: x.expand(*b),
            (np.asarray(normal(*a)),),
            lambda x, b=b: np.broadcast_to(x, [n if n != -1 else x.shape[i - len(b)] for i, n in enumerate(b)]),
            view=True,
        )
        for a, b in (
            ((3, 1), (3, 4)),
            ((3, 1), (-1, 4)),
            ((4,), (2, 3, 4)),
            ((), (2, 2)),
            ((1, 3), (0, 3)),
            ((2, 3), (2, 3)),
            ((0,), (2, 0)),
        )
    ],
    [
        _fault("no tensor", lambda: tb.expand([1.0], 2), errors.DTypeError, "^expand: 'input' must be a Tensor"),
        _fault(
            "extent",
            lambda: tb.zeros(3, 2).expand(3, 4),
            errors.ShapeError,
            r"^expand: 'size' must have a shape to which \(3, 2\) broadcasts\. Got \(3, 4\)\.$",
        ),
        _fault("fewer axes", lambda: tb.zeros(3, 2).expand(2), errors.ShapeError, r"^expand: 'size' must have a shape"),
        _fault(
            "new axis of -1", lambda: tb.zeros(3).expand(-1, 3), errors.ShapeError, r"^expand: 'size' must have a shape"
        ),
    ],
)
record(
    "flatten",
    [
        Sample("all", lambda lib, x: lib.flatten(x), (normal(2, 3, 4),), np.ravel, view=True),
        Sample("from 1", lambda lib, x: lib.flatten(x, 1), (normal(2, 3, 4),), lambda x: x.reshape(2, 12), view=True),
        Sample(
            "middle",
            lambda lib, x: lib.flatten(x, 1, 2),
            (normal(2, 3, 4, 2),),
            lambda x: x.reshape(2, 12, 2),
            view=True,
        ),
        Sample("no axis", lambda lib, x: lib.flatten(x), (np.asarray(normal()),), lambda x: x.reshape(1), view=True),
        Sample("empty", lambda lib, x: lib.flatten(x, 1), (normal(0, 3, 2),), lambda x: x.reshape(0, 6), view=True),
    ],
    [
        not_a_tensor("flatten"),
        _fault(
            "order",
            lambda: tb.flatten(tb.zeros(2, 3), 1, 0),
            errors.ArgumentError,
            r"^flatten: 'start_dim' must be no later than 'end_dim'\. Got \(1, 0\)\.$",
        ),
    ],
    ops=("reshape",),
)
record(
    "squeeze",
    [
        Sample("all", lambda lib, x: lib.squeeze(x), (normal(1, 3, 1),), np.squeeze, view=True),
        Sample("one", lambda lib, x: lib.squeeze(x, -1), (normal(1, 3, 1),), lambda x: x.squeeze(-1), view=True),
        Sample("not 1", lambda lib, x: lib.squeeze(x, 1) * 1.0, (normal(1, 3, 1),), lambda x: x),
        Sample("no axis", lambda lib, x: lib.squeeze(x, 0) * 1.0, (np.asarray(normal()),), lambda x: x),
    ],
    [
        not_a_tensor("squeeze"),
        _fault("axis", lambda: tb.squeeze(tb.zeros(1), 1), errors.ShapeError, "^squeeze: 'dim' must be from -1 to 0"),
    ],
    ops=("reshape",),
)
record(
    "unsqueeze",
    [
        Sample("first", lambda lib, x: lib.unsqueeze(x, 0), (normal(2, 3),), lambda x: x[None], view=True),
        Sample("last", lambda lib, x: lib.unsqueeze(x, -1), (normal(2, 3),), lambda x: x[..., None], view=True),
        Sample("middle", lambda lib, x: lib.unsqueeze(x, 1), (normal(0, 3),), lambda x: x[:, None], view=True),
    ],
    [
        _fault(
            "axis",
            lambda: tb.unsqueeze(tb.zeros(1), 2),
            errors.ShapeError,
            r"^unsqueeze: 'dim' must be from -2 to 1\. Got 2\.$",
        )
    ],
    ops=("reshape",),
)
record(
    "narrow",
    [
        Sample(
            f"{s}-{d}-{a}-{n}",
            lambda lib, x, d=d, a=a, n=n: lib.narrow(x, d, a, n),
            (normal(*s),),
            lambda x, d=d, a=a, n=n: np.take(x, range(a % max(x.shape[d], 1), a % max(x.shape[d], 1) + n), d),
            view=True,
        )
        for s, d, a, n in (
            ((5,), 0, 1, 3),
            ((3, 5), 1, 2, 2),
            ((3, 5), -2, 0, 3),
            ((3, 5), 1, -2, 2),
            ((3, 5), 0, 1, 0),
            ((0, 2), 0, 0, 0),
        )
    ],
    [
        _fault(
            "length",
            lambda: tb.narrow(tb.zeros(3), 0, 1, 3),
            errors.ShapeError,
            r"^narrow: 'start' and 'length' must lie within the axis of 3\. Got 1 and 3\.$",
        ),
        _fault(
            "start",
            lambda: tb.narrow(tb.zeros(3), 0, 4, 0),
            errors.ShapeError,
            r"^narrow: 'start' and 'length' must lie within",
        ),
        _fault(
            "negative length",
            lambda: tb.narrow(tb.zeros(3), 0, 1, -1),
            errors.ShapeError,
            r"^narrow: 'start' and 'length'",
        ),
        _fault(
            "axis", lambda: tb.narrow(tb.zeros(3), 1, 0, 1), errors.ShapeError, r"^narrow: 'dim' must be from -1 to 0"
        ),
        _fault("no tensor", lambda: tb.narrow([1.0], 0, 0, 1), errors.DTypeError, r"^narrow: 'input' must be a Tensor"),
    ],
)
record(
    "cat",
    [
        Sample(
            "rows", lambda lib, a, b: lib.cat([a, b]), (normal(2, 3), normal(4, 3)), lambda a, b: np.concatenate([a, b])
        ),
        Sample(
            "columns",
            lambda lib, a, b, c: lib.cat((a, b, c), -1),
            (normal(2, 3), normal(2, 1), normal(2, 0)),
            lambda a, b, c: np.concatenate([a, b, c], -1),
        ),
        Sample("one", lambda lib, a: lib.cat([a], 0), (normal(3),), lambda a: a),
        Sample(
            "middle",
            lambda lib, a, b: lib.cat([a, b], 1),
            (normal(2, 1, 3), normal(2, 2, 3)),
            lambda a, b: np.concatenate([a, b], 1),
        ),
        Sample("twice", lambda lib, a: lib.cat([a, a], 1), (normal(2, 3),), lambda a: np.concatenate([a, a], 1)),
        Sample(
            "integers",
            lambda lib, a, b: lib.cat([a, b]),
            (integers(0, 9, 2), integers(0, 9, 3)),
            lambda a, b: np.concatenate([a, b]),
            order=0,
        ),
    ],
    [
        _fault(
            "none",
            lambda: tb.cat([]),
            errors.ArgumentError,
            r"^cat: 'tensors' must hold at least one tensor\. Got none\.$",
        ),
        _fault(
            "no axis",
            lambda: tb.cat([tb.tensor(1.0)]),
            errors.ShapeError,
            r"^cat: 'tensors' must have at least one axis.*\n?.*stack",
        ),
        _fault(
            "shape",
            lambda: tb.cat([tb.zeros(2, 3), tb.zeros(2, 4)]),
            errors.ShapeError,
            r"^cat: 'tensors\[1\]' must have the first one's shape \(2, 3\) but for axis 0\. Got \(2, 4\)\.$",
        ),
        _fault(
            "axes", lambda: tb.cat([tb.zeros(2, 3), tb.zeros(3)]), errors.ShapeError, r"^cat: 'tensors\[1\]' must have"
        ),
        _fault(
            "dtype",
            lambda: tb.cat([tb.zeros(2), tb.zeros(2, dtype=tb.float64)]),
            errors.DTypeError,
            r"^cat: 'tensors\[1\]' must have dtype float32, as the first\. Got float64\.$",
        ),
        _fault(
            "device",
            lambda: tb.cat([tb.zeros(2), tb.zeros(2, device="ref")]),
            errors.DeviceError,
            r"^cat: 'tensors\[1\]' must be on",
        ),
        _fault(
            "no tensor",
            lambda: tb.cat([tb.zeros(2), [1.0]]),
            errors.DTypeError,
            r"^cat: 'tensors' must be a Tensor\. Got list",
        ),
        _fault("axis", lambda: tb.cat([tb.zeros(2)], 1), errors.ShapeError, r"^cat: 'dim' must be from -1 to 0"),
    ],
)
record(
    "stack",
    [
        Sample(
            f"{d}",
            lambda lib, a, b, d=d: lib.stack([a, b], d),
            (normal(2, 3), normal(2, 3, seed=1)),
            lambda a, b, d=d: np.stack([a, b], d),
        )
        for d in (0, 1, 2, -1)
    ]
    + [
        Sample(
            "numbers",
            lambda lib, a, b: lib.stack((a, b)),
            (np.asarray(normal()), np.asarray(normal(seed=1))),
            lambda a, b: np.stack([a, b]),
        )
    ],
    [
        _fault("none", lambda: tb.stack([]), errors.ArgumentError, r"^stack: 'tensors' must hold at least one tensor"),
        _fault(
            "shape",
            lambda: tb.stack([tb.zeros(2), tb.zeros(3)]),
            errors.ShapeError,
            r"^stack: 'tensors\[1\]' must have the first one's shape \(2,\)\. Got \(3,\)\.$",
        ),
        _fault("axis", lambda: tb.stack([tb.zeros(2)], 2), errors.ShapeError, r"^stack: 'dim' must be from -2 to 1"),
    ],
    ops=("cat",),
)
record(
    "clone",
    [Sample(f"{s}", lambda lib, x: lib.clone(x), (np.asarray(normal(*s)),), lambda x: x) for s in SHAPES],
    [not_a_tensor("clone")],
)
record(
    "contiguous",
    [
        Sample(
            f"{s}", lambda lib, x: x.permute(*reversed(range(x.ndim))).contiguous() * 1.0, (normal(*s),), lambda x: x.T
        )
        for s in ((3, 4), (2, 3, 4))
    ],
    [not_a_tensor("contiguous")],
)
record(
    "to",
    [
        Sample("copy", lambda lib, x: x.to(x.dtype, copy=True), (normal(3, 4),), lambda x: x),
        Sample("integers", lambda lib, x: x.long(), (normal(3, 4) * 9,), lambda x: np.trunc(x).astype(int), order=0),
        Sample("booleans", lambda lib, x: x.bool(), (np.array([0.0, 2.0, -1.0]),), lambda x: x != 0, order=0),
    ],
    [
        not_a_tensor("to"),
        _fault(
            "dtype",
            lambda: tb.zeros(2).to("float99"),
            errors.DTypeError,
            r"^to: 'dtype' must be one of bool, uint8, .*\. Got 'float99'\.$",
        ),
        _fault(
            "device",
            lambda: tb.zeros(2).to(device="mars"),
            errors.DeviceError,
            r"^to: 'device' must be one of cpu, cuda, ref\. Got 'mars'\.$",
        ),
    ],
)

# ------------------------------------------------------------------------------------------------------------ indexing

INDICES: tuple[tuple[str, tuple[int, ...], Any, bool], ...] = (
    ("int", (3, 4), 1, True),
    ("negative", (3, 4), -1, True),
    ("slice", (5,), slice(1, 4), True),
    ("step", (5, 3), slice(None, None, 2), True),
    ("ints", (3, 4), (1, 2), True),
    ("ellipsis", (2, 3, 4), (Ellipsis, 1), True),
    ("new axis", (3, 4), (None, slice(None), None, 2), True),
    ("mixed slices", (4, 5, 6), (slice(1, 3), 2, slice(None, None, 3)), True),
    ("empty slice", (4, 2), slice(2, 2), True),
    ("from the end", (6,), slice(-3, None), True),
    ("nothing", (3,), (), True),
    ("all", (), Ellipsis, True),
    ("list", (5, 3), [0, 3, 3, -1], False),
    ("array", (5,), np.array([[0, 1], [4, 4]]), False),
    ("empty list", (5, 3), np.zeros(0, int), False),
    ("two arrays", (4, 5), (np.array([0, 3, 0]), np.array([1, 1, 1])), False),
    ("broadcast arrays", (4, 5, 2), (np.array([[0], [2]]), np.array([1, 4, 1])), False),
    ("array and slice", (4, 5, 2), (slice(None), np.array([0, 0, 4])), False),
    ("array, slice, array", (4, 5, 3), (np.array([0, 1]), slice(1, 4), np.array([2, 2])), False),
    ("slice and arrays", (4, 5, 3), (slice(1, 3), np.array([0, 1, 1]), np.array([2, 0, 0])), False),
    ("int and array", (4, 5, 3), (1, np.array([0, 4, 4])), False),
    ("ellipsis and array", (2, 3, 4), (Ellipsis, np.array([3, 0])), False),
    ("new axis and array", (3, 4), (None, np.array([0, 0])), False),
    ("mask", (3, 4), np.eye(3, 4) > 0, False),
    ("mask of rows", (3, 4), np.array([True, False, True]), False),
    ("mask and int", (3, 4), (np.array([True, False, True]), 1), False),
    ("mask of none", (3, 4), np.zeros((3, 4), bool), False),
    ("slice and mask", (2, 3), (slice(None), np.array([True, False, True])), False),
    ("mask and array", (3, 4), (np.array([True, False, True]), np.array([1, 3])), False),
    ("of no rows", (0, 3), np.zeros(0, int), False),
)


def _native(lib: Any, index: Any) -> Any:
    """An index for a library: arrays as its tensors."""
    if isinstance(index, tuple):
        return tuple(_native(lib, i) for i in index)
    if isinstance(index, np.ndarray):
        return lib.tensor(index) if lib is tb else lib.from_numpy(index)
    return index


INDEX_FAULTS = [
    _fault(
        "range",
        lambda: tb.zeros(3, 4)[3],
        errors.IndexRangeError,
        r"^indexing: index 3 is out of bounds for axis 0 with size 3\. Got an index into shape \(3, 4\)\.$",
    ),
    _fault(
        "array range",
        lambda: tb.zeros(3, 4)[tb.tensor([0, -4])],
        errors.IndexRangeError,
        r"^indexing: 'index' must be in range for an axis of 3 elements. Got -4 at position 1\.$",
    ),
    _fault(
        "second array range",
        lambda: tb.zeros(3, 4)[[0, 1], [0, 4]],
        errors.IndexRangeError,
        r"^indexing: 'index' must be in range for an axis of 4 elements. Got 4 at position 1",
    ),
    _fault(
        "mixed range",
        lambda: tb.zeros(3, 4)[:, [0, 4]],
        errors.IndexRangeError,
        r"^indexing: index 4 is out of bounds.*shape \(3, 4\)\.$",
    ),
    _fault("axes", lambda: tb.zeros(3)[0, 0], errors.IndexRangeError, r"^indexing: too many indices"),
    _fault("array axes", lambda: tb.zeros(3)[[0], [0]], errors.IndexRangeError, r"^indexing: too many indices"),
    _fault(
        "mask shape",
        lambda: tb.zeros(3, 4)[tb.zeros(2, dtype=tb.bool)],
        errors.IndexRangeError,
        r"^indexing: boolean index",
    ),
    _fault(
        "arrays that do not broadcast",
        lambda: tb.zeros(3, 4)[[0, 1], [0, 1, 2]],
        errors.ShapeError,
        r"^indexing: shapes must broadcast",
    ),
    _fault(
        "mixed arrays that do not broadcast",
        lambda: tb.zeros(3, 4, 5)[:, [0, 1], [0, 1, 2]],
        errors.IndexRangeError,
        r"^indexing: shape mismatch",
    ),
    _fault(
        "floats",
        lambda: tb.zeros(3)[tb.tensor([0.0])],
        errors.DTypeError,
        r"^indexing: 'index' must be an integer or boolean tensor\. Got float32\.$",
    ),
    _fault(
        "float",
        lambda: tb.zeros(3)[1.0],
        errors.DTypeError,
        r"^indexing: 'index' must be an int, slice, None, Ellipsis, .*\. Got float\.$",
    ),
    _fault(
        "backwards",
        lambda: tb.zeros(3)[::-1],
        errors.IndexRangeError,
        r"^indexing: 'step' of a slice must be positive\. Got a negative one\.\nHint: use flip\(\)\.$",
    ),
]

record(
    "getitem",
    [
        Sample(n, lambda lib, x, i=i: x[_native(lib, i)], (np.asarray(normal(*s)),), lambda x, i=i: x[i], view=v)
        for n, s, i, v in INDICES
    ]
    + [Sample("True", lambda lib, x: x[True], (normal(3),), lambda x: x[True])],
    INDEX_FAULTS,
    ops=("getitem", "unslice", "take_rows", "add_rows"),
)


def _assign(index: Any) -> Call:
    def call(lib: Any, x: Any, v: Any) -> Any:
        y = x.clone()
        y[_native(lib, index)] = v
        return y

    return call


def _assigned(index: Any) -> Call:
    def oracle(x: Array, v: Array) -> Array:
        y = x.copy()
        y[index] = v
        return y

    return oracle


UNIQUE = [
    i
    for i in INDICES
    if i[0]
    not in {
        "list",
        "array",
        "two arrays",
        "broadcast arrays",
        "array and slice",
        "array, slice, array",
        "slice and arrays",
        "int and array",
        "new axis and array",
    }
]
record(
    "setitem",
    [
        Sample(n, _assign(i), (np.asarray(normal(*s)), np.asarray(normal(*np.zeros(s)[i].shape, seed=1))), _assigned(i))
        for n, s, i, _ in UNIQUE
    ]
    + [
        Sample(
            "number", _assign((slice(None), 1)), (normal(3, 4), np.asarray(normal(seed=1))), _assigned((slice(None), 1))
        ),
        Sample("broadcast", _assign(slice(1, 3)), (normal(3, 4), normal(4, seed=1)), _assigned(slice(1, 3))),
        Sample(
            "broadcast rows",
            _assign(np.array([0, 2])),
            (normal(3, 4), normal(1, 1, 4, seed=1)),
            _assigned(np.array([0, 2])),
        ),
        Sample(
            "permutation",
            _assign(np.array([2, 0, 1])),
            (normal(3, 4), normal(3, 4, seed=1)),
            _assigned(np.array([2, 0, 1])),
        ),
    ],
    [
        _fault(
            "shape",
            lambda: tb.zeros(3, 4).__setitem__(0, tb.zeros(3)),
            errors.ShapeError,
            r"^indexing: 'value' must have a shape that broadcasts to \(4,\)\. Got \(3,\)\.$",
        ),
        _fault(
            "axes",
            lambda: tb.zeros(4).__setitem__(0, tb.zeros(2, 1)),
            errors.ShapeError,
            r"^indexing: 'value' must have a shape",
        ),
        _fault(
            "shape at array",
            lambda: tb.zeros(3, 4).__setitem__([0, 1], tb.zeros(3, 4)),
            errors.ShapeError,
            r"broadcasts to \(2, 4\)",
        ),
        _fault(
            "value",
            lambda: tb.zeros(3).__setitem__(0, "x"),
            errors.DTypeError,
            r"^indexing: 'value' must be a Tensor or a number\. Got str",
        ),
        _fault(
            "range",
            lambda: tb.zeros(3).__setitem__(3, 0.0),
            errors.IndexRangeError,
            r"^indexing: index 3 is out of bounds",
        ),
    ],
    ops=("set_item",),
)

_ALONG = np.array([[[0, 2, 1], [1, 1, 0]], [[2, 0, 0], [0, 1, 2]]])  # (2, 2, 3) positions along axis 2 of extent 3
record(
    "take_along",
    [
        Sample(
            "middle",
            lambda lib, x, i: indexing.take_along(x, i, 1),
            (normal(2, 4, 3), integers(0, 4, 2, 5, 3)),
            lambda x, i: np.take_along_axis(x, i, 1),
            lambda lib, x, i: lib.gather(x, 1, i),
        ),
        Sample(
            "last",
            lambda lib, x, i: indexing.take_along(x, i, 2),
            (normal(2, 2, 3), _ALONG),
            lambda x, i: np.take_along_axis(x, i, 2),
            lambda lib, x, i: lib.gather(x, 2, i),
        ),
    ],
)


def _spread(x: Array, i: Array) -> Array:
    out = np.zeros((2, 4, 3))
    for a, m, b in np.ndindex(*i.shape):
        out[a, i[a, m, b], b] += x[a, m, b]
    return out


record(
    "spread",
    [
        Sample(
            "middle",
            lambda lib, x, i: indexing.spread(x, i, 1, (2, 4, 3)),
            (normal(2, 5, 3), integers(0, 4, 2, 5, 3)),
            _spread,
            lambda lib, x, i: x.new_zeros(2, 4, 3).scatter_add(1, i, x),
        ),
    ],
)
record(
    "take_rows",
    [
        Sample(
            "repeated",
            lambda lib, x, i: indexing.take_rows(x, i),
            (normal(4, 3), np.array([0, 3, 3, 1])),
            lambda x, i: x[i],
            lambda lib, x, i: x[i],
        )
    ],
)


def _added(x: Array, i: Array) -> Array:
    out = np.zeros((5, 3))
    np.add.at(out, i, x)
    return out


record(
    "add_rows",
    [
        Sample(
            "repeated",
            lambda lib, x, i: indexing.add_rows(x, i, (5, 3)),
            (normal(4, 3), np.array([0, 3, 3, 1])),
            _added,
            lambda lib, x, i: x.new_zeros(5, 3).index_add(0, i, x),
        )
    ],
)
record(
    "unslice",
    [
        Sample(
            "column",
            lambda lib, x: indexing.unslice(x, (3, 4), (slice(None), 1)),
            (normal(3),),
            lambda x: np.eye(4)[1] * x[:, None],
            None,
        )
    ],
    [
        _fault(
            "no tensor",
            lambda: indexing.unslice([1.0], (3, 4), (0,)),
            errors.DTypeError,
            "^unslice: 'input' must be a Tensor",
        )
    ],
)
record(
    "widen",
    [
        Sample(
            "middle",
            lambda lib, x: joining.widen(x, (2, 5), 1, 2),
            (normal(2, 2),),
            lambda x: np.pad(x, ((0, 0), (2, 1))),
            None,
        )
    ],
    [
        _fault(
            "no tensor", lambda: joining.widen([1.0], (3,), 0, 0), errors.DTypeError, "^widen: 'input' must be a Tensor"
        )
    ],
)

# ------------------------------------------------------------------------------------------------------------ products

MATMULS: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = (
    ((3,), (3,)),
    ((3,), (3, 4)),
    ((2, 3), (3,)),
    ((2, 3), (3, 4)),
    ((5, 2, 3), (3, 4)),
    ((5, 2, 3), (3,)),
    ((3,), (5, 3, 4)),
    ((2, 3), (5, 3, 4)),
    ((5, 2, 3), (5, 3, 4)),
    ((5, 2, 3), (1, 3, 4)),
    ((1, 2, 3), (5, 3, 4)),
    ((2, 1, 2, 3), (4, 3, 5)),
    ((2, 1, 2, 3), (1, 4, 3, 5)),
    ((1, 1), (1, 1)),
    ((0, 3), (3, 4)),
    ((2, 0), (0, 4)),
    ((0,), (0,)),
    ((0, 2, 3), (0, 3, 4)),
    ((2, 3), (3, 0)),
    ((17, 40), (40, 33)),
    ((9, 70), (70, 3)),
)
record(
    "matmul",
    [
        Sample(f"{a}-{b}", lambda lib, x, y: lib.matmul(x, y), (normal(*a), normal(*b, seed=1)), np.matmul)
        for a, b in MATMULS
    ]
    + [
        Sample(
            "transposed left", lambda lib, x, y: lib.matmul(x.mT, y), (normal(3, 2), normal(3, 4)), lambda x, y: x.T @ y
        ),
        Sample(
            "transposed right",
            lambda lib, x, y: lib.matmul(x, y.mT),
            (normal(2, 3), normal(4, 3)),
            lambda x, y: x @ y.T,
        ),
        Sample(
            "both transposed",
            lambda lib, x, y: lib.matmul(x.mT, y.mT),
            (normal(3, 2), normal(4, 3)),
            lambda x, y: x.T @ y.T,
        ),
        Sample(
            "transposed batch",
            lambda lib, x, y: lib.matmul(x, y.mT),
            (normal(5, 2, 3), normal(5, 4, 3)),
            lambda x, y: x @ y.transpose(0, 2, 1),
        ),
        Sample("with itself", lambda lib, x: lib.matmul(x, x), (normal(3, 3),), lambda x: x @ x),
    ],
    [
        _fault(
            "no tensor",
            lambda: tb.matmul([1.0], tb.zeros(1)),
            errors.DTypeError,
            r"^matmul: 'input' must be a Tensor\. Got list",
        ),
        _fault(
            "no second",
            lambda: tb.matmul(tb.zeros(1), 2.0),
            errors.DTypeError,
            r"^matmul: 'other' must be a Tensor\. Got float",
        ),
        _fault(
            "no axis",
            lambda: tb.matmul(tb.tensor(1.0), tb.zeros(1)),
            errors.ShapeError,
            r"^matmul: operands must have at least one axis\. Got \(\) and \(1,\)",
        ),
        _fault(
            "extents",
            lambda: tb.matmul(tb.zeros(2, 3), tb.zeros(4, 5)),
            errors.ShapeError,
            r"^matmul: 'other' must have 3 as its first extent\. Got shape \(4, 5\)\.$",
        ),
        _fault(
            "batched extents",
            lambda: tb.matmul(tb.zeros(2, 3), tb.zeros(6, 4, 5)),
            errors.ShapeError,
            r"3 as its second-last extent",
        ),
        _fault(
            "batches",
            lambda: tb.matmul(tb.zeros(2, 2, 3), tb.zeros(3, 3, 4)),
            errors.ShapeError,
            r"^matmul: shapes must broadcast.*Got \(2,\) and \(3,\)",
        ),
        _fault(
            "dtypes",
            lambda: tb.matmul(tb.zeros(2, 3), tb.zeros(3, dtype=tb.float64)),
            errors.DTypeError,
            r"^matmul: 'other' must have dtype float32, as input has\. Got float64\.$",
        ),
        _fault(
            "integers",
            lambda: tb.matmul(tb.arange(3), tb.arange(3)),
            errors.DTypeError,
            r"^matmul: 'input' must be a floating-point tensor",
        ),
        _fault(
            "devices",
            lambda: tb.matmul(tb.zeros(3), tb.zeros(3, device="ref")),
            errors.DeviceError,
            r"^matmul: 'other' must be on device cpu",
        ),
    ],
    ops=("product_of",),
)
record(
    "linear",
    [
        Sample(
            f"{s}",
            lambda lib, x, w, b: _linear(lib)(x, w, b),
            (normal(*s), normal(4, 3, seed=1), normal(4, seed=2)),
            lambda x, w, b: x @ w.T + b,
        )
        for s in ((2, 3), (3,), (2, 5, 3), (0, 3), (1, 3), (2, 0, 3))
    ]
    + [
        Sample("no bias", lambda lib, x, w: _linear(lib)(x, w), (normal(5, 3), normal(4, 3)), lambda x, w: x @ w.T),
        Sample(
            "large",
            lambda lib, x, w, b: _linear(lib)(x, w, b),
            (normal(17, 40), normal(33, 40), normal(33)),
            lambda x, w, b: x @ w.T + b,
        ),
        Sample(
            "one output",
            lambda lib, x, w, b: _linear(lib)(x, w, b),
            (normal(5, 3), normal(1, 3), normal(1)),
            lambda x, w, b: x @ w.T + b,
        ),
        Sample(
            "no inputs",
            lambda lib, x, w, b: _linear(lib)(x, w, b),
            (normal(5, 0), normal(4, 0), normal(4)),
            lambda x, w, b: x @ w.T + b,
        ),
    ],
    [
        _fault(
            "no tensor",
            lambda: tb.linear([1.0], tb.zeros(1, 1)),
            errors.DTypeError,
            r"^linear: 'input' must be a Tensor",
        ),
        _fault(
            "integers",
            lambda: tb.linear(tb.arange(3), tb.zeros(1, 3)),
            errors.DTypeError,
            r"^linear: 'input' must be a floating-point",
        ),
        _fault(
            "no axis",
            lambda: tb.linear(tb.tensor(1.0), tb.zeros(1, 1)),
            errors.ShapeError,
            r"^linear: 'input' must have shape \(…, in_features\)\. Got \(\)",
        ),
        _fault(
            "weight",
            lambda: tb.linear(tb.zeros(2, 3), tb.zeros(4, 2)),
            errors.ShapeError,
            r"^linear: 'weight' must have shape \(out_features, in_features = 3\)\. Got \(4, 2\)\.$",
        ),
        _fault(
            "weight axes",
            lambda: tb.linear(tb.zeros(2, 3), tb.zeros(3)),
            errors.ShapeError,
            r"^linear: 'weight' must have shape",
        ),
        _fault(
            "weight dtype",
            lambda: tb.linear(tb.zeros(2, 3), tb.zeros(4, 3, dtype=tb.float64)),
            errors.DTypeError,
            r"^linear: 'weight' must have dtype",
        ),
        _fault(
            "weight device",
            lambda: tb.linear(tb.zeros(2, 3), tb.zeros(4, 3, device="ref")),
            errors.DeviceError,
            r"^linear: 'weight' must be on",
        ),
        _fault(
            "bias",
            lambda: tb.linear(tb.zeros(2, 3), tb.zeros(4, 3), tb.zeros(3)),
            errors.ShapeError,
            r"^linear: 'bias' must have shape \(out_features,\) = \(4,\)\. Got \(3,\)\.$",
        ),
        _fault(
            "bias dtype",
            lambda: tb.linear(tb.zeros(2, 3), tb.zeros(4, 3), tb.zeros(4, dtype=tb.float64)),
            errors.DTypeError,
            r"^linear: 'bias' must have",
        ),
        _fault(
            "bias device",
            lambda: tb.linear(tb.zeros(2, 3), tb.zeros(4, 3), tb.zeros(4, device="ref")),
            errors.DeviceError,
            r"^linear: 'bias' must be on",
        ),
    ],
)


def _linear(lib: Any) -> Call:
    found: Call = lib.linear if lib is tb else lib.nn.functional.linear
    return found


record(
    "linear_backward",
    [
        Sample(
            "all",
            lambda lib, g, x, w: linear_backward(g, x, w, True, True, True),
            (normal(5, 4), normal(5, 3), normal(4, 3)),
            lambda g, x, w: (g @ w, g.T @ x, g.sum(0)),
            lambda lib, g, x, w: (g @ w, g.T @ x, g.sum(0)),
        ),
        Sample(
            "input and weight",
            lambda lib, g, x, w: linear_backward(g, x, w, True, True, False)[:2],
            (normal(2, 33), normal(2, 17), normal(33, 17)),
            lambda g, x, w: (g @ w, g.T @ x),
            lambda lib, g, x, w: (g @ w, g.T @ x),
        ),
        Sample(
            "weight and bias",
            lambda lib, g, x: linear_backward(g, x, NOTHING, False, True, True)[1:],
            (normal(5, 4), normal(5, 3)),
            lambda g, x: (g.T @ x, g.sum(0)),
            lambda lib, g, x: (g.T @ x, g.sum(0)),
        ),
        Sample(
            "no rows",
            lambda lib, g, x, w: linear_backward(g, x, w, True, True, True),
            (normal(0, 4), normal(0, 3), normal(4, 3)),
            lambda g, x, w: (g @ w, g.T @ x, g.sum(0)),
            lambda lib, g, x, w: (g @ w, g.T @ x, g.sum(0)),
        ),
    ],
)

_FORMS = {
    "nn": lambda a, b: a @ b,
    "nt": lambda a, b: a @ b.swapaxes(-1, -2),
    "tn": lambda a, b: a.swapaxes(-1, -2) @ b,
}
record(
    "product_of",
    [
        Sample(
            f"{form}-{a}-{b}",
            lambda lib, x, y, form=form: product_of(x, y, form),
            (normal(*a), normal(*b, seed=1)),
            _FORMS[form],
            lambda lib, x, y, form=form: _FORMS[form](x, y),
        )
        for form, a, b in (
            ("nn", (2, 3), (3, 4)),
            ("nt", (2, 3), (4, 3)),
            ("tn", (3, 2), (3, 4)),
            ("nt", (5, 2, 3), (1, 4, 3)),
            ("tn", (1, 3, 2), (5, 3, 4)),
            ("nn", (5, 2, 3), (3, 4)),
            ("nt", (9, 40), (35, 40)),
            ("tn", (40, 9), (40, 35)),
        )
    ],
)

# -------------------------------------------------------------------------------------------------- batch normalisation


def _np_batch_norm(
    x: Array, w: Any = None, b: Any = None, eps: float = 1e-5, act: str = "none", given: Any = None
) -> Array:
    dims = tuple(i for i in range(x.ndim) if i != 1)
    shape = (1, -1) + (1,) * (x.ndim - 2)
    mean, var = given if given else (x.mean(dims), x.var(dims))
    z = (x - mean.reshape(shape)) / np.sqrt(var.reshape(shape) + eps)
    z = z * w.reshape(shape) if w is not None else z
    z = z + b.reshape(shape) if b is not None else z
    return {"none": z, "relu": np.maximum(z, 0), "sigmoid": 1 / (1 + np.exp(-z))}[act]


def batch(shape: tuple[int, ...], given: bool = False) -> tuple[Array, Array, Array, Array, Array]:
    """x, weight, bias, mean and var such that nothing lies within 0.02 of the ReLU's kink."""
    c = shape[1]
    for seed in range(2000):
        rng = np.random.default_rng([seed, *shape])
        x, w, b = rng.standard_normal(shape) * 1.5 + 0.7, rng.uniform(0.5, 1.5, c), rng.standard_normal(c)
        mean, var = rng.standard_normal(c), rng.uniform(0.5, 2.0, c)
        statistics = (mean, var) if given else None
        forms = (
            [_np_batch_norm(x, *wb, given=statistics) for wb in ((w, b), (None, None), (w, None), (None, b))]
            if x.size
            else []
        )
        if all(np.abs(z).min() > 0.02 for z in forms):
            return x, w, b, mean, var
    raise RuntimeError(f"no seed keeps {shape} away from the kink")


def train(lib: Any, x: Any, w: Any = None, b: Any = None, eps: float = 1e-5, act: str = "none") -> Any:
    if lib is tb:
        return batch_norm_train(x, w, b, eps, act)[0]
    y = lib.nn.functional.batch_norm(x, None, None, w, b, True, 0.1, eps)
    return y if act == "none" else getattr(lib, act)(y)


def evaluate(
    lib: Any, x: Any, mean: Any, var: Any, w: Any = None, b: Any = None, eps: float = 1e-5, act: str = "none"
) -> Any:
    if lib is tb:
        return batch_norm_eval(x, mean.detach(), var.detach(), w, b, eps, act)
    y = lib.nn.functional.batch_norm(x, mean.detach(), var.detach(), w, b, False, 0.1, eps)
    return y if act == "none" else getattr(lib, act)(y)


BN_SHAPES: tuple[tuple[int, ...], ...] = ((6, 3), (4, 2, 5), (3, 2, 2, 3), (2, 1, 3, 2), (5, 17), (3, 2, 1, 1))


def _train_samples(act: str) -> list[Sample]:
    tail = "" if act == "none" else f"-{act}"
    out = []
    for shape in BN_SHAPES:
        x, w, b, _, _ = batch(shape)
        out.append(
            Sample(
                f"{shape}{tail}",
                lambda lib, x, w, b: train(lib, x, w, b, act=act),
                (x, w, b),
                lambda x, w, b: _np_batch_norm(x, w, b, act=act),
            )
        )
    x, w, b, _, _ = batch((4, 2, 3, 1))
    return [
        *out,
        Sample(f"plain{tail}", lambda lib, x: train(lib, x, act=act), (x,), lambda x: _np_batch_norm(x, act=act)),
        Sample(
            f"weight{tail}",
            lambda lib, x, w: train(lib, x, w, None, act=act),
            (x, w),
            lambda x, w: _np_batch_norm(x, w, act=act),
        ),
        Sample(
            f"bias{tail}",
            lambda lib, x, b: train(lib, x, None, b, act=act),
            (x, b),
            lambda x, b: _np_batch_norm(x, None, b, act=act),
        ),
        Sample(
            f"eps{tail}",
            lambda lib, x, w, b: train(lib, x, w, b, 0.1, act),
            (x, w, b),
            lambda x, w, b: _np_batch_norm(x, w, b, 0.1, act),
        ),
        Sample(
            f"channels_last{tail}",
            lambda lib, x, w, b: train(lib, x.permute(0, 3, 1, 2), w, b, act=act),
            (x.transpose(0, 2, 3, 1).copy(), w, b),
            lambda x, w, b: _np_batch_norm(x.transpose(0, 3, 1, 2), w, b, act=act),
        ),
        Sample(
            f"empty{tail}",
            lambda lib, x, w, b: train(lib, x, w, b, act=act),
            (normal(0, 3, 2), positive(3), normal(3)),
            lambda x, w, b: x,
            torch=None,
        ),
    ]


def _eval_samples(act: str) -> list[Sample]:
    tail = "" if act == "none" else f"-{act}"
    out = []
    for shape in (*BN_SHAPES, (1, 3)):
        x, w, b, mean, var = batch(shape, given=True)
        out.append(
            Sample(
                f"{shape}{tail}",
                _frozen(mean, var, act, 2),
                (x, w, b),
                lambda x, w, b, m=mean, v=var: _np_batch_norm(x, w, b, act=act, given=(m, v)),
            )
        )
    x, w, b, mean, var = batch((4, 2, 3, 1), given=True)
    return [
        *out,
        Sample(
            f"plain{tail}", _frozen(mean, var, act, 0), (x,), lambda x: _np_batch_norm(x, act=act, given=(mean, var))
        ),
        Sample(
            f"weight{tail}",
            _frozen(mean, var, act, 1),
            (x, w),
            lambda x, w: _np_batch_norm(x, w, act=act, given=(mean, var)),
        ),
        Sample(f"empty{tail}", _frozen(mean, var, act, 2), (normal(0, 2, 3), w, b), lambda x, w, b: x),
    ]


def _frozen(mean: Array, var: Array, act: str, given: int) -> Call:
    def call(lib: Any, x: Any, *wb: Any) -> Any:
        if lib is tb:
            m, v = (tb.tensor(a).to(x.dtype).to(device=x.device) for a in (mean, var))
        else:
            m, v = (lib.from_numpy(a).to(x.dtype) for a in (mean, var))
        return evaluate(lib, x, m, v, *wb[:given], act=act)

    return call


def bn_faults(op: Call) -> list[Fault]:
    x = tb.zeros(4, 3)
    return [
        _fault(
            "axes",
            lambda: op(tb.zeros(3), None),
            errors.ShapeError,
            r"^batch_norm: 'input' must have at least 2 axes, \(N, C, …\)\. Got shape \(3,\)\.$",
        ),
        _fault(
            "integers",
            lambda: op(tb.zeros(4, 3, dtype=tb.int64), None),
            errors.DTypeError,
            r"^batch_norm: 'input' must be a floating-point tensor",
        ),
        _fault("no tensor", lambda: op([[1.0]], None), errors.DTypeError, r"^batch_norm: 'input' must be a Tensor"),
        _fault(
            "weight",
            lambda: op(x, tb.zeros(4)),
            errors.ShapeError,
            r"^batch_norm: 'weight' must have shape \(C,\) = \(3,\)\. Got \(4,\)\.$",
        ),
        _fault(
            "bias",
            lambda: op(x, None, tb.zeros(3, 1)),
            errors.ShapeError,
            r"^batch_norm: 'bias' must have shape \(C,\) = \(3,\)\. Got \(3, 1\)\.$",
        ),
        _fault(
            "dtype",
            lambda: op(x, tb.zeros(3, dtype=tb.float64)),
            errors.DTypeError,
            r"^batch_norm: 'weight' must have dtype float32, as input has\. Got float64\.\nHint: convert the layer",
        ),
        _fault(
            "device",
            lambda: op(x, tb.zeros(3, device="ref")),
            errors.DeviceError,
            r"^batch_norm: 'weight' must be on device cpu",
        ),
        _fault(
            "no weight", lambda: op(x, [1.0, 1.0, 1.0]), errors.DTypeError, r"^batch_norm: 'weight' must be a Tensor"
        ),
        _fault(
            "activation",
            lambda: op(x, None, activation="swish"),
            errors.ArgumentError,
            r"^batch_norm: 'activation' must be one of none, relu, sigmoid, leaky_relu, tanh, silu, gelu, gelu_tanh",
        ),
    ]


record(
    "batch_norm_train",
    _train_samples("none") + _train_samples("relu") + _train_samples("sigmoid"),
    [
        *bn_faults(batch_norm_train),
        _fault(
            "one value",
            lambda: batch_norm_train(tb.zeros(1, 3)),
            errors.ArgumentError,
            r"^batch_norm: 'input' must have more than one value a channel in training\. Got shape \(1, 3\)\.\nHint:",
        ),
    ],
    ops=("batch_norm_train", "batch_norm_backward"),
)


def _eval_with(x: Any, *args: Any, **kwargs: Any) -> Any:
    return batch_norm_eval(x, tb.zeros(3), tb.ones(3), *args, **kwargs)


record(
    "batch_norm_eval",
    _eval_samples("none") + _eval_samples("relu") + _eval_samples("sigmoid"),
    [
        *bn_faults(_eval_with),
        _fault(
            "mean",
            lambda: batch_norm_eval(tb.zeros(4, 3), tb.zeros(2), tb.ones(3)),
            errors.ShapeError,
            r"^batch_norm: 'running_mean' must have shape \(C,\) = \(3,\)\. Got \(2,\)\.$",
        ),
        _fault(
            "var",
            lambda: batch_norm_eval(tb.zeros(4, 3), tb.zeros(3), tb.ones(1)),
            errors.ShapeError,
            r"^batch_norm: 'running_var' must",
        ),
    ],
    ops=("batch_norm_eval", "batch_norm_eval_backward"),
)

# --------------------------------------------------------------------------------------------------- softmax and losses


def _np_softmax(x: Array, dim: int) -> Array:
    e = np.exp(x - x.max(dim, keepdims=True, initial=-np.inf))
    return np.asarray(e / e.sum(dim, keepdims=True))


SOFTMAX_DIMS: tuple[tuple[tuple[int, ...], int], ...] = (
    ((5,), 0),
    ((3, 4), 1),
    ((3, 4), 0),
    ((2, 3, 4), 1),
    ((2, 3, 4), -1),
    ((1, 1), 1),
    ((0, 3), 1),
    ((3, 40), 1),
)
for _name, _oracle in (("softmax", _np_softmax), ("log_softmax", lambda x, d: np.log(_np_softmax(x, d)))):
    record(
        _name,
        [
            Sample(
                f"{s}-{d}",
                lambda lib, x, n=_name, d=d: getattr(lib, n)(x, d),
                (normal(*s),),
                lambda x, o=_oracle, d=d: o(x, d),
            )
            for s, d in SOFTMAX_DIMS
        ]
        + [
            Sample(
                "large",
                lambda lib, x, n=_name: getattr(lib, n)(x, 1),
                (normal(3, 4) * 5 + 100,),
                lambda x, o=_oracle: o(x, 1),
            )
        ],
        [
            *dim_faults(_name, getattr(tb, _name)),
            _fault(
                "integers",
                lambda n=_name: getattr(tb, n)(tb.arange(3), 0),
                errors.DTypeError,
                rf"^{_name}: 'input' must be a floating-point",
            ),
        ],
    )
record(
    "logsumexp",
    [
        Sample(
            f"{s}-{d}-{k}",
            lambda lib, x, d=d, k=k: lib.logsumexp(x, d, keepdim=k),
            (normal(*s),),
            lambda x, d=d, k=k: np.log(np.exp(x).sum(d, keepdims=k)),
        )
        for s, d in (((3, 4), 1), ((3, 4), 0), ((2, 3, 4), (0, 2)), ((2, 3, 4), 1), ((5,), 0), ((1, 1), 0))
        for k in (False, True)
    ]
    + [Sample("none", lambda lib, x: lib.logsumexp(x, 1), (normal(2, 0),), lambda x: np.full(2, -np.inf), order=0)]
    + [
        Sample(
            "large",
            lambda lib, x: lib.logsumexp(x, 1),
            (normal(3, 4) + 700,),
            lambda x: np.log(np.exp(x - 700).sum(1)) + 700,
        )
    ],
    [*dim_faults("logsumexp", tb.logsumexp), repeated_axis("logsumexp", tb.logsumexp)],
)


def _entropy(lib: Any, x: Any, t: Any, **options: Any) -> Any:
    if lib is tb:
        return cross_entropy_indices(x, t, **options)
    return lib.nn.functional.cross_entropy(x, t, **options)


def _np_entropy(x: Array, t: Array, ignore_index: int = -100, reduction: str = "mean") -> Array:
    if x.ndim == 1:
        x, t = x[None], t[None]
        reduction = "sum" if reduction == "none" else reduction
    logs = np.log(_np_softmax(x, 1))
    keep = t != ignore_index
    losses = np.where(keep, -np.take_along_axis(logs, np.where(keep, t, 0)[:, None], 1)[:, 0], 0.0)
    if reduction == "none":
        return losses
    return np.asarray(losses.sum() / (keep.sum() if reduction == "mean" else 1))


ENTROPIES: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = (
    ((4, 3), (4,)),
    ((3,), ()),
    ((2, 3, 4), (2, 4)),
    ((2, 3, 2, 2), (2, 2, 2)),
    ((1, 5), (1,)),
)
record(
    "cross_entropy",
    [
        Sample(
            f"{s}-{r}",
            lambda lib, x, t, r=r: _entropy(lib, x, t, reduction=r),
            (normal(*s), np.asarray(integers(0, 3, *u))),
            lambda x, t, r=r: _np_entropy(x, t, reduction=r),
        )
        for s, u in ENTROPIES
        for r in ("mean", "sum", "none")
    ]
    + [
        Sample(
            f"ignored-{r}",
            lambda lib, x, t, r=r: _entropy(lib, x, t, ignore_index=1, reduction=r),
            (normal(6, 3), np.array([0, 1, 2, 1, 2, 0])),
            lambda x, t, r=r: _np_entropy(x, t, 1, r),
        )
        for r in ("mean", "sum", "none")
    ]
    + [
        Sample(
            "negative ignored",
            lambda lib, x, t: _entropy(lib, x, t),
            (normal(4, 3), np.array([0, -100, 2, 1])),
            _np_entropy,
        ),
        Sample(
            "no sample, sum",
            lambda lib, x, t: _entropy(lib, x, t, reduction="sum"),
            (normal(0, 3), np.zeros(0, int)),
            lambda x, t: np.asarray(0.0),
        ),
        Sample(
            "no sample, none",
            lambda lib, x, t: _entropy(lib, x, t, reduction="none"),
            (normal(0, 3), np.zeros(0, int)),
            lambda x, t: np.zeros(0),
        ),
        Sample(
            "no sample, mean",
            lambda lib, x, t: _entropy(lib, x, t),
            (normal(0, 3), np.zeros(0, int)),
            lambda x, t: np.asarray(np.nan),
            order=0,
        ),
    ],
    [
        _fault(
            "range",
            lambda: cross_entropy_indices(tb.zeros(2, 3), tb.tensor([0, 3])),
            errors.IndexRangeError,
            r"^cross_entropy: 'target' must hold class indices from 0 to 2\. Got 3 at position 1\.$",
        ),
        _fault(
            "negative",
            lambda: cross_entropy_indices(tb.zeros(2, 3), tb.tensor([-1, 0])),
            errors.IndexRangeError,
            r"Got -1 at position 0",
        ),
        _fault(
            "shape",
            lambda: cross_entropy_indices(tb.zeros(2, 3), tb.tensor([0])),
            errors.ShapeError,
            r"^cross_entropy: 'target' must have shape \(N,\) = \(2,\)\. Got \(1,\)\.$",
        ),
        _fault(
            "shape of one",
            lambda: cross_entropy_indices(tb.zeros(3), tb.tensor([0])),
            errors.ShapeError,
            r"must have shape \(\) = \(\)",
        ),
        _fault(
            "shape of pictures",
            lambda: cross_entropy_indices(tb.zeros(2, 3, 4), tb.tensor([0])),
            errors.ShapeError,
            r"\(N, d1, …\) = \(2, 4\)",
        ),
        _fault(
            "dtype",
            lambda: cross_entropy_indices(tb.zeros(2, 3), tb.zeros(2)),
            errors.DTypeError,
            r"^cross_entropy: 'target' must have dtype int64, class indices\. Got float32\.\nHint: class probabilities",
        ),
        _fault(
            "int32",
            lambda: cross_entropy_indices(tb.zeros(2, 3), tb.zeros(2, dtype=tb.int32)),
            errors.DTypeError,
            r"Got int32\.$",
        ),
        _fault(
            "no axis",
            lambda: cross_entropy_indices(tb.tensor(1.0), tb.tensor(0)),
            errors.ShapeError,
            r"^cross_entropy: 'input' must have shape",
        ),
        _fault(
            "reduction",
            lambda: cross_entropy_indices(tb.zeros(2, 3), tb.tensor([0, 1]), reduction="avg"),
            errors.ArgumentError,
            r"^cross_entropy: 'reduction' must be 'mean', 'sum' or 'none'\. Got 'avg'\.$",
        ),
        _fault(
            "integers",
            lambda: cross_entropy_indices(tb.zeros(2, 3, dtype=tb.int64), tb.tensor([0, 1])),
            errors.DTypeError,
            r"^cross_entropy: 'input'",
        ),
        _fault(
            "no target",
            lambda: cross_entropy_indices(tb.zeros(2, 3), [0, 1]),
            errors.DTypeError,
            r"^cross_entropy: 'target' must be a Tensor",
        ),
        _fault(
            "device",
            lambda: cross_entropy_indices(tb.zeros(2, 3), tb.tensor([0, 1], device="ref")),
            errors.DeviceError,
            r"^cross_entropy: 'target'",
        ),
    ],
    ops=("cross_entropy_indices", "cross_entropy_backward"),
)

# -------------------------------------------------------------------------------------------------------------- dropout


def _dropout(p: float) -> Call:
    def call(lib: Any, x: Any) -> Any:
        return masked_dropout(x, x.device.array(np.array([7, 3])), p)

    return call


record(
    "dropout",
    [
        Sample(f"{s}-{p}", _dropout(p), (np.asarray(away(*s)),), None, None)
        for s in ((), (5,), (3, 4), (0, 2))
        for p in (0.0, 0.3, 1.0)
    ]
    + [
        Sample("eval", lambda lib, x: _functional(lib).dropout(x, 0.5, False) * 1.0, (normal(3, 4),), lambda x: x),
        Sample("p = 1", lambda lib, x: _functional(lib).dropout(x, 1.0), (normal(3, 4),), np.zeros_like),
        Sample("p = 0", lambda lib, x: _functional(lib).dropout(x, 0.0) * 1.0, (normal(3, 4),), lambda x: x),
    ],
    [
        _fault(
            "p",
            lambda: tb.dropout(tb.zeros(2), 1.5),
            errors.ArgumentError,
            r"^dropout: 'p' must be from 0 to 1\. Got 1\.5\.$",
        ),
        _fault(
            "negative p", lambda: tb.dropout(tb.zeros(2), -0.1, False), errors.ArgumentError, r"^dropout: 'p' must be"
        ),
        _fault(
            "integers",
            lambda: tb.dropout(tb.arange(2)),
            errors.DTypeError,
            r"^dropout: 'input' must be a floating-point",
        ),
    ],
    ops=("masked_dropout",),
)


def _functional(lib: Any) -> Any:
    return lib if lib is tb else lib.nn.functional


# ----------------------------------------------------------------------------------------------------- gradients as ops

record(
    "sigmoid_backward",
    [
        Sample(
            "vector",
            lambda lib, g, y: functions.sigmoid_backward(g, y),
            (normal(3, 4), normal(3, 4, seed=1)),
            lambda g, y: g * y * (1 - y),
            lambda lib, g, y: g * y * (1 - y),
        )
    ],
)
record(
    "tanh_backward",
    [
        Sample(
            "vector",
            lambda lib, g, y: functions.tanh_backward(g, y),
            (normal(3, 4), normal(3, 4, seed=1)),
            lambda g, y: g * (1 - y * y),
            lambda lib, g, y: g * (1 - y * y),
        )
    ],
)
record(
    "sqrt_backward",
    [
        Sample(
            "vector",
            lambda lib, g, y: functions.sqrt_backward(g, y),
            (normal(3, 4), positive(3, 4)),
            lambda g, y: g / (2 * y),
            lambda lib, g, y: g / (2 * y),
        )
    ],
)
record(
    "relu_backward",
    [
        Sample(
            "vector",
            lambda lib, g, y: functions.relu_backward(g, y),
            (normal(3, 4), away(3, 4)),
            lambda g, y: g * (y > 0),
            lambda lib, g, y: g * (y > 0),
            torch_gradient=False,
        )
    ],
)
record(
    "maximum_backward",
    [
        Sample(
            "vector",
            lambda lib, g, a, b: arithmetic.maximum_backward(g, a, b),
            (normal(3, 4), apart(3, 4), apart(3, 4, seed=1)),
            lambda g, a, b: g * (a > b),
            lambda lib, g, a, b: g * (a > b),
            torch_gradient=False,
        ),
        Sample(
            "broadcast",
            lambda lib, g, a, b: arithmetic.maximum_backward(g, a, b),
            (normal(3, 4), apart(4), apart(3, 1, seed=1)),
            lambda g, a, b: g * (a > b),
            lambda lib, g, a, b: g * (a > b),
            torch_gradient=False,
        ),
    ],
)
record(
    "softmax_backward",
    [
        Sample(
            "rows",
            lambda lib, g, y: softmax_backward(g, y, 1),
            (normal(3, 4), positive(3, 4)),
            lambda g, y: y * (g - (g * y).sum(1, keepdims=True)),
            lambda lib, g, y: y * (g - (g * y).sum(1, keepdim=True)),
        )
    ],
)
record(
    "log_softmax_backward",
    [
        Sample(
            "rows",
            lambda lib, g, y: log_softmax_backward(g, y, 1),
            (normal(3, 4), normal(3, 4, seed=1)),
            lambda g, y: g - np.exp(y) * g.sum(1, keepdims=True),
            lambda lib, g, y: g - lib.exp(y) * g.sum(1, keepdim=True),
        )
    ],
)
