"""An experiment as a page of Markdown: question, setting, figure, published beside measured, claims, meaning."""

from __future__ import annotations

from collections.abc import Sequence

from tinygrad_bn.experiments.runner import words
from tinygrad_bn.experiments.runner.figure import footer
from tinygrad_bn.experiments.runner.finished import Finished
from tinygrad_bn.experiments.runner.verdicts import CONFIDENCE, NOT_HELD, NOT_JUDGED, UNDECIDED, Verdict
from tinygrad_bn.experiments.runner.words import Table
from tinygrad_bn.train.files import replaced

PAGE, TABLE = "page.md", "table.md"
RULE = (
    f"A claim is held where the whole {100 * CONFIDENCE:.0f} % confidence interval over the seeds satisfies its "
    "threshold, not held where none of it does, undecided otherwise. Thresholds were written down before the first run."
)
WHY_NOT = {
    "quick": "Nothing is judged at the scale `quick`: it shows that the experiment works.",
    "digits": "Nothing is judged: the handwritten digits stood in for the data of the source.",
}


def markdown(table: Table) -> str:
    """Return a table in Markdown."""
    escaped = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in table]
    lines = ["| " + " | ".join(row) + " |" for row in escaped]
    return "\n".join([lines[0], "|" + " --- |" * len(table[0]), *lines[1:]])


def page(outcome: Finished, figure: str | None) -> str:
    """Return the page of an experiment.

    Parameters
    ----------
    outcome : Finished
    figure : str or None
        The figure's address; None where there is none.
    """
    experiment = outcome.experiment
    parts = [f"# {experiment.title}", experiment.source, "## Question", experiment.question]
    parts += ["## Setting", markdown(words.settings(outcome)), "## Outcome"]
    if figure is not None:
        parts.append(f"![{experiment.title}]({figure})")
    if outcome.rows:
        parts += ["## Published and measured", markdown(words.published(outcome))]
    if outcome.verdicts:
        parts += [
            "## Claims",
            markdown(_named(outcome.verdicts)),
            rule(outcome),
            "\n".join(map(_sentence, outcome.verdicts)),
        ]
    if experiment.meaning:
        parts += ["## What it means", experiment.meaning]
    parts += ["## To run it again", f"```sh\n{command(outcome)}\n```", _made(outcome)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def rule(outcome: Finished) -> str:
    """Return how claims are judged, or why they are not."""
    if any(v.verdict != NOT_JUDGED for v in outcome.verdicts):
        return RULE
    return WHY_NOT["quick" if outcome.results.scale == "quick" else "digits"]


def _named(verdicts: Sequence[Verdict]) -> Table:
    heads, *rows = words.claims(verdicts)
    return [heads, *([f"`{row[0]}`", *row[1:]] for row in rows)]


def _sentence(found: Verdict) -> str:
    claim = found.claim
    said = f"- **`{claim.name}`, {found.verdict}.** {claim.text} *Why {claim.threshold}:* {claim.reason}"
    if found.verdict in (NOT_HELD, UNDECIDED) and claim.explanation:
        said += f" **Our explanation:** {claim.explanation}"
    elif found.verdict == NOT_HELD:
        said += " **We have no explanation.**"
    return " ".join(said.split())


def command(outcome: Finished) -> str:
    """Return the command that makes the same results."""
    experiment, facts = outcome.experiment, outcome.facts
    said = f"python -m tinygrad_bn.experiments {experiment.name} --scale {facts['scale']}"
    if facts["data"] is not None and facts["data"]["name"] == experiment.data:
        said += " --data-dir DATA"
    if len(facts["seeds"]) != experiment.seeds[facts["scale"]]:
        said += f" --seeds {len(facts['seeds'])}"
    return said if facts["device"] == "cpu" else f"{said} --device {facts['device']}"


def _made(outcome: Finished) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in outcome.facts["versions"].items())
    return f"{duration(outcome)} on {outcome.facts['processor']}; {versions}."


def duration(outcome: Finished) -> str:
    """Return how long all runs took."""
    seconds = sum(outcome.seconds.values())
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def tables(outcome: Finished) -> str:
    """Return published beside measured, and the claims, as Markdown."""
    parts = [f"# {outcome.experiment.title}", footer(outcome)]
    parts += [markdown(words.published(outcome))] if outcome.rows else []
    parts += [markdown(_named(outcome.verdicts)), rule(outcome)] if outcome.verdicts else []
    return "\n\n".join(parts) + "\n"


def write(outcome: Finished, figure: str | None) -> None:
    """Write page and tables into the experiment's folder."""
    for name, text in ((PAGE, page(outcome, figure)), (TABLE, tables(outcome))):
        with replaced(outcome.folder / name) as part:
            part.write_text(text, encoding="utf-8")


def overview(outcomes: Sequence[Finished], address: str) -> str:
    """Return all experiments with their verdicts as Markdown.

    Parameters
    ----------
    outcomes : sequence of Finished
    address : str
        Of an experiment's page, with ``{}`` for its name.
    """
    rows = [
        [f"[{o.experiment.title}]({address.format(o.experiment.name)})", o.experiment.source, words.tally(o.verdicts)]
        for o in outcomes
    ]
    return markdown([["experiment", "source", "claims"], *rows])


def all_claims(outcomes: Sequence[Finished], address: str) -> str:
    """Return the claims of all experiments in one table; ``address`` as for ``overview``."""
    links = [f"[`{o.experiment.name}`]({address.format(o.experiment.name)})" for o in outcomes]
    both = zip(outcomes, links, strict=True)
    rows = [[link, row[0], row[3], *row[1:3]] for outcome, link in both for row in _named(outcome.verdicts)[1:]]
    return markdown([["experiment", "claim", "verdict", "measured", "threshold"], *rows])


def total(outcomes: Sequence[Finished]) -> str:
    """Return how many claims held in all, and how many did not."""
    return words.tally([verdict for outcome in outcomes for verdict in outcome.verdicts])
