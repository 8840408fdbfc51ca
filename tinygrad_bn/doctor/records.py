"""What was seen of the layers of a model, as numbers."""

from __future__ import annotations

import math
from functools import reduce
from typing import Any

import numpy as np

from tinygrad_bn import nn
from tinygrad_bn.core.tensor import Array, Tensor
from tinygrad_bn.doctor import thresholds
from tinygrad_bn.nn.bn_tools.members import by_batches, second_of
from tinygrad_bn.nn.bn_tools.moments import Moments
from tinygrad_bn.nn.module import Module

SMALLEST = 1e-300  # of what is divided by
Row = tuple[int, Array, Array]


class Batch:
    """One batch: its size, and why training could not take it, if it could not."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.error: str | None = None


class Layer:
    """A layer that normalises by batches, and what it took.

    Attributes
    ----------
    counts : list of int
        Of each call of the first batch, the values of a channel.
    rows : list of (int, array, array)
        Of each batch that was finite: count, means and sums of squared deviations of the channels.
    plain : list of the same
        Without dropout.
    calls : list of lists of the same
        Of each call within a batch.
    not_finite : int
        How many batches were not.
    ahead : list of str
        The Dropout layers that were called before, in the first batch.
    maker : Module or None
        The layer with a bias whose result it took.
    biases : list of (str, Module)
        The layers ahead whose bias does nothing.
    """

    def __init__(self, name: str, module: Any) -> None:
        self.name = name
        self.module = module
        self.counts: list[int] = []
        self.rows: list[Row] = []
        self.sizes: list[int] = []
        self.plain: list[Row] = []
        self.calls: list[list[Row]] = []
        self.not_finite = 0
        self.ulp = 0.0
        self.ahead: list[str] = []
        self.maker: Module | None = None
        self.biases: list[tuple[str, Any]] = []
        own = module.__dict__
        self.own_switch = own.get("use_batch_stats")

    @property
    def normalises(self) -> bool:
        """Whether training normalises by the batch."""
        return self.own_switch is not False

    @property
    def switches(self) -> bool:
        """Whether training normalises by the batch, and evaluation by running statistics."""
        return self.own_switch is None and second_of(self.module) is not None

    def note_input(self, x: Tensor, ahead: list[str]) -> None:
        """Note what has nothing to do with the values."""
        self.ulp = float(np.finfo(x.array.dtype).eps)
        self.ahead = self.ahead or list(ahead)

    def take(self, found: list[Moments], size: int) -> None:
        """Add what one batch has shown, call by call."""
        if not all(m.is_finite() for m in found):
            self.not_finite += 1
            return
        self.counts = self.counts or [m.count for m in found]
        for i, m in enumerate(found):
            if i == len(self.calls):
                self.calls.append([])
            self.calls[i].append(_row(m))
        self.rows.append(_row(reduce(Moments.merged, found)))
        self.sizes.append(size)

    def take_plain(self, found: list[Moments]) -> None:
        """Add what the same batch has shown without dropout."""
        if all(m.is_finite() for m in found):
            self.plain.append(_row(reduce(Moments.merged, found)))

    # ------------------------------------------------------------------------------------------------------- figures

    @property
    def eps(self) -> float:
        return float(self.module.eps)

    @property
    def running(self) -> tuple[Array, Array] | None:
        """Running mean, and running variance with eps, in float64."""
        name = second_of(self.module)
        if name is None:
            return None
        mean, second = (np.asarray(getattr(self.module, n).numpy(), np.float64) for n in ("running_mean", name))
        return mean, second * second if name == "running_std" else second + self.eps

    @property
    def steps(self) -> int:
        """How many batches went into the running statistics."""
        tracked = getattr(self.module, "num_batches_tracked", None)
        return 0 if tracked is None else int(np.max(tracked.numpy()))

    @property
    def initial(self) -> float:
        """The part of the initial values that is left in the running statistics."""
        momentum = self.module.momentum
        if self.steps == 0:
            found = self.running
            return float(found is not None and not found[0].any() and bool(np.allclose(found[1], 1, atol=1e-2)))
        return 0.0 if momentum is None else float((1 - momentum) ** self.steps)

    def noise(self) -> tuple[float, bool]:
        """Scatter of batch means in deviations, and whether it was measured, not only bounded by 1 / √N."""
        largest = max(self.sizes)
        full = [row for row, size in zip(self.rows, self.sizes, strict=True) if 2 * size > largest]
        if len(full) < thresholds.BATCHES:
            return 1 / math.sqrt(max(largest, 1)), False
        means = np.stack([mean for _, mean, _ in full])
        var = pooled(full)[1]
        use = var > SMALLEST
        if not use.any():
            return 0.0, True
        return float(np.sqrt(np.mean(means.var(0, ddof=1)[use] / var[use]))), True

    def chance(self) -> float:
        """The gap that is expected by chance: of a running average, and of the batches that were seen."""
        noise, _ = self.noise()
        momentum = self.module.momentum
        average = 1 / max(self.steps, 1) if momentum is None else momentum / (2 - momentum)
        ghosts = getattr(self.module, "ghost_batch_size", None)
        more = 1.0 if ghosts is None else max(max(self.sizes) / ghosts, 1.0)
        return noise * math.sqrt(average * more + 1 / len(self.rows))

    def gaps(self) -> tuple[Array, Array] | None:
        """Of each channel, running minus batch mean in deviations, and the logarithm of running to batch deviation."""
        found = self.running
        if found is None or not self.rows:
            return None
        mean, var = pooled(self.rows)
        spread = var + max(self.eps, SMALLEST)
        with np.errstate(all="ignore"):
            return (found[0] - mean) / np.sqrt(spread), 0.5 * np.log(np.maximum(found[1], SMALLEST) / spread)


class Activity:
    """What an activation returned: which channels were ever other than zero, and how many values were on flat parts."""

    def __init__(self, name: str, number: int, kind: str, after: str) -> None:
        self.name = name
        self.number = number
        self.kind = kind
        self.after = after
        self.samples = 0
        self.alive: Array | None = None
        self.flat = 0
        self.values = 0
        self.last = False
        self.of_consumer = False

    def take(self, y: Array) -> None:
        """Add values of shape (N, C, …)."""
        if self.kind in DYING:
            alive = (y != 0).any(axis=tuple(i for i in range(y.ndim) if i != 1))
            self.alive = alive if self.alive is None or self.alive.shape != alive.shape else self.alive | alive
        self.samples += y.shape[0]
        self.values += y.size
        if self.kind in SLOPES:
            self.flat += int(np.count_nonzero(SLOPES[self.kind](y) < thresholds.FLAT))


DYING = ("relu", "relu6", "hardswish")
SLOPES = {
    "sigmoid": lambda y: 4 * y * (1 - y),
    "tanh": lambda y: 1 - y * y,
    "hardsigmoid": lambda y: (y > 0) & (y < 1),
    "hardtanh": lambda y: (y > -1) & (y < 1),
    "relu6": lambda y: y < 6,
}
"""The slope of an activation, of the steepest, by what it returns."""
KINDS = {
    nn.ReLU: "relu", nn.ReLU6: "relu6", nn.Hardswish: "hardswish", nn.Sigmoid: "sigmoid", nn.Tanh: "tanh",
    nn.Hardsigmoid: "hardsigmoid",
}  # fmt: skip


def activation_of(module: Module) -> str:
    """The kind of activation that a module is, or ends with; "" if it is none that dies or saturates."""
    if by_batches(module):
        kind = str(getattr(module, "activation", "none"))
        return kind if kind in DYING or kind in SLOPES else ""
    if type(module) is nn.Hardtanh and (module.min_val, module.max_val) == (-1, 1):
        return "hardtanh"
    return KINDS.get(type(module), "")


class Seen:
    """All that was seen."""

    def __init__(self) -> None:
        self.layers: list[Layer] = []
        self.normalised = False  # in whatever way
        self.batches: list[Batch] = []
        self.activities: dict[tuple[str, int], Activity] = {}
        self._difference = 0.0
        self._size = 0.0

    def activity(self, name: str, number: int, kind: str, after: str) -> Activity:
        """Return what is kept of one call of an activation within the model's forward."""
        return self.activities.setdefault((name, number), Activity(name, number, kind, after))

    def compare(self, by_batch: list[Tensor], evaluated: list[Tensor]) -> None:
        """Add the difference between outputs in training, without dropout, and in evaluation."""
        for a, b in zip(by_batch, evaluated, strict=False):
            x, y = (np.asarray(t.numpy(), np.float64) for t in (a, b))
            if x.shape == y.shape and np.isfinite(x).all() and np.isfinite(y).all():
                self._difference += float(np.sum(np.square(x - y)))
                self._size += float(np.sum(np.square(x)))

    @property
    def output_gap(self) -> float | None:
        """The root of mean squares of that difference, as a part of the outputs'."""
        return math.sqrt(self._difference / self._size) if self._size else None


def pooled(rows: list[Row]) -> tuple[Array, Array]:
    """Return mean and biased variance of the union of batches."""
    counts = np.array([row[0] for row in rows], np.float64)[:, None]
    means, m2 = (np.stack([row[i] for row in rows]) for i in (1, 2))
    total = max(float(counts.sum()), 1.0)
    mean = (counts * means).sum(0) / total
    return mean, (m2.sum(0) + (counts * np.square(means - mean)).sum(0)) / total


def rms(x: Array) -> float:
    """Return the root of the mean square; 0 of nothing."""
    return float(np.sqrt(np.mean(np.square(x)))) if x.size else 0.0


def _row(m: Moments) -> Row:
    return m.count, np.asarray(m.mean.numpy(), np.float64), np.asarray(m.m2.numpy(), np.float64)
