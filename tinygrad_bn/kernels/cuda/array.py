"""Arrays on the GPU: NumPy's bookkeeping of shapes and strides around memory that the processor cannot read.

A device pointer is an address like others: nothing of the host's lies there. So an array on the GPU is an
``ndarray`` whose elements begin at it, and views are made as NumPy makes them, in C. What would read or write an
element is refused here; copies between the memories are made by ``core.device``.
"""

from __future__ import annotations

import ctypes
from typing import Any, NoReturn

import numpy as np

from tinygrad_bn.errors import DeviceError

__all__ = ["CudaArray", "address"]

_DATA = object.__basicsize__  # where the pointer lies in NumPy's PyArrayObject_fields: part of its public ABI
_word = ctypes.c_uint64.from_address


def address(array: np.ndarray[Any, Any]) -> int:
    """Return where an array's first element lies: a launch asks it of each argument, and NumPy takes 2 µs to tell."""
    return _word(id(array) + _DATA).value


def _refuse(what: str) -> NoReturn:
    raise DeviceError(f"{what} would read an array on the GPU on the host.\nHint: copy it with .cpu() first.")


class CudaArray(np.ndarray[Any, Any]):
    """Elements on the GPU. Basic slices, ``reshape``, ``transpose`` and the like give views; nothing gives an element.

    Attributes
    ----------
    place : object
        What gives the memory back when the last view has gone; None of views.
    """

    __slots__ = ("place",)
    place: Any

    def __getitem__(self, key: Any) -> CudaArray:
        keys = key if isinstance(key, tuple) else (key,)
        if not all(k is None or k is Ellipsis or isinstance(k, slice | int | np.integer) for k in keys):
            _refuse("indexing with an array")
        if Ellipsis not in keys:
            keys = (*keys, Ellipsis)  # or a full index would read an element
        found: CudaArray = super().__getitem__(keys)  # type: ignore[assignment]  # of this class, as NumPy has it
        return found

    def __setitem__(self, key: Any, value: Any) -> NoReturn:
        _refuse("assignment to elements")

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> NoReturn:
        _refuse(f"numpy.{ufunc.__name__}")

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if function in _VIEWS:
            return super().__array_function__(function, types, args, kwargs)
        _refuse(f"numpy.{function.__name__}")

    def reshape(self, *shape: Any, order: Any = "C", copy: Any = None) -> CudaArray:
        """Return a view of another shape.

        Raises
        ------
        DeviceError
            If the elements would have to be moved.
        """
        try:
            found: CudaArray = super().reshape(*shape, order=order, copy=False)
            return found
        except ValueError as error:
            if "copy" not in str(error):
                raise
            raise DeviceError(f"reshape to {shape}: the elements of this view do not lie in that order.") from None

    def ravel(self, order: Any = "C") -> CudaArray:
        """Return a view of one axis."""
        return self.reshape(-1, order=order)

    def _no(self, *args: Any, **kwargs: Any) -> NoReturn:
        _refuse("this")

    copy = astype = tolist = item = tobytes = fill = flatten = sum = mean = min = max = all = any = _no
    sort = argsort = argmax = argmin = take = put = dot = clip = round = nonzero = cumsum = cumprod = prod = _no
    __iter__ = __contains__ = __bool__ = __int__ = __float__ = __index__ = __reduce__ = __complex__ = _no
    __copy__ = __deepcopy__ = byteswap = dump = dumps = tofile = choose = compress = repeat = searchsorted = _no

    def __repr__(self) -> str:
        return f"<{self.dtype} of shape {self.shape} on the GPU>"

    __str__ = __repr__


_VIEWS = frozenset(
    {np.transpose, np.swapaxes, np.moveaxis, np.expand_dims, np.squeeze, np.shape, np.ndim, np.size, np.broadcast_to}
    | {np.may_share_memory, np.shares_memory, np.rollaxis, np.lib.array_utils.byte_bounds}
)
