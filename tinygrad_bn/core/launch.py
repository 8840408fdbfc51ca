"""The one door through which every kernel is called: observers, threads, the status word.

A kernel with enough work runs its parallel driver on Numba's pool; the partition is fixed by the shapes, so the result
is the same, bit for bit, for any number of threads.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from tinygrad_bn.core.device import Device
from tinygrad_bn.errors import ArgumentError, wrong
from tinygrad_bn.kernels.spec import Kernel


class Observer(Protocol):
    """Something that wants to see kernels called: a recorder, a profiler."""

    def __call__(self, kernel: Kernel, arguments: tuple[Any, ...], run: Callable[[], None]) -> None:
        """Run the kernel, now or later, and note what it wants to note."""


observers: list[Observer] = []
"""Who sees every launch, of all threads; the last one first."""


def launch(kernel: Kernel, *arguments: Any) -> None:
    """Run a kernel on its arguments: on the pool where its work suggests it, else on the calling thread."""
    if observers:
        _observed(kernel, arguments, tuple(observers))
        return
    at = kernel.measured
    if at is None or pool.threads == 1 or (arguments[at].size if at >= 0 else kernel.work(*arguments)) < kernel.grain:  # type: ignore[misc]  # there is work
        kernel.serial(*arguments)
    elif _applied.threads == pool.threads:
        kernel.parallel(*arguments)  # type: ignore[misc]  # there is one where work is measured
    else:
        _on_pool(kernel)(*arguments)


def _observed(kernel: Kernel, arguments: tuple[Any, ...], by: tuple[Observer, ...]) -> None:
    """Show a launch to the last observer, which runs it by letting those before it see it."""
    if by:
        by[-1](kernel, arguments, lambda: _observed(kernel, arguments, by[:-1]))
    else:
        run(kernel, arguments)


def run(kernel: Kernel, arguments: tuple[Any, ...]) -> None:
    """Run a kernel unobserved: what an observer calls."""
    (_on_pool(kernel) if pool.threads > 1 and kernel.amount(arguments) >= kernel.grain else kernel.serial)(*arguments)


def driver_of(kernel: Kernel, arguments: tuple[Any, ...], threads: int) -> Callable[..., None]:
    """Return the driver that a launch on so many threads calls."""
    pays = threads > 1 and kernel.parallel is not None and kernel.amount(arguments) >= kernel.grain
    return kernel.parallel if pays else kernel.serial  # type: ignore[return-value]  # there is one where it pays


def compiled(kernel: Kernel, arguments: tuple[Any, ...], threads: int) -> Callable[..., None]:
    """Return what a launch on so many threads calls in the end, for arguments of the types and shapes of these.

    Where the kernel is compiled for them that is its machine code's own entry: Numba's matching of types is left out.
    """
    driver: Any = driver_of(kernel, arguments, threads)
    if not hasattr(driver, "overloads"):
        return driver  # type: ignore[no-any-return]  # plain Python
    import numba

    found = driver.overloads.get(tuple(numba.typeof(a) for a in arguments))
    return driver if found is None else found.entry_point  # type: ignore[no-any-return]  # a built-in function


def _on_pool(kernel: Kernel) -> Callable[..., None]:
    """The driver to call, the pool made ready."""
    if not _applied.serial:
        pool.enter()
    return kernel.serial if _applied.serial or pool.threads == 1 or kernel.parallel is None else kernel.parallel


def launch_checked(device: Device, op: str, kernel: Kernel, *arguments: Any) -> None:
    """Run a kernel that reports bad values, and raise what it reports: at once, or where the host waits for the device.

    Raises
    ------
    IndexRangeError
        With the op's name and the kernel's message.
    """
    status = device.status
    if observers:
        _applied.op = op
    launch(kernel, *arguments, status)
    device.reported(op, kernel, status)


class Recorder(Protocol):
    """What a thread tells of beyond kernels while a step of its is being recorded."""

    def refuse(self, what: str) -> None:
        """Raise: the step wants a value on the host, which a replay would not look at again."""

    def stepped(self, optimiser: Any) -> None:
        """Note that an optimiser has updated its parameters."""


def reporting() -> str:
    """Return the op that has last launched a kernel which reports bad values, for observers."""
    return _applied.op


def recorder() -> Recorder | None:
    """Return the recorder of the calling thread's step; None where no step is being recorded."""
    return _applied.recorder


