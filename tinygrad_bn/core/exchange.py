"""Arrays of the GPU shared with other libraries without a copy: DLPack, and ``__cuda_array_interface__`` version 3.

The structures are those of dlpack.h, 1.0 and, without a version, before. A capsule holds the address of one; whoever
takes it renames the capsule, and calls the deleter once when he is done. Order between streams is the producer's
affair: he is told the consumer's stream, and makes it wait for what he has under way.

DLPack: https://dmlc.github.io/dlpack/latest/python_spec.html; the interface: Numba's documentation, "CUDA Array
Interface (Version 3)".
"""

from __future__ import annotations

import ctypes
from math import prod
from typing import Any

import numpy as np

from tinygrad_bn.core import dtype as dtypes
from tinygrad_bn.core.cuda_memory import current_pool, number_of, record_stream
from tinygrad_bn.core.memory import lenders
from tinygrad_bn.core.tensor import Tensor, is_plain
from tinygrad_bn.errors import ArgumentError, DTypeError, wrong
from tinygrad_bn.kernels.cuda.array import CudaArray
from tinygrad_bn.kernels.cuda.driver import driver

CUDA = (2, 0)
"""kDLCUDA, and the number of the device."""
_LEGACY = 1  # the stream that a library means that names none
_READ_ONLY = 1
_CODES = {"i": 0, "u": 1, "f": 2, "b": 6}
_KINDS = {code: kind for kind, code in _CODES.items()}
_BFLOAT = 4
_new_array = np.ndarray.__new__


class DLTensor(ctypes.Structure):
    """Where elements lie, and what they are; strides in elements."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class Managed(ctypes.Structure):
    """DLManagedTensor."""

    _fields_ = (("tensor", DLTensor), ("context", ctypes.c_void_p), ("deleter", Deleter))


class Versioned(ctypes.Structure):
    """DLManagedTensorVersioned."""

    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", Deleter),
        ("flags", ctypes.c_uint64),
        ("tensor", DLTensor),
    )


_NAMES: dict[Any, bytes] = {Managed: b"dltensor", Versioned: b"dltensor_versioned"}
_USED: dict[Any, bytes] = {kind: b"used_" + name for kind, name in _NAMES.items()}  # capsules point to these bytes
_api = ctypes.pythonapi
_Destructor = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_api.PyCapsule_New.restype = ctypes.py_object
_api.PyCapsule_New.argtypes = (ctypes.c_void_p, ctypes.c_char_p, _Destructor)
_api.PyCapsule_IsValid.argtypes = (ctypes.c_void_p, ctypes.c_char_p)
_api.PyCapsule_GetPointer.restype = ctypes.c_void_p
_api.PyCapsule_GetPointer.argtypes = (ctypes.c_void_p, ctypes.c_char_p)
_api.PyCapsule_SetName.argtypes = (ctypes.c_void_p, ctypes.c_char_p)


# ------------------------------------------------------------------------------------------------------------ from here

_lent: dict[int, Any] = {}
"""What other libraries hold, by the structure's address: the structure, the extents, the array."""


def _return(address: int) -> None:
    _lent.pop(address, None)


def _drop(capsule: int) -> None:
    """A capsule has gone; one that nobody has taken still owns what it holds."""
    for name in _NAMES.values():
        if _api.PyCapsule_IsValid(capsule, name):
            _return(_api.PyCapsule_GetPointer(capsule, name))


_returned, _dropped = Deleter(_return), _Destructor(_drop)


