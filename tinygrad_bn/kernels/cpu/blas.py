"""Large products by SciPy's BLAS, on one thread inside each part of ours.

Only the library that Numba calls (SciPy's OpenBLAS) is limited to one thread; NumPy's own, which a user may call beside
us, is not. A BLAS that spins threads of its own beside ours costs 4-8 ms a call.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numba import types
from numba.core.extending import overload

from tinygrad_bn.kernels.cpu._jit import ENABLED, jit

PART = 128  # rows of the output in one call


@cache
def limit_scipy_blas() -> str:
    """Limit SciPy's BLAS to one thread, for good; return what it is called."""
    import scipy.linalg.cython_blas  # noqa: F401  # loads the library
    from threadpoolctl import ThreadpoolController

    names = []
    for library in ThreadpoolController().lib_controllers:
        if library.user_api == "blas" and _belongs_to_scipy(library.filepath):
            library.set_num_threads(1)
            names.append(f"{library.internal_api} {library.version}")
    return ", ".join(names) or "unknown"


def _belongs_to_scipy(path: str) -> bool:
    """Whether a library lies in SciPy's folder; the file of NumPy's own carries "scipy" in its name, too."""
    return any(part.lower().startswith("scipy") for part in Path(path).parent.parts[-2:])


limit_scipy_blas()


def _gemm(ta: str, tb: str, m: int, n: int, k: int, a: Any, lda: int, b: Any, ldb: int, c: Any, ldc: int) -> None:
    """BLAS's xgemm on column-major matrices; without the JIT, NumPy's product."""
    left = np.lib.stride_tricks.as_strided(a, (m, k), _strides(ta, lda, a.itemsize))
    right = np.lib.stride_tricks.as_strided(b, (k, n), _strides(tb, ldb, b.itemsize))
    out = np.lib.stride_tricks.as_strided(c, (m, n), _strides("n", ldc, c.itemsize))
    out[...] = left @ right


def _strides(transposed: str, ld: int, itemsize: int) -> tuple[int, int]:
    return (itemsize, ld * itemsize) if transposed == "n" else (ld * itemsize, itemsize)


if ENABLED:

    @overload(_gemm, strict=False)
    def _gemm_compiled(ta: Any, tb: Any, m: Any, n: Any, k: Any, a: Any, lda: Any, b: Any, ldb: Any, c: Any, ldc: Any):  # type: ignore[no-untyped-def]
        dtype = a.dtype
        pointer = types.CPointer(dtype)
        char, size = types.char, types.intp
        signature = types.intc(
            char, char, char, size, size, size, pointer, pointer, size, pointer, size, pointer, pointer, size
        )
        xgemm = types.ExternalFunction("numba_xxgemm", signature)
        kind = ord("s" if dtype is types.float32 else "d")
        scalar = np.float32 if dtype is types.float32 else np.float64

        def call(ta, tb, m, n, k, a, lda, b, ldb, c, ldc):  # type: ignore[no-untyped-def]
            one = np.ones(1, scalar)
            zero = np.zeros(1, scalar)
            xgemm(kind, ord(ta), ord(tb), m, n, k, one.ctypes, a.ctypes, lda, b.ctypes, ldb, zero.ctypes, c.ctypes, ldc)

        return call


@jit()
def blas_rows(
    a: Any, b: Any, out: Any, m: Any, n: Any, k: Any, lo: Any, hi: Any, a_transposed: Any, b_transposed: Any
) -> None:
    """Rows lo … hi of a row-major (m, n) product: column-major, its transpose is Bᵀ Aᵀ."""
    rows = out[lo * n :]
    if a_transposed:
        if b_transposed:
            _gemm("t", "t", n, hi - lo, k, b, k, a[lo:], m, rows, n)
        else:
            _gemm("n", "t", n, hi - lo, k, b, n, a[lo:], m, rows, n)
    elif b_transposed:
        _gemm("t", "n", n, hi - lo, k, b, k, a[lo * k :], k, rows, n)
    else:
        _gemm("n", "n", n, hi - lo, k, b, n, a[lo * k :], k, rows, n)
