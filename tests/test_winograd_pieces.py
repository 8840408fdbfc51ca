"""Convolutions that go by Winograd's algorithm in pieces: dilated ones, larger filters, some strides."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_direct import kernels_of, normal, three

import tinygrad_bn as tb
from tinygrad_bn.core import launch
from tinygrad_bn.core.device import cpu, ref
from tinygrad_bn.core.dtype import float32, float64
from tinygrad_bn.ops import _winograd_pieces
from tinygrad_bn.ops._algorithm import algorithm
from tinygrad_bn.ops._geometry import Geometry, windows

F = tb.nn.functional
Options = dict[str, Any]
Shape = tuple[int, ...]


def geometry(**changes: Any) -> Geometry:
    given_: Options = {
        "size": (28, 28), "kernel": (5, 5), "stride": (1, 1), "padding": ((2, 2), (2, 2)), "dilation": (1, 1),
    }  # fmt: skip
    return windows("conv2d", **{**given_, **changes})


DILATED: Options = {"kernel": (3, 3), "dilation": (2, 2)}
STRIDED: Options = {"kernel": (4, 4), "stride": (2, 2), "padding": ((1, 1), (1, 1)), "size": (64, 64)}


@pytest.mark.parametrize(
    ("way", "changes"),
    [
        ("blocks", {}),
        ("blocks", {"kernel": (4, 4)}),
        ("blocks", {"kernel": (3, 5)}),
        ("blocks", {"kernel": (7, 7)}),
        ("", {"kernel": (1, 7), "padding": ((0, 0), (3, 3)), "size": (1, 900)}),  # rows of tiles three quarters empty
        ("", {"groups": 2}),
        ("", {"kernel": (3, 3), "padding": ((1, 1), (1, 1))}),
        ("", {"kernel": (1, 1), "padding": ((0, 0), (0, 0))}),
        ("dilated", DILATED),
        ("dilated", {**DILATED, "dilation": (1, 3)}),
        ("dilated", {**DILATED, "kernel": (2, 3)}),
        ("", {**DILATED, "kernel": (1, 1)}),
        ("", {**DILATED, "size": (9, 9), "dilation": (6, 6), "padding": ((6, 6), (6, 6))}),  # phases of two rows
        ("", {"dilation": (2, 2)}),
        ("strided", STRIDED),
        ("strided", {**STRIDED, "kernel": (5, 5)}),
        ("", {**STRIDED, "kernel": (3, 3)}),
        ("", {**STRIDED, "kernel": (7, 7), "padding": ((3, 3), (3, 3))}),
        ("", {**STRIDED, "dilation": (2, 2)}),
    ],
)
def test_what_becomes_a_3x3_convolution(way: str, changes: Options) -> None:
    assert _winograd_pieces.way(geometry(**changes)) == way


@pytest.mark.parametrize(
    ("wanted", "inputs", "outputs", "changes"),
    [
        ("pieces", 32, 64, {}),
        ("pieces", 64, 64, DILATED),
        ("pieces", 32, 64, STRIDED),
        ("direct", 8, 64, {}),
        ("direct", 32, 64, {"kernel": (7, 7)}),
        ("direct", 64, 8, DILATED),
        ("direct", 64, 64, {**DILATED, "size": (14, 14), "dilation": (7, 7), "padding": ((7, 7), (7, 7))}),
        ("direct", 128, 256, {**STRIDED, "size": (16, 16)}),
        ("direct", 192, 192, {}),
        ("winograd", 64, 64, {"kernel": (3, 3)}),
    ],
)
def test_the_policy(wanted: str, inputs: int, outputs: int, changes: Options) -> None:
    g = geometry(**changes)
    assert algorithm(inputs, outputs, g, float32, cpu) == wanted
    assert algorithm(inputs, outputs, g, float64, cpu) == "direct"
    assert algorithm(inputs, outputs, g, float32, ref) == "im2col"
    for asked in ("direct", "im2col"):
        with tb.backends.cpu.flags(conv_algorithm=asked):
            assert algorithm(inputs, outputs, g, float32, cpu) == asked


@pytest.mark.parametrize(
    ("wanted", "changes"),
    [("pieces", {}), ("pieces", DILATED), ("pieces", {**STRIDED, "kernel": (5, 5)}), ("direct", STRIDED),
     ("direct", {"size": (8, 8)})],
)  # fmt: skip
def test_the_policy_for_the_gradient_of_filters(wanted: str, changes: Options) -> None:
    """A direct sum where little is won, which forward may be enough."""
    g = geometry(**changes)
    assert algorithm(32, 64, g, float32, cpu) == "pieces"
    assert algorithm(32, 64, g, float32, cpu, of_filters=True) == wanted
    with tb.backends.cpu.flags(conv_algorithm="winograd"):
        assert algorithm(32, 64, g, float32, cpu, of_filters=True) == "pieces"


CASES: dict[str, tuple[str, tuple[Shape, ...], Options]] = {
    "dilated": ("conv2d", ((2, 16, 14, 15), (17, 16, 3, 3), (17,)), {"padding": 2, "dilation": 2}),
    "dilated unevenly": ("conv2d", ((2, 16, 24, 25), (9, 16, 3, 3), (9,)), {"padding": (1, 5), "dilation": (2, 3)}),
    "dilated one way": ("conv2d", ((2, 16, 24, 25), (9, 16, 3, 3), (9,)), {"dilation": (1, 4)}),
    "dilated small": ("conv2d", ((2, 16, 24, 25), (17, 16, 2, 3), (17,)), {"padding": 7, "dilation": (2, 5)}),
    "5x5": ("conv2d", ((3, 16, 24, 25), (17, 16, 5, 5), (17,)), {"padding": 2}),
    "5x5 unpadded": ("conv2d", ((1, 16, 24, 25), (17, 16, 5, 5), (17,)), {}),
    "4x6": ("conv2d", ((2, 16, 24, 25), (17, 16, 4, 6), (17,)), {"padding": (3, 7)}),
    "5x3": ("conv2d", ((2, 16, 24, 25), (17, 16, 5, 3), (17,)), {"padding": (0, 1)}),
    "7x7": ("conv2d", ((2, 16, 24, 25), (17, 16, 7, 7), (17,)), {"padding": 3}),
    "4x4, stride 2": ("conv2d", ((2, 16, 24, 25), (17, 16, 4, 4), (17,)), {"padding": 1, "stride": 2}),
    "5x5, stride 2": ("conv2d", ((2, 16, 25, 28), (17, 16, 5, 5), (17,)), {"padding": (2, 1), "stride": 2}),
    "6x5, strides": ("conv2d", ((2, 16, 25, 28), (17, 16, 6, 5), (17,)), {"padding": (3, 0), "stride": (3, 2)}),
    "transposed": ("conv_transpose2d", ((2, 17, 16, 12), (17, 16, 4, 4), (16,)), {"padding": 1, "stride": 2}),
    "transposed 5x5": (
        "conv_transpose2d",
        ((2, 17, 9, 12), (17, 16, 5, 5), (16,)),
        {"padding": 2, "stride": 2, "output_padding": 1},
    ),
    "transposed 5x5, stride 1": ("conv_transpose2d", ((2, 17, 16, 12), (17, 16, 5, 5), (16,)), {"padding": 1}),
    "transposed dilated": (
        "conv_transpose2d",
        ((2, 17, 16, 12), (17, 16, 3, 3), (16,)),
        {"padding": 3, "dilation": 2},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_agrees_with_the_direct_sum_in_float64(name: str) -> None:
    op, shapes, options = CASES[name]
    arrays = normal(*shapes)
    got: list[Any] = []
    names = kernels_of(lambda: got.extend(three(op, arrays, options, "cpu", "winograd")))
    assert {"winograd_filter_gradient", "winograd_convolution"} <= names
    assert not names & {"direct_convolution", "direct_weight", "direct_weight_pixels", "im2col", "col2im"}
    exact = three(op, tuple(a.astype(np.float64) for a in arrays), options, "cpu")
    for ours, wanted in zip(got, exact, strict=True):
        assert np.abs(ours - wanted).max() <= 4e-6 * np.abs(wanted).max()


@given(st.data())
def test_any_geometry_agrees_with_the_direct_sum_in_float64(data: st.DataObject) -> None:
    draw = data.draw

    def pair(low: int, high: int) -> tuple[int, int]:
        return draw(st.integers(low, high)), draw(st.integers(low, high))

    options: Options = {"padding": pair(0, 5)}
    match draw(st.sampled_from(["dilated", "blocks", "strided"])):
        case "dilated":
            kernel, options["dilation"] = (3, 3), pair(1, 4)
        case "blocks":
            kernel = pair(3, 8)
        case _:
            kernel, options["stride"] = pair(3, 6), pair(1, 3)
    shapes = ((draw(st.integers(1, 2)), 9, *pair(12, 30)), (10, 9, *kernel), (10,))
    arrays = normal(*shapes)
    exact = three("conv2d", tuple(a.astype(np.float64) for a in arrays), options, "cpu")
    for ours, wanted in zip(three("conv2d", arrays, options, "cpu", "winograd"), exact, strict=True):
        assert np.abs(ours - wanted).max() <= 6e-6 * np.abs(wanted).max()


@pytest.mark.parametrize("channels", [32, 64, 256])
@pytest.mark.parametrize("name", ["dilated", "5x5", "transposed"])
def test_accuracy_for_normal_data(name: str, channels: int) -> None:
    """Within 4e-7 √C of the largest result, forward and backward; the filters' gradient as exact as a direct sum."""
    op, shapes, options = CASES[name]
    kernel = shapes[1][2:]
    arrays = normal((2, channels, 16, 16), (channels, channels, *kernel), (channels,))
    exact = three(op, tuple(a.astype(np.float64) for a in arrays), options, "cpu")
    found = three(op, arrays, options, "cpu", "winograd")
    errors = [np.abs(a - b).max() / np.abs(b).max() for a, b in zip(found, exact, strict=True)]
    assert max(errors[:2]) < 4e-7 * channels**0.5
    assert errors[2] < 4e-6


