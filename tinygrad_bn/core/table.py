"""Tables of arrays, for kernels that work on any number of arrays in one launch.

On ``ref`` a row is a tuple of arrays; on ``cpu`` it holds their addresses and, last, their number of elements, so
that one compiled kernel serves all tables. A table keeps its arrays alive, and asks for an address again only where
the array is another object than before.
"""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import addressof, c_char
from typing import Any

import numpy as np

from tinygrad_bn.core.device import Device
from tinygrad_bn.core.dtype import DType
from tinygrad_bn.core.launch import launch
from tinygrad_bn.core.tensor import Array, Tensor

_view: Any = c_char.from_buffer


def address_of(array: Array) -> int:
    """Return where a C-contiguous, writable array's elements begin; 0 if it has none."""
    return addressof(_view(array)) if array.size else 0  # a third of what array.ctypes costs


class Table:
    """Rows of arrays of one dtype on one device.

    Parameters
    ----------
    rows : sequence of sequences of Array
        C-contiguous arrays; those of a row that a kernel walks together have the size of its first.
    dtype : DType
    device : Device

    Attributes
    ----------
    data : list of tuple, or array of shape (rows, columns + 1), int64
        What the kernel gets, on the device.
    host : numpy.ndarray
        The same in the host's memory; ``data`` itself where the device is the CPU.
    like : numpy.ndarray, shape (0,)
        Tells the kernel the dtype.
    """

    __slots__ = ("arrays", "by_address", "data", "device", "dtype", "host", "like", "pointed")

    def __init__(self, rows: Sequence[Sequence[Array]], dtype: DType, device: Device) -> None:
        self.dtype = dtype
        self.device = device
        self.like = np.empty(0, dtype.storage)
        self.arrays = [list(column) for column in zip(*rows, strict=True)]
        self.by_address = device.type != "ref"
        self.data: Any = [tuple(a.reshape(-1) for a in row) for row in rows]
        self.pointed: list[int] = []
        if self.by_address:
            self.host = np.array([[*map(address_of, row), row[0].size] for row in rows], np.int64)
            self.data = device.array(self.host)

    def point(self, column: int, addresses: list[int]) -> None:
        """Put addresses into a column; whoever calls keeps the arrays alive while a kernel runs."""
        if addresses != self.pointed:
            self._put(column, addresses)
            self.pointed = addresses

    def _put(self, column: int, addresses: list[int]) -> None:
        self.host[:, column] = addresses
        if self.data is not self.host:
            self.device.write(self.data, self.host)

    def replace(self, column: int, arrays: list[Array]) -> None:
        """Put arrays of the same sizes into a column."""
        held = self.arrays[column]
        if self.by_address:
            self._put(column, [addressof(_view(a)) if a.size else 0 for a in arrays])
        else:
            for i, a in enumerate(arrays):
                row = self.data[i]
                self.data[i] = (*row[:column], a.reshape(-1), *row[column + 1 :])
        held[:] = arrays


def dense(tensor: Tensor) -> Array:
    """Return a tensor's array if it is C-contiguous, else a copy made by a kernel; ``write_back`` returns the copy's
    elements."""
    if tensor.contiguous_array:
        return tensor.array
    out = tensor.device.empty(tensor.array.shape, tensor.dtype)
    launch(tensor.device.kernels.copy, tensor.array, out)
    return out


def write_back(tensor: Tensor, array: Array) -> None:
    """Copy what a kernel made of ``dense(tensor)`` into the tensor, where that was a copy."""
    if array is not tensor.array:
        launch(tensor.device.kernels.copy, array, tensor.array)
