"""The numbers of an experiment's runs, as claims and figures ask for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinygrad_bn.experiments.runner.experiment import Numbers


@dataclass(frozen=True)
class Outcome:
    """The runs of one seed: ``outcome["with_bn"]["accuracy"]``.

    Attributes
    ----------
    setting : Any
        The sizes of the scale.
    seed : int
    runs : mapping of str to Numbers
        By arm.
    """

    setting: Any
    seed: int
    runs: Mapping[str, Numbers]

    def __getitem__(self, arm: str) -> Numbers:
        return self.runs[arm]


@dataclass(frozen=True)
class Results:
    """The runs of all seeds.

    Attributes
    ----------
    scale : str
        "quick", "standard" or "paper".
    setting : Any
        The sizes of the scale.
    data : str
        The name of the data that was used ("mnist", "cifar10", "digits"), "" where there is none.
    outcomes : sequence of Outcome
        By seed.
    """

    scale: str
    setting: Any
    data: str
    outcomes: Sequence[Outcome]

    def __iter__(self) -> Iterator[Outcome]:
        return iter(self.outcomes)

    def runs(self, arm: str) -> list[Numbers]:
        """Return an arm's numbers, a seed after the other."""
        return [outcome[arm] for outcome in self.outcomes]

    def stack(self, arm: str, name: str) -> np.ndarray:
        """Return what an arm's runs call ``name``, shape (seeds, …); of a curve its y."""
        return np.array([_values(run[name]) for run in self.runs(arm)], dtype=np.float64)

    def x(self, arm: str, name: str) -> np.ndarray:
        """Return the x of an arm's curve, shape (n,)."""
        return np.array(self.runs(arm)[0][name]["x"], dtype=np.float64)


def _values(value: Any) -> Any:
    return value["y"] if isinstance(value, dict) else value
