"""The backward pass of batch normalisation, three times: to be read side by side.

    y = (x - mean) / √(var + eps) · weight + bias,   mean = Σ x / m,   var = Σ (x - mean)² / m

The notes of Stanford's CS231n ask for it twice, step by step through the graph and simplified on paper; the third is
what this package runs. Ioffe & Szegedy 2015 (arXiv:1502.03167), section 3, has the first. All take x of shape (m, C),
and g, the gradient of a loss with respect to y.
"""

from __future__ import annotations

from typing import NamedTuple

from tinygrad_bn.core.tape import no_grad
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import ShapeError, expected
from tinygrad_bn.ops._channels import check
from tinygrad_bn.ops._common import is_tensor
from tinygrad_bn.ops.batch_norm import batch_norm_backward, single_value
from tinygrad_bn.ops.convolution_norm import statistics_of

__all__ = ["Gradients", "backward_fused", "backward_simplified", "backward_step_by_step"]


class Gradients(NamedTuple):
    """What a backward pass returns.

    Attributes
    ----------
    x : Tensor, shape (m, C)
    weight, bias : Tensor, shape (C,)
    """

    x: Tensor
    weight: Tensor
    bias: Tensor


@no_grad()
def backward_step_by_step(g: Tensor, x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Gradients:
    """Return the gradients by walking the graph of the forward pass back, one operation at a time.

    Parameters
    ----------
    g, x : Tensor, shape (m, C)
        m of at least 2.
    weight, bias : Tensor, shape (C,)
    eps : float

    Returns
    -------
    Gradients

    Raises
    ------
    ShapeError, DTypeError, DeviceError, ArgumentError

    Notes
    -----
    Where a value goes two ways, its gradient is the sum of what comes back on both: x into the mean and into the
    difference, the difference into x̂ and into the variance.
    """
    m = _values("backward_step_by_step", g, x, weight, bias)
    # forward, every intermediate result under a name
    mean = x.sum(0) / m
    centred = x - mean
    squared = centred * centred
    var = squared.sum(0) / m
    std = (var + eps).sqrt()
    invstd = 1 / std
    hat = centred * invstd
    # backward, the same in reverse: y = weight hat + bias
    gbias = g.sum(0)
    gweight = (g * hat).sum(0)
    ghat = g * weight
    # hat = centred invstd
    gcentred = ghat * invstd
    ginvstd = (ghat * centred).sum(0)
    # invstd = 1 / std
    gstd = -ginvstd / (std * std)
    # std = √(var + eps)
    gvar = 0.5 * gstd / std
    # var = Σ squared / m
    gsquared = (gvar / m).expand(x.shape)
    # squared = centred²
    gcentred = gcentred + 2 * centred * gsquared
    # centred = x - mean
    gx = gcentred
    gmean = -gcentred.sum(0)
    # mean = Σ x / m
    gx = gx + gmean / m
    return Gradients(gx, gweight, gbias)


@no_grad()
def backward_simplified(g: Tensor, x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Gradients:
    """Return the gradients by the formula that the steps come to.

    gx = weight invstd (g - mean(g) - x̂ mean(g x̂)): g without its part along 1 and its part along x̂, the two
    directions in which a change of x does not change y.

    Parameters, results and errors as for ``backward_step_by_step``.
    """
    m = _values("backward_simplified", g, x, weight, bias)
    mean = x.mean(0)
    invstd = (((x - mean) ** 2).mean(0) + eps) ** -0.5
    hat = (x - mean) * invstd
    gbias = g.sum(0)
    gweight = (g * hat).sum(0)
    gx = weight * invstd * (g - gbias / m - hat * gweight / m)
    return Gradients(gx, gweight, gbias)


@no_grad()
def backward_fused(g: Tensor, x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Gradients:
    """Return the gradients by the kernel that layers run: two passes over memory, and nothing stored in between.

    The first pass takes Σ g and Σ g d, d = x - mean, in one loop: they are gbias and, times invstd, gweight. With
    them the second has gx = weight invstd (g - k1 - d k2), k1 = gbias / m and k2 = invstd gweight / m. x̂ is never
    stored: forward saves x, mean and invstd.

    Parameters, results and errors as for ``backward_step_by_step``.
    """
    _values("backward_fused", g, x, weight, bias)
    statistics = statistics_of(x, eps)
    return Gradients(*batch_norm_backward(g, x, weight, bias, statistics, eps, "none"))


def _values(op: str, g: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> int:
    """m, once everything has been found to fit."""
    check(x, ("weight", weight), ("bias", bias))
    if x.array.ndim != 2:
        raise ShapeError(expected(op, "x", "shape (m, C)", x.array.shape))
    if is_tensor(op, "g", g).array.shape != x.array.shape:
        raise ShapeError(expected(op, "g", f"the shape of x, {x.array.shape}", g.array.shape))
    if x.array.shape[0] < 2:
        raise single_value(x)
    return int(x.array.shape[0])