def reads_values(what: str) -> None:
    """Say that the elements of a tensor are about to be looked at on the host.

    Raises
    ------
    CaptureError
        While a step is being recorded.
    """
    if observers and _applied.recorder is not None:
        _applied.recorder.refuse(what)


@contextmanager
def recording(to: Recorder) -> Iterator[None]:
    """Make a recorder the calling thread's."""
    _applied.recorder = to
    try:
        yield
    finally:
        _applied.recorder = None


class _Applied(threading.local):
    """The number of threads that Numba was last told on the calling thread; asking Numba costs 2 µs a launch."""

    threads = 0
    serial = False
    op = ""  # which op launches a kernel that reports, while there are observers
    recorder: Recorder | None = None


_applied = _Applied()


def serial_here() -> None:
    """Run every kernel that the calling thread launches on that thread alone, from now on.

    For threads that work beside the main one: a second team of OpenMP would fight the pool for the processors.
    """
    _applied.serial = True
    _applied.threads = 0


class ThreadPool:
    """Numba's pool under the layers that survive what people do with threads: ``omp``, else ``tbb``, else none.

    Attributes
    ----------
    threads : int
        How many threads a parallel kernel uses from now on.
    layer : str
        ``omp``, ``tbb``, ``serial``; or ``not started``.
    """

    def __init__(self) -> None:
        self.threads = _available()
        self.limit = self.threads
        self.layer = "not started"

    def enter(self) -> None:
        """Make the calling thread's parallel kernels use ``threads`` threads, starting the layer if need be."""
        if self.layer == "not started":
            self._start()
        if self.layer != "serial" and _applied.threads != self.threads:
            import numba

            numba.set_num_threads(self.threads)
            _applied.threads = self.threads

    def _start(self) -> None:
        import numba

        self.layer = _choose_layer()
        if self.layer == "serial":
            self.threads = self.limit = 1
            return
        self.limit = numba.config.NUMBA_NUM_THREADS
        self.threads = min(self.threads, self.limit)

    def after_fork(self) -> None:
        """In a forked child: a team of threads started here would be killed, so run serially."""
        self.threads = 1
        self.layer = "serial"


def _available() -> int:
    wanted = os.environ.get("NUMBA_NUM_THREADS", "")
    if wanted.isdigit() and int(wanted) > 0:
        return int(wanted)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def _choose_layer() -> str:
    import numba

    try:
        running = numba.threading_layer()
    except ValueError:
        running = ""
    if running in ("omp", "tbb"):
        return str(running)
    if not running:
        for name in ("omp", "tbb"):
            with _short_spin():
                found = _importable(f"numba.np.ufunc.{name}pool")
            if found:
                numba.config.THREADING_LAYER = name
                return name
    warnings.warn(
        f"tinygrad_bn runs on one thread: Numba's threading layer is {running or 'none of omp, tbb'}.\n"
        "Hint: install libgomp (a package of the system) or tbb (pip install tbb).",
        RuntimeWarning,
        stacklevel=2,
    )
    return "serial"


@contextmanager
def _short_spin() -> Iterator[None]:
    """Let OpenMP's threads spin for about 250 µs at a barrier, then sleep, unless the user has said how they wait.

    libgomp reads the variable as it is loaded. Its default is to spin for milliseconds: on a machine with other work,
    a thread whose partner has lost its core then burns its own until the next tick, 4-8 ms a region, where one that
    sleeps lets the partner run. Between the kernels of a step the gaps are far shorter.
    """
    name = "GOMP_SPINCOUNT"
    if name in os.environ or "OMP_WAIT_POLICY" in os.environ:
        yield
        return
    os.environ[name] = "5000"
    try:
        yield
    finally:
        del os.environ[name]


def _importable(module: str) -> bool:
    import importlib

    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True


pool = ThreadPool()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=pool.after_fork)


def set_num_threads(n: int) -> None:
    """Set how many threads parallel kernels use, from the next launch on, whichever thread makes it.

    Parameters
    ----------
    n : int
        From 1 to the number of processors (or ``NUMBA_NUM_THREADS``).

    Raises
    ------
    ArgumentError
        If it is out of range.
    """
    if not isinstance(n, int) or isinstance(n, bool) or not 1 <= n <= pool.limit:
        raise ArgumentError(wrong("set_num_threads", "n", f"an int from 1 to {pool.limit}", repr(n)))
    if pool.layer != "serial":
        pool.threads = n


def get_num_threads() -> int:
    """Return how many threads parallel kernels use."""
    return pool.threads
