"""The runs of a plan, one after another; each is kept as soon as it is finished, and not run again."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from tqdm import tqdm

import tinygrad_bn as tb
from tinygrad_bn.experiments.runner.experiment import Numbers, Task
from tinygrad_bn.experiments.runner.jsonable import decode, encode, text
from tinygrad_bn.experiments.runner.plan import Plan, make_folder
from tinygrad_bn.experiments.runner.results import Outcome, Results
from tinygrad_bn.train.files import replaced

FORMAT = "{desc} {percentage:3.0f}%|{bar}| step {n_fmt}/{total_fmt} [{elapsed}, ETA {remaining}, {rate_fmt}]"


@dataclass(frozen=True)
class Kept:
    """A finished run.

    Attributes
    ----------
    numbers : Numbers
        What it returned, as it is read back.
    seconds : float
        How long it took.
    code : str
        Of the experiment's file when it was made: see ``Plan.code``.
    """

    numbers: Numbers
    seconds: float
    code: str


def kept(plan: Plan, seed: int, arm: str) -> Kept | None:
    """Return a run that was finished earlier, None where there is none of this fingerprint."""
    try:
        stored = json.loads(plan.file(seed, arm).read_text(encoding="utf-8"))
        if stored["fingerprint"] != plan.fingerprint(seed, arm):
            return None
        return Kept(decode(stored["numbers"]), stored["seconds"], stored["code"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # not there, or not a file of ours: the run is made anew


def sweep(plan: Plan, fresh: bool = False) -> tuple[Results, dict[str, float]]:
    """Make the runs that have not been made yet.

    Parameters
    ----------
    plan : Plan
    fresh : bool
        Make also those that have been.

    Returns
    -------
    results : Results
    seconds : dict of str to float
        How long each run took, by arm and seed.
    """
    runs = plan.runs()
    done = {} if fresh else {run: found for run in runs if (found := kept(plan, *run)) is not None}
    _warn_of_changes(plan, done)
    make_folder(plan.file(*runs[0]).parent)
    state = tb.get_rng_state()
    try:
        with _bar(plan, done) as bar:
            for run in runs:
                if run not in done:
                    done[run] = _run(plan, *run, bar)
    finally:
        tb.set_rng_state(state)
    outcomes = [Outcome(plan.setting, s, {arm: done[s, arm].numbers for arm in plan.arms}) for s in plan.seeds]
    name = "" if plan.pictures is None else plan.pictures.name
    seconds = {f"{arm}-{seed}": done[seed, arm].seconds for seed, arm in runs}
    return Results(plan.scale, plan.setting, name, outcomes), seconds


def _warn_of_changes(plan: Plan, done: dict[tuple[int, str], Kept]) -> None:
    old = sum(found.code != plan.code for found in done.values())
    if old:
        reason = f"its file has changed since {old} of {len(plan.runs())} runs were made"
        print(f"{plan.experiment.name}: {reason}; --fresh makes them again", file=sys.stderr)


def _bar(plan: Plan, done: dict[tuple[int, str], Kept]) -> Any:
    """One bar over the steps of all runs."""
    total = sum(plan.steps(arm) for _, arm in plan.runs())
    interval = 0.1 if sys.stderr.isatty() else 10.0
    options = {"bar_format": FORMAT, "unit": "step", "mininterval": interval, "smoothing": 0.05}
    taken = sum(plan.steps(arm) for _, arm in done)
    return tqdm(total=total, initial=taken, desc=plan.experiment.name, **options)


def _run(plan: Plan, seed: int, arm: str, bar: Any) -> Kept:
    bar.set_description_str(f"{plan.experiment.name}, {arm}, seed {seed + 1}/{len(plan.seeds)}")
    tick, rest = _ticker(bar, plan.steps(arm))
    tb.manual_seed(seed)
    begun = perf_counter()
    try:
        found = plan.experiment.run(Task(arm, plan.setting, seed, plan.pictures, plan.device, tick))
    except Exception as error:
        error.add_note(f"in experiment {plan.experiment.name}, arm {arm}, seed {seed}")
        raise
    seconds = perf_counter() - begun
    rest()
    numbers = encode(found, f"{arm} of seed {seed}", plan.experiment.name)
    content = {"fingerprint": plan.fingerprint(seed, arm), "numbers": numbers, "seconds": seconds, "code": plan.code}
    with replaced(plan.file(seed, arm)) as part:
        part.write_text(text(content), encoding="utf-8")
    return Kept(decode(numbers), seconds, plan.code)


def _ticker(bar: Any, steps: int) -> tuple[Callable[..., None], Callable[[], None]]:
    """Return what moves the bar by some of a run's steps, and what moves it to the end of them."""
    left = steps

    def tick(n: int = 1) -> None:
        nonlocal left
        n = min(n, left)
        left -= n
        bar.update(n)

    return tick, lambda: tick(left)
