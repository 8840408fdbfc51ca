"""Tensors pickled and deeply copied."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from tinygrad_bn.core import dtype as dtypes
from tinygrad_bn.core.launch import reads_values
from tinygrad_bn.core.tensor import Array, Tensor, is_plain, set_requires_grad, wrap
from tinygrad_bn.errors import GradientError
from tinygrad_bn.ops.movement import to


def rebuild(array: Array, dtype: str, device: str, requires_grad: bool, kind: type[Tensor]) -> Tensor:
    known = dtypes.as_dtype(dtype)
    if known is dtypes.bfloat16:
        out = Tensor(array, known)
        out.contiguous_array = is_plain(array)
    else:
        out = wrap(array)
    moved = to(out, device=device)
    if kind is not Tensor:
        return kind(moved, requires_grad)  # type: ignore[arg-type]  # Parameter's signature
    if requires_grad:
        set_requires_grad(moved, True)
    return moved


def reduce_(self: Tensor) -> tuple[Any, ...]:
    if not self.is_leaf:
        raise GradientError("pickle: only leaves can be pickled.\nHint: use detach().")
    reads_values("copying or pickling a tensor")
    array = np.array(self.device.to_host(self.array), copy=True)
    return (rebuild, (array, self.dtype.name, self.device.type, self.requires_grad, type(self)))


def deepcopy_(self: Tensor, memo: dict[int, Any]) -> Tensor:
    if id(self) in memo:
        found: Tensor = memo[id(self)]
        return found
    function, arguments = self.__reduce__()
    out: Tensor = function(*arguments)
    memo[id(self)] = out
    out._grad = copy.deepcopy(self._grad, memo)
    return out
