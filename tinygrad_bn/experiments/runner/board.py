"""The curves of all runs as TensorBoard files. tensorboardX is imported when they are written."""

from __future__ import annotations

import logging
import math
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tinygrad_bn.experiments.runner.experiment import Numbers
from tinygrad_bn.experiments.runner.finished import Finished
from tinygrad_bn.experiments.runner.plan import slug

FOLDER = "tensorboard"


def write(outcome: Finished) -> None:
    """Write the files, in a folder for each arm and seed; those of an earlier start are removed."""
    with _without_torch():
        from tensorboardX import SummaryWriter

    logging.getLogger("tensorboardX.x2num").setLevel(logging.ERROR)  # a curve may well end in what is not a number
    folder = outcome.folder / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    for found in outcome.results:
        for arm, numbers in found.runs.items():
            with SummaryWriter(str(folder / f"{slug(arm)}-{found.seed}")) as writer:
                _add(writer, numbers, outcome, arm, found.seed)


@contextmanager
def _without_torch() -> Iterator[None]:
    """Hide PyTorch while tensorboardX is imported: it would import it for the sake of an annotation."""
    hidden = "torch" not in sys.modules
    if hidden:
        sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if hidden:
            del sys.modules["torch"]


def _add(writer: Any, numbers: Numbers, outcome: Finished, arm: str, seed: int) -> None:
    config = {**outcome.facts["setting"], "arm": arm, "seed": seed}
    writer.add_text("config", "\n".join(f"    {name}: {value}" for name, value in config.items()), 0)
    for tag, x, y in curves(numbers):
        for step, value in zip(steps(x), y, strict=True):
            writer.add_scalar(tag, value, step)


def curves(numbers: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, list[float], list[float]]]:
    """Yield name, x and y of all curves in a run's numbers; of a curve with several values a point, one for each."""
    for name, value in numbers.items():
        if not isinstance(value, Mapping):
            continue
        x, y = value.get("x"), value.get("y")
        if not isinstance(x, list) or not isinstance(y, list) or len(x) != len(y):
            yield from curves(value, f"{prefix}{name}/")
        elif y and isinstance(y[0], list):
            columns = zip(*y, strict=True)
            yield from ((f"{prefix}{name}/{i}", x, list(column)) for i, column in enumerate(columns))
        else:
            yield f"{prefix}{name}", x, y


def steps(x: list[float]) -> list[int]:
    """Return x where it counts something, else the index of each point."""
    whole = all(math.isfinite(v) and v == int(v) and 0 <= v < 2**63 for v in x)
    return [int(v) for v in x] if whole else list(range(len(x)))