@pytest.mark.parametrize("name", ["dilated", "5x5", "5x5, stride 2"])
def test_bits_for_1_and_2_threads(name: str) -> None:
    op, shapes, options = CASES[name]
    arrays, found = normal((5, *shapes[0][1:]), *shapes[1:]), []
    before = tb.get_num_threads()
    try:
        for threads in range(1, launch.pool.limit + 1):
            tb.set_num_threads(threads)
            found.append(three(op, arrays, options, "cpu", "winograd"))
    finally:
        tb.set_num_threads(before)
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(
    ("name", "reached"), [("dilated", [1, 3, 5]), ("5x5 unpadded", [0, 1, 2, 3]), ("5x5, stride 2", [1, 2])]
)
def test_values_that_are_not_finite_show(value: float, name: str, reached: list[int]) -> None:
    op, shapes, options = CASES[name]
    x, w, b = normal(*shapes)
    x[0, 3, 3, 3] = value
    y = three(op, (x, w, b), options, "cpu", "winograd")[0]
    assert not np.isfinite(y[0][:, reached][:, :, reached]).any()
    assert np.isfinite(y[1:]).all() or "dilated" not in name  # whose phases are pictures of their own


@pytest.mark.parametrize("name", ["dilated", "4x6", "4x4, stride 2"])
def test_layouts_and_views_and_no_samples(name: str) -> None:
    op, shapes, options = CASES[name]
    x, w, b = normal(*shapes)
    want = three(op, (x, w, b), options, "cpu", "winograd")
    spread = np.zeros((*x.shape[:3], 2 * x.shape[3]), np.float32)
    spread[..., ::2] = x
    for view in (np.asfortranarray(x), spread[..., ::2], x.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2)):
        for a, c in zip(three(op, (view, w, b), options, "cpu", "winograd"), want, strict=True):
            np.testing.assert_array_equal(a, c)
    y, gx, gw, gb = three(op, (x[:0], w, b), options, "cpu", "winograd")
    assert y.shape == (0, *want[0].shape[1:])
    assert gx.shape == (0, *x.shape[1:])
    assert not gw.any()
    assert not gb.any()


