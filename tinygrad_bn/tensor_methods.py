"""Operators and methods of Tensor: the ops themselves, attached. Imported once, by the package."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tinygrad_bn import ops
from tinygrad_bn.core import backward as engine
from tinygrad_bn.core import dtype as dtypes
from tinygrad_bn.core import tape
from tinygrad_bn.core.launch import reads_values
from tinygrad_bn.core.printing import describe
from tinygrad_bn.core.tensor import Array, Tensor
from tinygrad_bn.errors import (
    ArgumentError,
    DeviceError,
    DTypeError,
    GradientError,
    ShapeError,
    expected,
    nearest,
    wrong,
)
from tinygrad_bn.ops import inplace, sharing
from tinygrad_bn.ops.copying import deepcopy_, rebuild, reduce_

# --------------------------------------------------------------------------------------------------------- operators

OPERATORS: dict[str, Callable[..., Any]] = {
    "__add__": ops.add,
    "__radd__": lambda self, other: ops.add(other, self),
    "__sub__": ops.sub,
    "__rsub__": lambda self, other: ops.sub(other, self),
    "__mul__": ops.mul,
    "__rmul__": lambda self, other: ops.mul(other, self),
    "__truediv__": ops.div,
    "__rtruediv__": lambda self, other: ops.div(other, self),
    "__pow__": ops.pow,
    "__rpow__": lambda self, other: ops.pow(other, self),
    "__matmul__": ops.matmul,
    "__rmatmul__": lambda self, other: ops.matmul(other, self),
    "__neg__": ops.neg,
    "__abs__": ops.abs,
    "__eq__": ops.eq,
    "__ne__": ops.ne,
    "__lt__": ops.lt,
    "__le__": ops.le,
    "__gt__": ops.gt,
    "__ge__": ops.ge,
    "__and__": ops.logical_and,
    "__or__": ops.logical_or,
    "__invert__": ops.logical_not,
    "__iadd__": inplace.add_,
    "__isub__": inplace.sub_,
    "__imul__": inplace.mul_,
    "__itruediv__": inplace.div_,
    "__getitem__": ops.getitem,
    "__setitem__": inplace.setitem,
}

METHODS = (
    "abs add argmax argmin chunk clamp clone contiguous div eq erf exp expand expm1 flatten flip gather ge getitem gt "
    "index_select le log log1p log_softmax logical_and logical_not logical_or logsumexp lt matmul max maximum mean "
    "min minimum mul narrow ne neg permute pow prelu relu reshape roll scatter scatter_add sigmoid sign softmax split "
    "sqrt squeeze std sub sum take_along_dim tanh to transpose unbind unflatten unsqueeze var"
)
IN_PLACE = (
    "add_ sub_ mul_ div_ pow_ neg_ exp_ sqrt_ tanh_ sigmoid_ relu_ clamp_ copy_ fill_ zero_ detach detach_ "
    "requires_grad_ scatter_ scatter_add_"
)


# ----------------------------------------------------------------------------------------------------------- methods


def backward(
    self: Tensor, gradient: Tensor | None = None, retain_graph: bool | None = None, create_graph: bool = False
) -> None:
    """Accumulate the gradients of this tensor into the ``grad`` of the leaves it was computed from.

    Parameters
    ----------
    gradient : Tensor, optional
        The gradient to start from, of this tensor's shape; needed if it has more than one element.
    retain_graph : bool, optional
        Keep the saved tensors for another pass; default: ``create_graph``.
    create_graph : bool
        Record the pass itself.

    Raises
    ------
    GradientError, GraphFreedError, SavedTensorError, ShapeError
    """
    engine.backward((self,), (gradient,), retain_graph, create_graph)


def register_hook(self: Tensor, hook: Callable[[Tensor], Tensor | None]) -> HookHandle:
    """Call ``hook(gradient)`` when this tensor's gradient is complete; what it returns replaces the gradient."""
    if self.node is None:
        raise GradientError("register_hook: the tensor does not require grad.")
    if self.node.hooks is None:
        self.node.hooks = []
    return HookHandle(self.node.hooks, hook)


