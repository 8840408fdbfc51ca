"""The tape: what is recorded of each operation, and the modes that switch recording.

Every recorded operation leaves a Node that knows the nodes of its inputs and states its backward rule. Rules take and
return tensors; what they compute is itself recorded under ``create_graph=True``. ``core.backward`` runs them.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from contextlib import ContextDecorator
from itertools import count
from sys import getrefcount
from typing import Any, ClassVar

from tinygrad_bn.core.device import Device
from tinygrad_bn.core.dtype import DType
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import GraphFreedError, SavedTensorError

Gradients = Sequence[Tensor | None]
Hook = Callable[[Tensor], Tensor | None]
_sequence = count(1).__next__


class _Mode(threading.local):
    """State of the calling thread."""

    grad = True


mode = _Mode()


class Node:
    """One recorded operation. A subclass states the backward rule.

    Attributes
    ----------
    sequence : int
        Position on the tape.
    inputs : tuple of Node or None
        Where the gradients that ``backward`` returns go; None where none is wanted.
    saved : tuple of Tensor, or None once released
    constants : tuple
        What else the rule needs: axes, shapes, numbers.
    """

    __slots__ = (
        "__weakref__",
        "constants",
        "hooks",
        "inputs",
        "output",
        "output_version",
        "saved",
        "sequence",
        "versions",
    )
    is_leaf: ClassVar[bool] = False
    outputs: ClassVar[int] = 1  # 2 stands for several, 0 for one of them

    def __init__(
        self, inputs: tuple[Node | None, ...], saved: tuple[Tensor, ...], constants: tuple[Any, ...] = ()
    ) -> None:
        self.sequence = _sequence()
        self.inputs = inputs
        self.saved: tuple[Tensor, ...] | None = saved
        self.constants = constants
        self.hooks: list[Hook] | None = None
        self.output: Tensor | None = None
        for tensor in saved:
            if tensor.storage is not None:
                self.versions: list[int] | None = [0 if t.storage is None else t.storage.version for t in saved]
                return
        self.versions = None  # all 0

    def backward(self, gy: Tensor) -> Gradients:
        """Return the gradient of each input, given the output's."""
        raise NotImplementedError  # abstract: every recorded operation states its rule

    def unpack(self) -> tuple[Tensor, ...]:
        """Return the saved tensors.

        Raises
        ------
        GraphFreedError
            If an earlier backward released them.
        SavedTensorError
            If one was changed in place since.
        """
        saved = self.saved
        if saved is None:
            raise self.freed()
        versions = self.versions
        if versions is None:
            for tensor in saved:
                storage = tensor.storage
                if storage is not None and storage.version != 0:
                    raise self.changed(tensor, 0)
        else:
            for tensor, version in zip(saved, versions):
                storage = tensor.storage
                if storage is not None and storage.version != version:
                    raise self.changed(tensor, version)
        return saved

    def save_output(self, out: Tensor) -> None:
        """Save the output itself, by a twin: saving the tensor would make a reference cycle.

        The twin gets the tensor's storage when that is made (``Tensor.shared_storage``).
        """
        twin = Tensor(out.array, out.dtype, out.device)
        twin.contiguous_array = out.contiguous_array
        twin.storage = out.storage
        self.output = twin
        self.output_version = out.version

    def unpack_output(self) -> Tensor:
        """Return the saved output, joined to this node where the backward pass is being recorded."""
        twin = self.output
        if twin is None:
            raise self.freed()
        if twin.storage is not None and twin.storage.version != self.output_version:
            raise self.changed(twin, self.output_version)
        if not mode.grad:
            return twin
        joined = twin.alias()
        joined.node = self
        return joined

    def name(self) -> str:
        """The operation's name, for messages."""
        return type(self).__name__

    def freed(self) -> GraphFreedError:
        return GraphFreedError(
            f"{self.name()}: the tensors saved for backward were released by an earlier backward.\n"
            "Hint: pass retain_graph=True to the first backward if the graph is to be used again."
        )

    def changed(self, tensor: Tensor, version: int) -> SavedTensorError:
        return SavedTensorError(
            f"{self.name()}: a tensor of shape {tensor.shape} that backward needs was changed in place after it had "
            f"been saved: version {version} was saved, it is at version {tensor.version}.\n"
            "Hint: change a clone() instead."
        )

    def __repr__(self) -> str:
        return f"<{self.name()} {self.sequence}>"


