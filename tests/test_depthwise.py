"""Convolutions in groups of few channels: when they are computed directly, how exact they are, what changes no bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_bn as tb
from tinygrad_bn.core import launch
from tinygrad_bn.core.device import cpu, ref
from tinygrad_bn.kernels.spec import Kernel
from tinygrad_bn.ops import _depthwise
from tinygrad_bn.ops._geometry import windows

F = tb.nn.functional
Array = np.ndarray[Any, Any]


@pytest.mark.parametrize(
    ("pays", "inputs", "outputs", "groups", "device"),
    [
        (True, 8, 8, 8, cpu),
        (True, 8, 48, 8, cpu),
        (True, 48, 8, 8, cpu),
        (True, 32, 32, 8, cpu),
        (True, 16, 32, 8, cpu),
        (False, 40, 40, 8, cpu),
        (False, 16, 40, 8, cpu),
        (False, 1, 8, 1, cpu),
        (False, 8, 8, 8, ref),
    ],
)
def test_when_it_pays(pays: bool, inputs: int, outputs: int, groups: int, device: Any) -> None:
    g = windows("conv2d", (9, 9), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), groups)
    assert _depthwise.pays(inputs, outputs, g, device) is pays


def three(x: Array, w: Array, b: Array, g: Array, options: dict[str, Any], device: str) -> list[Array]:
    """y and the gradients of x and w."""
    tensors = [tb.tensor(a, device=device, requires_grad=True) for a in (x, w, b)]
    y = F.conv2d(*tensors, **options)
    y.backward(tb.tensor(g, device=device))
    return [y.detach().numpy(), *(t.grad.numpy() for t in tensors)]  # type: ignore[union-attr]


def problem(
    rng: np.random.Generator, n: int, groups: int, depth: int, each: int, size: tuple[int, int],
    kernel: tuple[int, int], dtype: str, **options: Any,
) -> tuple[list[Array], dict[str, Any]]:  # fmt: skip
    options["groups"] = groups
    arrays = [rng.standard_normal(s) for s in ((n, groups * depth, *size), (groups * each, depth, *kernel))]
    shape = F.conv2d(*(tb.tensor(a, device="ref") for a in arrays), **options).shape
    arrays += [rng.standard_normal(groups * each), rng.standard_normal(shape)]
    return [a.astype(dtype) for a in arrays], options


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[Array], dict[str, Any]]:
    """Any geometry of which one window fits."""
    kernel = tuple(draw(st.integers(1, 7)) for _ in "hw")
    dilation = tuple(draw(st.integers(1, 3)) for _ in "hw")
    padding = tuple(draw(st.integers(0, 9)) for _ in "hw")
    least = [max(1, d * (k - 1) + 1 - 2 * p) for d, k, p in zip(dilation, kernel, padding, strict=True)]
    size = tuple(draw(st.integers(m, m + most)) for m, most in zip(least, (12, 40), strict=True))
    return problem(
        np.random.default_rng(draw(st.integers(0, 99))),
        draw(st.integers(1, 3)),
        draw(st.integers(2, 4)),
        depth := draw(st.integers(1, 4)),
        draw(st.integers(1, 4 if depth > 1 else 6)),
        size,  # type: ignore[arg-type]
        kernel,  # type: ignore[arg-type]
        draw(st.sampled_from(["float32", "float64"])),
        stride=tuple(draw(st.integers(1, 4)) for _ in "hw"),
        padding=padding,
        dilation=dilation,
    )


@given(problems())
def test_any_geometry_agrees_with_the_columns(drawn: tuple[list[Array], dict[str, Any]]) -> None:
    arrays, options = drawn
    names = launched(lambda: three(*arrays, options, "cpu"))
    lanes = {"depthwise", "depthwise_input", "depthwise_weight"}, {"depthwise_rows", "depthwise_rows_back"}
    mixed = {"depthwise_rows", "depthwise_input", "depthwise_weight"}  # several outputs a channel
    assert any(kernels <= names for kernels in (*lanes, mixed))
    assert not names & {"im2col", "col2im"}
    tolerance = 1e-6 if arrays[0].dtype == np.float32 else 1e-14
    exact = three(*(a.astype(np.float64) for a in arrays), options, "ref")
    sizes = three(*(np.abs(a).astype(np.float64) for a in arrays), options, "ref")  # of the terms of every sum
    for ours, wanted, scale in zip(three(*arrays, options, "cpu"), exact, sizes, strict=True):
        assert ours.dtype == arrays[0].dtype
        assert (np.abs(ours - wanted) <= tolerance * (scale + 1)).all()


def launched(run: Any) -> set[str]:
    names: set[str] = set()

    def watch(kernel: Kernel, arguments: tuple[Any, ...], go: Any) -> None:
        names.add(kernel.name)
        go()

    launch.observers.append(watch)
    try:
        run()
    finally:
        launch.observers.pop()
    return names


@pytest.mark.parametrize(
    ("n", "groups", "depth", "each", "size", "kernel", "options"),
    [
        (3, 33, 1, 1, (56, 56), (3, 3), {"padding": 1}),
        (2, 5, 1, 2, (57, 61), (5, 5), {"padding": 2, "stride": 2}),
        (9, 2, 1, 1, (200, 130), (3, 3), {"padding": 1}),
        (1, 3, 4, 4, (40, 40), (3, 3), {"padding": 3, "dilation": 3}),
        (2, 4, 1, 1, (1, 5000), (1, 9), {"padding": (0, 4)}),
        (40, 9, 2, 1, (7, 7), (7, 7), {}),
    ],
)
def test_accuracy_and_bits_for_any_number_of_threads(
    n: int, groups: int, depth: int, each: int, size: Any, kernel: Any, options: dict[str, Any]
) -> None:
    """Several bands, parts of the samples, tiles that overlap; against float64 on PyTorch's scale of errors."""
    arrays, options = problem(np.random.default_rng(0), n, groups, depth, each, size, kernel, "float32", **options)
    exact = three(*(a.astype(np.float64) for a in arrays), options, "ref")
    found = []
    before = tb.get_num_threads()
    try:
        for threads in range(1, launch.pool.limit + 1):
            tb.set_num_threads(threads)
            found.append(three(*arrays, options, "cpu"))
    finally:
        tb.set_num_threads(before)
    for ours, wanted in zip(found[0], exact, strict=True):
        assert np.abs(ours - wanted).max() <= 2e-6 * np.abs(wanted).max()
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("stride", [1, 2])
def test_results_that_go_past_the_caches_are_the_same(stride: int) -> None:
    """A batch too large for them, against its samples one by one."""
    options = {"padding": 1, "stride": stride}
    arrays, options = problem(np.random.default_rng(0), 68, 32, 1, 1, (64, 64), (3, 3), "float32", **options)
    x, w, b, gy = arrays
    assert x.nbytes > _depthwise.LARGE
    y, gx, gw, _ = three(*arrays, options, "cpu")
    single = [three(x[n : n + 1], w, b, gy[n : n + 1], options, "cpu") for n in range(len(x))]
    np.testing.assert_array_equal(y, np.concatenate([s[0] for s in single]))
    np.testing.assert_array_equal(gx, np.concatenate([s[1] for s in single]))
    np.testing.assert_allclose(gw, sum(s[2].astype(np.float64) for s in single), rtol=1e-4, atol=1e-2)


