"""The machine: what it is, and what it can do at most, measured in the same run as the cases.

``python -m bench.harness.machine THREADS`` measures the limits in a process of its own and prints them as JSON:
the rate of fused multiplications and additions of float32 in registers, on so many threads at once, and the rate at
which copies of several sizes move bytes (read and written), on so many or on one, whichever is faster.
"""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from bench.harness.client import ROOT, environment
from bench.harness.worker import bind

FEATURES = ("avx", "avx2", "fma", "avx512f", "avx512bw", "avx512_bf16", "avx512_vnni", "amx_bf16", "asimd", "sve")
PACKAGES = ("tinygrad_bn", "numpy", "numba", "llvmlite", "scipy", "threadpoolctl", "torch", "jax", "jaxlib")
COPIES = tuple(1 << n for n in range(15, 28, 2))  # bytes of the source and the destination together
LANES = 256  # enough independent sums for the latency of two units of the widest registers


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

    def floor(self, flops: float, nbytes: float) -> float:
        """Return the seconds below which work cannot get: its arithmetic, or its traffic."""
        return max(flops / self.flops, nbytes / self.bandwidth(nbytes) if nbytes else 0.0)


def measured(threads: int) -> Limits:
    """Measure the limits in a process of its own."""
    command = [sys.executable, "-m", "bench.harness.machine", str(threads)]
    done = subprocess.run(command, env=environment(threads, "default"), check=True, stdout=subprocess.PIPE)
    found = json.loads(done.stdout)
    return Limits(threads, found["flops"], {int(size): rate for size, rate in found["copies"].items()})


def _kernels() -> tuple[Callable[..., None], Callable[..., None]]:
    import numba

    @numba.njit(nogil=True, fastmath={"contract"}, error_model="numpy")
    def multiply_add(sums: Any, a: Any, b: Any, repeats: Any) -> None:
        for _ in range(repeats):
            for i in range(LANES):
                sums[i] = sums[i] * a + b

    @numba.njit(nogil=True, error_model="numpy")
    def copy(source: Any, target: Any, repeats: Any) -> None:
        for repeat in range(repeats):
            source[0] = repeat
            for i in range(source.size):  # LLVM makes vectors of it; of a slice's assignment it does not
                target[i] = source[i]

    return multiply_add, copy


def _seconds(tasks: Sequence[Callable[[], None]]) -> float:
    """The time from the start of the first of some tasks, a thread each, to the end of the last."""
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


def _peak(multiply_add: Callable[..., None], threads: int) -> float:
    half = np.float32(0.5)
    multiply_add(np.ones(LANES, np.float32), half, half, 1)
    repeats, best = 5_000_000, math.inf

    def task(sums: Any) -> Callable[[], None]:
        return lambda: multiply_add(sums, half, half, repeats)

    for _ in range(7):
        best = min(best, _seconds([task(np.ones(LANES, np.float32)) for _ in range(threads)]))
    return 2.0 * LANES * repeats * threads / best


def _copies(copy: Callable[..., None], threads: int) -> dict[int, float]:
    copy(np.zeros(8, np.float32), np.zeros(8, np.float32), 1)

    def task(n: int, repeats: int) -> Callable[[], None]:
        source, target = np.ones(n, np.float32), np.ones(n, np.float32)
        return lambda: copy(source, target, repeats)

    def rate(size: int, workers: int) -> float:
        n, repeats = size // 8 // workers, (1 << 30) // size
        tasks = [task(n, repeats) for _ in range(workers)]
        return 8.0 * n * workers * repeats / min(_seconds(tasks) for _ in range(5))

    return {size: max(rate(size, workers) for workers in {1, threads}) for size in COPIES}


def describe() -> dict[str, Any]:
    """Return what is known of the machine, the versions of what takes part, the time and the commit."""
    model, flags = _processor()
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "features": [f for f in FEATURES if f in flags],
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
    }


def _processor() -> tuple[str, set[str]]:
    info = Path("/proc/cpuinfo")
    fields: dict[str, str] = {}
    if info.exists():
        for line in info.read_text().splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
    name = fields.get("model name") or platform.processor() or platform.machine()
    return name, set(fields.get("flags", fields.get("Features", "")).split())


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The checked-out commit, with a plus sign where files differ from it; None outside a checkout."""
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        return head + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def main() -> None:
    threads = int(sys.argv[1])
    bind(threads)
    multiply_add, copy = _kernels()
    print(json.dumps({"flops": _peak(multiply_add, threads), "copies": _copies(copy, threads)}))


if __name__ == "__main__":
    main()
