"""How parallel loops get to the threads."""

from __future__ import annotations

import ctypes
import threading
import time

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
    import numba


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


@jit(parallel=True)
def _work_and_loop(count, state, out):
    state[0] = 1.0
    for _ in range(count):
        state[1] = state[1] * 0.999 + 1.0
    for i in numba.prange(out.size):
        out[i] = 1.0


def test_a_loop_does_not_wait_for_pythons_lock(two_threads):
    state, out = np.zeros(2), np.zeros(4)
    _work_and_loop(0, state, out)
    state[:], out[:] = 0.0, 0.0
    kernel = threading.Thread(target=_work_and_loop, args=(10_000_000, state, out))
    kernel.start()
    while not state[0]:
        time.sleep(0.001)
    ctypes.PyDLL(None).usleep(900_000)  # with the lock held: the kernel's other thread gets to its loop meanwhile
    done = out.copy()
    kernel.join()
    assert done.all()


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
