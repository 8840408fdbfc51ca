"""Batch renormalisation: what training sees is what evaluation will do.

    y = ((x - μ_B) / σ_B · r + d) · weight + bias
    r = clip(σ_B / σ, 1 / rmax, rmax),  d = clip((μ_B - μ) / σ, -dmax, dmax)
    μ += momentum (μ_B - μ),  σ += momentum (σ_B - σ),  σ_B = √(var + eps)

Ioffe 2017 (arXiv:1702.03275), Algorithm 1. r and d have no gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tinygrad_bn import ops
from tinygrad_bn.core.tape import no_grad
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import ArgumentError, wrong
from tinygrad_bn.functional.family import batch_renorm
from tinygrad_bn.nn.norms._running import RunningNorm
from tinygrad_bn.ops.batch_norm import Statistics, batch_norm_eval, batch_norm_train


@dataclass(frozen=True)
class RenormSchedule:
    """How far batch renormalisation may correct at each step: not at all at first, then linearly more.

    Parameters
    ----------
    rmax, dmax : float
        Where the bounds end: at least 1, and at least 0.
    plain_steps : int
        How many steps are plain batch normalisation, rmax = 1 and dmax = 0.
    rmax_steps, dmax_steps : int
        At which step each bound arrives.

    Notes
    -----
    The defaults are the paper's, section 4.1.

    Examples
    --------
    >>> schedule = RenormSchedule()
    >>> schedule(0), schedule(25_000), schedule(40_000)
    ((1.0, 0.0), (2.142857142857143, 5.0), (3.0, 5.0))
    """

    rmax: float = 3.0
    dmax: float = 5.0
    plain_steps: int = 5_000
    rmax_steps: int = 40_000
    dmax_steps: int = 25_000

    def __post_init__(self) -> None:
        op = "RenormSchedule"
        if not self.rmax >= 1:
            raise ArgumentError(wrong(op, "rmax", "at least 1", repr(self.rmax)))
        if not self.dmax >= 0:
            raise ArgumentError(wrong(op, "dmax", "at least 0", repr(self.dmax)))
        for name in ("rmax_steps", "dmax_steps"):
            if not getattr(self, name) >= self.plain_steps >= 0:
                want = f"at least plain_steps = {self.plain_steps}, which is at least 0"
                raise ArgumentError(wrong(op, name, want, getattr(self, name)))

    def __call__(self, step: int) -> tuple[float, float]:
        """Return rmax and dmax at a step, counted from 0."""
        r, d = (self._way(step, end) for end in (self.rmax_steps, self.dmax_steps))
        return 1.0 + (self.rmax - 1.0) * r, self.dmax * d

    def _way(self, step: int, end: int) -> float:
        """How much of the way from ``plain_steps`` to an end is done."""
        if step >= end:
            return 1.0
        return (step - self.plain_steps) / (end - self.plain_steps) if step > self.plain_steps else 0.0


class BatchRenorm(RunningNorm):
    """Batch renormalisation of inputs (N, C, …): for batches that are small or not drawn independently.

    Parameters
    ----------
    num_features : int
        C, the number of channels.
    eps : float
        Inside the square root.
    momentum : float or None
        The weight of the new batch in the running statistics; the paper's is 0.01. None: their average.
    affine : bool
        Whether there are a weight and a bias.
    track_running_stats : bool
        False: plain batch normalisation, as there is nothing to correct towards.
    schedule : callable or (float, float), optional
        Takes the number of batches that went into the running statistics, returns (rmax, dmax); or these, for good,
        with which a step can be captured. Default: ``RenormSchedule()``.
    device : Device or str, optional
    dtype : DType, optional

    Attributes
    ----------
    weight, bias : Parameter, shape (C,), or None
        Start at 1 and 0.
    running_mean, running_std : Tensor, shape (C,), or None
        Buffers, which start at 0 and 1. It is the deviation √(var + eps) that is averaged, biased.
    num_batches_tracked : Tensor, shape (), int64, or None
        A buffer: how many batches went into the running statistics, and so the step of the schedule.
    update_stats, use_batch_stats
        Switches as for ``BatchNorm1d``.

    References
    ----------
    Ioffe 2017 (arXiv:1702.03275).
    """

    second = "running_std"

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.01,
        affine: bool = True,
        track_running_stats: bool = True,
        schedule: Callable[[int], tuple[float, float]] | tuple[float, float] | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype)
        if schedule is not None and not callable(schedule) and not isinstance(schedule, tuple):
            raise ArgumentError(wrong(self._name, "schedule", "a function of the step or a pair", repr(schedule)))
        self.schedule = RenormSchedule() if schedule is None else schedule

    @property
    def limits(self) -> tuple[float, float]:
        """rmax and dmax of the next batch."""
        if isinstance(self.schedule, tuple):
            return self.schedule
        return self.schedule(0 if self.num_batches_tracked is None else int(self.num_batches_tracked.item()))

    def by_batch(self, x: Tensor) -> tuple[Tensor, Sequence[Statistics]]:
        """Return the output by the batch's statistics, corrected in training, and these."""
        if self.running_mean is None or not self.training:
            return batch_norm_train(x, self.weight, self.bias, self.eps)[0], ()
        rmax, dmax = self.limits
        given = (x, self.running_mean, self._second, self.weight, self.bias)
        y, statistics = batch_renorm(*given, rmax, dmax, self.eps)
        return y, [statistics]

    def by_running(self, x: Tensor) -> Tensor:
        """Return (x - μ) / σ · weight + bias with the running μ and σ."""
        with no_grad():
            square = ops.mul(self._second, self._second)
        return batch_norm_eval(x, self.running_mean, square, self.weight, self.bias, 0.0)  # type: ignore[arg-type]  # tracked