def to_dlpack(x: Tensor, stream: Any = None, max_version: tuple[int, int] | None = None, copy: Any = None) -> Any:
    """Return a capsule that shares a GPU tensor's memory, which stays as long as the consumer wants it.

    Parameters
    ----------
    stream : int or None
        The consumer's, which is made to wait for what computes the tensor: None or 1, the legacy default one; 2, the
        thread's default one; -1, none.
    max_version : tuple of int, optional
        The newest that the consumer knows: (1, 0) and above get a capsule with a version.
    copy : bool, optional
        Whether to share a copy; here False or None.
    """
    if copy:
        raise ArgumentError(wrong("__dlpack__", "copy", "False or None", copy, "export a clone()"))
    if stream != -1:
        _hand_over(x, _LEGACY if stream is None else stream)
    made: Any = (Versioned if max_version is not None and max_version[0] >= 1 else Managed)()
    array, ndim, size = x.array, x.array.ndim, x.dtype.itemsize
    extents = (ctypes.c_int64 * (2 * ndim))(*array.shape, *[s // size for s in array.strides])
    step = ctypes.sizeof(ctypes.c_int64)
    t = made.tensor
    t.data = array.__array_interface__["data"][0] if array.size else None
    t.device_type, t.device_id = CUDA
    t.ndim = ndim
    t.code = _BFLOAT if x.dtype is dtypes.bfloat16 else _CODES[array.dtype.kind]
    t.bits, t.lanes = 8 * size, 1
    t.shape = ctypes.cast(extents, ctypes.POINTER(ctypes.c_int64))
    t.strides = ctypes.cast(ctypes.addressof(extents) + ndim * step, ctypes.POINTER(ctypes.c_int64))
    made.deleter = _returned
    if isinstance(made, Versioned):
        made.major, made.minor = 1, 0
    _lent[ctypes.addressof(made)] = made, extents, array
    return _api.PyCapsule_New(ctypes.addressof(made), _NAMES[type(made)], _dropped)


def _hand_over(x: Tensor, stream: Any) -> None:
    """Let a foreign stream wait for ours; its use of the memory counts until the memory comes back."""
    if isinstance(stream, bool) or not isinstance(stream, int) or stream < 1:
        raise ArgumentError(wrong("__dlpack__", "stream", "None, -1 or a stream's number of at least 1", repr(stream)))
    if stream != number_of(driver().current()):
        driver().wait(stream, driver().current())
        record_stream(x.array, stream)


def interface_of(x: Tensor) -> dict[str, Any]:
    """Return a GPU tensor's ``__cuda_array_interface__``; the consumer waits for the stream that it names."""
    if x.dtype is dtypes.bfloat16:
        raise DTypeError(wrong("__cuda_array_interface__", "input", "a dtype of NumPy's", x.dtype.name, "use DLPack"))
    array = x.array
    return {
        "shape": array.shape,
        "typestr": array.dtype.str,
        "data": (array.__array_interface__["data"][0] if array.size else 0, False),
        "version": 3,
        "strides": None if array.flags.c_contiguous else array.strides,
        "stream": number_of(driver().current()),
    }


# ------------------------------------------------------------------------------------------------------------ to here


class Borrowed(CudaArray):
    """The root of views of foreign memory: its finaliser gives the memory back.

    Attributes
    ----------
    owner : object
        A managed tensor's structure, whose deleter is to be called; or an object to be kept.
    """

    __slots__ = ("owner",)
    owner: Any

    def __del__(self) -> None:
        owner = self.owner
        if not isinstance(owner, Managed | Versioned):
            return
        if not lenders:  # while a step is being recorded nothing may wait, and nothing is given back
            driver().wait(_LEGACY, current_pool().stream)  # ours may still use it, the owner's next work is on that one
        if owner.deleter:
            owner.deleter(ctypes.addressof(owner))


def from_dlpack(data: Any) -> Tensor:
    """Return a tensor on the memory of another library's GPU tensor."""
    stream = number_of(driver().current())
    try:
        capsule = data.__dlpack__(stream=stream, max_version=(1, 0))
    except TypeError:  # a producer of before 1.0
        capsule = data.__dlpack__(stream=stream)
    kind = next((k for k, name in _NAMES.items() if _api.PyCapsule_IsValid(id(capsule), name)), None)
    if kind is None:
        raise DTypeError(wrong("from_dlpack", "data", "a capsule that nobody has taken", repr(capsule)))
    managed = kind.from_address(_api.PyCapsule_GetPointer(id(capsule), _NAMES[kind]))
    _api.PyCapsule_SetName(id(capsule), _USED[kind])
    t = managed.tensor
    shape = tuple(t.shape[i] for i in range(t.ndim))
    dtype = _dtype_of(t, managed)
    strides = tuple(t.strides[i] * dtype.itemsize for i in range(t.ndim)) if t.strides else None
    array = _borrowed((t.data or 0) + t.byte_offset, shape, dtype.storage, strides, managed)
    return _tensor(array, dtype, isinstance(managed, Versioned) and bool(managed.flags & _READ_ONLY))


def _dtype_of(t: DLTensor, managed: Any) -> dtypes.DType:
    found = None
    if t.lanes == 1 and t.code == _BFLOAT and t.bits == 16:
        found = dtypes.noted(dtypes.bfloat16)
    elif t.lanes == 1 and t.code in _KINDS and t.bits % 8 == 0:
        try:
            found = dtypes.of_array(np.dtype(f"{_KINDS[t.code]}{t.bits // 8}"))
        except TypeError:
            found = None
    if found is None:
        text = wrong("from_dlpack", "data", "a dtype of the table", f"code {t.code}, {t.bits} bits, {t.lanes} lanes")
        if managed.deleter:
            managed.deleter(ctypes.addressof(managed))
        raise DTypeError(text)
    return found


def from_interface(data: Any, op: str) -> Tensor:
    """Return a tensor on the memory of an object with ``__cuda_array_interface__``, which it keeps alive."""
    told = data.__cuda_array_interface__
    stream = told.get("stream")
    if stream is not None and stream != number_of(driver().current()):
        driver().wait(driver().current(), stream)
    storage = np.dtype(told["typestr"])
    dtype = dtypes.of_array(storage)
    if dtype is None or told.get("mask") is not None:
        raise DTypeError(wrong(op, "data", "a dtype of the table, and no mask", told["typestr"]))
    address, read_only = told["data"]
    array = _borrowed(address or 0, tuple(told["shape"]), storage, told.get("strides"), data)
    return _tensor(array, dtype, bool(read_only))


def _borrowed(
    address: int, shape: tuple[int, ...], storage: np.dtype[Any], strides: tuple[int, ...] | None, owner: Any
) -> CudaArray:
    """An array on foreign memory; ``address`` is the first element's."""
    if strides is None or not prod(shape):
        strides, low, span = None, 0, prod(shape) * storage.itemsize
    else:
        steps = [(n - 1) * s for n, s in zip(shape, strides, strict=True)]
        low = -sum(s for s in steps if s < 0)
        span = sum(map(abs, steps)) + storage.itemsize
    memory: Any = (ctypes.c_char * span).from_address(address - low) if span else ctypes.create_string_buffer(1)
    root: Borrowed = _new_array(Borrowed, (max(span, 1),), np.dtype(np.uint8), memory)
    root.owner = owner
    return _new_array(CudaArray, shape, storage, root, low, strides)


def _tensor(array: CudaArray, dtype: dtypes.DType, read_only: bool) -> Tensor:
    from tinygrad_bn.core.cuda_device import cuda
    from tinygrad_bn.core.launch import launch

    out = Tensor(array, dtype, cuda)
    out.contiguous_array = is_plain(array)
    if read_only:
        copy = Tensor(cuda.empty(array.shape, dtype), dtype, cuda)
        source, target = (dtypes.words(a.array) if dtype.low else a.array for a in (out, copy))
        launch(cuda.kernels.copy, source, target)
        return copy
    return out
