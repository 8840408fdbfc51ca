"""What this machine can do at most, measured once in a process and only when somebody asks: about a fifth of a second.

The rate of fused multiplications and additions of float32 in registers, on all threads of the pool at once, and the
rate at which copies of several sizes move bytes, on all of them or on one, whichever is faster.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from tinygrad_bn.core.device import cpu
from tinygrad_bn.core.launch import get_num_threads

_SIZES = tuple(1 << n for n in (15, 18, 21, 24, 26))  # bytes of the source and the destination together
_ROUNDS = 5
_ADDITIONS = 1_500_000
_MOVED = 1 << 27


@dataclass(frozen=True)
class Limits:
    """What the machine can do at most.

    Attributes
    ----------
    threads : int
    flops : float
        Floating-point operations a second, float32, a fused multiplication and addition counting as two.
    copies : dict of float
        Bytes moved a second, by the number of bytes that a copy touches.
    """

    threads: int
    flops: float
    copies: Mapping[int, float]

    def bandwidth(self, nbytes: float) -> float:
        """Return the bytes a second of copies of this size, between the measured sizes by interpolation."""
        sizes = sorted(self.copies)
        return float(np.interp(math.log(max(nbytes, 1)), [math.log(s) for s in sizes], [self.copies[s] for s in sizes]))

    def floor(self, flops: float, nbytes: float, wide: bool = False) -> float:
        """Return the seconds below which work cannot get: its arithmetic, half as fast in float64, or its traffic."""
        return max(flops / self.flops * (2 if wide else 1), nbytes / self.bandwidth(nbytes) if nbytes else 0.0)


def limits() -> Limits:
    """Return what the machine can do on as many threads as kernels use now."""
    return _measured(get_num_threads())


@cache
def _measured(threads: int) -> Limits:
    module = cpu.kernels.module("limits")
    return Limits(threads, _peak(module, threads), _copies(module, threads))


def _seconds(tasks: Sequence[Callable[[], None]]) -> float:
    """The time from the start of the first of some tasks, a thread each, to the end of the last."""
    if len(tasks) == 1:
        start = time.perf_counter()
        tasks[0]()
        return time.perf_counter() - start
    spans: list[tuple[float, float]] = []
    barrier = threading.Barrier(len(tasks))

    def run(task: Callable[[], None]) -> None:
        barrier.wait()
        start = time.perf_counter()
        task()
        spans.append((start, time.perf_counter()))

    workers = [threading.Thread(target=run, args=(t,)) for t in tasks]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    return max(end for _, end in spans) - min(start for start, _ in spans)


def _peak(module: object, threads: int) -> float:
    multiply_add, lanes = module.multiply_add, module.LANES  # type: ignore[attr-defined]  # kernels.cpu.limits
    half = np.float32(0.5)
    multiply_add(np.ones(lanes, np.float32), half, half, 1)

    def task() -> Callable[[], None]:
        sums = np.ones(lanes, np.float32)
        return lambda: multiply_add(sums, half, half, _ADDITIONS)

    best = min(_seconds([task() for _ in range(threads)]) for _ in range(_ROUNDS))
    return 2.0 * int(lanes) * _ADDITIONS * threads / best


def _copies(module: object, threads: int) -> dict[int, float]:
    stream = module.stream  # type: ignore[attr-defined]  # kernels.cpu.limits
    stream(np.zeros(8, np.float32), np.zeros(8, np.float32), 1)

    def rate(size: int, workers: int) -> float:
        n, repeats = size // 8 // workers, max(_MOVED // size, 1)

        def task() -> Callable[[], None]:
            source, target = np.ones(n, np.float32), np.ones(n, np.float32)
            return lambda: stream(source, target, repeats)

        tasks = [task() for _ in range(workers)]
        return 8.0 * n * workers * repeats / min(_seconds(tasks) for _ in range(_ROUNDS))

    return {size: max(rate(size, workers) for workers in {1, threads}) for size in _SIZES}
