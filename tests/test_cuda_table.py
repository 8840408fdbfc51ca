"""The table of compiled kernels finds what it is there to find: each fault is planted."""

from __future__ import annotations

import os
import re
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

if find_spec("numba_cuda") is None or os.environ.get("NUMBA_ENABLE_CUDASIM") == "1":
    pytest.skip("numba-cuda is not installed, or kernels are simulated", allow_module_level=True)

import cuda_table  # needs numba-cuda

from tinygrad_bn.kernels.cuda.entry import Entry, entries, entry
from tinygrad_bn.kernels.cuda.target import cuda
from tinygrad_bn.kernels.cuda.vector import load4, store4

real: Any = None  # what a kernel's ``real`` looks like from outside
FLOATS = ("*f", "*f", "q")


@pytest.fixture(autouse=True, scope="module")
def forgotten() -> Any:
    """Kernels of this file are no kernels of the package."""
    yield
    entries[:] = [e for e in entries if e.source.function.__module__ != __name__]


@entry
def _good(x, out, n):  # type: ignore[no-untyped-def]  # a kernel
    i = cuda.grid(1) * 4
    if i < n:
        a, b, c, d = load4(x, i)
        store4(out, i, 0.5 * a, b, c, d)


@entry
def _shares(x, out, n):  # type: ignore[no-untyped-def]
    held = cuda.shared.array(256, real)
    held[cuda.threadIdx.x] = x[n]
    cuda.syncthreads()
    out[n] = held[255 - cuda.threadIdx.x]


@entry
def _fours_of_block(x, out, n):  # type: ignore[no-untyped-def]
    held = cuda.shared.array(1024, np.float32, 16)
    t = cuda.threadIdx.x
    held[t] = x[n]
    cuda.syncthreads()
    a, b, c, d = load4(held, 4 * (t & 63))
    store4(out, 4 * t, a, b, c, d)


@entry
def _wide(x, out, n):  # type: ignore[no-untyped-def]
    i = cuda.grid(1)
    out[i] = n * x[i]  # int64 times float32 is float64


@entry
def _unknown(x, out, n):  # type: ignore[no-untyped-def]
    out[0] = x.nothing


_terms = 160
_lines = [
    "def _spilling(x, out, n):",
    *[f"    a{i} = x[{i}]" for i in range(_terms)],
    "    for k in range(n):",
    *[f"        a{i} = a{i} * a{(i + 1) % _terms} + a{(i * 7 + 3) % _terms}" for i in range(_terms)],
    *[f"    out[{i}] = a{i}" for i in range(_terms)],
]
_found: dict[str, Any] = {}
exec("\n".join(_lines), dict(globals()), _found)
_spilling = entry(threads=1024, text="\n".join(_lines))(_found["_spilling"])


def row(kernel: Entry, kinds: tuple[str, ...] = FLOATS, capability: tuple[int, int] = (9, 0)) -> cuda_table.Row:
    return cuda_table.compiled(((kernel, kinds, ()), capability))


@pytest.mark.parametrize("capability", [(7, 5), (8, 0), (9, 0), (10, 0)])
def test_a_good_kernel_has_no_faults_on_any_gpu(capability: tuple[int, int]) -> None:
    found = row(_good, capability=capability)
    assert found.faults == []
    assert (found.spills, found.wide, found.fours, found.shared) == (0, 0, 2, 0)
    assert 4 < found.registers < 40


def test_shared_memory_is_counted() -> None:
    assert row(_shares).shared == 1024
    assert row(_shares, ("*d", "*d", "q")).shared == 2048


def test_shared_memory_for_four_elements_at_a_time_is_aligned() -> None:
    ptx, _ = _fours_of_block.compiled(FLOATS, (), (9, 0))
    assert re.search(r"\.shared \.align 16 \.b8", ptx)
    assert "ld.shared.v4.f32" in ptx


def test_float64_in_a_kernel_of_float32_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    assert row(_wide).faults == [f"{row(_wide).wide} instructions of float64"]
    assert row(_wide, ("*d", "*d", "q")).faults == []
    monkeypatch.setitem(cuda_table.FLOAT64, "test_cuda_table._wide", "it is planted")
    assert row(_wide).faults == []


def test_a_kernel_that_spills_is_a_fault() -> None:
    assert row(_spilling).spills > 0
    assert any("spills" in fault for fault in row(_spilling).faults)


def test_a_kernel_that_does_not_compile_is_a_fault() -> None:
    assert any("does not compile" in fault for fault in row(_unknown).faults)


def test_a_kernel_that_nothing_launches_is_found() -> None:
    idle = cuda_table.unlaunched([(_good, FLOATS, ())])
    assert any(line.startswith("test_cuda_table._wide: launched by no") for line in idle)
    assert not any("_good" in line for line in idle)


def test_the_first_forms_of_a_kernel_are_compiled_one_of_float64_and_one_for_all_gpus() -> None:
    doubles = [(_good, kinds, ()) for kinds in (("*d", "*d", "q"), ("*d", "*d", "i"))]
    singles = [(_good, ("*f", "*f", kind), ()) for kind in "qibBhH"]
    chosen = cuda_table.jobs([*doubles, *singles], everything=False)
    assert [form for form, capability in chosen if capability == (9, 0)] == [doubles[0], *singles[: cuda_table.FORMS]]
    assert [form for form, capability in chosen if capability != (9, 0)] == [singles[0]] * 3
    assert len(cuda_table.jobs([*doubles, *singles], everything=True)) == 8 * 4


def test_the_table_names_every_kernel() -> None:
    text = cuda_table.table([row(_good), row(_shares)])
    assert "test_cuda_table._good" in text
    assert "*f *f q" in text
