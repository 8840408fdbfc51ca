"""Tensors: how they are made, shown, stored, converted and asked."""

from __future__ import annotations

import copy
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad_bn as tb
from tinygrad_bn.errors import ArgumentError, DeviceError, DTypeError, GradientError, ShapeError
from tinygrad_bn.testing import assert_close, check_vjp

pytestmark = pytest.mark.jit_off

Make = Callable[[Any], Any]

# ------------------------------------------------------------------------------------------------------------- making

MAKERS: dict[str, Make] = {
    "number": lambda m: m.tensor(2.5),
    "int": lambda m: m.tensor(3),
    "bool": lambda m: m.tensor(True),
    "list": lambda m: m.tensor([[1.0, 2.0], [3.0, 4.5]]),
    "ints": lambda m: m.tensor([1, 2, 3]),
    "bools": lambda m: m.tensor([True, False]),
    "mixed": lambda m: m.tensor([1, 2.5]),
    "empty list": lambda m: m.tensor([]),
    "rows of nothing": lambda m: m.tensor([[], []]),
    "tuple": lambda m: m.tensor((1.0, 2.0)),
    "array": lambda m: m.tensor(np.arange(6.0).reshape(2, 3)),
    "array of ints": lambda m: m.tensor(np.arange(3, dtype=np.int32)),
    "numpy number": lambda m: m.tensor(np.float64(1.5)),
    "dtype": lambda m: m.tensor([1, 2], dtype=m.float64),
    "to ints": lambda m: m.tensor([1.7, -2.7], dtype=m.int64),
    "to bool": lambda m: m.tensor([0.0, 0.5], dtype=m.bool),
    "zeros": lambda m: m.zeros(2, 3),
    "zeros of a shape": lambda m: m.zeros((2, 3), dtype=m.int64),
    "zeros of nothing": lambda m: m.zeros(0, 3),
    "zeros without axes": lambda m: m.zeros(()),
    "ones": lambda m: m.ones([2], dtype=m.bool),
    "full": lambda m: m.full((2, 2), 1.5),
    "full of ints": lambda m: m.full((2,), 7),
    "full of bools": lambda m: m.full((2,), True),
    "full of a dtype": lambda m: m.full((2,), 7, dtype=m.float32),
    "arange": lambda m: m.arange(5),
    "arange from": lambda m: m.arange(2, 7),
    "arange by": lambda m: m.arange(2, 9, 3),
    "arange down": lambda m: m.arange(5, 0, -2),
    "arange of floats": lambda m: m.arange(0.0, 1.0, 0.25),
    "arange of nothing": lambda m: m.arange(3, 3),
    "arange of a dtype": lambda m: m.arange(4, dtype=m.float64),
    "linspace": lambda m: m.linspace(-1.0, 1.0, 5),
    "linspace of one": lambda m: m.linspace(2.0, 3.0, 1),
    "linspace of none": lambda m: m.linspace(2.0, 3.0, 0),
    "eye": lambda m: m.eye(3),
    "eye, wide": lambda m: m.eye(2, 4),
    "eye, tall": lambda m: m.eye(4, 2, dtype=m.int64),
    "zeros_like": lambda m: m.zeros_like(m.ones(2, 3)),
    "ones_like": lambda m: m.ones_like(m.zeros(2, dtype=m.int64)),
    "ones_like of a dtype": lambda m: m.ones_like(m.zeros(2), dtype=m.int32),
    "full_like": lambda m: m.full_like(m.zeros(2), 3),
    "as_tensor": lambda m: m.as_tensor([1.0, 2.0]),
    "as_tensor of a dtype": lambda m: m.as_tensor(np.arange(3), dtype=m.float32),
    "from_numpy": lambda m: m.from_numpy(np.arange(3, dtype=np.uint8)),
    "requires_grad": lambda m: m.ones(2, requires_grad=True).detach(),
}


