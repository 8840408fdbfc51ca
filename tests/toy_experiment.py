"""A tiny experiment for the tests of the runner: walks with and without drift."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import numpy as np

from tinygrad_bn.experiments.runner.experiment import (
    Claim,
    Experiment,
    Numbers,
    Published,
    Task,
    above,
    below,
    curve,
)
from tinygrad_bn.experiments.runner.results import Results

ARMS = ("drift", "none")


@dataclass(frozen=True)
class Setting:
    steps: int
    drift: float = 3.0
    rates: tuple[float, ...] = (0.1, 0.5)


def walk(task: Task) -> Numbers:
    begun = perf_counter()
    rng = np.random.default_rng([task.seed, ARMS.index(task.arm)])
    moves = rng.standard_normal(task.setting.steps) + (task.setting.drift if task.arm == "drift" else 0.0)
    for _ in moves:
        task.tick()
    y = np.cumsum(moves)
    return {
        "walk": curve(np.arange(len(y)), y),
        "both": curve([0.5, 1.5], [[1.0, 2.0], [3.0, 4.0]]),
        "end": float(y[-1]),
        "lost": np.inf,
        "word": "text",
        "clock": {"seconds": perf_counter() - begun},
    }


def draw(results: Results, figure: Any) -> None:
    axes = figure.subplots()
    for arm in ARMS:
        axes.plot(results.x(arm, "walk"), results.stack(arm, "walk").mean(0), label=arm)
    axes.set_xlabel("step")
    axes.set_ylabel("place (m)")
    axes.legend()


EXPERIMENT = Experiment(
    name="toy",
    title="Walks | with & without drift",
    source="Smith 2001, arXiv:0000.00000, section 2",
    question="Does **drift** lead `away`?",
    meaning="It *does*, as in [the source](https://example.org/a).\n\n- one\n- two",
    scales={"quick": Setting(5), "standard": Setting(50), "paper": Setting(500)},
    arms=lambda setting: ARMS,
    steps=lambda setting, arm: setting.steps,
    run=walk,
    draw=draw,
    claims=(
        Claim("leads_away", "It leads away.", lambda o: o["drift"]["end"] - o["none"]["end"], above(1.0), "as it says"),
        Claim("stays", "It stays.", lambda o: o["drift"]["end"], below(1.0), "it is there", "it was <pushed>"),
        Claim("lost", "It is lost.", lambda o: o["none"]["lost"], above(5.0), "as far as can be"),
        Claim("timed", "It is fast.", lambda o: o["none"]["clock"]["seconds"], below(60.0), "nobody waits"),
    ),
    published=(
        Published("drift, m/step", "3", "table 1", lambda o: o["drift"]["end"] / o.setting.steps, ".2f"),
        Published("time", "1 | 2 s", "table 2", None),
    ),
)


def changed(run: Callable[[Task], Numbers] = walk, **fields: Any) -> Experiment:
    """The experiment with another run, or other fields."""
    return replace(EXPERIMENT, run=run, **fields)
