"""Direct convolutions: how exact they are, strips of every kind, bits that no thread changes, plans."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_bn as tb
from tinygrad_bn.core import launch
from tinygrad_bn.kernels.direct import Cut, Plan, lines_of, plan, taps_of_gradient, taps_of_windows
from tinygrad_bn.kernels.spec import Kernel

F = tb.nn.functional
Array = np.ndarray[Any, Any]
Options = dict[str, Any]


def three(op: str, arrays: tuple[Array, ...], options: Options, device: str, algorithm: str = "direct") -> list[Array]:
    """The result and the gradients of x, w and b, in float64."""
    with tb.backends.cpu.flags(conv_algorithm=algorithm):
        tensors = [tb.tensor(a, device=device, requires_grad=True) for a in arrays]
        y = getattr(F, op)(*tensors, **options)
        g = np.random.default_rng(7).standard_normal(y.shape).astype(arrays[0].dtype)
        y.backward(tb.tensor(g, device=device))
    return [np.asarray(y.detach().numpy(), float)] + [np.asarray(t.grad.numpy(), float) for t in tensors]


def kernels_of(run: Any) -> set[str]:
    """The names of the kernels that are launched."""
    names: set[str] = set()

    def watch(kernel: Kernel, arguments: tuple[Any, ...], go: Any) -> None:
        names.add(kernel.name)
        go()

    launch.observers.append(watch)
    try:
        run()
    finally:
        launch.observers.remove(watch)
    return names


def normal(*shapes: tuple[int, ...], dtype: str = "float32") -> tuple[Array, ...]:
    rng = np.random.default_rng(0)
    return tuple(rng.standard_normal(s).astype(dtype) for s in shapes)


CASES: dict[str, tuple[str, tuple[tuple[int, ...], ...], Options]] = {
    "first layer": ("conv2d", ((2, 3, 33, 35), (20, 3, 7, 7), (20,)), {"stride": 2, "padding": 3}),
    "thin first layer": ("conv2d", ((2, 1, 30, 30), (8, 1, 3, 3), (8,)), {"padding": 1}),
    "stride": ("conv2d", ((3, 16, 28, 29), (33, 16, 3, 3), (33,)), {"stride": 2, "padding": 1}),
    "strides": ("conv2d", ((3, 16, 28, 29), (9, 16, 3, 4), (9,)), {"stride": (3, 2), "padding": (1, 2)}),
    "stride beyond the kernel": ("conv2d", ((3, 16, 20, 20), (9, 16, 2, 2), (9,)), {"stride": 3}),
    "large": ("conv2d", ((2, 8, 14, 14), (17, 8, 5, 5), (17,)), {"padding": 2}),
    "dilated": ("conv2d", ((2, 8, 14, 15), (17, 8, 3, 3), (17,)), {"padding": 6, "dilation": 6}),
    "padding beyond the kernel": ("conv2d", ((2, 4, 5, 6), (5, 4, 2, 3), (5,)), {"padding": (7, 9)}),
    "pointwise": ("conv2d", ((3, 40, 14, 14), (24, 40, 1, 1), (24,)), {}),
    "pointwise, small": ("conv2d", ((9, 40, 3, 5), (24, 40, 1, 1), (24,)), {}),
    "pointwise, strided": ("conv2d", ((3, 40, 14, 15), (24, 40, 1, 1), (24,)), {"stride": 2}),
    "pointwise, padded": ("conv2d", ((3, 40, 5, 5), (24, 40, 1, 1), (24,)), {"padding": 1}),
    "deep": ("conv2d", ((1, 600, 8, 8), (12, 600, 3, 3), (12,)), {"padding": 1}),
    "groups": ("conv2d", ((2, 24, 9, 9), (36, 8, 3, 3), (36,)), {"padding": 1, "groups": 3}),
    "few outputs": ("conv2d", ((2, 9, 20, 20), (2, 9, 3, 3), (2,)), {"padding": 1}),
    "one element": ("conv2d", ((1, 1, 1, 1), (1, 1, 1, 1), (1,)), {}),
    "one row": ("conv1d", ((3, 9, 2000), (17, 9, 5), (17,)), {"padding": 8, "dilation": 4}),
    "one row, strided": ("conv1d", ((3, 9, 2001), (17, 9, 5), (17,)), {"padding": 2, "stride": 2}),
    "wide": ("conv2d", ((1, 3, 3, 3000), (9, 3, 3, 3), (9,)), {"padding": 1, "stride": 2}),
    "transposed": ("conv_transpose2d", ((2, 16, 9, 10), (16, 12, 4, 4), (12,)), {"stride": 2, "padding": 1}),
    "transposed, deep": ("conv_transpose2d", ((2, 700, 4, 4), (700, 9, 3, 3), (9,)), {"stride": 2}),
    "transposed, sparse": ("conv_transpose2d", ((2, 16, 9, 10), (16, 5, 2, 2), (5,)), {"stride": 3}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_accuracy_for_normal_data(case: str) -> None:
    """Forward and backward within rounding of sums in order, of the largest result; float64 likewise."""
    op, shapes, options = CASES[case]
    arrays = normal(*shapes)
    assert "direct_convolution" in kernels_of(lambda: three(op, arrays, options, "cpu"))
    exact = three(op, tuple(a.astype(float) for a in arrays), options, "ref")
    depth = max(np.prod(shapes[1][1:]), np.prod(shapes[1]) // shapes[1][1])
    for dtype, unit in (("float32", 1.0), ("float64", 2e-9)):
        found = three(op, tuple(a.astype(dtype) for a in arrays), options, "cpu")
        for got, wanted in zip(found[:2], exact[:2], strict=True):
            limit = unit * (3e-7 + 3e-8 * depth**0.5) * max(1.0, np.abs(wanted).max())
            assert np.abs(got - wanted).max() <= limit, dtype


@given(st.data())
def test_agrees_with_columns_on_the_reference(data: st.DataObject) -> None:
    draw = data.draw
    groups, dtype = draw(st.integers(1, 3)), draw(st.sampled_from(["float32", "float64"]))
    inputs, outputs = draw(st.integers(1, 12)) * groups, draw(st.integers(1, 20)) * groups
    size, kernel = ((draw(st.integers(1, most)), draw(st.integers(1, most))) for most in (24, 5))
    options = {name: (draw(st.integers(1, 3)), draw(st.integers(1, 3))) for name in ("stride", "dilation")}
    least = [max(0, -(-(d * (k - 1) + 1 - s) // 2)) for k, s, d in zip(kernel, size, options["dilation"], strict=True)]
    options |= {"padding": tuple(p + draw(st.integers(0, 4)) for p in least), "groups": groups}
    shapes = (draw(st.integers(1, 7)), inputs, *size), (outputs, inputs // groups, *kernel), (outputs,)
    arrays = normal(*shapes, dtype=dtype)
    ours, theirs = (three("conv2d", arrays, options, device) for device in ("cpu", "ref"))
    limit = 3e-6 if dtype == "float32" else 1e-13
    for a, b in zip(ours, theirs, strict=True):
        assert np.abs(a - b).max(initial=0) <= limit * max(1.0, np.abs(b).max(initial=0))


@pytest.mark.parametrize("case", CASES)
def test_bits_for_any_number_of_threads(case: str) -> None:
    op, shapes, options = CASES[case]
    arrays, found = normal(*shapes), []
    before = tb.get_num_threads()
    try:
        for threads in range(1, launch.pool.limit + 1):
            tb.set_num_threads(threads)
            found.append(three(op, arrays, options, "cpu"))
    finally:
        tb.set_num_threads(before)
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_values_that_are_not_finite_show_where_they_are_seen() -> None:
    x, w, b = normal((1, 8, 9, 9), (8, 8, 3, 3), (8,))
    for value in (np.nan, np.inf):
        x[0, 3, 4, 4] = value
        y = three("conv2d", (x, w, b), {"stride": 2, "padding": 1}, "cpu")[0]
        seen = np.isin(np.arange(5), 2)
        assert (np.isfinite(y) != (seen[:, None] & seen)).all()


# ----------------------------------------------------------------------------------------------------------- the plans


def planned(turned: bool, n: int, c: int, rows: int, grid: tuple[int, int], kernel: int, stride: int) -> Plan:
    pair, one = (kernel, kernel), (1, 1)
    if turned:
        taps, step, spread = taps_of_gradient(pair, (stride, stride), (1, 1), one), one, (stride, stride)
    else:
        taps, step, spread = taps_of_windows(pair, (1, 1), one), (stride, stride), one
    return plan(taps, step, spread, (n, c), rows, 1, grid, 4, False)


def test_a_filter_needs_a_line_a_column() -> None:
    """Three of a 3×3 filter, twice that where the stride splits rows; all in a strip of several samples."""
    taps = taps_of_windows((3, 3), (1, 1), (1, 1))
    for stride, cut, count in (
        ((1, 1), Cut(1, 8, 20), 3),
        ((2, 2), Cut(1, 8, 20), 6),
        ((1, 1), Cut(4, 5, 5), 9),
        ((1, 1), Cut(1, 1, 200), 3),
        ((2, 2), Cut(1, 1, 200), 6),
    ):
        lines, places, elements = lines_of(taps, stride, cut)
        assert len(lines) == count
        assert len(places) == 9
        assert elements // 16 % 2 == 1
        assert elements >= sum(cut.samples * line.rows * line.columns for line in lines)


def test_taps_far_apart_have_lines_of_their_own() -> None:
    taps = taps_of_windows((3, 3), (0, 0), (30, 30))
    assert len(lines_of(taps, (1, 1), Cut(1, 4, 20))[0]) == 9
    assert len(lines_of(taps, (1, 1), Cut(1, 40, 20))[0]) == 3


def test_small_pictures_share_a_strip_and_large_ones_are_cut() -> None:
    assert planned(False, 32, 512, 512, (4, 4), 3, 1).cut[0] > 1
    assert planned(False, 32, 64, 64, (100, 100), 3, 1).cut[1] < 100
    assert planned(False, 1, 8, 16, (1, 100_000), 3, 1).cut[2] < 100_000


def test_workspace_stays_in_the_cache() -> None:
    for c in (3, 64, 512, 2048):
        for side in (7, 28, 112, 300):
            for turned in (False, True):
                assert planned(turned, 4, c, 64, (side, side), 3, 2).work * 4 < 1 << 21


def test_taps_of_a_gradient_are_split_by_phase() -> None:
    """Each filter element belongs to one phase; a stride of 2 cuts 3×3 into 2×2, 2×1, 1×2 and 1×1."""
    taps = taps_of_gradient((3, 3), (2, 2), (1, 1), (1, 1))
    assert sorted(t.number for t in taps) == list(range(9))
    assert [sum((t.a, t.b) == phase for t in taps) for phase in ((0, 0), (0, 1), (1, 0), (1, 1))] == [1, 2, 2, 4]
