"""A count that kernels add to, wherever the tensors are that they work on."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_bn.core.device import Device, cpu
from tinygrad_bn.core.launch import reads_values


class Tally:
    """An int64 number on a device; it moves to the device of whoever counts on it.

    Attributes
    ----------
    array : array without axes, int64
        What kernels get.
    device : Device
    """

    __slots__ = ("array", "device")

    def __init__(self, value: int = 0) -> None:
        self.array = np.array(value, np.int64)
        self.device = cpu

    def on(self, device: Device) -> np.ndarray[Any, Any]:
        """Return the array, on a device."""
        if device is not self.device:
            if "cuda" in (device.type, self.device.type):
                self.array = device.array(np.array(int(self), np.int64))
            self.device = device
        return self.array

    def __int__(self) -> int:
        if self.device.type == "cuda":
            reads_values("a count of batches")
        return int(self.device.to_host(self.array)[()])

    def set(self, value: int) -> None:
        """Count from a number on."""
        self.device.write(self.array, value)

    def __reduce__(self) -> tuple[Any, ...]:
        return (Tally, (int(self),))
