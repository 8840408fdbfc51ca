"""Batch normalisation that also makes channels uncorrelated: the whitening that the paper of 2015 found too costly.

    y = W (x - μ) · weight + bias,  W = Σ^(-1/2) of a group of channels, by eigenvalues or by Newton's iterations

Huang et al. 2018 (arXiv:1804.08450) and 2019 (arXiv:1904.03441).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tinygrad_bn import ops
from tinygrad_bn.core.tape import no_grad
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.functional._channelwise import rows_with
from tinygrad_bn.functional.whitening import check_groups, decorrelated_batch_norm, iter_norm, projected
from tinygrad_bn.nn.normalisation import check_count
from tinygrad_bn.nn.norms._running import RunningNorm
from tinygrad_bn.ops import inplace
from tinygrad_bn.ops.batch_norm import Statistics


class _Whitening(RunningNorm):
    """The layers' common part: a matrix for each group of channels where others keep a variance."""

    def __init__(
        self,
        num_features: int,
        group_size: int | None,
        eps: float,
        momentum: float | None,
        affine: bool,
        track_running_stats: bool,
        device: Any,
        dtype: Any,
    ) -> None:
        check_count(self._name, "num_features", num_features, 0)
        size = max(num_features, 1) if group_size is None else group_size
        check_groups(self._name, "num_features", num_features, size)
        self.group_size = size
        shape = (num_features // size, size, size)
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, shape)

    def reset_running_stats(self) -> None:
        """Put the running statistics back to mean 0 and the identity, no batches."""
        super().reset_running_stats()
        if self.running_mean is not None:
            second = self._second
            with no_grad():
                one = ops.eye(self.group_size, dtype=second.dtype, device=second.device)
                inplace.copy_(second, ops.expand(one, second.array.shape))

    def whitened(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the output, the batch's mean and its projection."""
        raise NotImplementedError

    def by_batch(self, x: Tensor) -> tuple[Tensor, Sequence[Statistics]]:
        """Return the output by the batch's statistics, and these, mean and projection in one row."""
        y, mean, projection = self.whitened(x)
        both = ops.cat([mean, ops.reshape(projection, (-1,))])
        none = ops.zeros_like(both)
        return y, [rows_with(x.array.size // self.num_features, both, none, none)]

    def by_running(self, x: Tensor) -> Tensor:
        """Return the output by the running statistics."""
        return projected(x, self.running_mean, self._second, self.weight, self.bias)  # type: ignore[arg-type]  # tracked

    def commit(self, statistics: Statistics, mean: Tensor, second: Tensor, unbiased: bool = False) -> None:
        """Move mean and projection as one statistic, so that a batch goes into both or neither."""
        with no_grad():
            both = ops.cat([mean.detach(), ops.reshape(second.detach(), (-1,))])
            super().commit(statistics, both, ops.zeros_like(both), unbiased)
            inplace.copy_(mean, ops.narrow(both, 0, 0, self.num_features))
            left = ops.narrow(both, 0, self.num_features, second.array.size)
            inplace.copy_(second, ops.reshape(left, second.array.shape))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, group_size={self.group_size}"


class DecorrelatedBatchNorm(_Whitening):
    """Decorrelated batch normalisation of inputs (N, C, …): ZCA whitening by groups of channels.

    Parameters
    ----------
    num_features : int
        C, the number of channels.
    group_size : int, optional
        How many consecutive channels are made uncorrelated, a divisor of C; default: all. The paper's is 16. In
        training a channel needs more values than that, and many more for statistics worth keeping.
    eps : float
        Added to the variances.
    momentum : float or None
        The weight of the new batch in the running statistics; None: their average.
    affine : bool
        Whether there are a weight and a bias.
    track_running_stats : bool
        Whether running statistics are kept; without them evaluation, too, uses the batch's.
    device : Device or str, optional
    dtype : DType, optional

    Attributes
    ----------
    weight, bias : Parameter, shape (C,), or None
        Start at 1 and 0.
    running_mean : Tensor, shape (C,), or None
        A buffer, which starts at 0.
    running_projection : Tensor, shape (C / group_size, group_size, group_size), or None
        A buffer, which starts as identities: the average of Σ^(-1/2).
    num_batches_tracked, update_stats, use_batch_stats
        As for ``BatchNorm1d``.

    Notes
    -----
    Gradients, second ones included, are finite and right where eigenvalues are equal: see ``functional/whitening.py``.

    References
    ----------
    Huang, Yang, Lang & Deng 2018 (arXiv:1804.08450).
    """

    second = "running_projection"

    def __init__(
        self,
        num_features: int,
        group_size: int | None = None,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(num_features, group_size, eps, momentum, affine, track_running_stats, device, dtype)

    def whitened(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the output, the batch's mean and its projection."""
        return decorrelated_batch_norm(x, self.group_size, self.weight, self.bias, self.eps)


class IterNorm(_Whitening):
    """Iterative normalisation of inputs (N, C, …): whitening approached by T of Newton's iterations.

    Parameters
    ----------
    num_features : int
        C, the number of channels.
    group_size : int, optional
        How many consecutive channels are made uncorrelated, a divisor of C; default: all. The paper's is 64.
    T : int
        How many iterations: few leave small eigenvalues small, and any number is stable; see ``functional.iter_norm``.
    eps, momentum, affine, track_running_stats, device, dtype
        As for ``DecorrelatedBatchNorm``.

    Attributes
    ----------
    weight, bias : Parameter, shape (C,), or None
        Start at 1 and 0.
    running_mean : Tensor, shape (C,), or None
        A buffer, which starts at 0.
    running_wmat : Tensor, shape (C / group_size, group_size, group_size), or None
        A buffer, which starts as identities: the average of W.
    num_batches_tracked, update_stats, use_batch_stats
        As for ``BatchNorm1d``.

    References
    ----------
    Huang, Zhou, Zhu, Liu & Shao 2019 (arXiv:1904.03441).
    """

    second = "running_wmat"

    def __init__(
        self,
        num_features: int,
        group_size: int | None = None,
        T: int = 5,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        check_count("IterNorm", "T", T, 1)
        super().__init__(num_features, group_size, eps, momentum, affine, track_running_stats, device, dtype)
        self.T = T

    def whitened(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the output, the batch's mean and its projection."""
        return iter_norm(x, self.group_size, self.T, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, T={self.T}"
