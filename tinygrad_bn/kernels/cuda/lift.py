"""Turn scalar functions into elementwise kernels, as ``kernels/cpu/lift.py`` does, of the same source.

A kernel takes flat arrays, where an operand of one element stands for all; or arrays of four axes, where an operand's
axis may have extent 1 and is broadcast. Settings are arrays of one number.

Of each kernel there are four kinds, compiled when they are needed: of runs of elements or of four axes, an element a
thread or four neighbours, which are read and written at once where the addresses allow it. Which operands have one
element, in all or along the last axis, is a constant of the compiled code.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Sequence
from functools import cache
from types import FunctionType, ModuleType
from typing import Any

import numpy as np

from tinygrad_bn.kernels.cuda.copying import aligned
from tinygrad_bn.kernels.cuda.entry import Device, Entry, Source, blocks
from tinygrad_bn.kernels.cuda.maths import NAMES
from tinygrad_bn.kernels.cuda.target import cuda
from tinygrad_bn.kernels.cuda.vector import load4, store4
from tinygrad_bn.kernels.cuda.walks import NARROW, extents, places, steps, written

__all__ = ["Elementwise", "lifted", "number_function"]

Array = np.ndarray[Any, Any]


class _Typed(ast.NodeTransformer):
    """Give number literals an operand's type; powers by the function."""

    def __init__(self, like: str) -> None:
        self._like = like

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        if isinstance(node.value, float):
            return ast.parse(f"type({self._like})({node.value!r})", mode="eval").body
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        self.generic_visit(node)
        if isinstance(node.op, ast.Pow):
            return ast.Call(ast.Name("power", ast.Load()), [node.left, node.right], [])
        return node


def _scalar(function: FunctionType) -> tuple[Device, list[str], list[str]]:
    """A scalar function for kernels, the names of its operands and of its settings."""
    tree = ast.parse(inspect.getsource(function)).body[0]
    assert isinstance(tree, ast.FunctionDef)
    operands, settings = [a.arg for a in tree.args.args], [a.arg for a in tree.args.kwonlyargs]
    tree.args = ast.arguments([], [ast.arg(a) for a in operands + settings], None, [], [], None, [])
    tree.returns = None
    typed = _Typed(operands[-1] if operands[0] == "condition" else operands[0]).visit(tree)
    text = ast.unparse(ast.fix_missing_locations(typed))
    return number_function(function.__name__, text), operands, settings


def number_function(name: str, text: str) -> Device:
    """Return a function of numbers, which kernels call, of its source."""
    scope: dict[str, Any] = {**NAMES, "np": np, "__name__": __name__}
    exec(compile(text, __file__, "exec"), scope)
    return Device(Source(scope[name], text))


