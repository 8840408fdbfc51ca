"""How functions run on low precision: their tensors widened to float32, their results rounded once; and ``autocast``.

Widening and rounding are conversions on the tape, so that each tensor's gradient has its dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import reduce
from typing import Any

from tinygrad_bn.core.dtype import DType, as_dtype, float32, float64, promote
from tinygrad_bn.core.launch import launch
from tinygrad_bn.core.mixed import Policy, autocasting, gate
from tinygrad_bn.core.tape import mode
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.ops._common import cast
from tinygrad_bn.ops._lowered import keep_low, save_output_low
from tinygrad_bn.ops._operands import convert

Function = Callable[..., Any]
_SIMPLE = {int, float, bool, str, type(None)}


def _run(policy: Policy, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a function by its policy."""
    if policy.autocast and autocasting.dtype is not None:
        return _autocast(policy, function, args, kwargs)
    for x in args:
        if isinstance(x, Tensor):
            if x.dtype.low:
                return _in_float32(policy, function, args, kwargs)
        elif x.__class__ not in _SIMPLE and _any_low(x):
            return _in_float32(policy, function, args, kwargs)
    for x in kwargs.values():
        if x.__class__ not in _SIMPLE and _any_low(x):
            return _in_float32(policy, function, args, kwargs)
    return function(*args, **kwargs)


def _any_low(value: Any) -> bool:
    return any(x.dtype.low for x in _tensors(value))


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors among arguments, those in lists and tuples included."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item)


def _mapped(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """A value with its tensors replaced; what holds none is returned as it is."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, tuple | list):
        items = [_mapped(function, item) for item in value]
        if all(a is b for a, b in zip(items, value)):
            return value
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, dict):
        return {name: _mapped(function, item) for name, item in value.items()}
    return value


class _Widening:
    """The low-precision tensors of a call, and what was computed with in their place; not those of a shape."""

    def __init__(self, but: tuple[int, ...] | None = None) -> None:
        self.pairs: dict[int, tuple[Tensor, Tensor]] = {}
        self.but = but

    def __call__(self, x: Tensor) -> Tensor:
        if not x.dtype.low or x.array.shape == self.but:
            return x
        found = self.pairs.get(id(x))
        if found is None:
            found = self.pairs[id(x)] = (x, convert(x, float32))
        return found[1]

    def write_back(self) -> None:
        """Round what was changed in place, such as running statistics, into the tensors that it stands for."""
        for x, wide in self.pairs.values():
            if wide.version:
                launch(x.device.kernels.copy, cast(wide.alias(), x.dtype).array, x.array)
                x.bump()


def _in_float32(policy: Policy, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    result = _result(policy, args, kwargs)
    asked = kwargs.get("dtype")
    if asked is not None:
        result = as_dtype(asked, "dtype")
        args = (convert(args[0], result), *args[1:])
        kwargs = kwargs | {"dtype": None}
    direct = _direct(args, kwargs) if policy.direct else None
    widening = _Widening(direct)
    args, kwargs = _mapped(widening, args), _mapped(widening, kwargs)
    before = max((wide.node.sequence for _, wide in widening.pairs.values() if wide.node is not None), default=0)
    out = function(*args, **kwargs)
    widening.write_back()
    if before and mode.grad and direct is None:
        keep_low(_tensors(out), widening.pairs, before)
    if not result.low:
        return out
    given = {id(wide): x for x, wide in widening.pairs.values()}

    def rounded(y: Tensor) -> Tensor:
        if id(y) in given:
            return given[id(y)]
        if y.dtype is not float32:
            return y
        found = convert(y, result)
        save_output_low(y, found)
        return found

    return _mapped(rounded, out)


def _direct(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int, ...] | None:
    """The shape of a normalisation's input (N, C, …) if its kernels take it as it is, with what else has that shape: on
    the GPU, over the second axis, without a mask; None elsewhere."""
    x, *others = _tensors((args, kwargs))
    shape: tuple[int, ...] = x.array.shape
    if x.device.type != "cuda" or not x.dtype.low or len(shape) < 2:
        return None
    if kwargs.get("axis", 1) != 1 or kwargs.get("mask") is not None:
        return None
    fits = all(t.array.ndim == 1 or (t.array.shape == shape and t.dtype is x.dtype) for t in others)
    return shape if fits and not any(t.dtype is float64 for t in others) else None


def _result(policy: Policy, args: tuple[Any, ...], kwargs: dict[str, Any]) -> DType:
    """The dtype of a function's results: as ``_common.result_type`` promotes, of any number of tensors."""
    found = [x for x in _tensors((args, kwargs)) if x.dtype.is_floating_point]
    if policy.result == "first":
        return found[0].dtype
    whole = [x.dtype for x in found if x.array.ndim]
    return reduce(promote, whole or [x.dtype for x in found])


def _autocast(policy: Policy, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a function on tensors that ``autocast`` has converted; within it nothing is converted again."""
    wanted = autocasting.dtype if policy.autocast == "low" else float32
    device = autocasting.device

    def converted(x: Tensor) -> Tensor:
        low = x.dtype.low
        if x.device.type != device or not (low or x.dtype is float32):
            return x
        return _kept(x, wanted) if wanted is not x.dtype else x  # type: ignore[arg-type]  # _run has looked

    args, kwargs = _mapped(converted, args), _mapped(converted, kwargs)
    before, autocasting.dtype = autocasting.dtype, None
    try:
        return _run(policy, function, args, kwargs)
    finally:
        autocasting.dtype = before


def _kept(x: Tensor, dtype: DType) -> Tensor:
    """A converted tensor; that of a parameter is kept until ``autocast`` ends, or the parameter changes."""
    casts = autocasting.casts
    if casts is None or not dtype.low or x.node is None or not x.node.is_leaf or not mode.grad:
        return convert(x, dtype)
    found = casts.get(id(x))
    if found is None or found[0] is not x or found[1] != x.version or found[2].dtype is not dtype:
        found = casts[id(x)] = (x, x.version, convert(x, dtype))
    result: Tensor = found[2]
    return result


gate.run = _run
