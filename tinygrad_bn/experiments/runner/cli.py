"""The command line: ``python -m tinygrad_bn.experiments``."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tinygrad_bn.errors import TinygradError
from tinygrad_bn.experiments.runner import html, registry, report, words
from tinygrad_bn.experiments.runner.experiment import SCALES, Experiment
from tinygrad_bn.experiments.runner.extras import lacking
from tinygrad_bn.experiments.runner.finished import Finished
from tinygrad_bn.experiments.runner.pages import write_pages
from tinygrad_bn.experiments.runner.pictures import Pictures, pictures
from tinygrad_bn.experiments.runner.registry import load
from tinygrad_bn.experiments.runner.start import OUT, start
from tinygrad_bn.train.flags import at_least

INTERRUPTED = 130
PROGRAM = "tinygrad_bn.experiments"
ALL, LIST = "all", "list"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run experiments and return the exit code: 0, 1 for an error, 2 for wrong flags, 130 after Ctrl-C.

    Parameters
    ----------
    arguments : sequence of str, optional
        Default: the process's.
    """
    parser = _parser()
    given = parser.parse_args(arguments)
    try:
        with _short_warnings():
            return _list() if given.names == [LIST] else _run(given, _names(given.names, parser))
    except TinygradError as error:
        where = "".join(f"\n{note}" for note in getattr(error, "__notes__", []))
        print(f"{PROGRAM}: {error}{where}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{PROGRAM}: interrupted; the same command continues after the last finished run", file=sys.stderr)
        return INTERRUPTED


@contextmanager
def _short_warnings() -> Iterator[None]:
    """Let warnings look as errors do: what is wrong, not where in the package it was noticed."""
    before = warnings.formatwarning

    def short(message: Warning | str, *where: Any, **more: Any) -> str:
        return f"{PROGRAM}: warning: {message}\n"

    warnings.formatwarning = short
    try:
        yield
    finally:
        warnings.formatwarning = before


def _parser() -> argparse.ArgumentParser:
    about = "Experiments of the literature on batch normalisation: figures, tables, and verdicts on claims."
    parser = argparse.ArgumentParser(f"python -m {PROGRAM}", description=about)
    known = ", ".join(registry.NAMES)
    parser.add_argument("names", nargs="+", metavar="NAME", help=f"{known}; {ALL}; or {LIST}, which only shows them")
    parser.add_argument("--scale", choices=SCALES, default="quick", help="default: quick, which judges nothing")
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--data-dir",
        metavar="DIR",
        help="folder of MNIST's and CIFAR-10's files; default: the environment's TINYGRAD_BN_DATA; without either, "
        "digits that come with the package",
    )
    source.add_argument("--download", action="store_true", help="fetch the data into the cache folder; needs pooch")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    parser.add_argument("--seeds", type=at_least(1), metavar="N", help="default: 1 at quick, else mostly 5")
    parser.add_argument("--out", type=Path, default=OUT, metavar="DIR", help=f"default: {OUT}")
    parser.add_argument("--fresh", action="store_true", help="make also those runs again that were finished earlier")
    parser.add_argument(
        "--pages",
        type=Path,
        metavar="DIR",
        help="run nothing: write pages for the documentation from the results that are there",
    )
    return parser


def _names(given: list[str], parser: argparse.ArgumentParser) -> list[str]:
    if LIST in given:
        parser.error(f"argument NAME: {LIST} stands alone. Got {' '.join(given)}.")
    try:
        for name in given:
            if name != ALL:
                load(name)
    except TinygradError as error:
        parser.error(str(error))
    return list(registry.NAMES) if ALL in given else list(dict.fromkeys(given))


def _list() -> int:
    experiments = [load(name) for name in registry.NAMES]
    print(words.plain([["name", "title", "source"], *([e.name, e.title, e.source] for e in experiments)]))
    return 0


def _run(given: argparse.Namespace, names: list[str]) -> int:
    for line in lacking():
        print(f"{PROGRAM}: {line}", file=sys.stderr)
    if given.pages is not None:
        return _pages(given, names)
    experiments = [load(name) for name in names]
    data = _data(experiments, given)
    outcomes = []
    for experiment in experiments:
        pictures_of = None if experiment.data is None else data[experiment.data]
        outcomes.append(start(experiment, given.scale, given.seeds, given.device, pictures_of, given.out, given.fresh))
        print(summary(outcomes[-1]), flush=True)
    if len(outcomes) > 1:
        path = given.out / f"report-{given.scale}.html"
        html.write(outcomes, path)
        print(f"\n{report.total(outcomes)}; all in {path}")
    return 0


def _pages(given: argparse.Namespace, names: list[str]) -> int:
    without = write_pages(names, given.scale, given.out, given.pages)
    if without and ALL not in given.names:
        reason = f"no results of {', '.join(without)} at the scale {given.scale}"
        print(f"{PROGRAM}: '{given.out}' has {reason}.\nHint: run them first.", file=sys.stderr)
        return 1
    print(f"pages written to {given.pages}" + (f"; no results of {', '.join(without)}" if without else ""))
    return 0


def _data(experiments: list[Experiment], given: argparse.Namespace) -> dict[str, Pictures]:
    """Read all data before the first run: what is missing should not be noticed after an hour."""
    names = dict.fromkeys(e.data for e in experiments if e.data is not None)
    return {name: pictures(name, given.data_dir, given.download) for name in names}


def summary(outcome: Finished) -> str:
    """Return what is printed of an experiment: published beside measured, the verdicts, and where the files are."""
    parts = [f"\n{outcome.experiment.title} ({outcome.experiment.source})"]
    if outcome.rows:
        parts.append(words.plain(words.published(outcome)))
    if outcome.verdicts:
        parts.append(words.plain(words.claims(outcome.verdicts)))
    files = ", ".join(sorted(path.name for path in outcome.folder.iterdir()))
    return "\n\n".join(parts) + f"\n\nwritten to {outcome.folder}: {files}"
