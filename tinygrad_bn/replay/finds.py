"""What a step finds and what it leaves behind, beside what its kernels write: gradients, versions, counts of steps."""

from __future__ import annotations

import gc
import weakref
from operator import is_not
from sys import getrefcount
from typing import Any, NamedTuple

from tinygrad_bn.core.tape import Leaf
from tinygrad_bn.core.tensor import Array, Storage, Tensor
from tinygrad_bn.optim.fused import Plan
from tinygrad_bn.replay.watch import Watch

_UNSHARED = (2, 3, 2)  # references to a gradient, its array and that one's memory, those of the question included


class Gradient:
    """A parameter's gradient as the step leaves it: always in the same memory.

    Who still holds the gradient of an earlier step keeps its values: the tensor is given a copy before the memory is
    written again.
    """

    __slots__ = ("array", "counts", "leaf", "tensor")

    def __init__(self, leaf: Tensor, gradient: Tensor) -> None:
        self.leaf = leaf
        self.array = gradient.array
        self.tensor = Tensor(gradient.array, gradient.dtype, gradient.device)
        self.counts = _UNSHARED

    def settle(self) -> None:
        """Make it the parameter's, when nothing else holds what the step has left."""
        self.expose()
        if self.tensor.device.type == "ref":  # an optimiser's table holds arrays there
            self.counts = self._counts()

    def _counts(self) -> tuple[int, int, int]:
        held = self.leaf._grad is self.tensor
        return getrefcount(self.tensor) - held, getrefcount(self.array), getrefcount(self.array.base)

    def released(self) -> bool:
        """Let go of what others hold; return False where a NumPy view of the memory is among them."""
        if self._counts() == self.counts:
            return True
        held = self.leaf._grad is self.tensor
        copy = self.array.copy()
        kept, dtype, device = self.tensor, self.tensor.dtype, self.tensor.device
        for holder in gc.get_referrers(self.array):
            if isinstance(holder, Tensor):
                holder.array = copy
        self.tensor = Tensor(self.array, dtype, device)
        if held:
            self.leaf._grad = kept  # whoever looks before the step is done sees what was there
        del holder, kept
        return self._counts() == self.counts

    def expose(self) -> None:
        """Make it the parameter's gradient."""
        self.leaf._grad = self.tensor


class Left(NamedTuple):
    """What a step has done so far, noted where it may break off.

    Attributes
    ----------
    sources, versions : list of int
        How often each argument and each tensor in sight has been changed in place.
    gradients : list of (bool, weakref.ref or None)
        Of each leaf: whether it has the gradient that it had ahead of the step, and else which it has.
    steps : int
        Of optimisers.
    """

    sources: list[int]
    versions: list[int]
    gradients: list[tuple[bool, Any]]
    steps: int


class Before:
    """What a step finds: the versions of all tensors in sight, the gradients of leaves.

    Attributes
    ----------
    sources : list of (Tensor, int)
        The arguments and their versions.
    versions : list of (Tensor, int)
        The tensors in sight and theirs.
    gradients : list of (Tensor, Tensor or None, int)
        Leaves, what they have and its version.
    holders : list of Tensor
        Those that have one: their gradients are sources too, behind the arguments.
    """

    def __init__(self, watch: Watch, sources: list[Tensor]) -> None:
        self.sources = [(s, s.version) for s in sources]
        self.versions = [(t, t.version) for t, *_ in watch.tensors.values()]
        self.gradients = [(p, p._grad, 0 if p._grad is None else p._grad.version) for p in watch.leaves()]
        self.holders = [leaf for leaf, gradient, _ in self.gradients if gradient is not None]

    def arrays(self) -> list[Array]:
        """What kernels may be given anew in each call."""
        gradients = [leaf._grad for leaf in self.holders]
        return [s.array for s, _ in self.sources] + [g.array for g in gradients if g is not None]

    def forget_spares(self) -> None:
        """Let the next gradients have memory of their own."""
        for leaf, *_ in self.gradients:
            node = leaf.node
            if isinstance(node, Leaf):
                node.spare, node.address = None, 0

    def left(self, steps: int) -> Left:
        """Return what has been done since."""
        now = [
            (leaf._grad is g, None if leaf._grad is None else weakref.ref(leaf._grad)) for leaf, g, _ in self.gradients
        ]
        return Left([s.version - v for s, v in self.sources], [t.version - v for t, v in self.versions], now, steps)

    def changed_in_place(self) -> list[tuple[Tensor, int]]:
        """Leaves whose gradient is the same tensor with other elements, and how often these have changed."""
        return [(p, g.version - v) for p, g, v in self.gradients if g is not None and p._grad is g and g.version > v]


class Update:
    """What an optimiser's step does on the host, and whether its kernels still fit it."""

    def __init__(self, optimiser: Any) -> None:
        self.optimiser = optimiser
        self.plans: dict[int, Plan] = dict(optimiser._plans)
        self.params = [list(group["params"]) for group in optimiser.param_groups]

    def change(self) -> str:
        """Return what has changed since, in words; "" where nothing has."""
        own = self.optimiser
        groups = own.param_groups
        if len(groups) != len(self.params):
            return f"{type(own).__name__} has other groups"
        for group, params in zip(groups, self.params):
            if len(group["params"]) != len(params) or any(map(is_not, group["params"], params)):
                return f"{type(own).__name__} has other parameters"
        for i, plan in self.plans.items():
            if not plan.fits(plan.params, own._columns(groups[i]), own.state):
                return f"{type(own).__name__} has another state"
        return ""

    def renew(self) -> None:
        """Put the options' numbers where the kernels read them."""
        own = self.optimiser
        own.step_count += 1
        for i, plan in self.plans.items():
            numbers = own._hyper(own.param_groups[i])
            if numbers != plan.numbers:
                plan.hyper[:-1] = plan.numbers = numbers


def changed(before: list[tuple[Tensor, int]], counts: list[int]) -> list[tuple[Storage, int]]:
    """The storages of those tensors that a step has changed in place, and how often; each storage once."""
    found = {id(t.storage): (t.storage, n) for (t, _), n in zip(before, counts) if t.storage is not None and n}
    return list(found.values())
