"""cuBLAS by ctypes, on our pointers and the current stream: products of matrices, batched.

cuBLAS takes matrices by columns. What lies by rows is its transpose there, so that C = A B is computed as Cᵀ = Bᵀ Aᵀ:
the operands change places, and one that is given transposed keeps its mark.

Each thread has a handle for each of its streams, with workspace of its own: so the calls can be recorded in a graph,
and products in different streams never share it. Sums of float32 are in float32, with TF32's factors only where
``precision.allow_tf32`` says so.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import threading
from functools import cache
from typing import Any

import numpy as np

from tinygrad_bn.errors import DeviceError
from tinygrad_bn.kernels.cuda.array import address
from tinygrad_bn.kernels.cuda.driver import driver
from tinygrad_bn.kernels.cuda.target import SIMULATED
from tinygrad_bn.kernels.precision import precision

__all__ = ["Blas", "current", "library"]

Array = np.ndarray[Any, Any]

_TYPES = {"f": 0, "d": 1, "e": 2, "H": 14}  # CUDA_R_32F, 64F, 16F, 16BF, by NumPy's code of what it is stored as
_COMPUTE_32F, _COMPUTE_64F, _COMPUTE_TF32 = 68, 70, 77
_DEFAULT_ALGORITHM = -1
_LARGEST = 2**31 - 1
_NAMES = {
    1: "NOT_INITIALIZED", 3: "ALLOC_FAILED", 7: "INVALID_VALUE", 8: "ARCH_MISMATCH", 11: "MAPPING_ERROR",
    13: "EXECUTION_FAILED", 14: "INTERNAL_ERROR", 15: "NOT_SUPPORTED", 16: "LICENSE_ERROR",
}  # fmt: skip
_WORKSPACE = {True: 32 << 20, False: 4 << 20}  # bytes, as cuBLAS recommends for Hopper and later, and for others


@cache
def library() -> Any:
    """Return cuBLAS's library, or None where it is not installed."""
    try:
        from cuda.pathfinder import load_nvidia_dynamic_lib

        return ctypes.CDLL(load_nvidia_dynamic_lib("cublas").abs_path)
    except Exception:  # what the finder raises where there is none differs from version to version
        found = ctypes.util.find_library("cublas")
    try:
        return None if found is None else ctypes.CDLL(found)
    except OSError:
        return None


class Blas:
    """A handle of cuBLAS's, for one stream.

    Parameters
    ----------
    lib : ctypes.CDLL
    stream : int
        Its address.
    workspace : int, int
        Address and bytes of memory that no other handle uses; no bytes: cuBLAS finds its own.
    """

    def __init__(self, lib: Any, stream: int, workspace: tuple[int, int] = (0, 0)) -> None:
        self._lib = lib
        self._handle = ctypes.c_void_p()
        self._call("cublasCreate_v2", ctypes.byref(self._handle))
        self._call("cublasSetStream_v2", self._handle, ctypes.c_void_p(stream))
        if workspace[1]:
            place, size = workspace
            self._call("cublasSetWorkspace_v2", self._handle, ctypes.c_void_p(place), ctypes.c_size_t(size))
        self._workspace = workspace
        self._numbers = {kind: (kind(1), kind(0)) for kind in (ctypes.c_float, ctypes.c_double)}

    def _call(self, name: str, *arguments: Any) -> None:
        status = int(getattr(self._lib, name)(*arguments))
        if status:
            hint = "\nHint: run one step before it is captured." if status in (1, 3, 14) else ""
            raise DeviceError(f"{name}: cuBLAS reports CUBLAS_STATUS_{_NAMES.get(status, str(status))}.{hint}")

    def product(self, form: str, a: Array, b: Array, out: Array) -> None:
        """Write out = A B, arguments as ``kernels/ref/matmul.py`` has them, contiguous.

        Raises
        ------
        DeviceError
            If cuBLAS reports an error, or an extent is above 2,147,483,647.
        """
        m, n = out.shape[-2:]
        k = a.shape[-2] if form == "tn" else a.shape[-1]
        if not out.size:
            return
        if not k:
            driver().clear(address(out), out.nbytes)
            return
        batch = out.size // (m * n)
        if max(m, n, k, batch) > _LARGEST:
            raise DeviceError(f"matmul: extents must be at most {_LARGEST} for cuBLAS. Got {(batch, m, k, n)}.")
        left = (address(b), _TYPES[b.dtype.char], k if form == "nt" else n)
        right = (address(a), _TYPES[a.dtype.char], m if form == "tn" else k)
        ops = ctypes.c_int(form == "nt"), ctypes.c_int(form == "tn")
        sizes = [ctypes.c_int(extent) for extent in (n, m, k)]
        compute, scalar = self._computing(out)
        one, zero = (ctypes.byref(number) for number in self._numbers[scalar])
        if batch == 1:
            self._call(
                "cublasGemmEx", self._handle, *ops, *sizes, one, *_matrix(*left), *_matrix(*right), zero,
                *_matrix(address(out), _TYPES[out.dtype.char], n), compute, ctypes.c_int(_DEFAULT_ALGORITHM),
            )  # fmt: skip
            return
        steps = [ctypes.c_longlong(s) for s in (k * n * (b.size > k * n), m * k * (a.size > m * k), m * n)]
        self._call(
            "cublasGemmStridedBatchedEx", self._handle, *ops, *sizes, one, *_matrix(*left), steps[0],
            *_matrix(*right), steps[1], zero, *_matrix(address(out), _TYPES[out.dtype.char], n), steps[2],
            ctypes.c_int(batch), compute, ctypes.c_int(_DEFAULT_ALGORITHM),
        )  # fmt: skip

    def _computing(self, out: Array) -> tuple[ctypes.c_int, Any]:
        """In which arithmetic sums are, and the type of their factors."""
        if out.dtype.char == "d":
            return ctypes.c_int(_COMPUTE_64F), ctypes.c_double
        fast = out.dtype.char == "f" and precision.allow_tf32
        return ctypes.c_int(_COMPUTE_TF32 if fast else _COMPUTE_32F), ctypes.c_float


def _matrix(place: int, kind: int, line: int) -> tuple[Any, ...]:
    return ctypes.c_void_p(place), ctypes.c_int(kind), ctypes.c_int(line)


class _Handles(threading.local):
    """Those of a thread, by the stream's address."""

    def __init__(self) -> None:
        self.found: dict[int, Blas] = {}


_handles = _Handles()


def current() -> Blas | None:
    """Return the handle for the calling thread's current stream; None where products are ours to compute."""
    if SIMULATED:
        return None
    lib = library()
    if lib is None:
        return None
    gpu = driver()
    stream = int(gpu.current())
    found = _handles.found.get(stream)
    if found is None:
        size = _WORKSPACE[gpu.capability >= (9, 0)]
        found = _handles.found[stream] = Blas(lib, stream, (gpu.allocate(size), size))
    return found
