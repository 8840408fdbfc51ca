"""The figure of ``depth_affine``."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_bn.experiments._dense import BN, FIXED, PLAIN
from tinygrad_bn.experiments.runner.results import Results
from tinygrad_bn.experiments.runner.verdicts import estimate

LABELS = {BN: "BN with γ, β", FIXED: "BN without γ, β", PLAIN: "no BN"}
COLOURS = {BN: "C0", FIXED: "C2", PLAIN: "C1"}
INITS = {"small": ("C3", "σ = 0.01"), "xavier": ("C4", "Xavier"), "he": ("C5", "He"), "large": ("C6", "σ = 1")}
SPECTRA = {
    f"{BN} he": ("BN, start", "C0", "--"),
    f"{BN} trained": ("BN, trained", "C0", "-"),
    f"{BN} linear": ("BN, start, no ReLU", "C2", "--"),
    f"{PLAIN} he": ("no BN, He, start", "C1", "--"),
    f"{PLAIN} trained": ("no BN, He, trained", "C1", "-"),
}


def draw(results: Results, figure: Any) -> None:
    """Draw accuracy against depth, activations over the layers, singular values, and shift."""
    (affine, dying), (spectrum, shift) = figure.subplots(2, 2)
    _affine(affine, results)
    _activations(dying, results)
    _spectrum(spectrum, results)
    _shift(shift, results)
    for panel in (affine, dying, spectrum, shift):
        panel.grid(alpha=0.3)
        panel.legend(fontsize=7)


def _affine(panel: Any, results: Results) -> None:
    """Mean and 95 % interval over the seeds."""
    depths = results.setting.depths
    for offset, kind in zip((-0.3, 0, 0.3), (BN, FIXED, PLAIN), strict=True):
        found = [estimate(results.stack(f"{kind} {depth}", "accuracy").tolist()) for depth in depths]
        mean = np.array([e.mean for e in found])
        bars = np.abs([[e.mean - e.low for e in found], [e.high - e.mean for e in found]])
        x = np.add(depths, offset)
        panel.errorbar(x, mean, bars, color=COLOURS[kind], marker="o", markersize=3, capsize=2, label=LABELS[kind])
    panel.axvline(20, color="0.5", linestyle=":", linewidth=1, label="the argument's border")
    panel.set(title="(a) with and without γ, β", xlabel="hidden layers", ylabel="test accuracy (%)")


def _activations(panel: Any, results: Results) -> None:
    """Mean over the seeds of the logarithm, and the range; theory by He et al. 2015, section 2.2, dotted."""
    width = results.setting.width
    theory = {"small": 0.01 * (width / 2) ** 0.5, "xavier": 0.5**0.5, "he": 1.0, "large": (width / 2) ** 0.5}
    for init, (colour, words) in INITS.items():
        for kind, style in ((PLAIN, "-"), (BN, "--")):
            layer = results.x("activations", f"{kind} {init}")
            y = np.log10(np.maximum(results.stack("activations", f"{kind} {init}"), 1e-300))
            label = f"{words}, {LABELS[kind]}" if kind == PLAIN else None
            panel.plot(layer, y.mean(0), style, color=colour, linewidth=1.2, label=label)
            panel.fill_between(layer, y.min(0), y.max(0), color=colour, alpha=0.2, linewidth=0)
            if kind == PLAIN:
                line = y.mean(0)[0] + np.log10(theory[init]) * (layer - 1)
                panel.plot(layer, line, ":", color="black", linewidth=0.8)
    panel.plot([], [], "--", color="0.4", label="all four with BN")
    panel.plot([], [], ":", color="black", label="theory")
    panel.set(title="(b) activations at the start", xlabel="layer", ylabel="log₁₀ of their root mean square")


def _spectrum(panel: Any, results: Results) -> None:
    """Quantiles, the mean over the seeds whose network did not diverge."""
    for name, (label, colour, style) in SPECTRA.items():
        share, quantiles = results.x("jacobians", name), results.stack("jacobians", name)
        kept = quantiles[np.isfinite(quantiles).all(1)]
        if len(kept) < len(quantiles):
            label += f" ({len(kept)} of {len(quantiles)} seeds)"
        if len(kept):
            panel.plot(kept.mean(0), share, style, color=colour, linewidth=1.2, label=label)
    panel.axvline(1, color="black", linestyle=":", linewidth=1, label="conjecture: all at 1")
    panel.axvspan(0.5, 2, color="0.9", zorder=0)
    panel.set(title="(c) Jacobians of layers", xlabel="singular value", ylabel="share below", xlim=(-0.05, 4))


def _shift(panel: Any, results: Results) -> None:
    """Mean over the seeds, and the range."""
    for kind in (BN, PLAIN):
        for batch, style in (("mini", "-"), ("full", "--")):
            arm, name = f"shift {kind}", f"shift_{batch}"
            x, y = results.x(arm, name), results.stack(arm, name)
            panel.plot(x, y.mean(0), style, color=COLOURS[kind], linewidth=1.2, label=f"{LABELS[kind]}, {batch} batch")
            panel.fill_between(x, y.min(0), y.max(0), color=COLOURS[kind], alpha=0.15, linewidth=0)
    panel.set(title="(d) shift of a layer's gradient", xlabel="step", ylabel="‖G − G′‖ / ‖G‖", ylim=(0, None))
