"""Backward passes.

Nodes are numbered as they are recorded, so taking them off a heap, highest number first, visits each node after all
that depend on it: no recursion, however deep the graph. Gradients go only where they are wanted, are never accumulated
into an array that somebody else may hold, and saved tensors are released on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from operator import attrgetter
from sys import getrefcount
from typing import Any

from tinygrad_bn.core.launch import launch
from tinygrad_bn.core.memory import Lease
from tinygrad_bn.core.mixed import autocasting
from tinygrad_bn.core.tape import Node, Part, mode
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.core.watch import go_watched, watchers
from tinygrad_bn.errors import GradientError, ShapeError, expected

_position = attrgetter("sequence")
_add: Callable[[Tensor, Tensor], Tensor]
_clone: Callable[[Tensor], Tensor]
_ones_like: Callable[[Tensor], Tensor]


def install(add: Callable[[Tensor, Tensor], Tensor], clone: Any, ones_like: Any) -> None:
    """Give the tape the operations that it needs itself; called once by ``tinygrad_bn.ops``."""
    global _add, _clone, _ones_like
    _add, _clone, _ones_like = add, clone, ones_like


class _Run:
    """One backward pass.

    With ``targets`` the gradients of these nodes are found and no leaf is touched; ``needed`` are the nodes on the way.
    """

    def __init__(self, retain_graph: bool, targets: set[Node] | None, needed: set[Node] | None) -> None:
        self.retain_graph = retain_graph
        self.pending: dict[Node, Any] = {}
        self.leaves: dict[Node, Tensor] = {}
        self.heap: list[tuple[int, Node]] = []
        self.targets = targets
        self.needed = needed
        self.found: dict[Node, Tensor] = {}

    def send(self, node: Node, gradient: Tensor) -> None:
        """Add a gradient to those that wait for a node."""
        if self.needed is not None and node not in self.needed:
            return
        waiting: dict[Node, Any] = self.leaves if node.is_leaf else self.pending
        before = waiting.get(node)
        if before is not None:
            # the table, this name and getrefcount's argument
            if getrefcount(before) <= 3 and _ours(before) and _alike(before, gradient):
                launch(before.device.kernels.accumulate, gradient.array.reshape(-1), before.array.reshape(-1))
            else:
                waiting[node] = _add(before, gradient)
            return
        waiting[node] = gradient
        if waiting is self.pending:
            heappush(self.heap, (-node.sequence, node))

    def go(self) -> None:
        """Visit nodes, last recorded first, until none is left; then the leaves, whose gradients are complete."""
        heap, pending, leaves, send = self.heap, self.pending, self.leaves, self.send
        targets, retain, everywhere = self.targets, self.retain_graph, self.needed is None
        while heap:
            node = heappop(heap)[1]
            gradient = pending.pop(node)
            if node.hooks is not None:
                gradient = _run_hooks(node, gradient)
            if targets is not None and node in targets:
                self.found[node] = gradient
            if node.outputs:
                if node.saved is None:
                    raise node.freed()
                grads = node.backward(gradient) if node.outputs == 1 else node.backward_all(*gradient)  # type: ignore[attr-defined]
                if not retain:
                    node.saved = node.output = None
                for target, g in zip(node.inputs, grads):
                    if target is None or g is None:
                        continue
                    if not everywhere:
                        send(target, g)
                    elif target.is_leaf:  # as in send, without the call
                        if target in leaves:
                            send(target, g)
                        else:
                            leaves[target] = g
                    elif target in pending:
                        send(target, g)
                    else:
                        pending[target] = g
                        heappush(heap, (-target.sequence, target))
            else:
                self._send_part(node, gradient)  # type: ignore[arg-type]  # a Part
        grads = gradient = g = None  # or a leaf's gradient would look shared
        if targets is None:
            self._accumulate()
        else:
            self._collect(targets)

    def _send_part(self, part: Part, gradient: Tensor) -> None:
        whole = part.whole
        if self.needed is not None and whole not in self.needed:
            return
        slots = self.pending.get(whole)
        if slots is None:
            slots = self.pending[whole] = [None] * whole.constants[0]
            heappush(self.heap, (-whole.sequence, whole))
        slots[part.index] = gradient

    def _accumulate(self) -> None:
        """Add the gradients that have arrived to the leaves'."""
        leaves = self.leaves
        while leaves:
            node, gradient = leaves.popitem()
            if node.hooks is not None:
                gradient = _run_hooks(node, gradient)
            tensor = node.tensor()  # type: ignore[attr-defined]  # a Leaf
            if tensor is None:
                continue
            if tensor._grad is not None:
                tensor._grad = _add(tensor._grad, gradient)
            # this name, getrefcount's argument, perhaps the leaf; one more may be another leaf's, a hook's, a caller's
            elif gradient is node.spare:  # type: ignore[attr-defined]
                tensor._grad = gradient if getrefcount(gradient) <= 3 else _clone(gradient)
            elif gradient.storage is None and getrefcount(gradient) <= 2 and gradient.contiguous_array:
                tensor._grad = gradient
                if gradient.node is None:
                    node.spare, node.address = gradient, 0  # type: ignore[attr-defined]
            else:
                tensor._grad = _clone(gradient)

    def _collect(self, targets: set[Node]) -> None:
        """Keep the gradients that have arrived at leaves which are targets."""
        for node, gradient in self.leaves.items():
            if node in targets:
                self.found[node] = gradient if node.hooks is None else _run_hooks(node, gradient)


