"""Kernels compiled from programs: generated source in the cache folder, as lifted kernels are.

A kernel takes its operands as lifted kernels do: flat arrays, where one of one element stands for all, or four axes, of
which an operand's may have extent 1. Which operands have all elements of a row and which have one is part of the
kernel, so that each has a single loop, without a stride that is not known.
"""

from __future__ import annotations

from tinygrad_bn.kernels.cpu._jit import generated
from tinygrad_bn.kernels.formula import Formula
from tinygrad_bn.kernels.program import Program
from tinygrad_bn.kernels.spec import Kernel, Spec
from tinygrad_bn.kernels.statements import body, output_names

CHEAP, DEAR = 1 << 17, 1 << 14
"""From how many elements on the pool pays: for arithmetic, for functions."""

_HEAD = '''"""{name}: an elementwise operation of the user's; generated, not to be edited."""
import math as library
import numpy as np
from numba import prange
from tinygrad_bn.kernels.cpu._jit import jit, parallel
from tinygrad_bn.kernels.cpu import math, special

BLOCK = 8192


@jit(inline=True)
def scalar({scalars}):
{body}


@jit()
def flat({arguments}, {outs}):
{loads}    for i in range({first}.size):
        {targets} = scalar({at})


@parallel(work="{first}", grain={grain})
def kernel({arguments}, {outs}):
    if {first}.ndim == 1:
        n = {first}.size
        for block in prange(-(-n // BLOCK)):
            lo = block * BLOCK
            hi = min(n, lo + BLOCK)
            flat({blocks})
    else:
        s1 = {first}.shape[1]
        s2 = {first}.shape[2]
        for row in prange({first}.shape[0] * s1 * s2):
            i = row // (s1 * s2)
            j = row // s2 % s1
            k = row % s2
            flat({rows})
'''

_CALLS = {
    **{name: f"math.{name}" for name in ("exp", "log", "sqrt", "tanh")},
    **{name: f"special.{name}" for name in ("erf", "expm1", "log1p")},
    **{name: f"np.{name}" for name in ("ceil", "copysign", "cos", "cosh", "exp2", "floor", "fmod", "hypot")},
    **{name: f"np.{name}" for name in ("log10", "log2", "rint", "sin", "sinh", "tan", "trunc")},
    **{name: f"np.arc{name[1:]}" for name in ("acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh")},
    "erfc": "library.erfc",
}
_DEAR = frozenset(_CALLS) - {"sqrt", "ceil", "copysign", "floor", "rint", "trunc"} | {"pow"}


def kernel(formula: Formula, full: tuple[bool, ...]) -> Kernel:
    """Return the kernel of a formula.

    Parameters
    ----------
    formula : Formula
    full : tuple of bool
        Which operands have all elements of a row, where the others have one.

    Returns
    -------
    Kernel
        Of the operands, the settings (arrays of one number) and the outputs.
    """
    driver = generated("elementwise_op", source(formula.name, formula.program, full)).kernel.driver
    declared = Spec(writes=output_names(formula))
    return Kernel(formula.name, declared, driver.serial, driver.parallel, driver.work, driver.grain)


def source(name: str, program: Program, full: tuple[bool, ...]) -> str:
    """Return a module that defines the kernel of a program."""
    operands, settings = [f"x{i}" for i in range(program.operands)], [f"s{i}" for i in range(program.settings)]
    outs = [f"out{i}" for i in range(len(program.outputs))]
    arrays = list(zip(operands, full, strict=True))
    single = [a for a, whole in arrays if not whole] + settings
    of_block = [f"{a}[lo:hi]" if whole else a for a, whole in arrays] + settings + [f"{o}[lo:hi]" for o in outs]
    at_row = "[i % {0}.shape[0], j % {0}.shape[1], k % {0}.shape[2]]"
    of_row = [a + at_row.format(a) for a in operands] + settings + [f"{o}[i, j, k]" for o in outs]
    return _HEAD.format(
        name=name,
        scalars=", ".join(operands + settings),
        body=body(program, _CALLS),
        arguments=", ".join(operands + settings),
        outs=", ".join(outs),
        first=outs[0],
        loads="".join(f"    {a}_0 = {a}[0]\n" for a in single),
        targets=", ".join(f"{o}[i]" for o in outs),
        at=", ".join(f"{a}_0" if a in single else f"{a}[i]" for a in operands + settings),
        grain=DEAR if any(o[0] in _DEAR for o in program.operations) else CHEAP,
        blocks=", ".join(of_block),
        rows=", ".join(of_row),
    )
