"""Derivatives of programs, by forward mode: beside each number its derivative in one operand, a dual number.

    (x, x') op (y, y'):  (x + y)' = x' + y'   (x y)' = x' y + x y'   (x / y)' = (x' - (x / y) y') / y   f(x)' = f'(x) x'

A branch that is not taken contributes nothing, where a reverse sweep would multiply its derivative, infinite perhaps,
by 0. The derivative of a program is a program again, so derivatives of any order follow.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from tinygrad_bn.kernels.program import Builder, Program, Value

Tangent = Value | None
"""A derivative; None where it is 0 for every input."""


def _sign(x: Value) -> Value:
    """-1, 0 or 1; NaN of NaN."""
    b = x.builder
    return b.select(x.compare("gt", 0.0), 1.0, b.select(x.compare("lt", 0.0), -1.0, x))


SLOPES: dict[str, Callable[[Value, Value], Value | float]] = {
    "abs": lambda x, y: _sign(x),
    "acos": lambda x, y: -1.0 / ((1.0 - x) * (1.0 + x)).of("sqrt"),
    "acosh": lambda x, y: 1.0 / ((x - 1.0) * (x + 1.0)).of("sqrt"),
    "asin": lambda x, y: 1.0 / ((1.0 - x) * (1.0 + x)).of("sqrt"),
    "asinh": lambda x, y: 1.0 / (x * x + 1.0).of("sqrt"),
    "atan": lambda x, y: 1.0 / (x * x + 1.0),
    "atanh": lambda x, y: 1.0 / ((1.0 - x) * (1.0 + x)),
    "cos": lambda x, y: -x.of("sin"),
    "cosh": lambda x, y: x.of("sinh"),
    "erf": lambda x, y: (-(x * x)).of("exp") * (2.0 / math.sqrt(math.pi)),
    "erfc": lambda x, y: (-(x * x)).of("exp") * (-2.0 / math.sqrt(math.pi)),
    "exp": lambda x, y: y,
    "exp2": lambda x, y: y * math.log(2.0),
    "expm1": lambda x, y: x.of("exp"),
    "log": lambda x, y: 1.0 / x,
    "log10": lambda x, y: (1.0 / math.log(10.0)) / x,
    "log1p": lambda x, y: 1.0 / (x + 1.0),
    "log2": lambda x, y: (1.0 / math.log(2.0)) / x,
    "neg": lambda x, y: -1.0,
    "sin": lambda x, y: x.of("cos"),
    "sinh": lambda x, y: x.of("cosh"),
    "sqrt": lambda x, y: 0.5 / y,
    "tan": lambda x, y: y * y + 1.0,
    "tanh": lambda x, y: 1.0 - y * y,
}
"""f'(x) from x and y = f(x), of functions of one number; what is missing has derivative 0."""


def _times(tangent: Tangent, factor: Value | float) -> Tangent:
    """The product; where a branch of the tangent is 0 it stays 0, whatever the factor."""
    if tangent is None or _is(tangent, 0.0):
        return tangent
    if isinstance(factor, Value) and _is(tangent, 1.0):
        return factor
    if not isinstance(factor, Value) and abs(factor) == 1.0:
        return tangent if factor == 1.0 else -tangent
    if tangent.name == "select":
        condition, a, b = (Value(tangent.builder, i) for i in tangent.builder.operations[tangent.number][1:])
        if any(_is(v, c) for v in (a, b) for c in (0.0, 1.0)):
            return _either(condition, _times(a, factor), _times(b, factor))
    return tangent * factor


def _is(value: Value, constant: float) -> bool:
    return value.builder.operations[value.number] == ("const", constant)


def _plus(a: Tangent, b: Tangent) -> Tangent:
    return b if a is None else (a if b is None else a + b)


def _minus(a: Tangent, b: Tangent) -> Tangent:
    return a if b is None else (-b if a is None else a - b)


def _over(a: Tangent, x: Value) -> Tangent:
    return None if a is None else a / x


def _larger(name: str, x: Value, y: Value, dx: Tangent, dy: Tangent) -> Tangent:
    """Of max and min: ties share evenly, a NaN's derivative is its own."""
    b = x.builder
    first = b.add("or", x.compare("gt" if name == "max" else "lt", y).number, x.compare("ne", x).number)
    half = _times(_plus(dx, dy), 0.5)
    return _either(first, dx, _either(x.compare("eq", y), half, dy))


def _either(condition: Value, first: Tangent, second: Tangent) -> Tangent:
    if first is None and second is None:
        return None
    zero = 0.0
    return condition.builder.select(condition, zero if first is None else first, zero if second is None else second)


