"""Batch normalisation over the batches of several ranks, as if they were one.

    forward    (count, mean, M2) of every rank, merged            -> mean, var of all M values of a channel
    backward   gx = γ invstd (gy - Σgy / M - x̂ Σ(gy x̂) / M)      both sums over all ranks
               gγ = Σ gy x̂, gβ = Σ gy                             over this rank's values alone

as where each rank has the gradients of its own loss, which whoever trains averages or adds over the ranks. Ioffe &
Szegedy 2015 (arXiv:1502.03167) over a batch that is spread; Peng et al. 2018 (arXiv:1711.07240), section 3.2.
"""

from __future__ import annotations

from typing import Any, cast

from tinygrad_bn import ops
from tinygrad_bn.core.dtype import float64
from tinygrad_bn.core.tape import Gradients, Node, mode, no_grad, record
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import ArgumentError, wrong
from tinygrad_bn.functional.normalisation import check_running, commit
from tinygrad_bn.nn.batch_norm import BatchNorm
from tinygrad_bn.nn.bn_tools.communicator import Communicator
from tinygrad_bn.nn.bn_tools.moments import Moments, merge
from tinygrad_bn.nn.module import Module
from tinygrad_bn.ops._activations import activated
from tinygrad_bn.ops._channels import check, new_rows
from tinygrad_bn.ops._norm_gradients import axes_of
from tinygrad_bn.ops.batch_norm import Statistics, or_nothing
from tinygrad_bn.ops.batch_norm_residual import check_residual
from tinygrad_bn.ops.convolution_norm import batch_norm_given


class SumOverRanks(Node):
    """y = Σ of x over the ranks; each rank's x goes into the y of all, so its gradient is the sum of theirs."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        return (sum_over_ranks(gy, self.constants[0]),)


def sum_over_ranks(x: Tensor, communicator: Communicator) -> Tensor:
    """Return the sum of the ranks' tensors, on the tape."""
    with no_grad():
        total = communicator.all_reduce(x.detach())
    return record(SumOverRanks, total, (x,), (), (communicator,))


