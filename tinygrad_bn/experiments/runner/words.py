"""Numbers and settings in words, for all tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tinygrad_bn.experiments.runner.finished import Finished, Row
from tinygrad_bn.experiments.runner.verdicts import NOT_JUDGED, Estimate, Verdict

Table = list[list[str]]
"""Rows of equal length; the first has the headings."""


def interval(found: Estimate) -> str:
    """Return the mean with its interval; of a single seed, or where all agree, only that."""
    mean, low, high = (f"{value:.4g}" for value in (found.mean, found.low, found.high))
    return mean if mean == low == high else f"{mean} [{low}, {high}]"


def measured(row: Row) -> str:
    """Return what was measured for a published number: the mean and the half width of its interval."""
    found = row.estimate
    if found is None:
        return "not measured here"
    half = (found.high - found.low) / 2 if found.low < found.high else 0.0
    if not math.isfinite(found.mean) or not math.isfinite(half):
        return interval(found)
    mean = format(found.mean, row.published.format)
    return f"{mean} ± {format(half, row.published.format)}" if half else mean


def published(outcome: Finished) -> Table:
    """Return the table "published | measured"."""
    rows = [[r.published.what, r.published.value, measured(r), r.published.where] for r in outcome.rows]
    return [["", "published", "measured", "where"], *rows]


def claims(verdicts: Sequence[Verdict]) -> Table:
    """Return the table of claims with measure, threshold and verdict."""
    rows = [[v.claim.name, interval(v.estimate), str(v.claim.threshold), v.verdict] for v in verdicts]
    return [["claim", "measured", "threshold", "verdict"], *rows]


def settings(outcome: Finished) -> Table:
    """Return the table of the setting."""
    facts = outcome.facts
    rows = [[name.replace("_", " "), value_of(value)] for name, value in facts["setting"].items()]
    rows.append(["runs", _listed(facts["arms"])])
    rows.append(["seeds", str(len(facts["seeds"]))])
    if facts["data"] is not None:
        data = facts["data"]
        rows.append(["data", f"{data['name']}: {data['train']:,} training and {data['test']:,} test pictures"])
    return [["", facts["scale"]], *rows]


def _listed(arms: Sequence[str]) -> str:
    if len(arms) <= 8:
        return ", ".join(arms)
    return f"{arms[0]}, {arms[1]}, … {arms[-1]}: {len(arms)} in all"


def value_of(value: Any) -> str:
    """Return a setting as a table prints it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return ", ".join(map(value_of, value))
    if isinstance(value, dict):
        return ", ".join(f"{key}: {value_of(v)}" for key, v in value.items())
    return "none" if value is None else str(value)


def tally(verdicts: Sequence[Verdict]) -> str:
    """Return how many claims held, and how many did not."""
    if not verdicts:
        return "no claims"
    found = [v.verdict for v in verdicts]
    counts = {word: found.count(word) for word in dict.fromkeys(found)}
    if set(counts) == {NOT_JUDGED}:
        return NOT_JUDGED
    return ", ".join(f"{count} {word}" for word, count in counts.items())


def plain(table: Table) -> str:
    """Return a table for the terminal."""
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])
