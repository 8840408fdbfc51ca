"""One kernel launch for all parameters of a group.

The kernel reads a table (see ``core.table``): a row for each parameter that has a gradient, holding the parameter, its
gradient and its state. A table is kept from step to step; what is new in a step is one address a gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter, is_not, itemgetter
from typing import Any, ClassVar

import numpy as np

from tinygrad_bn import ops
from tinygrad_bn.core.dtype import float32, words
from tinygrad_bn.core.guard import unless
from tinygrad_bn.core.launch import launch, recorder
from tinygrad_bn.core.table import Table, address_of, dense, write_back
from tinygrad_bn.core.tape import Leaf, enable_grad
from tinygrad_bn.core.tensor import Array, Tensor
from tinygrad_bn.optim.optimizer import Group, Optimizer, Parameters, converted

_array = attrgetter("array")

GRADIENT = 1  # the column of the gradients; the parameters stand in column 0
MASTER = "master"  # of a parameter's state


class Batch:
    """The parameters of a group that share dtype and device, and their table."""

    __slots__ = ("hyper", "kernel", "loose", "params", "table")
    hyper: Array

    def __init__(self, kernel: str, params: list[Tensor], rows: list[tuple[Array, ...]]) -> None:
        first = params[0]
        self.params = params
        self.table = Table(rows, first.dtype, first.device)
        self.kernel = getattr(first.device.kernels, kernel)
        self.loose = not all(p.contiguous_array for p in params)

    def launch(self, found: Tensor | None) -> None:
        """Run the kernel; not where a loss scaler has found a gradient that is not finite."""
        table = self.table
        if found is None:
            launch(self.kernel, table.data, table.like, self.hyper)
        else:
            launch(unless(self.kernel), table.data, table.like, self.hyper, found.array)

    def run(self, found: Tensor | None) -> None:
        """Update the parameters by their gradients."""
        table, params = self.table, self.params
        copies: list[Array] = []  # kept while the kernel runs
        if table.by_address:
            addresses = []
            for p in params:
                leaf = p.node
                if isinstance(leaf, Leaf) and leaf.spare is p._grad and leaf.address:
                    addresses.append(leaf.address)
                else:
                    addresses.append(_gradient_address(p, copies))
            table.point(GRADIENT, addresses)
        else:
            table.replace(GRADIENT, [dense(p._grad) for p in params])  # type: ignore[arg-type]  # all have one
        if self.loose:
            table.replace(0, [dense(p) for p in params])
        self.launch(found)
        if self.loose:
            for p, array in zip(params, table.arrays[0], strict=True):
                write_back(p, array)
        for p in params:
            storage = p.storage
            if storage is None:
                p.bump()
            else:
                storage.version += 1


class LowBatch(Batch):
    """Parameters of low precision: what is updated are master copies in float32, of which they are the rounded values.

    A master copy starts from the parameter, and follows it where somebody else has changed it.
    """

    __slots__ = ("masters",)

    def __init__(self, kernel: str, params: list[Tensor], masters: list[Tensor], rows: list[tuple[Array, ...]]) -> None:
        super().__init__(kernel, masters, rows)
        self.params = params
        self.masters = masters

    def run(self, found: Tensor | None) -> None:
        """Update the parameters by their gradients."""
        kernels, table = self.params[0].device.kernels, self.table
        wide = [dense(ops.to(p._grad.alias(), float32)) for p in self.params]  # type: ignore[union-attr]  # all have one
        if table.by_address:
            table.point(GRADIENT, [address_of(array) for array in wide])
        else:
            table.replace(GRADIENT, wide)
        for p, master in zip(self.params, self.masters, strict=True):
            launch(kernels.follow, words(dense(p)).reshape(-1), p.dtype.kind, master.array.reshape(-1))
        self.launch(found)
        if not table.by_address:
            table.replace(GRADIENT, table.arrays[0])  # or the gradients would be kept
        for p, master in zip(self.params, self.masters, strict=True):
            array = p.array if p.contiguous_array else p.device.empty(p.array.shape, p.dtype)
            launch(kernels.narrow, master.array.reshape(-1), p.dtype.kind, words(array).reshape(-1))
            write_back(p, array)
            p.bump()


def _gradient_address(p: Tensor, copies: list[Array]) -> int:
    """Where a parameter's gradient begins, made C-contiguous where it is not."""
    leaf, gradient = p.node, p._grad
    array = dense(gradient)  # type: ignore[arg-type]  # only parameters with a gradient are in a table
    address = address_of(array)
    if isinstance(leaf, Leaf) and leaf.spare is gradient:
        leaf.address = address
    else:
        copies.append(array)
    return address


