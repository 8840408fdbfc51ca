"""Turn a scalar Python function into a program, from its source: assignments, arithmetic, ``if``, ``math`` or NumPy
functions, calls of other such functions, loops over constants.

What does not depend on the arguments is computed by Python itself, once: numbers from around the function, ``range``,
tables of coefficients. Of a branch on an argument both ways are followed and joined by ``select``.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Sequence
from types import FunctionType
from typing import Any

from tinygrad_bn.kernels.expressions import Environment, Expressions
from tinygrad_bn.kernels.program import Builder, Program, TooLong, Value

_UNSET = object()


def traced(function: FunctionType, operands: int, settings: Sequence[str]) -> Program:
    """Return a function as a program; its first parameters are the operands.

    Raises
    ------
    ArgumentError
        If there is something in it that has no meaning element by element; the message names function and line.
    """
    b = Builder()
    names = [p for p in inspect.signature(function).parameters if p not in settings]
    given = dict(zip(names, [b.add("operand", i) for i in range(operands)], strict=True))
    given |= {name: b.add("setting", i) for i, name in enumerate(settings)}
    reader = _Reader(b, function, 0)
    try:
        result = reader.call(given)
    except TooLong:
        reader.refuse(reader.tree, f"more operations than {len(b.operations)}")
    outputs = result if isinstance(result, tuple) else (result,)
    return b.finish(operands, len(settings), [reader.number(reader.tree, v) for v in outputs])


class _Reader(Expressions):
    """Follows the statements of one call of a function."""

    def call(self, given: Environment) -> Any:
        """Return what the function returns, of values and constants."""
        if isinstance(self.tree, ast.Lambda):
            return self.expression(self.tree.body, given)
        result = self.block(self.tree.body, dict(given))
        if result is _UNSET:
            self.refuse(self.tree, "a path without return")
        return result

    # --------------------------------------------------------------------------------------------------- statements

    def block(self, statements: Sequence[ast.stmt], env: Environment) -> Any:
        """Follow statements, which may set names; return what they return, if they do."""
        for i, s in enumerate(statements):
            if isinstance(s, ast.Return):
                return self.expression(s.value, env) if s.value is not None else self.refuse(s, "a return of nothing")
            if isinstance(s, ast.If):
                condition = self.condition(s.test, env)
                if not isinstance(condition, Value):
                    result = self.block(s.body if condition else s.orelse, env)
                elif any(isinstance(n, ast.Return) for n in ast.walk(s)):
                    rest = list(statements[i + 1 :])
                    return self._both(s, condition, [*s.body, *rest], [*s.orelse, *rest], env)
                else:
                    result = self._joined(s, condition, env)
            elif isinstance(s, ast.For):
                result = self._loop(s, env)
            else:
                result = self.statement(s, env)
            if result is not _UNSET:
                return result
        return _UNSET

    def statement(self, s: ast.stmt, env: Environment) -> Any:
        if isinstance(s, ast.Assign):
            value = self.expression(s.value, env)
            for target in s.targets:
                self.assign(target, value, env)
        elif isinstance(s, ast.AnnAssign) and s.value is not None:
            self.assign(s.target, self.expression(s.value, env), env)
        elif isinstance(s, ast.AugAssign) and isinstance(s.target, ast.Name):
            value = self.binary(s, s.op, self.name(s.target, env), self.expression(s.value, env))
            env[s.target.id] = value
        elif not (isinstance(s, ast.Pass) or (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))):
            self.refuse(s, f"a statement that has no meaning here ({type(s).__name__})")
        return _UNSET

    def assign(self, target: ast.expr, value: Any, env: Environment) -> None:
        if isinstance(target, ast.Name):
            env[target.id] = value
        elif isinstance(target, ast.Tuple) and isinstance(value, tuple | list) and len(value) == len(target.elts):
            for t, v in zip(target.elts, value, strict=True):
                self.assign(t, v, env)
        else:
            self.refuse(target, "an assignment to something else than names")

    def _both(
        self, node: ast.stmt, condition: Value, first: list[ast.stmt], second: list[ast.stmt], env: Environment
    ) -> Any:
        a, b = self.block(first, dict(env)), self.block(second, dict(env))
        if a is _UNSET or b is _UNSET:
            self.refuse(node, "a path without return")
        return self.select(node, condition, a, b)

    def _joined(self, node: ast.If, condition: Value, env: Environment) -> Any:
        """Follow both branches; what they set differently depends on the condition."""
        first, second = dict(env), dict(env)
        self.block(node.body, first)
        self.block(node.orelse, second)
        for name in first.keys() | second.keys():
            a, b = first.get(name, _UNSET), second.get(name, _UNSET)
            if a is _UNSET or b is _UNSET:
                env.pop(name, None)
            elif a is not b:
                env[name] = self.select(node, condition, a, b)
        return _UNSET

    def _loop(self, s: ast.For, env: Environment) -> Any:
        items = self.expression(s.iter, env)
        if not isinstance(items, tuple | list | range | zip | enumerate | reversed) or s.orelse:
            self.refuse(s, "a loop over something else than constants")
        for item in items:
            self.assign(s.target, item, env)
            result = self.block(s.body, env)
            if result is not _UNSET:
                return result
        return _UNSET
