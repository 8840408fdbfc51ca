"""What an operation of people's own is declared to be, and whether its kernels fit that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tinygrad_bn.core.dtype import DType
from tinygrad_bn.errors import ArgumentError, ShapeError, expected, wrong
from tinygrad_bn.kernels.spec import Kernel, Spec
from tinygrad_bn.ops import _declared as declared
from tinygrad_bn.ops._declared import Layout, Number, Plan, Shape


class Signature:
    """Names and layouts of an operation's arguments, and its kernels.

    Attributes
    ----------
    inputs, outputs, returns : tuple of str
    scalars : dict
        Defaults by name, None where there is none.
    forward, backward : tuple of str
        The parameters of the kernels.
    kernels, backward_kernels : dict
        By type of device.
    operation : Signature or None
        That of the operation that stands for the backward kernel.
    saved : tuple of str
        The inputs and outputs that backward takes.
    differentiable : tuple of str
        The inputs that have a gradient.
    pulled : tuple of str
        The outputs whose gradients backward takes.
    """

    def __init__(
        self,
        name: str,
        inputs: dict[str, Any],
        outputs: dict[str, Any],
        scalars: dict[str, Any],
        workspace: dict[str, Any],
        returns: tuple[str, ...],
        aside: frozenset[str],
        prefix: str,
    ) -> None:
        self.name = name
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)
        self.scalars, self.returns = scalars, returns
        self.aside, self.prefix = aside, prefix
        self._check_names(workspace)
        first, arrays = self.inputs[0], (*inputs, *outputs)
        self.required = {
            n: declared.layout(name, "inputs", n, given, self.inputs, scalars, "")
            for n, given in inputs.items()
            if given is not None
        }
        self.written = {
            n: declared.layout(name, "outputs", n, given, arrays, scalars, first) for n, given in outputs.items()
        }
        self.scratch = {
            n: declared.layout(name, "workspace", n, given, arrays, scalars, first) for n, given in workspace.items()
        }

    def gradient(self, name: str) -> str:
        """The name of an array's gradient."""
        return self.prefix + name

    def _check_names(self, workspace: Mapping[str, Any]) -> None:
        groups = {"inputs": self.inputs, "scalars": self.scalars, "outputs": self.outputs, "workspace": workspace}
        gradients = [self.gradient(n) for n in (*self.inputs, *self.outputs)]
        seen: dict[str, str] = {}
        for group, names in {**groups, f"gradients, '{self.prefix}' and a name,": gradients}.items():
            for n in names:
                if n in seen:
                    hint = f"choose another prefix than {self.prefix!r} for gradients" if n in gradients else None
                    raise ArgumentError(wrong(self.name, n, f"one of {seen[n]} or {group}", "both", hint))
                seen[n] = group
        for group, given, known in (
            ("returns", self.returns, self.outputs),
            ("nondifferentiable", self.aside, (*self.inputs, *self.outputs)),
        ):
            for n in given:
                if n not in known:
                    raise ArgumentError(wrong(self.name, group, f"names out of {', '.join(known)}", repr(n)))
        if not self.inputs or not self.returns:
            missing = "returns" if self.inputs else "inputs"
            raise ArgumentError(expected(self.name, missing, "at least one name", "none"))

    def take_forward(self, forward: Any) -> None:
        """Take the forward kernel.

        Raises
        ------
        ArgumentError
            If its parameters are not those that were declared.
        """
        self.forward = declared.parameters(self.name, "forward", forward)
        needed = (*self.inputs, *self.scalars, *self.outputs)
        declared.match(self.name, "forward", self.forward, needed, (*needed, *self.scratch))
        scratch = tuple(n for n in self.scratch if n in self.forward)
        self.kernels = declared.kernels(self.name, forward, Spec(writes=self.outputs, workspace=scratch))

    def take_backward(self, backward: Any, operation: Signature | None) -> None:
        """Take the backward kernel, or the operation that stands for it.

        Raises
        ------
        ArgumentError
            If its parameters are not those that were declared, or a gradient is missing.
        """
        self.operation = operation
        self.backward: tuple[str, ...] = ()
        self.backward_kernels: dict[str, Kernel] = {}
        self.saved: tuple[str, ...] = ()
        self.differentiable: tuple[str, ...] = ()
        self.pulled: tuple[str, ...] = ()
        self.has_backward = backward is not None
        if backward is None:  # what is computed is on the tape all the same, so that backward can say so
            self.differentiable = tuple(n for n in self.inputs if n not in self.aside)
            self.pulled = tuple(n for n in self.returns if n not in self.aside)
            return
        if operation is not None:
            self.backward = (*operation.inputs, *operation.scalars, *operation.returns)
        else:
            self.backward = declared.parameters(self.name, "backward", backward)
        results = tuple(self.gradient(n) for n in self.inputs if n not in self.aside)
        arriving = tuple(self.gradient(n) for n in self.outputs if n not in self.aside)
        taken = (*arriving, *self.inputs, *self.outputs, *self.scalars)
        declared.match(self.name, "backward", self.backward, (), (*taken, *results, *self.scratch))
        self.saved = tuple(n for n in (*self.inputs, *self.outputs) if n in self.backward)
        self.differentiable = tuple(n for n in self.inputs if self.gradient(n) in self.backward)
        self.pulled = tuple(n for n in self.outputs if self.gradient(n) in self.backward)
        self._check_gradients()
        if operation is not None:
            self._check_operation(operation, (*arriving, *self.inputs, *self.outputs), results)
            return
        writes = tuple(self.gradient(n) for n in self.differentiable)
        scratch = tuple(n for n in self.scratch if n in self.backward)
        self.backward_kernels = declared.kernels(f"{self.name}_backward", backward, Spec(writes, (), scratch))

    def _check_gradients(self) -> None:
        """Nothing is left without a gradient by mistake."""
        for n in self.inputs:
            if n not in self.differentiable and n not in self.aside and not self._is_discrete(self.required.get(n)):
                hint = f"or list {n!r} in nondifferentiable"
                want = f"a parameter named {self.gradient(n)!r}, the gradient of input {n!r}"
                raise ArgumentError(expected(self.name, "backward", want, f"({', '.join(self.backward)})", hint))
        for n in self.returns:
            if n not in self.pulled and n not in self.aside and not self._is_discrete(self.written[n]):
                hint = f"or list {n!r} in nondifferentiable"
                want = f"a parameter named {self.gradient(n)!r}, the gradient that arrives at output {n!r}"
                raise ArgumentError(expected(self.name, "backward", want, f"({', '.join(self.backward)})", hint))

    @staticmethod
    def _is_discrete(layout: Layout | None) -> bool:
        return layout is not None and isinstance(layout.dtype, DType) and not layout.dtype.is_floating_point

    def _check_operation(self, other: Signature, taken: Sequence[str], results: Sequence[str]) -> None:
        for what, names, known in (
            ("inputs", other.inputs, taken),
            ("scalars", other.scalars, tuple(self.scalars)),
            ("results", other.returns, results),
        ):
            for n in names:
                if n not in known:
                    want = f"an operation with {what} out of {', '.join(known) or 'none'}"
                    raise ArgumentError(wrong(self.name, "backward", want, repr(n)))
        for n in other.differentiable:
            if n in self.outputs and n not in self.pulled:
                hint = f"let backward take {self.gradient(n)!r}, or compute {n!r} from the inputs again"
                want = f"differentiable in the saved output {n!r} only where that has a gradient itself"
                raise ArgumentError(wrong(self.name, "backward", want, "one whose second derivative is lost", hint))

    def plan(self, shapes: Sequence[Shape], dtypes: Sequence[DType], numbers: Mapping[str, Number]) -> Plan:
        """Return shapes and dtypes of all arrays, from those of the inputs, and the scalars.

        Raises
        ------
        ShapeError
            If an input does not have the shape that was declared.
        """
        known: dict[str, Any] = dict(zip(self.inputs, shapes, strict=True)) | dict(numbers)
        types = dict(zip(self.inputs, dtypes, strict=True))
        for n, layout in self.required.items():
            want = layout.extents(self.name, n, known)
            if known[n] != want:
                raise ShapeError(expected(self.name, n, f"shape {want}", known[n]))
        main = next((d for n, d in types.items() if n not in self.aside), dtypes[0])
        for n, layout in (self.written | self.scratch).items():
            known[n] = layout.extents(self.name, n, known)
            types[n] = layout.dtype if isinstance(layout.dtype, DType) else types.get(layout.dtype, main)
        return {n: (known[n], types[n]) for n in types}
