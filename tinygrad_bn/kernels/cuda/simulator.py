"""A GPU in plain Python, for tests on machines without one: the part of ``numba.cuda`` that kernels here may use.

A block's threads are greenlets, which run one after the other from barrier to barrier: the order is the same in every
run, and a kernel that needs no barrier costs a function call a thread. Memory is watched as compute-sanitizer does it:

* an index before the beginning or behind the end is an IndexError;
* shared memory begins as NaN, or as a number that leads out of every array, in each block;
* two threads that touch one element without a barrier between them, one of them writing, are a ``Race``, also where
  they reach it through different arguments; atomic operations race with plain accesses, not with one another;
* a barrier that some threads of a block wait at while others have ended, or wait at another, is a ``Race``, too.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from contextvars import copy_context
from typing import Any

import numpy as np

from tinygrad_bn.kernels.cuda.simulated_memory import Memory, Point, Private, Race, at, elements, state, unwritten

__all__ = ["Memory", "Race", "at", "cuda", "elements", "run"]

_one_at_a_time = threading.RLock()


class _Shared:
    @staticmethod
    def array(shape: Any, dtype: Any, alignment: int | None = None) -> Memory:
        """Memory of the block: the same for each of its threads at one place of the source. ``load4`` and ``store4``
        need an ``alignment`` of 16: else it begins at a multiple of the dtype's size alone."""
        frame = sys._getframe(1)
        key = frame.f_code, frame.f_lasti
        found = state.shared.get(key)
        if found is None:
            name = f"shared memory of {frame.f_code.co_name}"
            found = state.shared[key] = Memory(unwritten(shape, dtype, alignment), name)
        return found


class _Local:
    @staticmethod
    def array(shape: Any, dtype: Any) -> Any:
        """Memory of the thread."""
        return Private(unwritten(shape, dtype), f"local memory of {sys._getframe(1).f_code.co_name}")


class _Atomic:
    @staticmethod
    def add(memory: Memory, index: Any, value: Any) -> Any:
        return memory.exchange(index, lambda before: before + value)

    @staticmethod
    def max(memory: Memory, index: Any, value: Any) -> Any:
        return memory.exchange(index, lambda before: max(before, value))

    @staticmethod
    def cas(memory: Memory, index: Any, old: Any, value: Any) -> Any:
        return memory.exchange(index, lambda before: value if before == old else before)


class _Cuda:
    """The names of ``numba.cuda`` that kernels use."""

    shared = _Shared
    local = _Local
    atomic = _Atomic

    @property
    def threadIdx(self) -> Point:
        return Point(state.thread, 0, 0)

    @property
    def blockIdx(self) -> Point:
        return state.at

    @property
    def blockDim(self) -> Point:
        return state.block

    @property
    def gridDim(self) -> Point:
        return state.grid

    @staticmethod
    def grid(axes: int) -> int:
        """The thread's number in the grid, along the first axis."""
        assert axes == 1
        return state.at.x * state.threads + state.thread

    @staticmethod
    def gridsize(axes: int) -> int:
        """How many threads there are along the first axis."""
        assert axes == 1
        return state.grid.x * state.threads

    @staticmethod
    def syncthreads() -> None:
        """Wait for the other threads of the block."""
        if state.switch is None:
            raise Race("syncthreads() in a kernel whose source has none: it would not be waited at")
        frame = sys._getframe(1)
        here = frame.f_code, frame.f_lasti
        if state.barrier not in (None, here):
            raise Race(f"thread {state.thread} waits at a barrier while others of its block wait at another")
        state.barrier = here
        state.switch()


cuda = _Cuda()


def run(
    function: Callable[..., None],
    grid: tuple[int, int, int],
    threads: int,
    arguments: Sequence[Any],
    names: Sequence[str],
) -> None:
    """Run a kernel on all blocks of a grid, one after the other.

    Parameters
    ----------
    function : callable
    grid : tuple of int
        Blocks along x, y and z.
    threads : int
        Threads of a block.
    arguments : sequence
        Arrays of any strides, and numbers.
    names : sequence of str
        Of the arguments, for messages.

    Raises
    ------
    IndexError, Race
        As the module's description says.
    """
    number = 0
    run_block = _with_barriers if _waits(function) else _without_barriers
    with _one_at_a_time, np.errstate(all="ignore"):
        state.grid, state.block, state.threads, state.log = Point(*grid), Point(threads), threads, {}
        given = tuple([_given(a, n) for a, n in zip(arguments, names, strict=True)])
        for z in range(grid[2]):
            for y in range(grid[1]):
                for x in range(grid[0]):
                    state.at, state.moment, state.shared = Point(x, y, z), (number, 0), {}
                    run_block(function, threads, given)
                    number += 1


def _given(argument: Any, name: str) -> Any:
    if isinstance(argument, np.ndarray):
        return elements(argument, name)
    return argument if isinstance(argument, np.generic) else int(argument)


def _waits(function: Any, seen: frozenset[Any] = frozenset()) -> bool:
    """Whether a function, or one that it calls, waits at barriers."""
    if "syncthreads" in function.__code__.co_names:
        return True
    called = [function.__globals__.get(name) for name in function.__code__.co_names]
    inner = [f for f in called if hasattr(f, "__code__") and f not in seen]
    return any(_waits(f, seen | {function}) for f in inner)


def _without_barriers(function: Callable[..., None], threads: int, arguments: tuple[Any, ...]) -> None:
    state.switch = None
    for thread in range(threads):
        state.thread = thread
        function(*arguments)


def _with_barriers(function: Callable[..., None], threads: int, arguments: tuple[Any, ...]) -> None:
    from greenlet import getcurrent, greenlet

    main = getcurrent()
    state.switch = main.switch
    running = [(i, greenlet(function)) for i in range(threads)]
    for _, each in running:
        each.gr_context = copy_context()  # or NumPy would warn: how it treats errors is kept there
    begun = False
    while running:
        state.barrier = None
        for thread, each in running:
            state.thread = thread
            each.switch(*(() if begun else arguments))
        begun = True
        left = [(i, each) for i, each in running if not each.dead]
        if left and len(left) < len(running):
            raise Race(f"threads {[i for i, _ in left][:4]} wait at a barrier that others of their block never reach")
        running = left
        block, epoch = state.moment
        state.moment = block, epoch + 1
