"""Convolutions: any configuration against PyTorch and against the definition of an adjoint; chunks, threads, layers.

``--hypothesis-profile=intense`` draws a thousand configurations each of convolutions and of their transposes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import strategies
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_bn as tb
import tinygrad_bn.nn.functional as F
from tinygrad_bn import nn
from tinygrad_bn.core import launch
from tinygrad_bn.core.backward import backward
from tinygrad_bn.errors import ArgumentError, ShapeError
from tinygrad_bn.kernels.spec import Kernel
from tinygrad_bn.ops import convolution
from tinygrad_bn.testing import assert_close, make_tensor

Array = np.ndarray[Any, Any]
LIMIT = {"float32": 1e-5, "float64": 1e-10}

# --------------------------------------------------------------------------------------------------- any configuration


@dataclass(frozen=True)
class Problem:
    """A call of a convolution: its name, its options, and its tensors' values, a bias perhaps the third."""

    op: str
    options: dict[str, Any]
    arrays: tuple[Array, ...]
    layouts: tuple[str, ...]
    device: str
    algorithm: str
    columns: int
    seed: int

    @property
    def dtype(self) -> str:
        return str(self.arrays[0].dtype)

    def ours(self) -> list[tb.Tensor]:
        return [make_tensor(a, k, self.device).requires_grad_() for a, k in zip(self.arrays, self.layouts, strict=True)]


def _numbers(draw: st.DrawFn, axes: int, low: int, high: int) -> tuple[int, ...]:
    return tuple(draw(st.one_of(st.just(low), st.integers(low, high))) for _ in range(axes))


def _given_as(draw: st.DrawFn, values: tuple[int, ...]) -> Any:
    """The numbers as a tuple or a list; as one int where they are alike."""
    return values[0] if len(set(values)) == 1 and draw(st.booleans()) else draw(st.sampled_from([tuple, list]))(values)


