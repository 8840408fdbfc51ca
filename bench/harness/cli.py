"""The command line."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.harness import machine, report
from bench.harness.case import Case, discover, select
from bench.harness.client import ROOT, WorkerError
from bench.harness.contenders import DEFAULT_PEERS, PEERS, parse_peers
from bench.harness.runner import Entry, Plan, Runner

LEAST_ROUNDS = 7
MALLOCS = {"default": ("default",), "tuned": ("tuned",), "both": ("default", "tuned")}


def _rounds(text: str) -> int:
    if not text.isdigit() or int(text) < LEAST_ROUNDS:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least {LEAST_ROUNDS}. Got {text!r}.")
    return int(text)


def _available() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def _threads(text: str) -> tuple[int, ...]:
    counts = tuple(int(n) if n.isdigit() else 0 for n in text.split(","))
    if not all(1 <= n <= _available() for n in counts):
        raise argparse.ArgumentTypeError(f"must be numbers from 1 to {_available()}, with commas. Got {text!r}.")
    return counts


def _peers(text: str) -> tuple[str, ...]:
    try:
        return parse_peers(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"must be a regular expression: {error}. Got {text!r}.") from None
    return text


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    p = argparse.ArgumentParser(
        prog="bench/run.py", description="Measure tinygrad_bn beside its peers; answers are checked first."
    )
    p.add_argument("--filter", type=_pattern, default="", metavar="REGEX", help="only cases in whose names it is found")
    listed = f"none, or some of {', '.join(PEERS)}; default: {','.join(DEFAULT_PEERS)}"
    p.add_argument("--peers", type=_peers, default=DEFAULT_PEERS, metavar="A,B", help=listed)
    p.add_argument("--rounds", type=_rounds, default=11, metavar="N", help=f"at least {LEAST_ROUNDS}; default: 11")
    default = str(min(2, _available()))
    p.add_argument(
        "--threads", type=_threads, default=default, metavar="N,M", help=f"one or several; default: {default}"
    )
    p.add_argument(
        "--malloc", choices=list(MALLOCS), default=None, help="of the peers; default: both, when verifying default"
    )
    p.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where tensors live; default: cpu")
    p.add_argument(
        "--suite", choices=("cpu", "gpu"), default=None, help="gpu: on a GPU, its tests and compute-sanitizer first"
    )
    p.add_argument("--verify-only", action="store_true", help="check every answer, time nothing, write nothing")
    p.add_argument(
        "--out", type=Path, default=ROOT / "bench" / "results", metavar="DIR", help="for latest.json and latest.md"
    )
    p.add_argument(
        "--cases", default="bench.cases", metavar="PACKAGE", help="where the cases are; default: bench.cases"
    )
    return p


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _run(arguments: argparse.Namespace, cases: Sequence[Case], threads: int) -> tuple[Runner, list[Entry]]:
    mallocs = MALLOCS[arguments.malloc or ("default" if arguments.verify_only else "both")]
    rounds = 0 if arguments.verify_only else arguments.rounds
    with Runner(Plan(cases, arguments.peers, mallocs, threads, rounds, arguments.cases), _say) as runner:
        return runner, runner.run()


def _measure(arguments: argparse.Namespace, cases: Sequence[Case]) -> list[Entry]:
    """Measure, print, and write both files."""
    runs, entries = [], []
    for threads in arguments.threads:
        limits = machine.measured(threads)
        runner, found = _run(arguments, cases, threads)
        entries += found
        runs.append(report.Run(limits, report.lines(cases, found, limits), runner.descriptions, runner.notes))
        print(f"{report.limits_text(limits)}\n{report.table(runs[-1].lines)}")
    about = machine.describe()
    chosen = {"rounds": arguments.rounds, "peers": list(arguments.peers), "filter": arguments.filter}
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "latest.json").write_text(json.dumps(report.document(about, chosen, runs), indent=1) + "\n")
    (arguments.out / "latest.md").write_text(report.markdown(about, runs))
    print(f"written to {arguments.out / 'latest.json'} and latest.md")
    return entries


def _verify(arguments: argparse.Namespace, cases: Sequence[Case]) -> list[Entry]:
    """Check all answers, and say how many were right."""
    entries = []
    for threads in arguments.threads:
        entries += _run(arguments, cases, threads)[1]
    contenders = ", ".join(dict.fromkeys(e.contender for e in entries))
    print(f"{sum(e.right for e in entries)} of {len(entries)} answers right, {len(cases)} cases, by {contenders}.")
    return entries


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmarks; return 0 if all answers were right, 1 if not, 2 if no case was selected."""
    arguments = parser().parse_args(argv)
    if "gpu" in (arguments.suite, {"cuda": "gpu"}.get(arguments.device)):
        from bench.harness import gpu

        return gpu.main(arguments)
    available = discover(arguments.cases)
    cases = select(available, arguments.filter)
    if not cases:
        _say(f"bench: no case matches {arguments.filter!r}. There are:\n  " + "\n  ".join(c.name for c in available))
        return 2
    try:
        entries = (_verify if arguments.verify_only else _measure)(arguments, cases)
    except WorkerError as error:
        _say(f"bench: {error}")
        return 1
    wrong = report.faults(entries)
    for line in wrong:
        print(line)
    return 1 if wrong else 0
