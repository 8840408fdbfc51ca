"""A recording's kernels as lists that compiled code goes through: one call of Python's for many kernels.

A kernel that is compiled for its arguments has a door that takes them from words in memory (``kernels/cpu/_entry.py``).
The words are written once; only where a step's new arguments lie is put in anew in each run, by compiled code too. A
list ends where a kernel is plain Python. ``kernels/cpu/team.py`` runs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinygrad_bn.core.launch import pool
from tinygrad_bn.core.tensor import Array
from tinygrad_bn.replay.calls import Call
from tinygrad_bn.replay.memory import address

DATA = object.__basicsize__  # where an array's pointer to its elements is: part of NumPy's public ABI


def address_of(driver: Any, arguments: Sequence[Any]) -> int:
    """Return the address of a kernel's door for such arguments; 0 where it has none."""
    if not hasattr(driver, "overloads"):
        return 0  # plain Python
    from tinygrad_bn.kernels.cpu.doors import door_of

    return door_of(driver, arguments)


class List:
    """Kernels to be run one after the other.

    Parameters
    ----------
    first : int
        The number of the first call among all.
    calls : list of Call
    addresses : list of int
        Their doors'.
    places : list of (int, int, int, int)
        Of a call by its number the argument at a position, and in which source it lies, how many bytes behind its first
        element.
    threads : int
        Of the team that runs them.
    """

    def __init__(
        self, first: int, calls: list[Call], addresses: list[int], places: list[tuple[int, int, int, int]], threads: int
    ) -> None:
        self.first = first
        from tinygrad_bn.kernels.cpu.doors import runners

        self._runners = runners(pool.layer)
        self._threads = threads if threads > 1 and self._runners.teamed else 1
        words = [_words(call.arguments) for call in calls]
        begins = [np.cumsum([0, *(size for _, size in of)]) for of in words]
        starts = np.cumsum([0, *(begin[-1] for begin in begins)])
        self._words = np.frombuffer(b"".join(b for of in words for b, _ in of) or bytes(8), np.int64).copy()
        at = address(self._words)
        status = [address(call.arguments[-1]) if call.kernel.spec.status else 0 for call in calls]
        rows = [[door, at + 8 * int(start), word] for door, start, word in zip(addresses, starts, status)]
        self._calls = np.array(rows, np.int64).reshape(-1, 3)
        found = [
            [at + 8 * int(starts[i - first] + begins[i - first][position]), source, offset]
            for i, position, source, offset in places
        ]
        self._places = np.array(found, np.int64).reshape(-1, 3)
        self._outcome = np.zeros(2, np.int64)

    def run(self, sources: Array) -> tuple[int, int]:
        """Run them; return the number of the last that has been run, and Numba's status of it.

        ``sources`` holds, for each source, the address of the pointer to its first element.
        """
        if self._threads > 1:
            self._runners.teamed(self._calls, sources, self._places, self._outcome, self._threads)
        else:
            self._runners.alone(self._calls, sources, self._places, self._outcome)
        count, status = self._outcome.tolist()
        return self.first + count - 1, status


def _words(arguments: tuple[Any, ...]) -> list[tuple[bytes, int]]:
    """For each argument its words, and how many they are."""
    found = []
    for a in arguments:
        if isinstance(a, np.ndarray):
            content = np.array([address(a), a.size, *a.shape, *a.strides], np.int64).tobytes()
        else:
            content = np.asarray(a).tobytes()
            content += bytes(-len(content) % 8)
        found.append((content, len(content) // 8))
    return found