def test_both_gradients_come_of_one_pass_and_can_be_differentiated() -> None:
    """Against the two kernels that a gradient by itself takes; second derivatives are those of the two operations."""
    arrays, options = problem(np.random.default_rng(0), 3, 5, 1, 1, (7, 9), (3, 3), "float64", padding=1)
    x, w = (tb.tensor(a, requires_grad=True) for a in arrays[:2])
    y = F.conv2d(x, w, None, **options)
    gy = tb.tensor(arrays[3], requires_grad=True)
    names = launched(lambda: tb.autograd.grad(y, (x, w), gy, retain_graph=True))
    assert names & {"depthwise_rows_back", "depthwise_input", "depthwise_weight"} == {"depthwise_rows_back"}
    gx, gw = tb.autograd.grad(y, (x, w), gy, create_graph=True)
    (alone,) = tb.autograd.grad(y, x, gy, retain_graph=True)
    np.testing.assert_allclose(gx.detach().numpy(), alone.numpy(), rtol=1e-12, atol=1e-12)
    (alone,) = tb.autograd.grad(y, w, gy, retain_graph=True)
    np.testing.assert_allclose(gw.detach().numpy(), alone.numpy(), rtol=1e-12, atol=1e-12)
    u, v = tb.tensor(arrays[0][::-1].copy()), tb.tensor(arrays[1][::-1].copy())
    found = tb.autograd.grad((gx * u).sum() + (gw * v).sum(), (x, w, gy))
    # ⟨gx, u⟩ = ⟨gy, w ⋆ u⟩ and ⟨gw, v⟩ = ⟨gy, v ⋆ x⟩
    composed = (F.conv2d(u, w, None, **options) * gy).sum() + (F.conv2d(x, v, None, **options) * gy).sum()
    for ours, wanted in zip(found, tb.autograd.grad(composed, (x, w, gy)), strict=True):
        np.testing.assert_allclose(ours.numpy(), wanted.numpy(), rtol=1e-10, atol=1e-10)


