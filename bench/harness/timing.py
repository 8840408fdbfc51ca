"""Samples, their statistics, and ratios between contenders."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

SAMPLE = 0.020  # seconds that a sample should take
WARM = 0.003  # seconds of untimed steps ahead of a sample: caches, clocks and thread pools wake up
PAUSE = 0.010  # seconds between two contenders' turns: pools that spin for a while after their work fall asleep


@dataclass(frozen=True)
class Summary:
    """Statistics of the samples of one contender, in seconds a call."""

    median: float
    p10: float
    p90: float
    min: float
    rounds: int


def summary(samples: Sequence[float]) -> Summary:
    """Return the statistics of samples.

    Raises
    ------
    ValueError
        If there are none, or one is not a positive number.
    """
    if not samples or not all(math.isfinite(s) and s > 0 for s in samples):
        raise ValueError(f"summary: 'samples' must be positive numbers, at least one. Got {list(samples)}.")
    p10, median, p90 = np.percentile(samples, (10, 50, 90))
    return Summary(float(median), float(p10), float(p90), float(min(samples)), len(samples))


@dataclass(frozen=True)
class Ratio:
    """How the best peer compares: ``value`` times as long as ours."""

    value: float
    peer: str


def best_ratio(ours: float, peers: Mapping[str, float]) -> Ratio | None:
    """Return the ratio of the fastest peer's median to ours, or None where there is no peer."""
    if not peers:
        return None
    peer = min(peers, key=lambda name: peers[name])
    return Ratio(peers[peer] / ours, peer)


def sample(step: Callable[[], Any], wait: Callable[[Any], None], count: int) -> float:
    """Return the seconds that one of ``count`` steps takes, after untimed ones and with the collector off."""
    until = time.perf_counter() + WARM
    wait(step())
    while time.perf_counter() < until:
        wait(step())
    enabled = gc.isenabled()
    gc.disable()
    try:
        result = None
        start = time.perf_counter()
        for _ in range(count):
            result = step()
        wait(result)
        return (time.perf_counter() - start) / count
    finally:
        if enabled:
            gc.enable()


def calibrate(step: Callable[[], Any], wait: Callable[[Any], None], seconds: float = SAMPLE) -> int:
    """Return how many steps take about so long."""
    count = 1
    while True:
        each = sample(step, wait, count)
        if each * count >= seconds / 4:
            each = min(each, sample(step, wait, count), sample(step, wait, count))
            return max(1, round(seconds / each))
        count *= 4


def alternate(names: Iterable[str], rounds: int, turn: Callable[[str], None], pause: float = PAUSE) -> None:
    """Give the contenders turns, A B C A B C …: what slows the machine down for a while slows all of them down."""
    order = list(names)
    for _ in range(rounds):
        for name in order:
            time.sleep(pause)
            turn(name)
