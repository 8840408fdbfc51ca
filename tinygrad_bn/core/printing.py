"""How tensors look when printed: as PyTorch prints them."""

from __future__ import annotations

import numpy as np

from tinygrad_bn.core import dtype as dtypes
from tinygrad_bn.core.launch import reads_values
from tinygrad_bn.core.tensor import Tensor


def describe(x: Tensor) -> str:
    """Return ``tensor([…], dtype=…, requires_grad=True)``."""
    reads_values("printing")
    with np.printoptions(precision=4, threshold=1000, edgeitems=3, linewidth=100, suppress=False):
        body = (
            np.array2string(dtypes.numbers(x.device.to_host(x.array), x.dtype), separator=", ", prefix="tensor(")
            if x.array.size
            else "[]"
        )
    notes = []
    if x.array.size == 0 and x.array.shape != (0,):
        notes.append(f"size={x.array.shape}")
    if x.dtype not in (dtypes.get_default_dtype(), dtypes.int64, dtypes.bool_):
        notes.append(f"dtype={x.dtype!r}")
    if x.device.type != "cpu":
        notes.append(f"device='{x.device}'")
    if x.node is not None:
        notes.append("requires_grad=True" if x.is_leaf else f"grad_fn=<{x.node.name()}>")
    return f"tensor({', '.join([body, *notes])})"
