"""What all tests share: Hypothesis profiles, devices and dtypes, a fresh random state.

Choose a profile with ``--hypothesis-profile``: ``default``, ``ci`` (the same draws in every run), ``intense``, or
``simulated``, which is chosen where kernels of the GPU are simulated: a thread takes tens of microseconds.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

import tinygrad_bn as tb

os.environ.setdefault("TINYGRAD_BN_QUIET", "1")
_ROOT = str(Path(tb.__file__).parents[1])
os.environ["PYTHONPATH"] = os.pathsep.join(
    [_ROOT, *filter(None, [os.environ.get("PYTHONPATH")])]
)  # of processes we start

JIT_OFF = os.environ.get("NUMBA_DISABLE_JIT") == "1"
SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"

_SLOW_FIRST_CALLS = [HealthCheck.too_slow, HealthCheck.differing_executors]
settings.register_profile("default", deadline=None, max_examples=30, suppress_health_check=_SLOW_FIRST_CALLS)
settings.register_profile("ci", settings.get_profile("default"), derandomize=True, print_blob=True)
settings.register_profile("intense", settings.get_profile("default"), max_examples=1000)
_FILTERED = [*_SLOW_FIRST_CALLS, HealthCheck.filter_too_much]
settings.register_profile("simulated", settings.get_profile("ci"), max_examples=8, suppress_health_check=_FILTERED)
settings.load_profile("simulated" if SIMULATED else "ci" if os.environ.get("CI") else "default")

MARKERS = (
    "peers: compares with PyTorch; skipped where it is not installed",
    "jit_off: small enough to run with NUMBA_DISABLE_JIT=1, kernels executed as Python",
    "bounds: part of the sample that runs with NUMBA_BOUNDSCHECK=1",
    "slow: takes seconds",
)


def pytest_configure(config: pytest.Config) -> None:
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)
    config.addinivalue_line("filterwarnings", "error")


@pytest.fixture(params=["cpu", "ref"])
def device(request: pytest.FixtureRequest) -> str:
    """Every device in turn."""
    return str(request.param)


@pytest.fixture(params=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> str:
    """Every floating-point dtype in turn."""
    return str(request.param)


@pytest.fixture(autouse=True)
def fresh_random_state() -> Iterator[None]:
    """Every test starts from the same random state, and leaves the number of threads as it was.

    Compiled kernels raise no floating-point warnings; neither do they where they run as Python.
    """
    tb.manual_seed(0)
    threads = tb.get_num_threads()
    with np.errstate(all="ignore" if JIT_OFF else None):
        yield
    tb.set_num_threads(threads)
