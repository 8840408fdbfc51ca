"""The one decorator of CPU kernels: fastmath class, cache, serial and parallel drivers. Nothing compiles at import."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import config

from tinygrad_bn.kernels.cpu._cache import KernelCache, generated
from tinygrad_bn.kernels.cpu._entry import KernelCompiler
from tinygrad_bn.kernels.cpu._parts import KernelDispatcher, PartCompiler, PartDispatcher

__all__ = ["APPLY", "ENABLED", "REDUCE", "Driver", "generated", "jit", "parallel"]

APPLY = {"contract"}
REDUCE = {"contract", "reassoc", "nsz", "arcp"}
ENABLED = not config.DISABLE_JIT
_ALWAYS = {"nopython": True, "boundscheck": None, "error_model": "numpy", "no_cfunc_wrapper": True}


def jit(
    *, fastmath: set[str] | None = None, parallel: bool = False, inline: bool = False
) -> Callable[[Callable[..., Any]], Any]:
    """Compile a function lazily, one specialisation a dtype, cached across processes.

    Parameters
    ----------
    fastmath : set of str
        ``APPLY`` (default) where every element is computed by itself, ``REDUCE`` in sums only.
    parallel : bool
        Run its ``prange`` loops on the pool.
    inline : bool
        Make it part of its callers: a call passes every field of every array and counts references to it, some 50 ns,
        which a short function called in an inner loop cannot bear.
    """
    flags = APPLY if fastmath is None else fastmath

    def decorate(function: Callable[..., Any]) -> Any:
        if not ENABLED:
            return function
        options = {"fastmath": flags, "parallel": parallel, "forceinline": inline, "nogil": True, **_ALWAYS}
        compiled = KernelDispatcher(function, {}, options, KernelCompiler)
        compiled.part = PartDispatcher(function, {}, options, PartCompiler)
        flavour = f"{sorted(flags)} {parallel} {inline}"
        compiled._cache, compiled.part._cache = (KernelCache(function, flavour + kind) for kind in ("", " part"))
        return compiled

    return decorate


class Driver:
    """A kernel compiled twice from one source: its ``prange`` loops run serially, or on the pool."""

    def __init__(
        self, function: Callable[..., Any], work: Callable[..., int] | str, grain: int, flags: set[str]
    ) -> None:
        self.serial = jit(fastmath=flags)(function)
        self.parallel = jit(fastmath=flags, parallel=True)(function) if ENABLED else None
        self.work = work
        self.grain = grain


def parallel(work: Callable[..., int] | str, grain: int, fastmath: set[str] | None = None) -> Callable[..., Any]:
    """Declare a kernel whose ``prange`` loops pay on the pool from ``grain`` operations on.

    Parameters
    ----------
    work : str or callable
        The argument whose size is the number of elementary operations; or maps the arguments to that number.
    grain : int
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        function.__dict__["driver"] = Driver(function, work, grain, APPLY if fastmath is None else fastmath)
        return function

    return decorate
