"""Arrays of the GPU shared with other libraries: DLPack and ``__cuda_array_interface__``, both ways."""

from __future__ import annotations

import ctypes
import gc
import os
from typing import Any

import numpy as np
import pytest

import tinygrad_bn as tb
from tinygrad_bn import cuda
from tinygrad_bn.errors import ArgumentError, DeviceError, DTypeError, GradientError

SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"
pytestmark = pytest.mark.skipif(not cuda.is_available(), reason="no GPU, and NUMBA_ENABLE_CUDASIM is not 1")


def on_gpu(*shape: int, dtype: Any = None) -> tb.Tensor:
    return tb.arange(int(np.prod(shape)), device="cuda", dtype=dtype or tb.float32).reshape(*shape)


def address(x: tb.Tensor) -> int:
    found: int = x.array.__array_interface__["data"][0]
    return found


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Which stream was made to wait for which."""
    from tinygrad_bn.core.cuda_memory import number_of
    from tinygrad_bn.kernels.cuda.driver import driver

    found: list[tuple[int, int]] = []
    wait = driver().wait

    def noting(stream: Any, other: Any) -> None:
        found.append((number_of(stream), number_of(other)))
        if not SIMULATED:
            wait(stream, other)

    monkeypatch.setattr(driver(), "wait", noting)
    return found


class Producer:
    """Another library's array: (rows, 3) of float32, on memory that it has taken from the driver itself.

    Attributes
    ----------
    deleted : list
        A structure's address for each call of its deleter.
    streams : list
        What consumers have named as theirs.
    """

    def __init__(self, rows: int, versioned: bool, strides: bool = True, read_only: bool = False) -> None:
        from tinygrad_bn.core import exchange
        from tinygrad_bn.kernels.cuda.driver import driver

        self.values = np.arange(3 * rows, dtype=np.float32).reshape(rows, 3)
        self.memory = driver().allocate(max(self.values.nbytes, 4) + 8)
        if rows:
            driver().copy_in(self.memory + 8, self.values.ctypes.data, self.values.nbytes)
        self.versioned = versioned
        self.deleted: list[int] = []
        self.streams: list[Any] = []
        self._deleter = exchange.Deleter(self.deleted.append)
        self.managed: Any = (exchange.Versioned if versioned else exchange.Managed)()
        self._extents = (ctypes.c_int64 * 4)(rows, 3, 3, 1)
        t = self.managed.tensor
        t.data, t.byte_offset = self.memory, 8
        t.device_type, t.device_id = 2, 0
        t.ndim, t.code, t.bits, t.lanes = 2, 2, 32, 1
        t.shape = ctypes.cast(self._extents, ctypes.POINTER(ctypes.c_int64))
        if strides:
            t.strides = ctypes.cast(ctypes.addressof(self._extents) + 16, ctypes.POINTER(ctypes.c_int64))
        self.managed.deleter = self._deleter
        if versioned:
            self.managed.major, self.managed.flags = 1, int(read_only)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, 0)

    def __dlpack__(self, *, stream: int | None = None, **kwargs: Any) -> Any:
        from tinygrad_bn.core import exchange

        if kwargs and not self.versioned:
            raise TypeError("a producer of before 1.0")
        self.streams.append(stream)
        name = b"dltensor_versioned" if self.versioned else b"dltensor"
        self._name = name
        return ctypes.pythonapi.PyCapsule_New(ctypes.addressof(self.managed), name, exchange._Destructor())

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        shape = self.values.shape
        return {"shape": shape, "typestr": "<f4", "data": (self.memory + 8, False), "version": 3, "stream": 99}


# ------------------------------------------------------------------------------------------------------------- DLPack


@pytest.mark.parametrize("versioned", [False, True])
@pytest.mark.parametrize("strides", [False, True])
def test_a_producer_s_memory_is_shared_and_given_back_once(versioned: bool, strides: bool) -> None:
    producer = Producer(2, versioned, strides)
    x = tb.from_dlpack(producer)
    assert x.device == "cuda"
    assert address(x) == producer.memory + 8
    assert x.tolist() == producer.values.tolist()
    row = x[1]
    del x
    gc.collect()
    assert producer.deleted == []
    assert row.tolist() == [3.0, 4.0, 5.0]
    del row
    gc.collect()
    assert producer.deleted == [ctypes.addressof(producer.managed)]


def test_an_empty_tensor_and_one_that_is_read_only_are_taken() -> None:
    assert tb.from_dlpack(Producer(0, True)).shape == (0, 3)
    producer = Producer(2, True, read_only=True)
    x = tb.from_dlpack(producer)
    assert address(x) != producer.memory + 8
    assert x.tolist() == producer.values.tolist()
    gc.collect()
    assert len(producer.deleted) == 1


def test_the_producer_is_told_our_stream_and_waits_for_it_in_the_end(waits: list[tuple[int, int]]) -> None:
    producer = Producer(2, True)
    with cuda.stream(cuda.Stream()):
        ours = cuda.current_stream().cuda_stream
        x = tb.from_dlpack(producer)
        assert producer.streams == [ours]
        assert waits == []
        del x
    assert waits == [(1, ours)]


def test_a_producer_elsewhere_or_of_another_dtype_is_refused() -> None:
    producer = Producer(1, True)
    producer.managed.tensor.bits = 24
    with pytest.raises(DTypeError, match="24 bits"):
        tb.from_dlpack(producer)
    assert len(producer.deleted) == 1
    producer.__class__ = type("Far", (Producer,), {"__dlpack_device__": lambda self: (2, 5)})
    with pytest.raises(DeviceError, match="cuda:5"):
        tb.from_dlpack(producer)
    with pytest.raises(DTypeError, match="__dlpack__"):
        tb.from_dlpack([1.0])


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int16", "int64", "float16", "bfloat16", "float32", "float64"])
def test_a_tensor_comes_back_by_dlpack(dtype: str) -> None:
    x = on_gpu(2, 3).to(dtype).T
    y = tb.from_dlpack(x)
    assert y.dtype is x.dtype
    assert y.array.strides == x.array.strides
    assert address(y) == address(x)
    assert y.tolist() == x.tolist()


def test_a_tensor_s_memory_lives_as_long_as_the_consumer() -> None:
    x = tb.empty(5000, device="cuda")
    place = address(x)
    y = tb.from_dlpack(x)
    before = cuda.memory_allocated()
    del x
    gc.collect()
    assert cuda.memory_allocated() == before
    assert address(tb.empty(5000, device="cuda")) != place
    del y
    gc.collect()
    assert cuda.memory_allocated() < before


@pytest.mark.parametrize("version", [None, (0, 8), (1, 1)])
def test_a_capsule_that_nobody_takes_gives_its_tensor_back(version: tuple[int, int] | None) -> None:
    before = cuda.memory_allocated()
    capsule = tb.empty(5000, device="cuda").__dlpack__(max_version=version)
    gc.collect()
    assert ("dltensor_versioned" in repr(capsule)) == (version == (1, 1))
    assert cuda.memory_allocated() > before
    del capsule
    gc.collect()
    assert cuda.memory_allocated() == before


def test_the_consumer_s_stream_waits_and_is_remembered(waits: list[tuple[int, int]]) -> None:
    x, ours = tb.empty(3000, device="cuda"), cuda.current_stream().cuda_stream
    for stream, waiting in ((-1, []), (ours, []), (None, [(1, ours)]), (2, [(2, ours)])):
        waits.clear()
        x.__dlpack__(stream=stream)
        assert waits == waiting
    waits.clear()
    del x
    tb.empty(3000, device="cuda")
    assert waits == [(ours, 1), (ours, 2)]


def test_what_cannot_be_shared_is_refused() -> None:
    x = on_gpu(2)
    assert x.__dlpack_device__() == (2, 0)
    for arguments, error, match in (
        ({"stream": 0}, ArgumentError, "'stream'"),
        ({"copy": True}, ArgumentError, "clone"),
        ({"dl_device": (1, 0)}, DeviceError, "'dl_device'"),
    ):
        with pytest.raises(error, match=match):
            x.__dlpack__(**arguments)  # type: ignore[arg-type]
    with pytest.raises(GradientError, match="detach"):
        on_gpu(2).requires_grad_().__dlpack__()


# ------------------------------------------------------------------------------------------- __cuda_array_interface__


def test_an_interface_s_memory_is_shared_and_its_object_kept(waits: list[tuple[int, int]]) -> None:
    producer = Producer(2, False)
    x = tb.as_tensor(producer)
    assert waits == [(cuda.current_stream().cuda_stream, 99)]
    assert x.device == "cuda"
    assert address(x) == producer.memory + 8
    assert x.tolist() == producer.values.tolist()
    assert any(getattr(r, "owner", None) is producer for r in _roots(x))
    y = tb.tensor(producer)
    assert address(y) != address(x)
    assert y.tolist() == x.tolist()


def _roots(x: tb.Tensor) -> list[Any]:
    found: list[Any] = [x.array]
    while getattr(found[-1], "base", None) is not None:
        found.append(found[-1].base)
    return found


def test_a_tensor_states_its_interface() -> None:
    x = on_gpu(2, 3)
    told: Any = x.__cuda_array_interface__  # type: ignore[attr-defined]
    assert told == {
        "shape": (2, 3), "typestr": "<f4", "data": (address(x), False), "version": 3, "strides": None,
        "stream": cuda.current_stream().cuda_stream,
    }  # fmt: skip
    assert x.T.__cuda_array_interface__["strides"] == (4, 12)  # type: ignore[attr-defined]
    assert not hasattr(x.cpu(), "__cuda_array_interface__")
    with pytest.raises(DTypeError, match="bfloat16"):
        getattr(x.bfloat16(), "__cuda_array_interface__")  # noqa: B009  # mypy knows no such attribute


class Interface:
    """An object that has nothing but the interface."""

    def __init__(self, told: dict[str, Any]) -> None:
        self.__cuda_array_interface__ = told


def test_views_come_back_by_their_interface() -> None:
    x = on_gpu(3, 4)
    for view in (x[1:, ::2], x.T, x[:0]):
        y = tb.as_tensor(Interface(view.__cuda_array_interface__))  # type: ignore[attr-defined]
        assert y.shape == view.shape
        assert y.tolist() == view.tolist()
    with pytest.raises(DTypeError, match="no mask"):
        tb.as_tensor(Interface({**x.__cuda_array_interface__, "mask": x}))  # type: ignore[attr-defined]
