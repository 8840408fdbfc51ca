"""A report as a figure. Matplotlib is imported when one is drawn, and is an extra."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tinygrad_bn.doctor import thresholds
from tinygrad_bn.doctor.findings import SEVERITIES, Finding
from tinygrad_bn.profiler._figure import MISSING, FigureError

if TYPE_CHECKING:
    from tinygrad_bn.doctor.report import LayerRow

COLOURS = {"error": "C3", "warning": "C1", "info": "C0", "": "0.3"}
TICKS = (0, 0.1, 0.3, 1, 3, 10, 30, 100, 1e3, 1e4, 1e6, 1e9)
CLOSE = (0.1, 0.3)
"""Ticks whose labels would run into others on an axis that goes beyond ``WIDE``."""
WIDE = 30.0
LISTED = 14
"""Findings that are written out."""


def draw(path: str | os.PathLike[str], layers: Sequence[LayerRow], found: Sequence[Finding], title: str) -> None:
    """Draw gaps and noise of all layers, and list the findings.

    Parameters
    ----------
    path : path-like
        Its ending says which format.
    layers : sequence of LayerRow
    found : sequence of Finding
    title : str

    Raises
    ------
    FigureError
        If matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise FigureError(MISSING) from error
    listed = [f"{f.severity}: {f.layer or '(model)'}: {f.kind.replace('_', ' ')}" for f in found[:LISTED]]
    listed += [f"and {len(found) - LISTED} more"] if len(found) > LISTED else []
    rows, text = max(len(layers), 2), max(len(listed), 5 if layers else 1)  # the legend has four lines
    figure = Figure(figsize=(11.0, 1.8 + 0.3 * rows + 0.2 * text), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplot_mosaic([["gap", "noise"], ["text", "text"]], height_ratios=(0.3 * rows + 1, 0.2 * text + 0.1))
    figure.suptitle(title, fontsize=10)
    _gaps(axes["gap"], layers, found)
    _noise(axes["noise"], layers)
    axes["text"].axis("off")
    if layers:  # beside the findings, where it hides no bar
        axes["text"].legend(*axes["gap"].get_legend_handles_labels(), fontsize=7, loc="upper right", borderaxespad=0)
    for i, line in enumerate(listed or ["nothing found"]):
        colour = COLOURS[found[i].severity] if i < min(len(found), LISTED) else COLOURS[""]
        axes["text"].text(0, 1 - (i + 0.5) / text, line, fontsize=8, color=colour, va="center")
    figure.savefig(path)


def _gaps(axes: Any, layers: Sequence[LayerRow], found: Sequence[Finding]) -> None:
    at = range(len(layers))
    for shift, name, label, colour in (
        (-0.2, "mean_gap", "means (in deviations)", "C0"),
        (0.2, "deviation_gap", "deviations (logarithm)", "C2"),
    ):
        axes.barh([i + shift for i in at], _numbers(layers, name), height=0.38, color=colour, label=label)
    chance = [thresholds.CHANCES * c for c in _numbers(layers, "by_chance")]
    for i, row in enumerate(layers):
        if not all(math.isfinite(n or 0.0) for n in (row.mean_gap, row.deviation_gap)):
            axes.text(1.2 * thresholds.GAP, i, "not finite", fontsize=8, color=COLOURS["error"], va="center")
    axes.scatter(
        chance, list(at), marker="|", s=160, color="k", label=f"{thresholds.CHANCES:g} × what chance gives", zorder=3
    )
    axes.axvline(thresholds.GAP, color="C3", linestyle="--", linewidth=1, label="findings begin")
    largest = max([*_numbers(layers, "mean_gap"), *_numbers(layers, "deviation_gap"), thresholds.GAP])
    axes.set_xscale("symlog", linthresh=1.0)
    limit = 1.15 * max([largest, *chance, 0.5])
    axes.set_xlim(0, limit)
    ticks = [n for n in TICKS if n <= limit and (n not in CLOSE or limit < WIDE)]
    axes.set_xticks(ticks, [f"{n:g}" for n in ticks])
    axes.minorticks_off()
    axes.set_title("gap between running and batch statistics", fontsize=9)
    axes.set_yticks(list(at), [_short(row.layer) for row in layers], fontsize=8)
    for tick, row in zip(axes.get_yticklabels(), layers, strict=True):
        tick.set_color(COLOURS[_worst(row.layer, found)])
    axes.set_ylim(max(len(layers), 1) - 0.4, -0.6)
    axes.grid(axis="x", alpha=0.3)


def _noise(axes: Any, layers: Sequence[LayerRow]) -> None:
    at = list(range(len(layers)))
    axes.barh(at, _numbers(layers, "noise"), height=0.6, color="C4")
    axes.axvline(thresholds.NOISE, color="C3", linestyle="--", linewidth=1)
    axes.set_title("scatter of batch means (in deviations)", fontsize=9)
    axes.set_yticks(at, [""] * len(layers))
    axes.set_xlim(0, 1.15 * max([*_numbers(layers, "noise"), thresholds.NOISE]))
    axes.set_ylim(max(len(layers), 1) - 0.4, -0.6)
    axes.grid(axis="x", alpha=0.3)


def _numbers(layers: Sequence[LayerRow], name: str) -> list[float]:
    found = [getattr(row, name) or 0.0 for row in layers]
    return [n if math.isfinite(n) else 0.0 for n in found]


def _worst(layer: str, found: Sequence[Finding]) -> str:
    own = [f.severity for f in found if f.layer == layer]
    return min(own, key=SEVERITIES.index) if own else ""


def _short(name: str) -> str:
    return (name if len(name) <= 30 else "…" + name[-29:]) or "(model)"
