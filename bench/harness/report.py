"""Tables and the JSON of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.harness.case import Case
from bench.harness.contenders import OURS
from bench.harness.machine import Limits
from bench.harness.runner import Entry
from bench.harness.timing import Ratio, Summary, best_ratio


@dataclass(frozen=True)
class Line:
    """One case, all contenders.

    Attributes
    ----------
    case : Case
    ours : Entry or None
    peers : list of Entry
    limits : Limits
    ratios : dict of Ratio
        By malloc setting: the median of the fastest peer, in its best layout, divided by ours.
    """

    case: Case
    ours: Entry | None
    peers: list[Entry]
    limits: Limits
    ratios: dict[str, Ratio] = field(default_factory=dict)

    @property
    def timing(self) -> Summary | None:
        """Our statistics."""
        return self.ours.summary if self.ours else None

    @property
    def floor_fraction(self) -> float | None:
        """Floor divided by our median; 1 is the floor itself."""
        floor = self.limits.floor(self.case.flops, self.case.bytes)
        return floor / self.timing.median if self.timing and floor else None


def lines(cases: Iterable[Case], entries: Sequence[Entry], limits: Limits) -> list[Line]:
    """Gather the entries by case and work out the ratios."""
    found = []
    for case in cases:
        mine = [e for e in entries if e.case == case.name]
        ours = next((e for e in mine if e.contender == OURS), None)
        peers = [e for e in mine if e.contender != OURS]
        found.append(Line(case, ours, peers, limits, _ratios(ours, peers)))
    return found


def _ratios(ours: Entry | None, peers: Sequence[Entry]) -> dict[str, Ratio]:
    """By malloc setting; who was wrong counts for nothing."""
    own = ours.summary if ours else None
    if own is None:
        return {}
    found = {}
    for malloc in dict.fromkeys(e.malloc for e in peers):
        medians = {e.contender: s.median for e in peers if e.malloc == malloc and (s := e.summary)}
        ratio = best_ratio(own.median, medians)
        if ratio:
            found[malloc] = ratio
    return found


def duration(seconds: float) -> str:
    """Return a time in the unit that suits it."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}" if seconds / size < 999.5 else f"{seconds / size:.0f} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def _ratio_cells(line: Line, malloc: str) -> list[str]:
    ratio = line.ratios.get(malloc)
    if ratio is None:
        return ["–", "–"]
    median = next(s.median for e in line.peers if (e.contender, e.malloc) == (ratio.peer, malloc) and (s := e.summary))
    return [f"{ratio.peer} {duration(median)}", f"{ratio.value:.2f}" + (" slower" if ratio.value < 1 else "")]


def _rate(amount: float, seconds: float) -> str:
    return f"{amount / seconds / 1e9:.3g}" if amount else "–"


def _main_row(line: Line, mallocs: Sequence[str]) -> list[str]:
    timing, case = line.timing, line.case
    if timing is None:
        status = line.ours.status if line.ours else "–"
        return [case.name, status, *["–"] * (2 * len(mallocs) + 4)]
    fraction = line.floor_fraction
    return [
        case.name,
        duration(timing.median),
        f"{duration(timing.p10)} – {duration(timing.p90)}",
        *(cell for malloc in mallocs for cell in _ratio_cells(line, malloc)),
        _rate(case.flops, timing.median),
        _rate(case.bytes, timing.median),
        f"{fraction:.2f}" if fraction else "–",
    ]


def table(found: Sequence[Line]) -> str:
    """Return the main table: ours, the best peer for each malloc setting, and the floor."""
    mallocs = list(dict.fromkeys(e.malloc for line in found for e in line.peers))
    head = ["case", "ours", "p10 – p90"]
    for malloc in mallocs:
        head += [f"best peer, {malloc} malloc", "ratio"]
    return aligned([*head, "GFLOP/s", "GB/s", "of the floor"], [_main_row(line, mallocs) for line in found])


