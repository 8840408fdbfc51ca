"""The simulator notices what a GPU would not, and computes what a GPU would: faults are planted, and must be found."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"
if not SIMULATED:
    pytest.skip("NUMBA_ENABLE_CUDASIM is not 1", allow_module_level=True)

from tinygrad_bn.core.device import as_device  # noqa: E402  # asks for the simulator
from tinygrad_bn.errors import DeviceError  # noqa: E402
from tinygrad_bn.kernels.cuda.entry import blocks, device, entries, entry  # noqa: E402
from tinygrad_bn.kernels.cuda.simulator import Race  # noqa: E402
from tinygrad_bn.kernels.cuda.target import THREADS, cuda  # noqa: E402
from tinygrad_bn.kernels.cuda.vector import as_bits, as_number, at, load4, store4  # noqa: E402

real: Any = None  # what a kernel's ``real`` looks like from outside
Array = np.ndarray[Any, Any]


@pytest.fixture(autouse=True, scope="module")
def forgotten() -> Any:
    """Kernels of this file are no kernels of the package."""
    yield
    entries[:] = [e for e in entries if e.source.function.__module__ != __name__]


def there(values: Any, dtype: str = "float32") -> Array:
    return as_device("cuda").array(np.asarray(values, dtype))


def here(array: Array) -> Array:
    return as_device("cuda").to_host(array)


# ---------------------------------------------------------------------------------------------------------- what races


@entry
def _reverse_block(x, out, wait):  # type: ignore[no-untyped-def]  # a kernel
    held = cuda.shared.array(THREADS, real)
    t = cuda.threadIdx.x
    held[t] = x[t]
    if wait != 0:
        cuda.syncthreads()
    out[t] = held[THREADS - 1 - t]


def test_a_missing_barrier_is_a_race() -> None:
    x = there(np.arange(THREADS))
    out = there(np.zeros(THREADS))
    _reverse_block[1](x, out, 1)
    np.testing.assert_array_equal(here(out), np.arange(THREADS)[::-1])
    with pytest.raises(Race, match=r"shared memory of _reverse_block\[\d+\]: .* thread \d+.* thread \d+, no barrier"):
        _reverse_block[1](x, out, 0)


@entry
def _to_first(out, n):  # type: ignore[no-untyped-def]
    i = cuda.grid(1)
    if i < n:
        out[0] = real(i)


@pytest.mark.parametrize("grid", [1, 2])
def test_two_threads_that_write_one_element_are_a_race(grid: int) -> None:
    """Of one block, and of two."""
    n = 2 if grid == 1 else THREADS + 1
    with pytest.raises(Race, match=r"_to_first: out\[0\]: written by thread \d+, written by thread 0"):
        _to_first[grid](there([0.0]), n)


@entry(threads=1)
def _neighbour(x, out, n):  # type: ignore[no-untyped-def]
    i = cuda.blockIdx.x
    if i < n:
        out[i] = x[i + 1]


def test_a_race_between_two_arguments_that_share_memory_is_found() -> None:
    x = there(np.arange(5))
    _neighbour[4](x, there(np.zeros(4)), 4)
    with pytest.raises(Race, match="no barrier"):
        _neighbour[4](x, x, 4)
    with pytest.raises(Race, match="no barrier"):  # also where they begin at different elements
        _neighbour[3](x, x[2:], 3)


@entry(threads=1)
def _read_then_written(x, out):  # type: ignore[no-untyped-def]
    b = cuda.blockIdx.x
    if b < 2:
        out[b] = x[0]
    if b == 1:
        x[0] = 5.0


def test_a_write_of_what_another_block_has_read_is_a_race() -> None:
    """Even if the block that writes has read it since."""
    with pytest.raises(Race, match="read by several threads"):
        _read_then_written[2](there([1.0]), there([0.0, 0.0]))


@entry
def _count(out, plain):  # type: ignore[no-untyped-def]
    if cuda.grid(1) == 3 and plain != 0:
        out[0] = 7
    cuda.atomic.add(out, 0, 1)


def test_atomic_operations_race_with_plain_ones_only() -> None:
    out = there([0], "int64")
    _count[3](out, 0)
    assert here(out) == [3 * THREADS]
    with pytest.raises(Race, match="an atomic operation"):
        _count[3](out, 1)


@entry
def _largest(x, out, seen, n):  # type: ignore[no-untyped-def]
    i = cuda.grid(1)
    if i < n:
        cuda.atomic.max(out, 0, x[i])
        cuda.atomic.cas(seen, 0, -1, i)


def test_atomic_max_and_exchange() -> None:
    out, seen = there([0], "int64"), there([-1], "int64")
    _largest[blocks(40)](there(np.arange(40) % 7, "int64"), out, seen, 40)
    assert (here(out)[0], here(seen)[0]) == (6, 0)


# ------------------------------------------------------------------------------------------------------------ barriers


@entry
def _some_leave(out, n):  # type: ignore[no-untyped-def]
    i = cuda.grid(1)
    if i >= n:
        return
    cuda.syncthreads()
    out[i] = 1.0


def test_a_barrier_that_some_threads_never_reach_is_a_race() -> None:
    _some_leave[1](there(np.zeros(THREADS)), THREADS)
    with pytest.raises(Race, match="wait at a barrier that others of their block never reach"):
        _some_leave[1](there(np.zeros(THREADS)), THREADS - 1)


@entry
def _two_barriers(out, n):  # type: ignore[no-untyped-def]
    i = cuda.grid(1)
    if i < n:
        cuda.syncthreads()
    else:
        cuda.syncthreads()
    out[i] = 1.0


def test_threads_that_wait_at_different_barriers_are_a_race() -> None:
    _two_barriers[1](there(np.zeros(THREADS)), THREADS)
    with pytest.raises(Race, match="wait at another"):
        _two_barriers[1](there(np.zeros(THREADS)), THREADS - 1)


@device
def _waits_inside(held, t):  # type: ignore[no-untyped-def]
    cuda.syncthreads()
    return held[THREADS - 1 - t]


@entry
def _by_device_function(x, out):  # type: ignore[no-untyped-def]
    held = cuda.shared.array(THREADS, real)
    t = cuda.threadIdx.x
    held[t] = x[t] * 1e30 * 1e30  # overflows, without a warning
    out[t] = _waits_inside(held, t)


def test_a_barrier_in_a_device_function_is_waited_at() -> None:
    out = there(np.zeros(THREADS))
    _by_device_function[1](there(np.ones(THREADS)), out)
    assert np.isposinf(here(out)).all()


# -------------------------------------------------------------------------------------------------------------- bounds


@entry
def _shifted(x, shift, out, n):  # type: ignore[no-untyped-def]
    i = cuda.grid(1)
    if i < n:
        out[i] = x[i + shift]


@pytest.mark.parametrize(("shift", "index"), [(-1, "-1"), (1, "5")])
def test_an_index_off_by_one_at_either_end_is_found(shift: int, index: str) -> None:
    x, out = there(np.arange(5)), there(np.zeros(5))
    _shifted[1](x, 0, out, 5)
    np.testing.assert_array_equal(here(out), np.arange(5))
    with pytest.raises(IndexError, match=rf"_shifted: x\[{index}\]: it has 5 elements"):
        _shifted[1](x, shift, out, 5)


def test_a_view_ends_where_its_last_element_lies() -> None:
    x, out = there(np.arange(10)), there(np.zeros(5))
    with pytest.raises(IndexError, match="it has 4 elements"):
        _shifted[1](x[2:6], 1, out, 4)
    with pytest.raises(IndexError, match="it has 4 elements"):
        _shifted[1](x[2:6], -1, out, 4)


@entry
def _strided(x, step, out, n):  # type: ignore[no-untyped-def]
    i = cuda.grid(1)
    if i < n:
        out[i] = x[i * step]


def test_negative_strides_lead_below_the_pointer() -> None:
    x, out = there(np.arange(9))[::-2], there(np.zeros(5))
    _strided[1](x, x.strides[0] // x.itemsize, out, 5)
    np.testing.assert_array_equal(here(out), [8, 6, 4, 2, 0])
    with pytest.raises(IndexError):
        _strided[1](x[:4], -2, out, 5)


@entry(threads=1)
def _local(which, out):  # type: ignore[no-untyped-def]
    mine = cuda.local.array(3, real)
    block = cuda.shared.array(3, np.int32)
    mine[0] = 1.0
    out[0] = mine[which]
    out[1] = real(block[which])


def test_memory_of_threads_and_blocks_begins_unwritten() -> None:
    out = there([0.0, 0.0])
    _local[1](2, out)
    first, second = here(out)
    assert np.isnan(first)
    assert second > 2e9


@pytest.mark.parametrize("which", [-1, 3])
def test_indices_of_local_memory_are_checked(which: int) -> None:
    with pytest.raises(IndexError, match=f"local memory of _local.{which}.: it has 3 elements"):
        _local[1](which, there([0.0, 0.0]))


@entry
def _kept(out):  # type: ignore[no-untyped-def]
    held = cuda.shared.array(THREADS, real)
    t = cuda.threadIdx.x
    out[cuda.grid(1)] = held[t]
    held[t] = 1.0


def test_shared_memory_begins_as_nan_in_each_block() -> None:
    out = there(np.zeros(3 * THREADS))
    _kept[3](out)
    assert np.isnan(here(out)).all()


def test_new_memory_of_the_gpu_is_nan() -> None:
    from tinygrad_bn.kernels.cuda.driver import driver

    back = np.zeros(4, np.float32)
    address = driver().allocate(16)
    driver().copy_out(back.ctypes.data, address, 16)
    driver().free(address)
    assert np.isnan(back).all()


@entry
def _fours(x, out, n):  # type: ignore[no-untyped-def]
    i = cuda.grid(1) * 4
    if i < n:
        a, b, c, d = load4(x, i)
        store4(out, i, d, c, b, a)


def test_four_elements_at_a_time_must_be_aligned() -> None:
    x, out = there(np.arange(8)), there(np.zeros(8))
    _fours[1](x, out, 8)
    np.testing.assert_array_equal(here(out), [3, 2, 1, 0, 7, 6, 5, 4])
    with pytest.raises(IndexError, match="no multiple of 16"):
        _fours[1](x[1:], out, 4)


@entry
def _fours_of_block(out, aligned):  # type: ignore[no-untyped-def]
    loose = cuda.shared.array(4, real)
    held = cuda.shared.array(4, real, 16)
    if cuda.grid(1) == 0:
        store4(held if aligned else loose, 0, 1.0, 2.0, 3.0, 4.0)
        a, b, c, d = load4(held if aligned else loose, 0)
        store4(out, 0, d, c, b, a)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_four_elements_of_shared_memory_need_its_alignment(dtype: str) -> None:
    out = there(np.zeros(4, dtype))
    _fours_of_block[1](out, 1)
    np.testing.assert_array_equal(here(out), [4, 3, 2, 1])
    with pytest.raises(IndexError, match="shared memory of _fours_of_block.0.: .* no multiple of 16"):
        _fours_of_block[1](out, 0)


@entry
def _through_table(table, like, out, n):  # type: ignore[no-untyped-def]
    i = cuda.grid(1)
    if i < n:
        out[i] = at(table[0], like)[i]


def test_addresses_of_a_table_lead_to_the_end_of_their_memory() -> None:
    x, out = there(np.arange(4)), there(np.zeros(4))
    table = there([x.__array_interface__["data"][0]], "int64")
    _through_table[1](table, out, out, 4)
    np.testing.assert_array_equal(here(out), np.arange(4))


# --------------------------------------------------------------------------------------------------- what is computed


@entry(threads=2)
def _places(out):  # type: ignore[no-untyped-def]
    b, g, t = cuda.blockIdx, cuda.gridDim, cuda.threadIdx.x
    where = ((b.z * g.y + b.y) * g.x + b.x) * cuda.blockDim.x + t
    out[where] = real(100 * b.x + 10 * b.y + b.z) + 0.5 * real(t)


def test_grids_of_three_axes() -> None:
    out = there(np.full(2 * 3 * 4 * 2, -1.0))
    _places[2, 3, 4](out)
    z, y, x, t = np.indices((4, 3, 2, 2))
    np.testing.assert_array_equal(here(out), (100 * x + 10 * y + z + 0.5 * t).ravel())


def test_a_grid_without_blocks_is_no_launch() -> None:
    out = there([1.0])
    _places[0](out)
    _places[2, 0, 1](out)
    assert here(out) == [1.0]


@entry
def _everything(x, out, n):  # type: ignore[no-untyped-def]
    i = cuda.grid(1)
    while i < n:
        out[i] = x[i]
        i += cuda.gridsize(1)


def test_a_grid_stride_loop_reaches_every_element() -> None:
    n = 5 * THREADS + 3
    x, out = there(np.arange(n)), there(np.zeros(n))
    _everything[2](x, out, n)
    np.testing.assert_array_equal(here(out), np.arange(n))
    assert blocks(0) == 1
    assert blocks(n) == 6
    assert blocks(1 << 40) == 1 << 14


@device
def _tenth(x):  # type: ignore[no-untyped-def]
    return 0.1 * x


@device
def _twentieth(x):  # type: ignore[no-untyped-def]
    return 0.5 * _tenth(x)


@entry(threads=1)
def _literals(x, factor, out):  # type: ignore[no-untyped-def]
    out[0] = 0.1 * x[0]
    out[1] = factor * x[0]
    out[2] = _twentieth(x[0])
    out[3] = real(3) * x[0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_literals_and_numbers_have_the_type_of_the_first_array(dtype: str) -> None:
    """Also in device functions, and in those that they call."""
    kind = np.dtype(dtype).type
    x, out = there([1.0], dtype), there(np.zeros(4), dtype)
    _literals[1](x, 1 / 3, out)
    want = [kind(0.1), kind(1 / 3), kind(0.5) * kind(0.1), kind(3)]
    np.testing.assert_array_equal(here(out), np.array(want, dtype))


@entry(threads=1, real="out")
def _by_out(x, out):  # type: ignore[no-untyped-def]
    out[0] = real(0.1) - x[0]


def test_real_can_be_the_type_of_another_argument() -> None:
    x, out = there([0.0], "float32"), there([0.0], "float64")
    _by_out[1](x, out)
    assert here(out) == [0.1]


@entry(threads=1)
def _types(x, a, b, c, out):  # type: ignore[no-untyped-def]
    out[0] = x[0] + real(a) + real(b) + real(c)


def test_numbers_of_numpy_keep_their_types() -> None:
    out = there([0.0])
    _types[1](there([1.0]), np.int32(2), np.float64(4), True, out)
    assert here(out) == [8.0]
    kinds = {kinds for kinds, _ in _types.used}
    assert kinds == {("*f", "i", "d", "q", "*f")}


@entry(threads=1, static="act scale")
def _static(x, act, scale, out):  # type: ignore[no-untyped-def]
    out[0] = x[0] * scale if act == "scaled" else x[0]


def test_static_parameters_are_constants() -> None:
    out = there([0.0])
    _static[1](there([2.0]), "scaled", 4, out)
    assert here(out) == [8.0]
    _static[1](there([2.0]), "plain", 4, out)
    assert here(out) == [2.0]
    assert {constants for _, constants in _static.used} == {
        (("act", "scaled"), ("scale", 4)),
        (("act", "plain"), ("scale", 4)),
    }


@entry(threads=1)
def _halves(x, flags, out):  # type: ignore[no-untyped-def]
    out[0] = as_number(as_bits(np.float32(x[0])) + np.uint32(flags[0]))


def test_halves_are_words_and_truth_values_bytes() -> None:
    out = there([0.0])
    _halves[1](there([1.0], "float16"), there([True], "bool"), out)
    assert here(out) == [np.uint32(np.float32(0x3C00).view(np.uint32) + 1).view(np.float32)]


def test_an_array_of_the_host_is_refused() -> None:
    with pytest.raises(DeviceError, match=r"array of the host's: device.array\(\) brings it there"):
        _to_first[1](np.zeros(1, np.float32), 1)
    _shifted[1](np.zeros(0, np.float32), 0, there([0.0]), 0)  # an absent one is nowhere


def test_two_threads_of_the_host_take_turns() -> None:
    import threading

    def work(failures: list[BaseException]) -> None:
        try:
            for _ in range(5):
                out = there(np.zeros(THREADS))
                _reverse_block[1](there(np.arange(THREADS)), out, 1)
                np.testing.assert_array_equal(here(out), np.arange(THREADS)[::-1])
        except BaseException as error:
            failures.append(error)

    failures: list[BaseException] = []
    workers = [threading.Thread(target=work, args=(failures,)) for _ in range(3)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert failures == []


def test_a_failed_kernel_leaves_the_simulator_as_it_was() -> None:
    run: Callable[..., None] = _reverse_block[1]
    x, out = there(np.arange(THREADS)), there(np.zeros(THREADS))
    for _ in range(3):
        with pytest.raises(Race):
            run(x, out, 0)
        run(x, out, 1)
        np.testing.assert_array_equal(here(out), np.arange(THREADS)[::-1])
