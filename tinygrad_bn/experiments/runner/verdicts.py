"""Whether claims hold: a confidence interval over the seeds against a threshold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tinygrad_bn.experiments.runner.experiment import CLOCK, Claim, Threshold
from tinygrad_bn.experiments.runner.pictures import STAND_IN
from tinygrad_bn.experiments.runner.results import Outcome, Results

CONFIDENCE = 0.95
HELD, NOT_HELD, UNDECIDED, NOT_JUDGED = "held", "not held", "undecided", "not judged"


@dataclass(frozen=True)
class Estimate:
    """A mean over the seeds with its confidence interval.

    Attributes
    ----------
    values : tuple of float
        One for each seed.
    mean, low, high : float
        Student's interval of ``CONFIDENCE``. For a single value it is that value; where a value is infinite (a run that
        diverged), it goes from the least value to the largest.
    clock : bool
        Whether a clock had a part in it, so that a second run with the same seed may give something else.
    """

    values: tuple[float, ...]
    mean: float
    low: float
    high: float
    clock: bool = False


@dataclass(frozen=True)
class Verdict:
    """A claim, what was measured for it, and whether it holds."""

    claim: Claim
    estimate: Estimate
    verdict: str


def estimate(values: Sequence[float]) -> Estimate:
    """Return the mean of the values of all seeds with its confidence interval.

    Parameters
    ----------
    values : sequence of float, at least one

    Notes
    -----
    mean ± t · s / √n, s with n − 1 in its denominator, t the (1 + 0.95) / 2 quantile of Student's distribution of n − 1
    degrees of freedom.
    """
    array = np.asarray(values, dtype=np.float64)
    kept = tuple(array.tolist())
    with np.errstate(all="ignore"):
        mean, half = float(array.mean()), _half_width(array)
    if array.size == 1 or not np.isfinite([mean - half, mean + half]).all():
        return Estimate(kept, mean, float(array.min()), float(array.max()))
    return Estimate(kept, mean, mean - half, mean + half)


def _half_width(values: np.ndarray) -> float:
    if values.size == 1 or np.ptp(values) == 0:
        return 0.0  # not what rounding makes of equal values
    from scipy.stats import t

    return float(t.ppf((1 + CONFIDENCE) / 2, values.size - 1) * values.std(ddof=1) / np.sqrt(values.size))


def decide(found: Estimate, threshold: Threshold) -> str:
    """Return ``HELD`` where the whole interval satisfies the threshold, ``NOT_HELD`` where none of it does.

    Anything between the two, and a measure that is not a number, is ``UNDECIDED``.
    """
    if np.isnan(found.values).any():
        return UNDECIDED
    over = threshold.low == -np.inf or threshold.low < found.low
    under = threshold.high == np.inf or found.high < threshold.high
    if over and under:
        return HELD
    too_low = threshold.low > -np.inf and found.high <= threshold.low
    too_high = threshold.high < np.inf and found.low >= threshold.high
    return NOT_HELD if too_low or too_high else UNDECIDED


def measured(what: str, measure: Callable[[Outcome], float], results: Results) -> Estimate:
    """Return what is measured of each seed's runs, with its confidence interval.

    Parameters
    ----------
    what : str
        Its name, for messages.
    measure : callable
        ``measure(outcome) -> float``.
    results : Results
    """
    runs = [{arm: _Watched(numbers) for arm, numbers in outcome.runs.items()} for outcome in results]
    outcomes = [Outcome(o.setting, o.seed, watched) for o, watched in zip(results, runs, strict=True)]
    try:
        found = estimate([float(measure(outcome)) for outcome in outcomes])
    except Exception as error:
        error.add_note(f"in the measure of {what!r}")
        raise
    return replace(found, clock=any(run.asked for watched in runs for run in watched.values()))


class _Watched(dict[str, Any]):
    """A run's numbers that note whether those of the clock are asked for."""

    asked = False

    def __getitem__(self, key: str) -> Any:
        self.asked |= key == CLOCK
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.asked |= key == CLOCK
        return super().get(key, default)


def judge(claims: Sequence[Claim], results: Results) -> list[Verdict]:
    """Return the claims' verdicts; ``NOT_JUDGED`` at the scale ``quick``, and on data that stands in for another."""
    judged = results.scale != "quick" and results.data != STAND_IN
    verdicts = []
    for claim in claims:
        found = measured(claim.name, claim.measure, results)
        verdicts.append(Verdict(claim, found, decide(found, claim.threshold) if judged else NOT_JUDGED))
    return verdicts
