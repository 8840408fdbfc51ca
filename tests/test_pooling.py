"""Pooling, padding, resizing and local response normalisation: any configuration against PyTorch, and their layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import strategies
from hypothesis import assume, given
from hypothesis import strategies as st

import tinygrad_bn as tb
from tinygrad_bn import errors, nn
from tinygrad_bn.testing import assert_close, make_tensor

Array = np.ndarray[Any, Any]
F = nn.functional
LAYOUTS = st.sampled_from(["plain", "permuted", "sliced"])
LIMITS = {"float32": 2e-6, "float64": 1e-12}


def compare(name: str, x: Array, layout: str, device: str, *args: Any, **kwargs: Any) -> None:
    """Values, places and gradients of a function of ``nn.functional``, here and in PyTorch."""
    torch = pytest.importorskip("torch")
    theirs, ours = torch.from_numpy(x.copy()).requires_grad_(), make_tensor(x, layout, device).requires_grad_()
    want = getattr(torch.nn.functional, name)(theirs, *args, **kwargs)
    got = getattr(F, name)(ours, *args, **kwargs)
    limit = LIMITS[x.dtype.name]
    if isinstance(want, tuple):
        want, places = want
        got, ours_at = got
        np.testing.assert_array_equal(ours_at.numpy(), places.numpy())
        limit = 0.0
    assert got.dtype.name == x.dtype.name
    assert_close(got.detach().numpy(), want.detach().numpy(), limit, name)
    g = np.random.default_rng(0).standard_normal(want.shape).astype(x.dtype)
    want.backward(torch.from_numpy(g))
    got.backward(tb.tensor(g, device=device))
    assert ours.grad is not None
    limit = LIMITS[x.dtype.name]
    scale = np.abs(g).max(initial=0.0) * max(1, g.size // max(x.size, 1))  # of the sums, whose terms may cancel
    np.testing.assert_allclose(ours.grad.numpy(), theirs.grad.numpy(), rtol=limit, atol=limit * scale, err_msg=name)


def _one_or_each(draw: st.DrawFn, values: list[int]) -> Any:
    """One number for all axes where they are equal, or one each."""
    if len(set(values)) == 1 and draw(st.booleans()):
        return values[0]
    return tuple(values)


def _hits(n: int, k: int, s: int, p: int, d: int) -> bool:
    """Whether every window that begins before the end has an element in it; of others PyTorch reads beyond the end."""
    starts = range(-p, n, s)
    return all(any(0 <= start + j * d < n for j in range(k)) for start in starts)


def _image(draw: st.DrawFn, shape: list[int], dtype: str, specials: bool) -> Array:
    """Channels in front, a batch, which may be empty, in front of those or none; equal values among them."""
    lead = [draw(st.integers(0, 3)), draw(st.integers(1, 3))][draw(st.integers(0, 1)) :]
    x = draw(strategies.values((*lead, *shape), dtype, specials=specials))
    return np.round(x) if draw(st.booleans()) else x


@st.composite
def windows(draw: st.DrawFn, maxima: bool) -> tuple[str, Array, tuple[Any, ...], dict[str, Any]]:
    """A pooling function, its input and its arguments: any that PyTorch takes."""
    axes, dtype = draw(st.integers(1, 2)), draw(strategies.DTYPES)
    lists: tuple[list[int], ...] = ([], [], [], [], [])
    kernel, stride, padding, dilation, shape = lists
    usual = draw(st.booleans())
    for _ in range(axes):
        k, s = draw(st.sampled_from([(2, 2), (3, 2), (3, 1)])) if usual else (draw(st.integers(1, 5)),) * 2
        s = s if usual else draw(st.integers(1, 4))
        p, d = draw(st.integers(0, k // 2)), draw(st.integers(1, 3)) if maxima and not usual else 1
        least = max(1, d * (k - 1) + 1 - 2 * p)
        n = least + draw(st.one_of(st.integers(0, 4), st.integers(0, 40)))
        assume(d == 1 or _hits(n, k, s, p, d))
        for values, v in zip(lists, (k, s, p, d, n), strict=True):
            values.append(v)
    x = _image(draw, shape, dtype, maxima)
    step = None if stride == kernel else _one_or_each(draw, stride)
    args = (_one_or_each(draw, kernel), step, _one_or_each(draw, padding))
    ceil = draw(st.booleans())
    if maxima:
        dilations = _one_or_each(draw, dilation)
        return f"max_pool{axes}d", x, (*args, dilations), {"ceil_mode": ceil, "return_indices": True}
    options: dict[str, Any] = {"ceil_mode": ceil, "count_include_pad": draw(st.booleans())}
    if axes == 2:
        options["divisor_override"] = draw(st.sampled_from([None, None, 1, 7, -2]))
    return f"avg_pool{axes}d", x, args, options


devices = st.sampled_from(["cpu", "cpu", "ref"])


@pytest.mark.peers
@given(windows(True), LAYOUTS, devices)
def test_max_pooling_is_that_of_pytorch(problem: Any, layout: str, device: str) -> None:
    """With NaN, infinities and equal maxima; places too."""
    name, x, args, options = problem
    compare(name, x, layout, device, *args, **options)


@pytest.mark.peers
@given(windows(False), LAYOUTS, devices)
def test_average_pooling_is_that_of_pytorch(problem: Any, layout: str, device: str) -> None:
    name, x, args, options = problem
    compare(name, x, layout, device, *args, **options)


@pytest.mark.peers
@given(st.data(), st.sampled_from(["avg", "max"]), LAYOUTS, devices)
def test_adaptive_pooling_is_that_of_pytorch(data: st.DataObject, kind: str, layout: str, device: str) -> None:
    axes, dtype = data.draw(st.integers(1, 2)), data.draw(strategies.DTYPES)
    shape = data.draw(st.lists(st.integers(1, 12), min_size=axes, max_size=axes))
    x = data.draw(st.composite(lambda draw: _image(draw, shape, dtype, kind == "max"))())
    sizes = [data.draw(st.one_of(st.none(), st.integers(1, 14))) for _ in range(axes)]
    size: Any = tuple(sizes) if axes == 2 else sizes[0] or shape[0]
    options = {"return_indices": True} if kind == "max" else {}
    compare(f"adaptive_{kind}_pool{axes}d", x, layout, device, size, **options)


@pytest.mark.peers
@given(st.data(), st.sampled_from(["constant", "reflect", "replicate", "circular"]), LAYOUTS, devices)
def test_padding_is_that_of_pytorch(data: st.DataObject, mode: str, layout: str, device: str) -> None:
    count, dtype = data.draw(st.integers(1, 3)), data.draw(strategies.DTYPES)
    lead = data.draw(st.integers(1, 2))
    shape = [data.draw(st.integers(1, 3)) for _ in range(lead)] + [data.draw(st.integers(1, 6)) for _ in range(count)]
    pads: list[int] = []
    for n in reversed(shape[lead:]):
        most = {"reflect": n - 1, "circular": n}.get(mode, 7)
        least = 0 if mode == "circular" else -(n // 2)
        a, b = data.draw(st.integers(least, most)), data.draw(st.integers(least, most))
        assume(n + a + b > 0)
        pads += [a, b]
    value = {"value": data.draw(st.sampled_from([None, 1.5]))} if mode == "constant" else {}
    compare("pad", data.draw(strategies.values(tuple(shape), dtype)), layout, device, pads, mode, **value)


@pytest.mark.peers
@given(st.data(), LAYOUTS, devices)
def test_resizing_is_that_of_pytorch(data: st.DataObject, layout: str, device: str) -> None:
    axes, dtype = data.draw(st.integers(1, 3)), data.draw(strategies.DTYPES)
    shape = [data.draw(st.integers(1, 3)) for _ in range(2)] + [data.draw(st.integers(1, 9)) for _ in range(axes)]
    options: dict[str, Any] = {"size": [data.draw(st.integers(1, 30)) for _ in range(axes)]}
    if data.draw(st.booleans()):
        factors = [data.draw(st.floats(0.2, 4.0)) for _ in range(axes)]
        assume(all(int(n * f) > 0 for n, f in zip(shape[2:], factors, strict=True)))
        # to an axis of the same or of twice the size PyTorch's gradient goes back by the extents, whatever the factor
        assume(not any(int(n * f) in (n, 2 * n) for n, f in zip(shape[2:], factors, strict=True)))
        options = {"scale_factor": tuple(factors), "recompute_scale_factor": data.draw(st.sampled_from([None, True]))}
    compare("interpolate", data.draw(strategies.values(tuple(shape), dtype)), layout, device, **options)


@pytest.mark.peers
@given(st.data(), LAYOUTS, devices)
def test_local_response_norm_is_that_of_pytorch(data: st.DataObject, layout: str, device: str) -> None:
    shape = [data.draw(st.integers(0, 2)), *data.draw(st.lists(st.integers(1, 7), min_size=2, max_size=4))]
    x = np.random.default_rng(data.draw(st.integers(0, 99))).standard_normal(shape).astype(data.draw(strategies.DTYPES))
    args = (data.draw(st.integers(1, 9)), data.draw(st.sampled_from([1e-4, 0.5])), 0.75, data.draw(st.floats(0.5, 2)))
    compare("local_response_norm", x, layout, device, *args)


# ---------------------------------------------------------------------------------------------- what PyTorch leaves out


def test_a_window_that_misses_the_plane(device: str) -> None:
    """Its maximum is -inf, its place -1, and its gradient goes nowhere; second derivatives are zeros there."""
    x = tb.tensor([[1.0, 2.0]], dtype=tb.float64, device=device, requires_grad=True)
    y, places = F.max_pool1d(x, 2, 1, 1, 3, return_indices=True)
    assert y.tolist() == [[-np.inf]]
    assert places.tolist() == [[-1]]
    g = tb.ones(1, 1, dtype=tb.float64, device=device, requires_grad=True)
    (gx,) = tb.grad([y], [x], [g], create_graph=True)
    assert gx.tolist() == [[0.0, 0.0]]
    (gg,) = tb.grad([gx], [g], [tb.ones(1, 2, dtype=tb.float64, device=device)])
    assert gg.tolist() == [[0.0]]


def test_changed_places_change_no_gradient() -> None:
    """Those of adaptive pooling are saved, and the change is noticed; of a moving window something else is kept."""
    x = tb.randn(1, 4, 4, requires_grad=True)
    y, places = F.adaptive_max_pool2d(x, 2, return_indices=True)
    places.zero_()
    with pytest.raises(errors.SavedTensorError):
        y.sum().backward()
    y, places = F.max_pool2d(x, 2, return_indices=True)
    want = np.isin(np.arange(16), places.numpy()).reshape(1, 4, 4)
    places.zero_()
    y.sum().backward()
    assert x.grad is not None
    np.testing.assert_array_equal(x.grad.numpy(), want)


@pytest.mark.parametrize("device", ["cpu", "ref"])
def test_windows_of_many_elements(device: str) -> None:
    """More than a byte tells apart."""
    x = tb.tensor(np.random.default_rng(0).permutation(2 * 20 * 30).reshape(2, 20, 30) * 1.0, device=device)
    y, places = F.max_pool2d(x.requires_grad_(), (15, 19), 3, (7, 2), return_indices=True)
    flat = x.detach().numpy().reshape(2, -1)
    at = places.numpy().reshape(2, -1)
    np.testing.assert_array_equal(np.take_along_axis(flat, at, 1), y.detach().numpy().reshape(2, -1))
    y.sum().backward()
    assert x.grad is not None
    want = np.stack([np.bincount(row, minlength=600) for row in at])
    np.testing.assert_array_equal(x.grad.numpy().reshape(2, -1), want)


def test_no_input_is_kept_for_backward() -> None:
    """Only places are: the input may be changed in place."""
    x = tb.randn(1, 2, 4, 4, requires_grad=True)
    z = x * 1.0
    y = F.avg_pool2d(F.max_pool2d(z, 2), 2)
    z.zero_()
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.sum().item() == pytest.approx(2.0)


def test_averages_of_large_planes_are_exact(device: str) -> None:
    """A mean over a plane is as good as one in float64, rounded."""
    x = (np.random.default_rng(0).random((1, 2, 300, 400)) + 1).astype(np.float32)
    got = F.adaptive_avg_pool2d(tb.tensor(x, device=device), 1).numpy()
    np.testing.assert_allclose(got[..., 0, 0], x.astype(np.float64).mean((2, 3)), rtol=2e-7)


# -------------------------------------------------------------------------------------------------------------- layers

LAYERS: tuple[tuple[str, tuple[Any, ...], dict[str, Any], tuple[int, ...]], ...] = (
    ("MaxPool1d", (2,), {"padding": 1}, (2, 3, 9)),
    ("MaxPool2d", ((3, 2), 2, (1, 0)), {"dilation": 2, "ceil_mode": True}, (2, 3, 9, 8)),
    ("MaxPool2d", (2,), {}, (3, 9, 8)),
    ("AvgPool1d", ((3,), (2,), (1,)), {"count_include_pad": False}, (2, 3, 9)),
    ("AvgPool2d", (3, 2, 1), {"ceil_mode": True, "divisor_override": 4}, (2, 3, 8, 8)),
    ("AdaptiveAvgPool1d", (3,), {}, (2, 3, 8)),
    ("AdaptiveAvgPool2d", ((1, None),), {}, (2, 3, 8, 7)),
    ("AdaptiveMaxPool1d", (3,), {}, (2, 3, 8)),
    ("AdaptiveMaxPool2d", ((2, 3),), {}, (2, 3, 8, 7)),
    ("ZeroPad1d", (2,), {}, (2, 3, 4)),
    ("ZeroPad2d", ((1, 0, -1, 2),), {}, (2, 3, 4, 4)),
    ("ConstantPad1d", ((1, 2), 0.5), {}, (2, 3, 4)),
    ("ConstantPad2d", (1, -1.5), {}, (2, 3, 4, 4)),
    ("ReflectionPad1d", ((1, 2),), {}, (2, 3, 4)),
    ("ReflectionPad2d", (2,), {}, (2, 3, 4, 4)),
    ("ReplicationPad1d", (3,), {}, (3, 4)),
    ("ReplicationPad2d", ((1, 2, 3, 4),), {}, (2, 3, 4, 4)),
    ("Upsample", (), {"scale_factor": 2}, (2, 3, 4, 5)),
    ("Upsample", (), {"size": (7, 3)}, (2, 3, 4, 5)),
    ("Upsample", (), {"scale_factor": (2, 1.5), "mode": "nearest"}, (2, 3, 4, 5)),
    ("UpsamplingNearest2d", (), {"scale_factor": 3}, (2, 3, 4, 5)),
    ("LocalResponseNorm", (3,), {"alpha": 0.1, "k": 2.0}, (2, 5, 4, 4)),
)


@pytest.mark.peers
@pytest.mark.parametrize(("name", "args", "options", "shape"), LAYERS, ids=[f"{n}{a}" for n, a, *_ in LAYERS])
def test_layers_are_those_of_pytorch(name: str, args: Any, options: Any, shape: Any) -> None:
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).standard_normal(shape)
    ours, theirs = getattr(nn, name)(*args, **options), getattr(torch.nn, name)(*args, **options)
    assert_close(ours(tb.tensor(x)).numpy(), theirs(torch.from_numpy(x)).numpy(), 1e-12, name)
    if name != "AvgPool1d":  # PyTorch turns its numbers into tuples
        assert repr(ours) == repr(theirs)
    assert not list(ours.parameters())


def test_layers_return_places() -> None:
    x = tb.tensor(np.arange(16.0).reshape(1, 4, 4))
    _, places = nn.MaxPool2d(2, return_indices=True)(x)
    assert places.tolist() == [[[5, 7], [13, 15]]]
    _, places = nn.AdaptiveMaxPool2d(1, return_indices=True)(x)
    assert places.tolist() == [[[15]]]
    _, places = nn.MaxPool1d(4, return_indices=True)(x[0])
    assert places.tolist() == [[3]] * 4


def test_a_padding_layer_wants_as_many_numbers_as_it_has_ends() -> None:
    message = r"^ReflectionPad2d: 'padding' must be an int or 4 of them\. Got \(1, 2\)\.$"
    with pytest.raises(errors.ArgumentError, match=message):
        nn.ReflectionPad2d((1, 2))


@pytest.mark.parametrize(
    ("kind", "kernel", "stride", "padding"), [("max", 3, 2, 1), ("max", 2, 2, 0), ("avg", 3, 1, 1), ("max", 3, 3, 0)]
)
@pytest.mark.parametrize("width", [96, 100])
def test_gradients_that_go_past_the_caches_are_the_same(
    kind: str, kernel: int, stride: int, padding: int, width: int
) -> None:
    """Of a batch too large for them, against its samples one by one."""
    x = np.random.default_rng(0).standard_normal((9, 8, 640, width)).astype(np.float32)
    assert x.nbytes > 1 << 24
    pool = getattr(F, f"{kind}_pool2d")

    def gradient(part: Any) -> Any:
        leaf = tb.tensor(part, requires_grad=True)
        y = pool(leaf, kernel, stride, padding)
        y.backward(y.detach())
        return leaf.grad.numpy()  # type: ignore[union-attr]

    np.testing.assert_array_equal(gradient(x), np.concatenate([gradient(x[n : n + 1]) for n in range(len(x))]))
