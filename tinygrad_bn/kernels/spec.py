"""What a kernel is: a name, what it does to its arguments, and how it may be run.

The reference kernels (``kernels/ref``) carry the declaration, since they are the specification; a backend's kernel of
the same name has the same parameters and inherits it. Parameters that are not named as written, updated or workspace
are only read.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., None])


@dataclass(frozen=True)
class Spec:
    """The access that a kernel has to its arguments.

    Attributes
    ----------
    writes : tuple of str
        Arguments overwritten in full, whatever they held.
    updates : tuple of str
        Arguments read and written.
    workspace : tuple of str
        Scratch memory: contents before and after are of no interest.
    status : str
        The error message of a kernel whose last parameter is the device's status word, or "". It is formatted with
        ``value``, ``position`` and ``limit`` as the kernel reports them.
    """

    writes: tuple[str, ...] = ("out",)
    updates: tuple[str, ...] = ()
    workspace: tuple[str, ...] = ()
    status: str = ""


def spec(*, writes: str = "out", updates: str = "", workspace: str = "", status: str = "") -> Callable[[F], F]:
    """Declare a reference kernel; arguments are names separated by spaces."""
    declared = Spec(tuple(writes.split()), tuple(updates.split()), tuple(workspace.split()), status)

    def mark(function: F) -> F:
        names = list(inspect.signature(function).parameters)
        unknown = [n for n in declared.writes + declared.updates + declared.workspace if n not in names]
        if unknown:
            raise TypeError(f"kernel {function.__name__}: no parameter named {', '.join(unknown)}")
        function.__dict__["spec"] = declared
        return function

    return mark


class Kernel:
    """A kernel of one backend, ready for ``launch``.

    Attributes
    ----------
    name : str
    spec : Spec
    serial : callable
        Runs the kernel on the calling thread.
    parallel : callable or None
        The same kernel, same partition, same results, on the thread pool.
    work : callable or None
        Maps the arguments to a number of elementary operations, where that is not the size of one of them.
    measured : int or None
        The position of the argument whose size is the work; -1 where ``work`` tells; None where there is no driver for
        the pool.
    grain : int
        The work from which the pool pays.
    """

    __slots__ = ("grain", "measured", "name", "parallel", "serial", "spec", "work")

    def __init__(
        self,
        name: str,
        declared: Spec,
        serial: Callable[..., None],
        parallel: Callable[..., None] | None = None,
        work: Callable[..., int] | str | None = None,
        grain: int = 0,
    ) -> None:
        self.name = name
        self.spec = declared
        self.serial = serial
        self.parallel = parallel
        self.work = None if isinstance(work, str) else work
        self.measured: int | None = None
        if parallel is not None and work is not None:
            self.measured = parameters_of(serial).index(work) if isinstance(work, str) else -1
        self.grain = grain

    def amount(self, arguments: Sequence[Any]) -> int:
        """How much work the kernel has with these arguments; 0 where it has no driver for the pool."""
        if self.measured is None:
            return 0
        if self.work is not None:
            return self.work(*arguments)
        size: int = arguments[self.measured].size
        return size

    def __repr__(self) -> str:
        return f"Kernel({self.name})"


def parameters_of(function: Any) -> tuple[str, ...]:
    """Names of a kernel's parameters, whether it is plain Python or compiled by Numba."""
    return tuple(inspect.signature(getattr(function, "py_func", function)).parameters)
