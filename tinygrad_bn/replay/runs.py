"""How the calls of a recording are run: in lists that compiled code goes through, or one by one where there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Any

import numpy as np

from tinygrad_bn.core import launch
from tinygrad_bn.core.tensor import Array
from tinygrad_bn.replay.calls import Call
from tinygrad_bn.replay.memory import placed
from tinygrad_bn.replay.native import DATA, List, address_of

Entry = tuple[Callable[..., None], list[Any], Call]  # a kernel as Python calls it, and its arguments
View = tuple[int, int, Array | None]  # of the source of a number, at an offset, like an array; None: the source itself


class Views:
    """What kernels are given of the sources.

    Attributes
    ----------
    views : list of View
    patched : list of (int, int, int)
        Of a call the argument at a position, and which view it is.
    """

    def __init__(self, calls: list[Call]) -> None:
        known: dict[Any, tuple[int, View]] = {}
        self.patched: list[tuple[int, int, int]] = []
        for i, call in enumerate(calls):
            for position, number, whole, offset in call.bound:
                like = call.arguments[position]
                key = (number,) if whole else (number, offset, like.shape, like.strides, like.dtype.str)
                at, _ = known.setdefault(key, (len(known), (number, offset, None if whole else like)))
                self.patched.append((i, position, at))
        self.views = [view for _, view in known.values()]

    def of(self, sources: list[Array]) -> list[Array]:
        """Return them, of this call's sources."""
        return [sources[n] if like is None else placed(sources[n], offset, like) for n, offset, like in self.views]

    def given(self, calls: list[Call], sources: list[Array]) -> list[list[Any]]:
        """Return the arguments of all calls."""
        views, given = self.of(sources), [[*call.arguments] for call in calls]
        for i, position, view in self.patched:
            given[i][position] = views[view]
        return given


class Runs:
    """The calls, made ready for a number of threads.

    Attributes
    ----------
    compiled : bool
        Whether compiled code goes through some of them.
    """

    def __init__(self, calls: list[Call], views: Views, threads: int) -> None:
        self._calls = calls
        self._views = views
        self._threads = threads
        drivers = [launch.driver_of(call.kernel, call.arguments, threads) for call in calls]
        doors = [address_of(driver, call.arguments) for driver, call in zip(drivers, calls)]
        self._steps: list[List | Entry] = []
        for native, group in groupby(range(len(calls)), lambda i: bool(doors[i])):
            numbers = [*group]
            self._steps += [self._list(numbers, drivers, doors)] if native else self._entries(numbers)
        self.compiled = any(doors)
        python = {i for i, door in enumerate(doors) if not door}
        self._patched = [(i, position, view) for i, position, view in views.patched if i in python]
        self._python = {id(step[2]): step[1] for step in self._steps if isinstance(step, tuple)}
        self._where = np.zeros(1 + max((n for n, *_ in views.views), default=0), np.int64)
        self._sources = sorted({n for n, *_ in views.views})

    def _list(self, numbers: list[int], drivers: list[Any], doors: list[int]) -> List:
        first, end = numbers[0], numbers[-1] + 1
        places = [(i, at, *self._views.views[view][:2]) for i, at, view in self._views.patched if first <= i < end]
        loops = sum(call.kernel.parallel is driver for call, driver in zip(self._calls[first:end], drivers[first:end]))
        return List(first, self._calls[first:end], doors[first:end], places, self._threads if loops > 1 else 1)

    def _entries(self, numbers: list[int]) -> Iterator[Entry]:
        for call in (self._calls[i] for i in numbers):
            yield launch.compiled(call.kernel, call.arguments, self._threads), [*call.arguments], call

    def run(self, sources: list[Array]) -> Call | None:
        """Run them; return the one that has reported bad values."""
        for n in self._sources:
            self._where[n] = id(sources[n]) + DATA
        if self._patched:
            views = self._views.of(sources)
            for i, position, view in self._patched:
                self._python[id(self._calls[i])][position] = views[view]
        try:
            for step in self._steps:
                told = self._run_list(step, sources) if isinstance(step, List) else _run_entry(*step)
                if told is not None:
                    return told
        finally:
            for i, position, _ in self._patched:  # the caller's memory is not held
                self._python[id(self._calls[i])][position] = None
        return None

    def _run_list(self, step: List, sources: list[Array]) -> Call | None:
        last, status = step.run(self._where)
        call = self._calls[last]
        if status:  # what it has raised is not kept: called by Python it raises it again
            given = self._views.given(self._calls, sources)[last]
            launch.compiled(call.kernel, call.arguments, self._threads)(*given)
            raise RuntimeError(f"capture: {call.kernel.name} failed in a replay, with status {status}.")
        return call if call.kernel.spec.status and call.arguments[-1][0] else None


def _run_entry(function: Callable[..., None], arguments: list[Any], call: Call) -> Call | None:
    function(*arguments)
    return call if call.kernel.spec.status and arguments[-1][0] else None
