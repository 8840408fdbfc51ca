"""Kernels on tables of addresses, on the GPU, against the specification."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from test_kernels import TABLES

import tinygrad_bn as tb
from tinygrad_bn import cuda
from tinygrad_bn.core.device import as_device, ref
from tinygrad_bn.core.guard import unless
from tinygrad_bn.testing import assert_close

Array = np.ndarray[Any, Any]
pytestmark = pytest.mark.skipif(not cuda.is_available(), reason="no GPU, and NUMBA_ENABLE_CUDASIM is not 1")
SIZES = (1, 7, 0, 1024, 1283)


def rows_of(name: str, count: int, dtype: str, sizes: tuple[int, ...] = SIZES) -> list[list[Array]]:
    """Arrays of parameters, and the steps."""
    rng = np.random.default_rng(0)
    rows = []
    for size in sizes:
        arrays = [rng.standard_normal(size).astype(dtype) for _ in range(count)]
        if name == "adam":
            arrays[3:] = [np.abs(a) for a in arrays[3:]]
        if name in ("adagrad", "rmsprop"):  # squares, well above those of the mean gradient, the last array
            arrays[2] = np.abs(arrays[2]) + 1 + 2 * arrays[-1] ** 2
        rows.append(arrays + ([np.zeros(1, dtype)] if name in TABLES else []))
    return rows


def table_of(rows: list[list[Array]], shift: int = 0) -> tuple[Any, Any, list[list[Array]]]:
    """The table of arrays that begin ``shift`` elements behind a multiple of 16 bytes, and the arrays, on the GPU."""
    gpu = as_device("cuda")
    there = [[gpu.array(np.concatenate([np.zeros(shift, a.dtype), a]))[shift:] for a in row] for row in rows]
    places = [[a.__array_interface__["data"][0] if a.size else 0 for a in row] + [row[0].size] for row in there]
    return gpu.array(np.array(places)), np.empty(0, rows[0][0].dtype), there


def host(rows: list[list[Array]]) -> list[list[Array]]:
    gpu = as_device("cuda")
    return [[gpu.to_host(a) for a in row] for row in rows]


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("name", "hyper"), [(n, h) for n, (_, hs) in TABLES.items() for h in hs])
def test_three_steps_over_small_and_large_parameters(name: str, hyper: list[float], dtype: str, shift: int) -> None:
    gpu, numbers = as_device("cuda"), np.array([*hyper, sum(SIZES)])
    theirs = rows_of(name, TABLES[name][0], dtype)
    table, like, there = table_of(theirs, shift)
    before = host(there)
    for _ in range(3):
        getattr(gpu.kernels, name).serial(table, like, gpu.array(numbers))
        getattr(ref.kernels, name).serial([tuple(row) for row in theirs], like, numbers)
    for ours, those, was in zip(host(there), theirs, before, strict=True):
        for i, (a, b) in enumerate(zip(ours, those, strict=True)):
            if name == "adam" and i == 4 and not hyper[6]:
                np.testing.assert_array_equal(a, was[i])  # the largest second moment is not kept
                continue
            assert_close(a, b, 3e-6 if dtype == "float32" else 1e-12, f"{name}: array {i}")
        assert ours[-1].tolist() == [3.0]


@pytest.mark.parametrize("name", TABLES)
def test_a_guarded_update_does_nothing_where_something_was_found(name: str) -> None:
    gpu, numbers = as_device("cuda"), np.array([*TABLES[name][1][0], 7])
    table, like, there = table_of(rows_of(name, TABLES[name][0], "float32", (7,)))
    before = host(there)[0]
    guarded = unless(getattr(gpu.kernels, name)).serial
    guarded(table, like, gpu.array(numbers), gpu.array(np.ones(1, np.float32)))
    for a, b in zip(host(there)[0], before, strict=True):
        np.testing.assert_array_equal(a, b)
    guarded(table, like, gpu.array(numbers), gpu.array(np.zeros(1, np.float32)))
    after = host(there)[0]
    assert (after[0] != before[0]).all()
    assert after[-1].tolist() == [1.0]


def test_more_rows_than_a_block_has_threads() -> None:
    gpu = as_device("cuda")
    theirs = rows_of("sgd", 3, "float32", (3,) * 300)
    table, like, there = table_of(theirs)
    numbers = np.array([0.1, 0.9, 0.0, 1e-2, 1, 0, 900])
    gpu.kernels.sgd.serial(table, like, gpu.array(numbers))
    ref.kernels.sgd.serial([tuple(row) for row in theirs], like, numbers)
    for ours, those in zip(host(there), theirs, strict=True):
        for a, b in zip(ours, those, strict=True):
            assert_close(a, b, 3e-6, "sgd")


@pytest.mark.parametrize("shift", [0, 3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sums_of_squares_and_scaling(dtype: str, shift: int) -> None:
    gpu = as_device("cuda")
    rows = rows_of("scale", 1, dtype)
    rows[3][0][:] *= np.asarray(1e19, dtype)  # their squares are beyond float32
    table, like, there = table_of(rows, shift)
    out = gpu.array(np.full(len(rows), np.nan))
    gpu.kernels.square_sums.serial(table, like, out)
    np.testing.assert_allclose(gpu.to_host(out), [(r[0].astype(np.float64) ** 2).sum() for r in rows], rtol=1e-12)
    gpu.kernels.scale.serial(table, like, gpu.array(np.array([0.3])))
    for ours, before in zip(host(there), rows, strict=True):
        np.testing.assert_array_equal(ours[0], before[0] * np.asarray(0.3, dtype))


def test_tables_without_rows() -> None:
    gpu = as_device("cuda")
    table, like = gpu.array(np.zeros((0, 5), np.int64)), np.empty(0, np.float32)
    hyper = gpu.array(np.arange(7.0))
    gpu.kernels.sgd.serial(table, like, hyper)
    gpu.kernels.scale.serial(table[:, :2], like, gpu.array(np.ones(1)))
    gpu.kernels.square_sums.serial(table[:, :2], like, gpu.array(np.zeros(0)))
    assert gpu.to_host(hyper).tolist() == [0, 1, 2, 3, 4, 5, 6]


def test_the_norm_of_long_gradients_is_added_up_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tb.nn.utils, "PIECE", 64)
    rng = np.random.default_rng(0)
    values = [rng.standard_normal(s).astype(np.float32) for s in ((20, 10), (3,), (0, 2), (64,), (129,))]
    norms, clipped = [], []
    for device in ("cpu", "cuda"):
        parameters = [tb.nn.Parameter(tb.tensor(v, device=device)) for v in values]
        for p, v in zip(parameters, values, strict=True):
            p.grad = tb.tensor(v, device=device)
        norms.append(float(tb.nn.utils.clip_grad_norm_(parameters, 1.0).cpu().numpy()))
        clipped.append([p.grad.cpu().numpy() for p in parameters if p.grad is not None])
    assert norms[0] == norms[1]
    for one, other in zip(*clipped, strict=True):
        np.testing.assert_array_equal(one, other)
