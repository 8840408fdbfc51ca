"""What the tests of single experiments share: runs of a tiny setting without the runner, verdicts, a drawn figure."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tinygrad_bn.experiments.runner.experiment import CLOCK, Experiment, Numbers, Task
from tinygrad_bn.experiments.runner.results import Outcome, Results
from tinygrad_bn.experiments.runner.verdicts import decide, estimate


def ran(experiment: Experiment, setting: Any, arm: str, seed: int = 0) -> Numbers:
    """Return an arm's numbers, which JSON can hold and whose ticks are as many as were said."""
    ticks: list[int] = []
    numbers = experiment.run(Task(arm, setting, seed, None, "cpu", lambda n=1: ticks.append(n)))
    assert sum(ticks) == experiment.steps(setting, arm)
    assert json.loads(json.dumps(numbers)) == numbers
    return numbers


def outcome_of(experiment: Experiment, setting: Any, seed: int = 0) -> Outcome:
    """Run all arms with one seed."""
    return Outcome(setting, seed, {arm: ran(experiment, setting, arm, seed) for arm in experiment.arms(setting)})


def without_clock(numbers: Any) -> Any:
    """Return numbers without what a clock measured."""
    if not isinstance(numbers, dict):
        return numbers
    return {key: without_clock(value) for key, value in numbers.items() if key != CLOCK}


def verdict(experiment: Experiment, name: str, runs: dict[str, Numbers]) -> str:
    """Return what a claim comes to in an outcome that is made up."""
    claim = next(claim for claim in experiment.claims if claim.name == name)
    return decide(estimate([claim.measure(Outcome(None, 0, runs))]), claim.threshold)


def drawn(experiment: Experiment, outcomes: list[Outcome]) -> Any:
    """Draw the figure, all of it, and return it; each panel has to say what its axes are."""
    pytest.importorskip("matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=experiment.figsize, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    experiment.draw(Results("quick", outcomes[0].setting, "", outcomes), figure)
    canvas.draw()
    assert all(axes.get_xlabel() and axes.get_ylabel() and axes.get_legend() for axes in figure.axes)
    return figure
