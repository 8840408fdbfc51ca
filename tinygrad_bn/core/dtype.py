"""The dtype table, and PyTorch's rules of promotion.

A tensor's dtype is not its array's dtype: bfloat16, which NumPy lacks, is stored as the upper 16 bits of a float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_bn.core.mixed import gate
from tinygrad_bn.errors import DTypeError


class DType:
    """An element type.

    Attributes
    ----------
    name : str
        PyTorch's name.
    storage : numpy.dtype
        The type of the array that holds it.
    is_floating_point : bool
    low : bool
        Whether it is float16 or bfloat16: storage, for which operations compute in float32.
    kind : int
        Of a low one, its number in ``kernels.ref.half``.
    """

    __slots__ = ("is_floating_point", "itemsize", "kind", "low", "name", "rank", "storage")

    def __init__(self, name: str, storage: str, rank: int, floating: bool = False, kind: int = -1) -> None:
        self.name = name
        self.storage = np.dtype(storage)
        self.itemsize = self.storage.itemsize
        self.rank = rank
        self.is_floating_point = floating
        self.low = kind >= 0
        self.kind = kind

    def __repr__(self) -> str:
        return f"tinygrad_bn.{self.name}"

    def __reduce__(self) -> tuple[Any, ...]:
        return (by_name, (self.name,))

    def __deepcopy__(self, memo: dict[int, Any]) -> DType:
        return self


bool_ = DType("bool", "?", 0)
uint8 = DType("uint8", "u1", 1)
int8 = DType("int8", "i1", 2)
int16 = DType("int16", "i2", 3)
int32 = DType("int32", "i4", 4)
int64 = DType("int64", "i8", 5)
float16 = DType("float16", "f2", 6, floating=True, kind=1)
bfloat16 = DType("bfloat16", "u2", 7, floating=True, kind=0)
float32 = DType("float32", "f4", 8, floating=True)
float64 = DType("float64", "f8", 9, floating=True)

ALL = (bool_, uint8, int8, int16, int32, int64, float16, bfloat16, float32, float64)
_BY_NAME = {d.name: d for d in ALL} | {
    "float": float32, "double": float64, "long": int64, "int": int32, "half": float16
}  # fmt: skip
_BY_STORAGE = {d.storage: d for d in ALL if d is not bfloat16}  # an array of uint16 holds numbers of its own
_BY_PYTHON: dict[Any, DType] = {bool: bool_, int: int64, float: float32}

_default = float32


def by_name(name: str) -> DType:
    """Return the dtype of that name."""
    return noted(_BY_NAME[name])


def noted(dtype: DType) -> DType:
    """Return the dtype itself; a low one switches mixed precision on."""
    if dtype.low:
        gate.on = True
    return dtype


def as_dtype(value: Any, op: str = "dtype") -> DType:
    """Return the table's entry for a DType, a name, a Python type or anything that NumPy takes for a dtype.

    Raises
    ------
    DTypeError
        If there is no such type.
    """
    found = value if isinstance(value, DType) else _look_up(value)
    if found is None:
        raise DTypeError(f"{op}: 'dtype' must be one of {', '.join(d.name for d in ALL)}. Got {value!r}.")
    if found.low:
        gate.on = True
    return found


def _look_up(value: Any) -> DType | None:
    if isinstance(value, str) and value in _BY_NAME:
        return _BY_NAME[value]
    if value in _BY_PYTHON:
        return _BY_PYTHON[value]
    try:
        storage = np.dtype(value)
    except TypeError:
        return None
    return _BY_STORAGE.get(storage.newbyteorder("="))


def of_array(storage: np.dtype[Any]) -> DType | None:
    """Return the dtype that an array of this NumPy dtype holds, or None."""
    found = _BY_STORAGE.get(storage)
    if found is float16:
        gate.on = True
    return found


def words(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return an array of low precision as the kernels of ``half`` take it: the same memory as uint16."""
    return array if array.dtype == np.uint16 else array.view(np.uint16)


def numbers(array: np.ndarray[Any, Any], dtype: DType) -> np.ndarray[Any, Any]:
    """Return a tensor's elements as an array that NumPy can compute with: bfloat16 as float32."""
    return (array.astype(np.uint32) << 16).view(np.float32) if dtype is bfloat16 else array


def stored(value: bool | int | float, dtype: DType) -> Any:
    """Return a number as it is written into an array of a dtype: of bfloat16, the word."""
    if not dtype.low:
        return value
    with np.errstate(all="ignore"):
        if dtype is float16:
            return np.float16(value)
        bits = int(np.float32(value).view(np.uint32))
    if bits & 0x7FFFFFFF > 0x7F800000:
        return np.uint16(bits >> 16 | 0x40)
    return np.uint16((bits + 0x7FFF + (bits >> 16 & 1)) >> 16)


def promote(a: DType, b: DType) -> DType:
    """Return the type of ``a + b`` for two tensors: float32 with int64 is float32, uint8 with int8 is int16, float16
    with bfloat16 is float32."""
    if a is b:
        return a
    if a.low and b.low:
        return float32
    low, high = (a, b) if a.rank < b.rank else (b, a)
    if low is uint8 and high is int8:
        return int16
    return high


def promote_scalar(a: DType, value: bool | int | float) -> DType:
    """Return the type of ``tensor + value``: a Python scalar does not widen, but it may change the kind."""
    if a.is_floating_point or isinstance(value, bool):
        return a
    if isinstance(value, float):
        return _default
    return int64 if a is bool_ else a


def get_default_dtype() -> DType:
    """Return the floating-point type of newly made tensors."""
    return _default


def set_default_dtype(dtype: Any) -> None:
    """Set the floating-point type of newly made tensors: float32 or float64."""
    global _default
    found = as_dtype(dtype, "set_default_dtype")
    if not found.is_floating_point or found.low:
        want = "float32 or float64" if found.low else "a floating-point type"
        raise DTypeError(f"set_default_dtype: 'dtype' must be {want}. Got {found.name}.")
    _default = found
    _BY_PYTHON[float] = found
