"""Formulas evaluated one element after another by the Python function that they were written as, in float64: the
specification of what is compiled from their programs.

Gradients are those of dual numbers: v + d ε with ε² = 0. Each ε has a tag, so that those of derivatives of derivatives
do not mix.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import numpy as np

from tinygrad_bn.kernels.formula import Formula, Gradient, Written
from tinygrad_bn.kernels.ref.dual import Dual, derivative_of, quiet
from tinygrad_bn.kernels.spec import Kernel, Spec

Evaluator = Callable[[Sequence[Any], Sequence[Any]], tuple[Any, ...]]
_tag = count(1).__next__


def kernel(formula: Formula, full: tuple[bool, ...]) -> Kernel:
    """Return the kernel of a formula; arrays are broadcast, so ``full`` does not matter."""
    evaluate = evaluator(formula)
    operands, settings = formula.program.operands, formula.program.settings

    def run(*arrays: np.ndarray[Any, Any]) -> None:
        outs = arrays[operands + settings :]
        numbers = [np.float64(a[0]) for a in arrays[operands : operands + settings]]
        given = [np.broadcast_to(a, outs[0].shape) for a in arrays[:operands]]
        with np.errstate(all="ignore"):
            for at in np.ndindex(outs[0].shape):
                found = evaluate([np.float64(a[at]) for a in given], numbers)
                for out, value in zip(outs, found, strict=True):
                    out[at] = value

    names = [f"x{i}" for i in range(operands)] + [f"s{i}" for i in range(settings)]
    writes = tuple(f"out{i}" for i in range(formula.outputs))
    kinds = [inspect.Parameter(n, inspect.Parameter.POSITIONAL_ONLY) for n in (*names, *writes)]
    run.__dict__["__signature__"] = inspect.Signature(kinds)
    return Kernel(formula.name, Spec(writes=writes), run)


def evaluator(formula: Formula) -> Evaluator:
    """Return what maps operands and settings, plain or dual, to outputs."""
    origin = formula.origin
    return _function(origin) if isinstance(origin, Written) else _gradient(origin)


def _function(origin: Written) -> Evaluator:
    function = quiet(origin.function)

    def evaluate(operands: Sequence[Any], settings: Sequence[Any]) -> tuple[Any, ...]:
        found = function(*operands, **dict(zip(origin.settings, settings, strict=True)))
        return tuple(found) if isinstance(found, tuple | list) else (found,)

    return evaluate


def _gradient(origin: Gradient) -> Evaluator:
    inner = origin.of.origin
    if isinstance(inner, Written) and inner.slopes is not None:
        slopes = _function(Written(inner.slopes, inner.settings, None))
    else:
        slopes = None
    value = evaluator(origin.of)
    lead, n = len(origin.present), origin.of.program.operands

    def evaluate(operands: Sequence[Any], settings: Sequence[Any]) -> tuple[Any, ...]:
        cotangents = operands[:lead]
        points: list[Any] = [np.float64("nan")] * n  # what is not used is not given
        for i, x in zip(origin.used, operands[lead:], strict=True):
            points[i] = x
        if slopes is not None:
            found = slopes(points, settings)
            return tuple(cotangents[0] * found[j] for j in origin.wanted)
        return tuple(_along(value, points, settings, j, origin.present, cotangents) for j in origin.wanted)

    return evaluate


def _along(
    value: Evaluator, points: list[Any], settings: Sequence[Any], j: int, present: Sequence[int], gs: Sequence[Any]
) -> Any:
    """Σ g · ∂f/∂x_j, by a dual number in the place of x_j."""
    tag = _tag()
    seeded = [Dual(tag, x, np.float64(1.0)) if i == j else x for i, x in enumerate(points)]
    outs = value(seeded, settings)
    total: Any = None
    for i, g in zip(present, gs, strict=True):
        slope = derivative_of(outs[i], tag)
        if slope is not None:
            term = g * slope
            total = term if total is None else total + term
    return np.float64(0.0) if total is None else total
