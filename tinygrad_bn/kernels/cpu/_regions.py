"""How a kernel's parallel loop gets to the threads: straight to OpenMP, with one barrier.

Numba's way takes Python's lock and gives it back (a kernel has given it back already), asks the system for the parent
process, lets OpenMP divide what has been divided, and waits twice: 1.3 µs a loop, more than a small layer computes.
Kernels call ``SYMBOL`` instead, which takes what Numba's ``numba_parallel_for`` takes; ``bind`` says what stands behind
that name in this process: the function below where the threads are OpenMP's, else Numba's.
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import llvmlite.binding as llvm
import numba
from llvmlite import ir
from numba.core import cgutils
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target
from numba.np.ufunc import parallel

__all__ = ["bind", "straight_to_threads"]

SYMBOL = "tinygrad_bn_parallel_for"
_OPENMP = "GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads"
_PREFIX = "tinygrad_bn_"  # of the names by which compiled code knows them
_BYTES, _WORD, _INT, _VOID = ir.IntType(8).as_pointer(), ir.IntType(64), ir.IntType(32), ir.VoidType()
_WORDS = _WORD.as_pointer()
_LOOP = ir.FunctionType(_VOID, [_BYTES.as_pointer(), _WORDS, _WORDS, _BYTES])  # of arguments, extents, steps, nothing
_SHARE = ir.FunctionType(_VOID, [_BYTES])
_FIELDS = [_LOOP.as_pointer(), *_LOOP.args, _WORD, _WORD]  # a loop's code, its arguments, how many extents, arrays
_REGION = ir.LiteralStructType(_FIELDS)


@contextmanager
def straight_to_threads() -> Iterator[None]:
    """Let parallel loops that are compiled meanwhile call ``SYMBOL``."""
    theirs = parallel.build_gufunc_kernel
    parallel.build_gufunc_kernel = _starter
    try:
        yield
    finally:
        parallel.build_gufunc_kernel = theirs


def _starter(library: Any, context: Any, info: Any, signature: Any, inner_ndim: int) -> Any:
    """The function that starts a loop. In Numba it takes Python's lock first."""
    made = context.codegen().create_library("parallelgufuncwrapper")
    module = made.create_ir_module("parallel.gufunc.wrapper")
    function = ir.Function(module, _LOOP, name=f".start.{id(info.env)}_{info.name}")
    builder = ir.IRBuilder(function.append_basic_block())
    loop = builder.bitcast(cgutils.get_or_insert_function(module, _LOOP, info.name), _BYTES)
    threads = builder.call(cgutils.get_or_insert_function(module, ir.FunctionType(_WORD, []), "get_num_threads"), [])
    counts = ir.Constant(_WORD, inner_ndim), ir.Constant(_WORD, len(signature.args))
    start = cgutils.get_or_insert_function(module, ir.FunctionType(_VOID, [_BYTES] * 5 + [_WORD] * 3), SYMBOL)
    builder.call(start, [loop, *(builder.bitcast(a, _BYTES) for a in function.args), *counts, threads])
    builder.ret_void()
    for part in (info.library, library):
        made.add_linking_library(part)
    made.add_ir_module(module)
    return type(info)(library=made, name=function.name, env=info.env)


@cache
@global_compiler_lock
def bind() -> None:
    """Give ``SYMBOL`` its meaning in this process. Starts the threads, where they have not been."""
    parallel._launch_threads()
    found = _openmp() if numba.threading_layer() == "omp" else None
    if found is None:
        llvm.add_symbol(SYMBOL, llvm.address_of_symbol("numba_parallel_for"))
        return
    for name, address in found.items():
        llvm.add_symbol(_PREFIX + name, address)
    library = cpu_target.target_context.codegen().create_library("regions")
    module = library.create_ir_module("regions")
    _write_region(module, _write_share(module))
    library.add_ir_module(module)
    library.finalize()
    bind.library = library  # type: ignore[attr-defined]  # it owns the code
    llvm.add_symbol(SYMBOL, library.get_pointer_to_function(SYMBOL + "_omp"))


def _openmp() -> dict[str, int] | None:
    """Where the functions lie in the library that Numba's threads come from: a library that everybody sees (PyTorch
    brings one) goes ahead of the one that Numba is linked with."""
    scopes = ctypes.CDLL(None), ctypes.CDLL(importlib.import_module("numba.np.ufunc.omppool").__file__)
    for scope in scopes:
        if all(hasattr(scope, name) for name in _OPENMP):
            return {name: ctypes.cast(getattr(scope, name), ctypes.c_void_p).value or 0 for name in _OPENMP}
    return None


def _write_region(module: Any, share: Any) -> None:
    """The function behind ``SYMBOL``: every thread of a team takes its share; a loop of one part needs no team."""
    kind = ir.FunctionType(_VOID, [_BYTES] * 5 + [_WORD] * 3)
    function = ir.Function(module, kind, SYMBOL + "_omp")
    builder = ir.IRBuilder(function.append_basic_block())
    region = builder.alloca(_REGION)
    for i, (given, field) in enumerate(zip(function.args, _FIELDS)):
        value = builder.bitcast(given, field) if i < 5 else given
        builder.store(value, cgutils.gep_inbounds(builder, region, 0, i))
    parts = builder.load(builder.bitcast(function.args[2], _WORDS))
    with builder.if_else(builder.icmp_unsigned("<", parts, ir.Constant(_WORD, 2))) as (alone, together):
        with alone:
            builder.call(share, [builder.bitcast(region, _BYTES)])
        with together:
            kind = ir.FunctionType(_VOID, [_SHARE.as_pointer(), _BYTES, _INT, _INT])
            team = cgutils.get_or_insert_function(module, kind, _PREFIX + _OPENMP[0])
            threads = builder.trunc(function.args[-1], _INT)
            builder.call(team, [share, builder.bitcast(region, _BYTES), threads, ir.Constant(_INT, 0)])
    builder.ret_void()


def _write_share(module: Any) -> Any:
    """A thread's share of a loop: parts i, i + n, … of thread i of n. A part's arrays begin ``steps`` further on."""
    function = ir.Function(module, _SHARE, _PREFIX + "share")
    builder = ir.IRBuilder(function.append_basic_block())
    region = builder.bitcast(function.args[0], _REGION.as_pointer())
    loop, arrays, extents, steps, data, ndim, count = (
        builder.load(cgutils.gep_inbounds(builder, region, 0, i)) for i in range(len(_FIELDS))
    )
    member, members = (
        builder.zext(builder.call(cgutils.get_or_insert_function(module, ir.FunctionType(_INT, []), name), []), _WORD)
        for name in (_PREFIX + _OPENMP[1], _PREFIX + _OPENMP[2])
    )
    parts = builder.load(extents)
    own_extents = builder.alloca(_WORD, builder.add(ndim, ir.Constant(_WORD, 1)))
    own_arrays = builder.alloca(_BYTES, count)
    cgutils.raw_memcpy(builder, own_extents, extents, builder.add(ndim, ir.Constant(_WORD, 1)), 8)
    builder.store(ir.Constant(_WORD, 1), own_extents)
    with cgutils.for_range_slice(builder, member, parts, members) as (part, _):
        with cgutils.for_range(builder, count) as inner:
            step = builder.mul(part, builder.load(builder.gep(steps, [inner.index])))
            begin = builder.load(builder.gep(arrays, [inner.index]))
            builder.store(builder.gep(begin, [step]), builder.gep(own_arrays, [inner.index]))
        builder.call(loop, [own_arrays, own_extents, steps, data])
    builder.ret_void()
    return function
