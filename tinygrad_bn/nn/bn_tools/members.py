"""Which layers normalise by batches: ``BatchNorm`` and the members of its family that share its switches."""

from __future__ import annotations

from typing import Any, TypeGuard

from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.functional.masked import Form
from tinygrad_bn.nn.batch_norm import BatchNorm

SECOND = ("running_var", "running_std")
"""The running statistics that the moments of all values give; a norm or a covariance is not among them."""


def by_batches(module: Any) -> TypeGuard[BatchNorm]:
    """Whether a layer normalises by the batch in training, with running statistics and the switches for them.

    The others of the family are no subclasses, but have the same attributes.
    """
    return isinstance(module, BatchNorm) or {"update_stats", "use_batch_stats"} <= module.__dict__.keys()


def second_of(layer: Any) -> str | None:
    """The name of the running statistic beside the mean, if that and the mean are of one number for each channel."""
    name = getattr(layer, "second", "running_var")
    found: Tensor | None = getattr(layer, name, None)
    if name not in SECOND or found is None or layer.running_mean is None:
        return None
    size = layer.num_features if isinstance(layer.num_features, tuple) else (layer.num_features,)
    return name if found.shape == layer.running_mean.shape == size else None


def normalised_by(layer: Any, x: Tensor, mask: Tensor | None = None) -> Tensor | None:
    """Return what of an input goes into a layer's statistics, as (N, C, …) or (m, C); None where it does not fit."""
    axis = getattr(layer, "axis", 1)
    size = layer.num_features if isinstance(layer.num_features, tuple) else (layer.num_features,)
    if axis == 1 and mask is None:
        return x if x.array.ndim > 1 and x.array.shape[1:2] == size else None
    form = Form(type(layer).__name__, x, axis, mask)
    return form.inward(x.detach()) if form.features == size else None