def test_values_that_are_not_finite_reach_their_windows_and_no_other_channel() -> None:
    arrays, options = problem(np.random.default_rng(0), 2, 3, 1, 1, (20, 20), (3, 3), "float32", padding=1)
    for value in (np.nan, np.inf):
        arrays[0][0, 1, 19, 19] = value
        y, _, gw, _ = three(*arrays, options, "cpu")
        outside = np.isfinite(y)
        assert not outside[0, 1, 18:, 18:].any()
        outside[0, 1, 18:, 18:] = True
        assert outside.all()
        assert not np.isfinite(gw[1, 0, 1:, 1:]).any()
        assert np.isfinite(gw[1, 0, 0]).all()  # which meets the corner in no window
        assert np.isfinite(gw[[0, 2]]).all()


@pytest.mark.parametrize("axes", [1, 2])
@given(data=st.data())
def test_transposed_convolutions_are_the_adjoints(axes: int, data: st.DataObject) -> None:
    """⟨conv_transpose(x), h⟩ = ⟨x, conv(h)⟩, output padding included."""
    stride, kernel = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 5))
    padding = data.draw(st.integers(0, kernel - 1))
    more = data.draw(st.integers(0, stride - 1))
    rng = np.random.default_rng(0)
    sides = [data.draw(st.integers(9, 20)) for _ in range(axes)]
    x, w = rng.standard_normal((2, 3, *sides)), rng.standard_normal((3, 2, *[kernel] * axes))
    spread, gather = (F.conv_transpose1d, F.conv1d) if axes == 1 else (F.conv_transpose2d, F.conv2d)
    y = spread(tb.tensor(x), tb.tensor(w), None, stride, padding, more, 3).numpy()
    h = rng.standard_normal(y.shape)
    back = gather(tb.tensor(h), tb.tensor(w), None, stride, padding, 1, 3).numpy()[:, :, *[slice(n) for n in sides]]
    assert (y * h).sum() == pytest.approx((x * back).sum(), abs=1e-9)


@pytest.mark.peers
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("each", [1, 2])
def test_agrees_with_pytorch(stride: int, each: int) -> None:
    torch = pytest.importorskip("torch")
    options = {"padding": 2, "stride": stride, "dilation": 2}
    arrays, options = problem(np.random.default_rng(0), 2, 5, 1, each, (23, 30), (3, 3), "float32", **options)
    leaves = [torch.from_numpy(a).requires_grad_() for a in arrays[:3]]
    y = torch.nn.functional.conv2d(*leaves, **options)
    y.backward(torch.from_numpy(arrays[3]))
    for ours, theirs in zip(three(*arrays, options, "cpu"), [y.detach(), *(t.grad for t in leaves)], strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-5, atol=1e-4)
