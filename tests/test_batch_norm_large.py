"""Batch normalisation of what the caches do not hold: stores past them, registers over two channels, fetching ahead."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tinygrad_bn.core import launch
from tinygrad_bn.core.device import cpu, ref
from tinygrad_bn.kernels.cpu import bn_apply, bn_gradient, bn_rows
from tinygrad_bn.kernels.cpu._jit import ENABLED
from tinygrad_bn.testing import assert_close

pytestmark = pytest.mark.jit_off
Array = np.ndarray[Any, Any]
SHAPES = [
    (21, 1031, 196, "float32"),  # several channels a task, a number that does not divide theirs
    (43, 401, 253, "float32"),  # odd rows: no channel begins where a register may
    (2, 7, 310_003, "float32"),  # rows of many blocks
    (9, 77, 3137, "float64"),
]
SMALL = [(3, 11, 30, "float32"), (2, 3, 53, "float32"), (2, 2, 5001, "float32"), (2, 5, 33, "float64")]


@pytest.fixture(params=SHAPES if ENABLED else SMALL, ids=str)
def shape(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int, int, str]:
    """With the JIT off, small problems count as large."""
    if not ENABLED:
        for module in (bn_rows, bn_apply, bn_gradient):
            monkeypatch.setattr(module, "LARGE", 500)
        monkeypatch.setattr(bn_gradient, "FAR", 500)
    found: tuple[int, int, int, str] = request.param
    assert found[0] * found[1] * found[2] * np.dtype(found[3]).itemsize > bn_rows.LARGE
    return found


def blank(shape: tuple[int, ...], dtype: str) -> Array:
    """NaN, in memory that begins three elements behind a register's place, or so."""
    size = int(np.prod(shape))
    return np.full(size + 3, np.nan, dtype)[3:].reshape(shape)


def run(name: str, kernels: Any, *arguments: Any) -> None:
    kernel = getattr(kernels, name)
    launch.launch(kernel, *arguments)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("act", [0, 1])
def test_cpu_agrees_with_ref(shape: tuple[int, int, int, str], act: int, residual: bool) -> None:
    n, c, length, dtype = shape
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((n, c, length), dtype=np.float32) + 2).astype(dtype)
    gy = rng.standard_normal(x.shape, dtype=np.float32).astype(dtype)
    r = rng.standard_normal(x.shape, dtype=np.float32).astype(dtype)
    weight, bias = rng.uniform(0.5, 1.5, c).astype(dtype), rng.standard_normal(c).astype(dtype)
    found = []
    for kernels in (cpu.kernels, ref.kernels):
        y, gx, gr = (blank(x.shape, dtype) for _ in range(3))
        rows, gweight, gbias = blank((4, c), dtype), blank((c,), dtype), blank((c,), dtype)
        parts = np.full((c, 1, 3), np.nan)
        if residual:
            run("batch_norm_residual", kernels, x, r, weight, bias, 1e-5, act, 0, y, rows, parts)
        else:
            run("batch_norm_train", kernels, x, weight, bias, 1e-5, act, 0, y, rows, parts)
        out, statistics = (y, rows) if not found else found[0][:2]  # ours: no rounding decides on a slope
        gradients = (gx, gr, gweight, gbias) if residual and act else (gx, gweight, gbias)
        if residual and act:
            inputs = (gy, x, out, weight, bias, statistics, act, 0)
            run("batch_norm_residual_backward", kernels, *inputs, *gradients, parts)
        else:
            inputs = (gy, x, weight, bias, statistics, 0, 0)
            run("batch_norm_backward", kernels, *inputs, *gradients, parts)
        found.append((y, rows, *gradients))
    rtol = 1e-5 if dtype == "float32" else 1e-11
    for i, (ours, theirs) in enumerate(zip(*found, strict=True)):
        if i != 1:
            scale = np.abs(theirs).max()
            assert_close(ours / scale + 1, theirs / scale + 1, rtol, f"result {i}")
