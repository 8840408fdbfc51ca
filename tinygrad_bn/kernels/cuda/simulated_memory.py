"""Memory of the simulated GPU, watched: who may read and write which element, and when."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np

from tinygrad_bn.kernels.cuda.array import address

__all__ = ["Memory", "Point", "Private", "Race", "at", "elements", "state", "unwritten"]


class Race(RuntimeError):
    """What a kernel computes depends on the order in which its threads run."""


class Point:
    """Three numbers: an index or an extent."""

    __slots__ = ("x", "y", "z")

    def __init__(self, x: int, y: int = 1, z: int = 1) -> None:
        self.x, self.y, self.z = x, y, z


_Accesses = dict[int, tuple[tuple[int, int], int]]  # by element: when (block, barriers passed), and which thread
_Log = dict[int, tuple[_Accesses, _Accesses]]  # by size of elements: who wrote, and who read


class Memory:
    """An array as a kernel sees it: a pointer to its first element, and nothing beyond its last.

    Parameters
    ----------
    array : numpy.ndarray
        One axis.
    name : str
        For messages.
    ahead : int
        How many elements lie before the one that is pointed to.
    log : dict, optional
        Where accesses are noted, by address; it has one of its own otherwise.
    """

    __slots__ = ("_ahead", "_first", "_readers", "_size", "_writers", "array", "name")

    def __init__(self, array: Any, name: str, ahead: int = 0, log: _Log | None = None) -> None:
        self.array = array
        self.name = name
        self._ahead = ahead
        self._size = array.size
        self._first = array.ctypes.data // array.itemsize if log is not None else 0
        self._writers, self._readers = ({}, {}) if log is None else log.setdefault(array.itemsize, ({}, {}))

    def __getitem__(self, index: Any) -> Any:
        i = self._place(index)
        at, now, thread = i + self._first, state.moment, state.thread
        written = self._writers.get(at)
        if written is not None and _races(written, now, thread):
            raise Race(f"{self.name}[{i}]: read by {_who(thread)}, written by {_who(written[1])}, no barrier between")
        read = self._readers.get(at)
        if read is None or (read[0] != now and read[0][0] == now[0]):
            self._readers[at] = now, thread
        elif read[0][0] != now[0]:
            self._readers[at] = (-1, 0), _SEVERAL  # of several blocks: in no order to anything
        elif read[1] != thread:
            self._readers[at] = now, _SEVERAL
        return self.array[i]

    def __setitem__(self, index: Any, value: Any) -> None:
        i = self._place(index)
        self._writes(i, state.thread)
        self.array[i] = value

    def _writes(self, i: int, thread: int) -> None:
        at, now = i + self._first, state.moment
        for done, others in (("written", self._writers), ("read", self._readers)):
            other = others.get(at)
            if other is not None and _races(other, now, thread):
                raise Race(
                    f"{self.name}[{i}]: written by {_who(thread)}, {done} by {_who(other[1])}, no barrier between"
                )
        self._writers[at] = now, thread

    def exchange(self, index: Any, made: Callable[[Any], Any]) -> Any:
        """Change an element atomically; return what it was."""
        i = self._place(index)
        self._writes(i, _ATOMIC)
        before = self.array[i]
        self.array[i] = made(before)
        return before

    def _place(self, index: Any) -> int:
        i = int(index) + self._ahead
        if not 0 <= i < self._size:
            raise IndexError(f"{self.name}[{int(index)}]: it has {self._size} elements")
        return i


_SEVERAL, _ATOMIC = -1, -2  # threads


def _who(thread: int) -> str:
    return {_SEVERAL: "several threads", _ATOMIC: "an atomic operation"}.get(thread, f"thread {thread}")


_LINE = 256  # bytes: a multiple of every alignment
_WORDS = {"?": np.uint8, "e": np.uint16}  # what kernels see of types that they cannot compute with


def elements(array: Any, name: str) -> Memory:
    """Return what a kernel may reach of an array: from its first element in memory to its last."""
    kind = np.dtype(_WORDS.get(array.dtype.char, array.dtype))
    if not array.size:
        return Memory(np.empty(0, kind), name)
    steps = [(n - 1) * (s // array.itemsize) for n, s in zip(array.shape, array.strides)]
    ahead = -sum(s for s in steps if s < 0)
    count = 1 + sum(map(abs, steps))
    begin = address(array) - ahead * kind.itemsize
    memory = (ctypes.c_char * (count * kind.itemsize)).from_address(begin)
    return Memory(np.frombuffer(memory, kind), name, ahead, state.log)


def at(place: int, like: Memory) -> Memory:
    """Return the memory at an address, up to the end of its allocation, as elements of a type."""
    from tinygrad_bn.kernels.cuda.driver import driver

    nbytes: int = driver().holds(int(place))  # type: ignore[attr-defined]  # of the simulated driver
    count = nbytes // like.array.itemsize
    memory = (ctypes.c_char * (count * like.array.itemsize)).from_address(int(place)) if count else b""
    return Memory(np.frombuffer(memory, like.array.dtype), "an array of a table", 0, state.log)


def _races(other: tuple[Any, int], now: tuple[int, int], thread: int) -> bool:
    """Whether an access of this thread and another are in no order: of other blocks, or between the same barriers."""
    (block, epoch), by = other
    if by == thread == _ATOMIC:
        return False
    return block != now[0] or (epoch == now[1] and by != thread)


class State:
    """Where the run of a kernel is."""

    def __init__(self) -> None:
        self.moment = (0, 0)  # block, barriers passed
        self.thread = 0
        self.grid = self.block = Point(1)
        self.at = Point(0)
        self.threads = 1
        self.shared: dict[Any, Memory] = {}
        self.log: _Log = {}
        self.barrier: Any = None  # the place in the source at which this block's threads wait
        self.switch: Callable[[], None] | None = None


state = State()


class Private:
    """Memory of one thread."""

    __slots__ = ("array", "name")

    def __init__(self, array: Any, name: str) -> None:
        self.array = array
        self.name = name

    def __getitem__(self, index: Any) -> Any:
        return self.array[self._place(index)]

    def __setitem__(self, index: Any, value: Any) -> None:
        self.array[self._place(index)] = value

    def _place(self, index: Any) -> int:
        if not 0 <= index < self.array.size:
            raise IndexError(f"{self.name}[{int(index)}]: it has {self.array.size} elements")
        return int(index)


def unwritten(shape: Any, dtype: Any, alignment: int | None = None) -> Any:
    """An array of NaN, or of a number that leads out of every array; it begins at a multiple of the alignment, and
    where none is asked for, one element behind a multiple of 16 bytes."""
    kind = np.dtype(dtype)
    if not isinstance(shape, int):
        raise TypeError(f"arrays of a block or a thread have one axis here, of constant size. Got {shape!r}.")
    room = np.empty(shape * kind.itemsize + 2 * _LINE, np.uint8)
    first = -room.ctypes.data % _LINE + (0 if alignment else kind.itemsize)
    found = room[first : first + shape * kind.itemsize].view(kind)
    found.fill(np.nan if kind.kind == "f" else np.iinfo(kind).max if kind.kind in "iu" else 1)
    return found
