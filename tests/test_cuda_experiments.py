"""The experiments on ``cuda``: a few steps of each give the CPU's numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import tinygrad_bn as tb
from tinygrad_bn import cuda
from tinygrad_bn.experiments import bias_blowup, depth_affine, gamma_beta, input_scaling, mnist_sigmoid
from tinygrad_bn.experiments.runner.experiment import CLOCK, Numbers, Task
from tinygrad_bn.experiments.runner.pictures import Pictures

pytestmark = pytest.mark.skipif(not cuda.is_available(), reason="no GPU, and NUMBA_ENABLE_CUDASIM is not 1")

SMALL: dict[Any, dict[str, Any]] = {
    input_scaling: {"distance": 0.5, "samples": 16, "kappas": (3, 10), "features": 3},
    gamma_beta: {"samples": 8, "steps": 2, "inputs": 4, "units": 3},
    depth_affine: {
        "depths": (2,), "steps": 2, "pictures": 30, "shift_steps": 2, "shift_every": 1, "shift_pictures": 30,
        "width": 4, "batch": 5, "forward": 2, "jacobian": 2, "points": 2, "shift_depth": 2,
    },
    bias_blowup: {
        "layer_steps": 3, "net_steps": 4, "samples": 8, "width": 4, "rates": (0.3,), "interval": 2, "inputs": 4,
        "hidden": 2, "classes": 3, "train": 16, "batch": 8,
    },
    mnist_sigmoid: {"steps": 3, "every": 1, "batch": 4, "hidden": (5, 4), "look": 6},
}  # fmt: skip
RUNS = [
    (input_scaling, "round"), (input_scaling, "condition"), (input_scaling, "z_score"), (gamma_beta, "learned"),
    (depth_affine, "jacobians"), (depth_affine, "shift bn"), (bias_blowup, "mean_outside"), (bias_blowup, "interval"),
    (bias_blowup, "decorrelated"), (mnist_sigmoid, "with_bn"),
]  # fmt: skip


def pictures() -> Pictures:
    rng = np.random.default_rng(0)
    (x, a), (y, b) = ((rng.random((n, 1, 4, 4)).astype(np.float32), rng.integers(0, 10, n)) for n in (40, 20))
    return Pictures("mnist", x, a, y, b)


def numbers_of(found: Numbers) -> dict[str, Any]:
    """Everything but the clock's."""
    return {key: value for key, value in found.items() if key != CLOCK}


@pytest.mark.parametrize(("module", "arm"), RUNS, ids=[f"{m.__name__.split('.')[-1]}-{a}" for m, a in RUNS])
def test_an_experiment_gives_the_cpu_s_numbers(module: Any, arm: str) -> None:
    setting = replace(module.EXPERIMENT.scales["quick"], **SMALL[module])
    found = []
    for device in ("cuda", "cpu"):
        tb.manual_seed(0)
        task = Task(arm, setting, 0, pictures(), device, lambda n=1: None)
        found.append(numbers_of(module.run(task)))
    ours, theirs = found
    assert ours.keys() == theirs.keys()
    assert theirs
    for key, value in theirs.items():
        same(ours[key], value, key)


def same(got: Any, want: Any, where: str) -> None:
    """Numbers, lists and curves, of float32's digits."""
    if isinstance(want, dict):
        assert got.keys() == want.keys(), where
        for key, value in want.items():
            same(got[key], value, f"{where}.{key}")
    elif isinstance(want, str):
        assert got == want, where
    else:
        np.testing.assert_allclose(np.array(got, float), np.array(want, float), rtol=1e-3, atol=1e-5, err_msg=where)
