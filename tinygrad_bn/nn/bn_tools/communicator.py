"""What connects ranks that work on parts of one batch: an interface, and ranks that are threads of this process.

An engine over processes or machines states ``all_gather``, and ``all_reduce`` where it has a faster one.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import reduce
from typing import Any

from tinygrad_bn import ops
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import ArgumentError, wrong


class Communicator(ABC):
    """A rank's connection to all ranks.

    Every rank calls the same methods in the same order, with tensors of one shape and dtype.

    Attributes
    ----------
    rank : int
        From 0.
    size : int
        The number of ranks.
    """

    rank: int
    size: int

    @abstractmethod
    def all_gather(self, tensor: Tensor) -> list[Tensor]:
        """Return the tensors of all ranks, off the tape, in the order of the ranks."""

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Return the sum of all ranks' tensors, off the tape: the same bits on every rank."""
        return reduce(ops.add, self.all_gather(tensor))


class _Meeting:
    """Where threads exchange tensors: a place for each, and a barrier that all pass twice an exchange."""

    def __init__(self, size: int, timeout: float) -> None:
        self.places: list[Any] = [None] * size
        self.barrier = threading.Barrier(size, timeout=timeout)


class ThreadCommunicator(Communicator):
    """The connection of a rank that is a thread of this process: see ``run_ranks``."""

    def __init__(self, meeting: _Meeting, rank: int) -> None:
        self.rank = rank
        self.size = len(meeting.places)
        self._meeting = meeting

    def all_gather(self, tensor: Tensor) -> list[Tensor]:
        """Return the tensors of all ranks in their order.

        Raises
        ------
        threading.BrokenBarrierError
            If another rank has failed, or does not come in time.
        """
        meeting = self._meeting
        meeting.places[self.rank] = ops.clone(tensor.detach())  # which nobody changes while others read it
        meeting.barrier.wait()
        found = list(meeting.places)
        meeting.barrier.wait()
        return found

    def __deepcopy__(self, memo: dict[int, Any]) -> ThreadCommunicator:
        return self


def run_ranks(size: int, fn: Callable[[Communicator], Any], timeout: float = 60.0) -> list[Any]:
    """Call a function in ``size`` threads, each with its communicator; return what they return, in order.

    Parameters
    ----------
    size : int
    fn : callable
        Gets the rank's ``Communicator``.
    timeout : float
        Seconds that a rank waits for the others.

    Raises
    ------
    ArgumentError
        If ``size`` is below 1.
    Exception
        What a rank raised, the first of those that did not merely wait for another. The others are not left waiting.

    Examples
    --------
    >>> import tinygrad_bn as tb
    >>> from tinygrad_bn.nn.bn_tools import run_ranks
    >>> run_ranks(3, lambda ranks: ranks.all_reduce(tb.tensor(float(ranks.rank))).item())
    [3.0, 3.0, 3.0]
    """
    if not isinstance(size, int) or size < 1:
        raise ArgumentError(wrong("run_ranks", "size", "an int of at least 1", repr(size)))
    meeting = _Meeting(size, timeout)
    results: list[Any] = [None] * size
    errors: list[BaseException] = []

    def work(rank: int) -> None:
        try:
            results[rank] = fn(ThreadCommunicator(meeting, rank))
        except BaseException as error:  # whatever it is, the caller's thread raises it
            errors.append(error)
            meeting.barrier.abort()

    threads = [threading.Thread(target=work, args=(rank,), name=f"rank {rank}") for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise next((e for e in errors if not isinstance(e, threading.BrokenBarrierError)), errors[0])
    return results
