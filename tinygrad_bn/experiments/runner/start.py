"""An experiment from its name to its files."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tinygrad_bn.experiments.runner import board, figure, html, report
from tinygrad_bn.experiments.runner.experiment import Experiment
from tinygrad_bn.experiments.runner.extras import missing
from tinygrad_bn.experiments.runner.finished import Finished, finished, write
from tinygrad_bn.experiments.runner.pictures import Pictures, pictures
from tinygrad_bn.experiments.runner.plan import plan
from tinygrad_bn.experiments.runner.registry import load
from tinygrad_bn.experiments.runner.sweep import sweep

OUT = Path("runs/experiments")
REPORT = "report.html"


def run(
    name: str | Experiment,
    scale: str = "quick",
    *,
    data_dir: str | os.PathLike[str] | None = None,
    device: str = "cpu",
    seeds: int | None = None,
    out: str | os.PathLike[str] = OUT,
    download: bool = False,
    fresh: bool = False,
) -> Finished:
    """Run an experiment, write its results, and return them.

    Runs that were finished earlier with the same setting, data and version are not made again.

    Parameters
    ----------
    name : str or Experiment
        One of ``tinygrad_bn.experiments.NAMES``, or an experiment of your own.
    scale : {"quick", "standard", "paper"}
        ``quick`` shows that it works, and judges nothing; ``standard`` judges the claims; ``paper`` has the published
        sizes.
    data_dir : path-like, optional
        Folder of MNIST's or CIFAR-10's files; default: the environment variable ``TINYGRAD_BN_DATA``. Without either,
        the handwritten digits that come with the package stand in.
    device : str
        Where tensors lie.
    seeds : int, optional
        How many; default: what the experiment has at that scale.
    out : path-like
        Results are written to ``out/name/scale``.
    download : bool
        Fetch the data into the user's cache folder where no ``data_dir`` is given. Needs pooch.
    fresh : bool
        Make all runs again.

    Returns
    -------
    Finished
        With ``results``, ``verdicts``, ``rows`` (published beside measured) and the ``folder`` of all files.

    Raises
    ------
    ArgumentError
        If there is no such experiment or scale.
    DataError
        If the data are not where they should be.
    DeviceError
        If there is no such device here.
    """
    experiment = load(name) if isinstance(name, str) else name
    data = None if experiment.data is None else pictures(experiment.data, data_dir, download)
    return start(experiment, scale, seeds, device, data, Path(out), fresh)


def start(
    experiment: Experiment,
    scale: str,
    seeds: int | None,
    device: str,
    data: Pictures | None,
    out: Path,
    fresh: bool,
) -> Finished:
    """Run an experiment on data that were read, and write its results."""
    planned = plan(experiment, scale, seeds, device, data, out)
    if data is not None and data.name != experiment.data:
        print(f"{experiment.name}: no {experiment.data} given (--data-dir): the {data.name} stand in", file=sys.stderr)
    outcome = finished(planned, *sweep(planned, fresh))
    write(outcome)
    publish(outcome)
    return outcome


def publish(outcome: Finished) -> None:
    """Write figure, TensorBoard files, page, tables and report of what was found."""
    if not missing("matplotlib"):
        figure.draw(outcome)
    if not missing("tensorboardX"):
        board.write(outcome)
    report.write(outcome, figure.FIGURE if (outcome.folder / figure.FIGURE).exists() else None)
    html.write([outcome], outcome.folder / REPORT)
