"""Convolution and batch normalisation that share trips through memory."""

from __future__ import annotations

from tinygrad_bn.core.mixed import mixed, plainly
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import ShapeError, expected
from tinygrad_bn.functional.convolution import Extents, conv2d, geometry_of
from tinygrad_bn.functional.normalisation import batch_norm_act, check_running, commit
from tinygrad_bn.ops._channels import check
from tinygrad_bn.ops.batch_norm_residual import check_residual
from tinygrad_bn.ops.convolution_norm import batch_norm_given, convolution_moments, norm_convolution, statistics_of


@mixed("first")
def conv2d_batch_norm_act(
    input: Tensor,
    weight: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    bn_weight: Tensor | None = None,
    bn_bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    activation: str = "relu",
    residual: Tensor | None = None,
    stride: Extents = 1,
    padding: Extents | str = 0,
    dilation: Extents = 1,
    groups: int = 1,
) -> Tensor:
    """Return ``batch_norm_act(conv2d(input, weight, ...), running_mean, ...)``, the batch's statistics found as the
    convolution's results leave it.

    Parameters
    ----------
    input : Tensor, shape (N, C, H, W)
    weight : Tensor, shape (O, C / groups, KH, KW)
    stride, padding, dilation, groups
        As for ``conv2d``.
    running_mean, running_var, bn_weight, bn_bias : Tensor, shape (O,), optional
    training, momentum, eps, activation
        As for ``batch_norm_act``.
    residual : Tensor, shape (N, O, OH, OW), optional

    Returns
    -------
    Tensor, shape (N, O, OH, OW)

    Raises
    ------
    ShapeError, DTypeError, DeviceError, ArgumentError
    """
    if not (training and plainly()):
        z = conv2d(input, weight, None, stride, padding, dilation, groups)
        return batch_norm_act(
            z, running_mean, running_var, bn_weight, bn_bias, training, momentum, eps, activation, residual
        )
    geometry = geometry_of("conv2d", 2, input, weight, None, stride, padding, dilation, groups)
    _check_batch(input)
    z, statistics = convolution_moments(input, weight, geometry, float(eps))
    check(z, ("weight", bn_weight), ("bias", bn_bias))
    check_running(z, running_mean, running_var)
    if residual is not None:
        check_residual(z, residual)
    y = batch_norm_given(z, statistics, bn_weight, bn_bias, float(eps), activation, residual)
    if running_mean is not None and running_var is not None:
        commit(statistics, running_mean, running_var, momentum)
    return y


@mixed("first")
def batch_norm_act_conv2d(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    bn_weight: Tensor | None,
    bn_bias: Tensor | None,
    weight: Tensor,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    activation: str = "relu",
    stride: Extents = 1,
    padding: Extents | str = 0,
    dilation: Extents = 1,
    groups: int = 1,
) -> Tensor:
    """Return ``conv2d(batch_norm_act(input, running_mean, ...), weight, ...)``, the input normalised on its way in
    and, for the gradient of the filters, once more: what is normalised is not kept.

    Parameters
    ----------
    input : Tensor, shape (N, C, H, W)
    running_mean, running_var, bn_weight, bn_bias : Tensor, shape (C,), optional
    weight : Tensor, shape (O, C / groups, KH, KW)
    training, momentum, eps
        As for ``batch_norm_act``.
    activation : str
        As for ``batch_norm_act``. With another than "relu" and "none", or where the convolution does not go by
        Winograd's algorithm, what is normalised lies in memory for as long as the convolution, and again the gradient,
        takes.
    stride, padding, dilation, groups
        As for ``conv2d``.

    Returns
    -------
    Tensor, shape (N, O, OH, OW)

    Raises
    ------
    ShapeError, DTypeError, DeviceError, ArgumentError
    """
    if not (training and plainly()):
        y = batch_norm_act(input, running_mean, running_var, bn_weight, bn_bias, training, momentum, eps, activation)
        return conv2d(y, weight, None, stride, padding, dilation, groups)
    geometry = geometry_of("conv2d", 2, input, weight, None, stride, padding, dilation, groups)
    _check_batch(input)
    check(input, ("weight", bn_weight), ("bias", bn_bias))
    check_running(input, running_mean, running_var)
    statistics = statistics_of(input, float(eps))
    z, _ = norm_convolution(input, bn_weight, bn_bias, weight, statistics, float(eps), activation, geometry, float(eps))
    if running_mean is not None and running_var is not None:
        commit(statistics, running_mean, running_var, momentum)
    return z


def _check_batch(x: Tensor) -> None:
    """Raise for a single picture: it has no batch axis to normalise over."""
    if x.array.ndim != 4:
        raise ShapeError(expected("batch_norm", "input", "4 axes, (N, C, H, W)", f"shape {x.array.shape}"))