class HookHandle:
    """A hook that is registered; removes it again."""

    def __init__(self, hooks: list[Any], hook: Any) -> None:
        self._hooks = hooks
        self.hook = hook
        hooks.append(self)

    def __call__(self, gradient: Tensor) -> Tensor | None:
        found: Tensor | None = self.hook(gradient)
        return found

    def remove(self) -> None:
        """Take the hook away; doing it twice does no harm."""
        if self in self._hooks:
            self._hooks.remove(self)


def retain_grad(self: Tensor) -> None:
    """Keep the gradient of a tensor that is no leaf in its ``grad``."""
    known = [] if self.node is None or self.node.hooks is None else self.node.hooks
    if not self.is_leaf and not any(isinstance(h, HookHandle) and isinstance(h.hook, _Keep) for h in known):
        register_hook(self, _Keep(self))


class _Keep:
    """A hook that adds to the ``grad`` of a tensor; the tensor's node, which has the hook, must not keep the tensor."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = weakref.ref(tensor)

    def __call__(self, gradient: Tensor) -> None:
        tensor = self.tensor()
        if tensor is not None:
            tensor._grad = ops.clone(gradient) if tensor._grad is None else ops.add(tensor._grad, gradient)


def numpy(self: Tensor) -> Array:
    """Return the elements as an array that shares this tensor's memory.

    Raises
    ------
    GradientError
        If the tensor requires grad: use ``x.detach().numpy()``.
    DTypeError
        If it is of bfloat16, which NumPy lacks: use ``x.float().numpy()``.
    """
    if self.node is not None:
        raise GradientError("numpy: the tensor requires grad.\nHint: use x.detach().numpy().")
    if self.device.type == "cuda":
        raise DeviceError("numpy: the tensor is on the GPU.\nHint: use x.cpu().numpy().")
    if self.dtype is dtypes.bfloat16:
        raise DTypeError("numpy: NumPy has no bfloat16.\nHint: use x.float().numpy().")
    reads_values("numpy")
    return self.array


def __array__(self: Tensor, dtype: Any = None, copy: bool | None = None) -> Array:
    return np.array(numpy(self), dtype=dtype, copy=copy)


def item(self: Tensor) -> bool | int | float:
    """Return the one element as a Python number."""
    if self.array.size != 1:
        raise ShapeError(expected("item", "input", "one element", f"shape {self.shape}"))
    reads_values("item")
    value: bool | int | float = _values(self).item()
    return value


def tolist(self: Tensor) -> Any:
    """Return the elements as nested lists of Python numbers."""
    reads_values("tolist")
    return _values(self).tolist()


def size(self: Tensor, dim: int | None = None) -> Any:
    """Return the shape, or the extent of one axis."""
    return self.array.shape if dim is None else self.array.shape[ops.check_axis("size", dim, self.ndim)]


def view(self: Tensor, *shape: Any) -> Tensor:
    """Return the elements in another shape, as ``reshape``."""
    return ops.reshape(self, *shape)


def type_as(self: Tensor, other: Tensor) -> Tensor:
    """Return the tensor in another's dtype."""
    return ops.to(self, other.dtype)


def __bool__(self: Tensor) -> bool:
    if self.array.size != 1:
        raise ArgumentError(
            f"bool: a tensor of shape {self.shape} has no single truth value.\nHint: reduce it, with .any() or .all()."
        )
    reads_values("bool")
    return bool(_values(self).item())


def __iter__(self: Tensor) -> Iterator[Tensor]:
    if not self.array.ndim:
        raise ShapeError("iteration: a tensor without axes cannot be iterated over.")
    return (ops.getitem(self, i) for i in range(self.array.shape[0]))


def __len__(self: Tensor) -> int:
    if not self.array.ndim:
        raise ShapeError("len: a tensor without axes has no length.")
    return int(self.array.shape[0])


def _values(self: Tensor) -> Array:
    """The elements on the host, as NumPy computes with them."""
    return dtypes.numbers(self.device.to_host(self.array), self.dtype)


def __contains__(self: Tensor, value: object) -> bool:
    reads_values("in")
    other = _values(value) if isinstance(value, Tensor) else value
    return bool((_values(self) == other).any())


def __index__(self: Tensor) -> int:
    if self.dtype.is_floating_point:
        raise TypeError(wrong("index", "input", "an integer tensor", self.dtype.name))
    return int(item(self))


