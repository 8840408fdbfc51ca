"""What is noted of a step: its kernels, in order, each with the arguments that it was given."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from tinygrad_bn.core import launch
from tinygrad_bn.core.device import as_device, cpu
from tinygrad_bn.core.tensor import Array
from tinygrad_bn.core.watch import watchers
from tinygrad_bn.errors import CaptureError
from tinygrad_bn.kernels.cuda.array import CudaArray
from tinygrad_bn.kernels.spec import Kernel, parameters_of
from tinygrad_bn.replay.finds import Before, Left
from tinygrad_bn.replay.memory import Memory, address, root_of, span, unowned

_PACKAGE = str(Path(__file__).resolve().parent.parent)
_SMALL = 1 << 16  # bytes of an array of constants that are kept to be compared


class Bound(NamedTuple):
    """An argument that lies in a source, a tensor that the step is given anew in each call.

    Attributes
    ----------
    position : int
        Of the argument.
    source : int
        Of the tensor among those that are given.
    whole : bool
        Whether it is the tensor's array as it is.
    offset : int
        Else how far behind its first element it begins, in bytes.
    """

    position: int
    source: int
    whole: bool
    offset: int


class Call:
    """A launch.

    Attributes
    ----------
    kernel : Kernel
    arguments : tuple
        Arrays of the recording's own memory stand here as views that do not own it.
    bound : tuple of Bound
    contents : dict of int to bytes
        By position, what small arrays held that neither the recording nor the caller owns: constants made on the host.
    lent : frozenset of int
        Positions of arrays in the recording's own memory.
    op : str
        Who launched it, where the kernel reports bad values.
    line : str
        The line of the step that it belongs to.
    left : Left or None
        Where the kernel reports bad values, what the step had done ahead of it.
    """

    __slots__ = ("arguments", "bound", "contents", "kernel", "left", "lent", "line", "op")

    def __init__(self, kernel: Kernel, arguments: tuple[Any, ...], line: str) -> None:
        self.kernel = kernel
        self.arguments = arguments
        self.bound: tuple[Bound, ...] = ()
        self.contents: dict[int, bytes] = {}
        self.lent: frozenset[int] = frozenset()
        self.op = ""
        self.line = line
        self.left: Left | None = None


class Recorder:
    """Sees a thread's launches, and what it wants to do on the host.

    Parameters
    ----------
    memory : Memory
    before : Before
        With the arrays that stand for what is given anew in each call.
    forbidden : dict of int to str
        Addresses at which no table may point, with the reason.
    """

    def __init__(self, memory: Memory, before: Before, forbidden: dict[int, str]) -> None:
        self.calls: list[Call] = []
        self.optimisers: list[Any] = []
        self._thread = threading.get_ident()
        self._memory = memory
        self._before = before
        self._sources = [(*span(a), address(a), i, a) for i, a in enumerate(before.arrays())]
        self._forbidden = forbidden

    def __call__(self, kernel: Kernel, arguments: tuple[Any, ...], run: Callable[[], None]) -> None:
        """Note a launch, and run it."""
        if threading.get_ident() == self._thread:
            self._note(kernel, arguments)
        run()

    def refuse(self, what: str) -> NoReturn:
        """Raise: a replay would not do this again."""
        raise CaptureError(
            f"capture: {what} in {here()} looks at values on the host; a replay would not look again.\n"
            "Hint: do it outside the step, with a tensor that the step returns; choose between tensors with where()."
        )

    def stepped(self, optimiser: Any) -> None:
        """Note that an optimiser has updated its parameters."""
        self.optimisers.append(optimiser)

    def _note(self, kernel: Kernel, arguments: tuple[Any, ...]) -> None:
        if any(watcher.key == "anomaly" for watcher in watchers):
            self.refuse("detect_anomaly()")
        call = Call(kernel, (), here())
        names = parameters_of(kernel.serial)
        kept: list[Any] = []
        bound, lent = [], []
        for i, value in enumerate(arguments):
            if not isinstance(value, np.ndarray):
                kept.append([self._row(row) for row in value] if isinstance(value, list) else value)
                continue
            if kernel.spec.status and i == len(arguments) - 1:
                call.op = launch.reporting()
                call.left = self._before.left(len(self.optimisers))
                if isinstance(value, CudaArray):
                    kept.append(self._memory.gpu.word())
                    lent.append(i)
                else:
                    kept.append(self._memory.status)
                continue
            found = self._bound(i, value)
            if found is not None:
                bound.append(found)
            root = root_of(value)
            if root is not None and root.trial is self._memory.trial:
                kept.append(unowned(value, root))
                lent.append(i)
            else:
                kept.append(self._others(call, i, value, names[i], root is None))
        call.arguments, call.bound, call.lent = tuple(kept), tuple(bound), frozenset(lent)
        self.calls.append(call)

    def _bound(self, position: int, array: Array) -> Bound | None:
        if self._sources and array.size:
            at = address(array)
            for low, high, begin, number, source in self._sources:
                if low <= at < high:
                    whole = at == begin and array.shape == source.shape and array.strides == source.strides
                    return Bound(position, number, whole and array.dtype == source.dtype, at - begin)
        return None

    def _others(self, call: Call, position: int, array: Array, name: str, loose: bool) -> Array:
        """An array that is not this recording's, as it is kept."""
        device = as_device("cuda") if isinstance(array, CudaArray) else cpu
        if name == "table":
            self._check_table(device.to_host(array))
            return device.copied(array)  # whoever made the table may point it elsewhere
        once = array[tuple(slice(None if step else 1) for step in array.strides)]  # an expanded one's elements
        if loose and once.nbytes <= _SMALL:
            call.contents[position] = device.to_host(once).tobytes()
        return array

    def _row(self, row: tuple[Array, ...]) -> tuple[Array, ...]:
        """A row of a table that holds arrays, not addresses."""
        roots = [root_of(array) for array in row]
        return tuple(
            unowned(array, root) if root is not None and root.trial is self._memory.trial else array
            for array, root in zip(row, roots)
        )

    def _check_table(self, table: Array) -> None:
        for at in self._forbidden.keys() & set(table.ravel().tolist()):
            raise CaptureError(f"capture: {self._forbidden[at]}, in {here()}.")


