"""Slots of objects and counts of references, compared where they lie in memory: by compiled code, in one call.

What a step sees is some hundred such words. Python takes 50 ns for each of them, more where a step's kernels have put
all of it out of the caches.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

Slot = tuple[Any, str, Any]  # an object, the name of a slot of its class, and what it holds
KNOWN = object.__basicsize__ == 16  # an object begins with the number of references to it, and its class


class Words:
    """Words that are as they were. The objects are kept by whoever asks.

    Parameters
    ----------
    slots : iterable of Slot
    counted : iterable of (object, int)
        Objects, and how many references there are to each.
    """

    def __init__(self, slots: Iterable[Slot], counted: Iterable[tuple[Any, int]] = ()) -> None:
        from tinygrad_bn.kernels.cpu.doors import comparer

        self._compare: Callable[..., None] = comparer()
        places = [(id(owner) + _offset(type(owner), name), id(value)) for owner, name, value in slots]
        places += [(id(value), count) for value, count in counted]
        self._words = np.array(places, np.int64).reshape(-1, 2)
        self._outcome = np.zeros(1, np.int64)

    def same(self) -> bool:
        """Whether they are."""
        self._compare(self._words, self._outcome)
        return not self._outcome[0]


_offsets: dict[tuple[type, str], int] = {}


def _offset(kind: type, name: str) -> int:
    """How far behind an object's beginning a slot of its class lies, in bytes: where an object of its own is found."""
    if (kind, name) not in _offsets:
        probe: Any = object.__new__(kind)
        mark = object()
        object.__setattr__(probe, name, mark)
        words = (ctypes.c_ssize_t * (kind.__basicsize__ // 8)).from_address(id(probe))
        _offsets[kind, name] = 8 * list(words).index(id(mark))
    return _offsets[kind, name]