def _power(x: Value, y: Value, out: Value, dx: Tangent, dy: Tangent) -> Tangent:
    """y x^(y - 1) x' + ln(x) x^y y', where the second term is 0 at x = 0 for y >= 0."""
    b = x.builder
    exponent = b.operations[y.number]
    lower: Value | float = exponent[1] - 1.0 if exponent[0] == "const" else y - 1.0
    first = None if dx is None else _times(dx, y * x.power(lower))
    if dy is None:
        return first
    vanishes = b.add("and", x.compare("eq", 0.0).number, y.compare("ge", 0.0).number)
    return _plus(first, _times(dy, b.select(vanishes, 0.0, x.of("log") * out)))


def _binary(name: str, x: Value, y: Value, out: Value, dx: Tangent, dy: Tangent) -> Tangent:
    if name == "add":
        return _plus(dx, dy)
    if name == "sub":
        return _minus(dx, dy)
    if name == "mul":
        return _plus(_times(dx, y), _times(dy, x))
    if name == "div":
        return _over(_minus(dx, _times(dy, out)), y)
    if name == "pow":
        return _power(x, y, out, dx, dy)
    if name in ("max", "min"):
        return _larger(name, x, y, dx, dy)
    if name == "fmod":
        return _minus(dx, _times(dy, (x / y).of("trunc")))
    if name == "hypot":
        return _over(_plus(_times(dx, x), _times(dy, y)), out)
    if name == "atan2":
        return _over(_minus(_times(dx, y), _times(dy, x)), x * x + y * y)
    one = x.builder.value(1.0)  # copysign
    turned = x.builder.apply("copysign", one, x) * x.builder.apply("copysign", one, y)
    return _times(dx, turned)


def tangents(builder: Builder, program: Program, values: list[Value], seeds: dict[int, Value]) -> list[Tangent]:
    """Return the derivative of each of a program's operations, given the results of all and the operands' own."""
    found: list[Tangent] = []
    for number, (name, *arguments) in enumerate(program.operations):
        if name in ("operand", "setting", "const"):
            found.append(seeds.get(arguments[0]) if name == "operand" else None)
            continue
        given = [values[i] for i in arguments]
        own = [found[i] for i in arguments]
        if name == "select":
            found.append(_either(given[0], own[1], own[2]))
        elif all(t is None for t in own):
            found.append(None)
        elif len(given) == 2:
            found.append(_binary(name, given[0], given[1], values[number], own[0], own[1]))
        else:
            slope = SLOPES.get(name)
            found.append(None if slope is None else _times(own[0], slope(given[0], values[number])))
    return found


def pulled_back(
    program: Program, given: Program | None, wanted: tuple[int, ...], present: tuple[int, ...]
) -> tuple[Program, tuple[int, ...]]:
    """Return the program of the gradients with respect to operands, and which of the operands it takes.

    Parameters
    ----------
    program : Program
    given : Program, optional
        The derivatives of its one output in each operand, where they need not be derived.
    wanted : tuple of int
        The operands.
    present : tuple of int
        The outputs whose gradients there are; they come ahead of the operands.
    """
    b = Builder()
    cotangents = [b.add("operand", i) for i in range(len(present))]
    operands = [b.add("operand", len(present) + i) for i in range(program.operands)]
    settings = [b.add("setting", i) for i in range(program.settings)]
    values = b.copy(program, operands, settings)
    slopes: dict[int, list[Tangent]] = {}
    if given is None:
        for j in wanted:
            own = tangents(b, program, values, {j: b.value(1.0)})
            slopes[j] = [own[program.outputs[i]] for i in present]
    else:
        results = b.copy(given, operands, settings)
        slopes = {j: [results[given.outputs[j]]] for j in wanted}
    outputs = [_summed(cotangents, slopes[j]) for j in wanted]
    whole = b.finish(len(present) + program.operands, program.settings, outputs)
    used = tuple(i - len(present) for i in whole.used() if i >= len(present))
    return _without(whole, len(present), used), used


def _summed(cotangents: list[Value], slopes: list[Tangent]) -> Value:
    total: Tangent = None
    for g, slope in zip(cotangents, slopes, strict=True):
        total = _plus(total, _times(slope, g) if slope is not None else None)
    return cotangents[0].builder.value(0.0) if total is None else total


def _without(program: Program, lead: int, used: tuple[int, ...]) -> Program:
    """The program without the operands that it does not use, the first ``lead`` kept."""
    place = {i: i for i in range(lead)} | {lead + i: lead + k for k, i in enumerate(used)}
    kept = tuple((o[0], place[o[1]]) if o[0] == "operand" else o for o in program.operations)
    return Program(lead + len(used), program.settings, kept, program.outputs)