@pytest.mark.peers
@pytest.mark.parametrize("name", MAKERS)
def test_making_tensors_as_pytorch_does(name: str) -> None:
    torch = pytest.importorskip("torch")
    want, got = MAKERS[name](torch), MAKERS[name](tb)
    assert got.dtype.name == str(want.dtype).removeprefix("torch.")
    assert got.shape == tuple(want.shape)
    np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("list", [[1.0, 2.0], [3.0, 4.5]]),
        ("to ints", [1, -2]),
        ("arange by", [2, 5, 8]),
        ("arange down", [5, 3, 1]),
        ("eye, wide", [[1, 0, 0, 0], [0, 1, 0, 0]]),
        ("linspace", [-1, -0.5, 0, 0.5, 1]),
        ("arange of floats", [0, 0.25, 0.5, 0.75]),
    ],
)
def test_values(name: str, want: list[Any]) -> None:
    assert MAKERS[name](tb).tolist() == want


def test_making_tensors_on_a_device(device: str) -> None:
    for make in (
        tb.zeros,
        tb.ones,
        tb.empty,
        tb.rand,
        tb.randn,
        lambda n, device: tb.full((n,), 2.0, device=device),
        tb.arange,
        tb.eye,
        lambda n, device: tb.linspace(0, 1, n, device=device),
        lambda n, device: tb.tensor([1.0] * n, device=device),
        lambda n, device: tb.randint(0, 9, (n,), device=device),
        lambda n, device: tb.zeros_like(tb.zeros(n), device=device),
    ):
        x = make(2, device=device)
        assert x.device == device
        assert str(x.device) == device


@pytest.mark.parametrize(
    "make",
    [
        tb.zeros,
        tb.ones,
        tb.rand,
        tb.randn,
        lambda n, **k: tb.full((n,), 1.0, **k),
        lambda n, **k: tb.tensor([1.0] * n, **k),
        lambda n, **k: tb.linspace(0, 1, n, **k),
        lambda n, **k: tb.zeros_like(tb.zeros(n), **k),
        tb.eye,
        lambda n, **k: tb.arange(0.0, n, **k),
    ],
)
def test_making_leaves(make: Callable[..., tb.Tensor]) -> None:
    assert not make(2).requires_grad
    x = make(2, requires_grad=True)
    assert x.requires_grad
    assert x.is_leaf


def test_the_default_dtype() -> None:
    assert tb.get_default_dtype() is tb.float32
    tb.set_default_dtype(tb.float64)
    try:
        assert tb.zeros(2).dtype is tb.float64
        assert tb.tensor([1.0]).dtype is tb.float64
        assert tb.tensor(1.5).dtype is tb.float64
        assert tb.rand(2).dtype is tb.float64
        assert tb.arange(3).float().dtype is tb.float32
        assert (tb.arange(3) / 2).dtype is tb.float64
        with pytest.raises(DTypeError, match=r"set_default_dtype: 'dtype' must be a floating-point type\. Got int64\."):
            tb.set_default_dtype(tb.int64)
    finally:
        tb.set_default_dtype(tb.float32)
    assert tb.zeros(2).dtype is tb.float32


def test_tensor_copies() -> None:
    array = np.zeros(3)
    x = tb.tensor(array)
    y = tb.tensor(x)
    array[0] = 1.0
    x[1] = 2.0
    assert x.tolist() == [0.0, 2.0, 0.0]
    assert y.tolist() == [0.0, 0.0, 0.0]


def test_python_floats_are_exact_where_float64_is_asked_for() -> None:
    assert tb.tensor([0.1, 1 / 3], dtype=tb.float64).tolist() == [0.1, 1 / 3]
    assert tb.tensor(0.1, dtype="float64").item() == 0.1
    assert tb.tensor([0.1]).tolist() == [float(np.float32(0.1))]


def test_from_numpy_shares() -> None:
    array = np.arange(12.0).reshape(3, 4)[:, ::2]
    x = tb.from_numpy(array)
    array[0, 0] = 5.0
    assert x[0, 0].item() == 5.0
    x[1, 1] = 7.0
    assert array[1, 1] == 7.0
    assert np.shares_memory(tb.as_tensor(array).numpy(), array)
    assert np.shares_memory(x.numpy(), array)


def test_from_numpy_copies_what_it_may_not_share() -> None:
    locked = np.zeros(3)
    locked.flags.writeable = False
    swapped = np.arange(3, dtype=">f4")
    crooked = np.frombuffer(bytearray(17), np.uint8)[1:].view(np.float64)
    for array in (locked, swapped, crooked):
        x = tb.from_numpy(array)
        assert not np.shares_memory(x.numpy(), array)
        assert x.tolist() == array.tolist()
        x.add_(1.0)


