"""Batch normalisation whose output is disturbed in training by noise that changes with every batch.

    y = s · BN(x) + m,  m ~ U(μ - r_μ, μ + r_μ), s ~ N(σ, r_σ²),  μ ~ U(-n_μ, n_μ), σ ~ U(1, n_σ)

Santurkar, Tsipras, Ilyas & Mądry 2018 (arXiv:1805.11604), appendix A: networks with it train as well as with plain
batch normalisation, although the distributions of their activations shift more than without any.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import ArgumentError, wrong
from tinygrad_bn.functional.family import noisy
from tinygrad_bn.nn.norms._running import RunningNorm
from tinygrad_bn.ops.batch_norm import Statistics, batch_norm_eval, batch_norm_train


class NoisyBatchNorm(RunningNorm):
    """Batch normalisation of inputs (N, C, …), with noise of a mean and variance of its own after it, in training.

    Parameters
    ----------
    num_features : int
        C, the number of channels.
    noise_mean, noise_std : float
        n_μ, at least 0, and n_σ, at least 1: the ranges from which the noise's mean and scale are drawn for each
        channel and batch.
    mean_width, std_width : float
        r_μ and r_σ, at least 0: how far the noise of single elements spreads about these.
    eps, momentum, affine, track_running_stats, device, dtype
        As for ``BatchNorm1d``.

    Attributes
    ----------
    weight, bias, running_mean, running_var, num_batches_tracked, update_stats, use_batch_stats
        As for ``BatchNorm1d``; the noise is no part of the running statistics.

    References
    ----------
    Santurkar, Tsipras, Ilyas & Mądry 2018 (arXiv:1805.11604).
    """

    def __init__(
        self,
        num_features: int,
        noise_mean: float = 0.5,
        noise_std: float = 1.25,
        mean_width: float = 0.1,
        std_width: float = 0.1,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype)
        named = {"noise_mean": noise_mean, "mean_width": mean_width, "std_width": std_width}
        for name, value in named.items():
            if not value >= 0:
                raise ArgumentError(wrong(self._name, name, "at least 0", repr(value)))
        if not noise_std >= 1:
            raise ArgumentError(wrong(self._name, "noise_std", "at least 1", repr(noise_std)))
        self.noise = (float(noise_mean), float(noise_std), float(mean_width), float(std_width))

    def by_batch(self, x: Tensor) -> tuple[Tensor, Sequence[Statistics]]:
        """Return the output by the batch's statistics, in training with noise, and these."""
        y, statistics = batch_norm_train(x, self.weight, self.bias, self.eps)
        return noisy(y, *self.noise) if self.training else y, [statistics]

    def by_running(self, x: Tensor) -> Tensor:
        """Return the output by the running statistics; in training with noise."""
        y = batch_norm_eval(x, self.running_mean, self._second, self.weight, self.bias, self.eps)  # type: ignore[arg-type]  # tracked
        return noisy(y, *self.noise) if self.training else y

    def commit(self, statistics: Statistics, mean: Tensor, second: Tensor, unbiased: bool = True) -> None:
        """Move the running statistics as ``BatchNorm1d`` does."""
        super().commit(statistics, mean, second, unbiased)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, noise={self.noise}"
