"""Products on ``cuda``: the calls that cuBLAS is given, on a library that computes them as its manual says; and our own
kernels, on a GPU where there is one, else in the simulator (NUMBA_ENABLE_CUDASIM=1)."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest

import tinygrad_bn as tb
from tinygrad_bn import cuda
from tinygrad_bn.core.device import as_device
from tinygrad_bn.errors import ArgumentError, DeviceError

Array = np.ndarray[Any, Any]
pytestmark = pytest.mark.skipif(not cuda.is_available(), reason="no GPU, and NUMBA_ENABLE_CUDASIM is not 1")

if cuda.is_available():
    from tinygrad_bn.kernels.cuda import cublas, gemm, tiles
    from tinygrad_bn.kernels.cuda.target import SIMULATED

FORMS = ("nn", "nt", "tn")
TYPES = {0: np.float32, 1: np.float64}
rng = np.random.default_rng(0)


class Library:
    """What cuBLAS computes, by columns, on memory of the host."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.status = 0

    def cublasCreate_v2(self, handle: Any) -> int:
        handle._obj.value = 77
        return self._note("create")

    def cublasSetStream_v2(self, handle: Any, stream: Any) -> int:
        return self._note("stream", handle.value, stream.value)

    def cublasSetWorkspace_v2(self, handle: Any, address: Any, size: Any) -> int:
        return self._note("workspace", handle.value, address.value, size.value)

    def cublasGemmEx(self, *given: Any) -> int:
        values = [g.value if hasattr(g, "value") else g._obj.value for g in given]
        handle, ta, tb_, m, n, k, alpha, a, at, lda, b, bt, ldb, beta, c, ct, ldc, compute, algorithm = values
        self._one(ta, tb_, m, n, k, alpha, (a, at, lda), (b, bt, ldb), beta, (c, ct, ldc))
        return self._note("gemm", handle, compute, algorithm)

    def cublasGemmStridedBatchedEx(self, *given: Any) -> int:
        values = [g.value if hasattr(g, "value") else g._obj.value for g in given]
        handle, ta, tb_, m, n, k, alpha, a, at, lda, sa, b, bt, ldb, sb, beta, c, ct, ldc, sc, batch = values[:21]
        for z in range(batch):
            a_z, b_z, c_z = (
                p + z * s * np.dtype(TYPES[t]).itemsize for p, s, t in ((a, sa, at), (b, sb, bt), (c, sc, ct))
            )
            self._one(ta, tb_, m, n, k, alpha, (a_z, at, lda), (b_z, bt, ldb), beta, (c_z, ct, ldc))
        return self._note("batched", handle, *values[21:])

    def _one(
        self, ta: int, tb_: int, m: int, n: int, k: int, alpha: float, a: Any, b: Any, beta: float, c: Any
    ) -> None:
        left, right = self._matrix(*a, *((k, m) if ta else (m, k))), self._matrix(*b, *((n, k) if tb_ else (k, n)))
        out = self._matrix(*c, m, n)
        assert beta == 0
        out[...] = alpha * ((left.T if ta else left) @ (right.T if tb_ else right))

    @staticmethod
    def _matrix(address: int, kind: int, line: int, rows: int, columns: int) -> Array:
        """By columns, ``line`` elements apart."""
        assert line >= max(1, rows)
        size = np.dtype(TYPES[kind]).itemsize
        count = (columns - 1) * line + rows
        flat = np.frombuffer((ctypes.c_char * (count * size)).from_address(address), TYPES[kind])
        return np.lib.stride_tricks.as_strided(flat, (rows, columns), (size, line * size))

    def _note(self, *call: Any) -> int:
        self.calls.append((call[0], call[1:]))
        return self.status


@pytest.fixture
def library() -> Library:
    if not SIMULATED:
        pytest.skip("a GPU's memory cannot be read by the library that stands for cuBLAS")
    return Library()


def operands(
    form: str, batch: tuple[int, int] | None, m: int, n: int, k: int, dtype: str
) -> tuple[Array, Array, Array]:
    """A, B and what their product should be."""
    a = rng.standard_normal((*(batch[:1] if batch else ()), *((k, m) if form == "tn" else (m, k)))).astype(dtype)
    b = rng.standard_normal((*(batch[1:] if batch else ()), *((n, k) if form == "nt" else (k, n)))).astype(dtype)
    left, right = (np.swapaxes(x, -1, -2) if form == t else x for x, t in ((a, "tn"), (b, "nt")))
    return a, b, left.astype(np.float64) @ right


def close(got: Array, want: Array, dtype: str) -> None:
    assert np.abs(got - want).max(initial=0) <= (1e-5 if dtype == "float32" else 1e-13) * max(1, np.abs(want).max())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("batch", [None, (1, 1), (3, 3), (3, 1), (1, 3)])
