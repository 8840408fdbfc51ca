"""Where compiled code comes into kernels: what lists of calls are made of, and what runs them (``team.py``)."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import Any

import numba

from tinygrad_bn.kernels.cpu import _regions, team
from tinygrad_bn.kernels.cpu._entry import Entry, listed_name
from tinygrad_bn.kernels.cpu._parts import KernelDispatcher

_LIST = (numba.int64[:, ::1], numba.int64[::1], numba.int64[:, ::1], numba.int64[::1])


class Runners:
    """What runs lists: each compiled, or taken from the folder of kernels, when it is first asked for."""

    def __init__(self, layer: str) -> None:
        self._has_teams = layer == "omp" and os.name == "posix"  # where the calling thread has a loop's first part

    @functools.cached_property
    def alone(self) -> Any:
        """``team.run_alone``, for Python."""
        return _compiled(team.run_alone, _LIST).entry_point

    @functools.cached_property
    def teamed(self) -> Any:
        """``team.run_with_team``, for Python; None where there are no teams."""
        if not self._has_teams:
            return None
        share = _compiled(team.share, (numba.int64,) * 5)
        _regions.shares.value = share.library.get_pointer_to_function(share.fndesc.llvm_func_name)
        return _compiled(team.run_with_team, (*_LIST, numba.int64)).entry_point


def _compiled(kernel: Any, kinds: tuple[Any, ...]) -> Any:
    kernel.compile(kinds)
    return kernel.overloads[kinds]


@functools.cache
def runners(layer: str) -> Runners:
    """Return them, for a layer of threads."""
    return Runners(layer)


@functools.cache
def comparer() -> Any:
    """Return ``team.compare``, for Python."""
    return _compiled(team.compare, (numba.int64[:, ::1], numba.int64[::1])).entry_point


def door_of(driver: Any, arguments: Sequence[Any]) -> int:
    """Return the address of a kernel's door for such arguments; 0 where it has none, or is not compiled for them."""
    if not isinstance(driver, KernelDispatcher):
        return 0
    found = driver.overloads.get(tuple(numba.typeof(a) for a in arguments))
    if found is None or not Entry.fits(found.fndesc):
        return 0
    at: int = found.library.get_pointer_to_function(listed_name(found.fndesc))
    return at
