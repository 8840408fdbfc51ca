"""The pool: a buffer comes back when the last view of it dies, NumPy's aliases included, and not before."""

from __future__ import annotations

import gc
import mmap
import threading
from collections.abc import Iterator

import numpy as np
import pytest

import tinygrad_bn as tb
from tinygrad_bn.core.device import POOLED, Pool, cpu, pool

pytestmark = pytest.mark.jit_off

N = POOLED // 4  # float32 elements of the smallest pooled buffer


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    gc.collect()
    tb.empty_cache()
    yield
    tb.empty_cache()


def idle() -> int:
    return sum(len(bucket) for bucket in pool.idle.values())


def address(x: tb.Tensor) -> int:
    return x.detach().numpy().__array_interface__["data"][0]


def test_small_arrays_do_not_come_from_the_pool() -> None:
    used = pool.used_bytes
    x = tb.zeros(N - 1)
    assert pool.used_bytes == used
    del x
    assert idle() == 0


def test_a_buffer_comes_back_and_is_used_again() -> None:
    used = pool.used_bytes
    x = tb.zeros(N)
    first = address(x)
    assert pool.used_bytes == used + POOLED
    del x
    assert pool.used_bytes == used
    assert idle() == 1
    assert address(tb.zeros(N)) == first


def test_views_keep_a_buffer() -> None:
    x = tb.zeros(2, N)
    view = x[1].view(-1, 2).t()[1:]
    del x
    assert idle() == 0
    view.add_(1.0)
    del view
    assert idle() == 1


def test_numpys_aliases_keep_a_buffer() -> None:
    x = tb.full((N,), 3.0)
    array = x.numpy()[5:10].reshape(5, 1)
    other = np.asarray(array.T)
    memory = memoryview(other)
    del x, array, other
    assert idle() == 0
    tb.full((N,), 9.0)  # would overwrite a buffer that had come back too soon
    assert np.asarray(memory).tolist() == [[3.0] * 5]
    del memory
    assert idle() == 2


def test_dlpack_keeps_a_buffer() -> None:
    x = tb.full((N,), 3.0)
    array = np.from_dlpack(x)
    del x
    assert idle() == 0
    assert (array == 3.0).all()
    del array
    assert idle() == 1


def test_the_tape_keeps_a_buffer_until_backward_has_passed() -> None:
    x = tb.ones(1, requires_grad=True)
    w = tb.full((N,), 2.0)
    y = (x * w).sum()
    del w
    before = idle()
    y.backward()
    assert idle() > before
    assert x.grad is not None
    assert x.grad.item() == 2.0 * N


def test_buffers_are_aligned_to_pages_and_disjoint() -> None:
    xs = [tb.empty(N + i) for i in range(5)]
    assert all(address(x) % mmap.PAGESIZE == 0 for x in xs)
    for x in xs:
        x.fill_(float(id(x) % 97))
    assert all((x.numpy() == float(id(x) % 97)).all() for x in xs)


def test_shapes_and_dtypes() -> None:
    for dtype in ("float32", "float64", "int64", "bool"):
        x = cpu.empty((3, 50_000), getattr(tb, dtype))
        assert x.shape == (3, 50_000)
        assert x.dtype == np.dtype(dtype)
        assert x.flags.c_contiguous
        assert x.flags.writeable
        assert type(x) is np.ndarray


def test_empty_cache() -> None:
    xs = [tb.zeros(N) for _ in range(3)]
    del xs
    assert idle() == 3
    tb.empty_cache()
    assert idle() == 0
    assert pool.idle_bytes == 0


def test_what_lies_idle_is_limited() -> None:
    """A quarter of a gigabyte, or what was in use at the peak."""
    own = Pool()
    size = 1 << 27
    buffers = [own.take(size) for _ in range(3)]
    for b in buffers:
        own.give(b)
    assert own.idle_bytes == 3 * size == own.peak_bytes
    big = own.take(1 << 20)
    own.give(big)
    assert own.idle_bytes <= own.peak_bytes
    assert own.used_bytes == 0


def test_threads() -> None:
    used = pool.used_bytes

    def work() -> None:
        for i in range(100):
            x = tb.full((N + 1000 * (i % 3),), float(i))
            y = x.numpy()[::7]
            del x
            assert (y == i).all()

    errors: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert errors == []
    assert pool.used_bytes == used


def test_a_loop_lives_on_few_buffers() -> None:
    """A training step's buffers are the last step's."""
    w = tb.ones(N, requires_grad=True)
    for _ in range(3):
        (w * 2.0).tanh().sum().backward()
        w.grad = None
    taken = pool.peak_bytes
    for _ in range(20):
        (w * 2.0).tanh().sum().backward()
        w.grad = None
    assert pool.peak_bytes == taken


def test_sizes_no_longer_asked_for_make_room() -> None:
    """After large buffers have filled the pool, smaller ones must still be kept: mapping them anew costs more than most
    kernels."""
    own = Pool()
    large, small = 1 << 27, 1 << 20
    for buffer in [own.take(large) for _ in range(2)]:
        own.give(buffer)
    limit = max(1 << 28, own.peak_bytes)
    assert own.idle_bytes == 2 * large == limit
    held = own.take(small)
    own.give(held)
    assert own.idle_bytes <= limit
    assert own.take(small) is held
