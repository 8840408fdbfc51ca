"""Changes of a tensor in place.

Each is the pure operation, its result copied into the tensor's memory, the version raised, and, where something is
tracked, the node moved to the new one. A leaf that requires grad, or a view of something tracked, cannot be changed
while recording: the tape would have to rewrite what it has recorded.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from tinygrad_bn.core.launch import launch
from tinygrad_bn.core.tape import mode, record
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import DTypeError, GradientError, ShapeError, expected
from tinygrad_bn.ops import activation, arithmetic, comparison, functions, gathering, indexing, movement, smooth
from tinygrad_bn.ops._common import Scalar, is_tensor
from tinygrad_bn.ops._operands import Operand


def _permit(op: str, x: Tensor, *others: object) -> None:
    """Raise if the tape cannot follow a change of ``x`` in place."""
    if not mode.grad:
        return
    if x.node is not None and x.node.is_leaf:
        raise GradientError(
            f"{op}: a leaf that requires grad cannot be changed in place while recording.\n"
            "Hint: change it under no_grad(), or work on a clone()."
        )
    if x.node is None and not any(isinstance(o, Tensor) and o.node is not None for o in others):
        return
    if x.view_version >= 0:
        raise GradientError(
            f"{op}: a view of shape {x.shape} of tracked memory cannot be changed in place while recording.\n"
            "Hint: index the whole tensor instead (x[index] = value), or work on a clone()."
        )
    if x.node is None and x.storage is not None and sys.getrefcount(x.storage) > 2:
        raise GradientError(
            f"{op}: a tracked value cannot be written into a tensor of which views exist: they would not be tracked.\n"
            "Hint: take the views afterwards."
        )


def _assign(op: str, x: Tensor, result: Tensor) -> Tensor:
    """Move a result into a tensor."""
    if result.array.shape != x.array.shape:
        raise ShapeError(expected(op, "other", f"a shape that broadcasts to {x.array.shape}", result.array.shape))
    if result.dtype is not x.dtype and result.dtype.is_floating_point and not x.dtype.is_floating_point:
        raise DTypeError(f"{op}: a result of dtype {result.dtype.name} cannot be written into {x.dtype.name}.")
    if result.dtype is not x.dtype and (x.dtype.low or result.dtype.low):
        result = movement.to(result, x.dtype)
    _keep_old_values(x, result)
    launch(x.device.kernels.copy, result.array, x.array)
    x.bump()
    if result.node is not None:
        x.node = result.node
    return x


def _keep_old_values(x: Tensor, result: Tensor) -> None:
    """Where the operation has saved the very tensor that it is about to overwrite, save a copy instead."""
    node = result.node
    while isinstance(node, movement.Cast) and node.inputs[0] is not None:  # of a result that was rounded
        node = node.inputs[0]
    if node is None or not node.saved or not any(s is x for s in node.saved):
        return
    old = movement.clone(x.alias())
    old.node = x.node
    versions = node.versions or [0] * len(node.saved)
    node.versions = [0 if s is x else v for s, v in zip(node.saved, versions)]
    node.saved = tuple([old if s is x else s for s in node.saved])


def _in_place(name: str, pure: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def change(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        _permit(name, self, *args)
        return _assign(name, self, pure(self, *args, **kwargs))

    change.__name__ = change.__qualname__ = name
    change.__doc__ = f"""Do ``{pure.__name__}`` in place; return the tensor itself."""
    return change


add_ = _in_place("add_", arithmetic.add)
sub_ = _in_place("sub_", arithmetic.sub)
mul_ = _in_place("mul_", arithmetic.mul)
div_ = _in_place("div_", arithmetic.div)
pow_ = _in_place("pow_", functions.pow)
neg_ = _in_place("neg_", arithmetic.neg)
exp_ = _in_place("exp_", functions.exp)
sqrt_ = _in_place("sqrt_", functions.sqrt)
tanh_ = _in_place("tanh_", functions.tanh)
sigmoid_ = _in_place("sigmoid_", functions.sigmoid)
relu_ = _in_place("relu_", functions.relu)
leaky_relu_ = _in_place("leaky_relu_", activation.leaky_relu)
hardtanh_ = _in_place("hardtanh_", activation.hardtanh)
elu_ = _in_place("elu_", activation.elu)
selu_ = _in_place("selu_", activation.selu)
celu_ = _in_place("celu_", activation.celu)
silu_ = _in_place("silu_", smooth.silu)
mish_ = _in_place("mish_", smooth.mish)
clamp_ = _in_place("clamp_", comparison.clamp)
scatter_ = _in_place("scatter_", gathering.scatter)
scatter_add_ = _in_place("scatter_add_", gathering.scatter_add)


def setitem(self: Tensor, index: Any, value: Operand) -> None:
    """Write a number or a tensor that broadcasts into the elements at an index."""
    v = indexing.assigned(self, value)
    _permit("indexing", self, v)
    items = indexing.index_items(index)
    indexing.write(self, items, v)
    self.bump()
    record(indexing.SetItem, self, (self, v), constants=(items, v.array.shape, v.dtype))


def copy_(self: Tensor, src: Tensor) -> Tensor:
    """Copy the elements of a tensor that broadcasts, converted to this one's dtype; return the tensor itself."""
    setitem(self, Ellipsis, movement.to(is_tensor("copy_", "src", src), device=self.device))
    return self


def fill_(self: Tensor, value: Scalar) -> Tensor:
    """Set every element to a number; return the tensor itself."""
    setitem(self, Ellipsis, value)
    return self


def zero_(self: Tensor) -> Tensor:
    """Set every element to 0; return the tensor itself."""
    return fill_(self, 0)


def detach(input: Tensor) -> Tensor:
    """Return a tensor off the tape that shares this one's memory."""
    return is_tensor("detach", "input", input).alias()


def detach_(self: Tensor) -> Tensor:
    """Take the tensor itself off the tape."""
    self.shared_storage()  # its node may have saved it: a change from now on must show there
    self.node = None
    return self


def requires_grad_(self: Tensor, requires_grad: bool = True) -> Tensor:
    """Start or stop recording on a leaf; return the tensor itself."""
    self.requires_grad = requires_grad
    return self
