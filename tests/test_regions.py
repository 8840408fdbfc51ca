"""How parallel loops get to the threads."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

import tinygrad_bn as tb
from tinygrad_bn.core.launch import pool
from tinygrad_bn.kernels.cpu._jit import ENABLED, jit

pytestmark = pytest.mark.skipif(not ENABLED, reason="kernels are plain Python")


@jit(parallel=True)
def _who(out):
    for i in numba.prange(out.size):
        out[i] = numba.get_thread_id()


@jit(parallel=True)
def _sum(x, out):
    total = 0.0
    for i in numba.prange(x.size):
        total += x[i]
    out[0] = total


if ENABLED:
    import llvmlite.binding as llvm
    import numba

    from tinygrad_bn.kernels.cpu._regions import SYMBOL


@pytest.fixture
def two_threads():
    before = tb.get_num_threads()
    pool.enter()
    if pool.limit < 2 or pool.layer != "omp":
        pytest.skip("there is one thread, or no OpenMP")
    tb.set_num_threads(2)
    pool.enter()
    yield
    tb.set_num_threads(before)
    pool.enter()


def test_loops_go_straight_to_openmp(two_threads):
    _who(np.zeros(4))
    assert llvm.address_of_symbol(SYMBOL) not in (None, llvm.address_of_symbol("numba_parallel_for"))


def test_each_thread_takes_a_share_and_a_loop_of_one_part_stays(two_threads):
    out = np.full(4, -1.0)
    _who(out)
    assert out.tolist() == [0, 0, 1, 1]
    out = np.full(1, -1.0)
    _who(out)
    assert out.tolist() == [0]
    _who(np.zeros(0))


def test_as_many_threads_as_were_asked_for(two_threads):
    tb.set_num_threads(1)
    pool.enter()
    out = np.full(4, -1.0)
    _who(out)
    assert out.tolist() == [0, 0, 0, 0]


def test_what_threads_add_up_has_a_place_for_each(two_threads):
    out = np.zeros(1)
    _sum(np.arange(1000.0), out)
    assert out[0] == 499500


BESIDE = """
import torch, numba, numpy as np
torch.ones(100_000).sum()
import tinygrad_bn as tb
import test_regions
from tinygrad_bn.core.launch import pool
pool.enter()
out = np.full(4, -1.0)
test_regions._who(out)
assert out.tolist() == [0, 0, 1, 1], out
"""


@pytest.mark.peers
def test_a_library_that_pytorch_has_loaded_is_shared(two_threads):
    pytest.importorskip("torch")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path])}
    done = subprocess.run([sys.executable, "-c", BESIDE], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


WITHOUT = """
import numpy as np
import llvmlite.binding as llvm
from tinygrad_bn.kernels.cpu import _regions
_regions._openmp = lambda: None
import tinygrad_bn as tb
a, b = tb.randn(200, 150), tb.randn(150, 180)
assert np.allclose((a @ b).numpy(), a.numpy() @ b.numpy(), atol=1e-4)
assert llvm.address_of_symbol(_regions.SYMBOL) == llvm.address_of_symbol("numba_parallel_for")
"""


def test_numbas_own_way_is_taken_where_openmp_has_not_gnus_interface(two_threads):
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
