"""Formulas: what an elementwise operation computes of each element, said twice.

Once as a program, of which compilers make kernels; once as the Python function that people wrote, which the reference
kernels call, and differentiate by themselves.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import FunctionType

from tinygrad_bn.errors import ArgumentError, expected
from tinygrad_bn.kernels.derivative import pulled_back
from tinygrad_bn.kernels.program import Program
from tinygrad_bn.kernels.trace import traced


@dataclass(frozen=True)
class Written:
    """The function that a formula was written as, and its derivatives where they were, too."""

    function: FunctionType
    settings: tuple[str, ...]
    slopes: FunctionType | None


@dataclass(frozen=True)
class Gradient:
    """The formula that a formula of gradients was derived from: in which operands, of which outputs' gradients."""

    of: Formula
    wanted: tuple[int, ...]
    present: tuple[int, ...]
    used: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Formula:
    """Numbers from numbers, element by element.

    Attributes
    ----------
    name : str
    program : Program
    origin : Written or Gradient
    """

    name: str
    program: Program
    origin: Written | Gradient
    slopes: Program | None = None
    _gradients: dict[object, tuple[Formula, tuple[int, ...]]] = field(default_factory=dict)

    @property
    def outputs(self) -> int:
        """How many numbers come out."""
        return len(self.program.outputs)

    def gradient(self, wanted: tuple[int, ...], present: tuple[int, ...]) -> tuple[Formula, tuple[int, ...]]:
        """Return the formula of the gradients in operands, and the operands that it takes behind the outputs'
        gradients."""
        found = self._gradients.get((wanted, present))
        if found is None:
            program, used = pulled_back(self.program, self.slopes, wanted, present)
            origin = Gradient(self, wanted, present, used)
            found = self._gradients[wanted, present] = Formula(f"{self.name}_backward", program, origin), used
        return found


def written(
    name: str, function: FunctionType, operands: int, settings: tuple[str, ...], slopes: FunctionType | None
) -> Formula:
    """Return a function as a formula.

    Raises
    ------
    ArgumentError
        If there is something in it that has no meaning element by element, or there are not as many derivatives as
        operands.
    """
    program = traced(function, operands, settings)
    if slopes is None:
        return Formula(name, program, Written(function, settings, None))
    derived = traced(slopes, operands, settings)
    if len(program.outputs) != 1 or len(derived.outputs) != operands:
        want = f"one result for each of the {operands} operands, of a function of one result"
        raise ArgumentError(expected("elementwise", "derivative", want, f"{len(derived.outputs)} of '{name}'"))
    return Formula(name, program, Written(function, settings, slopes), derived)
