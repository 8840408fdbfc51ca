"""Kernels of ``cuda`` against ``ref``: on a GPU where there is one, else in the simulator (NUMBA_ENABLE_CUDASIM=1)."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
from agreement import compare
from hypothesis import given
from hypothesis import strategies as st
from problems import MAKERS, ROUGH, SINGLE, WITH_TABLES, Arguments, copied

from tinygrad_bn import cuda
from tinygrad_bn.core.device import Device, as_device, ref
from tinygrad_bn.kernels import CPU_ONLY, catalogue
from tinygrad_bn.kernels.spec import parameters_of

Array = np.ndarray[Any, Any]
pytestmark = pytest.mark.skipif(not cuda.is_available(), reason="no GPU, and NUMBA_ENABLE_CUDASIM is not 1")
SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"
NAMES = sorted(n for n, (topic, _) in catalogue().items() if topic not in CPU_ONLY)


def placed(gpu: Device, array: Array) -> Array:
    """An array on the GPU, with the strides that it has."""
    if array.flags.c_contiguous or not array.size:
        return gpu.array(np.ascontiguousarray(array).reshape(array.shape))
    steps = [(n - 1) * s for n, s in zip(array.shape, array.strides)]
    ahead = -sum(s for s in steps if s < 0)
    span = sum(map(abs, steps)) + array.itemsize
    low = array.__array_interface__["data"][0] - ahead
    import ctypes

    memory = np.frombuffer((ctypes.c_char * span).from_address(low), array.dtype)
    there = gpu.array(memory.copy())[ahead // array.itemsize :]
    return np.lib.stride_tricks.as_strided(there, array.shape, array.strides, subok=True)


def on_gpu(name: str, arguments: Arguments) -> Arguments:
    """Run a kernel of the GPU; the arguments as it leaves them."""
    gpu = as_device("cuda")
    there = {k: placed(gpu, v) if isinstance(v, np.ndarray) else v for k, v in arguments.items()}
    getattr(gpu.kernels, name).serial(*there.values())
    return {k: gpu.to_host(v) if isinstance(v, np.ndarray) else v for k, v in there.items()}


def affordable(name: str, problem: Arguments) -> bool:
    """Whether the simulator takes less than seconds: a multiply-add of its takes microseconds."""
    if not SIMULATED or name != "direct_convolution":
        return True
    return max(problem["x"].size, problem["out"].size) * problem["w"][0].size < 100_000


@pytest.mark.parametrize("name", NAMES)
def test_cuda_has_every_kernel_with_the_same_parameters(name: str) -> None:
    modules = (as_device(d).kernels.module(catalogue()[name][0]) for d in ("cuda", "ref"))
    ours, theirs = (parameters_of(getattr(module, name)) for module in modules)
    assert ours == theirs


@pytest.mark.parametrize(
    ("name", "dtype"),
    [(n, d) for n in sorted(set(MAKERS) & set(NAMES)) for d in ("float32", "float64")[: 1 if n in SINGLE else 2]],
)
@given(data=st.data())
def test_cuda_agrees_with_ref(name: str, dtype: str, data: st.DataObject) -> None:
    """The problems that the CPU's kernels are tested with."""
    maker, rtol = MAKERS[name]
    before = data.draw(maker(name, dtype).filter(lambda problem: affordable(name, problem)))
    rtol = ROUGH.get(name, rtol)
    theirs = copied(before)
    with np.errstate(all="ignore"):
        ours = on_gpu(name, copied(before))
        getattr(ref.kernels, name).serial(*theirs.values())
    if name == "ravel_index" and ours["status"][0]:
        ours.pop("out")
        theirs.pop("out")
    compare(name, ours, theirs, before, rtol if dtype == "float32" else min(rtol, 1e-11))


def test_every_kernel_has_a_problem() -> None:
    assert set(NAMES) <= set(MAKERS) | WITH_TABLES
