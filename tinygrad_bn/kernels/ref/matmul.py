"""Matrix products, batched: out_b = A_b B_b, where A or B may be given transposed.

    matmul_nn   A (b, M, K), B (b, K, N)
    matmul_nt   A (b, M, K), B (b, N, K)
    matmul_tn   A (b, K, M), B (b, K, N)

Two axes, or three with a batch, of which an extent of 1 stands for all. ``linear`` is the second with a bias: y = x
Wᵀ + b, b empty where there is none.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_bn.kernels.spec import spec

Array = np.ndarray[Any, Any]


@spec()
def matmul_nn(a: Array, b: Array, out: Array) -> None:
    with np.errstate(all="ignore"):
        out[...] = np.matmul(a, b)


@spec()
def matmul_nt(a: Array, b: Array, out: Array) -> None:
    with np.errstate(all="ignore"):
        out[...] = np.matmul(a, np.swapaxes(b, -1, -2))


@spec()
def matmul_tn(a: Array, b: Array, out: Array) -> None:
    with np.errstate(all="ignore"):
        out[...] = np.matmul(np.swapaxes(a, -1, -2), b)


@spec(writes="gx gweight gbias")
def linear_backward(gy: Array, x: Array, weight: Array, gx: Array, gweight: Array, gbias: Array) -> None:
    """gx = gy W, gweight = gyᵀ x, gbias = Σ gy, each left out where its array is empty."""
    with np.errstate(all="ignore"):
        if gx.size:
            gx[...] = gy @ weight
        if gweight.size:
            gweight[...] = gy.T @ x
        if gbias.size:
            gbias[...] = gy.sum(axis=0, dtype=np.float64)


@spec()
def linear(x: Array, weight: Array, bias: Array, out: Array) -> None:
    """x (M, K), weight (N, K), bias (N,) or (0,), out (M, N)."""
    with np.errstate(all="ignore"):
        out[...] = x @ weight.T + (bias if bias.size else 0)
