"""float16 and bfloat16: conversions to the last bit, every operation, promotion, and what people do with tensors."""

from __future__ import annotations

import copy
import importlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from half_samples import check, samples
from op_samples import RECORDS, OpSamples, Sample

import tinygrad_bn as tb
from tinygrad_bn.core.device import cpu, ref
from tinygrad_bn.core.dtype import numbers, stored
from tinygrad_bn.core.mixed import INNER, WORDS, policy_of
from tinygrad_bn.core.registry import OPS
from tinygrad_bn.errors import DTypeError, SavedTensorError, TinygradError

for _path in sorted(Path(__file__).parent.glob("samples_*.py")):
    importlib.import_module(_path.stem)

Array = np.ndarray[Any, Any]
F = tb.functional
LOW = [tb.float16, tb.bfloat16]
WORD = np.arange(1 << 16, dtype=np.uint16)

low = pytest.mark.parametrize("dtype", LOW, ids=[d.name for d in LOW])


# -------------------------------------------------------------------------------------------------------- conversions


def singles() -> Array:
    """Numbers about every step of both formats: the words themselves, halfway between two, and just off that."""
    out = [np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, 3.4e38, 65504, 65519.99, 65520, 65536], np.float32)]
    upper = np.arange(1 << 16, dtype=np.uint32) << 16
    out += [(upper | k).view(np.float32) for k in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF)]
    half = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float64)
    middle = ((half[1:] + half[:-1]) / 2).astype(np.float32)
    out += [middle, -middle, np.nextafter(middle, np.float32(0)), np.nextafter(middle, np.float32(1e9))]
    return np.concatenate(out)


def widened(device: Any, kind: int) -> Array:
    out = np.empty(WORD.size, np.float32)
    device.kernels.widen.serial(WORD, kind, out)
    return out


def narrowed(device: Any, kind: int, x: Array) -> Array:
    out = np.empty(x.size, np.uint16)
    device.kernels.narrow.serial(x, kind, out)
    return out


@pytest.mark.parametrize("device", [cpu, ref], ids=str)
def test_all_words_of_float16_are_those_of_numpy(device: Any) -> None:
    with np.errstate(all="ignore"):
        want = WORD.view(np.float16).astype(np.float32)
        back = singles().astype(np.float16).view(np.uint16)
    got = widened(device, tb.float16.kind)
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(np.signbit(got), np.signbit(want))
    found, nan = narrowed(device, tb.float16.kind, singles()), np.isnan(singles())
    np.testing.assert_array_equal(found[~nan], back[~nan])
    assert np.isnan(found[nan].view(np.float16)).all()


@pytest.mark.parametrize("device", [cpu, ref], ids=str)
def test_all_words_of_bfloat16_are_the_upper_halves_of_float32(device: Any) -> None:
    want = (WORD.astype(np.uint32) << 16).view(np.float32)
    got = widened(device, tb.bfloat16.kind)
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(np.signbit(got), np.signbit(want))
    whole = ~np.isnan(want)
    np.testing.assert_array_equal(narrowed(device, tb.bfloat16.kind, want)[whole], WORD[whole])


@pytest.mark.parametrize("device", [cpu, ref], ids=str)
@low
def test_rounding_is_to_the_nearest_and_to_the_even_one_of_two(device: Any, dtype: tb.dtype) -> None:
    x = singles()
    x = x[np.isfinite(x)].astype(np.float64)
    below = np.sort(widened(device, dtype.kind)[np.isfinite(widened(device, dtype.kind))].astype(np.float64))
    at = np.searchsorted(below, x)
    lower, upper = below[np.maximum(at - 1, 0)], below[np.minimum(at, below.size - 1)]
    got = widened(device, dtype.kind)[narrowed(device, dtype.kind, x.astype(np.float32))].astype(np.float64)
    inside = np.isfinite(got)
    nearest = np.minimum(np.abs(x - lower), np.abs(x - upper))
    np.testing.assert_array_equal(np.abs(got - x)[inside], nearest[inside])
    tie = inside & (np.abs(x - lower) == np.abs(x - upper)) & (lower != upper)
    assert tie.sum() > 1000
    assert (narrowed(device, dtype.kind, x[tie].astype(np.float32)) % 2 == 0).all()