def here() -> str:
    """Return the line outside this package that is being run: ``train.py:12: loss.item()``."""
    frame: Any = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    if frame is None:
        return "no file"
    import linecache

    name, number = frame.f_code.co_filename, frame.f_lineno
    text = linecache.getline(name, number).strip()
    return f"{Path(name).name}:{number}" + (f": {text}" if text else "")


def difference(before: list[Call], after: list[Call]) -> str:
    """Return what two recordings of a step differ in, as a sentence; "" where they are the same."""
    for a, b in zip(before, after):
        if a.kernel is not b.kernel:
            return f"it called {a.kernel.name} in {a.line}, then {b.kernel.name} in {b.line}"
        if a.bound != b.bound or len(a.arguments) != len(b.arguments):
            return f"{a.kernel.name} in {b.line} was given an argument of the step in one call only"
        bound = {found.position for found in a.bound}
        names = parameters_of(a.kernel.serial)
        for i, (x, y) in enumerate(zip(a.arguments, b.arguments)):
            if i not in bound and names[i] != "table":
                told = _differ(x, y, (i in a.lent, i in b.lent), (a.contents.get(i), b.contents.get(i)))
                if told:
                    return f"{b.kernel.name} in {b.line} {told}"
    if len(before) != len(after):
        longer = max(before, after, key=len)[min(len(before), len(after))]
        return f"it called {len(before)} kernels, then {len(after)}: {longer.kernel.name} in {longer.line} once only"
    return ""


def _differ(x: Any, y: Any, lent: tuple[bool, bool], contents: tuple[bytes | None, bytes | None]) -> str:
    if not isinstance(x, np.ndarray) or not isinstance(y, np.ndarray):
        if isinstance(x, list) or isinstance(y, list):
            return ""
        return "" if x is y or repr(x) == repr(y) else f"was given {x!r}, then {y!r}: a number that Python worked out"
    if x.shape != y.shape or x.dtype != y.dtype or x.strides != y.strides:
        return f"was given shape {x.shape}, then {y.shape}"
    if all(lent) or (not any(lent) and address(x) == address(y)):
        return ""
    if not any(lent) and contents[0] is not None and contents[0] == contents[1]:
        return ""  # made on the host, anew but alike
    return f"was given another tensor of shape {x.shape} than before: one that the step has not been given"