class Leaf(Node):
    """The end of the graph at a tensor that requires grad: accumulates into its ``grad``.

    Attributes
    ----------
    spare : Tensor or None
        The gradient that was last put into ``grad`` as it came: its memory serves again (``gradient_buffer``).
    address : int
        Where the elements of ``spare`` begin, once an optimiser has asked; else 0.
    """

    __slots__ = ("address", "spare", "tensor")
    is_leaf = True

    def __init__(self, tensor: Tensor) -> None:
        super().__init__((), ())
        self.tensor = weakref.ref(tensor)
        self.spare: Tensor | None = None
        self.address = 0


def gradient_buffer(node: Node | None, shape: tuple[int, ...], dtype: DType, device: Device) -> Tensor:
    """Return an uninitialised tensor for a gradient on its way to a node.

    A leaf gets the memory of its last gradient where nobody else holds that: an optimiser then finds it where it was.
    """
    if isinstance(node, Leaf):
        spare = node.spare
        if (
            spare is not None
            and getrefcount(spare) <= 3  # the leaf, this name and getrefcount's argument
            and spare.storage is None
            and spare.dtype is dtype
            and spare.device is device
            and spare.array.shape == shape
            and getrefcount(spare.array) <= 2
            and not mode.grad
        ):
            return spare
    return Tensor(device.empty(shape, dtype), dtype, device)


class Part(Node):
    """One output of an operation with several differentiable outputs."""

    __slots__ = ("index", "whole")
    outputs = 0

    def __init__(self, whole: MultiNode, index: int) -> None:
        super().__init__((whole,), ())
        self.whole = whole
        self.index = index


class MultiNode(Node):
    """An operation with several differentiable outputs, their number first in ``constants``; the rule is
    ``backward_all``."""

    __slots__ = ()
    outputs = 2

    def backward_all(self, *gradients: Tensor | None) -> Gradients:
        """Return the gradient of each input, given those of the outputs, None where there is none."""
        raise NotImplementedError  # abstract: every recorded operation states its rule

    def attach(self, outputs: Iterable[Tensor | None]) -> None:
        """Make the outputs parts of this operation; None stands for one that was not computed."""
        for i, out in enumerate(outputs):
            if out is not None:
                out.node = Part(self, i)


def record(
    kind: type[Node],
    out: Tensor,
    inputs: tuple[Tensor, ...],
    saved: tuple[Tensor, ...] = (),
    constants: tuple[Any, ...] = (),
    save_output: bool = False,
) -> Tensor:
    """Put an operation on the tape if one of its inputs requires grad, and return its output."""
    for tensor in inputs:
        if tensor.node is not None:
            break
    else:
        return out
    if mode.grad:
        nodes = nodes_of(kind, *inputs)
        if nodes is not None:
            out.node = node = kind(nodes, saved, constants)
            if save_output:
                node.save_output(out)
    return out


def nodes_of(kind: type[Node], *inputs: Tensor) -> tuple[Node | None, ...] | None:
    """Return the nodes of an operation's inputs; None if it is not to go on the tape.

    Raises
    ------
    SavedTensorError
        If a tracked input is a view of memory that was changed after the view had been taken.
    """
    if not mode.grad:
        return None
    nodes = ()
    tracked = False
    for tensor in inputs:
        node = tensor.node
        nodes += (node,)  # type: ignore[assignment]  # a few: adding tuples is half of what a list and its copy cost
        if node is not None:
            tracked = True
            if tensor.view_version >= 0 and tensor.view_version != tensor.version:
                raise _stale_view(kind, tensor)
    return nodes if tracked else None


def _stale_view(kind: type[Node], tensor: Tensor) -> SavedTensorError:
    return SavedTensorError(
        f"{kind.__name__}: an input of shape {tensor.shape} is a view of memory that was changed in place after the "
        "view had been taken; the tape would differentiate the old values.\nHint: take the view again."
    )


# --------------------------------------------------------------------------------------------------------------- modes


class set_grad_enabled(ContextDecorator):
    """Context manager or decorator that switches recording on this thread on or off."""

    def __init__(self, enabled: bool) -> None:
        self.enabled = bool(enabled)
        self._before: list[bool] = []

    def __enter__(self) -> None:
        self._before.append(mode.grad)
        mode.grad = self.enabled

    def __exit__(self, *exc: object) -> None:
        mode.grad = self._before.pop()


class no_grad(set_grad_enabled):
    """Context manager or decorator under which nothing is recorded."""

    def __init__(self) -> None:
        super().__init__(False)


class enable_grad(set_grad_enabled):
    """Context manager or decorator under which operations are recorded, inside ``no_grad`` too."""

    def __init__(self) -> None:
        super().__init__(True)


def is_grad_enabled() -> bool:
    """Whether operations are recorded on this thread."""
    return mode.grad