@pytest.mark.parametrize("form", FORMS)
def test_cublas_is_given_operands_strides_and_steps_that_make_the_product(
    library: Library, form: str, batch: tuple[int, int] | None, dtype: str
) -> None:
    gpu = as_device("cuda")
    a, b, want = operands(form, batch, 5, 7, 3, dtype)
    out = gpu.array(np.full(want.shape, np.nan, dtype))
    cublas.Blas(library, 5).product(form, gpu.array(a), gpu.array(b), out)
    close(gpu.to_host(out), want, dtype)
    name, values = library.calls[-1]
    assert name == ("batched" if batch and max(batch) > 1 else "gemm")
    assert values[:2] == (77, 68 if dtype == "float32" else 70)


def test_a_handle_has_the_stream_and_its_own_workspace(library: Library) -> None:
    cublas.Blas(library, 5, (4096, 1 << 20))
    assert library.calls == [("create", ()), ("stream", (77, 5)), ("workspace", (77, 4096, 1 << 20))]


def test_tf32_is_used_for_float32_where_it_is_allowed_and_only_there(library: Library) -> None:
    gpu = as_device("cuda")
    with tb.backends.cuda.flags(allow_tf32=True):
        for dtype in ("float32", "float64"):
            a, b, want = operands("nn", None, 2, 2, 2, dtype)
            cublas.Blas(library, 0).product("nn", gpu.array(a), gpu.array(b), gpu.array(np.empty(want.shape, dtype)))
    assert [values[1] for name, values in library.calls if name == "gemm"] == [77, 70]
    assert not tb.backends.cuda.allow_tf32


def test_what_cublas_reports_is_a_device_error_that_names_it(library: Library) -> None:
    library.status = 14
    with pytest.raises(DeviceError, match=r"cublasCreate_v2: cuBLAS reports CUBLAS_STATUS_INTERNAL_ERROR"):
        cublas.Blas(library, 0)


def test_a_product_of_no_terms_is_zero_and_no_call(library: Library) -> None:
    gpu = as_device("cuda")
    blas = cublas.Blas(library, 0)
    out = gpu.array(np.full((2, 3), np.nan, np.float32))
    blas.product("nn", gpu.array(np.empty((2, 0), np.float32)), gpu.array(np.empty((0, 3), np.float32)), out)
    assert not gpu.to_host(out).any()
    assert len(library.calls) == 2


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("form", FORMS)
def test_every_tile_computes_edges_and_runs_of_four(form: str, dtype: str) -> None:
    """Extents that are multiples of four, of the tile, and of neither; whichever tile is chosen."""
    gpu = as_device("cuda")
    for tile in tiles.FLOATS if dtype == "float32" else tiles.DOUBLES:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(gemm, "choose", lambda *_, tile=tile: tile)
            for m, n, k in (
                (tile.rows, tile.columns, 2 * tile.depth),
                (tile.rows + 4, 12, 8),
                (7, tile.columns + 3, 5),
            ):
                a, b, want = operands(form, (2, 1), m, n, k, dtype)
                bias = rng.standard_normal(n).astype(dtype)
                out = gpu.array(np.full(want.shape, np.nan, dtype))
                gemm.product(form, gpu.array(a), gpu.array(b), gpu.array(bias), out)
                close(gpu.to_host(out), want + bias, dtype)


def test_our_own_product_of_no_terms_is_the_bias() -> None:
    gpu = as_device("cuda")
    out = gpu.array(np.full((2, 3), np.nan, np.float32))
    bias = np.arange(3, dtype=np.float32)
    none = gpu.array(np.empty((2, 0), np.float32)), gpu.array(np.empty((3, 0), np.float32))
    gemm.product("nt", *none, gpu.array(bias), out)
    assert (gpu.to_host(out) == bias).all()


def test_rows_beyond_65535_are_all_computed() -> None:
    gpu = as_device("cuda")
    m = 65_536 + 9
    a = np.arange(m, dtype=np.float32)[:, None]
    out = gpu.array(np.full((m, 1), np.nan, np.float32))
    gemm.product("nn", gpu.array(a), gpu.array(np.full((1, 1), 2, np.float32)), gpu.array(np.empty(0, np.float32)), out)
    assert (gpu.to_host(out) == 2 * a).all()


def test_allow_tf32_must_be_a_bool() -> None:
    with pytest.raises(ArgumentError, match=r"backends\.cuda: 'allow_tf32' must be a bool\. Got 1"):
        tb.backends.cuda.allow_tf32 = 1  # type: ignore[assignment]
