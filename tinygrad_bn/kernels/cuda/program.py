"""Kernels compiled from programs: what a user's formula computes of each element, in the forms of lifted kernels."""

from __future__ import annotations

import inspect

from tinygrad_bn.kernels.cuda.lift import Elementwise, number_function
from tinygrad_bn.kernels.cuda.maths import NAMES
from tinygrad_bn.kernels.formula import Formula
from tinygrad_bn.kernels.spec import Kernel, Spec
from tinygrad_bn.kernels.statements import body, output_names

__all__ = ["kernel"]

_CALLS = {name: name for name in NAMES} | {"pow": "power"}


def kernel(formula: Formula, full: tuple[bool, ...]) -> Kernel:
    """Return the kernel of a formula.

    Parameters
    ----------
    formula : Formula
    full : tuple of bool
        Which operands have all elements of a row: kernels of the GPU see by themselves.

    Returns
    -------
    Kernel
        Of the operands, the settings (arrays of one number) and the outputs.
    """
    program = formula.program
    operands, settings = [f"x{i}" for i in range(program.operands)], [f"s{i}" for i in range(program.settings)]
    outs = output_names(formula)
    text = f"def scalar({', '.join(operands + settings)}):\n{body(program, _CALLS)}\n"
    run = Elementwise(formula.name, number_function("scalar", text), operands, settings, outs)
    kinds = [inspect.Parameter(n, inspect.Parameter.POSITIONAL_ONLY) for n in (*operands, *settings, *outs)]
    run.__dict__["__signature__"] = inspect.Signature(kinds)
    return Kernel(formula.name, Spec(writes=outs), run)
