"""A linear layer and the batch normalisation behind it: z = x Wᵀ, y = act(BN(z)).

``act``, ``slope`` and the rows of ``statistics`` are those of ``ref.batch_norm``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_bn.kernels.ref.batch_norm import batch_norm_backward, batch_norm_train
from tinygrad_bn.kernels.spec import spec

Array = np.ndarray[Any, Any]


@spec(writes="z statistics y")
def linear_batch_norm(
    x: Array, weight: Array, gain: Array, bias: Array, eps: float, act: int, slope: float,
    z: Array, statistics: Array, y: Array,
) -> None:  # fmt: skip
    """x (M, K), weight (N, K), gain and bias (N,) or (0,); z and y (M, N), M of at most 256."""
    with np.errstate(all="ignore"):
        z[...] = x @ weight.T
    batch_norm_train(z[:, :, None], gain, bias, eps, act, slope, y[:, :, None], statistics, np.empty(0))


@spec(writes="gx gweight ggain gbias", workspace="gz")
def linear_batch_norm_backward(
    gy: Array, x: Array, weight: Array, gain: Array, bias: Array, z: Array, statistics: Array, act: int, slope: float,
    gz: Array, gx: Array, gweight: Array, ggain: Array, gbias: Array,
) -> None:  # fmt: skip
    """The gradients of linear_batch_norm, that of x left out where its array is empty. ``gz`` (M, N) is scratch."""
    batch_norm_backward(
        gy[:, :, None], z[:, :, None], gain, bias, statistics, act, slope, gz[:, :, None], ggain, gbias, np.empty(0)
    )
    with np.errstate(all="ignore"):
        gweight[...] = gz.T @ x
        if gx.size:
            gx[...] = gz @ weight