def _ours(gradient: Tensor) -> bool:
    """Whether a gradient that nobody else holds is the only one to look at its memory, which came from the pool."""
    array = gradient.array  # which counts as well
    lease = array.base
    return (
        type(lease) is Lease
        and getrefcount(lease) <= 3
        and getrefcount(array) <= 3
        and gradient.storage is None
        and gradient.node is None
        and not mode.grad
    )


def _alike(a: Tensor, b: Tensor) -> bool:
    """Whether the elements of two gradients lie in the same order, and can be added as they are."""
    same = a.contiguous_array and b.contiguous_array and a.array.shape == b.array.shape and a.dtype is b.dtype
    return same and not a.dtype.low


def _run_hooks(node: Node, gradient: Tensor) -> Tensor:
    for hook in list(node.hooks or ()):
        replaced = hook(gradient)
        if replaced is not None:
            gradient = replaced
    return gradient


def backward(
    tensors: Sequence[Tensor], gradients: Sequence[Tensor | None], retain_graph: bool | None, create_graph: bool
) -> None:
    """Accumulate the gradients of ``tensors`` into the leaves of their graph."""
    run = _Run(create_graph if retain_graph is None else retain_graph, None, None)
    _go("backward", run, tensors, gradients, create_graph)


def _go(op: str, run: _Run, outputs: Sequence[Tensor], gradients: Sequence[Tensor | None], create_graph: bool) -> None:
    before, mode.grad = mode.grad, create_graph
    precision, autocasting.dtype = autocasting.dtype, None  # gradients follow the forward's dtypes
    try:
        _start(op, run, outputs, gradients)
        if watchers:
            go_watched(run, _run_hooks)
        else:
            run.go()
    finally:
        mode.grad = before
        autocasting.dtype = precision


def _start(op: str, run: _Run, outputs: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
    for out, gradient in zip(outputs, gradients):
        if out.node is None:
            raise GradientError(
                f"{op}: the output of shape {out.shape} does not require grad: nothing that it was computed from does, "
                "or it was computed under no_grad()."
            )
        run.send(out.node, _seed(op, out, gradient))


def _seed(op: str, out: Tensor, gradient: Tensor | None) -> Tensor:
    if gradient is None:
        if out.array.size != 1:
            hint = "reduce the output to a scalar, or pass the gradient to start from"
            raise ShapeError(
                f"{op}: 'gradient' is needed for an output of more than one element. Got shape {out.shape}.\n"
                f"Hint: {hint}."
            )
        return Tensor(out.device.number(1, out.dtype), out.dtype, out.device) if not out.shape else _ones_like(out)
    if gradient.shape != out.shape:
        raise ShapeError(expected(op, "gradient", f"the output's shape {out.shape}", gradient.shape))
    if gradient.dtype is not out.dtype:
        raise ShapeError(expected(op, "gradient", f"the output's dtype {out.dtype.name}", gradient.dtype.name))
    return gradient


def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Tensor | Sequence[Tensor | None] | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    allow_unused: bool = False,
) -> tuple[Tensor | None, ...]:
    """Return the gradients of ``outputs`` with respect to ``inputs``; no ``.grad`` is touched.

    Parameters
    ----------
    outputs, inputs : Tensor or sequence of Tensor
    grad_outputs : Tensor or sequence, optional
        The gradients to start from, of the outputs' shapes; ones for scalars.
    retain_graph : bool, optional
        Keep the saved tensors for another pass; default: ``create_graph``.
    create_graph : bool
        Record the pass itself, so that the result can be differentiated.
    allow_unused : bool
        Return None for an input that the outputs do not depend on, instead of raising.

    Returns
    -------
    tuple of Tensor

    Raises
    ------
    GradientError
        If an output or an input does not require grad, or an input is unused.
    """
    outs = (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)
    ins = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    if grad_outputs is None:
        starts: tuple[Tensor | None, ...] = (None,) * len(outs)
    else:
        starts = (grad_outputs,) if isinstance(grad_outputs, Tensor) else tuple(grad_outputs)
    if len(starts) != len(outs):
        raise GradientError(expected("grad", "grad_outputs", f"one entry an output, {len(outs)}", len(starts)))
    for i, tensor in enumerate(ins):
        if tensor.node is None:
            raise GradientError(f"grad: 'inputs' must require grad. Got one at position {i} that does not.")
    targets = {t.node for t in ins if t.node is not None}
    needed = _needed([t.node for t in outs if t.node is not None], targets)
    run = _Run(create_graph if retain_graph is None else retain_graph, targets, needed)
    _go("grad", run, outs, starts, create_graph)
    found = tuple(run.found.get(t.node) for t in ins)  # type: ignore[arg-type]  # checked above
    if not allow_unused and None in [None if f is None else 0 for f in found]:
        raise GradientError(
            f"grad: the outputs do not depend on the input at position {[f is None for f in found].index(True)}.\n"
            "Hint: pass allow_unused=True to get None for it."
        )
    return found


def _needed(roots: list[Node], targets: set[Node]) -> set[Node]:
    """The nodes on a path from a root to a target."""
    seen: set[Node] = set()
    stack = list(roots)
    while stack:
        node = stack.pop()
        if node not in seen:
            seen.add(node)
            stack.extend(n for n in node.inputs if n is not None)
    needed: set[Node] = set()
    for node in sorted(seen, key=_position):
        if node in targets or not needed.isdisjoint(node.inputs):
            needed.add(node)
    return needed
