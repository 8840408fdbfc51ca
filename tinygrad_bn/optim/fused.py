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
from tinygrad_bn.core.launch import launch, recorder
from tinygrad_bn.core.table import Table, address_of, dense, write_back
from tinygrad_bn.core.tape import Leaf, enable_grad
from tinygrad_bn.core.tensor import Array, Tensor
from tinygrad_bn.optim.optimizer import Group, Optimizer, Parameters, converted

_array = attrgetter("array")

GRADIENT = 1  # the column of the gradients; the parameters stand in column 0


class Batch:
    """The parameters of a group that share dtype and device, and their table."""

    __slots__ = ("kernel", "loose", "params", "table")

    def __init__(self, kernel: str, params: list[Tensor], rows: list[tuple[Array, ...]]) -> None:
        first = params[0]
        self.params = params
        self.table = Table(rows, first.dtype, first.device)
        self.kernel = getattr(first.device.kernels, kernel)
        self.loose = not all(p.contiguous_array for p in params)

    def run(self, hyper: Array) -> None:
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
        launch(self.kernel, table.data, table.like, hyper)
        if self.loose:
            for p, array in zip(params, table.arrays[0], strict=True):
                write_back(p, array)
        for p in params:
            storage = p.storage
            if storage is None:
                p.bump()
            else:
                storage.version += 1


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

    __slots__ = ("arrays", "batches", "hyper", "names", "numbers", "params", "state")

    def __init__(self, params: list[Tensor], names: tuple[str, ...], batches: list[Batch], hyper: Array) -> None:
        self.params = params
        self.arrays = [p.array for p in params]
        self.names = names
        self.batches = batches
        self.hyper = hyper
        self.numbers: Sequence[float] = ()  # what ``hyper`` holds
        self.state: list[list[Tensor]] = []  # by name, then by parameter

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
        except KeyError:  # a parameter without state, or without all of it
            return False
        return True


class FusedOptimizer(Optimizer):
    """An optimiser whose update is one kernel on a table.

    A subclass states ``kernel``, which tensors of state a group's rows hold (``_columns``, ``_row``), and what the
    kernel reads of the group's options (``_hyper``).
    """

    kernel: ClassVar[str]

    def __init__(self, params: Parameters, defaults: Group) -> None:
        super().__init__(params, defaults)
        self._plans: dict[int, Plan] = {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._plans = {}

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
                plan.hyper[:-1] = plan.numbers = numbers
            for batch in plan.batches:
                batch.run(plan.hyper)
        told = recorder()
        if told is not None:
            told.stepped(self)
        return loss

    def _plan(self, params: list[Tensor], names: tuple[str, ...], numbers: int) -> Plan:
        kinds: dict[Any, list[Tensor]] = {}
        for p in params:
            kinds.setdefault((p.dtype.name, p.device.type), []).append(p)
        batches = []
        for kind in kinds.values():
            rows = [self._row(p, self.state[p], names) for p in kind]
            batches.append(Batch(self.kernel, kind, rows))
        hyper = np.empty(numbers + 1)
        hyper[-1] = sum(p.array.size for p in params)
        plan = Plan(params, names, batches, hyper)
        plan.state = [[self.state[p][name] for p in params] for name in names]
        return plan


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
