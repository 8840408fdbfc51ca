"""Words of memory that several threads read and write, and calls of functions by their address: for ``team.py`` alone.

An address is an int64. What a thread has written before it stores a word is seen by whoever has loaded that word.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from tinygrad_bn.kernels.cpu._jit import ENABLED
from tinygrad_bn.kernels.cpu._regions import PART, TEAM, this_thread

_WORD, _INT, _VOID = ir.IntType(64), ir.IntType(32), ir.VoidType()
_WORDS = _WORD.as_pointer()
_MACHINE = platform.machine()
_LISTED = ir.FunctionType(_INT, [_WORDS])


def _words(count: int, emit: Callable[[Any, Any], Any]) -> Any:
    """An intrinsic's signature, of so many words and returning one, and how it is emitted."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return emit(builder, args)

    return types.int64(*[types.int64] * count), generate


def _call(builder: Any, kind: Any, name: str, *args: Any) -> Any:
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args)


if ENABLED:

    @intrinsic
    def team_address(typing: Any) -> Any:
        """Where the team's words begin."""
        return _words(
            0, lambda builder, _: builder.ptrtoint(cgutils.add_global_variable(builder.module, _WORD, TEAM), _WORD)
        )

    @intrinsic
    def running_thread(typing: Any) -> Any:
        """What tells the running thread from all others."""
        return _words(0, lambda builder, _: this_thread(builder))

    @intrinsic
    def load_word(typing: Any, at: Any) -> Any:
        """The word at an address."""
        return _words(
            1, lambda builder, args: builder.load_atomic(builder.inttoptr(args[0], _WORDS), "acquire", align=8)
        )

    @intrinsic
    def store_word(typing: Any, at: Any, value: Any) -> Any:
        """Write a word; returns 0."""

        def emit(builder: Any, args: Any) -> Any:
            builder.store_atomic(args[1], builder.inttoptr(args[0], _WORDS), "release", align=8)
            return ir.Constant(_WORD, 0)

        return _words(2, emit)

    @intrinsic
    def exchange_word(typing: Any, at: Any, before: Any, after: Any) -> Any:
        """Write a word if it is ``before``; returns whether it was."""

        def emit(builder: Any, args: Any) -> Any:
            done = builder.cmpxchg(builder.inttoptr(args[0], _WORDS), args[1], args[2], "acq_rel", "acquire")
            return builder.zext(builder.extract_value(done, 1), _WORD)

        return _words(3, emit)

    @intrinsic
    def pause(typing: Any) -> Any:
        """Leave the processor to its other thread for a moment; returns 0."""

        def emit(builder: Any, args: Any) -> Any:
            if _MACHINE in ("x86_64", "AMD64"):
                _call(builder, ir.FunctionType(_VOID, []), "llvm.x86.sse2.pause")
            elif _MACHINE in ("aarch64", "arm64"):
                _call(builder, ir.FunctionType(_VOID, [_INT]), "llvm.aarch64.hint", ir.Constant(_INT, 1))  # yield
            return ir.Constant(_WORD, 0)

        return _words(0, emit)

    @intrinsic
    def give_way(typing: Any) -> Any:
        """Leave the processor to other threads that could run; returns 0."""
        return _words(
            0, lambda builder, _: builder.sext(_call(builder, ir.FunctionType(_INT, []), "sched_yield"), _WORD)
        )

    @intrinsic
    def sleep(typing: Any, microseconds: Any) -> Any:
        """Sleep; returns 0."""

        def emit(builder: Any, args: Any) -> Any:
            kind = ir.FunctionType(_INT, [_INT])
            return builder.sext(_call(builder, kind, "usleep", builder.trunc(args[0], _INT)), _WORD)

        return _words(1, emit)

    @intrinsic
    def call_listed(typing: Any, door: Any, words: Any) -> Any:
        """Run a kernel by its door for lists (``_entry.py``); returns Numba's status, 0 where all is well."""

        def emit(builder: Any, args: Any) -> Any:
            function = builder.inttoptr(args[0], _LISTED.as_pointer())
            return builder.sext(builder.call(function, [builder.inttoptr(args[1], _WORDS)]), _WORD)

        return _words(2, emit)

    @intrinsic
    def call_part(typing: Any, part: Any, given: Any, extents: Any, steps: Any, data: Any, index: Any) -> Any:
        """Run a part of a loop (``_regions.py``); returns 0."""

        def emit(builder: Any, args: Any) -> Any:
            pointers = [builder.inttoptr(a, kind) for a, kind in zip(args[1:5], PART.args)]
            builder.call(builder.inttoptr(args[0], PART.as_pointer()), [*pointers, args[5]])
            return ir.Constant(_WORD, 0)

        return _words(6, emit)

else:

    def _absent(*words: int) -> int:
        raise RuntimeError("kernels are plain Python here (NUMBA_DISABLE_JIT): there is no team of threads")

    team_address = running_thread = load_word = store_word = exchange_word = _absent
    pause = give_way = sleep = call_listed = call_part = _absent