def _all(self: Tensor) -> Tensor:
    """Return whether every element is not 0."""
    return ops.eq(ops.sum(ops.eq(self, 0)), 0)


def _any(self: Tensor) -> Tensor:
    """Return whether some element is not 0."""
    return ops.ne(ops.sum(ops.ne(self, 0)), 0)


_rebuild = rebuild  # the name in pickles of earlier versions


def missing(self: Tensor, name: str) -> Any:
    raise AttributeError(nearest("Tensor", name, dir(type(self))))


def _property(function: Callable[[Tensor], Any], doc: str) -> property:
    return property(function, doc=doc)


def _set_data(self: Tensor, value: Tensor) -> None:
    if value.shape != self.shape or value.dtype is not self.dtype:
        want = f"shape {self.shape} and dtype {self.dtype.name}"
        raise ShapeError(expected("data", "value", want, f"{value.shape}, {value.dtype.name}"))
    with tape.no_grad():
        inplace.copy_(self, value)


def _transposed(self: Tensor) -> Tensor:
    return ops.permute(self, *reversed(range(self.ndim)))


PROPERTIES = {
    "data": property(lambda self: self.alias(), _set_data, doc="The tensor off the tape; assigning copies into it."),
    "T": _property(_transposed, "A view with the axes reversed."),
    "mT": _property(lambda self: ops.transpose(self, -2, -1), "A view with the last two axes exchanged."),
    **sharing.PROPERTIES,
    "itemsize": _property(lambda self: self.dtype.itemsize, "Bytes of one element."),
    "nbytes": _property(lambda self: self.array.nbytes, "Bytes of all elements."),
}

OTHERS: dict[str, Callable[..., Any]] = {
    "backward": backward,
    "register_hook": register_hook,
    "retain_grad": retain_grad,
    "numpy": numpy,
    "item": item,
    "tolist": tolist,
    "size": size,
    "dim": lambda self: self.array.ndim,
    "numel": lambda self: self.array.size,
    "element_size": lambda self: self.dtype.itemsize,
    "is_contiguous": lambda self: bool(self.array.flags.c_contiguous),
    "is_floating_point": lambda self: self.dtype.is_floating_point,
    "view": view,
    "view_as": lambda self, other: ops.reshape(self, other.shape),
    "reshape_as": lambda self, other: ops.reshape(self, other.shape),
    "expand_as": lambda self, other: ops.expand(self, other.shape),
    "t": _transposed,
    "all": _all,
    "any": _any,
    "type_as": type_as,
    "float": lambda self: ops.to(self, dtypes.float32),
    "half": lambda self: ops.to(self, dtypes.float16),
    "bfloat16": lambda self: ops.to(self, dtypes.bfloat16),
    "double": lambda self: ops.to(self, dtypes.float64),
    "long": lambda self: ops.to(self, dtypes.int64),
    "int": lambda self: ops.to(self, dtypes.int32),
    "bool": lambda self: ops.to(self, dtypes.bool_),
    "cpu": lambda self: ops.to(self, device="cpu"),
    "__array__": __array__,
    "__array_priority__": 1000,  # type: ignore[dict-item]  # numpy_array + tensor asks the tensor
    "__bool__": __bool__,
    "__float__": lambda self: float(item(self)),
    "__int__": lambda self: int(item(self)),
    "__index__": __index__,
    "__iter__": __iter__,
    "__len__": __len__,
    "__contains__": __contains__,
    "__hash__": object.__hash__,
    "__repr__": describe,
    "__format__": lambda self, how: format(item(self), how) if how else describe(self),
    "__reduce__": reduce_,
    "__deepcopy__": deepcopy_,
    **sharing.METHODS,
}
if sys.version_info >= (3, 12):  # before, __getattr__ makes each look at any attribute six times as dear, 15 ns
    OTHERS["__getattr__"] = missing  # and a traceback names the nearest one by itself


def attach() -> None:
    """Give Tensor its operators, methods and properties."""
    for name, function in (OPERATORS | OTHERS | PROPERTIES).items():
        setattr(Tensor, name, function)
    for name in METHODS.split():
        setattr(Tensor, name, getattr(ops, name))
    for name in IN_PLACE.split():
        setattr(Tensor, name, getattr(inplace, name))


attach()
