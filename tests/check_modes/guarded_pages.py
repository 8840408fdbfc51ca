"""Run kernels on arrays that end at a protected page: one element too far kills the process.

python guarded_pages.py kernels     every kernel on raw pointers, at sizes about its registers; prints "intact"
python guarded_pages.py fault       a kernel that reads one register past its array
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from typing import Any

import numpy as np

from tinygrad_bn.core.device import cpu
from tinygrad_bn.kernels import winograd
from tinygrad_bn.kernels.cpu import simd
from tinygrad_bn.kernels.cpu._jit import jit

Array = np.ndarray[Any, Any]
PAGE = mmap.PAGESIZE
_protect = ctypes.CDLL(None, use_errno=True).mprotect
_protect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_kept: list[mmap.mmap] = []


def guarded(array: Array) -> Array:
    """A copy whose last element is followed by a page without any access."""
    pages = -(-max(array.nbytes, 1) // PAGE)
    memory = mmap.mmap(-1, (pages + 1) * PAGE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    if _protect(start + pages * PAGE, PAGE, 0):
        raise OSError(ctypes.get_errno(), "mprotect")
    _kept.append(memory)
    out = np.frombuffer(memory, array.dtype, array.size, pages * PAGE - array.nbytes).reshape(array.shape)
    out[...] = array
    return out


@jit()
def past_the_end(x: Any, out: Any) -> None:
    simd.store(out, 0, simd.load(x, x.size - simd.lanes(x) + 1))


def fault() -> None:
    x = np.arange(64, dtype=np.float32)
    past_the_end(x.copy(), x.copy())  # compiled, and harmless on ordinary memory
    past_the_end(guarded(x), x.copy())
    print("survived")


def run(name: str, *arguments: Any) -> None:
    placed = [guarded(a) if isinstance(a, np.ndarray) else a for a in arguments]
    getattr(cpu.kernels, name).serial(*placed)


def batch_norm(dtype: str, n: int, c: int, length: int, affine: bool, cuts: int) -> None:
    rng = np.random.default_rng(0)
    x, gy = (rng.standard_normal((n, c, length)).astype(dtype) for _ in range(2))
    weight = bias = np.ones(c if affine else 0, dtype)
    blank, row, parts = np.empty_like(x), np.empty(c, dtype), np.empty((c, cuts, 3))
    statistics = np.ones((4, c), dtype)
    run("batch_norm_train", x, weight, bias, 1e-5, 1, blank, statistics, parts)
    run("batch_norm_backward", gy, x, weight, bias, statistics, 1, blank, row, row, parts)
    run("batch_norm_eval", x, weight, bias, row * 0, row * 0 + 1, 1e-5, 1, blank)
    run(
        "batch_norm_eval_backward",
        gy,
        x,
        weight,
        bias,
        row * 0,
        row * 0 + 1,
        1e-5,
        1,
        blank,
        row,
        row,
        parts[:, :1].copy(),
    )


def group_norm(dtype: str, n: int, groups: int, depth: int, length: int, cuts: int) -> None:
    rng = np.random.default_rng(0)
    x, gy = (rng.standard_normal((n, groups, depth, length)).astype(dtype) for _ in range(2))
    weight, sums = np.ones(groups * depth, dtype), np.empty((cuts, 2, groups * depth))
    blank, statistics = np.empty_like(x), np.ones((4, n * groups), dtype)
    recent = np.empty((cuts if length == 1 else 0, 2, groups * depth), dtype)
    run("group_norm", x, weight, weight, 1e-5, blank, statistics)
    run("group_norm_backward", gy, x, weight, statistics, blank, weight, weight, recent, sums)


def products(dtype: str, m: int, n: int, k: int) -> None:
    def ones(*shape: int) -> Array:
        return np.ones(shape, dtype)

    run("matmul_nn", ones(1, m, k), ones(1, k, n), ones(1, m, n))
    run("matmul_nt", ones(1, m, k), ones(1, n, k), ones(1, m, n))
    run("matmul_tn", ones(1, k, m), ones(1, k, n), ones(1, m, n))
    for bias in (0, n):
        run("linear", ones(m, k), ones(n, k), ones(bias), ones(m, n))


def max_pool(dtype: str, side: int, kernel: int, stride: int, padding: int) -> None:
    size = (side + 2 * padding - kernel) // stride + 1
    x = np.random.default_rng(0).standard_normal((2, side, side)).astype(dtype)
    out, index = np.empty((2, size, size), dtype), np.empty((2, size, size), np.int64)
    run("max_pool", x, *(v for v in (kernel, stride, padding, 1) for _ in range(2)), out, index)


def winograd_all(n: int, c: int, k: int, side: tuple[int, int], pad: int) -> None:
    def ones(*shape: int) -> Array:
        return np.ones(shape, np.float32)

    (h, w), (rows, columns) = side, (side[0] + 2 * pad - 2, side[1] + 2 * pad - 2)
    work = ones(1, winograd.block_work(c, 8, 32))
    run("winograd_filters", ones(k, c, 3, 3), False, ones(36, winograd.filter_plane(k, c)))
    run(
        "winograd_convolution",
        ones(n, c, h, w),
        ones(36, winograd.filter_plane(k, c)),
        ones(k),
        pad,
        pad,
        32,
        8,
        work,
        ones(n, k, rows, columns),
    )
    u = ones(2, 36, winograd.gradient_plane(k, c))
    work = ones(1, winograd.gradient_work(k, c, 16))
    run("winograd_gradient", ones(n, c, h, w), ones(n, k, rows, columns), pad, pad, 16, work, u)
    run("winograd_filter_gradient", u, ones(k, c, 3, 3))


def kernels() -> None:
    for c, k in ((1, 1), (3, 8), (17, 9), (16, 33)):
        for side in ((3, 3), (4, 5), (8, 16), (5, 17), (9, 70)):
            for pad in (c % 2, 5, 9):
                winograd_all(1 + c % 3, c, k, side, pad)
    for dtype in ("float32", "float64"):
        for side in (3, 4, 9, 16, 17, 33, 34, 35):
            for kernel, stride, padding in ((2, 2, 0), (3, 2, 0), (3, 2, 1), (3, 1, 1), (2, 3, 1)):
                max_pool(dtype, side, kernel, stride, padding)
        for c, length in (
            (1, 1),
            (3, 1),
            (15, 1),
            (16, 1),
            (17, 1),
            (33, 1),
            (1, 2),
            (2, 15),
            (2, 16),
            (3, 17),
            (2, 70),
        ):
            for n, cuts in ((2, 1), (5, 2), (300, 1)):
                batch_norm(dtype, n, c, length, affine=bool(n % 2), cuts=cuts)
            group_norm(dtype, 5, 1, c, length, cuts=2)
            group_norm(dtype, 2, 2, c, length, cuts=1)
        for m in (1, 2, 5, 8, 9, 17):
            for n in (1, 3, 4, 15, 16, 17, 49, 50):
                for k in (1, 7, 16, 17):
                    products(dtype, m, n, k)
        for b in (1, 2, 15, 16, 17, 33):
            for r in (1, 2, 17):
                run("sum", np.ones((2, r, b), dtype), 1.0, np.empty((2, b), dtype))
                run("softmax", np.ones((2, r, b), dtype), np.empty((2, r, b), dtype))
    print("intact")


if __name__ == "__main__":
    {"kernels": kernels, "fault": fault}[sys.argv[1]]()
