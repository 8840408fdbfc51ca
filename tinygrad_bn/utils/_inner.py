"""A record on the tape within another: where it ends, and a backward pass that does not leave it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tinygrad_bn.autograd.transforms import tree_leaves
from tinygrad_bn.core import backward as engine
from tinygrad_bn.core.tape import Node
from tinygrad_bn.core.tensor import Tensor


class InnerRun(engine._Run):
    """A backward pass through the second record, which ends where the part does."""

    def __init__(self, retain_graph: bool, frontier: set[Node], nodes: set[Node]) -> None:
        super().__init__(retain_graph, frontier, nodes)
        self.frontier = frontier
        self.arrived: dict[Node, Tensor] = {}

    def send(self, node: Node, gradient: Tensor) -> None:
        """Keep what arrives at the frontier: its hooks, and what lies beyond, are the outer pass's."""
        if node in self.frontier:
            before = self.arrived.get(node)
            self.arrived[node] = gradient if before is None else engine._add(before, gradient)
        else:
            super().send(node, gradient)

    def _collect(self, targets: set[Node]) -> None:
        """Nothing is found but at the frontier."""


def walked(roots: Sequence[Node], start: int) -> tuple[list[Node], list[Node]]:
    """The nodes recorded since a position of the tape, and those that gradients leave them for."""
    interior: list[Node] = []
    frontier: dict[Node, None] = {}
    seen: set[Node] = set()
    stack = list(roots)
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        if node.is_leaf or node.sequence <= start:
            frontier[node] = None
        else:
            interior.append(node)
            stack.extend(n for n in node.inputs if n is not None)
    return interior, list(frontier)


def tracked(result: Any, start: int) -> list[Tensor]:
    """The outputs that were recorded since a position of the tape, each once."""
    found: dict[int, Tensor] = {}
    for t in tree_leaves(result):
        if isinstance(t, Tensor) and t.node is not None and not t.node.is_leaf and t.node.sequence > start:
            found[id(t)] = t
    return list(found.values())


def kept_as_is(t: Tensor) -> Tensor:
    """The tensor as it is now, whatever becomes of the object."""
    out = t.alias()
    out.node = t.node
    out.view_version = t.view_version
    return out
