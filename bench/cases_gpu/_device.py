"""What the cases share: where tensors live, shapes for the simulator, bfloat16."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from bench.harness.case import Array
from bench.harness.contenders import device

__all__ = ["DTYPES", "TINY", "bfloat16", "placed"]

TINY = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"
DTYPES = ("float32", "bfloat16")


def bfloat16(x: Array) -> Array:
    """Return the nearest numbers of bfloat16, as float32; ties go to the even one."""
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)).view(np.float32)


def placed(module: Any, array: Array, dtype: str = "") -> Any:
    """Return a tensor of a framework's on the device; without a dtype, it keeps the array's."""
    tensor = module.from_numpy(array).to(device())
    return tensor.to(getattr(module, dtype)) if dtype and dtype != str(array.dtype) else tensor
