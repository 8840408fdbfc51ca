"""The figure of an experiment as a PNG file below 100 kB. Matplotlib is imported when one is drawn."""

from __future__ import annotations

import io
from typing import Any

from tinygrad_bn.experiments.runner.finished import Finished
from tinygrad_bn.train.files import replaced

FIGURE = "figure.png"
DPI = 150
LIMIT = 100_000
FOOTER = 0.22
"""Inches."""
ATTEMPTS = ((150, None), (150, 256), (150, 64), (120, 64), (100, 64), (80, 32), (60, 16))
"""Dots per inch, and how many colours, from the best to what fits in any case."""


def png(outcome: Finished) -> bytes:
    """Return the experiment's figure, with a footer that says what it was made of."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width, height = outcome.experiment.figsize
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    outcome.experiment.draw(outcome.results, figure)
    _add_footer(figure, footer(outcome))
    for dpi, colours in ATTEMPTS:
        found = _rendered(figure, dpi, colours)
        if len(found) < LIMIT:
            break
    return found


def footer(outcome: Finished) -> str:
    """Return scale, seeds and data in a line."""
    facts = outcome.facts
    seeds, data = len(facts["seeds"]), facts["data"]
    words = [facts["experiment"], f"scale {facts['scale']}", f"{seeds} seed{'s' * (seeds > 1)}"]
    if data is not None:
        words.append(f"{data['name']}: {data['train']:,} training and {data['test']:,} test pictures")
    return " · ".join(words)


def _add_footer(figure: Any, words: str) -> None:
    share = FOOTER / figure.get_figheight()
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.set(rect=(0, share, 1, 1 - share))
    figure.text(0.995, 0.25 * share, words, ha="right", va="bottom", fontsize=7, color="0.4")


def _rendered(figure: Any, dpi: int, colours: int | None) -> bytes:
    whole = io.BytesIO()
    figure.savefig(whole, format="png", dpi=dpi, facecolor="white", metadata={"Software": None})
    if colours is None:
        return whole.getvalue()
    from PIL import Image

    few = io.BytesIO()
    with Image.open(whole) as image:
        image.convert("RGB").quantize(colours, dither=Image.Dither.NONE).save(few, format="png", optimize=True)
    return few.getvalue()


def draw(outcome: Finished) -> bytes:
    """Write the figure into the experiment's folder, and return it."""
    found = png(outcome)
    with replaced(outcome.folder / FIGURE) as part:
        part.write_bytes(found)
    return found