def test_subclasses_of_arrays_become_plain() -> None:
    masked = np.ma.masked_array([1.0, 2.0], mask=[True, False])
    assert type(tb.from_numpy(masked).numpy()) is np.ndarray


def test_lists_of_tensors() -> None:
    rows = [tb.tensor([1.0, 2.0]), tb.tensor([3.0, 4.0])]
    assert tb.tensor(rows).tolist() == [[1.0, 2.0], [3.0, 4.0]]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: tb.tensor([[1.0], [1.0, 2.0]]), ShapeError, r"tensor: 'data' must be rectangular"),
        (lambda: tb.tensor(["a"]), DTypeError, r"tensor: 'data' must be numbers or booleans"),
        (
            lambda: tb.tensor(1j),
            DTypeError,
            r"tensor: 'data' must be numbers or booleans\. Got elements of type complex128",
        ),
        (lambda: tb.tensor([1.0], dtype="complex"), DTypeError, r"tensor: 'dtype' must be one of"),
        (lambda: tb.tensor([1.0], device="tpu"), DeviceError, r"tensor: 'device' must be one of"),
        (
            lambda: tb.tensor([1], requires_grad=True),
            GradientError,
            r"requires_grad: only floating-point tensors have gradients",
        ),
        (lambda: tb.from_numpy([1.0]), DTypeError, r"from_numpy: 'array' must be a numpy\.ndarray\. Got list\."),
        (
            lambda: tb.from_numpy(np.array(["a"])),
            DTypeError,
            r"from_numpy: elements of type <U1 have no dtype here\.\nHint: convert",
        ),
        (
            lambda: tb.from_numpy(np.zeros(2, np.uint16)),
            DTypeError,
            r"from_numpy: elements of type uint16 have no dtype here",
        ),
        (lambda: tb.zeros(2, -1), ShapeError, r"zeros: 'size' must be extents of at least 0\. Got \(2, -1\)\."),
        (lambda: tb.zeros(2.0), ArgumentError, r"zeros: 'size' must be ints\. Got float 2\.0\."),
        (lambda: tb.arange(0, 3, 0), ArgumentError, r"arange: 'step' must be not 0 and lead from 0 to 3\. Got 0\."),
        (lambda: tb.arange(0, 3, -1), ArgumentError, r"arange: 'step' must be not 0"),
        (lambda: tb.linspace(0, 1, -1), ArgumentError, r"linspace: 'steps' must be at least 0\. Got -1\."),
        (lambda: tb.zeros_like([1.0]), DTypeError, r"zeros_like: 'input' must be a Tensor\. Got list"),
        (
            lambda: tb.zeros(2, dtype=tb.uint8) + -1,
            DTypeError,
            r"a Python number must fit the tensor's dtype uint8\. Got -1\.",
        ),
    ],
)
def test_errors_of_making(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


# ------------------------------------------------------------------------------------------------------------ printing


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: tb.tensor([1.0, 2.5]), "tensor([1. , 2.5])"),
        (lambda: tb.tensor(3), "tensor(3)"),
        (lambda: tb.tensor([True]), "tensor([ True])"),
        (lambda: tb.zeros(0), "tensor([])"),
        (lambda: tb.zeros(2, 0), "tensor([], size=(2, 0))"),
        (lambda: tb.tensor([1.0], dtype=tb.float64), "tensor([1.], dtype=tinygrad_bn.float64)"),
        (lambda: tb.tensor([1], dtype=tb.uint8), "tensor([1], dtype=tinygrad_bn.uint8)"),
        (lambda: tb.ones(1, requires_grad=True), "tensor([1.], requires_grad=True)"),
        (lambda: tb.ones(1, requires_grad=True) * 2, "tensor([2.], grad_fn=<Mul>)"),
        (lambda: tb.ones(1, device="ref"), "tensor([1.], device='ref')"),
        (lambda: tb.tensor([[1.0, 2.0], [3.0, 4.0]]), "tensor([[1., 2.],\n        [3., 4.]])"),
    ],
)
def test_printing(make: Callable[[], tb.Tensor], text: str) -> None:
    assert repr(make()) == text
    assert str(make()) == text


