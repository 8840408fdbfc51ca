"""The pickled batches of CIFAR-10, read without trusting them.

A pickle names functions, calls them and sets attributes. Here a name is looked up in a list of the few that a batch
needs, and stands for a function of this file, which builds nothing but a description; any other name is refused before
anything is called.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from tinygrad_bn.errors import DataError, expected

Array = np.ndarray[Any, Any]


class _Element:
    """Stands for ``numpy.dtype``: its code alone is of interest."""

    def __init__(self, code: Any, *rest: Any) -> None:
        self.code = code.decode("latin1") if isinstance(code, bytes) else code

    def __setstate__(self, state: Any) -> None:
        """Byte order and fields: an array of unsigned bytes has neither."""


class _Values:
    """Stands for ``numpy.ndarray``: shape, element type and content."""

    def __init__(self, *arguments: Any) -> None:
        self.shape: Any = None
        self.element: Any = None
        self.content: Any = None

    def __setstate__(self, state: Any) -> None:
        _, self.shape, self.element, by_column, self.content = state
        if by_column:
            raise pickle.UnpicklingError("an array in column order")

    def array(self) -> Array:
        """The array, checked."""
        element, shape, content = self.element, self.shape, self.content
        if not isinstance(element, _Element) or element.code not in ("u1", "|u1", "uint8", "B"):
            raise pickle.UnpicklingError("an array of other values than unsigned bytes")
        if not isinstance(content, bytes | bytearray) or not isinstance(shape, tuple):
            raise pickle.UnpicklingError("an array without content")
        if not all(type(n) is int and n >= 0 for n in shape) or prod(shape) != len(content):
            raise pickle.UnpicklingError(f"an array of shape {shape} and {len(content)} bytes")
        return np.frombuffer(content, np.uint8).reshape(shape)


def _begin(*arguments: Any) -> _Values:
    """Stands for NumPy's ``_reconstruct``: what an array is comes with ``__setstate__``."""
    return _Values()


def _of_buffer(content: Any, element: Any, shape: Any, order: Any, *rest: Any) -> _Values:
    """Stands for NumPy's ``_frombuffer``, by which newer protocols pickle arrays."""
    out = _Values()
    out.__setstate__((1, shape, element, order != "C", content))
    return out


def _encode(text: Any, encoding: Any = "latin1", *rest: Any) -> bytes:
    """Stands for ``_codecs.encode``, by which Python 3 writes bytes under old protocols."""
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
        raise pickle.UnpicklingError("bytes in an unknown encoding")
    return text.encode("latin1")


class _Name:
    """What a name stands for: can be called, and not be changed by the pickle."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *arguments: Any) -> Any:
        return self._call(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it changes what it has only named")


_BEGIN, _OF_BUFFER = _Name(_begin), _Name(_of_buffer)
ALLOWED = {
    ("numpy", "ndarray"): _Name(_Values),
    ("numpy", "dtype"): _Name(_Element),
    ("numpy.core.multiarray", "_reconstruct"): _BEGIN,
    ("numpy._core.multiarray", "_reconstruct"): _BEGIN,
    ("numpy.core.numeric", "_frombuffer"): _OF_BUFFER,
    ("numpy._core.numeric", "_frombuffer"): _OF_BUFFER,
    ("_codecs", "encode"): _Name(_encode),
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no batch needs") from None


def read_pickle(content: bytes, file: Path, pixels: int) -> tuple[Array, Array]:
    """Return the pictures, uint8 (N, pixels), and the labels, int64 (N,), of a pickled batch.

    Parameters
    ----------
    content : bytes
    file : Path
        For messages.
    pixels : int
        Values of a picture.

    Raises
    ------
    DataError
        If it is no pickle, names what a batch does not need, or does not hold pictures and labels.
    """
    try:
        batch = _Reader(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # a corrupt pickle raises whatever its broken instructions come to
        raise DataError(f"read_cifar: '{file}' is corrupt or no batch: {str(error).rstrip('.')} (pickle).") from None
    if not isinstance(batch, dict):
        raise DataError(expected("read_cifar", str(file), "a dict of data and labels", type(batch).__name__))
    data, labels = (batch.get(name.encode(), batch.get(name)) for name in ("data", "labels"))
    pictures = _pictures(data, file, pixels)
    return pictures, _labels(labels, len(pictures), file)


def _pictures(data: Any, file: Path, pixels: int) -> Array:
    want = f"unsigned bytes of shape (N, {pixels}) as its data"
    if not isinstance(data, _Values):
        raise DataError(expected("read_cifar", str(file), want, type(data).__name__))
    try:
        array = data.array()
    except pickle.UnpicklingError as error:
        raise DataError(expected("read_cifar", str(file), want, error)) from None
    if array.ndim != 2 or array.shape[1] != pixels:
        raise DataError(expected("read_cifar", str(file), want, f"shape {array.shape}"))
    return array


def _labels(labels: Any, count: int, file: Path) -> Array:
    want = f"a list of {count} whole numbers as its labels, one for each picture"
    if not isinstance(labels, list) or not all(type(n) is int for n in labels):
        raise DataError(expected("read_cifar", str(file), want, "other things"))
    if len(labels) != count:
        raise DataError(expected("read_cifar", str(file), want, len(labels)))
    return np.array([min(max(n, -1), 1 << 30) for n in labels], np.int64)
