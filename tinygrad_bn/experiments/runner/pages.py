"""The pages of experiments for the documentation, made from results that are there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tinygrad_bn.experiments.runner import registry, report
from tinygrad_bn.experiments.runner.extras import missing
from tinygrad_bn.experiments.runner.figure import FIGURE, png
from tinygrad_bn.experiments.runner.finished import RESULT, Finished, read
from tinygrad_bn.experiments.runner.plan import make_folder
from tinygrad_bn.train.files import replaced

INDEX = "README.md"


def write_pages(names: Sequence[str], scale: str, out: Path, folder: Path) -> list[str]:
    """Write NAME.md and NAME.png for each experiment that has results, and README.md with all verdicts.

    Parameters
    ----------
    names : sequence of str
        Those that are written; the index has all that have results.
    scale : str
    out : Path
        Where ``run`` wrote its results.
    folder : Path
        Where the pages go.

    Returns
    -------
    list of str
        The names of experiments without results.

    Raises
    ------
    DataError
        If results are broken, or were made with another setting.
    """
    there = [name for name in registry.NAMES if (out / name / scale / RESULT).exists()]
    outcomes = [read(registry.load(name), scale, out / name / scale) for name in there]
    make_folder(folder)
    for outcome in outcomes:
        if outcome.experiment.name in names:
            _write(outcome, folder)
    if outcomes:
        _put(folder / INDEX, index(outcomes).encode())
    return [name for name in names if name not in there]


def _write(outcome: Finished, folder: Path) -> None:
    name = outcome.experiment.name
    drawn = outcome.folder / FIGURE
    if not missing("matplotlib"):
        _put(folder / f"{name}.png", png(outcome))
    elif drawn.exists():
        _put(folder / f"{name}.png", drawn.read_bytes())
    figure = f"{name}.png" if (folder / f"{name}.png").exists() else None
    _put(folder / f"{name}.md", report.page(outcome, figure).encode())


def _put(path: Path, content: bytes) -> None:
    with replaced(path) as part:
        part.write_bytes(content)


def index(outcomes: Sequence[Finished]) -> str:
    """Return the index of the pages: experiments, and all claims with their verdicts."""
    scale = outcomes[0].results.scale
    parts = ["# Experiments", f"Results at the scale `{scale}`: {report.total(outcomes)}."]
    parts += [
        report.overview(outcomes, "{}.md"),
        "## Claims",
        report.all_claims(outcomes, "{}.md"),
        report.rule(outcomes[0]),
    ]
    return "\n\n".join(parts) + "\n"