def test_long_tensors_are_abridged() -> None:
    assert "..." in repr(tb.zeros(5000))
    assert len(repr(tb.zeros(100, 100))) < 2000


def test_formatting() -> None:
    assert f"{tb.tensor(2.5):.2f}" == "2.50"
    assert f"{tb.tensor([1.0])}" == "tensor([1.])"
    assert repr(tb.float32) == "tinygrad_bn.float32"
    assert repr(tb.ones(1).device) == "device(type='cpu')"


# ----------------------------------------------------------------------------------------------------- keeping, copying


@pytest.mark.parametrize(
    "copies", [lambda x: pickle.loads(pickle.dumps(x)), copy.deepcopy, copy.copy], ids=["pickle", "deepcopy", "copy"]
)
def test_copies(copies: Callable[[tb.Tensor], tb.Tensor], device: str, dtype: str) -> None:
    x = tb.tensor([[1.0, 2.0], [3.0, 4.0]], device=device, dtype=dtype, requires_grad=True)
    y = copies(x)
    assert y.tolist() == x.tolist()
    assert y.dtype is x.dtype
    assert y.device is x.device
    assert y.requires_grad
    assert y.is_leaf
    (y * 2).sum().backward()
    assert x.grad is None


def test_a_copy_has_memory_of_its_own() -> None:
    x = tb.tensor(np.arange(6.0).reshape(2, 3)).t()
    for y in (pickle.loads(pickle.dumps(x)), copy.deepcopy(x)):
        y.add_(1.0)
        assert x.tolist() == [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]


def test_deepcopy_keeps_gradients_and_identity() -> None:
    x = tb.ones(2, requires_grad=True)
    (x * 3).sum().backward()
    a, b = copy.deepcopy([x, x])
    assert a is b
    assert a.grad is not None
    assert x.grad is not None
    assert a.grad.tolist() == [3.0, 3.0]
    assert not np.shares_memory(a.grad.numpy(), x.grad.numpy())


def test_only_leaves_can_be_kept() -> None:
    y = tb.ones(2, requires_grad=True) * 2
    with pytest.raises(GradientError, match=r"pickle: only leaves can be pickled\.\nHint: use detach\(\)\."):
        pickle.dumps(y)
    with pytest.raises(GradientError):
        copy.deepcopy(y)


def test_dtypes_and_devices_are_kept() -> None:
    for thing in (tb.float32, tb.int64, tb.bool, tb.ones(1).device, tb.ones(1, device="ref").device):
        assert pickle.loads(pickle.dumps(thing)) is thing
        assert copy.deepcopy(thing) is thing


# --------------------------------------------------------------------------------------------------------- other worlds


def test_numpy_shares_memory() -> None:
    x = tb.zeros(3)
    x.numpy()[1] = 4.0
    assert x.tolist() == [0.0, 4.0, 0.0]
    with pytest.raises(GradientError, match=r"numpy: the tensor requires grad\.\nHint: use x\.detach\(\)\.numpy\(\)\."):
        tb.ones(1, requires_grad=True).numpy()


def test_array_protocol() -> None:
    x = tb.tensor([1.5, 2.5])
    assert np.asarray(x).dtype == np.float32
    assert np.asarray(x, np.int64).tolist() == [1, 2]
    assert np.square(x).tolist() == [2.25, 6.25]
    assert np.concatenate([x, np.zeros(1)]).tolist() == [1.5, 2.5, 0.0]
    assert not np.shares_memory(np.array(x), x.numpy())
    with pytest.raises(GradientError):
        np.asarray(tb.ones(1, requires_grad=True))


def test_arrays_and_tensors_mix() -> None:
    x = tb.tensor([1.0, 2.0], dtype=tb.float64)
    array = np.array([10.0, 20.0])
    for got in (x + array, array + x, x * np.float64(2.0), np.float64(2.0) * x):
        assert isinstance(got, tb.Tensor)
    assert (array - x).tolist() == [9.0, 18.0]


def test_dlpack_with_numpy() -> None:
    x = tb.tensor([1.0, 2.0, 3.0])
    array = np.from_dlpack(x)
    assert array.tolist() == [1.0, 2.0, 3.0]
    assert np.shares_memory(array, x.numpy())


