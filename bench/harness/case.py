"""What a case is, and how cases are found.

A case is a piece of work: inputs, the answer in float64, and, for each contender, a method named after it that returns
the step to be timed. A contender without a method takes no part.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Inputs = dict[str, Array]
Answer = dict[str, Array]
Step = Callable[[], Sequence[Any]]


class Case:
    """One row of the table.

    Attributes
    ----------
    name : str
        ``group/size/what``, unique; ``--filter`` searches it.
    flops : float
        Additions and multiplications that the work needs; 0 if they are not counted.
    bytes : float
        What must be read and written at least, each array once; 0 if it is not counted.
    calls : int
        How often a step does the work: times are divided by it.
    steps : int
        How many first steps are compared with the answer, whose arrays then have one more axis in front.
    tolerance : float
        The largest error, relative to the largest absolute value of the array.
    """

    calls: int = 1
    steps: int = 1
    tolerance: float = 1e-5

    def __init__(self, name: str, flops: float = 0.0, bytes: float = 0.0) -> None:
        self.name = name
        self.flops = flops
        self.bytes = bytes

    def inputs(self, rng: np.random.Generator) -> Inputs:
        """Return the arrays that every contender starts from."""
        raise NotImplementedError  # abstract: every case has inputs

    def reference(self, inputs: Inputs) -> Answer:
        """Return what a step (or each of the first ``steps``) must return, in its order, computed in float64."""
        raise NotImplementedError  # abstract: every case has an answer

    def picked(self, tensors: Sequence[Any]) -> Sequence[Any]:
        """Return what of a step's tensors is compared with the answer: all, unless that takes too long."""
        return tensors

    def takes_part(self, contender: str) -> bool:
        """Whether a contender does this work."""
        return hasattr(self, contender)

    def prepare(self, contender: str, inputs: Inputs) -> Step:
        """Set the work up and return the step, which returns tensors of the contender's own."""
        step: Step = getattr(self, contender)(inputs)
        return step


def discover(package: str = "bench.cases") -> list[Case]:
    """Return the cases of all modules of a package, in the order of their names.

    Raises
    ------
    ValueError
        If two cases have one name.
    """
    root = importlib.import_module(package)
    found: list[Case] = []
    for module in sorted(m.name for m in pkgutil.iter_modules(root.__path__) if not m.name.startswith("_")):
        found.extend(importlib.import_module(f"{package}.{module}").CASES)
    names = [c.name for c in found]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise ValueError(f"bench: names of cases must be unique. Got twice: {', '.join(twice)}.")
    return found


def select(cases: Iterable[Case], pattern: str) -> list[Case]:
    """Return the cases in whose names a regular expression is found."""
    expression = re.compile(pattern)
    return [c for c in cases if expression.search(c.name)]


def inputs_of(case: Case, seed: int = 0) -> Inputs:
    """Return a case's inputs: the same ones for the same seed."""
    return case.inputs(np.random.default_rng(seed))
