"""Softmax and cross-entropy of the GPU where problems of all kernels do not lead: infinities, many losses, reports."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tinygrad_bn import cuda
from tinygrad_bn.core.device import as_device, ref
from tinygrad_bn.testing import assert_close

Array = np.ndarray[Any, Any]
pytestmark = pytest.mark.skipif(not cuda.is_available(), reason="no GPU, and NUMBA_ENABLE_CUDASIM is not 1")
INF, NAN = np.inf, np.nan
ROWS = [
    [-INF, -INF, -INF, -INF, -INF],
    [-INF, 1.0, -INF, 2.0, 3.0],
    [INF, 1.0, 2.0, -INF, 0.0],
    [INF, 1.0, INF, 2.0, 0.0],
    [NAN, 1.0, 2.0, 3.0, INF],
    [1.0, 2.0, 3.0, 4.0, NAN],
    [-1e30, -1e30, -1e30, -1e30, -1e30],
    [3.4e38, -3.4e38, 0.0, 1.0, 2.0],
]


def both(name: str, shape: tuple[int, ...], *read: Array) -> tuple[Array, Array]:
    gpu, theirs = as_device("cuda"), np.full(shape, 77, read[0].dtype)
    ours = gpu.array(theirs)
    getattr(gpu.kernels, name).serial(*[gpu.array(a) for a in read], ours)
    with np.errstate(all="ignore"):
        getattr(ref.kernels, name).serial(*read, theirs)
    return gpu.to_host(ours), theirs


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp"])
@pytest.mark.parametrize("times", [1, 40])
def test_infinite_and_nan_rows_are_as_specified(name: str, last: bool, dtype: Any, times: int) -> None:
    x = np.tile(np.array(ROWS, dtype), times)
    x = x[:, :, None] if last else np.ascontiguousarray(x.T)[None]
    shape = (x.shape[0], x.shape[2]) if name == "logsumexp" else x.shape
    ours, theirs = both(name, shape, x)
    np.testing.assert_allclose(ours, theirs, rtol=2e-6)


@pytest.mark.parametrize("shape", [(1, 2000, 1), (3, 1, 1), (70, 3, 1), (1, 500, 3), (2, 9, 67), (0, 5, 1), (2, 3, 0)])
def test_rows_of_all_lengths(shape: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(0)
    x = (10 * rng.standard_normal(shape)).astype(np.float32)
    for name in ("softmax", "log_softmax", "softmax_backward", "log_softmax_backward"):
        read = (x, x / 30) if name.endswith("backward") else (x,)
        ours, theirs = both(name, shape, *read)
        if x.size:
            assert_close(ours, theirs, 5e-5 if name.endswith("backward") else 2e-6, name)


def losses(a: int, c: int, b: int, reduction: int, room: int, wrong: tuple[int, ...] = ()) -> Any:
    """What ref and the GPU give: out, lse, scale, status."""
    rng = np.random.default_rng(0)
    gpu, x = as_device("cuda"), rng.standard_normal((a, c, b)).astype(np.float32)
    target = rng.integers(-1, c, (a, b))
    target.reshape(-1)[list(wrong)] = c + 5
    shape = (a, b) if reduction == 2 else (1, 1)
    written = [np.full(s, np.nan, np.float32) for s in (shape, (a, b), (1,), (room,))]
    there = [gpu.array(w) for w in written]
    status, words = np.zeros(4, np.int64), gpu.array(np.zeros(4, np.int64))
    ref.kernels.cross_entropy.serial(x, target, -1, reduction, *written, status)
    gpu.kernels.cross_entropy.serial(gpu.array(x), gpu.array(target), -1, reduction, *there, words)
    return (*written[:3], status), (*[gpu.to_host(t) for t in there[:3]], gpu.to_host(words))


@pytest.mark.parametrize("reduction", [0, 1, 2])
@pytest.mark.parametrize(("a", "b", "room"), [(1100, 1, 0), (1100, 1, 1792), (40, 33, 99), (3, 700, 10), (0, 1, 0)])
def test_many_losses(a: int, b: int, room: int, reduction: int) -> None:
    """Of one block, and of several that leave their sums in the workspace."""
    with np.errstate(all="ignore"):
        theirs, ours = losses(a, 2, b, reduction, room)
    for name, one, other in zip(("out", "lse", "scale"), ours, theirs):
        np.testing.assert_allclose(one, other, rtol=2e-6, atol=1e-6, err_msg=name)
    assert not ours[3].any()


@pytest.mark.parametrize("reduction", [0, 1, 2])
@pytest.mark.parametrize(("a", "b", "room"), [(50, 1, 0), (1100, 1, 1792), (40, 33, 99)])
def test_the_first_class_out_of_range_is_reported(a: int, b: int, room: int, reduction: int) -> None:
    theirs, ours = losses(a, 3, b, reduction, room, wrong=(a * b - 1, 37, 44))
    assert ours[3].tolist() == theirs[3].tolist() == [1, 37, 8, 2]


def test_an_ignored_sample_has_no_gradient_whatever_it_holds() -> None:
    gpu = as_device("cuda")
    x = np.full((2, 5, 1), np.nan, np.float32)
    x[1] = 0
    out = gpu.array(np.full_like(x, 77))
    arrays = [np.ones((1, 1), np.float32), x, np.array([[-100], [2]]), np.array([[np.nan], [np.log(5)]], np.float32)]
    gpu.kernels.cross_entropy_backward.serial(*map(gpu.array, arrays), gpu.array(np.ones(1, np.float32)), -100, out)
    found = gpu.to_host(out)[:, :, 0]
    assert not found[0].any()
    np.testing.assert_allclose(found[1], [0.2, 0.2, -0.8, 0.2, 0.2], rtol=1e-6)