@pytest.mark.peers
def test_dlpack_with_pytorch() -> None:
    torch = pytest.importorskip("torch")
    x = tb.tensor([[1.0, 2.0], [3.0, 4.0]])
    theirs = torch.from_dlpack(x)
    theirs[0, 0] = 9.0
    assert x[0, 0].item() == 9.0
    back = tb.from_numpy(np.from_dlpack(theirs))
    assert back.tolist() == x.tolist()
    assert x.__dlpack_device__() == (1, 0)


# ----------------------------------------------------------------------------------------------------------- questions


def test_single_elements() -> None:
    assert tb.tensor(2.5).item() == 2.5
    assert tb.tensor([[3]]).item() == 3
    assert tb.tensor([True]).item() is True
    assert float(tb.tensor(2.5)) == 2.5
    assert int(tb.tensor(2.5)) == 2
    assert [10, 20, 30][tb.tensor(1)] == 20
    assert tb.ones(1, requires_grad=True).item() == 1.0
    with pytest.raises(ShapeError, match=r"item: 'input' must have one element\. Got shape \(2,\)\."):
        tb.zeros(2).item()
    with pytest.raises(TypeError, match=r"index: 'input' must be an integer tensor\. Got float32\."):
        [1, 2][tb.tensor(1.0)]


def test_truth() -> None:
    assert tb.tensor([2.0])
    assert not tb.tensor(0)
    with pytest.raises(
        ArgumentError, match=r"bool: a tensor of shape \(2,\) has no single truth value\.\nHint: reduce it"
    ):
        bool(tb.zeros(2))
    assert tb.tensor([True, True]).all()
    assert not tb.tensor([True, False]).all()
    assert tb.tensor([True, False]).any()
    assert not tb.zeros(3).any()


def test_sequences() -> None:
    x = tb.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert len(x) == 2
    assert [r.tolist() for r in x] == [[1.0, 2.0], [3.0, 4.0]]
    _, second = x
    assert second.tolist() == [3.0, 4.0]
    assert 4.0 in x
    assert 5.0 not in x
    for question in (len, iter):
        with pytest.raises(ShapeError, match="a tensor without axes"):
            question(tb.tensor(1.0))


def test_shapes_and_sizes() -> None:
    x = tb.zeros(2, 3, dtype=tb.float64)
    assert x.shape == (2, 3)
    assert x.size() == (2, 3)
    assert x.size(-1) == 3
    assert x.ndim == x.dim() == 2
    assert x.numel() == 6
    assert x.element_size() == x.itemsize == 8
    assert x.nbytes == 48
    assert x.is_contiguous()
    assert not x.t().is_contiguous()
    assert x.is_floating_point()
    assert not x.is_cuda
    assert hash(x) == hash(x)
    assert len({x, x, tb.zeros(2, 3)}) == 2


def test_views_of_one_another() -> None:
    x = tb.zeros(2, 3)
    assert x.view(3, 2).shape == x.view_as(tb.zeros(3, 2)).shape == x.reshape_as(tb.zeros(3, 2)).shape == (3, 2)
    assert tb.zeros(1, 3).expand_as(x).shape == (2, 3)
    assert x.T.shape == x.mT.shape == x.t().shape == (3, 2)
    x.view(-1)[0] = 1.0
    x.T[2, 1] = 5.0
    assert x.tolist() == [[1.0, 0.0, 0.0], [0.0, 0.0, 5.0]]


def test_unknown_names() -> None:
    with pytest.raises(AttributeError, match=r"Tensor.* has no attribute 'sigmoids'"):
        tb.zeros(1).sigmoids  # noqa: B018
    command = [sys.executable, "-c", "import tinygrad_bn as tb; tb.zeros(1, device='ref').sigmoids"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=120).stderr
    assert re.search(r"Tensor.* has no attribute 'sigmoids'\.\s.*[dD]id you mean:? '?sigmoid", said), said
    with pytest.raises(AttributeError, match=r"tinygrad_bn has no attribute 'sofmax'\.\nHint: did you mean .*softmax"):
        tb.sofmax  # noqa: B018
    assert not hasattr(tb.zeros(1), "no_such_thing_at_all")


