"""Calling a module with other tensors in place of its parameters and buffers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import DTypeError, StateDictError, wrong
from tinygrad_bn.nn.module import Module
from tinygrad_bn.nn.tree import changes

Place = tuple[dict[str, Any], str, dict[str, Any]]  # a registry, the name in it, the module's attributes


def functional_call(
    module: Module,
    parameter_and_buffer_dicts: Mapping[str, Tensor] | Sequence[Mapping[str, Tensor]],
    args: Any = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    tie_weights: bool = True,
    strict: bool = False,
) -> Any:
    """Call a module with the tensors of a mapping in place of its parameters and buffers of those names.

    The module is as before afterwards; what it changes in place, such as running statistics, it changes in the tensors
    that it was given.

    Parameters
    ----------
    module : Module
    parameter_and_buffer_dicts : mapping of str to Tensor, or sequence of such
        By dotted name, as ``named_parameters()``, ``named_buffers()`` and ``state_dict()`` have them.
    args : tuple, or anything else as the one argument
    kwargs : mapping, optional
    tie_weights : bool
        Put a tensor under all names of what it replaces.
    strict : bool
        Demand that every parameter and buffer is given.

    Returns
    -------
    What the module returns.

    Raises
    ------
    StateDictError
        If a name is given twice or is unknown; under ``strict`` also if one is missing.
    DTypeError
        If what is given under a name is no Tensor.

    Notes
    -----
    The module is changed for the time of the call: two threads cannot call one module so at once.

    Examples
    --------
    >>> import tinygrad_bn as tb
    >>> layer = tb.nn.Linear(2, 1)
    >>> given = {"weight": tb.ones(1, 2), "bias": tb.zeros(1)}
    >>> tb.nn.utils.functional_call(layer, given, tb.tensor([[1.0, 2.0]])).item()
    3.0
    """
    given = _joined(parameter_and_buffer_dicts)
    arguments = () if args is None else args if isinstance(args, tuple) else (args,)
    with _replaced(module, given, tie_weights, strict):
        return module(*arguments, **dict(kwargs or {}))


def _joined(dicts: Mapping[str, Tensor] | Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    op, found = "functional_call", {}
    for mapping in [dicts] if isinstance(dicts, Mapping) else dicts:
        for name, tensor in mapping.items():
            if name in found:
                raise StateDictError(f"{op}: {name!r} is given twice.")
            if not isinstance(tensor, Tensor):
                raise DTypeError(wrong(op, name, "a Tensor", type(tensor).__name__))
            found[name] = tensor
    return found


def _places(module: Module) -> dict[str, Place]:
    """Where each parameter and buffer stands, by all of its names."""
    found: dict[str, Place] = {}
    for prefix, owner in module.named_modules(remove_duplicate=False):
        for registry in (owner._parameters, owner._buffers):
            for name, tensor in registry.items():
                if tensor is not None:
                    found[f"{prefix}.{name}" if prefix else name] = (registry, name, owner.__dict__)
    return found


@contextmanager
def _replaced(module: Module, given: Mapping[str, Tensor], tie_weights: bool, strict: bool) -> Iterator[None]:
    places = _places(module)
    _check(type(module).__name__, given, places, strict, tie_weights)
    before = [(place, place[0][place[1]]) for place in places.values()]
    wanted = {id(places[name][0][places[name][1]]): tensor for name, tensor in given.items()} if tie_weights else {}
    try:
        for name, (registry, key, own) in places.items():
            tensor = given.get(name, wanted.get(id(registry[key])))
            if tensor is not None:
                registry[key] = own[key] = tensor
        changes.note()
        yield
    finally:
        for (registry, key, own), tensor in before:
            registry[key] = own[key] = tensor
        changes.note()


def _check(kind: str, given: Mapping[str, Tensor], places: dict[str, Place], strict: bool, tie_weights: bool) -> None:
    unknown = [name for name in given if name not in places]
    tied = {id(places[name][0][places[name][1]]) for name in given if name in places} if tie_weights else set()
    missing = [n for n, (registry, key, _) in places.items() if n not in given and id(registry[key]) not in tied]
    if unknown or (strict and missing):
        parts = [f"unexpected: {', '.join(unknown)}"] if unknown else []
        parts += [f"missing: {', '.join(missing)}"] if strict and missing else []
        raise StateDictError(f"functional_call: names that do not fit {kind}: {'; '.join(parts)}.")
