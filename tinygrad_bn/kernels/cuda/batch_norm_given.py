"""Batch normalisation whose statistics something else has found: the passes of ``batch_norm`` one by one.

y = act((x - mean) invstd weight + bias + residual)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_bn.kernels.cuda import bn_merge
from tinygrad_bn.kernels.cuda.bn_launch import Passes

Array = np.ndarray[Any, Any]
_NONE = np.empty(0, np.float32)


def batch_norm_statistics(x: Array, eps: float, statistics: Array, parts: Array) -> None:
    passes = Passes(x, _NONE, _NONE, statistics, 0, 0)
    passes.finish(parts, passes.moments(parts), eps)


def batch_norm_finish(parts: Array, eps: float, statistics: Array) -> None:
    bn_merge.finish(parts, parts.shape[1], eps, statistics)


def batch_norm_given(
    x: Array, residual: Array, weight: Array, bias: Array, statistics: Array, act: int, slope: float, y: Array
) -> None:
    more = residual if residual.size else None
    Passes(x, weight, bias, statistics, act, slope, residual, y).apply(more, y)