class SyncBatchNormTrain(Node):
    """The gradients above; x̂ is recomputed, and on the tape where derivatives of the gradients are wanted."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        x, weight, _ = self.unpack()
        statistics, eps, communicator = self.constants
        count = statistics.count
        dims, shape, _ = axes_of(x)

        def over_all(t: Tensor) -> Tensor:
            total = sum_over_ranks(ops.to(ops.sum(t, dims, True), float64), communicator)
            return ops.to(ops.div(total, count), t.dtype)

        if mode.grad:
            centred = ops.sub(x, over_all(x))
            invstd = ops.pow(ops.add(over_all(ops.square(centred)), eps), -0.5)
        else:
            high, low, _, inverse = (ops.reshape(Tensor(row, x.dtype, x.device), shape) for row in statistics.rows)
            centred, invstd = ops.sub(ops.sub(x, high), low), inverse
        hat = ops.mul(centred, invstd)
        product = ops.mul(gy, hat)
        inner = ops.sub(ops.sub(gy, over_all(gy)), ops.mul(hat, over_all(product)))
        scale = ops.mul(ops.reshape(weight, shape), invstd) if weight.array.size else invstd
        return ops.mul(scale, inner), ops.sum(product, dims), ops.sum(gy, dims)


def sync_batch_norm(
    input: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, communicator: Communicator
) -> tuple[Tensor, Statistics]:
    """Normalise each channel by the statistics of all ranks' batches; every rank calls this at the same point.

    Parameters
    ----------
    input : Tensor, shape (N, C, …), float32 or float64
        This rank's; N and what follows C may differ among the ranks.
    weight, bias : Tensor, shape (C,), optional
    eps : float
    communicator : Communicator

    Returns
    -------
    y : Tensor, of the input's shape
    statistics : Statistics
        Of all ranks, and M, the values of a channel on all of them.

    Raises
    ------
    ArgumentError
        On every rank, if a channel has one value on all of them together.
    """
    x = input
    check(x, ("weight", weight), ("bias", bias))
    with no_grad():
        packed = communicator.all_gather(Moments.of(x).packed())
        together = merge(Moments.unpacked(p) for p in packed)
    if together.count == 1:
        raise ArgumentError(
            f"sync_batch_norm: 'input' must have more than one value a channel over all {communicator.size} ranks "
            f"in training. Got 1; here shape {x.array.shape}.\nHint: use larger batches (drop_last=True), or eval mode."
        )
    statistics = _statistics(x, together, eps)
    with no_grad():
        y = batch_norm_given(x, statistics, weight, bias, eps, "none")
    w, b = or_nothing(weight, x), or_nothing(bias, x)
    return record(SyncBatchNormTrain, y, (x, w, b), (x, w, b), (statistics, eps, communicator)), statistics


def _statistics(x: Tensor, moments: Moments, eps: float) -> Statistics:
    """The moments as kernels take them: the mean in two numbers, biased variance, 1 / √(var + eps)."""
    rows = new_rows(x)
    with no_grad():
        high = ops.to(moments.mean, x.dtype)
        low = ops.sub(moments.mean, ops.to(high, float64))
        var = moments.var(unbiased=False)
        inverse = ops.pow(ops.add(var, eps), -0.5)
        for row, value in zip(rows, (high, low, var, inverse), strict=True):
            Tensor(row, x.dtype, x.device).copy_(value)
    return Statistics(rows, moments.count)


class SyncBatchNorm(BatchNorm):
    """Batch normalisation whose statistics, in training, are those of the batches of all ranks.

    Parameters
    ----------
    num_features, eps, momentum, affine, track_running_stats
        As for ``BatchNorm1d``.
    process_group : Communicator, optional
        What connects the ranks; without one, or with one rank, the layer is a plain batch normalisation of inputs
        (N, C), (N, C, L), (N, C, H, W) or (N, C, D, H, W).
    device, dtype, **options
        As for ``BatchNorm1d``.

    Notes
    -----
    Each rank's count, mean and sum of squared deviations are merged (Chan); Bessel's factor, and the check that a
    channel has more than one value, take the count of all ranks, so that one value a rank is enough. An empty batch on
    some ranks is no obstacle. The gradients of weight and bias are those of this rank's outputs, as in PyTorch. All
    ranks must run forward, and backward, of their layers in the same order. Second derivatives go over the ranks too.
    """

    axes = (2, 3, 4, 5)
    shapes = "(N, C, …) of 2 to 5 axes"

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: Communicator | None = None,
        device: Any = None,
        dtype: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, **options)
        if self.axis != 1:
            raise ArgumentError(wrong("SyncBatchNorm", "axis", "1", repr(self.axis), "permute the input"))
        self.process_group = process_group

    def forward_activated(self, input: Tensor, activation: str, residual: Tensor | None = None) -> Tensor:
        """Return an activation of the normalised input and of the residual added to it."""
        group = self.process_group
        if group is None or group.size == 1 or not self.training or self.use_batch_stats is False:
            return super().forward_activated(input, activation, residual)
        if not isinstance(input, Tensor) or input.array.ndim not in self.axes:
            self._refuse(input)
        if input.array.shape[1] != self.num_features:
            self._refuse(input)
        mean, var = self.running_mean, self.running_var
        check_running(input, mean, var)
        y, statistics = sync_batch_norm(input, self.weight, self.bias, float(self.eps), group)
        if mean is not None and var is not None and self.update_stats:
            commit(statistics, mean, var, self.momentum, self.unbiased, self.num_batches_tracked, self._skipped)
        if residual is not None:
            check_residual(input, residual)
            y = ops.add(y, residual)
        return activated(y, activation)

    def forward_linear(self, linear: Any, input: Tensor, activation: str) -> Tensor:
        """Return ``forward_activated(linear(input), activation)``."""
        return self.forward_activated(linear.forward(input), activation)

    def _formed(self, input: Tensor, activation: str, residual: Tensor | None, mask: Tensor | None) -> Tensor:
        """Normalise what a mask leaves: of this rank alone, so that it must be the only one."""
        if self.process_group is not None and self.process_group.size > 1 and self._takes_batch():
            hint = "select what counts first: x.transpose(1, 2)[mask], shape (m, C)"
            raise ArgumentError(
                wrong("SyncBatchNorm", "mask", "None where statistics go over several ranks", "one", hint)
            )
        return super()._formed(input, activation, residual, mask)

    def together(self, moments: Moments | None) -> Moments | None:
        """Return the moments of all ranks, merged in their order; None stands for none."""
        if self.process_group is None:
            return moments
        if moments is None:
            zeros = ops.zeros((self.num_features,), dtype=float64, device=cast("Tensor", self.running_mean).device)
            moments = Moments(0, zeros, zeros)
        found = merge(map(Moments.unpacked, self.process_group.all_gather(moments.packed())))
        return found if found.count else None

    @classmethod
    def convert_sync_batchnorm(cls, module: Module, process_group: Communicator | None = None) -> Module:
        """Replace all batch norms of a model by synchronised ones, which take over parameters, buffers and switches.

        Parameters
        ----------
        module : Module
            Changed in place, unless it is a batch norm itself.
        process_group : Communicator, optional

        Returns
        -------
        Module
            The module, or what replaces it.
        """
        from tinygrad_bn.nn.bn_tools.convert import convert

        return convert(module, cls, of=BatchNorm, process_group=process_group)
