"""The exponential of sums over e^(x - max x), and what rests on it, where numbers are extreme."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tinygrad_bn as tb
from tinygrad_bn.kernels.cpu import simd
from tinygrad_bn.kernels.cpu._jit import jit
from tinygrad_bn.kernels.cpu.exponent import exp_below

pytestmark = [pytest.mark.jit_off]


@jit()
def exponentials(a: Any, out: Any) -> None:
    for i in range(0, a.size, simd.lanes(a)):
        simd.store(out, i, exp_below(simd.load(a, i)))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_exponentials_of_what_is_not_positive(dtype: str) -> None:
    a = np.concatenate([-np.geomspace(1e-8, 87.3, 4091), [0.0, 1e-7, 5.0, np.nan, -np.inf]]).astype(dtype)
    out = np.zeros_like(a)
    exponentials(a, out)
    with np.errstate(under="ignore"):
        exact = np.exp(a.astype(np.longdouble)).astype(dtype)
    np.testing.assert_allclose(out, exact, rtol=4 * np.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("low", [-87.5, -88.0, -95.0, -104.0, -1e30])
def test_what_underflows_is_next_to_nothing(low: float) -> None:
    a = np.full(64, low, np.float32)
    out = np.ones_like(a)
    exponentials(a, out)
    assert (out >= 0).all()
    assert (out < 1.2e-38).all()


EXTREME = {
    "infinity": [1.0, np.inf, 2.0],
    "two infinities": [np.inf, np.inf, 2.0],
    "minus infinity": [1.0, -np.inf, 2.0],
    "only minus infinity": [-np.inf, -np.inf, -np.inf],
    "NaN": [1.0, np.nan, 2.0],
    "the largest": [3e38, -3e38, 3e38],
    "the most negative": [-3e38, -3e38, -3e38],
}


@pytest.mark.parametrize("name", EXTREME)
@pytest.mark.parametrize("classes", [3, 16, 17, 101])
@pytest.mark.parametrize("places", [1, 2])
def test_extreme_scores(name: str, classes: int, places: int, dtype: str) -> None:
    """Softmax, logsumexp, the cross-entropy and its gradient are the reference's."""
    row = np.resize(np.array(EXTREME[name], dtype), classes)
    if name == "infinity":
        row[4:] = 0.5
    x = np.repeat(np.stack([row, np.linspace(-200, 50, classes).astype(dtype)])[:, :, None], places, 2)
    classes_of = np.full((2, places), classes - 1)
    found = []
    for device in ("cpu", "ref"):
        scores = tb.tensor(x, device=device).requires_grad_()
        target = tb.tensor(classes_of, device=device)
        loss = tb.nn.functional.cross_entropy(scores, target, reduction="none")
        loss.sum().backward()
        values = (tb.softmax(scores, 1), tb.logsumexp(scores, 1), loss)
        found.append([t.detach().numpy() for t in (*values, scores.grad)])
    for ours, reference in zip(*found, strict=True):
        np.testing.assert_allclose(ours, reference, rtol=1e-5, atol=1e-6 if dtype == "float32" else 1e-13)