@pytest.mark.parametrize("name", ["dilated", "5x5", "4x4, stride 2"])
def test_second_derivatives(name: str) -> None:
    """Of a gradient that goes through the pieces itself, against float64."""
    op, shapes, options = CASES[name]
    found = []
    for kind in (np.float32, np.float64):
        with tb.backends.cpu.flags(conv_algorithm="winograd"):
            x, w, _ = (tb.tensor(a.astype(kind), requires_grad=True) for a in normal(*shapes))
            y = getattr(F, op)(x, w, None, **options)
            gx, gw = tb.grad((y * y).sum(), (x, w), create_graph=True)
            found.append([np.asarray(t.numpy(), float) for t in tb.grad((gx * gx).sum() + (gw * gw).sum(), (x, w))])
    for ours, wanted in zip(*found, strict=True):
        assert np.abs(ours - wanted).max() <= 2e-5 * np.abs(wanted).max()


@pytest.mark.parametrize("options", [{"padding": 2, "dilation": 2}, {"padding": 2}])
def test_chains_with_batch_norm_take_the_ordinary_way(options: Options) -> None:
    kernel = 3 if "dilation" in options else 5
    x, w = normal((2, 16, 28, 28), (16, 16, kernel, kernel))
    chained, plain = (tb.tensor(x, requires_grad=True) for _ in range(2))
    y = F.conv2d_batch_norm_act(chained, tb.tensor(w), None, None, training=True, **options)
    z = F.batch_norm_act(F.conv2d(plain, tb.tensor(w), **options), None, None, training=True)
    np.testing.assert_array_equal(y.detach().numpy(), z.detach().numpy())
    first = F.batch_norm_act_conv2d(chained, None, None, None, None, tb.tensor(w), training=True, **options)
    then = F.conv2d(F.batch_norm_act(plain, None, None, training=True), tb.tensor(w), **options)
    np.testing.assert_array_equal(first.detach().numpy(), then.detach().numpy())