@pytest.mark.peers
@low
def test_conversions_are_those_of_pytorch(dtype: tb.dtype) -> None:
    torch = pytest.importorskip("torch")
    x, theirs = singles(), getattr(torch, dtype.name)
    want = torch.from_numpy(x).to(theirs).view(torch.int16).numpy().view(np.uint16)
    got, nan = narrowed(cpu, dtype.kind, x), np.isnan(x)
    np.testing.assert_array_equal(got[~nan], want[~nan])
    wide = torch.from_numpy(WORD.view(np.int16)).view(theirs).float().numpy()
    np.testing.assert_array_equal(widened(cpu, dtype.kind), wide)


def test_conversions_are_those_of_ml_dtypes() -> None:
    kind = pytest.importorskip("ml_dtypes").bfloat16
    x = singles()
    with np.errstate(all="ignore"):
        want = x.astype(kind).view(np.uint16)
    got, nan = narrowed(cpu, tb.bfloat16.kind, x), np.isnan(x)
    np.testing.assert_array_equal(got[~nan], want[~nan])


@low
def test_numbers_of_the_host_are_rounded_as_the_kernels_round(dtype: tb.dtype) -> None:
    x = singles()[::97]
    words = np.array([stored(float(v), dtype) for v in x], dtype.storage).view(np.uint16)
    np.testing.assert_array_equal(words[~np.isnan(x)], narrowed(ref, dtype.kind, x)[~np.isnan(x)])
    assert np.isnan(numbers(np.array([stored(float("nan"), dtype)], dtype.storage), dtype)).all()


@low
@pytest.mark.parametrize("other", ["float64", "int64", "uint8", "bool", "float16", "bfloat16"])
def test_conversions_to_and_from_other_dtypes(dtype: tb.dtype, other: str, device: str) -> None:
    x = tb.tensor([0.0, 1.0, 3.0, 200.0], dtype=dtype, device=device)
    want = x.float().numpy().astype(bool if other == "bool" else "float32")
    assert x.to(other).tolist() == want.tolist()
    assert x.to(other).to(dtype).tolist() == want.astype("float32").tolist()
    assert x.to(dtype) is x


# --------------------------------------------------------------------------------------------------- every operation

RULES_ALONE = "is called by rules of backward passes and by functions that have widened, with tensors of float32"
DIRECT = {
    "linear_backward": RULES_ALONE,
    "gradients of activations": RULES_ALONE,
    "norm_convolution": "takes statistics that its sample makes by hand",
}
"""Records whose samples have no meaning in low precision, and why; so has every record of a ``…_backward``."""
GRADIENTS = {("bce", "gradient"), ("bce_logits", "gradient"), ("interpolate", "added")}
"""Samples that call such a thing in other records."""


PLACES = {"batch_norm_residual": 64, "batch_norm_residual_eval": 64}
"""Larger errors, in halves of the last place: gradients are sums that cancel, of terms with the output, which is saved
rounded."""


def _meant(record: OpSamples, sample: Sample) -> bool:
    if record.name in DIRECT or record.name.endswith("_backward"):
        return False
    return (record.name, sample.name) not in GRADIENTS and not sample.name.endswith("backward")


@pytest.mark.parametrize("record", RECORDS, ids=[r.name.replace(" ", "_") for r in RECORDS])
def test_every_operation_gives_what_float32_gives_rounded(record: OpSamples) -> None:
    """Values and gradients of every sample, gradients in their tensors' dtype: bfloat16 on the reference, float16 on
    the processor for one."""
    meant = [s for s in record.samples if _meant(record, s)]
    for i, sample in enumerate(meant):
        check(sample, tb.bfloat16, "ref", PLACES.get(record.name, 8))
        if i == 0:
            check(sample, tb.float16, "cpu", PLACES.get(record.name, 8))


def test_the_operations_without_a_policy_are_those_that_move_words_or_get_float32() -> None:
    without = {name for name in OPS if policy_of(name) is None}
    assert without == {n for n in OPS if n in WORDS or n in INNER or n.endswith("_backward")}
    assert all(hasattr(OPS[name].function, "__wrapped__") is (name not in without) for name in OPS)
    assert {r.name for r in RECORDS} >= DIRECT.keys()
    assert all(any(r.name == n and s.name == m for r, s in samples()) for n, m in GRADIENTS)


def test_a_wrong_result_would_be_found() -> None:
    """The comparison itself: off by a few places, of another dtype, a gradient that is missing."""
    x = np.linspace(0.5, 2, 40)
    low_alone = lambda x, y, z: z if x.dtype.low else y  # noqa: E731
    for call in (
        lambda lib, x: low_alone(x, x * 2.0, x * 2.2),
        lambda lib, x: low_alone(x, x * 2.0, (x * 2.0).float()),
        lambda lib, x: low_alone(x, x * 2.0, x.detach() * 2.0),
    ):
        with pytest.raises(AssertionError):
            check(Sample("wrong", call, (x,)), tb.bfloat16, "ref")


