"""The bare Tensor: an array, its dtype and device, the storage that its views share, its place on the tape.

Operators and methods are attached by ``tinygrad_bn.tensor_methods``; nothing here computes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tinygrad_bn.core import dtype as dtypes
from tinygrad_bn.core.device import Device, cpu
from tinygrad_bn.core.dtype import DType
from tinygrad_bn.errors import DTypeError, GradientError, wrong

if TYPE_CHECKING:
    from tinygrad_bn.core.methods import TensorMethods
    from tinygrad_bn.core.tape import Node
else:

    class TensorMethods:
        __slots__ = ()


Array = np.ndarray[Any, Any]


class Storage:
    """The identity of memory that several tensors share, and the number of its in-place changes."""

    __slots__ = ("version",)

    def __init__(self) -> None:
        self.version = 0


class Tensor(TensorMethods):
    """A multi-dimensional array that records what is computed from it.

    Make one with ``tb.tensor``, ``tb.zeros``, ``tb.randn`` and the like.

    Attributes
    ----------
    array : numpy.ndarray
        The elements, possibly strided; memory may be shared with other tensors.
    dtype : DType
    device : Device
    node : Node or None
        Where gradients of this tensor go: its producer's node, a leaf's accumulator, or None.
    grad : Tensor or None
        The accumulated gradient of a leaf.
    """

    __slots__ = (
        "__weakref__",
        "_grad",
        "array",
        "contiguous_array",
        "device",
        "dtype",
        "node",
        "storage",
        "view_version",
    )

    _grad: Tensor | None
    array: Array
    contiguous_array: bool
    device: Device
    dtype: DType
    node: Node | None
    storage: Storage | None
    view_version: int

    def __init__(self, array: Array, dtype: DType, device: Device = cpu) -> None:
        self.array = array
        self.dtype = dtype
        self.device = device
        self.node = None
        self.storage = None
        self._grad = None
        self.contiguous_array = True
        self.view_version = -1

    @property
    def version(self) -> int:
        """How often the memory of this tensor has been changed in place."""
        return 0 if self.storage is None else self.storage.version

    def shared_storage(self) -> Storage:
        """Return the storage, made when something first shares or changes it."""
        if self.storage is None:
            twin = None if self.node is None else self.node.output
            if twin is not None and twin.array is self.array:
                self.storage = twin.shared_storage()
            else:
                self.storage = Storage()
        return self.storage

    def bump(self) -> None:
        """Note an in-place change of the elements."""
        (self.storage or self.shared_storage()).version += 1

    def alias(self, array: Array | None = None) -> Tensor:
        """Return a tensor off the tape on the same storage, with another view of the array if one is given."""
        out = object.__new__(Tensor)
        out.array = self.array if array is None else array
        out.dtype = self.dtype
        out.device = self.device
        out.node = None
        out.storage = self.shared_storage()
        out._grad = None
        out.contiguous_array = self.contiguous_array if array is None else is_plain(array)
        out.view_version = -1 if array is None else out.storage.version
        return out

    @property
    def shape(self) -> tuple[int, ...]:
        """The extents of the axes."""
        shape: tuple[int, ...] = self.array.shape
        return shape

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return self.array.ndim

    @property
    def requires_grad(self) -> bool:
        """Whether gradients are computed for this tensor."""
        return self.node is not None

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        set_requires_grad(self, value)

    @property
    def is_leaf(self) -> bool:
        """Whether this tensor was not computed by a recorded operation."""
        return self.node is None or self.node.is_leaf

    @property
    def grad(self) -> Tensor | None:
        """The gradient that ``backward`` has accumulated here, or None."""
        return self._grad

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        if value is not None:
            if not isinstance(value, Tensor):
                raise GradientError(wrong("grad", "value", "a Tensor or None", type(value).__name__))
            if value.shape != self.shape or value.dtype is not self.dtype or value.device is not self.device:
                want = f"a {self.dtype.name} tensor of shape {self.shape} on {self.device}"
                got = f"{value.dtype.name}, shape {value.shape}, on {value.device}"
                raise GradientError(wrong("grad", "value", want, got))
        self._grad = value

    @property
    def grad_fn(self) -> Node | None:
        """The node of the operation that made this tensor; None for leaves."""
        return None if self.is_leaf else self.node


def set_requires_grad(tensor: Tensor, value: bool) -> None:
    """Start or stop recording on a leaf.

    Raises
    ------
    GradientError
        If the tensor is not floating point, or was computed by a recorded operation.
    """
    from tinygrad_bn.core.tape import Leaf

    if not tensor.is_leaf:
        raise GradientError(
            "requires_grad: only a leaf's flag can be changed; this tensor was computed by a recorded operation.\n"
            "Hint: use detach() for a copy off the tape."
        )
    if not value:
        tensor.node = None
    elif tensor.node is None:
        if not tensor.dtype.is_floating_point:
            raise GradientError(f"requires_grad: only floating-point tensors have gradients. Got {tensor.dtype.name}.")
        tensor.node = Leaf(tensor)


def is_plain(array: Array) -> bool:
    """Whether kernels may take the array as it is: C-contiguous, aligned, writable."""
    flags = array.flags
    return bool(flags.c_contiguous and flags.aligned and flags.writeable)


def wrap(array: Array, device: Device = cpu, op: str = "tensor") -> Tensor:
    """Return a tensor that shares the array's memory; one that is read-only, misaligned or byte-swapped is copied.

    Raises
    ------
    DTypeError
        If no dtype of the table holds the array's elements.
    """
    dtype = dtypes.of_array(array.dtype)
    if dtype is None:
        dtype = dtypes.of_array(array.dtype.newbyteorder("="))
        if dtype is None:
            raise DTypeError(f"{op}: elements of type {array.dtype} have no dtype here.\nHint: convert with astype().")
        array = array.astype(dtype.storage)
    if device.type == "cuda":
        array = device.array(array)
    else:
        flags = array.flags
        if not (flags.aligned and flags.writeable):
            array = array.copy()
        if type(array) is not np.ndarray:
            array = array.view(np.ndarray)
    out = Tensor(array, dtype, device)
    out.contiguous_array = is_plain(array)
    return out
