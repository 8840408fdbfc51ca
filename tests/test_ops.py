"""The generic suite: every operation, from its record in ``op_samples.py``, on every device, dtype and layout."""

from __future__ import annotations

import importlib
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import strategies
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from op_samples import RECORDS, Fault, OpSamples, Sample
from scipy.special import logsumexp

import tinygrad_bn as tb
from tinygrad_bn.core import backward as engine
from tinygrad_bn.core.registry import OPS
from tinygrad_bn.core.tape import Node
from tinygrad_bn.errors import TinygradError
from tinygrad_bn.testing import assert_close, check_op, check_vjp, make_tensor

for _path in sorted(Path(__file__).parent.glob("samples_*.py")):
    importlib.import_module(_path.stem)

pytestmark = [pytest.mark.jit_off]


def _ids(pairs: list[tuple[OpSamples, Any]]) -> list[str]:
    return [f"{r.name}-{s.name}".replace(" ", "") for r, s in pairs]


SAMPLES = [(r, s) for r in RECORDS for s in r.samples]
FAULTS = [(r, f) for r in RECORDS for f in r.faults]
SMOOTH = [(r, s) for r, s in SAMPLES if s.order]
PEERS = [(r, s) for r, s in SAMPLES if s.torch]

every_sample = pytest.mark.parametrize(("record", "sample"), SAMPLES, ids=_ids(SAMPLES))
peer_samples = pytest.mark.parametrize(("record", "sample"), PEERS, ids=_ids(PEERS))


def _on(sample: Sample) -> Any:
    return lambda *tensors: sample.call(tb, *tensors)


@every_sample
def test_operation(record: OpSamples, sample: Sample, device: str, dtype: str) -> None:
    """Values against the oracle, first and second derivatives; layouts, aliasing, mutation, dtypes."""
    check_op(
        _on(sample),
        sample.arrays,
        reference=sample.numpy,
        devices=(device,),
        dtypes=(dtype,),
        order=sample.order,
        view=sample.view,
    )


@pytest.mark.peers
@peer_samples
def test_values_and_gradients_of_pytorch(record: OpSamples, sample: Sample) -> None:
    torch = pytest.importorskip("torch")
    theirs = [torch.from_numpy(a.copy()) for a in sample.arrays]
    ours = [make_tensor(a) for a in sample.arrays]
    for x in (*theirs, *ours):
        if sample.order and x.dtype in (torch.float64, tb.float64):
            x.requires_grad = True
    call = sample.call if sample.torch is True else sample.torch
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's, of reductions over nothing
        want = call(torch, *theirs)
    want = [want] if isinstance(want, torch.Tensor) else list(want)
    got = sample.call(tb, *ours)
    got = [got] if isinstance(got, tb.Tensor) else list(got)
    assert len(want) == len(got)
    for w, g in zip(want, got, strict=True):
        assert str(w.dtype).removeprefix("torch.") == g.dtype.name
        assert_close(g.detach().numpy(), w.detach().numpy(), 1e-12)
    if not sample.order or not sample.torch_gradient:
        return
    rng = np.random.default_rng(1)
    cotangents = [rng.standard_normal(g.shape) for g in got]
    pairs = [(w, g, c) for w, g, c in zip(want, got, cotangents, strict=True) if g.requires_grad]
    torch.autograd.backward([w for w, _, _ in pairs], [torch.from_numpy(c) for _, _, c in pairs])
    engine.backward([g for _, g, _ in pairs], [tb.from_numpy(c) for _, _, c in pairs], None, False)
    for w, g in zip(theirs, ours, strict=True):
        if w.grad is not None and g.requires_grad:
            assert g.grad is not None
            assert_close(g.grad.numpy(), w.grad.numpy(), 1e-11, "the gradient")


@pytest.mark.parametrize(("record", "fault"), FAULTS, ids=_ids(FAULTS))
def test_errors(record: OpSamples, fault: Fault) -> None:
    """Each error has its class, its builtin's class, and says what is wrong by the template."""
    with pytest.raises(fault.error) as caught:
        fault.call()
    assert isinstance(caught.value, TinygradError)
    assert isinstance(caught.value, ValueError | TypeError | RuntimeError | IndexError)
    assert re.search(fault.message, str(caught.value), re.DOTALL), str(caught.value)


