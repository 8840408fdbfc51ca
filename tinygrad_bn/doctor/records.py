"""What was seen of the layers of a model, as numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinygrad_bn import nn
from tinygrad_bn.core.dtype import bfloat16
from tinygrad_bn.core.tensor import Array, Tensor
from tinygrad_bn.doctor import thresholds
from tinygrad_bn.doctor.activities import Activity
from tinygrad_bn.nn.bn_tools.members import second_of
from tinygrad_bn.nn.bn_tools.moments import Moments, merge
from tinygrad_bn.nn.module import Module

SMALLEST = 1e-300  # of what is divided by
Row = tuple[int, Array, Array]


Call = tuple[int, Moments]  # the time step, and what went in


class Batch:
    """One batch: its size, and why training could not take it and at which layer, if it could not."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.error: str | None = None
        self.layer = ""


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

    idle_is_fine = False  # whether a channel of nothing but zeros is as it should be

    def __init__(self, name: str, module: Any, still: bool = False) -> None:
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
        switch = module.__dict__.get("use_batch_stats")
        self.own_switch = False if still and switch is None else switch

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
        self.ulp = 2.0**-7 if x.dtype is bfloat16 else float(np.finfo(x.array.dtype).eps)
        self.ahead = self.ahead or list(ahead)

    def step(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
        """The time step of a call, of layers that know of time."""
        return 0

    def take(self, found: list[Call], size: int) -> None:
        """Add what one batch has shown, call by call."""
        if not all(m.is_finite() for _, m in found):
            self.not_finite += 1
            return
        rows = self.rows_of(found)
        self.counts = self.counts or [row[0] for row in rows]
        for i, row in enumerate(rows):
            if i == len(self.calls):
                self.calls.append([])
            self.calls[i].append(row)
        self.rows.append(self.merged(found))
        self.sizes.append(size)

    def take_plain(self, found: list[Call]) -> None:
        """Add what the same batch has shown without dropout."""
        if all(m.is_finite() for _, m in found):
            self.plain.append(self.merged(found))

    def rows_of(self, found: list[Call]) -> list[Row]:
        """The places at which the layer is called, which share its statistics."""
        return [_row(m) for _, m in found]

    def merged(self, found: list[Call]) -> Row:
        """Of all calls of a batch together."""
        return _row(merge(m for _, m in found))

    def channel(self, index: int) -> str:
        """Name one of the numbers in a row."""
        return f"channel {index}"

    # ------------------------------------------------------------------------------------------------------- figures

    @property
    def size(self) -> float:
        """About how large the first batch's values were, on all ranks; 1 where they were 0."""
        count, mean, m2 = self.rows[0]
        return math.hypot(rms(mean), rms(np.sqrt(m2 / max(count, 1)))) or 1.0

    @property
    def eps(self) -> float:
        return float(self.module.eps)

    @property
    def running(self) -> tuple[Array, Array] | None:
        """Running mean, and running variance with eps, in float64."""
        name = second_of(self.module)
        if name is None:
            return None
        both = (getattr(self.module, n).cpu().double().numpy() for n in ("running_mean", name))
        mean, second = (np.asarray(array, np.float64).reshape(-1) for array in both)
        return mean, second * second if name == "running_std" else second + self.eps

    @property
    def steps(self) -> int:
        """How many batches went into the running statistics."""
        tracked = getattr(self.module, "num_batches_tracked", None)
        return 0 if tracked is None else int(np.max(tracked.cpu().numpy()))

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

    def spread_noise(self) -> float:
        """Scatter of the batches' deviations, in logarithms: more than that of means where tails are heavy."""
        if len(self.rows) < thresholds.BATCHES:
            return 0.0
        var = np.stack([m2 / max(count, 1) for count, _, m2 in self.rows])
        use = (var > SMALLEST).all(0)
        return rms((0.5 * np.log(var[:, use] + self.eps)).std(0, ddof=1))

    def chance(self) -> float:
        """The gap that is expected by chance: of a running average, and of the batches that were seen."""
        noise = max(self.noise()[0], self.spread_noise())
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
            ratio = 0.5 * np.log(np.maximum(found[1], SMALLEST) / spread)
            return (found[0] - mean) / np.sqrt(spread), np.where(var > 0, ratio, 0.0)  # a constant has none to scale

    def unexplained(self) -> float:
        """The part of the gaps that is left when running statistics are put down to what is left of the initial
        ones and, for the rest, to these batches."""
        found, gaps = self.running, self.gaps()
        if found is None or gaps is None:
            return 1.0
        mean, var = pooled(self.rows)
        spread = var + max(self.eps, SMALLEST)
        first = self.initial * (1 + self.eps) + (1 - self.initial) * spread
        with np.errstate(all="ignore"):
            left = found[0] - (1 - self.initial) * mean, 0.5 * np.log(np.maximum(found[1], SMALLEST) / first)
        rest = math.hypot(rms(left[0] / np.sqrt(spread)), rms(np.where(var > 0, left[1], 0.0)))
        return rest / max(math.hypot(rms(gaps[0]), rms(gaps[1])), SMALLEST)


class Steps(Layer):
    """A layer with statistics of each time step's own: its rows are those of all steps, one behind the other."""

    idle_is_fine = True  # the state ahead of the first step

    def step(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
        """The time step of a call, as far as statistics are told apart."""
        time = args[1] if len(args) > 1 else kwargs.get("time", 0)
        last: int = self.module.max_length - 1
        return min(time, last) if isinstance(time, int) else 0  # forward says what is wrong with it

    def rows_of(self, found: list[Call]) -> list[Row]:
        """One place: the steps do not share statistics."""
        return [self.merged(found)]

    def merged(self, found: list[Call]) -> Row:
        """Cut to the shortest sequence of all, with the rows so far."""
        times = sorted({time for time, _ in found})
        rows = [_row(merge(m for time, m in found if time == t)) for t in times]
        count = rows[0][0]  # later steps, which share statistics, have a multiple of it
        spread = [m2 * (count / max(n, 1)) for n, _, m2 in rows]
        made = count, np.concatenate([row[1] for row in rows]), np.concatenate(spread)
        size = min(len(row[1]) for row in [made, *self.rows])
        for kept in (self.rows, self.plain, *self.calls):
            kept[:] = [(n, mean[:size], m2[:size]) for n, mean, m2 in kept]
        return made[0], made[1][:size], made[2][:size]

    def channel(self, index: int) -> str:
        """Name one of the numbers in a row."""
        return f"channel {index % self.module.num_features} of time step {index // self.module.num_features}"

    @property
    def running(self) -> tuple[Array, Array] | None:
        """Running mean, and running variance with eps, of the steps that were seen."""
        size = len(self.rows[0][1]) if self.rows else 0
        both = (
            np.asarray(getattr(self.module, n).cpu().double().numpy(), np.float64)
            for n in ("running_mean", "running_var")
        )
        mean, var = (array.reshape(-1)[:size] for array in both)
        return mean, var + self.eps

    @property
    def steps(self) -> int:
        """How many batches went into the running statistics of the step that has had the fewest."""
        seen = len(self.rows[0][1]) // self.module.num_features if self.rows else self.module.max_length
        return int(np.min(self.module.num_batches_tracked.cpu().numpy()[:seen], initial=2**62)) if seen else 0

    @property
    def switches(self) -> bool:
        """Whether training normalises by the batch, and evaluation by running statistics."""
        return self.own_switch is None


def layer_of(name: str, module: Any, still: bool) -> Layer:
    """Return what keeps the record of a layer; ``still``: in evaluation while the model is in training."""
    return (Steps if isinstance(module, nn.SeparatedBatchNorm1d) else Layer)(name, module, still)


class Seen:
    """All that was seen."""

    def __init__(self) -> None:
        self.layers: list[Layer] = []
        self.normalised = False  # in whatever way
        self.batches: list[Batch] = []
        self.activities: dict[tuple[str, int], Activity] = {}
        self._order: list[Layer] = []
        self._difference = 0.0
        self._size = 0.0

    def activity(self, name: str, number: int, kind: str, after: str) -> Activity:
        """Return what is kept of one call of an activation within the model's forward."""
        return self.activities.setdefault((name, number), Activity(name, number, kind, after))

    def in_order(self, called: list[Layer]) -> None:
        """Note in which order a batch has reached layers."""
        self._order += [layer for layer in called if layer not in self._order]

    @property
    def first_not_finite(self) -> Layer | None:
        """The layer that a batch with a NaN or infinity reached first."""
        return next((layer for layer in self._order if layer.not_finite), None)

    def compare(self, by_batch: list[Tensor], evaluated: list[Tensor]) -> None:
        """Add the difference between outputs in training, without dropout, and in evaluation."""
        for a, b in zip(by_batch, evaluated, strict=False):
            x, y = (np.asarray(t.cpu().double().numpy(), np.float64) for t in (a, b))
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
    return m.count, np.asarray(m.mean.cpu().numpy(), np.float64), np.asarray(m.m2.numpy(), np.float64)