class Plan:
    """How a group is updated as long as nothing but numbers changes: no parameter, and no tensor of their state."""

    __slots__ = ("arrays", "batches", "hyper", "masters", "names", "numbers", "params", "state")

    def __init__(self, params: list[Tensor], names: tuple[str, ...], batches: list[Batch], hyper: Array) -> None:
        self.params = params
        self.arrays = [p.array for p in params]
        self.names = names
        self.batches = batches
        self.hyper = hyper
        for batch in batches:
            batch.hyper = batch.table.device.array(hyper)
        self.numbers: Sequence[float] = ()  # what ``hyper`` holds
        self.state: list[list[Tensor]] = []  # by name, then by parameter
        self.masters: list[tuple[Tensor, Tensor]] = []  # parameters of low precision and their master copies

    def tell(self, numbers: Sequence[float]) -> None:
        """Let the kernels read other numbers from now on."""
        self.hyper[:-1] = self.numbers = numbers
        for batch in self.batches:
            if batch.hyper is not self.hyper:
                batch.table.device.write(batch.hyper, self.hyper)

    def fits(self, params: list[Tensor], names: tuple[str, ...], state: dict[Tensor, dict[str, Any]]) -> bool:
        """Whether parameters and state are the very objects that the tables were made of."""
        if len(params) != len(self.params) or names != self.names:
            return False
        if any(map(is_not, params, self.params)) or any(map(is_not, map(_array, params), self.arrays)):
            return False
        return self.has_state(state)

    def has_state(self, state: dict[Tensor, dict[str, Any]]) -> bool:
        """Whether the parameters' state is of the very objects that the tables were made of."""
        try:
            for name, tensors in zip(self.names, self.state):
                own = map(state.__getitem__, self.params)
                if any(map(is_not, map(itemgetter(name), own), tensors)):
                    return False
            for p, master in self.masters:
                if state[p][MASTER] is not master:
                    return False
        except KeyError:  # a parameter without state, or without all of it
            return False
        return True


class FusedOptimizer(Optimizer):
    """An optimiser whose update is one kernel on a table.

    Parameters of float16 and bfloat16 have a master copy in float32, ``master`` of their state, and all other state in
    float32 too: updates too small for the parameter's last place add up there, and are not lost.

    Attributes
    ----------
    found_inf : Tensor, shape (1,), or None
        Where ``amp.GradScaler`` has it, a step changes nothing if it is not 0.

    A subclass states ``kernel``, which tensors of state a group's rows hold (``_columns``, ``_row``), and what the
    kernel reads of the group's options (``_hyper``).
    """

    kernel: ClassVar[str]

    def __init__(self, params: Parameters, defaults: Group) -> None:
        super().__init__(params, defaults)
        self._plans: dict[int, Plan] = {}
        self.found_inf: Tensor | None = None

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._plans = {}
        self.found_inf = None

    def _columns(self, group: Group) -> tuple[str, ...]:
        """Names of the state's tensors that the kernel needs with these options."""
        raise NotImplementedError  # abstract: see the class

    def _hyper(self, group: Group) -> Sequence[float]:
        """The numbers that the kernel reads, in its order."""
        raise NotImplementedError  # abstract: see the class

    def _row(self, p: Tensor, state: dict[str, Any], names: tuple[str, ...]) -> tuple[Array, ...]:
        """The row of a parameter; missing state is made."""
        raise NotImplementedError  # abstract: see the class

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all parameters that have a gradient, in one launch a group and dtype.

        Parameters
        ----------
        closure : callable, optional
            Computes the loss anew, with gradients; called first.

        Returns
        -------
        What ``closure`` returns, or None
        """
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        self.step_count += 1
        for i, group in enumerate(self.param_groups):
            params = [p for p in group["params"] if p._grad is not None]
            if not params:
                continue
            names = self._columns(group)
            plan = self._plans.get(i)
            if plan is None or not plan.fits(params, names, self.state):
                plan = self._plans[i] = self._plan(params, names, len(self._hyper(group)))
            numbers = self._hyper(group)
            if numbers != plan.numbers:
                plan.tell(numbers)
            for batch in plan.batches:
                batch.run(self.found_inf)
        told = recorder()
        if told is not None:
            told.stepped(self)
        return loss

    def _plan(self, params: list[Tensor], names: tuple[str, ...], numbers: int) -> Plan:
        kinds: dict[Any, list[Tensor]] = {}
        for p in params:
            kinds.setdefault((p.dtype.name, p.device.type), []).append(p)
        batches: list[Batch] = []
        masters: list[tuple[Tensor, Tensor]] = []
        for kind in kinds.values():
            own = [master_of(p, self.state[p]) for p in kind]
            rows = [self._row(m, self.state[p], names) for p, m in zip(kind, own, strict=True)]
            if kind[0].dtype.low:
                batches.append(LowBatch(self.kernel, kind, own, rows))
                masters += zip(kind, own, strict=True)
            else:
                batches.append(Batch(self.kernel, kind, rows))
        hyper = np.empty(numbers + 1)
        hyper[-1] = sum(p.array.size for p in params)
        plan = Plan(params, names, batches, hyper)
        plan.state = [[self.state[p][name] for p in params] for name in names]
        plan.masters = masters
        return plan


def master_of(p: Tensor, state: dict[str, Any]) -> Tensor:
    """Return what is updated in a parameter's place: a copy in float32, kept in its state; itself in other dtypes."""
    if not p.dtype.low:
        return p
    found: Tensor | None = state.get(MASTER)
    if found is None or found.dtype is not float32 or found.device is not p.device or not found.contiguous_array:
        found = state[MASTER] = converted(p if found is None else found, float32, p)
    return found


def state_array(p: Tensor, state: dict[str, Any], name: str, shape: tuple[int, ...]) -> Array:
    """Return a tensor of a parameter's state as an array of the parameter's dtype; zeros if there is none yet."""
    found = state.get(name)
    if found is None:
        found = state[name] = ops.zeros(shape, dtype=p.dtype, device=p.device)
    elif found.dtype is not p.dtype or found.device is not p.device or not found.contiguous_array:
        found = state[name] = converted(found, p.dtype, p)
    array: Array = found.array
    return array


def nothing(p: Tensor) -> Array:
    """Return an array without elements, for a column that these options leave out."""
    return np.empty(0, p.dtype.storage)
