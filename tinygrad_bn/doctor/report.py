"""A model's report: a table, a dict, a figure."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass
from typing import Any

from tinygrad_bn.doctor import thresholds
from tinygrad_bn.doctor.findings import Finding, findings
from tinygrad_bn.doctor.records import Layer, Seen, rms


@dataclass
class LayerRow:
    """What was measured at one layer that normalises by batches.

    Attributes
    ----------
    layer, kind : str
        Dotted name, and class.
    values : int or None
        Of one channel in a batch: N, N·L, N·H·W; None: it was never called.
    steps : int
        Batches in the running statistics.
    mean_gap, deviation_gap : float or None
        Running against batch statistics, root of mean squares over channels: means in deviations, logarithms of
        deviations. None: there are none to compare.
    by_chance : float or None
        Which gap is expected by chance.
    noise : float or None
        Scatter of the batches' means, in deviations.
    skipped : int
        Batches left out for a NaN or infinity, in training and here.
    """

    layer: str
    kind: str
    values: int | None
    steps: int
    mean_gap: float | None
    deviation_gap: float | None
    by_chance: float | None
    noise: float | None
    skipped: int


class Report:
    """What ``diagnose`` returns; printing it gives the table and the findings.

    Attributes
    ----------
    findings : list of Finding
        The worst first.
    layers : list of LayerRow
        In the model's order.
    batches, batch_size : int
        How many batches were seen, and the largest size.
    output_gap : float or None
        By how much the model's outputs by running statistics differ from those by the batches', as a part of them.
    """

    def __init__(self, seen: Seen) -> None:
        self.findings: list[Finding] = findings(seen)
        self.layers = [_row(layer) for layer in seen.layers]
        self.batches = len(seen.batches)
        self.batch_size = max(b.size for b in seen.batches)
        self.output_gap = seen.output_gap

    @property
    def healthy(self) -> bool:
        """Whether nothing was found that is worse than an information."""
        return all(f.severity == "info" for f in self.findings)

    def of(self, kind: str) -> list[Finding]:
        """Return the findings of one kind."""
        return [f for f in self.findings if f.kind == kind]

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as numbers and strings, as JSON has them; what is not finite is None."""
        found: dict[str, Any] = _finite({
            "healthy": self.healthy, "batches": self.batches, "batch_size": self.batch_size,
            "output_gap": self.output_gap, "layers": [asdict(row) for row in self.layers],
            "findings": [asdict(f) for f in self.findings],
        })  # fmt: skip
        return found

    def figure(self, path: str | os.PathLike[str]) -> None:
        """Draw gaps and noise of all layers, with what is expected by chance and where findings begin.

        Parameters
        ----------
        path : path-like
            A file whose ending says the format: .png, .pdf, .svg.

        Raises
        ------
        FigureError
            If matplotlib is not installed.
        """
        from tinygrad_bn.doctor.figure import draw

        draw(path, self.layers, self.findings, self._head())

    def _head(self) -> str:
        text = f"{self.batches} batch{'' if self.batches == 1 else 'es'} of up to {self.batch_size}"
        if self.output_gap is not None:
            text += f"; outputs by running statistics differ from those by the batches' by {self.output_gap:.1%}"
        return text

    def __str__(self) -> str:
        lines = [self._head()]
        if self.layers:
            cells = [HEAD, *[_cells(row) for row in self.layers]]
            widths = [max(len(line[i]) for line in cells) for i in range(len(HEAD))]
            table = [_line(line, widths) for line in cells]
            lines += ["", table[0], "-" * max(map(len, table)), *table[1:]]
        lines += [""] if self.findings else ["", "nothing found"]
        for i, f in enumerate(self.findings):
            lines += [f"{f.severity}: {f.layer or '(model)'}: {f.kind}", f"  {f.message}."]
            if (f.kind, f.remedy) not in {(g.kind, g.remedy) for g in self.findings[i + 1 : i + 2]}:
                lines.append(f"  Remedy: {f.remedy}")  # once, behind the last of those that have it in common
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"Report({len(self.layers)} layers, {len(self.findings)} findings)"


HEAD = ("layer", "class", "values", "steps", "mean gap", "deviation gap", "by chance", "noise", "skipped")


def _row(layer: Layer) -> LayerRow:
    gaps = layer.gaps() if layer.switches else None
    seen = bool(layer.rows)
    return LayerRow(
        layer.name,
        type(layer.module).__name__,
        max(row[0] for row in layer.rows) if seen else None,
        layer.steps,
        None if gaps is None else rms(gaps[0]),
        None if gaps is None else rms(gaps[1]),
        None if gaps is None else layer.chance(),
        layer.noise()[0] if seen else None,
        int(getattr(layer.module, "skipped_batches", 0)) + layer.not_finite,
    )


def _cells(row: LayerRow) -> tuple[str, ...]:
    numbers = (row.mean_gap, row.deviation_gap, row.by_chance, row.noise)
    marks = ["-" if n is None else f"{n:.3f}" for n in numbers]
    for i in (0, 1):
        number, chance = numbers[i], row.by_chance or 0.0
        if number is not None and not number <= max(thresholds.GAP, thresholds.CHANCES * chance):
            marks[i] += " !"
    values = "-" if row.values is None else f"{row.values:,}"
    return row.layer or "(model)", row.kind, values, f"{row.steps:,}", *marks, str(row.skipped)


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    left = [c.ljust(w) for c, w in zip(cells[:2], widths[:2], strict=True)]
    right = [c.rjust(w) for c, w in zip(cells[2:], widths[2:], strict=True)]
    return "  ".join(left + right).rstrip()


def _finite(x: Any) -> Any:
    if isinstance(x, dict):
        return {name: _finite(value) for name, value in x.items()}
    if isinstance(x, list):
        return [_finite(value) for value in x]
    return None if isinstance(x, float) and not math.isfinite(x) else x
