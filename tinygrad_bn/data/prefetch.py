"""Batches made ahead of their time, by one thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from tinygrad_bn.core.launch import serial_here

Job = TypeVar("Job")
Made = TypeVar("Made")


def made_ahead(make: Callable[[Job], Made], jobs: Iterator[Job], ahead: int) -> Generator[Made, None, None]:
    """Yield what ``make`` makes of each job, in order, while a thread works up to ``ahead`` jobs ahead.

    Jobs are taken on the calling thread: what they depend on is the same as without the thread. Kernels that the thread
    launches are serial. An error is raised where its result would have been, with the traceback of the thread. Closing
    the iterator, as leaving a ``for`` loop does, ends the thread.

    Parameters
    ----------
    make : callable
    jobs : iterator
    ahead : int
        0: no thread; each job is done when its result is asked for.
    """
    if not ahead:
        yield from map(make, jobs)
        return
    worker = ThreadPoolExecutor(1, "tinygrad_bn-loader", serial_here)
    try:
        waiting: deque[Future[Made]] = deque(worker.submit(make, job) for job in islice(jobs, ahead))
        while waiting:
            made = waiting.popleft().result()
            waiting.extend(worker.submit(make, job) for job in islice(jobs, 1))
            yield made
            del made
    finally:
        worker.shutdown(cancel_futures=True)
