"""Watchers of the tape: they see operations recorded and the steps of backward passes. There are none, as a rule.

While there is one, nodes get numbers that carry what a watcher wants to know of their making, and backward passes go
through ``go_watched`` below; else neither costs anything.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from heapq import heappop
from typing import Any, Protocol

from tinygrad_bn.core import tape
from tinygrad_bn.core.tape import Gradients, Node


class Watcher(Protocol):
    """Something that watches the tape: anomaly detection, a profiler."""

    @property
    def key(self) -> str:
        """Under which ``kept_of`` finds what ``recorded`` returned."""

    def recorded(self) -> Any:
        """Return what is to be kept with the node that is being made on this thread; None: nothing."""

    def step(self, node: Node, gradient: Any, run: Callable[[], Gradients]) -> Gradients:
        """Run a node's backward rule by ``run`` and return what it returns."""


class Number(int):
    """A node's position on the tape, and what watchers keep with it: both live as long as the node."""

    kept: dict[str, Any]


watchers: list[Watcher] = []
_plain = tape._sequence
_lock = threading.Lock()


def add(watcher: Watcher) -> None:
    """Let somebody watch, from now on, on all threads."""
    with _lock:
        watchers.append(watcher)
        tape._sequence = _number


def remove(watcher: Watcher) -> None:
    """Let somebody watch no longer."""
    with _lock:
        watchers[:] = [w for w in watchers if w is not watcher]
        if not watchers:
            tape._sequence = _plain


def kept_of(node: Node, key: str) -> Any:
    """Return what a watcher has kept with a node; None where it has kept nothing."""
    number = node.sequence
    return number.kept.get(key) if isinstance(number, Number) else None


def _number() -> int:
    number = Number(_plain())
    number.kept = {w.key: kept for w in tuple(watchers) if (kept := w.recorded()) is not None}
    return number


def go_watched(run: Any, run_hooks: Callable[[Node, Any], Any]) -> None:
    """Visit the nodes of a backward pass as ``core.backward`` does, each step under the eyes of the watchers.

    Parameters
    ----------
    run : the pass
    run_hooks : callable
        Runs a node's hooks on its gradient.
    """
    heap, pending = run.heap, run.pending
    while heap:
        node = heappop(heap)[1]
        gradient = pending.pop(node)
        grads = _watched(run, node, gradient, run_hooks, len(watchers))
        if node.outputs:
            if not run.retain_graph:
                node.saved = node.output = None
            for target, g in zip(node.inputs, grads):
                if target is not None and g is not None:
                    run.send(target, g)
        grads = gradient = g = target = node = None  # type: ignore[assignment]  # or a leaf's gradient would look shared
    if run.targets is None:
        run._accumulate()
    else:
        run._collect(run.targets)


def _watched(run: Any, node: Any, gradient: Any, run_hooks: Callable[[Node, Any], Any], at: int) -> Gradients:
    """One step, under the first ``at`` watchers."""
    if at and at <= len(watchers):
        watcher = watchers[at - 1]
        return watcher.step(node, gradient, lambda: _watched(run, node, gradient, run_hooks, at - 1))
    if node.hooks is not None:
        gradient = run_hooks(node, gradient)
    if run.targets is not None and node in run.targets:
        run.found[node] = gradient
    if not node.outputs:
        run._send_part(node, gradient)
        return ()
    if node.saved is None:
        raise node.freed()
    grads: Gradients = node.backward(gradient) if node.outputs == 1 else node.backward_all(*gradient)
    return grads