@st.composite
def problems(draw: st.DrawFn, transposed: bool) -> Problem:
    axes = draw(st.integers(1, 2))
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    inputs, outputs = draw(st.integers(1, 5)) * groups, draw(st.integers(1, 5)) * groups
    kernel, dilation = _numbers(draw, axes, 1, 4), _numbers(draw, axes, 1, 3)
    stride, padding = _numbers(draw, axes, 1, 3), _numbers(draw, axes, 0, 3)
    span = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    options: dict[str, Any] = {"groups": groups, "dilation": _given_as(draw, dilation)}
    more = _numbers(draw, axes, 0, 12)
    if transposed:
        room = tuple(draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True))
        least = [-(-max(0, 2 * p - s - o) // t) + 1 for p, s, o, t in zip(padding, span, room, stride, strict=True)]
        least = [n + (2 * p == (n - 1) * t + s + o) for n, p, s, o, t in
                 zip(least, padding, span, room, stride, strict=True)]  # fmt: skip
        options["output_padding"] = _given_as(draw, room)
        size = tuple(n + min(m, 6) for n, m in zip(least, more, strict=True))
        wshape = (inputs, outputs // groups, *kernel)
    else:
        name = draw(st.sampled_from(["", "", "", "same", "valid"]))
        if name:
            options["padding"] = name
            stride = (1,) * axes if name == "same" else stride
            padding = (0,) * axes
        least = [1 if name == "same" else max(1, s - 2 * p) for s, p in zip(span, padding, strict=True)]
        size = tuple(n + m for n, m in zip(least, more, strict=True))
        wshape = (outputs, inputs // groups, *kernel)
    options.setdefault("padding", _given_as(draw, padding))
    options["stride"] = _given_as(draw, stride)
    batch = draw(st.sampled_from([(), (0,), (1,), (2,), (5,)]))
    shapes = [(*batch, inputs, *size), wshape] + ([(outputs,)] if draw(st.booleans()) else [])
    dtype = draw(strategies.DTYPES)
    arrays = tuple(draw(strategies.values(shape, dtype)) for shape in shapes)
    return Problem(
        f"conv{'_transpose' if transposed else ''}{axes}d",
        options,
        arrays,
        tuple(draw(strategies.LAYOUTS) for _ in arrays),
        draw(st.sampled_from(["cpu", "cpu", "cpu", "ref"])),
        draw(st.sampled_from(["auto", "auto", "im2col"])),
        draw(st.sampled_from([1, 300, 1 << 20])),
        draw(st.integers(0, 2**16)),
    )


def run(p: Problem) -> tuple[list[Array], Array]:
    """The output and the gradients, the columns cut into chunks of ``p.columns``; and the cotangent."""
    tensors = p.ours()
    with pytest.MonkeyPatch.context() as patch, tb.backends.cpu.flags(conv_algorithm=p.algorithm):
        patch.setattr(convolution, "COLUMNS", p.columns)
        y = getattr(tb, p.op)(*tensors, **p.options)
        g = np.asarray(np.random.default_rng(p.seed).standard_normal(y.shape), p.dtype)
        backward([y], [tb.tensor(g, device=p.device)], None, False)
    assert y.dtype.name == p.dtype
    for x, array in zip(tensors, p.arrays, strict=True):
        np.testing.assert_array_equal(x.detach().numpy(), array)
        assert x.grad is not None
        assert x.grad.dtype is x.dtype
    return [y.detach().numpy(), *[x.grad.numpy() for x in tensors if x.grad is not None]], g


def run_torch(torch: Any, p: Problem, g: Array, wrap: Callable[[Array], Array]) -> list[Array]:
    """The same by PyTorch, in float64."""
    tensors = [torch.from_numpy(wrap(a).astype(np.float64)).requires_grad_() for a in p.arrays]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of "same" with even kernels
        y = getattr(torch.nn.functional, p.op)(*tensors, **p.options)
    y.backward(torch.from_numpy(wrap(g).astype(np.float64)))
    return [y.detach().numpy(), *[x.grad.numpy() for x in tensors]]


def agrees_with_torch(p: Problem) -> None:
    torch = pytest.importorskip("torch")
    ours, g = run(p)
    theirs = run_torch(torch, p, g, np.asarray)
    sizes = run_torch(torch, p, g, np.abs)  # of the terms that are summed
    for name, a, b, size in zip(("output", "gx", "gweight", "gbias"), ours, theirs, sizes, strict=False):
        assert a.shape == b.shape, name
        assert (np.abs(a - b) <= LIMIT[p.dtype] * size + 1e-300).all(), name


@pytest.mark.peers
@given(p=problems(transposed=False))
def test_any_convolution_agrees_with_pytorch(p: Problem) -> None:
    agrees_with_torch(p)


@pytest.mark.peers
@given(p=problems(transposed=True))
def test_any_transposed_convolution_agrees_with_pytorch(p: Problem) -> None:
    agrees_with_torch(p)


@given(p=st.booleans().flatmap(lambda t: problems(transposed=t)))
def test_a_convolution_is_linear_in_each_factor_and_its_gradients_are_the_adjoints(p: Problem) -> None:
    """⟨gy, w ⋆ x⟩ = ⟨gx, x⟩ = ⟨gw, w⟩, without the bias."""
    (y, gx, gweight, *_), g = run(replace(p, arrays=p.arrays[:2], layouts=p.layouts[:2]))
    x, weight = (a.astype(np.float64) for a in p.arrays[:2])
    inner = [float((a.astype(np.float64) * b).sum()) for a, b in ((y, g), (gx, x), (gweight, weight))]
    scale = float(np.abs(y.astype(np.float64) * g).sum() + np.abs(gx * x).sum() + np.abs(gweight * weight).sum())
    for other in inner[1:]:
        assert abs(inner[0] - other) <= LIMIT[p.dtype] * scale + 1e-300


@st.composite
def foldings(draw: st.DrawFn) -> tuple[Array, dict[str, Any], str, str]:
    kernel, dilation, stride = _numbers(draw, 2, 1, 3), _numbers(draw, 2, 1, 2), _numbers(draw, 2, 1, 3)
    padding, more = _numbers(draw, 2, 0, 2), _numbers(draw, 2, 0, 5)
    size = tuple(
        max(1, d * (k - 1) + 1 - 2 * p) + m for k, d, p, m in zip(kernel, dilation, padding, more, strict=True)
    )
    shape = (*draw(st.sampled_from([(), (0,), (1,), (3,)])), draw(st.integers(1, 3)), *size)
    options = {
        "kernel_size": _given_as(draw, kernel),
        "dilation": _given_as(draw, dilation),
        "padding": _given_as(draw, padding),
        "stride": _given_as(draw, stride),
    }
    array = draw(strategies.values(shape, draw(strategies.DTYPES)))
    return array, options, draw(strategies.LAYOUTS), draw(st.sampled_from(["cpu", "ref"]))


@pytest.mark.peers
@given(case=foldings())
def test_any_windows_agree_with_pytorch(case: tuple[Array, dict[str, Any], str, str]) -> None:
    """Unfolded to the bit, folded back to rounding; each is the other's gradient."""
    torch = pytest.importorskip("torch")
    array, options, layout, device = case
    x, theirs = make_tensor(array, layout, device).requires_grad_(), torch.tensor(array, requires_grad=True)
    columns, expected = F.unfold(x, **options), torch.nn.functional.unfold(theirs, **options)
    np.testing.assert_array_equal(columns.detach().numpy(), expected.detach().numpy())
    back = F.fold(columns, array.shape[-2:], **options)
    again = torch.nn.functional.fold(expected, array.shape[-2:], **options)
    limit = LIMIT[str(array.dtype)]
    assert_close(back.detach().numpy(), again.detach().numpy(), limit, "fold")
    g = np.random.default_rng(0).standard_normal(back.shape).astype(array.dtype)
    back.backward(tb.tensor(g, device=device))
    again.backward(torch.from_numpy(g))
    assert x.grad is not None
    assert_close(x.grad.numpy(), theirs.grad.numpy(), limit, "the gradient")


# ------------------------------------------------------------------------------------------------------- how it is done


def test_columns_are_made_a_chunk_of_samples_at_a_time() -> None:
    """KH · KW times the input is 4.7 million elements here; forward and the weight's gradient make a part at a time."""
    made: list[int] = []

    def watch(kernel: Kernel, arguments: tuple[Any, ...], do: Callable[[], None]) -> None:
        if kernel.name in ("im2col", "col2im"):
            made.append(arguments[-1 if kernel.name == "im2col" else 0].size)
        do()

    x, w = (tb.randn(*s, device="ref", requires_grad=True) for s in ((64, 8, 32, 32), (4, 8, 3, 3)))
    launch.observers.append(watch)
    try:
        y = tb.conv2d(x, w, padding=1)
        y.backward(tb.ones_like(y))
    finally:
        launch.observers.remove(watch)
    assert max(made) <= convolution.COLUMNS
    assert sum(made) == 3 * 9 * x.numel()


@pytest.mark.parametrize(
    ("algorithm", "wanted"), [("auto", ["direct_convolution"] * 2), ("im2col", ["matmul_nn", "matmul_tn"])]
)
def test_windows_of_one_element_need_no_columns(algorithm: str, wanted: list[str]) -> None:
    seen: list[str] = []

    def watch(kernel: Kernel, arguments: tuple[Any, ...], do: Callable[[], None]) -> None:
        seen.append(kernel.name)
        do()

    x, w = tb.randn(3, 4, 9, 9, requires_grad=True), tb.randn(5, 4, 1, 1)
    launch.observers.append(watch)
    try:
        with tb.backends.cpu.flags(conv_algorithm=algorithm):
            y = tb.conv2d(x, w)
            y.backward(tb.ones_like(y))
    finally:
        launch.observers.remove(watch)
    assert [n for n in seen if n != "fill"] == wanted


@pytest.mark.parametrize("algorithm", ["auto", "im2col"])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_threads_change_no_bit(groups: int, algorithm: str) -> None:
    if launch.pool.limit < 2:
        pytest.skip("one processor")
    found = []
    for threads in (1, 2):
        tb.set_num_threads(threads)
        tb.manual_seed(0)
        x = tb.randn(40, 16, 20, 21, requires_grad=True)
        w, b = tb.randn(24, 16 // groups, 3, 3, requires_grad=True), tb.randn(24, requires_grad=True)
        with tb.backends.cpu.flags(conv_algorithm=algorithm):
            y = tb.conv2d(x, w, b, stride=(1, 2), padding=1, groups=groups)
            y.backward(tb.randn(*y.shape))
        found.append([t.detach().numpy().tobytes() for t in (y, x.grad, w.grad, b.grad) if t is not None])
    assert found[0] == found[1]
    assert len(found[0]) == 4


def test_only_wanted_gradients_are_computed_and_only_their_factors_saved() -> None:
    x, w = tb.randn(2, 3, 5, 5), tb.randn(4, 3, 3, 3, requires_grad=True)
    y = tb.conv2d(x, w)
    assert y.node is not None
    assert y.node.saved is not None
    assert [t.numel() for t in y.node.saved] == [x.numel(), 0]
    y.backward(tb.ones_like(y))
    assert x.grad is None
    assert w.grad is not None


def test_a_factor_changed_in_place_is_noticed() -> None:
    x, w = tb.randn(1, 2, 4, 4, requires_grad=True), tb.randn(2, 2, 3, 3)
    y = tb.conv2d(x, w)
    w.mul_(2.0)
    with pytest.raises(tb.errors.SavedTensorError, match="Convolution: a tensor of shape"):
        y.backward(tb.ones_like(y))


@pytest.mark.parametrize(
    ("call", "shapes", "want"),
    [
        (lambda x, w, b: tb.conv2d(x, w, b, padding=1), ((2, 3, 0, 5), (4, 3, 1, 3), (4,)), (2, 4, 2, 5)),
        (tb.conv2d, ((2, 0, 4, 5), (4, 0, 1, 3), (4,)), (2, 4, 4, 3)),
        (tb.conv2d, ((2, 3, 4, 5), (0, 3, 1, 3), (0,)), (2, 0, 4, 3)),
        (tb.conv_transpose2d, ((2, 3, 0, 5), (3, 2, 3, 3), (2,)), (2, 2, 2, 7)),
        (tb.conv_transpose2d, ((2, 0, 2, 5), (0, 2, 3, 3), (2,)), (2, 2, 4, 7)),
        (tb.conv_transpose2d, ((2, 3, 2, 5), (3, 0, 3, 3), (0,)), (2, 0, 4, 7)),
    ],
)
def test_sums_of_nothing_are_the_bias(call: Any, shapes: Any, want: tuple[int, ...], device: str) -> None:
    """An axis other than the batch's may be empty too; what remains is the bias, whose gradient is a count."""
    tensors = [tb.randn(*s, device=device, requires_grad=True) for s in shapes]
    y = call(*tensors)
    assert y.shape == want
    bias = tensors[2].detach().numpy()
    np.testing.assert_array_equal(y.detach().numpy(), np.broadcast_to(bias[:, None, None], want))
    y.backward(tb.ones_like(y))
    for t in tensors[:2]:
        assert t.grad is not None
        assert not t.grad.numpy().any()
    assert tensors[2].grad is not None
    np.testing.assert_array_equal(tensors[2].grad.numpy(), want[0] * want[2] * want[3])


def test_numbers_of_the_same_value_and_other_type_are_refused_after_right_ones() -> None:
    """Geometries are kept by their arguments, of which 1, 1.0 and True are equal."""
    x, w = tb.zeros(1, 1, 4, 4), tb.zeros(1, 1, 2, 2)
    assert tb.conv2d(x, w, stride=1).shape == (1, 1, 3, 3)
    for bad in (1.0, True, (1, 1.0)):
        with pytest.raises(ArgumentError, match="conv2d: 'stride' must be an int of at least 1, or 2 of them"):
            tb.conv2d(x, w, stride=bad)
    assert tb.conv2d(x, w, stride=np.int64(1), padding=[np.int32(1), 0]).shape == (1, 1, 5, 3)


# --------------------------------------------------------------------------------------------------------------- layers

LAYERS: list[tuple[str, tuple[Any, ...], dict[str, Any], tuple[int, ...]]] = [
    ("Conv1d", (3, 4, 3), {}, (2, 3, 9)),
    ("Conv1d", (4, 6, 3), {"stride": 2, "padding": 1, "groups": 2, "bias": False}, (4, 9)),
    ("Conv2d", (3, 8, 3), {}, (2, 3, 6, 7)),
    ("Conv2d", (4, 8, (3, 2)), {"stride": (2, 1), "padding": (0, 1), "dilation": 2, "groups": 4}, (2, 4, 6, 7)),
    ("Conv2d", (3, 4, 3), {"padding": "same", "bias": False}, (3, 6, 7)),
    ("Conv2d", (3, 4, 3), {"padding": "valid", "stride": 2}, (1, 3, 6, 7)),
    ("Conv1d", (3, 4, 3), {"padding": 1, "padding_mode": "circular"}, (2, 3, 6)),
    ("Conv2d", (3, 4, 3), {"padding": (2, 1), "padding_mode": "reflect"}, (2, 3, 6, 7)),
    ("Conv2d", (3, 4, (2, 3)), {"padding": "same", "padding_mode": "replicate"}, (2, 3, 6, 7)),
    ("ConvTranspose1d", (3, 4, 3), {"stride": 2, "output_padding": 1}, (2, 3, 5)),
    ("ConvTranspose2d", (4, 6, 3), {"stride": 2, "padding": 1, "groups": 2}, (2, 4, 5, 4)),
    ("ConvTranspose2d", (3, 2, (2, 3)), {"dilation": 2, "bias": False}, (3, 5, 4)),
    ("Unfold", (2,), {"stride": 2}, (2, 3, 6, 6)),
    ("Unfold", ((2, 3), 1, (1, 0)), {}, (3, 6, 6)),
    ("Fold", ((4, 5), 2), {}, (2, 12, 12)),
    ("Fold", (5, (2, 3), 1, 1, 2), {}, (12, 9)),
]


@pytest.mark.peers
@pytest.mark.parametrize(("name", "args", "options", "shape"), LAYERS, ids=lambda v: str(v))
def test_layers_are_those_of_pytorch(
    name: str, args: tuple[Any, ...], options: dict[str, Any], shape: tuple[int, ...]
) -> None:
    """Printed alike, with a state dict of the same names and shapes, and the same results from it."""
    torch = pytest.importorskip("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = getattr(torch.nn, name)(*args, **options)
        ours = getattr(nn, name)(*args, **options)
        assert repr(ours) == repr(theirs)
        state = {k: v.numpy() for k, v in theirs.state_dict().items()}
        assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in state.items()}
        ours.load_state_dict(state)
        x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        want = theirs(torch.from_numpy(x)).detach().numpy()
    assert_close(ours(tb.tensor(x)).detach().numpy(), want, 1e-5)


@pytest.mark.peers
def test_the_size_of_a_transposed_convolution_can_be_asked_for() -> None:
    torch = pytest.importorskip("torch")
    ours, theirs = (
        nn.ConvTranspose2d(2, 3, 3, stride=3, padding=1),
        torch.nn.ConvTranspose2d(2, 3, 3, stride=3, padding=1),
    )
    ours.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
    x = np.random.default_rng(0).standard_normal((1, 2, 4, 4)).astype(np.float32)
    for size in ((10, 12), [11, 10], (1, 3, 12, 11)):
        want = theirs(torch.from_numpy(x), output_size=size).detach().numpy()
        assert_close(ours(tb.tensor(x), output_size=size).detach().numpy(), want, 1e-5)
    message = (
        r"ConvTranspose2d: 'output_size' must be from \(10, 10\) to \(12, 12\) for an input of \(4, 4\)\. "
        r"Got \(13, 10\)\."
    )
    with pytest.raises(ShapeError, match=message):
        ours(tb.tensor(x), output_size=(13, 10))


@pytest.mark.parametrize(
    ("make", "fan"), [(lambda: nn.Conv2d(20, 50, 5, groups=2), 250), (lambda: nn.ConvTranspose1d(9, 400, 3), 1200)]
)
def test_initial_values(make: Callable[[], Any], fan: int) -> None:
    """Uniform between ±1/√fan_in: PyTorch's kaiming_uniform with a = √5."""
    layer, bound = make(), 1 / fan**0.5
    for parameter in (layer.weight, layer.bias):
        values = parameter.detach().numpy()
        assert np.abs(values).max() <= bound
        assert np.abs(values).max() > 0.9 * bound
    assert abs(layer.weight.detach().numpy().std() - bound / 3**0.5) < 0.03 * bound
    before = layer.weight.detach().numpy().copy()
    layer.reset_parameters()
    assert (layer.weight.detach().numpy() != before).any()


def test_layers_take_device_and_dtype_and_may_have_no_channels() -> None:
    layer = nn.Conv2d(2, 3, 3, device="ref", dtype=tb.float64)
    assert (layer.weight.dtype, str(layer.weight.device), layer.bias.dtype) == (tb.float64, "ref", tb.float64)
    assert nn.Conv2d(0, 3, 3)(tb.zeros(2, 0, 5, 5)).shape == (2, 3, 3, 3)
    assert nn.Conv2d(2, 0, 3)(tb.zeros(2, 2, 5, 5)).shape == (2, 0, 3, 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Conv2d(3, 4, 3, groups=2), "Conv2d: 'in_channels' must be a multiple of groups = 2. Got 3."),
        (lambda: nn.Conv2d(4, 3, 3, groups=2), "Conv2d: 'out_channels' must be a multiple of groups = 2. Got 3."),
        (lambda: nn.Conv2d(4, 4, 3, groups=0), "Conv2d: 'groups' must be an int of at least 1. Got 0."),
        (lambda: nn.Conv2d(4.0, 4, 3), "Conv2d: 'in_channels' must be an int of at least 0. Got 4.0."),
        (lambda: nn.Conv1d(4, 4, 0), "Conv1d: 'kernel_size' must be an int of at least 1. Got 0."),
        (lambda: nn.Conv2d(4, 4, 3, padding="x"), "Conv2d: 'padding' must be ints, 'same' or 'valid'. Got 'x'."),
        (lambda: nn.Conv2d(4, 4, 3, 2, "same"), "Conv2d: 'stride' must be 1 where 'padding' is 'same'. Got (2, 2)."),
        (
            lambda: nn.Conv2d(4, 4, 3, padding_mode="x"),
            "Conv2d: 'padding_mode' must be one of zeros, reflect, replicate, circular. Got 'x'.",
        ),
        (
            lambda: nn.ConvTranspose2d(4, 4, 3, padding_mode="reflect"),
            "ConvTranspose2d: 'padding_mode' must be one of zeros. Got 'reflect'.",
        ),
        (
            lambda: nn.ConvTranspose1d(4, 4, 3, padding="same"),
            "ConvTranspose1d: 'padding' must be an int of at least 0. Got 'same'.",
        ),
    ],
)
def test_layers_refuse(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        make()
    assert str(caught.value).startswith(message)
