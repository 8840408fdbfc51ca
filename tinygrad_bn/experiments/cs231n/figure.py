"""The figure of the experiment ``cs231n``: the notebook's panels, and the errors of its gradient checks."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_bn.experiments.runner.pictures import STAND_IN
from tinygrad_bn.experiments.runner.results import Results

LABELS = {"none": "no norm", "batch": "batch norm", "layer": "layer norm", "matched": "batch norm, rate ∝ scale"}
COLOURS = {"none": "C1", "batch": "C0", "matched": "C2"}
SIZES = ("C3", "C4", "C9")
FINAL = {"batch": {"train": 0.801, "val": 0.357}, "none": {"train": 0.726, "val": 0.335}}
"""Recorded accuracies after the last epoch."""
ERRORS = {
    "batch dx": 1.70e-9,
    "batch dγ": 7.42e-13,
    "batch dβ": 2.88e-12,
    "layer dx": 1.43e-9,
    "layer dγ": 4.52e-12,
    "layer dβ": 2.28e-12,
    "alt dx": 1.30e-12,
    "none W2": 2.21e-5,
    "none b1": 1.48e-8,
    "batch W1": 1.10e-4,
    "batch γ1": 7.57e-9,
    "batch β1": 7.33e-9,
}
"""Recorded relative errors, as the notebooks print them."""


def draw(results: Results, figure: Any) -> None:
    """A row for each study; in the last panel of the third, the checks."""
    axes = figure.subplots(3, 3)
    _draw_depth(axes[0], results)
    _draw_scales(axes[1], results)
    for panel, norm in zip(axes[2], ("batch", "layer"), strict=False):
        _draw_sizes(panel, results, norm)
    _draw_errors(axes[2, 2], results)
    for panel in axes.flat:
        panel.tick_params(labelsize=8)


def _band(axes: Any, x: Any, values: np.ndarray, colour: str, label: str | None, style: str = "-") -> None:
    """Draw the mean over seeds, and as a band what lies between the least and the most."""
    axes.fill_between(x, values.min(0), values.max(0), color=colour, alpha=0.18, linewidth=0)
    axes.plot(x, values.mean(0), style, color=colour, linewidth=1.1, markersize=2.5, label=label)


def _titled(axes: Any, title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize=9)
    axes.set_xlabel(x, fontsize=8)
    axes.set_ylabel(y, fontsize=8)
    axes.legend(fontsize=7)


def _draw_depth(row: Any, results: Results) -> None:
    for norm in ("batch", "none"):
        arm, colour = f"depth_{norm}", COLOURS[norm]
        _band(row[0], results.x(arm, "loss"), results.stack(arm, "loss"), colour, LABELS[norm])
        for panel, name in zip(row[1:], ("train", "val"), strict=True):
            x = results.x(arm, name)
            _band(panel, x, results.stack(arm, name), colour, LABELS[norm], "o-")
            if results.data == STAND_IN:
                continue
            value = FINAL[norm][name]
            panel.plot(x[-1], value, "*", color=colour, markersize=11, markeredgecolor="k", zorder=3)
            panel.axhline(value, color=colour, linestyle=":", linewidth=0.9, label=f"recorded: {value:.3f}")
    _titled(row[0], "6 layers: training loss (mean; band: all seeds)", "step", "cross-entropy, nats")
    _titled(row[1], "6 layers: training accuracy", "epoch", "accuracy (share)")
    _titled(row[2], "6 layers: validation accuracy", "epoch", "accuracy (share)")


def _draw_scales(row: Any, results: Results) -> None:
    for panel, name in zip(row, ("best_val", "best_train", "final_loss"), strict=True):
        for norm in ("batch", "none", "matched"):
            arm, style = f"scale_{norm}", "--" if norm == "matched" else "o-"
            _band(panel, results.x(arm, name), results.stack(arm, name), COLOURS[norm], LABELS[norm], style)
        panel.set_xscale("log")
        if name != "final_loss":
            panel.axvspan(1e-3, 1e-1, color="0.5", alpha=0.1, linewidth=0, label="compared")
            panel.set_ylim(0, 1.5 * panel.get_ylim()[1])  # room for the legend
    row[2].set_ylim(1.0, 3.5)
    scale = "scale of the initial weights (deviation)"
    _titled(row[0], "8 layers: best validation accuracy", scale, "accuracy (share)")
    _titled(row[1], "8 layers: best training accuracy", scale, "accuracy (share)")
    _titled(row[2], "8 layers: final training loss", scale, "mean of the last 100 steps, nats")


def _draw_sizes(axes: Any, results: Results, norm: str) -> None:
    """Both accuracies over epochs for each batch size, and the baseline without a norm."""
    sizes = results.setting.batches
    lines = [(f"size_{norm}", size, colour, f"batch {size}") for size, colour in zip(sizes, SIZES, strict=False)]
    lines.append(("size_none", sizes[0], COLOURS["none"], f"no norm, batch {sizes[0]}"))
    for arm, size, colour, label in lines:
        for name, style in (("train", "o-"), ("val", "--")):
            shown = label if name == "train" else None
            _band(axes, results.x(arm, f"{name}_{size}"), results.stack(arm, f"{name}_{size}"), colour, shown, style)
    _titled(axes, f"{LABELS[norm]}: training (–) and validation (- -)", "epoch", "accuracy (share)")


def _draw_errors(axes: Any, results: Results) -> None:
    """Relative errors of the checks: of every seed, and recorded."""
    found = {name: [_found(run, name) for run in results.runs("checks")] for name in ERRORS}
    for i, values in enumerate(found.values()):
        axes.plot([i] * len(values), values, "o", color="C0", markersize=3.5, label=None if i else "measured")
    axes.plot(range(len(ERRORS)), list(ERRORS.values()), "k_", markersize=12, label="recorded")
    axes.set_yscale("log")
    axes.set_ylim(1e-14, 1e-2)
    axes.set_xticks(range(len(ERRORS)), list(ERRORS), rotation=60, ha="right")
    _titled(axes, "gradients: layers, alternative, nets", "norm and gradient", "relative error")


def _found(run: dict[str, Any], name: str) -> float:
    """Return a check's error by its name in ``ERRORS``."""
    kind, of = name.split()
    if kind == "alt":
        return float(run["alt"][0])
    if of.startswith("d"):
        return float(run[f"{kind}_errors"][("dx", "dγ", "dβ").index(of)])
    return float(run["nets"][kind]["errors"][of.replace("γ", "gamma").replace("β", "beta")])
