"""The base of all optimisers: parameter groups, per-parameter state, state dicts in PyTorch's format."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from typing import Any

import numpy as np

from tinygrad_bn import ops
from tinygrad_bn.core.dtype import DType, float32
from tinygrad_bn.core.tensor import Tensor, wrap
from tinygrad_bn.errors import ArgumentError, DTypeError, StateDictError, expected, wrong
from tinygrad_bn.nn.state import clear_gradient

Group = dict[str, Any]
Parameters = Iterable[Tensor] | Iterable[Group]


class Optimizer:
    """Changes parameters by their gradients.

    Parameters
    ----------
    params : iterable of Tensor, or of dict
        Leaves; or groups, each a dict with ``params`` and the options that differ from the defaults.
    defaults : dict
        The options of a group that does not state them.

    Attributes
    ----------
    param_groups : list of dict
        Options may be changed here at any time.
    state : dict of Tensor to dict
        What is remembered of each parameter.

    Raises
    ------
    ArgumentError
        If there are no parameters, or one occurs twice or was computed by a recorded operation.
    DTypeError
        If a parameter is no Tensor.
    """

    def __init__(self, params: Parameters, defaults: Group) -> None:
        self.defaults = defaults
        self.state: dict[Tensor, dict[str, Any]] = defaultdict(dict)
        self.param_groups: list[Group] = []
        self.step_count = 0
        given = self._listed(params)
        if not given:
            raise ArgumentError(expected(self._name, "params", "at least one parameter", "an empty list"))
        for group in given if isinstance(given[0], Mapping) else [{"params": given}]:
            self.add_param_group(group)

    @property
    def _name(self) -> str:
        return type(self).__name__

    def _listed(self, params: Any) -> list[Any]:
        if isinstance(params, Tensor | str | Mapping | set) or not isinstance(params, Iterable):
            raise DTypeError(wrong(self._name, "params", "a list of Tensors or of dicts", type(params).__name__))
        return list(params)

    def add_param_group(self, param_group: Group) -> None:
        """Add a group of parameters with options of its own.

        Parameters
        ----------
        param_group : dict
            With ``params``; options that it does not state are the defaults.
        """
        if not isinstance(param_group, Mapping) or "params" not in param_group:
            raise DTypeError(wrong(self._name, "param_group", "a dict with 'params'", repr(param_group)))
        group = self.defaults | dict(param_group)
        params = group["params"]
        group["params"] = [params] if isinstance(params, Tensor) else self._listed(params)
        known = {id(p) for other in self.param_groups for p in other["params"]}
        for p in group["params"]:
            self._check_parameter(p, known)
            known.add(id(p))
        self.check_options(group)
        self.param_groups.append({"params": group.pop("params"), **group})

    def _check_parameter(self, p: object, known: set[int]) -> None:
        if not isinstance(p, Tensor):
            raise DTypeError(wrong(self._name, "params", "Tensors", type(p).__name__))
        if not p.is_leaf:
            hint = "pass the leaf itself, or detach()"
            raise ArgumentError(wrong(self._name, "params", "leaves", f"the output of {p.grad_fn}", hint))
        if not p.dtype.is_floating_point:
            raise DTypeError(wrong(self._name, "params", "floating-point tensors", p.dtype.name))
        if id(p) in known:
            raise ArgumentError(wrong(self._name, "params", "free of repetition", f"one of shape {p.shape} twice"))

    def check_options(self, group: Group) -> None:
        """Raise ArgumentError for options that make no sense; each optimiser states its own."""

    def check_least(self, group: Group, *names: str) -> None:
        """Raise unless the named options are numbers of at least 0."""
        for name in names:
            if not float(group[name]) >= 0.0:
                raise ArgumentError(wrong(self._name, name, "at least 0", group[name]))

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients of all parameters: to None, or to zeros in place."""
        for group in self.param_groups:
            for p in group["params"]:
                if set_to_none:
                    p._grad = None
                else:
                    clear_gradient(p, False)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Change the parameters once; return what ``closure``, which computes the loss anew, returns."""
        raise NotImplementedError  # abstract: each optimiser states its update

    def state_dict(self) -> dict[str, Any]:
        """Return the state by number of the parameter, and the groups with numbers in place of parameters."""
        number = {id(p): i for i, p in enumerate(p for group in self.param_groups for p in group["params"])}
        groups = [group | {"params": [number[id(p)] for p in group["params"]]} for group in self.param_groups]
        for group in groups:
            group["params"] = group.pop("params")  # last, as in PyTorch
        state = {number[id(p)]: dict(values) for p, values in self.state.items() if values and id(p) in number}
        return {"state": dict(sorted(state.items())), "param_groups": groups}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from a state that ``state_dict`` returned, converted to each parameter's dtype and device.

        For parameters of low precision it is converted to float32.

        Raises
        ------
        StateDictError
            If groups, their sizes or the shapes of the state do not fit; nothing is loaded then.
        """
        saved = self._fitting_groups(state_dict)
        numbers = [i for group in saved for i in group["params"]]
        params = [p for group in self.param_groups for p in group["params"]]
        state: dict[Tensor, dict[str, Any]] = defaultdict(dict)
        for i, p in zip(numbers, params, strict=True):
            values = state_dict["state"].get(i)
            if values is not None:
                state[p] = {name: self._fitting(i, name, value, p) for name, value in values.items()}
        for own, group in zip(self.param_groups, saved, strict=True):
            own.update({name: deepcopy(value) for name, value in group.items() if name != "params"})
        self.state = state

    def _fitting_groups(self, state_dict: Any) -> list[Group]:
        if not isinstance(state_dict, Mapping) or not {"state", "param_groups"} <= set(state_dict):
            got = f"a {type(state_dict).__name__} without them"
            raise StateDictError(expected(self._name, "state_dict", "keys 'state' and 'param_groups'", got))
        saved = list(state_dict["param_groups"])
        own = [len(group["params"]) for group in self.param_groups]
        sizes = [len(group["params"]) for group in saved]
        if own != sizes:
            raise StateDictError(expected(self._name, "state_dict", f"groups of {own} parameters", sizes))
        return saved

    def _fitting(self, number: int, name: str, value: Any, p: Tensor) -> Any:
        """A loaded value, copied; tensors in the parameter's dtype and on its device."""
        if isinstance(value, np.ndarray | np.generic):
            value = wrap(np.array(value))
        if not isinstance(value, Tensor):
            if name == "step" and isinstance(value, int | float):
                return ops.full((), value, dtype=float32 if p.dtype.low else p.dtype, device=p.device)
            return deepcopy(value)
        if value.array.shape not in (p.array.shape, (), (1,)):
            want = f"shape {p.array.shape} in '{name}' of parameter {number}"
            raise StateDictError(expected(self._name, "state_dict", want, value.array.shape))
        return converted(value, float32 if p.dtype.low else p.dtype, p)

    def __getstate__(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in ("defaults", "state", "param_groups", "step_count")}

    def __repr__(self) -> str:
        lines = [f"{self._name} ("]
        for i, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {i}")
            lines += [f"    {name}: {group[name]}" for name in sorted(group) if name != "params"]
        return "\n".join([*lines, ")"])


def converted(value: Tensor, dtype: DType, like: Tensor) -> Tensor:
    """Return a contiguous copy, off the tape, in a dtype and on a parameter's device."""
    wanted = dtype if value.dtype.is_floating_point else None
    return ops.contiguous(ops.to(value.alias(), dtype=wanted, device=like.device, copy=True))
