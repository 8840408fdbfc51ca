"""Run kernels on arrays that end at a protected page: one element too far kills the process.

python guarded_pages.py kernels     every kernel on raw pointers, at sizes about its registers; prints "intact"
python guarded_pages.py fault       a kernel that reads one register past its array
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

import tinygrad_bn as tb
from tinygrad_bn.core import launch
from tinygrad_bn.core.device import cpu
from tinygrad_bn.kernels import panels, winograd
from tinygrad_bn.kernels.cpu import simd
from tinygrad_bn.kernels.cpu._jit import jit
from tinygrad_bn.kernels.spec import Kernel
from tinygrad_bn.kernels.windows import Geometry, backward_work, forward_work
from tinygrad_bn.ops import _direct, _direct_weight
from tinygrad_bn.ops._geometry import windows as windows_of

Array = np.ndarray[Any, Any]
PAGE = mmap.PAGESIZE
_protect = ctypes.CDLL(None, use_errno=True).mprotect
_protect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def guarded(array: Array) -> Array:
    """A copy whose last element is followed by a page without any access."""
    pages = -(-max(array.nbytes, 1) // PAGE)
    memory = mmap.mmap(-1, (pages + 1) * PAGE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    if _protect(start + pages * PAGE, PAGE, 0):
        raise OSError(ctypes.get_errno(), "mprotect")
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
    for act in ((1, 0), (2, 0.0), (3, 0.25), (4, 0.0), (5, 0.0), (6, 0.0), (7, 0.0)):
        run("batch_norm_train", x, weight, bias, 1e-5, *act, blank, statistics, parts)
        run("batch_norm_backward", gy, x, weight, bias, statistics, *act, blank, row, row, parts)
        given = (weight, bias, row * 0, row * 0 + 1, 1e-5, *act)
        run("batch_norm_eval", x, *given, blank, statistics)
        run("batch_norm_eval_backward", gy, x, *given, blank, row, row, statistics, parts)
        run("batch_norm_residual", x, gy, weight, bias, 1e-5, *act, blank, statistics, parts)
        run("batch_norm_residual_backward", gy, x, x, weight, bias, statistics, *act, blank, blank, row, row, parts)
        run("batch_norm_residual_eval", x, gy, *given, blank, statistics)
        run("batch_norm_residual_eval_backward", gy, x, x, *given, blank, blank, row, row, statistics, parts)
        if length == 1 and n <= 256:
            rows, grad, made = x[:, :, 0], gy[:, :, 0], blank[:, :, 0]
            run("batch_norm_block", rows, weight, bias, 1e-5, *act, made, statistics)
            run("batch_norm_block_backward", grad, rows, weight, bias, statistics, *act, made, row, row)


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


def chain(dtype: str, m: int, n: int, k: int) -> None:
    def ones(*shape: int) -> Array:
        return np.ones(shape, dtype)

    x, weight, z, row = ones(m, k), ones(n, k), ones(m, n), ones(n)
    run("linear_backward", z, x, weight, x, weight, row)
    run("linear_batch_norm", x, weight, row, row, 1e-5, 1, 0, z, ones(4, n), z)
    run("linear_batch_norm_backward", z, x, weight, row, row, z, ones(4, n), 1, 0, z, x, weight, row, row)


def pooling(dtype: str, side: int, kernel: int, stride: int, padding: int) -> None:
    size = (side + 2 * padding - kernel) // stride + 1
    window = [v for v in (kernel, stride, padding, 1) for _ in range(2)]
    g = Geometry(side, side, size, size, *window)
    x = np.random.default_rng(0).standard_normal((2, side, side)).astype(dtype)
    out, code, counts = np.zeros((2, size, size), dtype), np.zeros((2, size, size), np.int8), np.ones(size, np.int64)
    work, back = (np.empty((1, n), dtype) for n in (forward_work(g), backward_work(g)))
    run("max_pool", x, *window, work, out, code)
    run("max_pool_backward", out, code, *window, back, x)
    run("mean_pool", x, *window[:6], counts, counts, work, out)
    run("mean_pool_backward", out, *window[:6], counts, counts, back, x)


def winograd_all(n: int, c: int, k: int, side: tuple[int, int], pad: int) -> None:
    def ones(*shape: int) -> Array:
        return np.ones(shape, np.float32)

    (h, w), (rows, columns) = side, (side[0] + 2 * pad - 2, side[1] + 2 * pad - 2)
    work = ones(1, winograd.block_work(4 * c, 8, 32))
    run("winograd_filters", ones(k, c, 3, 3), False, ones(36, winograd.filter_plane(k, c)))
    run(
        "winograd_convolution",
        ones(n, c, h, w),
        *(ones(4, c), ones(c), ones(c), 1),
        ones(36, winograd.filter_plane(k, 4 * c)),
        ones(k),
        pad,
        pad,
        2,
        2,
        32,
        8,
        work,
        ones(n, k, rows, columns),
        np.ones((k, -(-n * -(-rows // 4) * -(-columns // 4) // 32), 3)),
    )
    u = ones(2, 36, winograd.gradient_plane(k, c))
    work = ones(1, winograd.gradient_work(k, c, 2, 3, 16))
    normal = (ones(4, c), ones(c), ones(c), 1)
    geometry = ones(n, k, rows, columns), pad, pad, 2, 3
    run("winograd_gradient", ones(n, c, h, w), *normal, *geometry, 16, work, u)
    down, across = -(-rows // 4), -(-columns // 4)
    units, tiles = n * -(-down // 2) * -(-across // 3), n * down * across
    work = ones(1, winograd.unit_work(2, 3))
    v, m = ones(36, winograd.points_plane(c, tiles)), ones(36, winograd.points_plane(k, tiles))
    run("winograd_points", ones(n, c, h, w), *normal, *geometry, 0, units, work, v, m)
    run("winograd_products", m, v, tiles, False, ones(1, 36, winograd.gradient_plane(k, c)))
    run("winograd_filter_gradient", u, ones(k, c, 3, 3))


def pieces(n: int, c: int, side: tuple[int, int], count: int, stride: int, step: int) -> None:
    x = np.random.default_rng(0).standard_normal((n, c, *side)).astype(np.float32)
    size = [-(-v // count) for v in side]
    parts = np.empty((n, count, count, c, *size), np.float32)
    steps = (stride, stride, size[0] if step else 1, size[1] if step else 1, 0, 0)
    run("gather_pieces", x, *steps, parts)
    run("scatter_pieces", np.zeros_like(parts), *steps, x)


def direct_weight(dtype: str, n: int, c: int, k: int, groups: int, side: tuple[int, int], g: dict[str, int]) -> None:
    """Both ways, cut as the operation cuts."""
    pairs = {name: (value, value) for name, value in g.items()}
    padding = (pairs.pop("padding"),) * 2
    geometry = windows_of("conv2d", side, padding=padding, groups=groups, **pairs)
    x, gy = np.ones((n, groups * c, *side), dtype), np.ones((n, groups * k, *geometry.output), dtype)
    for pixels in (False, True):
        cut = _direct_weight.plan(n, c, k, geometry, pixels)
        room = _direct_weight.workspace(cut, 2, k, geometry, getattr(tb, dtype), cpu)
        out = np.empty((groups * k, c, *geometry.kernel), dtype)
        name = "direct_weight_pixels" if pixels else "direct_weight"
        run(name, x, gy, *geometry.steps, cut.samples, cut.rows, cut.columns, cut.channels, *room, out)


PLACED = {"direct_convolution", "panel_convolution", "pointwise_weight"}


def direct(op: str, x: tuple[int, ...], w: tuple[int, ...], **options: int) -> None:
    """Forward and backward, each of these kernels' arguments put at protected pages."""

    def place(kernel: Kernel, arguments: tuple[Any, ...], go: Callable[[], None]) -> None:
        if kernel.name in PLACED:
            run(kernel.name, *arguments)
        go()

    launch.observers.append(place)
    with tb.backends.cpu.flags(conv_algorithm="direct"):
        for dtype in (tb.float32, tb.float64):
            a = tb.ones(*x, dtype=dtype, requires_grad=True)
            y = getattr(tb, op)(a, tb.ones(*w, dtype=dtype, requires_grad=True), **options)
            y.backward(tb.ones_like(y))
    launch.observers.remove(place)


