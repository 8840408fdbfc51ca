"""Measure the memory that a training step needs beside its peers': ``python bench/memory.py --help``.

Each contender runs in a process of its own. Counted is by how much it grows at the peak of its first steps: the largest
resident size there ever was, less that after import, with model, optimiser and batches made. So code that is loaded by
the first step counts, and what an allocator keeps does too; the frameworks themselves do not.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

HERE = Path(__file__).resolve().parent
if __name__ == "__main__":
    sys.path[:] = [str(HERE.parent), *(p for p in sys.path if Path(p or ".").resolve() != HERE)]

from bench.harness import machine, report  # noqa: E402  # the repository's root must be on the path first
from bench.harness.case import Case, discover, inputs_of, select  # noqa: E402
from bench.harness.cli import MALLOCS  # noqa: E402
from bench.harness.client import Client, WorkerError  # noqa: E402
from bench.harness.contenders import CONTENDERS, DEFAULT_PEERS, OURS, PEERS, parse_peers  # noqa: E402


@dataclass(frozen=True)
class Need:
    """What one contender's steps of one case need, in bytes."""

    case: str
    contender: str
    malloc: str
    bytes: int


def need(case: Case, contender: str, malloc: str, threads: int, steps: int, package: str = "bench.cases") -> Need:
    """Measure one contender in a process of its own.

    Raises
    ------
    WorkerError
        If it cannot do the work.
    """
    with TemporaryDirectory(prefix="bench-") as folder:
        given = str(Path(folder) / "inputs.npz")
        np.savez(given, **inputs_of(case))  # type: ignore[arg-type]  # the names are the arrays'
        worker = Client(contender, threads, malloc, package)
        try:
            worker.ask("start")
            worker.ask("setup", case=case.name, inputs=given)
            return Need(case.name, contender, malloc, worker.ask("memory", count=steps))
        finally:
            worker.close()


def needs(cases: Sequence[Case], peers: Sequence[str], mallocs: Sequence[str], threads: int, steps: int) -> list[Need]:
    """Measure all; ours once before, or it would be compiling that is measured."""
    found = []
    for case in cases:
        need(case, OURS, "default", threads, 1)
        found.append(need(case, OURS, "default", threads, steps))
        for contender in peers:
            if case.takes_part(contender) and CONTENDERS[contender].installed:
                found += [need(case, contender, malloc, threads, steps) for malloc in mallocs]
    return found


def best_ratio(found: Sequence[Need], case: str) -> float | None:
    """Ours divided by the least that a peer needs, over layouts and malloc settings; None without peers."""
    ours = next(n.bytes for n in found if n.case == case and n.contender == OURS)
    theirs = [n.bytes for n in found if n.case == case and n.contender != OURS]
    return ours / min(theirs) if theirs else None


def table(found: Sequence[Need]) -> str:
    """Return the table; the least of the peers comes with the ratio."""
    rows = []
    for n in found:
        theirs = [m.bytes for m in found if m.case == n.case and m.contender != OURS]
        ours = next(m.bytes for m in found if m.case == n.case and m.contender == OURS)
        least = " (least)" if theirs and n.contender != OURS and n.bytes == min(theirs) else ""
        ratio = "–" if n.contender == OURS else f"{ours / n.bytes:.2f}{least}"
        rows.append([n.case, n.contender, n.malloc, f"{n.bytes / 2**20:.0f}", ratio])
    return report.aligned(["case", "contender", "malloc", "MiB at the peak", "ours / theirs"], rows)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    p = argparse.ArgumentParser(prog="bench/memory.py", description="Peak memory of training steps, beside the peers'.")
    p.add_argument(
        "--filter", default="w2|w3", metavar="REGEX", help="cases in whose names it is found; default: w2|w3"
    )
    p.add_argument("--peers", type=parse_peers, default=DEFAULT_PEERS, metavar="A,B", help=f"of {', '.join(PEERS)}")
    p.add_argument("--malloc", choices=list(MALLOCS), default="both", help="of the peers; default: both")
    p.add_argument("--threads", type=int, default=2, metavar="N", help="default: 2")
    p.add_argument("--steps", type=int, default=5, metavar="N", help="default: 5")
    p.add_argument("--out", type=Path, default=HERE / "results", metavar="DIR", help="for memory.json")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table and write the JSON; return 0, 1 if a contender failed, 2 if no case was selected."""
    arguments = parser().parse_args(argv)
    cases = select(discover(), arguments.filter)
    if not cases:
        print(f"bench: no case matches {arguments.filter!r}", file=sys.stderr)
        return 2
    try:
        found = needs(cases, arguments.peers, MALLOCS[arguments.malloc], arguments.threads, arguments.steps)
    except WorkerError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    print(table(found))
    ratios = {case.name: best_ratio(found, case.name) for case in cases}
    told = {"machine": machine.describe(), "unit": "bytes", "steps": arguments.steps, "threads": arguments.threads}
    arguments.out.mkdir(parents=True, exist_ok=True)
    document = told | {"ours_by_least_of_peers": ratios, "needs": [asdict(n) for n in found]}
    (arguments.out / "memory.json").write_text(json.dumps(document, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
