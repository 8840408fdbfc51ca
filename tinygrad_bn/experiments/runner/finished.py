"""What an experiment came to: read from its runs, written as ``result.json``, and read back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinygrad_bn.errors import DataError
from tinygrad_bn.experiments.runner.experiment import Experiment, Published
from tinygrad_bn.experiments.runner.jsonable import decode, encode, text
from tinygrad_bn.experiments.runner.plan import Plan, setting_of
from tinygrad_bn.experiments.runner.results import Outcome, Results
from tinygrad_bn.experiments.runner.verdicts import CONFIDENCE, Estimate, Verdict, judge, measured
from tinygrad_bn.train.files import replaced
from tinygrad_bn.train.info import processor, versions

RESULT = "result.json"


@dataclass(frozen=True)
class Row:
    """A published number, and what was measured for it; None where it is not measured here."""

    published: Published
    estimate: Estimate | None


@dataclass(frozen=True)
class Finished:
    """An experiment with its outcome.

    Attributes
    ----------
    experiment : Experiment
    results : Results
        The numbers of all runs.
    verdicts : list of Verdict
    rows : list of Row
        Published beside measured.
    facts : dict
        Scale, setting, data, device, seeds, versions, processor.
    seconds : dict of str to float
        How long each run took.
    folder : Path
        Where everything is written.
    """

    experiment: Experiment
    results: Results
    verdicts: list[Verdict]
    rows: list[Row]
    facts: dict[str, Any]
    seconds: dict[str, float]
    folder: Path


def finished(plan: Plan, results: Results, seconds: dict[str, float]) -> Finished:
    """Return what a plan's runs came to."""
    facts = {**plan.facts(), "seeds": list(plan.seeds), "arms": list(plan.arms)}
    facts |= {"versions": versions(), "processor": processor()}
    return _judged(plan.experiment, results, facts, seconds, plan.folder)


def _judged(
    experiment: Experiment, results: Results, facts: dict[str, Any], seconds: dict[str, float], folder: Path
) -> Finished:
    rows = [Row(p, None if p.measure is None else measured(p.what, p.measure, results)) for p in experiment.published]
    return Finished(experiment, results, judge(experiment.claims, results), rows, facts, seconds, folder)


def write(outcome: Finished) -> None:
    """Write ``result.json``.

    What a clock had a part in stands under the keys ``clock`` and ``seconds``: all else is the same whenever the same
    seeds are run.
    """
    experiment = outcome.experiment
    runs = [
        {"seed": found.seed, "arm": arm, "numbers": encode(numbers)}
        for found in outcome.results
        for arm, numbers in found.runs.items()
    ]
    record = {
        "experiment": experiment.name,
        "title": experiment.title,
        "source": experiment.source,
        **{key: value for key, value in outcome.facts.items() if key != "experiment"},
        "claims": [_claim(verdict) for verdict in outcome.verdicts],
        "published": [_row(row) for row in outcome.rows],
        "runs": runs,
        "seconds": {"all": sum(outcome.seconds.values()), **outcome.seconds},
    }
    with replaced(outcome.folder / RESULT) as part:
        part.write_text(text(record), encoding="utf-8")


def _claim(found: Verdict) -> dict[str, Any]:
    claim = found.claim
    limits = encode({"low": claim.threshold.low, "high": claim.threshold.high})
    words = {"name": claim.name, "text": claim.text, "reason": claim.reason, "threshold": limits}
    numbers = {"measured": _estimate(found.estimate), "confidence": CONFIDENCE, "verdict": found.verdict}
    return {**words, **({"clock": numbers} if found.estimate.clock else numbers)}


def _row(row: Row) -> dict[str, Any]:
    words = {"what": row.published.what, "value": row.published.value, "where": row.published.where}
    if row.estimate is None:
        return {**words, "measured": None}
    numbers = {"measured": _estimate(row.estimate)}
    return {**words, **({"clock": numbers} if row.estimate.clock else numbers)}


def _estimate(found: Estimate) -> dict[str, Any]:
    encoded: dict[str, Any] = encode({"values": found.values, "mean": found.mean, "low": found.low, "high": found.high})
    return encoded


def read(experiment: Experiment, scale: str, folder: Path) -> Finished:
    """Return what ``write`` wrote, judged by the experiment's claims as they are now.

    Parameters
    ----------
    experiment : Experiment
    scale : str
    folder : Path
        The one of ``result.json``.

    Raises
    ------
    DataError
        If there is no such file, it is broken, or it was made with another setting than the experiment has now.
    """
    path = folder / RESULT
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        facts = {key: stored[key] for key in ("experiment", "scale", "setting", "data", "device", "seeds", "arms")}
        facts |= {key: stored[key] for key in ("version", "versions", "processor")}
        runs = {(run["seed"], run["arm"]): decode(run["numbers"]) for run in stored["runs"]}
        seconds = {key: value for key, value in stored["seconds"].items() if key != "all"}
        numbers = {s: {arm: runs[s, arm] for arm in facts["arms"]} for s in facts["seeds"]}
    except FileNotFoundError:
        raise DataError(f"experiments: '{path}' does not exist.\nHint: run {experiment.name} first.") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"experiments: '{path}' is no result of an experiment: {error!r}.") from None
    if facts["setting"] != setting_of(experiment, scale):
        reason = "was made with another setting than the experiment has now"
        raise DataError(f"experiments: '{path}' {reason}.\nHint: run {experiment.name} again.")
    setting = experiment.scales[scale]
    outcomes = [Outcome(setting, seed, of_arms) for seed, of_arms in numbers.items()]
    name = "" if facts["data"] is None else facts["data"]["name"]
    return _judged(experiment, Results(scale, setting, name, outcomes), facts, seconds, folder)
