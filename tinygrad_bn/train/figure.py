"""The loss and accuracy figure. Matplotlib is imported when one is drawn, and is an extra."""

from __future__ import annotations

import os
from typing import Any

from tinygrad_bn.errors import TinygradError
from tinygrad_bn.train.files import replaced
from tinygrad_bn.train.history import EpochDone, History

MISSING = 'the figure needs matplotlib, of the extra "figures".\nHint: pip install matplotlib'


class FigureError(TinygradError, ImportError):
    """Matplotlib is not installed."""


def draw(history: History, path: str | os.PathLike[str], title: str = "") -> None:
    """Draw loss and accuracy against the epoch, for training and test, and write the figure as PNG.

    Parameters
    ----------
    history : History
    path : path-like
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
    figure = Figure(figsize=(9.6, 4.0), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    losses, accuracies = figure.subplots(1, 2)
    if title:
        figure.suptitle(title, fontsize=10)
    _panel(losses, history.epochs, "loss", 1.0, "mean cross-entropy (nats)")
    _panel(accuracies, history.epochs, "accuracy", 100.0, "accuracy (%)")
    losses.set_ylim(bottom=0)
    with replaced(path) as part:
        figure.savefig(part, format="png")


def _panel(axes: Any, epochs: list[EpochDone], what: str, scale: float, label: str) -> None:
    from matplotlib.ticker import MaxNLocator

    for part, colour, marker in (("train", "C0", "o"), ("test", "C1", "s")):
        points = [(e.epoch, scale * v) for e in epochs if (v := getattr(e, f"{part}_{what}")) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), color=colour, marker=marker, markersize=3, linewidth=1.2, label=part)
    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend()