def direct_all() -> None:
    for side in ((1, 1), (3, 4), (7, 7), (5, 16), (5, 17), (6, 33), (1, 3000), (9, 49)):
        for c, k in ((1, 1), (3, 9), (17, 4), (5, 19)):
            direct("conv2d", (3, c, *side), (k, c, 1, 1))
            direct("conv2d", (3, c, *side), (k, c, 1, 1), stride=2)
            direct("conv2d", (2, c, *side), (k, c, 3, 3), padding=1)
            direct("conv2d", (2, c, *side), (k, c, 3, 3), padding=7, stride=2)
            direct("conv2d", (2, c, *side), (k, c, 2, 2), padding=9, dilation=3, stride=3)
    direct("conv2d", (1, 600, 5, 5), (9, 600, 3, 3), padding=1)
    direct("conv2d", (2, 20, 9, 9), (22, 10, 3, 3), padding=1, stride=2, groups=2)


def panels_all() -> None:
    """The same geometries where panels, and 1×1 filters' own gradient, are taken whatever the sizes."""
    least = {(panels, name): 0 for name in ("LEAST", "WORK", "FULL", "MANY")} | {(_direct_weight, "MANY"): 1}
    kept = {key: getattr(*key) for key in least}
    for values in (least, kept):
        for (module, name), value in values.items():
            setattr(module, name, value)
        _direct.planned.cache_clear()
        if values is least:
            direct_all()