def contenders_table(found: Sequence[Line]) -> str:
    """Return the statistics of everybody, wrong ones included."""
    rows = []
    for line in found:
        for e in [*([line.ours] if line.ours else []), *line.peers]:
            s = e.summary
            numbers = [duration(v) for v in (s.median, s.p10, s.p90, s.min)] if s else [e.status, "–", "–", "–"]
            times = f"{s.median / line.timing.median:.2f}" if s and line.timing else "–"
            rows.append([e.case, e.contender, e.malloc, *numbers, times, str(e.count) if s else "–"])
    head = ["case", "contender", "malloc", "median", "p10", "p90", "min", "times ours", "steps a sample"]
    return aligned(head, rows)


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table that also reads well as text."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]

    def text(row: Sequence[str]) -> str:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        return "| " + " | ".join(cells) + " |"

    rule = "| " + " | ".join(["-" * widths[0], *("-" * (w - 1) + ":" for w in widths[1:])]) + " |"
    return "\n".join([text(head), rule, *(text(row) for row in rows)])


def faults(entries: Iterable[Entry]) -> list[str]:
    """Return a line for each wrong answer and failure."""
    return [f"{e.status}: {e.case}, {e.contender}, malloc {e.malloc}: {e.reason}" for e in entries if not e.right]


def limits_text(limits: Limits) -> str:
    """Return the machine's limits in one line."""
    copies = ", ".join(f"{_size(size)} {rate / 1e9:.0f}" for size, rate in sorted(limits.copies.items()))
    return f"{limits.threads} threads: {limits.flops / 1e9:.0f} GFLOP/s; copies, GB/s by bytes touched: {copies}."


def _size(nbytes: int) -> str:
    return f"{nbytes >> 20} MiB" if nbytes >= 1 << 20 else f"{nbytes >> 10} KiB"


def _entry_json(e: Entry, ours: Summary | None) -> dict[str, Any]:
    s = e.summary
    return {
        "contender": e.contender,
        "malloc": e.malloc,
        "status": e.status,
        "reason": e.reason,
        "steps_per_sample": e.count,
        "seconds": asdict(s) if s else None,
        "times_ours": s.median / ours.median if s and ours else None,
        "samples": e.samples,
    }


def _line_json(line: Line) -> dict[str, Any]:
    timing, case = line.timing, line.case
    return {
        "case": case.name,
        "flops": case.flops,
        "bytes": case.bytes,
        "floor_seconds": line.limits.floor(case.flops, case.bytes),
        "floor_fraction": line.floor_fraction,
        "gflops_per_second": case.flops / timing.median / 1e9 if timing else None,
        "gbytes_per_second": case.bytes / timing.median / 1e9 if timing else None,
        "ratios": {malloc: asdict(ratio) for malloc, ratio in line.ratios.items()},
        "contenders": [_entry_json(e, timing) for e in [*([line.ours] if line.ours else []), *line.peers]],
    }


@dataclass(frozen=True)
class Run:
    """All that was measured with one number of threads."""

    limits: Limits
    lines: list[Line]
    descriptions: Mapping[str, object]
    notes: Sequence[str]


def document(machine: Mapping[str, Any], arguments: Mapping[str, Any], runs: Sequence[Run]) -> dict[str, Any]:
    """Return everything as what JSON can hold."""
    return {
        "machine": dict(machine),
        "arguments": dict(arguments),
        "runs": [
            {
                "threads": run.limits.threads,
                "peak_flops": run.limits.flops,
                "copy_bandwidth": {str(size): rate for size, rate in run.limits.copies.items()},
                "contenders": dict(run.descriptions),
                "notes": list(run.notes),
                "cases": [_line_json(line) for line in run.lines],
            }
            for run in runs
        ],
    }


def markdown(machine: Mapping[str, Any], runs: Sequence[Run]) -> str:
    """Return the report for people."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    parts = [
        "# Benchmark",
        f"{machine['date']}, commit {machine['commit'] or 'unknown'}. {machine['processor']}, "
        f"{machine['usable_cores']} cores, {' '.join(machine['features'])}. {machine['system']}, "
        f"Python {machine['python']}. {versions}.",
        "Median of the rounds, 10th and 90th percentile. Ratio: the best peer's median, in its best layout, divided by "
        "ours; below 1 ours is slower. Of the floor: the time that the work's arithmetic or traffic needs at least, "
        "divided by ours.",
    ]
    for run in runs:
        parts.append(f"## {run.limits.threads} threads\n\n{limits_text(run.limits)}")
        parts.append(table(run.lines))
        entries = [e for line in run.lines for e in [*([line.ours] if line.ours else []), *line.peers]]
        remarks = [*faults(entries), *run.notes]
        if remarks:
            parts.append("\n".join(f"- {r}" for r in remarks))
        parts.append(f"### Every contender\n\n{contenders_table(run.lines)}")
    return "\n\n".join(parts) + "\n"
