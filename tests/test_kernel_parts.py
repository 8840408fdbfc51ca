"""What compiled code calls is compiled as a part of it: linked, without wrappers and machine code of its own."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numba import prange

from tinygrad_bn.kernels.cpu import _parts
from tinygrad_bn.kernels.cpu._jit import ENABLED, jit
from tinygrad_bn.kernels.folder import activity

pytestmark = pytest.mark.skipif(not ENABLED, reason="kernels run as Python: nothing is compiled")


class Family:
    """A function, and kernels that call it: made anew for each test."""

    def __init__(self) -> None:
        @jit()
        def scaled(a: Any, i: Any, by: Any, negative: Any) -> Any:
            if i >= a.size:
                raise ValueError("beyond the end")
            return -a[i] * by if negative else a[i] * by

        @jit()
        def double(a: Any, out: Any) -> None:
            for i in range(a.size):
                out[i] = scaled(a, i, 2, False)

        @jit()
        def minus_the_first(a: Any, out: Any) -> None:
            out[0] = scaled(a, 0, 1, True)

        @jit(parallel=True)
        def triple(a: Any, out: Any) -> None:
            for i in prange(out.size):
                out[i] = scaled(a, np.int64(i), 3, out.size < 0)

        self.scaled, self.double, self.minus_the_first, self.triple = scaled, double, minus_the_first, triple


@pytest.fixture
def family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Family:
    monkeypatch.setenv("TINYGRAD_BN_CACHE", str(tmp_path))
    return Family()


def run(kernel: Any, dtype: Any = np.float64) -> list[float]:
    out = np.zeros(4)
    kernel(np.arange(1, 5, dtype=dtype), out)
    return list(out)


def test_one_part_serves_all_callers_whatever_they_know_of_its_arguments(family: Family) -> None:
    assert run(family.double) == [2, 4, 6, 8]
    assert run(family.minus_the_first) == [-1, 0, 0, 0]
    assert run(family.triple) == [3, 6, 9, 12]
    assert len(family.scaled.part.overloads) == 1
    assert not family.scaled.overloads


def test_python_gets_an_entry_of_its_own_before_and_after(family: Family) -> None:
    a = np.arange(1.0, 5.0)
    assert family.scaled(a, 1, 4, False) == 8
    assert run(family.double) == [2, 4, 6, 8]
    assert run(family.double, np.float32) == [2, 4, 6, 8]
    assert family.scaled(a.astype(np.float32), 1, 4, True) == -8
    assert len(family.scaled.overloads) == len(family.scaled.part.overloads) == 2


def test_no_machine_code_is_made_of_a_part(family: Family) -> None:
    run(family.triple)
    (result,) = family.scaled.part.overloads.values()
    assert isinstance(result.library, _parts.Part)
    engine = result.library.codegen._engine
    kernel = next(iter(family.triple.overloads.values()))
    assert engine.is_symbol_defined(kernel.fndesc.llvm_cpython_wrapper_name)
    assert not engine.is_symbol_defined(result.fndesc.llvm_cpython_wrapper_name)
    assert not engine.is_symbol_defined(kernel.fndesc.llvm_cfunc_wrapper_name)


def test_another_process_links_parts_that_this_one_has_kept(family: Family) -> None:
    """A family made anew knows of the first what another process would: what is in the folder."""
    run(family.double)
    before = activity.compiled, activity.loaded
    again = Family()
    assert run(again.triple) == [3, 6, 9, 12]
    assert (activity.compiled, activity.loaded) == (before[0] + 1, before[1] + 1)
    assert run(again.double) == [2, 4, 6, 8]
    assert activity.compiled == before[0] + 1


def test_an_exception_of_a_part_reaches_the_caller(family: Family) -> None:
    for _ in range(2):
        with pytest.raises(ValueError, match="beyond the end"):
            family.minus_the_first(np.zeros(0), np.zeros(1))
        family = Family()  # loaded


def test_the_collector_rests_while_a_kernel_is_compiled_and_no_longer(family: Family) -> None:
    phases = []
    gc.callbacks.append(note := lambda phase, info: phases.append(phase))
    try:
        run(family.triple)
        assert gc.isenabled()
        gc.disable()
        run(family.double)
        assert not gc.isenabled()
    finally:
        gc.enable()
        gc.callbacks.remove(note)
    assert phases in ([], ["start", "stop"])  # when it may again


@pytest.mark.parametrize("first", [True, False])
def test_closures_of_several_processes_are_not_taken_for_each_other(first: bool, tmp_path: Path) -> None:
    """A process that compiles a sum and one that compiles a difference give both the same number."""
    code = """
import sys
import numpy as np
from tinygrad_bn.kernels.cpu._jit import jit
from tinygrad_bn.kernels.cpu.simd import load, store
@jit(inline=True)
def plus(a, b): return a + b
@jit(inline=True)
def minus(a, b): return a - b
@jit()
def sums(a, out): store(out, 0, plus(load(a, 0), load(a, 1)))
@jit()
def differences(a, out): store(out, 0, minus(load(a, 0), load(a, 1)))
@jit()
def both(a, out): store(out, 0, plus(load(a, 0), load(a, 1))); store(out, 16, minus(load(a, 0), load(a, 1)))
a, out = np.arange(40, dtype=np.float32) ** 2, np.zeros(40, np.float32)
{"sums": sums, "differences": differences, "both": both}[sys.argv[1]](a, out)
print(out[0], out[16])
"""
    file = tmp_path / "kernels.py"
    file.write_text(code)
    environment = {**os.environ, "TINYGRAD_BN_CACHE": str(tmp_path / "cache")}
    for kernel in ("sums", "differences") if first else ("differences", "sums"):
        subprocess.run([sys.executable, str(file), kernel], env=environment, check=True, capture_output=True)
    told = subprocess.run(
        [sys.executable, str(file), "both"], env=environment, check=True, capture_output=True, text=True
    )
    assert told.stdout.split() == ["1.0", "-1.0"]
