"""Count, mean and sum of squared deviations of each channel, and how those of two sets become those of their union.

    n = n_a + n_b,   δ = mean_b - mean_a
    mean = mean_a + δ n_b / n
    M2   = M2_a + M2_b + δ² n_a n_b / n

Chan, Golub & LeVeque 1979 (Stanford CS-TR-79-773), equations 2.1. Unlike sums of squares, these lose nothing where the
mean is large; everything is float64, whatever the layers are.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce

from tinygrad_bn import ops
from tinygrad_bn.core.dtype import float64
from tinygrad_bn.core.tape import no_grad
from tinygrad_bn.core.tensor import Array, Tensor
from tinygrad_bn.ops.batch_norm import Statistics
from tinygrad_bn.ops.convolution_norm import statistics_of

PART = 1 << 20
"""Elements that are taken at a time."""


class Moments:
    """What a set of values says about the mean and variance of each channel.

    Attributes
    ----------
    count : int
        The values of one channel.
    mean, m2 : Tensor, shape (C,), float64
        Their mean, and Σ (x - mean)².
    """

    __slots__ = ("count", "m2", "mean")

    def __init__(self, count: int, mean: Tensor, m2: Tensor) -> None:
        self.count = count
        self.mean = mean
        self.m2 = m2

    @classmethod
    def of(cls, x: Tensor) -> Moments:
        """Return those of an input, shape (N, C, …)."""
        with no_grad():
            found = statistics_of(x, 1.0)  # eps goes into 1 / √(var + eps) alone, which is not used
            if not found.count or not x.array.size:
                zeros = ops.zeros((x.array.shape[1],), dtype=float64, device=x.device)
                return cls(0, zeros, zeros)
            high, low, var = (_row(x, found, i) for i in range(3))
            return cls(found.count, ops.add(high, low), ops.mul(var, found.count))

    @classmethod
    def exactly(cls, x: Tensor) -> Moments:
        """Return those of an input, shape (N, C, …), to the rounding of float64.

        ``of`` rounds what it finds of float32 inputs to float32: a relative error of up to 1e-6 in the variance, where
        the mean is large. Here the input becomes float64, in parts, so that it takes little memory.
        """
        if x.dtype is float64 or not x.array.size:
            return cls.of(x)
        size = max(PART * x.array.shape[0] // x.array.size, 1)
        starts = range(0, x.array.shape[0], size)
        with no_grad():
            parts = (ops.narrow(x, 0, at, min(size, x.array.shape[0] - at)) for at in starts)
            return merge(cls.of(ops.to(part, float64)) for part in parts)

    def merged(self, other: Moments) -> Moments:
        """Return the moments of the union of two sets."""
        if not self.count or not other.count:
            return self if self.count else other
        n = self.count + other.count
        delta = ops.sub(other.mean, self.mean)
        mean = ops.add(self.mean, ops.mul(delta, other.count / n))
        between = ops.mul(ops.square(delta), self.count * (other.count / n))
        return Moments(n, mean, ops.add(ops.add(self.m2, other.m2), between))

    def var(self, unbiased: bool) -> Tensor:
        """Return the variance, with or without Bessel's factor n / (n - 1), which one value does not get."""
        return ops.div(self.m2, max(self.count - unbiased, 1))

    def is_finite(self) -> bool:
        """Whether every number is."""
        return bool(ops.all(ops.isfinite(ops.add(self.mean, self.m2))).item())

    def packed(self) -> Tensor:
        """Return count, means and sums as one tensor of shape (2 C + 1,), as ranks exchange them."""
        count = ops.full((1,), float(self.count), dtype=float64, device=self.mean.device)
        return ops.cat([count, self.mean, self.m2])

    @classmethod
    def unpacked(cls, packed: Tensor) -> Moments:
        """Return what ``packed`` made a tensor of."""
        channels = (packed.array.shape[0] - 1) // 2
        mean, m2 = ops.narrow(packed, 0, 1, channels), ops.narrow(packed, 0, 1 + channels, channels)
        return cls(int(ops.narrow(packed, 0, 0, 1).item()), mean, m2)


def merge(moments: Iterable[Moments]) -> Moments:
    """Return the moments of the union of several sets, merged in their order."""
    return reduce(Moments.merged, moments)


def _row(x: Tensor, statistics: Statistics, index: int) -> Tensor:
    row: Array = statistics.rows[index]
    return ops.to(Tensor(row, x.dtype, x.device), float64)
