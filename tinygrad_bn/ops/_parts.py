"""Operations of several outputs that save some of them for backward."""

from __future__ import annotations

import weakref
from typing import Any

from tinygrad_bn.core.tape import MultiNode, Part, mode
from tinygrad_bn.core.tensor import Tensor


class Whole(MultiNode):
    """An operation that knows which of its saved tensors are outputs of its own.

    Attributes
    ----------
    parts : dict
        The number of a saved output by the identity of its twin; weak references to the parts that there are.
    """

    __slots__ = ("parts",)
    parts: dict[Any, Any]

    def part(self, index: int) -> Part:
        """Return the one part of an output: gradients that come to two would not be added."""
        known = self.parts.get(("part", index))
        part: Part | None = None if known is None else known()
        if part is None:
            part = Part(self, index)
            self.parts["part", index] = weakref.ref(part)
        return part

    def joined(self, t: Tensor) -> Tensor:
        """Return a saved tensor; an output is joined to this node where the backward pass is recorded."""
        index = self.parts.get(id(t))
        if index is None or not mode.grad:
            return t
        joined = t.alias()
        joined.node = self.part(index)
        return joined
