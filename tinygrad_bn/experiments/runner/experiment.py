"""What an experiment consists of: settings, runs, published numbers, claims and a figure.

The file of an experiment holds the science and ends in one ``Experiment``; the runner does everything else: command
line, seeds, progress, resumption, records, tables, verdicts, figures, reports.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from tinygrad_bn.errors import ArgumentError, ShapeError, expected

if TYPE_CHECKING:
    from tinygrad_bn.experiments.runner.pictures import Pictures
    from tinygrad_bn.experiments.runner.results import Outcome, Results

Numbers = dict[str, Any]
"""What a run returns: names to numbers, strings, (nested) lists of numbers, and curves; all that JSON can hold.

Under the key ``"clock"`` stands what a clock measured: the one part that a second run with the same seed does not
repeat.
"""

CLOCK = "clock"
SCALES = ("quick", "standard", "paper")


def curve(x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray) -> dict[str, list[Any]]:
    """Return a curve to put among a run's numbers; it is also written as TensorBoard scalars.

    Parameters
    ----------
    x : sequence of float, or array of shape (n,)
    y : sequence of float, or array of shape (n,); or (n, k), of k lines

    Raises
    ------
    ShapeError
        If they are not of the same length.
    """
    points, values = np.asarray(x), np.asarray(y)
    if points.ndim != 1 or values.ndim not in (1, 2) or len(points) != len(values):
        raise ShapeError(expected("curve", "y", f"a value for each x, which has shape {points.shape}", values.shape))
    return {"x": points.tolist(), "y": values.tolist()}


@dataclass(frozen=True)
class Task:
    """One run: an arm of the experiment with one seed.

    Attributes
    ----------
    arm : str
        One of the experiment's arms: what is compared ("with_bn", "without_bn").
    setting : Any
        The experiment's own dataclass of sizes, rates and counts at the chosen scale.
    seed : int
        All that is random in the run follows from it and from the arm.
    pictures : Pictures or None
        The data, where the experiment asked for some.
    device : str
        Where tensors lie: "cpu" or "cuda".
    tick : callable
        ``tick(n=1)`` moves the progress bar by n of the run's ``steps``.
    """

    arm: str
    setting: Any
    seed: int
    pictures: Pictures | None
    device: str
    tick: Callable[..., None]

    @property
    def data(self) -> Pictures:
        """The pictures, where the experiment asked for some."""
        if self.pictures is None:
            raise ArgumentError(f"experiments: {self.arm}: 'pictures' must be given. Got None.")
        return self.pictures


@dataclass(frozen=True)
class Threshold:
    """The half line, or the interval, in which a claim's measure has to lie. Write ``above(x)``, ``below(x)`` …"""

    low: float = -np.inf
    high: float = np.inf

    def __str__(self) -> str:
        if self.high == np.inf:
            return f"> {self.low:g}"
        if self.low == -np.inf:
            return f"< {self.high:g}"
        return f"between {self.low:g} and {self.high:g}"


def above(low: float) -> Threshold:
    """Return the threshold of measures larger than ``low``."""
    return Threshold(low=low)


def below(high: float) -> Threshold:
    """Return the threshold of measures smaller than ``high``."""
    return Threshold(high=high)


def between(low: float, high: float) -> Threshold:
    """Return the threshold of measures larger than ``low`` and smaller than ``high``."""
    return Threshold(low, high)


@dataclass(frozen=True)
class Claim:
    """A sentence of the source that numbers decide.

    Attributes
    ----------
    name : str
        A short name: "bn_learns_faster".
    text : str
        The sentence, with its place in the source.
    measure : callable
        ``measure(outcome) -> float``: one number of one seed's runs.
    threshold : Threshold
        Where the measure has to lie. Written down before the first run and not touched after it.
    reason : str
        Why this measure and this threshold.
    explanation : str
        Where the claim did not hold: our best explanation. Printed only with such a verdict.
    """

    name: str
    text: str
    measure: Callable[[Outcome], float]
    threshold: Threshold
    reason: str
    explanation: str = ""


@dataclass(frozen=True)
class Published:
    """A row of the table "published | measured".

    Attributes
    ----------
    what : str
        What is measured, with its unit.
    value : str
        As the source prints it.
    where : str
        The place in the source.
    measure : callable or None
        ``measure(outcome) -> float``; None where it is not measured here.
    format : str
        How the mean and the half width of the interval are printed.
    """

    what: str
    value: str
    where: str
    measure: Callable[[Outcome], float] | None
    format: str = ".3g"


@dataclass(frozen=True)
class Experiment:
    """An experiment of the literature.

    Attributes
    ----------
    name : str
        The name of its file and on the command line.
    title, source, question, meaning : str
        For the page: a headline; author, year, arXiv number and section; what is asked; what the outcome means
        (Markdown, a few sentences each).
    scales : mapping of str to Any
        For each of ``SCALES`` the experiment's own frozen dataclass of sizes. ``quick`` ends within 90 seconds on two
        cores, with all seeds; ``standard`` within half an hour; ``paper`` has the published sizes.
    arms : callable
        ``arms(setting) -> sequence of str``: the runs of a seed.
    steps : callable
        ``steps(setting, arm) -> int``: how often the run calls ``tick``.
    run : callable
        ``run(task) -> Numbers``.
    draw : callable
        ``draw(results, figure) -> None``: draws into a ``matplotlib.figure.Figure`` that looks like the published one.
    claims : sequence of Claim
    published : sequence of Published
    data : str or None
        "mnist" or "cifar10", with the digits where they are not at hand; None: the experiment makes its own.
    seeds : mapping of str to int
        How many seeds a scale has unless the user says: 1, 5, 5. Where nothing is random: 1 each.
    figsize : pair of float
        Inches.
    """

    name: str
    title: str
    source: str
    question: str
    meaning: str
    scales: Mapping[str, Any]
    arms: Callable[[Any], Sequence[str]]
    steps: Callable[[Any, str], int]
    run: Callable[[Task], Numbers]
    draw: Callable[[Results, Any], None]
    claims: Sequence[Claim]
    published: Sequence[Published] = ()
    data: str | None = None
    seeds: Mapping[str, int] = field(default_factory=lambda: {"quick": 1, "standard": 5, "paper": 5})
    figsize: tuple[float, float] = (9.6, 4.0)
