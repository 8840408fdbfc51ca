"""State dicts: the parameters and persistent buffers of a module by dotted name, and the way back."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tinygrad_bn.core.tape import no_grad
from tinygrad_bn.core.tensor import Tensor, wrap
from tinygrad_bn.errors import DTypeError, StateDictError, wrong
from tinygrad_bn.ops import inplace

if TYPE_CHECKING:
    from tinygrad_bn.nn.module import Module


class IncompatibleKeys(NamedTuple):
    """The names that a state dict lacked, and those it had too many."""

    missing_keys: list[str]
    unexpected_keys: list[str]

    def __repr__(self) -> str:
        if not self.missing_keys and not self.unexpected_keys:
            return "<All keys matched successfully>"
        return f"IncompatibleKeys(missing_keys={self.missing_keys}, unexpected_keys={self.unexpected_keys})"


def new_dict() -> dict[str, Any]:
    """Return an empty state dict, which is to know the version of each module's part of it."""
    out: dict[str, Any] = OrderedDict()
    out._metadata = OrderedDict()  # type: ignore[attr-defined]  # where PyTorch keeps it, and looks for it
    return out


def note_versions(module: Module, prefix: str, out: Mapping[str, Any]) -> None:
    """Note the versions of a module and of all below it in a state dict that keeps them."""
    metadata = getattr(out, "_metadata", None)
    if metadata is not None:
        for at, below in _placed(module, prefix):
            metadata[at[:-1]] = {"version": below._version}


def _placed(module: Module, prefix: str = "") -> Iterator[tuple[str, Module]]:
    """Yield a module and all below it, each with what its own names begin with; shared ones under each name."""
    yield prefix, module
    for name, child in module._modules.items():
        if child is not None:
            yield from _placed(child, f"{prefix}{name}.")


def entries(module: Module, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield parameters and persistent buffers with their names, in PyTorch's order; shared ones under each name."""
    for name, tensor in module._parameters.items():
        if tensor is not None:
            yield prefix + name, tensor
    for name, buffer in module._buffers.items():
        if buffer is not None and name not in module._transient:
            yield prefix + name, buffer
    for name, child in module._modules.items():
        if child is not None:
            yield from entries(child, f"{prefix}{name}.")


def load(module: Module, given: Mapping[str, Any], strict: bool) -> IncompatibleKeys:
    """Copy values into a module once all of them are known to fit."""
    if not isinstance(given, Mapping):
        raise DTypeError(wrong("load_state_dict", "state_dict", "a mapping of names to tensors", type(given).__name__))
    own = dict(entries(module))
    grown = {at: shape for at, m in _placed(module) if (shape := m._extent_in(given, at)) is not None}
    excused = _excused(module, getattr(given, "_metadata", None) or {})
    missing = [name for name in own if name not in given and name not in excused]
    unexpected = [name for name in given if name not in own]
    problems: list[str] = []
    if strict:
        problems += [f"missing: {name}" for name in missing]
        problems += [f"unexpected: {name}" + _near(name, missing) for name in unexpected]
    shapes = {name: _shape(name, t, grown) for name, t in own.items()}
    values = {name: _fitting(name, given[name], shapes[name], problems) for name in own if name in given}
    if problems:
        text = "\n  ".join(problems)
        raise StateDictError(
            f"load_state_dict: 'state_dict' must fit {type(module).__name__}. Nothing was loaded. Got\n  {text}"
        )
    for at, m in _placed(module):
        if at in grown:
            m._take_extent(grown[at])
    with no_grad():
        for name, value in values.items():
            if value is not None:
                inplace.copy_(own[name], value)
    return IncompatibleKeys(missing, unexpected)


def _excused(module: Module, versions: Mapping[str, Any]) -> set[str]:
    """The names that a state dict of these versions may lack."""
    return {at + name for at, m in _placed(module) for name in m._may_lack(versions.get(at[:-1], {}).get("version"))}


def _shape(name: str, t: Tensor, grown: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    """The shape that a tensor has, or, where it has none yet, is to take with its module's others."""
    at = name[: name.rfind(".") + 1]
    return grown[at] if at in grown and t.array.ndim and not any(t.array.shape) else t.array.shape


def _near(name: str, missing: list[str]) -> str:
    import difflib

    found = difflib.get_close_matches(str(name), missing, 1, 0.6)
    return f" (did you mean {found[0]}?)" if found else ""


def _fitting(name: str, value: Any, shape: tuple[int, ...], problems: list[str]) -> Tensor | None:
    """Return a value as a tensor of a shape, or note why it is none."""
    try:
        tensor = value if isinstance(value, Tensor) else wrap(np.asarray(_local(value))) if _is_array(value) else None
    except (DTypeError, TypeError):  # TypeError: torch's, of a dtype that NumPy lacks
        tensor = None
    if tensor is None:
        kind = f"an array of {value.dtype}" if _is_array(value) else type(value).__name__
        problems.append(f"{name}: must be a Tensor or a NumPy array of numbers, not {kind}")
        return None
    if tensor.array.shape == (1,) and shape == ():
        tensor = tensor.alias(tensor.array.reshape(()))  # as PyTorch does, for old checkpoints
    if tensor.array.shape != shape:
        problems.append(f"{name}: must have shape {shape}, not {tensor.array.shape}")
        return None
    return tensor


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray | np.generic) or (hasattr(value, "__array__") and hasattr(value, "detach"))


def _local(value: Any) -> Any:
    """An array, or a tensor of another library off its tape and in the host's memory."""
    if isinstance(value, np.ndarray | np.generic):
        return value
    local = value.detach().cpu()
    return local.float() if str(value.dtype).endswith("bfloat16") else local  # which NumPy lacks


def clear_gradient(tensor: Tensor, set_to_none: bool) -> None:
    """Drop a tensor's gradient, or fill it with zeros off the tape."""
    gradient = tensor._grad
    if gradient is None:
        return
    if set_to_none:
        tensor._grad = None
        return
    gradient.node = None
    inplace.zero_(gradient)
