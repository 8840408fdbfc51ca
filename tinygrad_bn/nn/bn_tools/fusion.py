"""The affine map that a batch norm is in evaluation, folded into the linear map ahead of it.

    y = γ (W x + b - mean) / √(var + eps) + β = W' x + b'
    s = γ / √(var + eps),   W' = s W,   b' = s (b - mean) + β

s multiplies the outputs' axis of W. Computed in float64 and rounded once. Ioffe & Szegedy 2015 (arXiv:1502.03167),
section 3.1 (Algorithm 2, line 11). Names and arguments are those of ``torch.nn.utils.fusion``.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from tinygrad_bn import ops
from tinygrad_bn.core.dtype import float64
from tinygrad_bn.core.tape import no_grad
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import ArgumentError, ShapeError, expected, wrong
from tinygrad_bn.nn.parameter import Parameter

__all__ = ["fuse_conv_bn_eval", "fuse_conv_bn_weights", "fuse_linear_bn_eval", "fuse_linear_bn_weights"]


def fuse_conv_bn_weights(
    conv_w: Tensor,
    conv_b: Tensor | None,
    bn_rm: Tensor,
    bn_rv: Tensor,
    bn_eps: float,
    bn_w: Tensor | None,
    bn_b: Tensor | None,
    transpose: bool = False,
    *,
    groups: int = 1,
) -> tuple[Parameter, Parameter]:
    """Return the weight and bias of the convolution that does what one and the batch norm behind it do.

    Parameters
    ----------
    conv_w : Tensor, shape (O, …), or (I, O / groups, …) with ``transpose``
    conv_b : Tensor, shape (O,), or None
    bn_rm, bn_rv : Tensor, shape (O,)
        Running mean and variance.
    bn_eps : float
    bn_w, bn_b : Tensor, shape (O,), or None
    transpose : bool
        Whether the convolution is a transposed one.
    groups : int
        Of the convolution; it matters for transposed ones alone.

    Returns
    -------
    weight, bias : Parameter
        Of the weight's dtype; they require grad where the convolution's own did.

    Raises
    ------
    ShapeError
        If the batch norm has another number of channels than the convolution has outputs.
    """
    with no_grad():
        outputs = conv_w.array.shape[1] * groups if transpose else conv_w.array.shape[0]
        if bn_rm.array.shape != (outputs,):
            raise ShapeError(expected("fuse", "bn_rm", f"shape (O,) = ({outputs},)", bn_rm.array.shape))
        scale = ops.pow(ops.add(ops.to(bn_rv, float64), bn_eps), -0.5)
        scale = scale if bn_w is None else ops.mul(scale, bn_w)
        wide = ops.to(conv_w.detach(), float64)
        rest = (1,) * (conv_w.array.ndim - 2)
        if transpose:
            parted = ops.reshape(wide, (groups, conv_w.array.shape[0] // groups, *conv_w.array.shape[1:]))
            weight = ops.reshape(ops.mul(parted, ops.reshape(scale, (groups, 1, -1, *rest))), conv_w.array.shape)
        else:
            weight = ops.mul(wide, ops.reshape(scale, (-1, 1, *rest)))
        centre = ops.neg(ops.to(bn_rm, float64)) if conv_b is None else ops.sub(ops.to(conv_b, float64), bn_rm)
        bias = ops.mul(centre, scale)
        bias = bias if bn_b is None else ops.add(bias, bn_b)
        bias_grad = conv_w.requires_grad if conv_b is None else conv_b.requires_grad
        return (
            Parameter(ops.to(weight, conv_w.dtype), conv_w.requires_grad),
            Parameter(ops.to(bias.detach(), conv_w.dtype), bias_grad),
        )


def fuse_linear_bn_weights(
    linear_w: Tensor,
    linear_b: Tensor | None,
    bn_rm: Tensor,
    bn_rv: Tensor,
    bn_eps: float,
    bn_w: Tensor | None,
    bn_b: Tensor | None,
) -> tuple[Parameter, Parameter]:
    """Return the weight and bias of the linear layer that does what one and the batch norm behind it do.

    Parameters, results and errors as for ``fuse_conv_bn_weights``, with ``linear_w`` of shape (O, I).
    """
    return fuse_conv_bn_weights(linear_w, linear_b, bn_rm, bn_rv, bn_eps, bn_w, bn_b)


def fuse_conv_bn_eval(conv: Any, bn: Any, transpose: bool = False) -> Any:
    """Return a copy of a convolution with the batch norm behind it folded in.

    Parameters
    ----------
    conv : Conv1d, Conv2d, ConvTranspose1d or ConvTranspose2d
    bn : BatchNorm1d, BatchNorm2d or BatchNorm3d
    transpose : bool
        Whether the convolution is a transposed one; known of this package's own.

    Returns
    -------
    Module
        Of the class of ``conv``, with a bias.

    Raises
    ------
    ArgumentError
        If one of the two is in training mode, or the batch norm has no running statistics, or an activation.
    ShapeError
    """
    _check("fuse_conv_bn_eval", conv, bn)
    fused = deepcopy(conv)
    fold_into(fused, bn, transpose or getattr(conv, "transposed", False))
    return fused


def fuse_linear_bn_eval(linear: Any, bn: Any) -> Any:
    """Return a copy of a Linear layer with the batch norm behind it folded in; errors as for ``fuse_conv_bn_eval``."""
    _check("fuse_linear_bn_eval", linear, bn)
    fused = deepcopy(linear)
    fold_into(fused, bn, False)
    return fused


def fold_into(layer: Any, bn: Any, transpose: bool) -> None:
    """Fold a batch norm in evaluation into a layer with a weight, which gets a bias if it has none."""
    weight, bias = fuse_conv_bn_weights(
        layer.weight, layer.bias, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias, transpose,
        groups=getattr(layer, "groups", 1) if transpose else 1,
    )  # fmt: skip
    with no_grad():
        layer.weight.copy_(weight)
        if layer.bias is None:
            layer.bias = bias
        else:
            layer.bias.copy_(bias)


def _check(op: str, layer: Any, bn: Any) -> None:
    if layer.training or bn.training:
        raise ArgumentError(f"{op}: both layers must be in evaluation mode.\nHint: call eval() first.")
    if bn.running_mean is None:
        raise ArgumentError(f"{op}: 'bn' must have running statistics. Got none.")
    if getattr(bn, "axis", 1) != 1:
        raise ArgumentError(wrong(op, "bn", "of axis 1, the layer's channels", bn.axis))
    if getattr(bn, "activation", "none") != "none":
        hint = "take the activation out of the layer, and put it behind"
        raise ArgumentError(wrong(op, "bn", "without an activation", repr(bn.activation), hint))
