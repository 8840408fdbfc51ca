"""A profile as a figure. Matplotlib is imported when one is drawn, and is an extra."""

from __future__ import annotations

import os
from typing import Any

from tinygrad_bn.errors import TinygradError
from tinygrad_bn.profiler._machine import Limits
from tinygrad_bn.profiler._report import Row

MISSING = 'the figure needs matplotlib, of the extra "figures".\nHint: pip install matplotlib'
SHOWN = 16


class FigureError(TinygradError, ImportError):
    """Matplotlib is not installed."""


def draw(path: str | os.PathLike[str], parts: list[Row], kernels: list[Row], limits: Limits, title: str) -> None:
    """Draw where the time went, and how near the kernels came to what the machine can do.

    Parameters
    ----------
    path : path-like
        Its ending says which format.
    parts : list of Row
        Operations or layers, the longest first.
    kernels : list of Row
    limits : Limits
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
    shown = parts[:SHOWN]
    figure = Figure(figsize=(12.0, max(3.6, 0.28 * len(shown) + 1.6)), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    bars, roofs = figure.subplots(1, 2, width_ratios=(1.0, 1.0))
    figure.suptitle(title, fontsize=10)
    _bars(bars, shown)
    _roofline(roofs, kernels, limits)
    figure.savefig(path)


def _bars(axes: Any, parts: list[Row]) -> None:
    at = list(range(len(parts)))
    left = [0.0] * len(parts)
    series = (
        ("kernels, forward", "C0", [r.time - r.backward_time for r in parts]),
        ("kernels, backward", "C1", [r.backward_time for r in parts]),
        ("Python", "0.75", [r.python for r in parts]),
    )
    for label, colour, seconds in series:
        widths = [1e3 * s for s in seconds]
        axes.barh(at, widths, left=left, color=colour, label=label, height=0.7)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axes.set_yticks(at, [r.name if len(r.name) <= 36 else "…" + r.name[-35:] for r in parts], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("time (ms)")
    axes.legend(fontsize=8, loc="lower right")
    axes.grid(axis="x", alpha=0.3)


def _roofline(axes: Any, kernels: list[Row], limits: Limits) -> None:
    """Rates against operations a byte, below the lines that bound them."""
    import numpy as np

    done = [r for r in kernels if r.flops and r.nbytes and r.time]
    intensities = [r.flops / r.nbytes for r in done]
    low, high = min([*intensities, 0.1]) / 2, max([*intensities, 100.0]) * 2
    x = np.geomspace(low, high, 200)
    slowest, fastest = min(limits.copies.values()), max(limits.copies.values())
    for rate, style, label in ((fastest, "-", "copies in cache"), (slowest, "--", "copies in memory")):
        axes.plot(x, np.minimum(limits.flops, x * rate) / 1e9, "k" + style, linewidth=1, label=label)
    largest = max([r.time for r in done], default=1.0)
    rates = [r.flops / r.time / 1e9 for r in done]
    axes.scatter(intensities, rates, s=[12 + 160 * r.time / largest for r in done], color="C2", alpha=0.7, linewidth=0)
    for r, intensity, rate in sorted(zip(done, intensities, rates, strict=True), key=lambda e: -e[0].time)[:8]:
        axes.annotate(r.name, (intensity, rate), fontsize=7, xytext=(4, 3), textcoords="offset points")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("operations a byte")
    axes.set_ylabel("Gflop/s")
    axes.set_title("kernels, the larger the more time they took", fontsize=8)
    axes.legend(fontsize=8, loc="lower right")
    axes.grid(alpha=0.3)
