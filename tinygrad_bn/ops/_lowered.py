"""What operations on widened tensors save for backward, kept in low precision: half the memory, as in PyTorch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tinygrad_bn.core.dtype import float32
from tinygrad_bn.core.tape import Node, mode
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.ops._common import cast
from tinygrad_bn.ops._operands import convert
from tinygrad_bn.ops._parts import Whole


def keep_low(outputs: Iterable[Tensor], pairs: dict[int, tuple[Tensor, Tensor]], after: int) -> None:
    """Let the operations behind some outputs save low-precision tensors in place of those that stand for them.

    Parameters
    ----------
    outputs : iterable of Tensor
        Results, in float32.
    pairs : dict of int to (Tensor, Tensor)
        Tensors of low precision, and those in float32 that were computed with.
    after : int
        The place on the tape behind which the operations stand.
    """
    low = {id(wide): x for x, wide in pairs.values()}
    waiting: list[Node | None] = [y.node for y in outputs]
    seen: set[Node] = set()
    while waiting:
        node = waiting.pop()
        if node is None or node.is_leaf or isinstance(node, Whole) or node.sequence <= after or node in seen:
            continue
        seen.add(node)
        waiting.extend(node.inputs)
        if node.saved and any(id(s) in low for s in node.saved):
            _save(node, tuple([low.get(id(s), s) for s in node.saved]))


def save_output_low(y: Tensor, rounded: Tensor) -> None:
    """Let the operation that has saved its result ``y`` keep the rounded one instead; not one that has reduced what it
    has saved as well: its result is small, and its digits count."""
    node = y.node
    if node is None or node.output is None or node.output.array is not y.array:
        return
    if any(s.array.size > y.array.size for s in node.saved or ()):
        return
    twin = rounded.alias()
    node.output, node.output_version = twin, rounded.version
    node.__class__ = _lowered(type(node))


def _save(node: Node, saved: tuple[Tensor, ...]) -> None:
    node.saved = saved
    node.versions = [s.version for s in saved] if any(s.version for s in saved) else None
    node.__class__ = _lowered(type(node))


_kinds: dict[Any, type[Node]] = {}


def _lowered(kind: type[Node]) -> type[Node]:
    """The rule that widens what it has saved before it is used."""
    if issubclass(kind, _Lowered):
        return kind
    found = _kinds.get(kind)
    if found is None:
        body: dict[str, Any] = {"__slots__": (), "__module__": kind.__module__, "__doc__": kind.__doc__}
        found = _kinds[kind] = type(kind.__name__, (_Lowered, kind), body)
    return found


class _Lowered(Node):
    """The part that all such rules share."""

    __slots__ = ()

    def unpack(self) -> tuple[Tensor, ...]:
        return tuple([convert(s, float32) if s.dtype.low else s for s in super().unpack()])

    def unpack_output(self) -> Tensor:
        found = super().unpack_output()
        if not found.dtype.low:
            return found
        wide = cast(found.alias(), float32)
        if mode.grad:
            wide.node = self
        return wide
