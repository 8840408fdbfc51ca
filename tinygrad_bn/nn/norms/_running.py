"""What the members have in common: parameters, running statistics, batch normalisation's switches and guard."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from tinygrad_bn import ops
from tinygrad_bn.core.dtype import int64
from tinygrad_bn.core.mixed import mixed
from tinygrad_bn.core.tally import Tally
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import ArgumentError, ShapeError, expected, wrong
from tinygrad_bn.functional._channelwise import checked_input, scaled
from tinygrad_bn.functional.normalisation import checked_momentum, commit
from tinygrad_bn.nn import init
from tinygrad_bn.nn.normalisation import Affine, check_count, checked_eps
from tinygrad_bn.ops._common import is_tensor
from tinygrad_bn.ops.batch_norm import Statistics


class RunningNorm(Affine):
    """A layer for inputs (N, C, …) that normalises by the batch in training and by running statistics in evaluation.

    A member says how: ``by_batch`` returns the output and what is to be committed, ``by_running`` the output.
    """

    second: ClassVar[str] = "running_var"
    """The name of the running statistic beside ``running_mean``."""
    _version = 2
    running_mean: Tensor | None
    num_batches_tracked: Tensor | None

    def __init__(
        self,
        num_features: int,
        eps: float,
        momentum: float | None,
        affine: bool,
        track_running_stats: bool,
        device: Any,
        dtype: Any,
        second: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        check_count(self._name, "num_features", num_features, 0)
        self.num_features = num_features
        self.eps = checked_eps(self._name, eps)
        self.momentum = None if momentum is None else checked_momentum(momentum, self._name)
        self.affine = affine
        self.track_running_stats = track_running_stats
        self.update_stats = True
        self.use_batch_stats: bool | None = None
        self._skipped = Tally()
        size = (num_features,)
        self._register(size, affine, affine, device, dtype)
        for name, shape in (("running_mean", size), (self.second, second or size)):
            made = ops.empty(shape, dtype=dtype, device=device) if track_running_stats else None
            self.register_buffer(name, made)
        counter = ops.zeros((), dtype=int64, device=device) if track_running_stats else None
        self.register_buffer("num_batches_tracked", counter)
        self.reset_parameters()

    @property
    def _name(self) -> str:
        return type(self).__name__

    @property
    def _second(self) -> Tensor:
        found: Tensor = getattr(self, self.second)
        return found

    @property
    def skipped_batches(self) -> int:
        """How many batches left the running statistics as they were because one of their own was not finite.

        Counted since construction or ``reset_running_stats()``; not part of the state dict.
        """
        return int(self._skipped)

    def _may_lack(self, version: int | None) -> tuple[str, ...]:
        """``num_batches_tracked`` came with version 2."""
        return ("num_batches_tracked",) if version is None or version < 2 else ()

    def reset_running_stats(self) -> None:
        """Put the running statistics back to where they start."""
        self._skipped.set(0)
        if self.running_mean is not None and self.num_batches_tracked is not None:
            init.zeros_(self.running_mean)
            init.ones_(self._second)
            init.zeros_(self.num_batches_tracked)

    def reset_parameters(self) -> None:
        """Put the running statistics back, the weight to 1 and the bias to 0."""
        self.reset_running_stats()
        super().reset_parameters()

    @mixed("first")
    def forward(self, input: Tensor) -> Tensor:
        """Return the normalised input, of its shape; an empty one leaves the running statistics as they are.

        Raises
        ------
        ShapeError, DTypeError, DeviceError
        ArgumentError
            If, in training, the batch is too small for its statistics.
        """
        x = self._checked(input)
        tracked = self.running_mean is not None
        batch = self.use_batch_stats
        if batch is None:
            batch = self.training or not tracked
        if not batch and not tracked:
            hint = "set it to None, or track running statistics"
            raise ArgumentError(wrong(self._name, "use_batch_stats", "None or True without these", False, hint))
        if not x.array.size:
            return scaled(x, self.weight, self.bias)
        if not batch:
            return self.by_running(x)
        y, found = self.by_batch(x)
        if tracked and self.training and self.update_stats:
            self.take(found)
        return y

    def by_batch(self, x: Tensor) -> tuple[Tensor, Sequence[Statistics]]:
        """Return the output by the batch's statistics, and these, in the order in which they are taken in."""
        raise NotImplementedError

    def by_running(self, x: Tensor) -> Tensor:
        """Return the output by the running statistics."""
        raise NotImplementedError

    def take(self, found: Sequence[Statistics]) -> None:
        """Move the running statistics towards a batch's, one after the other, as ``BatchNorm`` does."""
        mean = self.running_mean
        if mean is not None:
            for statistics in found:
                self.commit(statistics, mean, self._second)

    def commit(self, statistics: Statistics, mean: Tensor, second: Tensor, unbiased: bool = False) -> None:
        """Move two running statistics; what is not finite is counted and left out."""
        commit(statistics, mean, second, self.momentum, unbiased, self.num_batches_tracked, self._skipped)

    def _checked(self, input: Tensor) -> Tensor:
        """The input, which has this layer's channels and its parameters' dtype and device."""
        x = is_tensor(self._name, "input", input)
        if x.array.ndim < 2 or x.array.shape[1] != self.num_features:
            want = f"shape (N, C, …) with C = {self.num_features}"
            raise ShapeError(expected(self._name, "input", want, x.array.shape))
        return checked_input(self._name, x, weight=self.weight, bias=self.bias, running_mean=self.running_mean)

    def extra_repr(self) -> str:
        head = f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}"
        return f"{head}, track_running_stats={self.track_running_stats}"