def test_words_move_without_being_looked_at(device: str) -> None:
    """NaN payloads, too, come out of views and copies as they went in."""
    x = tb.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=tb.bfloat16, device=device)
    x.array[...] = np.array([[0x7FC1, 0xFFC7], [0x0001, 0x8000]], np.uint16)
    at = tb.tensor([1, 0], device=device)
    for y in (
        x.clone(),
        x.T.contiguous().T,
        tb.cat([x[:1], x[1:]]),
        x[at][at],
        x.reshape(4).view(2, 2),
        x.expand(2, 2),
    ):
        assert y.dtype is tb.bfloat16
        assert y.array.tolist() == x.array.tolist()
    assert F.embedding(at, x).array.tolist() == x.array[::-1].tolist()
    assert tb.stack([x, x])[1].array.tolist() == x.array.tolist()


# ----------------------------------------------------------------------------------------------------------- promotion


@low
def test_promotion(dtype: tb.dtype) -> None:
    x, one = tb.ones(2, dtype=dtype), tb.ones((), dtype=dtype)
    for other, want in (
        (1, dtype),
        (2.5, dtype),
        (True, dtype),
        (tb.ones(2, dtype=tb.int64), dtype),
        (tb.ones(2, dtype=tb.bool), dtype),
        (tb.ones(2), tb.float32),
        (tb.ones(2, dtype=tb.float64), tb.float64),
        (tb.ones(()), dtype),
    ):
        assert (x + other).dtype is want
        assert (other + x).dtype is want
    assert (one + tb.ones(2)).dtype is tb.float32
    assert (one + tb.ones(2, dtype=tb.int64)).dtype is dtype
    assert (tb.ones(2, dtype=tb.float16) + tb.ones(2, dtype=tb.bfloat16)).dtype is tb.float32


@pytest.mark.peers
def test_promotion_is_that_of_pytorch() -> None:
    torch = pytest.importorskip("torch")
    kinds = ("bool", "uint8", "int64", "float16", "bfloat16", "float32", "float64")
    for a in kinds:
        for b in kinds:
            for shapes in (((2,), (2,)), ((), (2,)), ((2,), ()), ((), ())):
                ours, theirs = (
                    lib.ones(shapes[0], dtype=getattr(lib, a)) * lib.ones(shapes[1], dtype=getattr(lib, b))
                    for lib in (tb, torch)
                )
                assert ours.dtype.name == str(theirs.dtype).removeprefix("torch."), (a, b, shapes)
        for number in (True, 2, 2.5):
            ours, theirs = (lib.ones(2, dtype=getattr(lib, a)) * number for lib in (tb, torch))
            assert ours.dtype.name == str(theirs.dtype).removeprefix("torch.")


@low
def test_a_number_is_not_rounded_before_the_operation_is(dtype: tb.dtype) -> None:
    x = tb.tensor([3.0, 1000.0], dtype=dtype)
    want = (x.float() * 1.001).to(dtype)
    assert (x * 1.001).tolist() == want.tolist()


# --------------------------------------------------------------------------------------------------------- as a tensor


@low
def test_making_tensors(dtype: tb.dtype, device: str) -> None:
    given: dict[str, Any] = {"dtype": dtype, "device": device}
    assert tb.ones(3, **given).tolist() == [1.0] * 3
    assert tb.full((2,), 0.1, **given).tolist() == tb.tensor([0.1, 0.1], **given).tolist()
    assert tb.arange(4, **given).tolist() == [0.0, 1.0, 2.0, 3.0]
    assert tb.linspace(0, 1, 3, **given).tolist() == [0.0, 0.5, 1.0]
    assert tb.eye(2, **given).tolist() == [[1.0, 0.0], [0.0, 1.0]]
    assert tb.ones_like(tb.zeros(2, **given)).dtype is dtype
    assert tb.tensor(tb.ones(2, **given)).dtype is dtype
    for make in (tb.rand, tb.randn):
        tb.manual_seed(3)
        drawn = make(5, **given)
        tb.manual_seed(3)
        assert drawn.tolist() == make(5, device=device).to(dtype).tolist()
    assert tb.randint(0, 9, (4,), **given).dtype is dtype
    w = tb.empty(50, **given)
    for fill in (tb.nn.init.normal_, tb.nn.init.uniform_, tb.nn.init.trunc_normal_, tb.nn.init.ones_):
        assert fill(w) is w
        assert tb.isfinite(w).all()
    assert tb.nn.init.constant_(w, 0.5).tolist() == [0.5] * 50


