"""What something holds at a time, to be compared with what it holds later: numbers by value, others by identity."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Sequence
from typing import Any

SIMPLE = (bool, int, float, complex, str, bytes, type(None))
Look = Callable[[], Iterable[Any]]


class Held:
    """What a container, a namespace or a closure holds, and a way to look at it again.

    Attributes
    ----------
    name : str
    look : callable
    labels : sequence of str
        What the values are called, where they have names; then their number is fixed.
    values : list
    """

    __slots__ = ("labels", "look", "name", "values")

    def __init__(self, name: str, look: Look, labels: Sequence[str] = ()) -> None:
        self.name = name
        self.look = look
        self.labels = labels
        self.values = list(look())

    def change(self) -> str:
        """Return what has changed since, in words; "" where nothing has."""
        found = list(self.look())
        if len(found) != len(self.values):
            return f"{self.name} held {len(self.values)} values and holds {len(found)}"
        for i, (old, new) in enumerate(zip(self.values, found)):
            if old is not new and not _alike(old, new):
                which = f"'{self.labels[i]}' of {self.name}" if i < len(self.labels) else self.name
                return f"{which} was {_short(old)} and is {_short(new)}"
        self.values = found
        return ""


def _alike(old: Any, new: Any) -> bool:
    if type(old) is not type(new):
        return False
    if isinstance(old, SIMPLE):
        return repr(old) == repr(new) if isinstance(old, float) else bool(old == new)
    if isinstance(old, types.MethodType):
        return old.__self__ is new.__self__ and old.__func__ is new.__func__
    return False


def _short(value: Any) -> str:
    return repr(value) if isinstance(value, SIMPLE) else f"a {type(value).__name__}"
