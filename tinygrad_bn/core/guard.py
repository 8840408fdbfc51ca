"""Kernels that run only where a number in memory allows it: the host does not look at it."""

from __future__ import annotations

from typing import Any

from tinygrad_bn.kernels.spec import Kernel

_guarded: dict[int, tuple[Kernel, Kernel]] = {}


def unless(kernel: Kernel) -> Kernel:
    """Return a kernel that takes one more argument, an array ``found``, and does nothing where its first element is
    not 0."""
    known = _guarded.get(id(kernel))
    if known is None:
        known = _guarded[id(kernel)] = (kernel, _guard(kernel))
    return known[1]


def _guard(kernel: Kernel) -> Kernel:
    on_device = getattr(kernel.serial, "guarded", None)
    if on_device is not None:  # the host cannot look at the number
        return Kernel(kernel.name, kernel.spec, on_device)

    def serial(table: Any, like: Any, hyper: Any, found: Any) -> None:
        if not found[0]:
            kernel.serial(table, like, hyper)

    def parallel(table: Any, like: Any, hyper: Any, found: Any) -> None:
        if not found[0]:
            kernel.parallel(table, like, hyper)  # type: ignore[misc]  # used where there is one

    def work(table: Any, like: Any, hyper: Any, found: Any) -> int:
        return kernel.amount((table, like, hyper))

    if kernel.parallel is None:
        return Kernel(kernel.name, kernel.spec, serial)
    return Kernel(kernel.name, kernel.spec, serial, parallel, work, kernel.grain)
