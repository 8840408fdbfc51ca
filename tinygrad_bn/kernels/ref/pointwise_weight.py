"""The gradient of a convolution's 1×1 filters, without padding: a product of matrices.

gw[o, c] = Σ_{n,i,j} gy[n, o, i, j] x[n, c, i s_h, j s_w]
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_bn.kernels.spec import spec

Array = np.ndarray[Any, Any]


@spec(writes="gw", workspace="places work parts")
def pointwise_weight(
    x: Array, gy: Array, stride_h: int, stride_w: int, turned: bool, samples: int, rows: int, columns: int,
    registers: int, places: Array, work: Array, parts: Array, gw: Array,
) -> None:  # fmt: skip
    """x (N, C, H, W), gy (N, O, OH, OW), gw (O, C / groups, 1, 1).

    ``turned``: registers lie along the channels of x, whose strides are 1 then, else along those of gy, so many of them
    in a range. The sum runs over blocks of ``samples`` × ``rows`` × ``columns`` pixels, in parts. ``parts``: (parts,
    groups, channels that are broadcast, channels along registers), rounded up as those of ``direct_weight``; ``places``
    and ``work`` have a row for each share of the pool: int64, ``kernels.direct_weight.places``; a block.
    """
    depth = gw.shape[1]
    seen = x[:, :, ::stride_h, ::stride_w][:, :, : gy.shape[2], : gy.shape[3]].astype(np.float64)
    for g in range(x.shape[1] // depth):
        o, c = (slice(g * n, (g + 1) * n) for n in (len(gw) * depth // x.shape[1], depth))
        gw[o, :, 0, 0] = np.tensordot(gy[:, o].astype(np.float64), seen[:, c], ((0, 2, 3), (0, 2, 3)))
