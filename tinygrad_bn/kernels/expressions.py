"""The expressions of a scalar Python function, followed as Python would: what depends on its arguments becomes
operations of a program, what does not is computed.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import linecache
import operator
from collections.abc import Callable
from types import FunctionType
from typing import Any, NoReturn

import numpy as np

from tinygrad_bn.errors import ArgumentError
from tinygrad_bn.kernels.program import Builder, Value
from tinygrad_bn.kernels.vocabulary import ARITHMETIC, COMPARED, COMPOSED, FUNCTIONS, UNARY, arity, source_of

DEPTH = 64
Environment = dict[str, Any]


class Expressions:
    """One call of a function: what its names stand for, and where it is written."""

    def __init__(self, builder: Builder, function: FunctionType, depth: int) -> None:
        self.b = builder
        self.function = function
        self.depth = depth
        found = source_of(function)
        if found is None:
            file = function.__code__.co_filename
            raise ArgumentError(f"elementwise: the source of '{function.__name__}' must be in a file. Got {file}.")
        self.tree = found
        cells = function.__closure__ or ()
        self.around: dict[str, Any] = {}
        for name, cell in zip(function.__code__.co_freevars, cells, strict=True):
            try:
                self.around[name] = cell.cell_contents
            except ValueError:  # assigned later
                continue

    def refuse(self, node: ast.AST, what: str, hint: str = "") -> NoReturn:
        line = getattr(node, "lineno", self.tree.lineno)
        file = self.function.__code__.co_filename
        text = linecache.getline(file, line).strip()
        raise ArgumentError(
            f"elementwise: '{self.function.__name__}' must be made of arithmetic, comparisons, if, and functions of "
            f"math, on numbers. Got {what} in {file}, line {line}: {text}" + (f"\nHint: {hint}" if hint else "")
        )

    def call(self, given: Environment) -> Any:
        """Return what the function returns, of values and constants."""
        raise NotImplementedError  # abstract: statements are the subclass's

    def expression(self, node: ast.expr, env: Environment) -> Any:
        """Return a Value, or a Python object where nothing depends on the arguments."""
        match node:
            case ast.Constant():
                return node.value
            case ast.Name():
                return self.name(node, env)
            case ast.Tuple() | ast.List():
                return tuple(v for e in node.elts for v in self.items(e, env))
            case ast.BinOp():
                return self.binary(node, node.op, self.expression(node.left, env), self.expression(node.right, env))
            case ast.UnaryOp():
                return self.unary(node, env)
            case ast.Compare():
                return self.comparison(node, env)
            case ast.BoolOp():
                return self.logic(node, env)
            case ast.IfExp():
                condition = self.condition(node.test, env)
                if not isinstance(condition, Value):
                    return self.expression(node.body if condition else node.orelse, env)
                return self.select(node, condition, self.expression(node.body, env), self.expression(node.orelse, env))
            case ast.Call():
                return self.called(node, env)
            case ast.Attribute() | ast.Subscript():
                return self.part(node, env)
            case _:
                self.refuse(node, f"an expression that has no meaning here ({type(node).__name__})")

    def items(self, node: ast.expr, env: Environment) -> tuple[Any, ...]:
        """What an element of a tuple stands for: several with a star."""
        if not isinstance(node, ast.Starred):
            return (self.expression(node, env),)
        whole = self.expression(node.value, env)
        return whole if isinstance(whole, tuple) else self.refuse(node, "a star before something else than a tuple")

    def name(self, node: ast.Name, env: Environment) -> Any:
        if node.id in env:
            return env[node.id]
        for names in (self.around, self.function.__globals__, vars(builtins)):
            if node.id in names:
                return names[node.id]
        self.refuse(node, f"the name {node.id!r}, which has no value there")

    def number(self, node: ast.AST, given: Any) -> Value:
        """Return a value; of a number, a constant."""
        if isinstance(given, Value | bool | int | float | np.bool_ | np.integer | np.floating):
            return self.b.value(given if isinstance(given, Value) else float(given))
        self.refuse(
            node, f"a {type(given).__name__} where a number is needed", "make what differs between calls a parameter"
        )

    def truth(self, node: ast.AST, given: Any) -> Any:
        """Return whether something holds: a Value where that depends on the arguments."""
        if isinstance(given, Value):
            return given if given.is_truth else given.compare("ne", 0.0)
        return self.plainly(node, bool, given)

    def condition(self, node: ast.expr, env: Environment) -> Any:
        return self.truth(node, self.expression(node, env))

    def plainly(self, node: ast.AST, function: Callable[..., Any], *arguments: Any) -> Any:
        """What Python makes of constants."""
        try:
            return function(*arguments)
        except Exception as error:
            self.refuse(node, f"{type(error).__name__} ({error})")

    def select(self, node: ast.AST, condition: Value, a: Any, b: Any) -> Any:
        if isinstance(a, tuple) or isinstance(b, tuple):
            if not (isinstance(a, tuple) and isinstance(b, tuple) and len(a) == len(b)):
                self.refuse(node, "branches with different numbers of results")
            return tuple(self.select(node, condition, x, y) for x, y in zip(a, b, strict=True))
        return self.b.select(condition, self.number(node, a), self.number(node, b))

    def binary(self, node: ast.AST, kind: ast.operator, x: Any, y: Any) -> Any:
        name, plain = ARITHMETIC.get(type(kind), ("", operator.add))
        if not name:
            self.refuse(node, f"an operator that has no meaning here ({type(kind).__name__})")
        if not isinstance(x, Value) and not isinstance(y, Value):
            return self.plainly(node, plain, x, y)
        return self.applied(node, name, [x, y])

    def unary(self, node: ast.UnaryOp, env: Environment) -> Any:
        given = self.expression(node.operand, env)
        if isinstance(node.op, ast.Not):
            held = self.truth(node, given)
            return self.b.add("not", held.number) if isinstance(held, Value) else not held
        if not isinstance(given, Value):
            return self.plainly(node, UNARY[type(node.op)], given)
        if isinstance(node.op, ast.Invert):
            self.refuse(node, "an operator that has no meaning here (Invert)")
        return -given if isinstance(node.op, ast.USub) else self.number(node, given)

    def comparison(self, node: ast.Compare, env: Environment) -> Any:
        x = self.expression(node.left, env)
        whole: Any = True
        for kind, right in zip(node.ops, node.comparators, strict=True):
            y = self.expression(right, env)
            name, plain = COMPARED.get(type(kind), ("", operator.eq))
            if not name:
                self.refuse(node, f"a comparison that has no meaning here ({type(kind).__name__})")
            if isinstance(x, Value) or isinstance(y, Value):
                one = self.number(node, x).compare(name, self.number(node, y))
            else:
                one = self.plainly(node, plain, x, y)
            whole = self.combined("and", whole, one)
            x = y
        return whole

    def combined(self, name: str, a: Any, b: Any) -> Any:
        """``a and b``, or ``a or b``, of truths."""
        for x, y in ((a, b), (b, a)):
            if not isinstance(x, Value):
                return y if bool(x) is (name == "and") else x
        return self.b.add(name, a.number, b.number)

    def logic(self, node: ast.BoolOp, env: Environment) -> Any:
        name = "and" if isinstance(node.op, ast.And) else "or"
        held = self.condition(node.values[0], env)
        for value in node.values[1:]:
            if not isinstance(held, Value) and held is (name == "or"):
                return held
            held = self.combined(name, held, self.condition(value, env))
        return held

    def part(self, node: ast.Attribute | ast.Subscript, env: Environment) -> Any:
        """Something in a module or a table of constants."""
        whole = self.expression(node.value, env)
        if isinstance(whole, Value):
            self.refuse(node, f"a part of a number ({ast.unparse(node)})")
        if isinstance(node, ast.Attribute):
            return self.plainly(node, getattr, whole, node.attr)
        return self.plainly(node, operator.getitem, whole, self.expression(node.slice, env))

    # -------------------------------------------------------------------------------------------------------- calls

    def called(self, node: ast.Call, env: Environment) -> Any:
        function = self.expression(node.func, env)
        if any(isinstance(a, ast.Starred) for a in node.args) or any(k.arg is None for k in node.keywords):
            self.refuse(node, "a call with * or **")
        args = [self.expression(a, env) for a in node.args]
        options = {str(k.arg): self.expression(k.value, env) for k in node.keywords}
        inner = getattr(function, "__wrapped__", getattr(function, "py_func", function))
        if isinstance(inner, FunctionType):
            return self.followed(node, inner, args, options)
        flat = [v for a in (*args, *options.values()) for v in (a if isinstance(a, tuple) else (a,))]
        if not any(isinstance(v, Value) for v in flat):
            return self.plainly(node, function, *args, **options) if not options else function(*args, **options)
        known = FUNCTIONS.get(function) if callable(function) and function.__hash__ else None
        if known is None or options:
            what = ast.unparse(node.func)
            self.refuse(node, f"a call of {what}", "functions of math, NumPy's of the same names, or your own")
        return self.applied(node, known, args)

    def followed(self, node: ast.AST, function: FunctionType, args: list[Any], options: dict[str, Any]) -> Any:
        """A call of another Python function, followed as if it stood there."""
        if self.depth > DEPTH:
            self.refuse(node, f"a function that calls itself, {DEPTH} deep")
        try:
            bound = inspect.signature(function).bind(*args, **options)
        except TypeError as error:
            self.refuse(node, f"TypeError ({error})")
        bound.apply_defaults()
        return type(self)(self.b, function, self.depth + 1).call(bound.arguments)

    def applied(self, node: ast.AST, name: str, args: list[Any]) -> Value:
        """An operation on values and constants."""
        if name in ("max", "min") and len(args) == 1 and isinstance(args[0], tuple):
            args = list(args[0])
        wanted = {"where": (3,), "max": range(2, 99), "min": range(2, 99)}.get(name, (arity(name),))
        if len(args) not in wanted:
            self.refuse(node, f"{name} of {len(args)} numbers")
        if name == "pow" and not isinstance(args[1], Value):
            return self.number(node, args[0]).power(self.plainly(node, float, args[1]))
        if name == "where":
            held = self.truth(node, args[0])
            if not isinstance(held, Value):
                return self.number(node, args[1] if held else args[2])
            return self.b.select(held, self.number(node, args[1]), self.number(node, args[2]))
        values = [self.number(node, a) for a in args]
        if name in ("max", "min"):
            whole = values[0]
            for v in values[1:]:
                whole = self.b.apply(name, whole, v)
            return whole
        special = COMPOSED.get(name)
        return special(*values) if special else self.b.apply(name, *values)
