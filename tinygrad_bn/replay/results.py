"""What a step returns: kept in a form from which each call's own result is made."""

from __future__ import annotations

import weakref
from typing import Any

from tinygrad_bn.core.device import Device
from tinygrad_bn.core.dtype import DType
from tinygrad_bn.core.tensor import Array, Tensor, is_plain
from tinygrad_bn.errors import CaptureError, wrong
from tinygrad_bn.replay.held import SIMPLE
from tinygrad_bn.replay.memory import address, placed, span
from tinygrad_bn.replay.watch import Watch


class Made:
    """A tensor that the step makes: each call returns a copy."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self.repeated = False
        self.last: weakref.ref[Tensor] | None = None

    def fresh(self, sources: list[Tensor]) -> Tensor:
        """This call's tensor."""
        out = _copied(self.tensor.array, self.tensor)
        if self.repeated:
            self.last = weakref.ref(out)
        return out


class Again:
    """A tensor that stands in the result a second time."""

    def __init__(self, of: Made) -> None:
        self.of = of
        of.repeated = True

    def fresh(self, sources: list[Tensor]) -> Tensor:
        """The tensor that was made where it stands first."""
        found = None if self.of.last is None else self.of.last()
        return self.of.fresh(sources) if found is None else found


class Seen(Made):
    """A tensor that the step sees, a parameter say: each call returns the very object."""

    def fresh(self, sources: list[Tensor]) -> Tensor:
        return self.tensor


class Part:
    """A view of an argument, copied; or the argument itself."""

    def __init__(self, number: int, like: Tensor, offset: int, itself: bool) -> None:
        self.number = number
        self.like = Tensor(like.array, like.dtype, like.device)
        self.offset = offset
        self.itself = itself

    def fresh(self, sources: list[Tensor]) -> Tensor:
        """This call's tensor."""
        source = sources[self.number]
        if self.itself:
            return source
        return _copied(placed(source.array, self.offset, self.like.array), self.like)


_TENSORS = (Made, Part, Again)


def _copied(array: Array, like: Tensor) -> Tensor:
    """A tensor off the tape with elements of its own."""
    array = like.device.copied(array)
    out = Tensor(array, like.dtype, like.device)
    out.contiguous_array = is_plain(array)
    return out


def kept(value: Any, sources: list[Tensor], watch: Watch) -> Any:
    """Return a result with its tensors as ``Made``, ``Again``, ``Seen`` or ``Part``.

    Raises
    ------
    CaptureError
        If it holds something that is neither a tensor nor a simple value.
    """
    return _kept(value, sources, watch, {})


def _kept(value: Any, sources: list[Tensor], watch: Watch, known: dict[int, Made]) -> Any:
    if isinstance(value, Tensor):
        if id(value) in known:
            return Again(known[id(value)])
        found = _kept_tensor(value, sources, watch)
        if type(found) is Made:
            known[id(value)] = found
        return found
    if isinstance(value, (*SIMPLE, DType, Device)):
        return value
    if type(value) in (tuple, list, dict) or hasattr(value, "_fields"):
        return _mapped(value, lambda v: _kept(v, sources, watch, known))
    want = "tensors, numbers, strings, None, and tuples, lists and dicts of them"
    raise CaptureError(wrong("capture", "the step's result", want, f"a {type(value).__name__}"))


def _kept_tensor(value: Tensor, sources: list[Tensor], watch: Watch) -> Made | Part:
    if id(value) in watch.tensors:
        return Seen(value)
    at = address(value.array)
    for i, source in enumerate(sources):
        low, high = span(source.array)
        if source is value or (value.array.size and low <= at < high):
            return Part(i, value, at - address(source.array), source is value)
    return Made(value.alias())


def _mapped(value: Any, change: Any) -> Any:
    if isinstance(value, dict):
        return {k: change(v) for k, v in value.items()}
    items = [change(v) for v in value]
    return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)


def fresh(value: Any, sources: list[Tensor]) -> Any:
    """Return a call's own result from a kept one."""
    if isinstance(value, _TENSORS):
        return value.fresh(sources)
    return _mapped(value, lambda v: fresh(v, sources)) if isinstance(value, tuple | list | dict) else value


def tensors(value: Any) -> list[Tensor]:
    """Return the tensors that a step makes for its result."""
    if isinstance(value, Made):
        return [] if isinstance(value, Seen) else [value.tensor]
    below = value.values() if isinstance(value, dict) else value if isinstance(value, tuple | list) else ()
    return [t for v in below for t in tensors(v)]


def difference(before: Any, after: Any) -> str:
    """Return what two kept results differ in, in words; "" where they are alike."""
    if type(before) is not type(after):
        return f"it returned a {type(before).__name__}, then a {type(after).__name__}"
    if isinstance(before, dict):
        before, after = list(before.items()), list(after.items())
    if isinstance(before, tuple | list):
        if len(before) != len(after):
            return f"it returned {len(before)} values, then {len(after)}"
        return next(filter(None, map(difference, before, after)), "")
    if isinstance(before, Seen) and before.tensor is not after.tensor:
        return "it returned another tensor"
    if isinstance(before, _TENSORS) or repr(before) == repr(after):
        return ""
    return f"it returned {before!r}, then {after!r}: a number that Python worked out"
