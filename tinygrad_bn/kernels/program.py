"""Programs of scalar operations: what a function under ``@tb.elementwise`` is turned into.

A program is a list of operations in the order in which they can be computed, each known by its number; equal
operations have one number. There are no branches: ``select(c, a, b)`` stands for ``a if c else b``, and a compiler of
programs computes of a and b only what is asked for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

BINARY = frozenset(("add", "atan2", "copysign", "div", "fmod", "hypot", "max", "min", "mul", "pow", "sub"))
COMPARISONS = frozenset(("eq", "ge", "gt", "le", "lt", "ne"))
LOGIC = frozenset(("and", "not", "or"))
LIMIT = 20_000
"""The most operations of a program: beyond it, compiling would seem to hang."""

Operation = tuple[Any, ...]


class TooLong(Exception):
    """A program has grown beyond ``LIMIT`` operations."""


@dataclass(frozen=True)
class Program:
    """Operations on numbers.

    Attributes
    ----------
    operands, settings : int
        How many numbers go in: those that differ from element to element, and those that do not.
    operations : tuple of tuple
        ``("operand", i)``, ``("setting", i)``, ``("const", value)``; else a name and the numbers of what it is applied
        to.
    outputs : tuple of int
        The numbers of the operations whose results come out.
    """

    operands: int
    settings: int
    operations: tuple[Operation, ...]
    outputs: tuple[int, ...]

    def used(self) -> tuple[int, ...]:
        """The operands that the outputs depend on."""
        return tuple(sorted(o[1] for o in self.operations if o[0] == "operand"))


class Builder:
    """A program in the making."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self._known: dict[Any, int] = {}

    def add(self, name: str, *arguments: Any) -> Value:
        """Return the result of an operation, which is entered unless it is there already."""
        key = (name, repr(arguments[0])) if name == "const" else (name, *arguments)
        number = self._known.get(key)
        if number is None:
            if len(self.operations) >= LIMIT:
                raise TooLong
            number = self._known[key] = len(self.operations)
            self.operations.append((name, *arguments))
        return Value(self, number)

    def apply(self, name: str, *values: Value | float) -> Value:
        """Return the result of an operation on values and numbers; of numbers alone it is computed here where that is
        plain."""
        return self.add(name, *[self.value(v).number for v in values])

    def value(self, given: Value | float) -> Value:
        """Return a number as a value; a truth value as 1 or 0."""
        if not isinstance(given, Value):
            return self.add("const", float(given))
        if given.is_truth:
            return self.add("select", given.number, self.value(1.0).number, self.value(0.0).number)
        return given

    def select(self, condition: Value, first: Value | float, second: Value | float) -> Value:
        """Return ``first if condition else second``."""
        a, b = self.value(first), self.value(second)
        return a if a.number == b.number else self.add("select", condition.number, a.number, b.number)

    def copy(self, program: Program, operands: list[Value], settings: list[Value]) -> list[Value]:
        """Enter another program's operations on given values; return the results of all of them."""
        found: list[Value] = []
        for name, *arguments in program.operations:
            if name == "operand":
                found.append(operands[arguments[0]])
            elif name == "setting":
                found.append(settings[arguments[0]])
            elif name == "const":
                found.append(self.add("const", arguments[0]))
            else:
                found.append(self.add(name, *[found[i].number for i in arguments]))
        return found

    def finish(self, operands: int, settings: int, outputs: list[Value]) -> Program:
        """Return the program of what the outputs need."""
        needed = [False] * len(self.operations)
        stack = [v.number for v in outputs]
        while stack:
            number = stack.pop()
            if not needed[number]:
                needed[number] = True
                stack.extend(operands_of(self.operations[number]))
        place: dict[int, int] = {}
        kept: list[Operation] = []
        for number, operation in enumerate(self.operations):
            if needed[number]:
                place[number] = len(kept)
                kept.append(renumbered(operation, place))
        return Program(operands, settings, tuple(kept), tuple(place[v.number] for v in outputs))


def operands_of(operation: Operation) -> tuple[int, ...]:
    """The numbers of the operations whose results an operation takes."""
    return () if operation[0] in ("operand", "setting", "const") else operation[1:]


def renumbered(operation: Operation, place: dict[int, int]) -> Operation:
    """An operation on the same results under other numbers."""
    return (operation[0], *[place[i] for i in operands_of(operation)]) if operands_of(operation) else operation


class Value:
    """The result of an operation: in expressions it stands for a number."""

    __slots__ = ("builder", "number")

    def __init__(self, builder: Builder, number: int) -> None:
        self.builder = builder
        self.number = number

    @property
    def name(self) -> str:
        """The operation's name."""
        return str(self.builder.operations[self.number][0])

    @property
    def is_truth(self) -> bool:
        """Whether it is a truth value, not a number."""
        return self.name in COMPARISONS or self.name in LOGIC

    def __add__(self, other: Value | float) -> Value:
        return self.builder.apply("add", self, other)

    def __radd__(self, other: float) -> Value:
        return self.builder.apply("add", other, self)

    def __sub__(self, other: Value | float) -> Value:
        return self.builder.apply("sub", self, other)

    def __rsub__(self, other: float) -> Value:
        return self.builder.apply("sub", other, self)

    def __mul__(self, other: Value | float) -> Value:
        return self.builder.apply("mul", self, other)

    def __rmul__(self, other: float) -> Value:
        return self.builder.apply("mul", other, self)

    def __truediv__(self, other: Value | float) -> Value:
        return self.builder.apply("div", self, other)

    def __rtruediv__(self, other: float) -> Value:
        return self.builder.apply("div", other, self)

    def __neg__(self) -> Value:
        return self.builder.apply("neg", self)

    def compare(self, name: str, other: Value | float) -> Value:
        """Return the truth of ``self < other`` or the like."""
        return self.builder.apply(name, self, other)

    def of(self, name: str) -> Value:
        """Return a function of this value."""
        return self.builder.apply(name, self)

    def power(self, exponent: Value | float) -> Value:
        """Return ``self ** exponent``: by multiplications for small whole exponents, which negative numbers bear."""
        if isinstance(exponent, Value):
            return self.builder.apply("pow", self, exponent)
        n = float(exponent)
        if math.isfinite(n) and n == int(n) and abs(n) <= 16:
            whole = self._multiplied(abs(int(n)))
            return whole if n >= 0 else 1.0 / whole
        return self.builder.apply("pow", self, n)

    def _multiplied(self, n: int) -> Value:
        if n == 0:
            return self.builder.value(1.0)
        half = self._multiplied(n // 2) if n > 1 else self
        if n == 1:
            return self
        return half * half if n % 2 == 0 else half * half * self
