"""The pool: a buffer comes back when the last view of it dies, NumPy's aliases included, and not before."""

from __future__ import annotations

import gc
import mmap
import os
import threading
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_bn as tb
from tinygrad_bn.core import memory
from tinygrad_bn.core.device import cpu
from tinygrad_bn.core.memory import POOLED, Pool, Ranges, pool

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


def test_empty_cache_gives_pages_back_below_and_above_what_is_in_use() -> None:
    below, x, above = tb.ones(N), tb.ones(N), tb.ones(N)
    del below, above
    tb.empty_cache()
    assert (x.numpy() == 1.0).all()
    assert pool.touched_bytes == pool.used_bytes
    assert (tb.full((2 * N,), 3.0).numpy() == 3.0).all()


@pytest.mark.skipif(not hasattr(mmap, "MADV_DONTNEED"), reason="the system keeps pages until their segment is unmapped")
def test_pages_given_back_are_no_longer_the_processs() -> None:
    own = Pool()
    first, second = own.take(POOLED), own.take(POOLED)
    segment, offset, _, size = second
    segment[offset : offset + size] = b"x" * size
    own.give(second)
    own.clear()
    assert segment[offset : offset + size] == bytes(size)  # pages anew
    assert own.take(POOLED)[1] == offset
    own.give(first)


def test_the_last_buffer_of_a_segment_takes_it_along() -> None:
    own = Pool()
    place = own.take(1 << 20)
    own.give(place)
    assert len(own._segments) == 1
    own.clear()
    assert own._segments == {}
    assert own.fresh.sizes == own.holes.sizes == []
    assert own.touched_bytes == own.used_bytes == 0


def test_neighbours_are_joined_before_more_pages_are_touched() -> None:
    """Many small buffers that came back make room for a large one, and a large one for small ones."""
    own = Pool()
    size = 1 << 22
    most = 1 << 27
    for _ in range(2):
        for place in [own.take(size) for _ in range(most // size)]:
            own.give(place)
        own.give(own.take(most))
        assert own.touched_bytes == most


def test_a_little_memory_is_not_joined() -> None:
    """Looking for room costs time: what is kept of each size is small beside the package itself."""
    own = Pool()
    for n in (1, 2, 3):
        own.give(own.take(n << 20))
    assert own.touched_bytes == 6 << 20
    assert own.holes.sizes == []


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.randoms(use_true_random=False))
def test_buffers_are_disjoint_whatever_comes(sizes: list[int], random: object) -> None:
    own = Pool()
    held: list[memory.Place] = []
    for size in sizes:
        if held and random.random() < 0.4:  # type: ignore[attr-defined]
            own.give(held.pop(random.randrange(len(held))))  # type: ignore[attr-defined]
        if random.random() < 0.1:  # type: ignore[attr-defined]
            own._join()
        held.append(own.take(size << 16))
        ends = sorted((place[2], place[2] + place[3]) for place in held)
        assert all(a[1] <= b[0] for a, b in pairwise(ends))
        idle = sum(p[3] for bucket in own.idle.values() for p in bucket) + sum(n for n, _ in own.holes.sizes)
        assert own.used_bytes == sum(place[3] for place in held) == own.touched_bytes - idle


def test_ranges_that_adjoin_become_one() -> None:
    ranges = Ranges()
    for position in (0, 20, 10, 40):
        ranges.insert(10, position)
    assert ranges.sizes == [(10, 40), (30, 0)]
    assert ranges.cut(31) is None
    assert ranges.cut(8) == 40
    assert ranges.cut(3) == 0
    assert ranges.sizes == [(2, 48), (27, 3)]


def test_no_memory_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(size: int) -> mmap.mmap:
        raise OSError(12, "Cannot allocate memory")

    own = Pool()
    place = own.take(POOLED)
    monkeypatch.setattr(own, "map", refuse)
    with pytest.raises(MemoryError, match=r"empty: the system has no \d+ bytes of memory left: Cannot allocate memory"):
        own.take(1 << 40)
    assert own.used_bytes == POOLED
    own.give(place)
    own.give(own.take(POOLED))


def test_a_segment_of_the_usual_size_may_be_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    own = Pool()
    really = own.map

    def modest(size: int) -> mmap.mmap:
        if size > 1 << 22:
            raise OSError(12, "Cannot allocate memory")
        return really(size)

    monkeypatch.setattr(own, "map", modest)
    places = [own.take(1 << 22), own.take(1 << 16)]
    assert len({id(p[0]) for p in places}) == 2
    for place in places:
        own.give(place)
    own.clear()
    assert own._segments == {}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_childs_writes_are_its_own() -> None:
    x = tb.ones(N)
    child = os.fork()
    if child == 0:
        x.array.fill(5.0)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert (x.numpy() == 1.0).all()


def test_statistics() -> None:
    before = tb.memory_allocated()
    tb.reset_peak_memory_stats()
    assert tb.max_memory_allocated() == before
    x = tb.zeros(N)
    y = tb.zeros(2 * N)
    z = y[:N]
    assert tb.memory_allocated() == before + 3 * POOLED
    del x, y
    assert tb.memory_allocated("cpu") == before + 2 * POOLED
    assert tb.max_memory_allocated(tb.device("cpu")) == before + 3 * POOLED
    tb.reset_peak_memory_stats()
    assert tb.max_memory_allocated() == before + 2 * POOLED
    del z
    assert tb.memory_allocated() == before
    with pytest.raises(
        tb.errors.DeviceError, match=r"memory_allocated: 'device' must be one of cpu, cuda, ref. Got 'gpu'"
    ):
        tb.memory_allocated("gpu")


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