def test_every_operation_has_a_record() -> None:
    """Whoever adds an operation adds its samples."""
    covered = {op for r in RECORDS for op in r.ops}
    assert covered == set(OPS)


def test_every_rule_is_exercised(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every backward rule of the table runs in some sample's second derivative."""
    seen: set[str] = set()
    init = Node.__init__

    def noting(self: Node, *args: object, **kwargs: object) -> None:
        seen.add(type(self).__name__)
        init(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Node, "__init__", noting)
    for _, sample in SMOOTH:
        if min((a.size for a in sample.arrays), default=1):
            check_vjp(_on(sample), [make_tensor(a) for a in sample.arrays], order=sample.order)
    rules = {rule.__name__ for op in OPS.values() for rule in op.rules}
    assert rules - seen == {"Cast", "Transfer"}  # between dtypes and devices: tests/test_tensor.py


# ------------------------------------------------------------------------------------------------------- promotion

DTYPES = ("bool", "uint8", "int8", "int16", "int32", "int64", "float32", "float64")
PROMOTING = ("add", "mul", "div", "maximum", "where", "eq")


def _of(lib: Any, kind: str, shape: tuple[int, ...]) -> Any:
    """Ones; ours on ``ref``, where nothing is compiled: dtypes do not depend on the device."""
    device = "ref" if lib is tb else "cpu"
    if shape:
        return lib.ones(*shape, dtype=getattr(lib, kind), device=device)
    return lib.tensor(1, dtype=getattr(lib, kind), device=device)


def _apply(lib: Any, op: str, a: Any, b: Any) -> Any:
    if op == "where":
        return lib.where(lib.tensor([True, False], device=a.device), a, b)
    return getattr(lib, op)(a, b)


@pytest.mark.peers
@pytest.mark.parametrize("op", PROMOTING)
@pytest.mark.parametrize("shapes", [((2,), (2,)), ((2,), ()), ((), (2,)), ((), ())], ids=str)
def test_promotion_of_tensors_is_that_of_pytorch(op: str, shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    torch = pytest.importorskip("torch")
    for a in DTYPES:
        for b in DTYPES:
            want = _apply(torch, op, _of(torch, a, shapes[0]), _of(torch, b, shapes[1]))
            got = _apply(tb, op, _of(tb, a, shapes[0]), _of(tb, b, shapes[1]))
            assert got.dtype.name == str(want.dtype).removeprefix("torch."), (a, b)
            assert got.tolist() == want.tolist()


@pytest.mark.peers
@pytest.mark.parametrize("op", ["add", "mul", "div", "eq"])
@pytest.mark.parametrize("number", [True, 2, 2.5])
def test_promotion_of_numbers_is_that_of_pytorch(op: str, number: float) -> None:
    torch = pytest.importorskip("torch")
    for kind in DTYPES:
        for shape in ((2,), ()):
            for swap in (False, True):
                want, got = _of(torch, kind, shape), _of(tb, kind, shape)
                if swap:
                    want, got = _swapped(op, want, number), _swapped(op, got, number)
                else:
                    want, got = _apply(torch, op, want, number), _apply(tb, op, got, number)
                assert got.dtype.name == str(want.dtype).removeprefix("torch."), (kind, shape, swap)
                assert np.allclose(got.tolist(), want.tolist(), rtol=1e-6)


def _swapped(op: str, x: Any, number: float) -> Any:
    return {"add": lambda: number + x, "mul": lambda: number * x, "div": lambda: number / x, "eq": lambda: number == x}[
        op
    ]()


@pytest.mark.parametrize(
    ("a", "b", "want"),
    [
        ("float32", "int64", "float32"),
        ("float32", "float64", "float64"),
        ("uint8", "int8", "int16"),
        ("bool", "uint8", "uint8"),
        ("int32", "int64", "int64"),
        ("bool", "bool", "bool"),
        ("int64", "float64", "float64"),
    ],
)
def test_promotion(a: str, b: str, want: str) -> None:
    """float32 + int64 is float32, uint8 + int8 the smallest type that holds both."""
    assert (_of(tb, a, (2,)) + _of(tb, b, (2,))).dtype.name == want
    assert (_of(tb, b, (2,)) + _of(tb, a, (2,))).dtype.name == want


def test_a_number_does_not_widen() -> None:
    assert (tb.ones(2) * 2.5).dtype is tb.float32
    assert (tb.ones(2, dtype=tb.int32) + 2).dtype is tb.int32
    assert (tb.ones(2, dtype=tb.int32) + 2.5).dtype is tb.float32
    assert (tb.ones(2) + tb.tensor(2.5, dtype=tb.float64)).dtype is tb.float32


@pytest.mark.parametrize("kind", ["bool", "uint8", "int32"])
def test_integers_on_every_device(kind: str, device: str) -> None:
    """Sums wrap around and comparisons hold as in NumPy."""
    a, b = np.array([0, 1, 200, 7], kind), np.array([1, 1, 100, 7], kind)
    x, y = tb.tensor(a, device=device), tb.tensor(b, device=device)
    assert (x + y).tolist() == (a + b).tolist()
    assert (x < y).tolist() == (a < b).tolist()
    assert x.to(tb.float32).tolist() == a.astype(float).tolist()
    assert x.sum().item() == int(a.sum())


# ---------------------------------------------------------------------------------------------------- special values

SPECIAL = np.array(
    [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, -1e-45, 1e-39, 3e38, -3e38, 1.0, -1.0, 0.5, 88.0, 89.5, -104.0]
)


@pytest.mark.parametrize("op", ["neg", "abs", "sign", "exp", "log", "sqrt", "tanh", "sigmoid", "relu"])
def test_special_values_of_functions(op: str, device: str, dtype: str) -> None:
    """NaN, infinities, zeros, subnormal and huge numbers, alone and in the middle of a register."""
    x = np.concatenate([np.linspace(-1, 1, 7), SPECIAL, np.linspace(-3, 3, 30)]).astype(dtype)
    reference = {
        "relu": lambda v: np.maximum(v, 0),
        "abs": np.abs,
        "neg": np.negative,
        "sigmoid": lambda v: 1 / (1 + np.exp(-v)),
    }
    with np.errstate(all="ignore"):
        want = reference.get(op, getattr(np, op, None))(x.astype(np.float64)).astype(dtype)
    got = getattr(tb, op)(tb.tensor(x, device=device)).numpy()
    assert np.array_equal(np.isnan(got), np.isnan(want))
    finite = np.isfinite(want)
    np.testing.assert_array_equal(got[~finite], want[~finite])
    np.testing.assert_allclose(got[finite], want[finite], rtol=1e-6 if dtype == "float32" else 1e-14, atol=1.5e-45)


@pytest.mark.parametrize("op", ["add", "sub", "mul", "div", "maximum", "minimum", "pow", "eq", "lt", "ge", "ne"])
def test_special_values_of_pairs(op: str, device: str, dtype: str) -> None:
    x, y = (a.ravel().astype(dtype) for a in np.meshgrid(SPECIAL, SPECIAL))
    numpy = {
        "sub": "subtract",
        "div": "divide",
        "mul": "multiply",
        "pow": "power",
        "eq": "equal",
        "lt": "less",
        "ge": "greater_equal",
        "ne": "not_equal",
    }.get(op, op)
    with np.errstate(all="ignore"):
        want = getattr(np, numpy)(x, y)
    got = getattr(tb, op)(tb.tensor(x, device=device), tb.tensor(y, device=device)).numpy()
    if want.dtype == bool:
        np.testing.assert_array_equal(got, want)
    else:
        np.testing.assert_allclose(got, want, rtol=1e-6 if dtype == "float32" else 1e-14, atol=1.5e-45)


def test_gradients_of_special_values(device: str, dtype: str) -> None:
    """At the kinks: 0 for |x| and relu at 0, an even share for ties, limits count as inside; NaN stays NaN."""
    for function, point, want in (
        (tb.abs, [0.0, -2.0, np.nan], [0.0, -1.0, np.nan]),
        (tb.relu, [0.0, 3.0, np.nan], [0.0, 1.0, np.nan]),
        (lambda x: tb.clamp(x, -1.0, 1.0), [-1.0, 1.0, 2.0], [1.0, 1.0, 0.0]),
        (lambda x: tb.maximum(x, tb.ones(3, dtype=dtype, device=device)), [1.0, 0.0, 2.0], [0.5, 0.0, 1.0]),
        (lambda x: tb.minimum(x, tb.ones(3, dtype=dtype, device=device)), [1.0, 0.0, 2.0], [0.5, 1.0, 0.0]),
        (lambda x: x**0.0, [0.0, 1.0, -1.0], [0.0, 0.0, 0.0]),
        (lambda x: x**2.0, [0.0, 1.0, -1.5], [0.0, 2.0, -3.0]),
        (lambda x: x**1.0, [0.0, 1.0, -1.5], [1.0, 1.0, 1.0]),
    ):
        x = tb.tensor(np.array(point, dtype), device=device, requires_grad=True)
        function(x).backward(tb.ones_like(x))
        assert x.grad is not None
        np.testing.assert_array_equal(x.grad.numpy(), want)


def test_the_gradient_of_a_maximum_goes_to_the_first_along_an_axis_and_evenly_over_all() -> None:
    x = tb.tensor([[1.0, 3.0, 3.0]], requires_grad=True)
    assert tb.grad(x.max(1).values.sum(), x)[0].tolist() == [[0.0, 1.0, 0.0]]
    assert tb.grad(x.max(), x)[0].tolist() == [[0.0, 0.5, 0.5]]


# ------------------------------------------------------------------------------- any shape, any strides, as properties

devices = st.sampled_from(["cpu", "ref"])


@st.composite
def tensors(draw: st.DrawFn, shape: tuple[int, ...], dtype: str, device: str) -> tb.Tensor:
    array = draw(strategies.values(shape, dtype))
    x = make_tensor(array, draw(strategies.LAYOUTS), device)
    if draw(st.booleans()) and x.ndim > 1:
        x = x.transpose(0, -1).contiguous().transpose(0, -1)
    return x


@given(st.data(), devices, strategies.DTYPES)
def test_operands_of_any_strides_broadcast(data: st.DataObject, device: str, dtype: str) -> None:
    a, b, c = (data.draw(tensors(s, dtype, device)) for s in data.draw(strategies.broadcastable(3)))
    np.testing.assert_array_equal((a + b).numpy(), a.numpy() + b.numpy())
    np.testing.assert_array_equal(tb.maximum(a, c).numpy(), np.maximum(a.numpy(), c.numpy()))
    np.testing.assert_array_equal(tb.where(a > b, b, c).numpy(), np.where(a.numpy() > b.numpy(), b.numpy(), c.numpy()))


@given(st.data(), devices, strategies.DTYPES)
def test_gradients_of_operands_of_any_strides(data: st.DataObject, device: str, dtype: str) -> None:
    """Those of a b + c: sums over what was broadcast."""
    xs = [data.draw(tensors(s, dtype, device)).requires_grad_() for s in data.draw(strategies.broadcastable(3))]
    a, b, _ = (x.detach().numpy().astype(np.float64) for x in xs)
    y = xs[0] * xs[1] + xs[2]
    g = data.draw(tensors(y.shape, dtype, device))
    y.backward(g)
    wide = g.numpy().astype(np.float64)
    for x, full in zip(xs, (wide * b, wide * a, wide), strict=True):
        assert x.grad is not None
        full = np.broadcast_to(full, y.shape)
        lead = y.ndim - x.ndim
        axes = (*range(lead), *[i + lead for i, n in enumerate(x.shape) if n == 1])
        want, size = (f.sum(axes, keepdims=True).reshape(x.shape) for f in (full, np.abs(full)))
        limit = 1e-5 if dtype == "float32" else 1e-13
        assert (np.abs(x.grad.numpy() - want) <= limit * size + 1e-300).all()


@given(st.data(), devices, strategies.DTYPES, strategies.shapes(1, 4, 1, 5), st.booleans())
def test_reductions_of_any_shape(
    data: st.DataObject, device: str, dtype: str, shape: tuple[int, ...], keepdim: bool
) -> None:
    x = data.draw(tensors(shape, dtype, device))
    n = x.ndim
    dims = data.draw(st.lists(st.integers(-n, n - 1), unique_by=lambda d: d % n, min_size=1))
    wide = x.numpy().astype(np.float64)
    limit = 1e-5 if dtype == "float32" else 1e-13
    for name in ("sum", "mean", "logsumexp"):
        want = {"sum": np.sum, "mean": np.mean, "logsumexp": logsumexp}[name](wide, axis=tuple(dims), keepdims=keepdim)
        got = getattr(tb, name)(x, dims, keepdim=keepdim).numpy()
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=limit, atol=limit * np.abs(wide).sum())
    d = dims[0]
    np.testing.assert_array_equal(x.max(d, keepdim).values.numpy(), x.numpy().max(d, keepdims=keepdim))
    np.testing.assert_array_equal(x.argmin(d, keepdim).numpy(), x.numpy().argmin(d, keepdims=keepdim))
    np.testing.assert_allclose(tb.softmax(x, d).numpy(), np.exp(wide - logsumexp(wide, d, keepdims=True)), atol=limit)


@given(st.data(), devices, strategies.DTYPES)
def test_products_of_any_shape(data: st.DataObject, device: str, dtype: str) -> None:
    side = st.one_of(st.integers(0, 2), st.integers(0, 40))
    m, n, k = (data.draw(side) for _ in range(3))
    batch_a, batch_b = data.draw(strategies.broadcastable(2, 2))
    a = data.draw(tensors((*batch_a, m, k), dtype, device))
    b = data.draw(tensors((*batch_b, k, n), dtype, device))
    x, y = a.numpy().astype(np.float64), b.numpy().astype(np.float64)
    got = (a @ b).numpy()
    want = x @ y
    assert got.shape == want.shape
    limit = 1e-5 if dtype == "float32" else 1e-13
    assert (np.abs(got - want) <= limit * (np.abs(x) @ np.abs(y)) + 1e-300).all()


@given(st.data(), devices)
def test_indices_of_any_kind(data: st.DataObject, device: str) -> None:
    """Drawn by Hypothesis for NumPy: basic and advanced, one by one and mixed; read, and written in place."""
    shape = data.draw(strategies.shapes(1, 3, 1, 5))
    basic = hnp.basic_indices(shape, allow_newaxis=True).filter(_forward)
    mask = hnp.arrays(bool, shape)
    integers = hnp.integer_array_indices(shape, result_shape=hnp.array_shapes(max_dims=2, min_side=0, max_side=4))
    index = data.draw(st.one_of(basic, mask, integers))
    x = data.draw(tensors(shape, "float64", device))
    array = x.numpy().copy()
    want = array[index]
    np.testing.assert_array_equal(x[index].numpy(), want)
    y = x.clone()
    y[index] = 7.0
    array[index] = 7.0
    np.testing.assert_array_equal(y.numpy(), array)


def _forward(index: Any) -> bool:
    items = index if isinstance(index, tuple) else (index,)
    return all(not isinstance(i, slice) or (i.step or 1) > 0 for i in items)


@given(st.data(), devices, strategies.shapes(1, 4, 0, 4))
def test_shapes_can_be_changed_and_changed_back(data: st.DataObject, device: str, shape: tuple[int, ...]) -> None:
    x = data.draw(tensors(shape, "float64", device)).requires_grad_()
    order = data.draw(st.permutations(range(len(shape))))
    y = x.permute(*order)
    np.testing.assert_array_equal(y.detach().numpy(), x.detach().numpy().transpose(order))
    z = y.reshape(-1)
    np.testing.assert_array_equal(z.detach().numpy(), x.detach().numpy().transpose(order).reshape(-1))
    g = tb.tensor(np.arange(z.numel(), dtype=np.float64), device=device)
    z.backward(g)
    assert x.grad is not None
    want = g.numpy().reshape([shape[i] for i in order]).transpose(np.argsort(order))
    np.testing.assert_array_equal(x.grad.numpy(), want)