def test_names() -> None:
    x = tb.ones(2)
    assert x.half().dtype is tb.float16 is tb.half
    assert x.bfloat16().dtype is tb.bfloat16
    assert x.to("bfloat16").element_size() == 2
    assert x.half().nbytes == 4
    assert tb.bfloat16.is_floating_point
    with pytest.raises(DTypeError, match=r"set_default_dtype: 'dtype' must be float32 or float64\. Got bfloat16\."):
        tb.set_default_dtype(tb.bfloat16)


def test_to_numpy_and_back() -> None:
    x = tb.tensor([1.0, 65519.0, -0.0])
    y = x.half()
    assert y.numpy().dtype == np.float16
    y.numpy()[0] = 3.0
    assert y.tolist() == [3.0, 65504.0, 0.0]
    assert tb.from_numpy(np.array([0.5], np.float16)).dtype is tb.float16
    for call in (x.bfloat16().numpy, lambda: np.asarray(x.bfloat16())):
        with pytest.raises(DTypeError, match=r"^numpy: NumPy has no bfloat16\.\nHint: use x\.float\(\)\.numpy\(\)\.$"):
            call()
    with pytest.raises(TinygradError, match="uint16 have no dtype"):
        tb.from_numpy(np.zeros(2, np.uint16))


@low
def test_numbers_of_a_tensor(dtype: tb.dtype) -> None:
    x = tb.tensor([[1.0, 2.09375]], dtype=dtype, requires_grad=True)
    assert x.tolist() == [[1.0, 2.09375]]
    assert x[0, 1].item() == 2.09375
    assert float(x[0, 0]) == 1.0
    assert not tb.tensor(-0.0, dtype=dtype)
    assert 2.09375 in x.detach()
    assert f"{x[0, 0]:.1f}" == "1.0"
    assert repr(x).splitlines()[0].startswith("tensor([[1.")
    assert f"dtype=tinygrad_bn.{dtype.name}, requires_grad=True" in repr(x)


@low
def test_copies_and_pickles(dtype: tb.dtype) -> None:
    x = tb.tensor([[1.0, 0.1], [2.0, 3.0]], dtype=dtype, requires_grad=True)
    p = tb.nn.Parameter(x.detach().T)
    for y, want in ((x, x), (p, x.T)):
        for z in (copy.deepcopy(y), pickle.loads(pickle.dumps(y))):
            assert z.dtype is dtype
            assert z.tolist() == want.tolist()
            assert z.requires_grad
            assert (z + 0).tolist() == want.tolist()


@low
def test_safetensors(dtype: tb.dtype, tmp_path: Path) -> None:
    torch_file = pytest.importorskip("safetensors.torch") if _has_torch() else None
    layer, path = tb.nn.Linear(3, 2).to(dtype), tmp_path / "f.safetensors"
    odd = {"empty": tb.zeros(0, 3, dtype=dtype), "flags": tb.tensor([True]), "count": tb.arange(3), "n": 3}
    tb.save({"layer": layer.state_dict(), **odd}, path)
    found = tb.load(path)
    assert found["layer"]["weight"].dtype is dtype
    assert found["layer"]["weight"].tolist() == layer.weight.tolist()
    assert (found["empty"].shape, found["flags"].tolist(), found["count"].tolist()) == ((0, 3), [True], [0, 1, 2])
    if torch_file is not None:
        theirs = torch_file.load_file(path)
        assert str(theirs["layer/weight"].dtype) == f"torch.{dtype.name}"
        assert theirs["layer/weight"].tolist() == layer.weight.tolist()
        torch_file.save_file({k: t * 1.0 for k, t in theirs.items()}, path)
        assert tb.load(path)["layer/weight"].tolist() == layer.weight.tolist()


def _has_torch() -> bool:
    return importlib.util.find_spec("torch") is not None


@low
def test_changes_in_place(dtype: tb.dtype, device: str) -> None:
    x = tb.ones(4, dtype=dtype, device=device)
    x += 0.1
    x.mul_(tb.full((4,), 3.0, device=device)).clamp_(max=3.2)
    assert x.dtype is dtype
    want = tb.tensor([1.1], dtype=dtype, device=device)
    assert x.tolist() == [tb.clamp(want * 3.0, max=3.2).item()] * 4
    x[0] = 7
    x[1:3] = tb.tensor([0.1, 0.2], device=device)
    x[tb.tensor([3], device=device)] = 5.0
    x[x > 6] = -1.0
    rounded = tb.tensor([0.1, 0.2], dtype=dtype).tolist()
    assert x.tolist() == [-1.0, *rounded, 5.0]
    wide = tb.zeros(4, device=device).copy_(x)
    assert wide.tolist() == x.tolist()
    assert x.copy_(wide * 0.5).tolist() == [v / 2 for v in wide.tolist()]
    assert x.zero_().fill_(2.5).tolist() == [2.5] * 4


