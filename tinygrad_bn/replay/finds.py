"""What a step finds and what it leaves behind, beside what its kernels write: gradients, versions, counts of steps."""

from __future__ import annotations

import gc
import weakref
from operator import attrgetter, is_not
from sys import getrefcount
from typing import Any, NamedTuple

from tinygrad_bn.core.tape import Leaf
from tinygrad_bn.core.tensor import Array, Storage, Tensor
from tinygrad_bn.optim.fused import Plan
from tinygrad_bn.replay.watch import Watch
from tinygrad_bn.replay.words import KNOWN, Words

_UNSHARED = (3, 3, 3)  # references to a gradient, its array and that one's memory, those of the question included
_grad = attrgetter("_grad")


class Gradients:
    """The parameters' gradients as the step leaves them: always in the same memory.

    Who still holds the gradient of an earlier step keeps its values: the tensor is given a copy before the memory is
    written again.

    Attributes
    ----------
    leaves, tensors : list of Tensor
        The parameters, and what ``grad`` of each becomes.
    arrays : list of ndarray
    """

    __slots__ = ("_bases", "_exposed", "_unshared", "_words", "arrays", "leaves", "tensors")

    def __init__(self, made: list[tuple[Tensor, Tensor]]) -> None:
        self.leaves = [leaf for leaf, _ in made]
        self.arrays = [gradient.array for _, gradient in made]
        self.tensors = [Tensor(gradient.array, gradient.dtype, gradient.device) for _, gradient in made]
        self._bases = [array.base for array in self.arrays]
        self._unshared = [count for count in _UNSHARED for _ in made]
        self._exposed = False
        self._words: Words | None = None

    def settle(self) -> None:
        """Make them the parameters', when nothing else holds what the step has left."""
        self.expose()
        if self.tensors and self.tensors[0].device.type == "ref":  # an optimiser's table holds arrays there
            self._unshared = self._counts()

    def quicken(self) -> None:
        """Let compiled code look at them from now on, while they are exposed."""
        if KNOWN:
            slots = [(leaf, "_grad", tensor) for leaf, tensor in zip(self.leaves, self.tensors)]
            counted = zip([*self.tensors, *self.arrays, *self._bases], [count - 1 for count in self._unshared])
            self._words = Words(slots, counted)

    def expose(self) -> None:
        """Make each its parameter's gradient."""
        if not self._exposed:
            for leaf, tensor in zip(self.leaves, self.tensors):
                leaf._grad = tensor

    def release(self) -> bool:
        """Let go of what others hold; return False where a NumPy view of the memory is among them."""
        if self._words is not None and self._words.same():
            self._exposed = True
            return True
        self._exposed = not any(map(is_not, map(_grad, self.leaves), self.tensors))
        if self._exposed and self._counts() == self._unshared:
            return True
        self._exposed = False
        before = [*map(id, self.tensors)]
        free = [self._release(i) for i in range(len(self.leaves))]
        if self._words is not None and before != [*map(id, self.tensors)]:
            self.quicken()
        return all(free)

    def _counts(self) -> list[int]:
        """References to each tensor, array and memory, while the tensors are exposed."""
        return [*map(getrefcount, self.tensors), *map(getrefcount, self.arrays), *map(getrefcount, self._bases)]

    def _shared(self, i: int) -> bool:
        away = self.leaves[i]._grad is not self.tensors[i]
        found = getrefcount(self.tensors[i]) + away, getrefcount(self.arrays[i]), getrefcount(self._bases[i])
        return found != tuple(self._unshared[i :: len(self.leaves)])

    def _release(self, i: int) -> bool:
        if not self._shared(i):
            return True
        kept, leaf = self.tensors[i], self.leaves[i]
        copy = kept.device.copied(self.arrays[i])
        for holder in gc.get_referrers(self.arrays[i]):
            if isinstance(holder, Tensor):
                holder.array = copy
        self.tensors[i] = Tensor(self.arrays[i], kept.dtype, kept.device)
        del holder, kept, leaf
        return not self._shared(i)


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
        """Return what has changed since, in words; "" where nothing has. (Arrays are looked at by the watch.)"""
        own = self.optimiser
        groups = own.param_groups
        if len(groups) != len(self.params):
            return f"{type(own).__name__} has other groups"
        for group, params in zip(groups, self.params):
            if len(group["params"]) != len(params) or any(map(is_not, group["params"], params)):
                return f"{type(own).__name__} has other parameters"
        for i, plan in self.plans.items():
            if own._columns(groups[i]) != plan.names or not plan.has_state(own.state):
                return f"{type(own).__name__} has another state"
        return ""

    def renew(self) -> None:
        """Put the options' numbers where the kernels read them."""
        own = self.optimiser
        own.step_count += 1
        for i, plan in self.plans.items():
            numbers = own._hyper(own.param_groups[i])
            if numbers != plan.numbers:
                plan.tell(numbers)


def changed(before: list[tuple[Tensor, int]], counts: list[int]) -> list[tuple[Storage, int]]:
    """The storages of those tensors that a step has changed in place, and how often; each storage once."""
    found = {id(t.storage): (t.storage, n) for (t, _), n in zip(before, counts) if t.storage is not None and n}
    return list(found.values())
