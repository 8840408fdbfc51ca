"""Batch normalisation to which a residual is added ahead of the activation: y = act(bn(x) + r), its gradients.

    y  = act((x - mean) invstd weight + bias + r)
    g  = gy act'(·),  gr = g,  gx, gweight, gbias of g as in ``batch_norm``

He et al. 2016 (arXiv:1512.03385), figure 2. Backward writes gr with the sums, its slope found from what is kept, y or
r; the pass that writes gx reads gr and x: of memory, 5 values are read and 2 written.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_bn.kernels.cuda.bn_launch import Passes
from tinygrad_bn.kernels.cuda.bn_merge import given

Array = np.ndarray[Any, Any]


def batch_norm_residual(
    x: Array, residual: Array, weight: Array, bias: Array, eps: float, act: int, slope: float,
    y: Array, statistics: Array, parts: Array,
) -> None:  # fmt: skip
    Passes(x, weight, bias, statistics, act, slope, residual, y).train(residual, parts, eps, y)


def batch_norm_residual_backward(
    gy: Array, x: Array, kept: Array, weight: Array, bias: Array, statistics: Array, act: int, slope: float,
    gx: Array, gresidual: Array, gweight: Array, gbias: Array, parts: Array,
) -> None:  # fmt: skip
    passes = Passes(x, weight, bias, statistics, act, slope, gy, kept, gx, gresidual)
    used = passes.sums(gy, kept, gresidual, None, parts)
    passes.gradient(gresidual, 0, gx, gweight, gbias, parts, used)


def batch_norm_residual_eval(
    x: Array, residual: Array, weight: Array, bias: Array, mean: Array, var: Array, eps: float, act: int, slope: float,
    y: Array, statistics: Array,
) -> None:  # fmt: skip
    given(mean, var, eps, statistics)
    Passes(x, weight, bias, statistics, act, slope, residual, y).apply(residual, y)


def batch_norm_residual_eval_backward(
    gy: Array, x: Array, kept: Array, weight: Array, bias: Array, mean: Array, var: Array, eps: float,
    act: int, slope: float,
    gx: Array, gresidual: Array, gweight: Array, gbias: Array, statistics: Array, parts: Array,
) -> None:  # fmt: skip
    given(mean, var, eps, statistics)
    passes = Passes(x, weight, bias, statistics, act, slope, gy, kept, gx, gresidual)
    passes.constant_sums(gy, kept, gresidual, gx, gweight, gbias, parts)
