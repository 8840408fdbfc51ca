"""What a batch normalisation says to inputs that do not suit it, and what it returns for one value a channel."""

from __future__ import annotations

import warnings

from tinygrad_bn import ops
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import outside
from tinygrad_bn.ops._activations import activated
from tinygrad_bn.ops.batch_norm_residual import check_residual


def remedy(shape: tuple[int, ...], axes: tuple[int, ...], num_features: int) -> str:
    """Return what to do about an input's shape, for a layer of inputs of so many axes with the channels second."""
    if len(shape) not in axes:
        if len(shape) + 1 in axes and shape[:1] == (num_features,):
            return "add the batch axis: input.unsqueeze(0)"
        return "BatchNorm1d takes 2 or 3 axes, BatchNorm2d takes 4, BatchNorm3d takes 5"
    if shape[-1] == num_features:
        return "pass axis=-1 to the layer where channels come last"
    return f"make the layer with num_features={shape[1]}"


def beta(
    op: str, x: Tensor, activation: str, residual: Tensor | None, weight: Tensor | None, bias: Tensor | None
) -> Tensor:
    """Return the bias, or 0, in the shape of x, (N, C, …) with one value a channel, the residual added, activated.

    The gradients of x and of the weight are zeros.

    Warns
    -----
    RuntimeWarning
    """
    if residual is not None:
        check_residual(x, residual)
    text = f"{op}: one value a channel in training, shape {x.array.shape}: the output is the bias.\n"
    hint = "Hint: use larger batches (drop_last=True), or eval mode."
    warnings.warn(text + hint, RuntimeWarning, stacklevel=outside())
    shape = (1, x.array.shape[1]) + (1,) * (x.array.ndim - 2)
    never = ops.zeros((), dtype="bool", device=x.device)
    out = ops.zeros(shape, dtype=x.dtype, device=x.device) if bias is None else ops.reshape(bias, shape)
    if weight is not None:
        out = ops.where(never, ops.reshape(weight, shape), out)
    out = ops.reshape(ops.where(never, x, out), x.array.shape)
    out = out if residual is None else ops.add(out, residual)
    return activated(out, activation)
