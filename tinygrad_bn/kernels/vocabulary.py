"""What a scalar Python function may be made of, and where its source is."""

from __future__ import annotations

import ast
import inspect
import linecache
import math
import operator
from collections.abc import Callable
from types import CodeType, FunctionType
from typing import Any

import numpy as np

from tinygrad_bn.errors import ArgumentError
from tinygrad_bn.kernels.program import BINARY, Value

_NUMPY = {"acos": "arccos", "acosh": "arccosh", "asin": "arcsin", "asinh": "arcsinh", "atan": "arctan"} | {
    "atan2": "arctan2",
    "atanh": "arctanh",
}
_BY_NAME = (
    "acos",
    "acosh",
    "asin",
    "asinh",
    "atan",
    "atan2",
    "atanh",
    "ceil",
    "copysign",
    "cos",
    "cosh",
    "erf",
    "erfc",
    "exp",
    "exp2",
    "expm1",
    "floor",
    "fmod",
    "hypot",
    "log",
    "log10",
    "log1p",
    "log2",
    "sin",
    "sinh",
    "sqrt",
    "tan",
    "tanh",
    "trunc",
)


def _functions() -> dict[Any, str]:
    found: dict[Any, str] = {abs: "abs", max: "max", min: "min", float: "float", pow: "pow", math.fabs: "abs"}
    for name in _BY_NAME:
        for library, spelled in ((math, name), (np, _NUMPY.get(name, name))):
            if hasattr(library, spelled):
                found[getattr(library, spelled)] = name
    more = {"abs": "absolute fabs", "max": "maximum", "min": "minimum", "pow": "power", "rint": "rint"}
    for name, spelled in more.items():
        found.update({getattr(np, s): name for s in spelled.split()})
    for library in (math, np):
        found.update({getattr(library, s): s for s in ("isfinite", "isinf", "isnan")})
    return found | {math.pow: "pow", np.where: "where", np.square: "square", np.sign: "sign", np.float64: "float"}


FUNCTIONS = _functions()
"""What a function of Python's or NumPy's is called here."""

ARITHMETIC: dict[type, tuple[str, Callable[[Any, Any], Any]]] = {
    ast.Add: ("add", operator.add),
    ast.Sub: ("sub", operator.sub),
    ast.Mult: ("mul", operator.mul),
    ast.Div: ("div", operator.truediv),
    ast.Pow: ("pow", operator.pow),
    ast.Mod: ("mod", operator.mod),
    ast.FloorDiv: ("floordiv", operator.floordiv),
}
UNARY: dict[type, Callable[[Any], Any]] = {
    ast.Invert: operator.invert,
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}
COMPARED: dict[type, tuple[str, Callable[[Any, Any], Any]]] = {
    ast.Lt: ("lt", operator.lt),
    ast.LtE: ("le", operator.le),
    ast.Gt: ("gt", operator.gt),
    ast.GtE: ("ge", operator.ge),
    ast.Eq: ("eq", operator.eq),
    ast.NotEq: ("ne", operator.ne),
}


def arity(name: str) -> int:
    """How many numbers an operation takes."""
    return 2 if name in BINARY or name in ("mod", "floordiv") else 1


def _sign(x: Value) -> Value:
    return x.builder.select(x.compare("gt", 0.0), 1.0, x.builder.select(x.compare("lt", 0.0), -1.0, x))


COMPOSED: dict[str, Callable[..., Value]] = {
    "float": lambda x: x,
    "floordiv": lambda x, y: (x / y).of("floor"),
    "isfinite": lambda x: x.of("abs").compare("lt", math.inf),
    "isinf": lambda x: x.of("abs").compare("eq", math.inf),
    "isnan": lambda x: x.compare("ne", x),
    "mod": lambda x, y: x - (x / y).of("floor") * y,
    "sign": _sign,
    "square": lambda x: x * x,
}


def parameters(op: str, function: Any) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Return a function's operands, and its settings with their defaults: what has a default or is keyword-only."""
    operands: list[str] = []
    settings: dict[str, Any] = {}
    for p in inspect.signature(function).parameters.values():
        if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
            raise ArgumentError(f"elementwise: '{op}' must have parameters of fixed number. Got '{p}'.")
        if p.kind is p.KEYWORD_ONLY or p.default is not p.empty:
            settings[p.name] = p.default
        else:
            operands.append(p.name)
    return tuple(operands), settings


def source_of(function: FunctionType) -> ast.FunctionDef | ast.Lambda | None:
    """Return the part of its file that defines a function, or None where there is no file."""
    code = function.__code__
    try:
        tree = ast.parse("".join(linecache.getlines(code.co_filename, function.__globals__)))
    except SyntaxError:
        return None
    if code.co_name == "<lambda>":
        around = [n for n in ast.walk(tree) if isinstance(n, ast.Lambda) and _holds(n.body, code)]
        return max(around, key=lambda n: (n.body.lineno, n.body.col_offset), default=None)
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef) or node.name != code.co_name:
            continue
        if min([node.lineno, *(d.lineno for d in node.decorator_list)]) == code.co_firstlineno:
            return node
    return None


def _holds(body: ast.expr, code: CodeType) -> bool:
    """Whether all of a lambda's code comes from within an expression."""
    first = (body.lineno, body.col_offset)
    last = (body.end_lineno or body.lineno, body.end_col_offset or 0)
    for line, end_line, column, end_column in code.co_positions():
        if line is None or end_line is None or column is None or end_column is None or column == end_column:
            continue  # set up by Python itself
        if (line, column) < first or (end_line, end_column) > last:
            return False
    return True
