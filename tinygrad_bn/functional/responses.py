"""Normalisation without a batch: of filter responses, and of weights.

FRN   y = x / √(mean(x²) + eps) · weight + bias,  z = max(y, τ)       (Singh & Krishnan 2019, arXiv:1911.09737)
WS    ŵ = (w - mean(w)) / √(var(w) + eps), by filter                  (Qiao et al. 2019, arXiv:1903.10520)
"""

from __future__ import annotations

import math

from tinygrad_bn import ops
from tinygrad_bn.core.mixed import mixed
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import ArgumentError, expected
from tinygrad_bn.functional._channelwise import checked_input, per_channel, scaled
from tinygrad_bn.ops._common import axis, is_floating
from tinygrad_bn.ops.group_norm import layer_norm


@mixed("first")
def filter_response_norm(
    input: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, eps: float | Tensor = 1e-6
) -> Tensor:
    """Divide each channel of each sample by the root of its mean square.

    Parameters
    ----------
    input : Tensor, shape (N, C, L, …), floating point
    weight, bias : Tensor, shape (C,), optional
    eps : float or Tensor
        Inside the square root.

    Returns
    -------
    Tensor, of the input's shape

    Raises
    ------
    ShapeError, DTypeError, DeviceError

    References
    ----------
    Singh & Krishnan 2019 (arXiv:1911.09737).
    """
    x = checked_input("filter_response_norm", input, 3, weight=weight, bias=bias)
    if not x.array.size:
        return scaled(x, weight, bias)
    square = ops.mean(ops.mul(x, x), tuple(range(2, x.array.ndim)), True)
    return scaled(ops.mul(x, ops.pow(ops.add(square, eps), -0.5)), weight, bias)


def thresholded_linear_unit(input: Tensor, tau: Tensor) -> Tensor:
    """Return max(input, τ), a learned threshold for each channel: the ReLU that goes with ``filter_response_norm``.

    Parameters
    ----------
    input : Tensor, shape (N, C, …)
    tau : Tensor, shape (C,)

    Raises
    ------
    ShapeError, DTypeError, DeviceError

    References
    ----------
    Singh & Krishnan 2019 (arXiv:1911.09737).
    """
    x = checked_input("thresholded_linear_unit", input, tau=tau)
    return ops.maximum(x, per_channel(tau, x.array.ndim))


@mixed("first")
def weight_standardization(weight: Tensor, eps: float = 1e-5, dim: int = 0) -> Tensor:
    """Return a weight whose every slice along an axis, a filter, has mean 0 and variance 1.

    Parameters
    ----------
    weight : Tensor, shape (O, I / groups, KH, KW) of a convolution, or any other of two axes or more
    eps : float
        Added to the biased variance, inside the square root.
    dim : int
        The axis of the filters.

    Raises
    ------
    DTypeError
    ArgumentError
        If a filter has one value, which would become 0 whatever it is.

    References
    ----------
    Qiao, Wang, Liu, Shen & Yuille 2019 (arXiv:1903.10520).
    """
    op = "weight_standardization"
    w = is_floating(op, "weight", weight)
    at = axis(op, dim, w.array.ndim)
    moved = ops.transpose(w, 0, at) if at else w
    shape = moved.array.shape
    values = math.prod(shape[1:])
    if values < 2:
        raise ArgumentError(expected(op, "weight", "more than one value a filter", f"shape {w.array.shape}"))
    out = ops.reshape(layer_norm(ops.reshape(moved, (shape[0], values)), (values,), None, None, eps), shape)
    return ops.transpose(out, 0, at) if at else out
