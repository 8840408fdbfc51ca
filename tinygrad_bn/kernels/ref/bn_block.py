"""Batch normalisation of a batch that is one block: x (N, C), N of at most 256.

Formulas, ``act``, ``slope`` and the rows of ``statistics`` are those of ``ref.batch_norm``; nothing is merged, so there
is no scratch.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_bn.kernels.ref.batch_norm import batch_norm_backward, batch_norm_train
from tinygrad_bn.kernels.spec import spec

Array = np.ndarray[Any, Any]
_NO_PARTS = np.empty(0)


@spec(writes="y statistics")
def batch_norm_block(
    x: Array, weight: Array, bias: Array, eps: float, act: int, slope: float, y: Array, statistics: Array
) -> None:
    """Normalise by the batch's own statistics."""
    batch_norm_train(x[:, :, None], weight, bias, eps, act, slope, y[:, :, None], statistics, _NO_PARTS)


@spec(writes="gx gweight gbias")
def batch_norm_block_backward(
    gy: Array, x: Array, weight: Array, bias: Array, statistics: Array, act: int, slope: float,
    gx: Array, gweight: Array, gbias: Array,
) -> None:  # fmt: skip
    """The gradients of batch_norm_block."""
    views = gy[:, :, None], x[:, :, None]
    batch_norm_backward(*views, weight, bias, statistics, act, slope, gx[:, :, None], gweight, gbias, _NO_PARTS)
