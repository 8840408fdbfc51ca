"""Ghost batch normalisation: the statistics of small batches in large ones.

    y = (x - μ_g) / √(v_g + eps) · weight + bias,  μ_g and v_g of the ghost batch that a sample is in

Hoffer, Hubara & Soudry 2017 (arXiv:1705.08741), Algorithm 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.functional.family import ghost_batch_norm
from tinygrad_bn.nn.normalisation import check_count
from tinygrad_bn.nn.norms._running import RunningNorm
from tinygrad_bn.ops.batch_norm import Statistics, batch_norm_eval


class GhostBatchNorm(RunningNorm):
    """Batch normalisation of inputs (N, C, …) by parts of the batch, so that large batches are as noisy as small ones.

    Parameters
    ----------
    num_features : int
        C, the number of channels.
    ghost_batch_size : int
        Samples, consecutive ones, that are normalised together in training; batches must be multiples of it.
    eps : float
        Inside the square root.
    momentum : float or None
        The weight of a ghost batch in the running statistics; None: their average, each counted alike.
    affine : bool
        Whether there are a weight and a bias.
    track_running_stats : bool
        Whether running statistics are kept; without them evaluation, too, uses ghost batches.
    device : Device or str, optional
    dtype : DType, optional

    Attributes
    ----------
    weight, bias : Parameter, shape (C,), or None
        Start at 1 and 0.
    running_mean, running_var : Tensor, shape (C,), or None
        Buffers, which start at 0 and 1; ghost batches are taken in one after the other. The variance is unbiased.
    num_batches_tracked : Tensor, shape (), int64, or None
        A buffer that counts ghost batches.
    update_stats, use_batch_stats
        Switches as for ``BatchNorm1d``.

    References
    ----------
    Hoffer, Hubara & Soudry 2017 (arXiv:1705.08741).
    """

    def __init__(
        self,
        num_features: int,
        ghost_batch_size: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        check_count("GhostBatchNorm", "ghost_batch_size", ghost_batch_size, 1)
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype)
        self.ghost_batch_size = ghost_batch_size

    def by_batch(self, x: Tensor) -> tuple[Tensor, Sequence[Statistics]]:
        """Return the output by ghost batches' statistics, and these."""
        return ghost_batch_norm(x, self.ghost_batch_size, self.weight, self.bias, self.eps)

    def by_running(self, x: Tensor) -> Tensor:
        """Return the output by the running statistics, as plain batch normalisation."""
        return batch_norm_eval(x, self.running_mean, self._second, self.weight, self.bias, self.eps)  # type: ignore[arg-type]  # tracked

    def commit(self, statistics: Statistics, mean: Tensor, second: Tensor, unbiased: bool = True) -> None:
        """Move the running statistics; the variance takes Bessel's factor of a ghost batch."""
        super().commit(statistics, mean, second, unbiased)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, ghost_batch_size={self.ghost_batch_size}"