@low
def test_gradients_have_their_tensors_dtype_and_accumulate_as_pytorch_does(dtype: tb.dtype) -> None:
    x = tb.tensor([256.0, 3.0], dtype=dtype, requires_grad=True)
    w = tb.tensor([1.0, 2.0], requires_grad=True)
    for _ in range(2):
        (x * w).sum().backward()
    assert x.grad is not None
    assert w.grad is not None
    assert x.grad.dtype is dtype
    assert w.grad.dtype is tb.float32
    assert w.grad.tolist() == [512.0, 6.0]
    big, one = tb.full((1,), 256.0, dtype=dtype), tb.ones(1, dtype=dtype)
    y = tb.zeros(1, dtype=dtype, requires_grad=True)
    y.backward(big)
    y.backward(one)
    assert y.grad is not None
    assert y.grad.tolist() == (big + one).tolist()


@low
def test_second_derivatives(dtype: tb.dtype) -> None:
    x = tb.tensor([0.5, 2.0], dtype=dtype, requires_grad=True)
    (g,) = tb.grad((x * x * x).sum(), x, create_graph=True)
    assert g is not None
    (h,) = tb.grad(g.sum(), x)
    assert h is not None
    assert h.dtype is dtype
    assert h.tolist() == [3.0, 12.0]


@low
def test_what_is_saved_for_backward_is_in_low_precision(dtype: tb.dtype) -> None:
    """Inputs as well as outputs; nothing that float32 would have kept stays besides."""
    x, w = (tb.randn(64, 512).to(dtype).requires_grad_() for _ in range(2))
    for function in (lambda: x * w, x.exp, x.tanh, x.relu, lambda: tb.softmax(x, 1), lambda: F.gelu(x)):
        y: Any = None
        before = tb.memory_allocated()
        y = function()
        assert tb.memory_allocated() - before == y.nbytes
        assert y.node is not None


def test_what_was_saved_in_low_precision_must_not_change() -> None:
    x = tb.ones(3, dtype=tb.bfloat16, requires_grad=True)
    y = x * 1.0
    z, e = y * y, x.exp()
    y.add_(1.0)
    with pytest.raises(SavedTensorError, match="Mul: a tensor of shape"):
        z.sum().backward()
    e2 = e * 2.0
    e.add_(1.0)
    with pytest.raises(SavedTensorError, match="Exp: a tensor of shape"):
        e2.sum().backward()
    y = x * 1.0
    y.mul_(y * 3.0)  # the old values are kept where the operation itself overwrites them
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [6.0] * 3


def test_own_functions_and_kernels_compute_in_float32() -> None:
    @tb.elementwise
    def shifted(x, y=1.0):  # type: ignore[no-untyped-def]
        return x * y + 1.0

    def forward(x, y):  # type: ignore[no-untyped-def]
        assert x.dtype == np.float32
        y[...] = x + 1.0

    op = tb.register_op("shifted_half", forward, inputs="x", outputs="y", replace=True)
    x = tb.tensor([1.0, 2.0], dtype=tb.bfloat16, requires_grad=True)
    y = shifted(x, y=2.0)
    y.sum().backward()
    assert (y.dtype, y.tolist()) == (tb.bfloat16, [3.0, 5.0])
    assert x.grad is not None
    assert (x.grad.dtype, x.grad.tolist()) == (tb.bfloat16, [2.0, 2.0])
    assert (op(x.detach()).dtype, op(x.detach()).tolist()) == (tb.bfloat16, [2.0, 3.0])


def test_float64_is_not_lost() -> None:
    x = tb.ones(2, dtype=tb.float64) / 3.0
    assert (x + tb.zeros(2, dtype=tb.bfloat16)).tolist() == x.tolist()


def test_a_nan_in_a_low_precision_gradient_is_found() -> None:
    x = tb.tensor([0.0], dtype=tb.bfloat16, requires_grad=True)
    with pytest.raises(RuntimeError, match="NaN"), tb.detect_anomaly():
        (tb.sqrt(x) * 0.0).sum().backward()
