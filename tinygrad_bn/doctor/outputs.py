"""What a model returns, and what becomes of it when something is changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tinygrad_bn import ops
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.doctor import thresholds


def tensors(out: Any) -> list[Tensor]:
    """Return all floating-point tensors in what a model returns."""
    if isinstance(out, Tensor):
        return [out] if out.dtype.is_floating_point else []
    items = out.values() if isinstance(out, Mapping) else out if isinstance(out, tuple | list) else ()
    return [t for item in items for t in tensors(item)]


def shifted(out: Tensor, axis: int, size: float) -> Tensor:
    """Return what a layer would return with another bias, which moves each channel by up to ``size``."""
    channels = out.array.shape[axis]
    by = ops.mul(ops.add(ops.arange(channels, dtype=out.dtype, device=out.device), 1.0), size / channels)
    shape = [1] * out.array.ndim
    shape[axis] = channels
    return ops.add(out, ops.reshape(by, shape))


def overlap(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors, both of which are held, have memory in common, as a view has with what it is of."""
    return bool(np.may_share_memory(a.array, b.array))


def same(before: list[Tensor], after: list[Tensor]) -> bool:
    """Whether outputs are the same up to rounding; not so if there are others, or of another shape."""
    if [t.array.shape for t in before] != [t.array.shape for t in after]:
        return False
    for a, b in zip(before, after, strict=True):
        x, y = (np.asarray(t.cpu().double().numpy(), np.float64) for t in (a, b))
        if x.size and not np.abs(x - y).max() <= thresholds.BIAS * max(float(np.sqrt(np.mean(x * x))), 1e-30):
            return False
    return bool(before)
