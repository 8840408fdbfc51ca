"""How a kernel's parallel loop gets to the threads: without Python's lock.

For each loop Numba makes a function that takes Python's lock, gives it back and starts the threads. A kernel has given
the lock back already: that is 1.4 µs a loop for nothing, as much as a small layer takes, and a wait for whoever has it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llvmlite import ir
from numba.core import cgutils
from numba.np.ufunc import parallel

__all__ = ["without_the_lock"]

_BYTES, _WORD, _VOID = ir.IntType(8).as_pointer(), ir.IntType(64), ir.VoidType()
_WORDS = _WORD.as_pointer()
_LOOP = ir.FunctionType(_VOID, [_BYTES.as_pointer(), _WORDS, _WORDS, _BYTES])  # of arguments, extents, steps, nothing
_THREADS = ir.FunctionType(_WORD, [])
_START = ir.FunctionType(_VOID, [_BYTES] * 5 + [_WORD] * 3)  # a loop, its arguments; how many extents, arrays, threads


@contextmanager
def without_the_lock() -> Iterator[None]:
    """Let parallel loops that are compiled meanwhile start without it."""
    theirs = parallel.build_gufunc_kernel
    parallel.build_gufunc_kernel = _starter
    try:
        yield
    finally:
        parallel.build_gufunc_kernel = theirs


def _starter(library: Any, context: Any, info: Any, signature: Any, inner_ndim: int) -> Any:
    """The function that starts a loop, in place of Numba's."""
    made = context.codegen().create_library("parallelgufuncwrapper")
    module = made.create_ir_module("parallel.gufunc.wrapper")
    function = ir.Function(module, _LOOP, name=f".start.{id(info.env)}_{info.name}")
    builder = ir.IRBuilder(function.append_basic_block())
    loop, start, threads = (
        cgutils.get_or_insert_function(module, kind, name)
        for kind, name in ((_LOOP, info.name), (_START, "numba_parallel_for"), (_THREADS, "get_num_threads"))
    )
    given = [builder.bitcast(a, _BYTES) for a in (loop, *function.args)]
    counts = ir.Constant(_WORD, inner_ndim), ir.Constant(_WORD, len(signature.args))
    builder.call(start, [*given, *counts, builder.call(threads, [])])
    builder.ret_void()
    for part in (info.library, library):
        made.add_linking_library(part)
    made.add_ir_module(module)
    return type(info)(library=made, name=function.name, env=info.env)
