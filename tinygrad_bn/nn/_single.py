"""What a batch normalisation returns, on request, where every channel has one value: its bias, whatever that is."""

from __future__ import annotations

import warnings

from tinygrad_bn import ops
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.ops._activations import activated
from tinygrad_bn.ops.batch_norm_residual import check_residual


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
    warnings.warn(text + hint, RuntimeWarning, stacklevel=6)
    shape = (1, x.array.shape[1]) + (1,) * (x.array.ndim - 2)
    never = ops.zeros((), dtype="bool", device=x.device)
    out = ops.zeros(shape, dtype=x.dtype, device=x.device) if bias is None else ops.reshape(bias, shape)
    if weight is not None:
        out = ops.where(never, ops.reshape(weight, shape), out)
    out = ops.reshape(ops.where(never, x, out), x.array.shape)
    out = out if residual is None else ops.add(out, residual)
    return activated(out, activation)