def depthwise(n: int, groups: int, depth: int, each: int, side: tuple[int, int], stride: int) -> None:
    """Forward and backward, each kernel's arguments and workspaces put at protected pages."""

    def place(kernel: Kernel, arguments: tuple[Any, ...], go: Callable[[], None]) -> None:
        if kernel.name.startswith("depthwise"):
            run(kernel.name, *arguments)
        go()

    launch.observers.append(place)
    for dtype in (tb.float32, tb.float64):
        x = tb.ones(n, groups * depth, *side, dtype=dtype, requires_grad=True)
        w = tb.ones(groups * each, depth, 3, 3, dtype=dtype, requires_grad=True)
        y = tb.functional.conv2d(x, w, None, stride, (1, 2), groups=groups)
        y.backward(tb.ones_like(y))
    launch.observers.remove(place)


def kernels() -> None:
    for n, groups, depth, each in ((1, 2, 1, 1), (3, 5, 2, 1), (2, 16, 1, 2), (3, 17, 1, 1)):
        for side in ((1, 1), (4, 3), (3, 8), (5, 17), (9, 31)):
            for stride in (1, 2, 3):
                depthwise(n, groups, depth, each, side, stride)
    direct_all()
    panels_all()
    for dtype in ("float32", "float64"):
        # the second of two ranges of channels is a channel narrower, and fills no tile
        direct_weight(dtype, 3, 135, 3, 1, (4, 5), {"kernel": 1, "stride": 1, "padding": 0, "dilation": 1})
        for c, k, groups in ((1, 1, 1), (3, 17, 1), (5, 40, 2)):
            for side in ((1, 1), (4, 5), (9, 16), (5, 33), (17, 70)):
                direct_weight(dtype, 3, c, k, groups, side, {"kernel": 1, "stride": 1, "padding": 0, "dilation": 1})
                direct_weight(dtype, 3, c, k, groups, side, {"kernel": 3, "stride": 1, "padding": 1, "dilation": 1})
                direct_weight(dtype, 3, c, k, groups, side, {"kernel": 2, "stride": 2, "padding": 3, "dilation": 3})
    for side in ((1, 1), (4, 5), (3, 31), (4, 32), (5, 33), (2, 64), (3, 67), (1, 140)):
        for count in (1, 2, 3, 4):
            pieces(2, 3, side, count, count, 0)
            pieces(1, 17, side, count, 1, 1)
    for c, k in ((1, 1), (3, 8), (17, 9), (16, 33)):
        for side in ((3, 3), (4, 5), (8, 16), (5, 17), (9, 70)):
            for pad in (c % 2, 5, 9):
                winograd_all(1 + c % 3, c, k, side, pad)
    for dtype in ("float32", "float64"):
        for side in (3, 4, 9, 16, 17, 33, 34, 35):
            for kernel, stride, padding in ((2, 2, 0), (3, 2, 0), (3, 2, 1), (3, 1, 1), (2, 3, 1)):
                pooling(dtype, side, kernel, stride, padding)
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
                chain(dtype, m, n, 17)
        for b in (1, 2, 15, 16, 17, 33):
            for r in (1, 2, 17):
                run("sum", np.ones((2, r, b), dtype), 1.0, np.empty((2, b), dtype))
                run("softmax", np.ones((2, r, b), dtype), np.empty((2, r, b), dtype))
    print("intact")


if __name__ == "__main__":
    {"kernels": kernels, "fault": fault}[sys.argv[1]]()
