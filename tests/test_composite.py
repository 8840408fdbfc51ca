"""Second derivatives through composites, whose inputs may depend on each other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tinygrad_bn as tb
from tinygrad_bn.testing import assert_close


def _norms(lib: Any, linear: Any, w: Any, grad: Any) -> list[float]:
    """Σ g² of the first, second and third derivative, each of the one before, where input and weight are one."""
    found = []
    y = linear(w.tanh()[:2], w).exp().sum()
    for _ in range(3):
        (g,) = grad(y, w, create_graph=True)
        y = (g * g).sum()
        found.append(y.item())
    return found


@pytest.mark.peers
def test_derivatives_of_a_product_of_dependent_operands(device: str) -> None:
    """The gradient of one input must leave out what reaches it by way of another: the tape adds that itself."""
    torch = pytest.importorskip("torch")
    w = np.random.default_rng(0).standard_normal((4, 3)) * 0.3
    want = _norms(torch, torch.nn.functional.linear, torch.tensor(w, requires_grad=True), torch.autograd.grad)
    got = _norms(tb, tb.functional.linear, tb.tensor(w, device=device, requires_grad=True), tb.grad)
    assert_close(np.array(got), np.array(want), 1e-12)
