"""How a kernel's parallel loop gets to the threads: without Python's lock, and to a team that waits, if there is one.

For each loop Numba makes a function that takes Python's lock, gives it back and starts the threads. A kernel has given
the lock back already: that is 1.4 µs a loop for nothing, as much as a small layer takes, and a wait for whoever has it.
OpenMP's fork and join are another 0.6 to 1 µs a loop. Where a whole list of kernels is run at once, its thread has
forked before the first of them (``team.py``), and a loop's parts are handed to threads that are there.

Both ways cut a loop into the same parts: one for each thread.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba.core import cgutils, types
from numba.np.ufunc import parallel

__all__ = ["MEMBERS", "PART", "TEAM", "shares", "this_thread", "without_the_lock"]

_BYTES, _WORD, _VOID = ir.IntType(8).as_pointer(), ir.IntType(64), ir.VoidType()
_WORDS = _WORD.as_pointer()
_LOOP = ir.FunctionType(_VOID, [_BYTES.as_pointer(), _WORDS, _WORDS, _BYTES])  # of arguments, extents, steps, nothing
PART = ir.FunctionType(_VOID, [*_LOOP.args, _WORD])  # and which part
_THREADS = ir.FunctionType(_WORD, [])
_START = ir.FunctionType(_VOID, [_BYTES] * 5 + [_WORD] * 3)  # a loop, its arguments; how many extents, arrays, threads

TEAM = "tinygrad_bn_team"
MEMBERS = 256  # of a team at most, its owner included
_LINE = 64  # bytes that processors hand to one another at once
_memory = ctypes.create_string_buffer(_LINE * (MEMBERS + 1))  # a line for the team, one for each member but the owner
_address = -(-ctypes.addressof(_memory) // _LINE) * _LINE
llvm.add_symbol(TEAM, _address)
shares = ctypes.c_int64.from_address(_address + 8)  # the address of ``team.share``, once it is compiled


@contextmanager
def without_the_lock() -> Iterator[None]:
    """Let parallel loops that are compiled meanwhile start without it."""
    theirs = parallel.build_gufunc_kernel
    parallel.build_gufunc_kernel = _starter
    try:
        yield
    finally:
        parallel.build_gufunc_kernel = theirs


def this_thread(builder: Any) -> Any:
    """What tells the running thread from all others."""
    name, size = ("pthread_self", 64) if os.name == "posix" else ("GetCurrentThreadId", 32)
    kind = ir.FunctionType(ir.IntType(size), [])
    return builder.zext(builder.call(cgutils.get_or_insert_function(builder.module, kind, name), []), _WORD)


def _starter(library: Any, context: Any, info: Any, signature: Any, inner_ndim: int) -> Any:
    """The function that starts a loop, in place of Numba's."""
    made = context.codegen().create_library("parallelgufuncwrapper")
    module = made.create_ir_module("parallel.gufunc.wrapper")
    counts = 1 + inner_ndim, len(signature.args)
    part = _part(module, info, *counts)
    function = ir.Function(module, _LOOP, name=f".start.{id(info.env)}_{info.name}")
    builder = ir.IRBuilder(function.append_basic_block())
    team = cgutils.add_global_variable(module, _WORD, TEAM)
    is_own = builder.icmp_unsigned("==", builder.load_atomic(team, "monotonic", 8), this_thread(builder))
    with cgutils.if_unlikely(builder, is_own):
        given = [builder.ptrtoint(a, _WORD) for a in (part, *function.args)]
        kind = context.call_conv.get_function_type(types.none, [types.int64] * 5)
        share = builder.load(builder.gep(team, [ir.Constant(_WORD, 1)]))
        callee = builder.inttoptr(share, kind.as_pointer())
        context.call_conv.call_function(builder, callee, types.none, [types.int64] * 5, given)
        builder.ret_void()
    loop, start, threads = (
        cgutils.get_or_insert_function(module, kind, name)
        for kind, name in ((_LOOP, info.name), (_START, "numba_parallel_for"), (_THREADS, "get_num_threads"))
    )
    given = [builder.bitcast(a, _BYTES) for a in (loop, *function.args)]
    numbers = ir.Constant(_WORD, inner_ndim), ir.Constant(_WORD, counts[1])
    builder.call(start, [*given, *numbers, builder.call(threads, [])])
    builder.ret_void()
    for linked in (info.library, library):
        made.add_linking_library(linked)
    made.add_ir_module(module)
    return type(info)(library=made, name=function.name, env=info.env)


def _part(module: Any, info: Any, extents: int, arrays: int) -> Any:
    """The function that runs one part of a loop: as ``numba_parallel_for`` does it, one iteration of the outermost
    extent, from where the arrays' steps lead to."""
    loop = cgutils.get_or_insert_function(module, _LOOP, info.name)
    function = ir.Function(module, PART, name=f".part.{id(info.env)}_{info.name}")
    function.linkage = "internal"
    builder = ir.IRBuilder(function.append_basic_block())
    given, sizes, steps, data, index = function.args
    own_sizes = builder.alloca(_WORD, extents)
    own_given = builder.alloca(_BYTES, arrays)
    builder.store(ir.Constant(_WORD, 1), own_sizes)
    with cgutils.for_range(builder, ir.Constant(_WORD, extents), ir.Constant(_WORD, 1)) as (i, _):
        builder.store(builder.load(builder.gep(sizes, [i])), builder.gep(own_sizes, [i]))
    with cgutils.for_range(builder, ir.Constant(_WORD, arrays)) as (i, _):
        base, step = builder.load(builder.gep(given, [i])), builder.load(builder.gep(steps, [i]))
        there = builder.gep(base, [builder.mul(step, index)])
        nothing = builder.icmp_unsigned("==", base, ir.Constant(_BYTES, None))
        builder.store(builder.select(nothing, base, there), builder.gep(own_given, [i]))
    builder.call(loop, [own_given, own_sizes, steps, data])
    builder.ret_void()
    return function
