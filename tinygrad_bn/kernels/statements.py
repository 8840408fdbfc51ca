"""Programs as source: the statements of a Python function that computes one, for compilers of Python."""

from __future__ import annotations

from collections.abc import Mapping

from tinygrad_bn.kernels.formula import Formula
from tinygrad_bn.kernels.program import Program, operands_of

__all__ = ["body", "output_names"]

_OPERATORS = {"add": "+", "sub": "-", "mul": "*", "div": "/", "pow": "**", "and": "and", "or": "or"} | {
    "lt": "<",
    "le": "<=",
    "gt": ">",
    "ge": ">=",
    "eq": "==",
    "ne": "!=",
}


def output_names(formula: Formula) -> tuple[str, ...]:
    """The names of the parameters that are written."""
    return tuple(f"out{i}" for i in range(formula.outputs))


Block = tuple[tuple[int, int], ...]
"""Where an operation is computed: in which branches of which selections, outermost first."""


def body(program: Program, calls: Mapping[str, str]) -> str:
    """Return the statements of a program's scalar function, of x0, x1 … and s0, s1 …, indented.

    Each operation stands in the innermost branch that all its uses are in.

    Parameters
    ----------
    program : Program
    calls : mapping
        What an operation's function is called; ``np`` must be known for infinities and NaN.
    """
    homes = _homes(program)
    contents: dict[Block, list[int]] = {}
    for number, home in enumerate(homes):
        if home is not None:
            contents.setdefault(home, []).append(number)
    lines = _statements(program, contents, (), calls)
    results = ", ".join(_spelled(program, i) for i in program.outputs)
    return "\n".join(f"    {line}" for line in (*lines, f"return {results}"))


def _homes(program: Program) -> list[Block | None]:
    homes: list[Block | None] = [None] * len(program.operations)
    for number in program.outputs:
        homes[number] = ()
    for number in range(len(program.operations) - 1, -1, -1):
        home, operation = homes[number], program.operations[number]
        if home is None:
            continue
        for at, used in enumerate(operands_of(operation)):
            where = (*home, (number, at)) if operation[0] == "select" and at else home
            before = homes[used]
            homes[used] = where if before is None else _common(before, where)
    return homes


def _common(a: Block, b: Block) -> Block:
    n = 0
    while n < min(len(a), len(b)) and a[n] == b[n]:
        n += 1
    return a[:n]


def _statements(program: Program, contents: dict[Block, list[int]], home: Block, calls: Mapping[str, str]) -> list[str]:
    lines: list[str] = []
    for number in contents.get(home, ()):
        operation = program.operations[number]
        if operation[0] in ("operand", "setting", "const"):
            continue
        if operation[0] != "select":
            lines.append(f"t{number} = {_expression(program, operation, calls)}")
            continue
        condition, a, b = (_spelled(program, i) for i in operation[1:])
        first, second = (_statements(program, contents, (*home, (number, at)), calls) for at in (1, 2))
        if not first and not second:
            lines.append(f"t{number} = {a} if {condition} else {b}")
            continue
        lines += [f"if {condition}:", *[f"    {line}" for line in (*first, f"t{number} = {a}")]]
        lines += ["else:", *[f"    {line}" for line in (*second, f"t{number} = {b}")]]
    return lines


def _expression(program: Program, operation: tuple[object, ...], calls: Mapping[str, str]) -> str:
    name = str(operation[0])
    args = [_spelled(program, i) for i in operands_of(operation)]
    if name in _OPERATORS and name not in calls:
        return f"{args[0]} {_OPERATORS[name]} {args[1]}"
    if name == "neg":
        return f"-{args[0]}"
    if name == "not":
        return f"not {args[0]}"
    if name == "abs":
        return "-{0} if {0} < {1} else {0}".format(args[0], _constant(0.0))
    if name in ("max", "min"):
        x, y = args
        return f"{x} if {x} {'>' if name == 'max' else '<'} {y} or {x} != {x} else {y}"
    return f"{calls[name]}({', '.join(args)})"


def _spelled(program: Program, number: int) -> str:
    """A result's name, or what stands for it."""
    operation = program.operations[number]
    if operation[0] == "const":
        return _constant(operation[1])
    return {"operand": "x{}", "setting": "s{}"}.get(operation[0], "t{}").format(
        operation[1] if operation[0] in ("operand", "setting") else number
    )


def _constant(value: float) -> str:
    text = repr(value).replace("inf", "np.inf").replace("nan", "np.nan")
    return f"type(x0)({text})"
