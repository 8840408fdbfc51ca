"""Matrix products, batched: out_b = A_b B_b, where A or B may be given transposed; by cuBLAS where it is installed,
else by ``gemm``."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_bn.kernels.cuda import cublas, gemm
from tinygrad_bn.kernels.cuda.convolution import add_bias
from tinygrad_bn.kernels.cuda.entry import entry
from tinygrad_bn.kernels.cuda.target import SIMULATED, cuda

Array = np.ndarray[Any, Any]

_COLUMNS = 2 if SIMULATED else 8  # of a block that sums columns: 32 bytes of each row
_ROWS = 4 if SIMULATED else 32  # that are summed side by side
_SUMMING = _ROWS * _COLUMNS
_NONE = {np.dtype(name): np.empty(0, name) for name in ("float32", "float64")}


@entry(threads=_SUMMING)
def _column_sums(x, out, m, n):  # type: ignore[no-untyped-def]
    """out[j] = Σ_i x[i, j]: eight rows at a time in x's type, these sums and the threads' in float64."""
    shared = cuda.shared.array(_SUMMING, np.float64)
    t = cuda.threadIdx.x
    j = cuda.blockIdx.x * _COLUMNS + t % _COLUMNS
    i = t // _COLUMNS
    total = np.float64(0)
    if j < n:
        while i + 7 * _ROWS < m:
            at = i * n + j
            step = _ROWS * n
            a = (x[at] + x[at + step]) + (x[at + 2 * step] + x[at + 3 * step])
            at += 4 * step
            b = (x[at] + x[at + step]) + (x[at + 2 * step] + x[at + 3 * step])
            total += np.float64(a + b)
            i += 8 * _ROWS
        while i < m:
            total += np.float64(x[i * n + j])
            i += _ROWS
    shared[t] = total
    half = _ROWS // 2
    while half > 0:
        cuda.syncthreads()
        if t < half * _COLUMNS:
            shared[t] += shared[t + half * _COLUMNS]
        half = half // 2
    if t < _COLUMNS and j < n:
        out[j] = real(shared[t])  # type: ignore[name-defined]  # noqa: F821  # the kernel's type


def _product(form: str, a: Array, b: Array, out: Array) -> None:
    blas = cublas.current()
    if blas is None:
        gemm.product(form, a, b, _NONE[out.dtype], out)
    else:
        blas.product(form, a, b, out)


def matmul_nn(a: Array, b: Array, out: Array) -> None:
    """A (b, M, K), B (b, K, N)."""
    _product("nn", a, b, out)


def matmul_nt(a: Array, b: Array, out: Array) -> None:
    """A (b, M, K), B (b, N, K)."""
    _product("nt", a, b, out)


def matmul_tn(a: Array, b: Array, out: Array) -> None:
    """A (b, K, M), B (b, K, N)."""
    _product("tn", a, b, out)


def linear(x: Array, weight: Array, bias: Array, out: Array) -> None:
    """x (M, K), weight (N, K), bias (N,) or (0,), out (M, N)."""
    blas = cublas.current()
    if blas is None:
        gemm.product("nt", x, weight, bias, out)
        return
    blas.product("nt", x, weight, out)
    if bias.size and out.size:
        add_bias(bias, out.reshape(*out.shape, 1))


def linear_backward(gy: Array, x: Array, weight: Array, gx: Array, gweight: Array, gbias: Array) -> None:
    """gx = gy W, gweight = gyᵀ x, gbias = Σ gy, each left out where its array is empty."""
    if gx.size:
        _product("nn", gy, weight, gx)
    if gweight.size:
        _product("tn", gy, x, gweight)
    if gbias.size:
        m, n = gy.shape
        _column_sums[-(-n // _COLUMNS)](gy, gbias, m, n)
