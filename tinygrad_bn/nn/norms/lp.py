"""Batch normalisation by other norms than the second.

    y = (x - μ) / (mean |x - μ|^p + eps)^(1/p) · weight + bias,  p = 1, 2 or infinity: (x - μ) / (max |x - μ| + eps)

Santurkar, Tsipras, Ilyas & Mądry 2018 (arXiv:1805.11604), section 3.3: that it smooths the loss is not for the second
norm alone. They take the norm "before shifting the mean", mean |x|^p: ``uncentred=True``. That of x - μ is Hoffer,
Banner, Golan & Soudry's (2018, arXiv:1803.01814), but for a constant that the weight absorbs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tinygrad_bn import ops
from tinygrad_bn.core.tape import no_grad
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import ArgumentError, wrong
from tinygrad_bn.functional.family import lp_batch_norm
from tinygrad_bn.nn.norms._running import RunningNorm
from tinygrad_bn.ops.batch_norm import Statistics, batch_norm_eval


class LpBatchNorm(RunningNorm):
    """Batch normalisation of inputs (N, C, …) by the ℓ1, ℓ2 or ℓ∞ norm of the centred channel.

    Parameters
    ----------
    num_features : int
        C, the number of channels.
    p : {1, 2, math.inf}
        2 for plain batch normalisation.
    eps : float
        Added ahead of the root.
    momentum, affine, track_running_stats, device, dtype
        As for ``BatchNorm1d``.
    uncentred : bool
        Divide by the norm of the channel as it comes, of x instead of x - μ; a bias ahead then matters.

    Attributes
    ----------
    weight, bias : Parameter, shape (C,), or None
        Start at 1 and 0.
    running_mean, running_norm : Tensor, shape (C,), or None
        Buffers, which start at 0 and 1. The norm is kept ahead of the root, mean |x - μ|^p, biased; max |x - μ|.
    num_batches_tracked, update_stats, use_batch_stats
        As for ``BatchNorm1d``.

    References
    ----------
    Santurkar, Tsipras, Ilyas & Mądry 2018 (arXiv:1805.11604); Hoffer, Banner, Golan & Soudry 2018 (arXiv:1803.01814).
    """

    second = "running_norm"

    def __init__(
        self,
        num_features: int,
        p: float = 1,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        uncentred: bool = False,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype)
        if p not in (1, 2, math.inf):
            raise ArgumentError(wrong(self._name, "p", "1, 2 or math.inf", repr(p)))
        self.p = p
        self.uncentred = uncentred

    def by_batch(self, x: Tensor) -> tuple[Tensor, Sequence[Statistics]]:
        """Return the output by the batch's statistics, and these."""
        y, statistics = lp_batch_norm(x, self.p, self.weight, self.bias, self.eps, self.uncentred)
        return y, [statistics]

    def by_running(self, x: Tensor) -> Tensor:
        """Return the output by the running statistics."""
        var, eps = self._second, self.eps
        if self.p != 2:
            with no_grad():
                norm = ops.add(var, eps)
                var, eps = ops.mul(norm, norm), 0.0
        return batch_norm_eval(x, self.running_mean, var, self.weight, self.bias, eps)  # type: ignore[arg-type]  # tracked

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, p={self.p}" + (", uncentred=True" if self.uncentred else "")
