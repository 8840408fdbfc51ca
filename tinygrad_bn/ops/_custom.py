"""Operations made of people's own kernels: calls, and their place on the tape. ``custom`` makes them."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

import numpy as np

from tinygrad_bn.core.device import Device
from tinygrad_bn.core.launch import launch
from tinygrad_bn.core.mixed import Policy, gate
from tinygrad_bn.core.tape import Gradients, MultiNode, Node, mode, nodes_of
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import ArgumentError, DeviceError, DTypeError, GradientError, expected, wrong
from tinygrad_bn.kernels.spec import Kernel
from tinygrad_bn.ops._common import is_tensor, new, plain, same_device
from tinygrad_bn.ops._declared import Number, Plan
from tinygrad_bn.ops._parts import Whole
from tinygrad_bn.ops._signature import Signature
from tinygrad_bn.ops.creation import zeros

_POLICY = Policy()
REGISTERED: dict[str, CustomOp] = {}
"""The operations that were registered, by name."""


class CustomBackward(Whole):
    """Gradients by the kernel, or the operation, that was registered as backward."""

    __slots__ = ()

    def name(self) -> str:
        """The operation's name, for messages."""
        return str(self.constants[1].name)

    def backward_all(self, *gradients: Tensor | None) -> Gradients:
        op: CustomOp = self.constants[1]
        return op.pull_back(self, gradients)


class NotTwice(MultiNode):
    """Stands behind gradients that a kernel without a derivative computed."""

    __slots__ = ()

    def backward_all(self, *gradients: Tensor | None) -> NoReturn:
        raise GradientError(
            f"{self.constants[1]}: its backward is a kernel, so its gradients have no derivative.\n"
            "Hint: register the backward as an operation with a backward of its own, and pass that as backward."
        )