def test_attributes_that_do_not_exist_cannot_be_set() -> None:
    with pytest.raises(AttributeError):
        tb.zeros(1).colour = "red"  # type: ignore[attr-defined]


# ---------------------------------------------------------------------------------------------------------------- grad


def test_setting_grad() -> None:
    x = tb.ones(2, requires_grad=True)
    x.grad = tb.tensor([1.0, 2.0])
    x.sum().backward()
    assert x.grad.tolist() == [2.0, 3.0]
    x.grad = None
    assert x.grad is None
    with pytest.raises(GradientError, match=r"grad: 'value' must be a Tensor or None\. Got list\."):
        x.grad = [1.0, 2.0]  # type: ignore[assignment]
    with pytest.raises(
        GradientError,
        match=r"grad: 'value' must be a float32 tensor of shape \(2,\) on cpu\. Got float32, shape \(3,\), on cpu\.",
    ):
        x.grad = tb.zeros(3)
    with pytest.raises(GradientError, match=r"Got float64, shape \(2,\), on cpu\."):
        x.grad = tb.zeros(2, dtype=tb.float64)
    with pytest.raises(GradientError, match=r"Got float32, shape \(2,\), on ref\."):
        x.grad = tb.zeros(2, device="ref")


# ------------------------------------------------------------------------------------------------ dtypes and devices


@pytest.mark.peers
def test_conversions_as_pytorch_does() -> None:
    torch = pytest.importorskip("torch")
    array = np.array([0.0, 1.7, -1.7, 100.0])
    for source in ("float32", "float64", "int64", "int32", "bool", "uint8"):
        base = np.abs(array) if source == "uint8" else array
        for target in ("float32", "float64", "int64", "int32", "int8", "bool"):
            want = torch.from_numpy(base).to(getattr(torch, source)).to(getattr(torch, target))
            got = tb.from_numpy(base).to(getattr(tb, source)).to(getattr(tb, target))
            assert got.tolist() == want.tolist(), (source, target)


def test_to() -> None:
    x = tb.zeros(2)
    assert x.to(tb.float32) is x
    assert x.to("cpu") is x
    assert x.to(tb.float32, copy=True) is not x
    assert x.to("ref").device == "ref"
    assert x.to("ref", tb.float64).dtype is tb.float64
    assert x.to("float64").dtype is tb.float64
    assert x.to(tb.zeros(1, dtype=tb.float64, device="ref")).device == "ref"
    assert x.type_as(tb.arange(2)).dtype is tb.int64
    assert x.double().float().long().int().bool().dtype is tb.bool
    assert x.to("ref").cpu().device == "cpu"


def test_gradients_go_back_to_their_dtype_and_device() -> None:
    x = tb.tensor([0.5, 2.0], requires_grad=True)
    y = x.to(tb.float64).to("ref")
    z = (y**3).sum()
    assert z.device == "ref"
    (g,) = tb.grad(z, x, create_graph=True)
    assert g.dtype is tb.float32
    assert g.device == "cpu"
    np.testing.assert_allclose(g.tolist(), [0.75, 12.0], rtol=1e-6)
    np.testing.assert_allclose(tb.grad(g.sum(), x)[0].tolist(), [3.0, 12.0], rtol=1e-6)


def test_derivatives_through_devices() -> None:
    check_vjp(lambda x: x.to("ref").exp().to("cpu") * x, [tb.tensor([0.3, -0.7], dtype=tb.float64)], order=2)


def test_devices() -> None:
    assert tb.device("cpu") == "cpu"
    assert tb.device("cpu") is tb.zeros(1).device
    assert tb.device("cpu") != "ref"
    assert hash(tb.device("ref")) == hash("ref")
    with pytest.raises(DeviceError, match=r"'device' must be one of cpu, cuda, ref\. Got 'gpu'\."):
        tb.device("gpu")


def test_every_device_computes_the_same(dtype: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((50, 20)).astype(dtype)
    found = [tb.softmax(tb.tensor(x, device=d).tanh() @ tb.tensor(x.T, device=d), 1).numpy() for d in ("cpu", "ref")]
    assert_close(found[0], found[1], 1e-5 if dtype == "float32" else 1e-12)
