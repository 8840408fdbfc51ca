"""The gradients of batch normalisation as a composite of other operations: what their own derivatives are taken of."""

from __future__ import annotations

from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.ops import arithmetic, movement, sums
from tinygrad_bn.ops._activations import through


def axes_of(x: Tensor) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """The axes that are reduced, the shape that a channel's number broadcasts from, and m."""
    shape = x.array.shape
    dims = tuple(i for i in range(len(shape)) if i != 1)
    return dims, (1, shape[1]) + (1,) * (len(shape) - 2), x.array.size // max(shape[1], 1)


def gradients_of(
    gy: Tensor, hat: Tensor, invstd: Tensor, weight: Tensor, bias: Tensor, activation: str, m: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The three gradients as a composite; m is None where the statistics are constants (eval mode)."""
    dims, shape, _ = axes_of(gy)
    gain = movement.reshape(weight, shape) if weight.array.size else None
    if activation != "none":
        z = hat if gain is None else arithmetic.mul(hat, gain)
        z = arithmetic.add(z, movement.reshape(bias, shape)) if bias.array.size else z
        gy = through(gy, z, activation)
    product_ = arithmetic.mul(gy, hat)
    inner = gy
    if m is not None:
        inner = arithmetic.sub(gy, sums.mean(gy, dims, True))
        inner = arithmetic.sub(inner, arithmetic.mul(hat, sums.mean(product_, dims, True)))
    scale = invstd if gain is None else arithmetic.mul(gain, invstd)
    return arithmetic.mul(scale, inner), sums.sum(product_, dims), sums.sum(gy, dims)