class CustomOp:
    """An operation made of kernels: what ``register_op`` returns. It is called as a function of tensors and scalars.

    Attributes
    ----------
    name : str
    signature : Signature
        Its arguments, and what it keeps for backward.
    backward_op : CustomOp or None
        The operation that computes its gradients, where that is no kernel.
    """

    def __init__(self, signature: Signature, forward: Any, backward_op: CustomOp | None) -> None:
        self.name = self.__name__ = signature.name
        self.signature = signature
        self.backward_op = backward_op
        self._plans: dict[Any, Plan] = {}
        self.__doc__ = getattr(forward, "__doc__", None)
        self.__module__ = getattr(forward, "__module__", __name__)

    @property
    def order(self) -> int:
        """How often it can be differentiated: 0, 1, or 2 for more."""
        if not self.signature.has_backward:
            return 0
        return 2 if self.backward_op is not None and self.backward_op.order else 1

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the forward kernel; return its output, or a tuple of them."""
        return gate.run(_POLICY, self._call, args, kwargs) if gate.on else self._call(*args, **kwargs)

    def _call(self, *args: Any, **kwargs: Any) -> Any:
        s = self.signature
        tensors, numbers = self._bound(args, kwargs)
        self._check(tensors)
        device = tensors[0].device
        plan = self._plan(tensors, numbers)
        outs = {n: new(*plan[n], device) for n in s.outputs}
        values: dict[str, Any] = {n: plain(t) for n, t in zip(s.inputs, tensors, strict=True)} | numbers
        values |= {n: t.array for n, t in outs.items()}
        self._run(s.kernels, s.forward, values, plan, device)
        nodes = nodes_of(CustomBackward, *tensors)
        if nodes is not None:
            self._record(nodes, tensors, outs, (numbers, plan, device))
        return outs[s.returns[0]] if len(s.returns) == 1 else tuple([outs[n] for n in s.returns])

    def _run(
        self, kernels: dict[str, Kernel], names: tuple[str, ...], values: dict[str, Any], plan: Plan, device: Device
    ) -> None:
        kernel = kernels.get(device.type)
        if kernel is None:
            raise DeviceError(wrong(self.name, "input", f"on one of {', '.join(kernels)}", str(device)))
        launch(kernel, *[values[n] if n in values else device.empty(*plan[n]) for n in names])

    def _bound(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Tensor, ...], dict[str, Number]]:
        """The tensors and the numbers of a call."""
        inputs, scalars = self.signature.inputs, self.signature.scalars
        order = (*inputs, *scalars)
        if len(args) > len(order):
            raise ArgumentError(expected(self.name, "args", f"{len(order)} arguments at most", len(args)))
        given = dict(zip(order, args, strict=False))
        for key, value in kwargs.items():
            if key in given:
                raise ArgumentError(wrong(self.name, key, "given once", "it twice"))
            if key not in order:
                raise ArgumentError(wrong(self.name, key, f"one of {', '.join(order)}", "another name"))
            given[key] = value
        for n in order:
            if n not in given and scalars.get(n) is None:
                raise ArgumentError(wrong(self.name, n, "given", "nothing"))
        tensors = tuple([is_tensor(self.name, n, given[n]) for n in inputs])
        return tensors, {n: self._number(n, default, given.get(n, default)) for n, default in scalars.items()}

    def _number(self, name: str, default: Number | None, value: Any) -> Number:
        """A scalar, of its default's type."""
        if isinstance(value, np.generic):
            value = value.item()
        if not isinstance(value, bool | int | float):
            raise DTypeError(wrong(self.name, name, "a number", type(value).__name__))
        if default is None or type(value) is type(default):
            return value
        if isinstance(default, int) and isinstance(value, float) and not value.is_integer():
            raise DTypeError(wrong(self.name, name, "a whole number", value))
        return type(default)(value)

    def _check(self, tensors: tuple[Tensor, ...]) -> None:
        """Devices and dtypes; shapes are checked once each."""
        s = self.signature
        like, main = "", tensors[0]
        for n, t in zip(s.inputs, tensors, strict=True):
            same_device(self.name, tensors[0], n, t)
            required = s.required.get(n)
            if required is not None and required.dtype:
                want = required.dtype
                dtype = tensors[s.inputs.index(want)].dtype if isinstance(want, str) else want
                if t.dtype is not dtype:
                    raise DTypeError(expected(self.name, n, f"dtype {dtype.name}", t.dtype.name))
            elif n not in s.aside:
                if not t.dtype.is_floating_point:
                    hint = "convert it with .float() or .to(dtype)"
                    raise DTypeError(wrong(self.name, n, "a floating-point tensor", t.dtype.name, hint))
                like, main = (like, main) if like else (n, t)
                if t.dtype is not main.dtype:
                    raise DTypeError(expected(self.name, n, f"dtype {main.dtype.name}, as {like!r} has", t.dtype.name))

    def _plan(self, tensors: tuple[Tensor, ...], numbers: dict[str, Number]) -> Plan:
        """Shapes and dtypes of all arrays."""
        key = (*[(t.array.shape, t.dtype.name) for t in tensors], *[repr(v) for v in numbers.values()])
        found = self._plans.get(key)
        if found is None:
            if len(self._plans) > 1024:
                self._plans.clear()
            shapes, dtypes = [t.array.shape for t in tensors], [t.dtype for t in tensors]
            found = self._plans[key] = self.signature.plan(shapes, dtypes, numbers)
        return found

    def _record(
        self,
        nodes: tuple[Node | None, ...],
        tensors: tuple[Tensor, ...],
        outs: dict[str, Tensor],
        constants: tuple[dict[str, Number], Plan, Device],
    ) -> None:
        s = self.signature
        wanted = tuple([node if n in s.differentiable else None for n, node in zip(s.inputs, nodes, strict=True)])
        if wanted.count(None) == len(wanted):
            return
        given = dict(zip(s.inputs, tensors, strict=True))
        pulled = tuple([n for n in s.pulled if outs[n].dtype.is_floating_point])
        saved = {n: given[n] if n in given else (outs[n].alias() if n in pulled else outs[n]) for n in s.saved}
        node = CustomBackward(wanted, tuple(saved.values()), (len(outs), self, *constants))
        node.parts = {id(saved[n]): s.outputs.index(n) for n in pulled if n in saved}
        for n in pulled:
            outs[n].node = node.part(s.outputs.index(n))

    def pull_back(self, node: CustomBackward, arrived: Sequence[Tensor | None]) -> Gradients:
        """Return the gradient of each input, given those that arrived at the outputs."""
        s = self.signature
        if not s.has_backward:
            hint = "pass a kernel as backward to register_op, or call it under no_grad()"
            raise GradientError(f"{self.name}: no backward was registered.\nHint: {hint}.")
        numbers, plan, device = node.constants[2:]
        saved = dict(zip(s.saved, node.unpack(), strict=True))
        gradients = {
            s.gradient(n): zeros(plan[n][0], dtype=plan[n][1], device=device) if g is None else g
            for n, g in zip(s.outputs, arrived, strict=True)
            if n in s.pulled
        }
        if self.backward_op is not None:
            given = {n: node.joined(t) for n, t in saved.items()} | gradients
            return self._by_operation(self.backward_op, given, numbers)
        values: dict[str, Any] = {n: plain(t) for n, t in (saved | gradients).items()} | numbers
        results = {n: new(plan[n][0], plan[n][1], device) for n in s.differentiable}
        values |= {s.gradient(n): t.array for n, t in results.items()}
        self._run(s.backward_kernels, s.backward, values, plan, device)
        if mode.grad:
            behind = node.inputs + tuple(g.node for g in gradients.values())
            NotTwice(behind, (), (len(results), self.name)).attach(results.values())
        return [results.get(n) for n in s.inputs]

    def _by_operation(self, op: CustomOp, given: dict[str, Tensor], numbers: dict[str, Number]) -> Gradients:
        inner = op.signature
        found = op(*[given[n] for n in inner.inputs], *[numbers[n] for n in inner.scalars])
        results = dict(zip(inner.returns, found if isinstance(found, tuple) else (found,), strict=True))
        return [results.get(self.signature.gradient(n)) for n in self.signature.inputs]

    def __repr__(self) -> str:
        return f"<operation {self.name}({', '.join((*self.signature.inputs, *self.signature.scalars))})>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _registered, (self.name, self.__module__)

    def __deepcopy__(self, memo: dict[int, Any]) -> CustomOp:
        return self


def _registered(name: str, module: str) -> CustomOp:
    """The operation of that name, once its module has been imported: how it is unpickled."""
    if name not in REGISTERED:
        import_module(module)
    if name not in REGISTERED:
        raise ArgumentError(wrong("register_op", "name", "that of an operation registered here", repr(name)))
    return REGISTERED[name]
