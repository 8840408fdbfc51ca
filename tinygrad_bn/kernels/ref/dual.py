"""Dual numbers, and Python functions made to take them.

(v + d ε): f(v + d ε) = f(v) + f'(v) d ε. The parts may be dual in their turn, with an ε of another tag.
"""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable
from functools import partial
from types import CellType, FunctionType, ModuleType
from typing import Any

import numpy as np

from tinygrad_bn.kernels.vocabulary import FUNCTIONS


class Dual:
    """value + slope ε, the ε of its tag; later tags lie outside."""

    __slots__ = ("slope", "tag", "value")
    __array_ufunc__ = None  # or NumPy's numbers would take it for an array

    def __init__(self, tag: int, value: Any, slope: Any) -> None:
        self.tag = tag
        self.value = value
        self.slope = slope

    def __add__(self, other: Any) -> Any:
        return apply("add", self, other)

    def __radd__(self, other: Any) -> Any:
        return apply("add", other, self)

    def __sub__(self, other: Any) -> Any:
        return apply("add", self, -other)

    def __rsub__(self, other: Any) -> Any:
        return apply("add", other, -self)

    def __mul__(self, other: Any) -> Any:
        return apply("mul", self, other)

    def __rmul__(self, other: Any) -> Any:
        return apply("mul", other, self)

    def __truediv__(self, other: Any) -> Any:
        return apply("div", self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return apply("div", other, self)

    def __pow__(self, other: Any) -> Any:
        return apply("pow", self, other)

    def __rpow__(self, other: Any) -> Any:
        return apply("pow", other, self)

    def __mod__(self, other: Any) -> Any:
        return self - (self // other) * other

    def __rmod__(self, other: Any) -> Any:
        return other - (other // self) * self

    def __floordiv__(self, other: Any) -> Any:
        return plain(self) // plain(other)

    def __rfloordiv__(self, other: Any) -> Any:
        return other // plain(self)

    def __neg__(self) -> Any:
        return Dual(self.tag, -self.value, -self.slope)

    def __pos__(self) -> Any:
        return self

    def __abs__(self) -> Any:
        return apply("abs", self)

    def __bool__(self) -> bool:
        return bool(plain(self) != 0)

    def __lt__(self, other: Any) -> bool:
        return bool(plain(self) < plain(other))

    def __le__(self, other: Any) -> bool:
        return bool(plain(self) <= plain(other))

    def __gt__(self, other: Any) -> bool:
        return bool(plain(self) > plain(other))

    def __ge__(self, other: Any) -> bool:
        return bool(plain(self) >= plain(other))

    def __eq__(self, other: object) -> bool:
        return bool(plain(self) == plain(other))

    def __hash__(self) -> int:
        return hash(plain(self))


def plain(x: Any) -> Any:
    """The number without any ε."""
    while isinstance(x, Dual):
        x = x.value
    return x


def derivative_of(x: Any, tag: int) -> Any:
    """The factor of the ε of a tag, the last that was given out; None where there is none."""
    return x.slope if isinstance(x, Dual) and x.tag == tag else None


_erf = np.frompyfunc(math.erf, 1, 1)
_erfc = np.frompyfunc(math.erfc, 1, 1)
Slopes = tuple[Callable[..., Any] | None, ...]
RULES: dict[str, tuple[Callable[..., Any], Slopes]] = {
    "abs": (np.abs, (lambda x: np.sign(plain(x)),)),
    "acos": (np.arccos, (lambda x: -((1 - x * x) ** -0.5),)),
    "acosh": (np.arccosh, (lambda x: (x * x - 1) ** -0.5,)),
    "add": (lambda x, y: x + y, (lambda x, y: 1.0, lambda x, y: 1.0)),
    "asin": (np.arcsin, (lambda x: (1 - x * x) ** -0.5,)),
    "asinh": (np.arcsinh, (lambda x: (1 + x * x) ** -0.5,)),
    "atan": (np.arctan, (lambda x: 1 / (1 + x * x),)),
    "atan2": (np.arctan2, (lambda y, x: x / (x * x + y * y), lambda y, x: -y / (x * x + y * y))),
    "atanh": (np.arctanh, (lambda x: 1 / (1 - x * x),)),
    "copysign": (np.copysign, (lambda x, y: np.copysign(1.0, plain(x)) * np.copysign(1.0, plain(y)), None)),
    "cos": (np.cos, (lambda x: -apply("sin", x),)),
    "cosh": (np.cosh, (lambda x: apply("sinh", x),)),
    "div": (lambda x, y: x / y, (lambda x, y: 1 / y, lambda x, y: -x / (y * y))),
    "erf": (lambda x: np.float64(_erf(x)), (lambda x: 2 / math.sqrt(math.pi) * apply("exp", -x * x),)),
    "erfc": (lambda x: np.float64(_erfc(x)), (lambda x: -2 / math.sqrt(math.pi) * apply("exp", -x * x),)),
    "exp": (np.exp, (lambda x: apply("exp", x),)),
    "exp2": (np.exp2, (lambda x: math.log(2) * apply("exp2", x),)),
    "expm1": (np.expm1, (lambda x: apply("exp", x),)),
    "fmod": (np.fmod, (lambda x, y: 1.0, lambda x, y: -np.trunc(plain(x) / plain(y)))),
    "hypot": (np.hypot, (lambda x, y: x / apply("hypot", x, y), lambda x, y: y / apply("hypot", x, y))),
    "log": (np.log, (lambda x: 1 / x,)),
    "log10": (np.log10, (lambda x: 1 / (math.log(10) * x),)),
    "log1p": (np.log1p, (lambda x: 1 / (1 + x),)),
    "log2": (np.log2, (lambda x: 1 / (math.log(2) * x),)),
    "mul": (lambda x, y: x * y, (lambda x, y: y, lambda x, y: x)),
    "pow": (
        np.power,
        (
            lambda x, y: y * apply("pow", x, y - 1),
            lambda x, y: np.float64(0) if x == 0 and y >= 0 else apply("log", x) * apply("pow", x, y),
        ),
    ),
    "sin": (np.sin, (lambda x: apply("cos", x),)),
    "sinh": (np.sinh, (lambda x: apply("cosh", x),)),
    "sqrt": (np.sqrt, (lambda x: 0.5 / apply("sqrt", x),)),
    "tan": (np.tan, (lambda x: apply("cos", x) ** -2.0,)),
    "tanh": (np.tanh, (lambda x: apply("cosh", x) ** -2.0,)),
}
"""A function, and its derivative in each of its numbers, None where that is 0."""


def apply(name: str, *arguments: Any) -> Any:
    """A function of numbers, plain or dual."""
    function, slopes = RULES[name]
    tag = max((x.tag for x in arguments if isinstance(x, Dual)), default=0)
    if not tag:
        return function(*[np.float64(x) for x in arguments])
    inner = [x.value if isinstance(x, Dual) and x.tag == tag else x for x in arguments]
    out = apply(name, *inner)
    total: Any = None
    for x, slope in zip(arguments, slopes, strict=True):
        if slope is not None and isinstance(x, Dual) and x.tag == tag:
            term = x.slope * slope(*inner)
            total = term if total is None else total + term
    return out if total is None else Dual(tag, out, total)


def _larger(*given: Any) -> Any:
    return _chosen(given, lambda x, y: x > y)


def _smaller(*given: Any) -> Any:
    return _chosen(given, lambda x, y: x < y)


def _chosen(given: Any, better: Callable[[Any, Any], bool]) -> Any:
    """One of several; NaN if there is one; of two that are equal, half each."""
    whole, *rest = given if len(given) > 1 else given[0]
    for y in rest:
        if better(whole, y) or whole != whole:
            continue
        whole = 0.5 * whole + 0.5 * y if whole == y else y
    return whole


def _step(function: Callable[[Any], Any], x: Any) -> Any:
    return function(plain(x))


EXCHANGED: dict[str, Callable[..., Any]] = {
    **{name: partial(apply, name) for name in RULES},
    **{name: partial(_step, getattr(np, name)) for name in ("ceil", "floor", "rint", "sign", "trunc")},
    **{name: partial(_step, getattr(np, name)) for name in ("isfinite", "isinf", "isnan")},
    "float": lambda x: x if isinstance(x, Dual) else np.float64(x),
    "max": _larger,
    "min": _smaller,
    "square": lambda x: x * x,
    "where": lambda c, x, y: x if c else y,
}
"""What stands for the functions of ``math``, NumPy and Python."""


class _Library:
    """``math`` or NumPy with functions exchanged."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return _exchanged(getattr(self._module, name), {})


def _exchanged(value: Any, known: dict[int, Any]) -> Any:
    if value is math or value is np:
        return _Library(value)
    inner = getattr(value, "__wrapped__", getattr(value, "py_func", value))
    if isinstance(inner, FunctionType):
        return quiet(inner, known)
    name = FUNCTIONS.get(value) if callable(value) and getattr(value, "__hash__", None) else None
    return EXCHANGED.get(name, value) if name else value


def quiet(function: FunctionType, known: dict[int, Any] | None = None) -> Any:
    """Return a function whose mathematics takes dual numbers and raises nothing: 1/0 is infinite, log(-1) NaN.

    Its code is the same; ``math``, NumPy and other such functions around it are exchanged.
    """
    known = {} if known is None else known
    if id(function) in known:
        return known[id(function)]
    names = dict(function.__globals__)
    cells = tuple(CellType() for _ in function.__closure__ or ())
    made = FunctionType(function.__code__, names, function.__name__, function.__defaults__, cells)
    made.__kwdefaults__ = function.__kwdefaults__
    known[id(function)] = made
    for name in function.__code__.co_names:
        if name in names:
            names[name] = _exchanged(names[name], known)
        elif name in EXCHANGED:
            names[name] = _exchanged(getattr(builtins, name, None), known)
    for cell, old in zip(cells, function.__closure__ or (), strict=True):
        cell.cell_contents = _exchanged(old.cell_contents, known)
    return made
