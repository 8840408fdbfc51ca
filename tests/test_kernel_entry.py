"""How Python enters a kernel: arrays are borrowed, whatever their form, and a call that fails leaves no trace."""

from __future__ import annotations

import sys
import threading
from typing import Any

import numpy as np
import pytest
from numba import prange
from numba.core.errors import TypingError

from tinygrad_bn.kernels.cpu import _entry
from tinygrad_bn.kernels.cpu._jit import ENABLED, jit

pytestmark = pytest.mark.skipif(not ENABLED, reason="kernels run as Python: there are no wrappers")

Array = np.ndarray[Any, Any]


@jit()
def describe(a: Any, out: Any) -> None:
    out[0], out[1], out[2] = a.size, a.itemsize, a.ndim
    for i in range(a.ndim):
        out[3 + i] = a.shape[i]
        out[3 + a.ndim + i] = a.strides[i]


@jit()
def double(a: Any, out: Any) -> None:
    for i, value in enumerate(a.flat):
        out[i] = 2 * value


@jit(parallel=True)
def double_on_the_pool(a: Any, out: Any) -> None:
    flat = a.reshape(-1)
    for i in prange(flat.size):
        out[i] = 2 * flat[i]


@jit()
def numbers(i: Any, x: Any, flag: Any, out: Any) -> None:
    out[0], out[1], out[2] = i, x, flag


@jit()
def refuse(a: Any, at: Any, out: Any) -> None:
    if a[at] > 0:
        raise ValueError("a positive number")
    out[0] = a[at]


@jit()
def total(a: Any) -> Any:
    return a.sum()


@jit()
def parts(a: Any, out: Any) -> None:
    for row in range(a.shape[0]):
        out[row] = total(a[row, ::2].copy())  # memory of its own is counted as ever


FORMS = {
    "no axes": np.full((), 7.0),
    "row": np.arange(5.0),
    "empty": np.empty((3, 0)),
    "three axes": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "transposed": np.arange(6, dtype=np.int64).reshape(2, 3).T,
    "backwards": np.arange(8, dtype=np.float32)[::-2],
    "broadcast": np.broadcast_to(np.arange(3.0), (4, 3)),
    "flags": np.array([True, False, True]),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_kernel_sees_the_array_that_it_was_given(form: str) -> None:
    a = FORMS[form]
    out = np.zeros(9, np.int64)
    describe(a, out)
    assert out[:3].tolist() == [a.size, a.itemsize, a.ndim]
    assert out[3 : 3 + 2 * a.ndim].tolist() == [*a.shape, *a.strides]
    if a.dtype != bool:
        values = np.zeros(a.size, a.dtype)
        double(a, values)
        np.testing.assert_array_equal(values, 2 * a.ravel())


def test_the_pool_gets_the_same_arrays() -> None:
    a, out = np.arange(10_000.0).reshape(100, 100), np.zeros(10_000)
    double_on_the_pool(a, out)
    np.testing.assert_array_equal(out, 2 * a.ravel())


def test_numbers_of_all_kinds() -> None:
    out = np.zeros(3)
    numbers(3, 0.5, True, out)
    assert out.tolist() == [3.0, 0.5, 1.0]
    numbers(np.int64(-2), np.float64(1.5), np.bool_(False), out)
    assert out.tolist() == [-2.0, 1.5, 0.0]
    numbers(2.5, 7, 1, out)  # other types: another specialisation
    assert out.tolist() == [2.5, 7.0, 1.0]


def test_nothing_is_counted_and_nothing_is_kept() -> None:
    a, out = np.zeros(4), np.zeros(4)
    before = sys.getrefcount(a), sys.getrefcount(out)
    for _ in range(10):
        double(a, out)
    assert (sys.getrefcount(a), sys.getrefcount(out)) == before


def test_an_exception_reaches_the_caller_and_leaves_the_arguments_alone() -> None:
    a, out = np.array([-1.0, 1.0]), np.zeros(1)
    before = sys.getrefcount(a), sys.getrefcount(out)
    for _ in range(3):
        with pytest.raises(ValueError, match="a positive number"):
            refuse(a, 1, out)
    refuse(a, 0, out)
    assert out[0] == -1.0
    assert (sys.getrefcount(a), sys.getrefcount(out)) == before


def test_a_number_that_does_not_fit_is_refused() -> None:
    with pytest.raises(OverflowError):
        refuse(np.zeros(1), 1 << 70, np.zeros(1))


@pytest.mark.parametrize("arguments", [(), (np.zeros(1),), (np.zeros(1), np.zeros(1), np.zeros(1))])
def test_the_number_of_arguments_is_checked(arguments: tuple[Any, ...]) -> None:
    double(np.zeros(1), np.zeros(1))
    with pytest.raises(TypeError):
        double(*arguments)


def test_what_is_no_array_is_refused() -> None:
    double(np.zeros(2), np.zeros(2))
    with pytest.raises(TypingError):
        double(object(), np.zeros(2))


def test_memory_that_a_kernel_makes_is_counted() -> None:
    a, out = np.arange(12.0).reshape(3, 4), np.zeros(3)
    parts(a, out)
    assert out.tolist() == [2.0, 10.0, 18.0]


def test_a_function_that_returns_something_has_numbas_own_wrapper() -> None:
    assert total(np.arange(4.0)) == 6.0
    compiled = next(iter(total.overloads.values()))
    assert not _entry.Entry.fits(compiled.fndesc)
    assert _entry.Entry.fits(next(iter(double.overloads.values())).fndesc)


def test_kernels_on_several_threads_at_once() -> None:
    inputs = [np.full(20_000, float(i)) for i in range(4)]
    outs = [np.zeros(20_000) for _ in inputs]

    def work(a: Array, out: Array) -> None:
        for _ in range(50):
            double(a, out)

    threads = [threading.Thread(target=work, args=pair) for pair in zip(inputs, outs, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, out in enumerate(outs):
        np.testing.assert_array_equal(out, 2.0 * i)
