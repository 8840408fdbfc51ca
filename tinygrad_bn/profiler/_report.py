"""What a profile has noted, added up: by operation, by layer, by kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from tinygrad_bn.errors import ArgumentError, wrong
from tinygrad_bn.profiler._events import Launch, Record, Span
from tinygrad_bn.profiler._machine import Limits

BY = ("op", "layer", "kernel")
COLUMNS = ("time", "python", "total", "calls", "launches", "flops", "nbytes", "fraction", "name")


@dataclass
class Row:
    """What belongs to one name.

    Attributes
    ----------
    name : str
        An operation, the path of a layer, or a kernel. Steps of a backward pass are operations of their own.
    calls : int
        Of the operation, the layer (forward), or the kernel.
    launches : int
        Of kernels.
    time, backward_time : float
        Seconds in kernels: all, and those within backward passes.
    python : float
        Seconds of Python ahead of the kernels and behind them.
    flops, nbytes : int
        What the kernels have to compute and to move.
    floor : float
        Seconds that this takes at least: per kernel its arithmetic at the machine's peak, or its traffic at the
        bandwidth of a copy of that size.
    """

    name: str
    calls: int = 0
    launches: int = 0
    time: float = 0.0
    backward_time: float = 0.0
    python: float = 0.0
    flops: int = 0
    nbytes: int = 0
    floor: float = 0.0

    @property
    def total(self) -> float:
        """Seconds in kernels and in Python."""
        return self.time + self.python

    @property
    def fraction(self) -> float:
        """The floor in parts of the time in kernels: 1 would be as fast as can be."""
        return self.floor / self.time if self.time else 0.0

    def to_dict(self) -> dict[str, Any]:
        """All fields, and what follows from them."""
        return {**asdict(self), "total": self.total, "fraction": self.fraction}


def rows(record: Record, by: str, limits: Limits) -> list[Row]:
    """Return the rows of one grouping, in no order."""
    found: dict[str, Row] = {}

    def row(name: str) -> Row:
        if name not in found:
            found[name] = Row(name)
        return found[name]

    for launch in record.launches:
        target = row(_name(by, launch))
        _add(target, launch, limits)
        if by == "kernel":
            target.calls += 1
            target.python += launch.python / 1e9 if launch.thread == record.owner else 0.0
    if by != "kernel":
        _add_spans(record, by, row)
    return list(found.values())


def _name(by: str, launch: Launch) -> str:
    return launch.name if by == "kernel" else _label(by, launch.op.name, launch.op.layer)


def _label(by: str, name: str, layer: str) -> str:
    return (name or "(outside operations)") if by == "op" else (layer or "(outside layers)")


def _add(row: Row, launch: Launch, limits: Limits) -> None:
    seconds = (launch.end - launch.start) / 1e9
    row.launches += 1
    row.time += seconds
    row.backward_time += seconds if launch.op.backward else 0.0
    row.flops += launch.flops
    row.nbytes += launch.nbytes
    row.floor += limits.floor(launch.flops, launch.nbytes, launch.wide)


def _add_spans(record: Record, by: str, row: Callable[[str], Row]) -> None:
    for (name, layer, _), python in record.python.items():
        row(_label(by, name, layer)).python += python / 1e9
    fused: dict[str, dict[str, int]] = {}
    for span in record.spans:
        if span.kind == "op" and by == "op":
            row(_label(by, span.name, span.layer)).calls += 1
        elif span.kind == "layer" and by == "layer":
            row(span.layer).calls += 1
        elif span.kind == "op" and not (span.own or span.backward):
            of = fused.setdefault(span.layer, {})
            of[span.name] = of.get(span.name, 0) + 1
    if by == "layer":
        for layer, names in fused.items():  # run as one operation: nobody called them
            row(_label(by, "", layer)).calls += max(names.values())


def ordered(given: Iterable[Row], sort: str | None, op: str = "table") -> list[Row]:
    """Return rows by a column: names upwards, numbers downwards; None: by the time in all.

    Raises
    ------
    ArgumentError
        If there is no such column.
    """
    key = {"bytes": "nbytes", None: "total"}.get(sort, sort)
    if key not in COLUMNS:
        raise ArgumentError(wrong(op, "sort", "one of " + ", ".join(map(repr, COLUMNS)), repr(sort)))
    if key == "name":
        return sorted(given, key=lambda r: r.name)
    return sorted(given, key=lambda r: (-getattr(r, str(key)), r.name))


def checked(by: str, op: str = "table") -> str:
    """Return what to group by.

    Raises
    ------
    ArgumentError
        If it is none of the three.
    """
    if by not in BY:
        raise ArgumentError(wrong(op, "by", "one of " + ", ".join(map(repr, BY)), repr(by)))
    return by


HEAD = ("", "calls", "kernels", "backward", "python", "total", "share", "Gflop", "MB", "Gflop/s", "GB/s", "of floor")
TITLES = {"op": "operation", "layer": "layer", "kernel": "kernel"}


def text(given: list[Row], by: str, wall: float, limit: int) -> list[str]:
    """Return the lines of a table: milliseconds, and rates while in kernels."""
    shown, rest = given[:limit], given[limit:]
    lines = [(TITLES[by], *HEAD[1:]), *[_cells(row, wall) for row in shown]]
    if rest:
        lines.append(_cells(_together(rest), wall))
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEAD))]
    out = ["  ".join([c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))])
           for line in lines]  # fmt: skip
    rule = "-" * max(map(len, out))
    return [out[0], rule, *out[1:], rule]


def _together(given: list[Row]) -> Row:
    out = Row(f"({len(given)} more)")
    for row in given:
        for name in ("calls", "launches", "time", "backward_time", "python", "flops", "nbytes", "floor"):
            setattr(out, name, getattr(out, name) + getattr(row, name))
    return out


def _cells(row: Row, wall: float) -> tuple[str, ...]:
    rates = (row.flops / row.time / 1e9, row.nbytes / row.time / 1e9) if row.time else (0.0, 0.0)
    return (
        row.name if len(row.name) <= 48 else "…" + row.name[-47:],
        str(row.calls),
        *[_ms(s) for s in (row.time, row.backward_time, row.python, row.total)],
        f"{100 * row.total / wall:.1f} %" if wall else "-",
        _number(row.flops / 1e9),
        _number(row.nbytes / 1e6),
        *[_number(r) for r in rates],
        f"{100 * row.fraction:.0f} %" if row.floor else "-",
    )


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3f} ms" if seconds else "-"


def _number(value: float) -> str:
    return f"{value:.3g}" if 0 < value < 1000 else f"{value:,.0f}" if value else "-"


def runs(spans: list[Span]) -> list[Span]:
    """Return layers as spans of their own where operations of one layer follow each other without its having been
    called: in backward passes, and where several run as one."""
    found: list[Span] = []
    last: dict[tuple[int, int], Span | None] = {}
    for span in spans:
        place = (span.thread, id(span.parent))
        if span.kind != "op" or span.own or not span.layer or span.end <= span.start:
            if span.end > span.start:
                last[place] = None
            continue
        run = last.get(place)
        if run is not None and (run.layer, run.backward) == (span.layer, span.backward):
            run.end = span.end
        else:
            name = f"{span.layer} (backward)" if span.backward else span.layer
            run = last[place] = Span(
                "layer", name, span.layer, span.backward, span.thread, span.start, span.end, span.parent
            )
            found.append(run)
    return found