class Elementwise:
    """A kernel made of a scalar function, whatever the form of its operands.

    Parameters
    ----------
    name : str
    scalar : Device
        Takes a number of each operand, then the settings; returns one number, or as many as there are outputs.
    operands, settings, outs : list of str
    """

    def __init__(
        self, name: str, scalar: Device, operands: Sequence[str], settings: Sequence[str], outs: Sequence[str]
    ) -> None:
        self.name = name
        self._scope = {"cuda": cuda, "np": np, "load4": load4, "store4": store4, "scalar": scalar, "__file__": __file__}
        self._scope["__name__"] = __name__
        self._operands, self._settings, self._outs = operands, settings, outs
        self._run = cache(self._make_run)
        self._axes = cache(self._make_axes)

    def __call__(self, *arrays: Array) -> None:
        """Compute; arrays are the operands, the settings and the outputs."""
        arrays = tuple([a.view(np.uint8) if a.dtype == np.bool_ else a for a in arrays])
        split = len(self._operands)
        out = arrays[-1]
        if not out.size:
            return
        full = [a for a in arrays[:split] if a.size > 1] + list(arrays[split + len(self._settings) :])
        fours = all(aligned(a) for a in full)
        if out.ndim == 1:
            entry = self._run(fours, *[a.size == 1 for a in arrays[:split]])
            entry[blocks(-(-out.size // 4) if fours else out.size)](*arrays, out.size)
            return
        shape = out.shape
        fours = fours and shape[3] % 4 == 0
        entry = self._axes(fours, out.size >= NARROW, *[a.shape[3] == 1 for a in arrays[:split]])
        last = shape[3] // 4 if fours else shape[3]
        walked = sum([_broadcast(a, 4 if fours else 1) for a in arrays[:split]], ())
        count = out.size // 4 if fours else out.size
        entry[blocks(count)](*arrays, count, *shape[1:3], last, *walked)

    def _line(self, at: dict[str, str], suffix: str = "") -> str:
        """Compute one element."""
        values = [at[x] + suffix if at[x].endswith("_v") else at[x] for x in self._operands]
        given = ", ".join(values + [f"{s}_v" for s in self._settings])
        return f"{', '.join(o + '_v' + suffix for o in self._outs)} = scalar({given})"

    def _element(self, places: dict[str, str], into: str) -> list[str]:
        """Compute one element of the outputs at ``into``, of operands at their places."""
        lines = [self._line(places)]
        return lines + [f"{o}[{into}] = {o}_v" for o in self._outs]

    def _four(self, places: dict[str, str], ones: Sequence[bool], into: str) -> list[str]:
        """Compute four neighbours."""
        lines = []
        names = {x: f"{x}_v" for x in self._operands}
        for x, one in zip(self._operands, ones):
            if one:
                names[x] = places[x]
            else:
                lines.append(f"{', '.join(f'{x}_v{k}' for k in range(4))} = load4({x}, {places[x]})")
        lines += [self._line(names, str(k)) for k in range(4)]
        return lines + [f"store4({o}, {into}, {', '.join(f'{o}_v{k}' for k in range(4))})" for o in self._outs]

    def _written(
        self, kind: str, parameters: Sequence[str], before: Sequence[str], body: Sequence[str], goes_on: str = "i < n"
    ) -> Entry:
        """The kernel whose threads run ``body`` for one i after another."""
        name = f"{self.name}_{kind}"
        arguments = ", ".join([*self._operands, *self._settings, *self._outs, "n", *parameters])
        lines = [f"{s}_v = {s}[0]" for s in self._settings]
        lines += [*before, "i = cuda.grid(1)", f"while {goes_on}:", *_indented(body), "    i += cuda.gridsize(1)"]
        return written(name, "\n".join([f"def {name}({arguments}):", *_indented(lines), ""]), self._scope)

    def _make_run(self, fours: bool, *ones: bool) -> Entry:
        """The kernel of flat arrays."""
        single = [x for x, one in zip(self._operands, ones) if one]
        before = [f"{x}_one = {x}[0]" for x in single]
        at = {x: f"{x}_one" if x in single else f"{x}[at]" for x in self._operands}
        if not fours:
            return self._written("run", (), before, ["at = i", *self._element(at, "at")])
        first = {x: f"{x}_one" if x in single else "at" for x in self._operands}
        whole = _indented(self._four(first, ones, "at"))
        rest = ["    while at < n:", *_indented(_indented([*self._element(at, "at"), "at += 1"]))]
        body = ["at = 4 * i", "if at + 4 <= n:", *whole, "else:", *rest]
        return self._written("run", (), before, body, "4 * i < n")

    def _make_axes(self, fours: bool, wide: bool, *ones: bool) -> Entry:
        """The kernel of four axes; extents and steps along the last are of fours where these are taken at once."""
        parameters = [*extents(4), *[s for x in self._operands for s in steps(x, 4)]]
        walk = places(self._operands, 4, wide)
        if not fours:
            at = {x: f"{x}[{x}_at]" for x in self._operands}
            return self._written("axes", parameters, (), [*walk, *self._element(at, "i")])
        loads = [f"{x}_one = {x}[{x}_at]" for x, one in zip(self._operands, ones) if one]
        first = {x: f"{x}_one" if one else f"{x}_at" for x, one in zip(self._operands, ones)}
        body = [*walk, *loads, *self._four(first, ones, "4 * i")]
        return self._written("axes", parameters, (), body)


def _indented(lines: Sequence[str]) -> list[str]:
    return [f"    {line}" for line in lines]


def _broadcast(array: Array, unit: int) -> tuple[int, ...]:
    """An operand's steps along four axes: 0 where one element stands for all."""
    _, b, c, d = array.shape
    steps = (b * c * d, c * d, d, unit)
    return tuple([0 if n == 1 else s for n, s in zip(array.shape, steps)])


def lifted(module: ModuleType) -> dict[str, Callable[..., None]]:
    """Return the kernels of a module's scalar functions, by name."""
    found: dict[str, Callable[..., None]] = {}
    for name, function in vars(module).items():
        if isinstance(function, FunctionType) and function.__module__ == module.__name__ and name.endswith("_"):
            found[name.removesuffix("_")] = _kernel(function)
    return found


def _kernel(function: FunctionType) -> Callable[..., None]:
    name = function.__name__.removesuffix("_")
    parameters = inspect.signature(function).parameters
    made: list[Elementwise] = []

    def run(*arrays: Array) -> None:
        if not made:
            scalar, operands, settings = _scalar(function)
            made.append(Elementwise(name, scalar, operands, settings, ["out"]))
        made[0](*arrays)

    kinds = [inspect.Parameter(n, inspect.Parameter.POSITIONAL_ONLY) for n in (*parameters, "out")]
    run.__name__ = run.__qualname__ = name
    run.__doc__ = function.__doc__
    run.__dict__["__signature__"] = inspect.Signature(kinds)
    return run
