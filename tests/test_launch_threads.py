"""Threads: ours are applied at launch, whichever Python thread makes it; after a fork everything runs serially."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

import tinygrad_bn as tb
from tinygrad_bn.core.launch import pool

CODE_OF_FORK = """
import os, sys
import tinygrad_bn as tb
x = tb.ones(300_000)
x.exp().sum().item()                       # the pool has started
pid = os.fork()
if pid == 0:
    y = x.exp().sum().item()
    os._exit(0 if abs(y / 815484.55 - 1) < 1e-4 and tb.get_num_threads() == 1 else 3)
_, status = os.waitpid(pid, 0)
print(os.waitstatus_to_exitcode(status), tb.get_num_threads() >= 1)
"""

CODE_OF_LAYER = """
import warnings, sys
warnings.simplefilter("error")
import tinygrad_bn as tb
from tinygrad_bn.core.launch import pool
tb.ones(300_000).exp()
print(pool.layer)
"""


CODE_OF_BLAS = """
import scipy.linalg.cython_blas, os
from threadpoolctl import threadpool_info
import tinygrad_bn as tb
tb.ones(4, 4) @ tb.ones(4, 4)
for library in threadpool_info():
    folder = os.path.basename(os.path.dirname(library["filepath"])).split(".")[0]
    if library["user_api"] == "blas":
        print(folder, library["num_threads"])
"""


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, env={**os.environ, **environment}
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_runs_serially() -> None:
    found = run(CODE_OF_FORK)
    assert found.stdout == "0 True\n", found.stderr[-2000:]


def test_the_layer_is_one_that_survives() -> None:
    """Not workqueue, which stalls and aborts; without processors to share nothing is started."""
    two = run(CODE_OF_LAYER, NUMBA_NUM_THREADS="2")
    assert two.stdout.strip() in ("omp", "tbb"), two.stderr[-2000:]
    one = run(CODE_OF_LAYER, NUMBA_NUM_THREADS="1")
    assert one.stdout.strip() == "not started", one.stderr[-2000:]


def test_a_bad_layer_is_replaced_by_serial_kernels_with_one_warning() -> None:
    code = """
import warnings, numba, numpy as np
numba.config.THREADING_LAYER = "workqueue"
@numba.njit(parallel=True)
def f(x):
    for i in numba.prange(x.size):
        x[i] = 1
f(np.zeros(10))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import tinygrad_bn as tb
    for _ in range(3):
        y = tb.ones(300_000).exp()
print(len([w for w in caught if "runs on one thread" in str(w.message)]), tb.get_num_threads(), round(y[0].item(), 3))
"""
    found = run(code, NUMBA_NUM_THREADS="2")
    assert found.stdout == "1 1 2.718\n", found.stderr[-2000:]


def test_several_python_threads_launch_at_once() -> None:
    """Each gets the threads that were set, and its own right answer."""
    want = np.exp(np.linspace(-1, 1, 100_000, dtype=np.float32)).sum(dtype=np.float64)
    results: list[float] = []
    seen: list[int] = []

    def work() -> None:
        x = tb.linspace(-1, 1, 100_000)
        for _ in range(20):
            results.append(x.exp().sum().item())
        seen.append(tb.get_num_threads())

    threads = [threading.Thread(target=work) for _ in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(results) == 60
    np.testing.assert_allclose(results, want, rtol=1e-6)
    assert len(set(results)) == 1
    assert seen == [pool.threads] * 3


def test_threads_set_on_one_thread_hold_on_all() -> None:
    tb.set_num_threads(1)
    seen: list[int] = []
    thread = threading.Thread(target=lambda: seen.append(tb.get_num_threads()))
    thread.start()
    thread.join()
    assert seen == [1]


def test_only_scipys_blas_is_limited() -> None:
    """Our large products call SciPy's library from our own threads; NumPy's stays as its user has set it."""
    found = run(CODE_OF_BLAS, OPENBLAS_NUM_THREADS="2")
    threads = dict(line.split() for line in found.stdout.splitlines())
    if set(threads) != {"numpy", "scipy"} or (os.cpu_count() or 1) < 2:
        pytest.skip("NumPy and SciPy share a BLAS here, or there is one processor")
    assert threads == {"numpy": "2", "scipy": "1"}, found.stderr[-2000:]
