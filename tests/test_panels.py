"""Convolutions by panels and gradients of 1×1 filters: which geometries take them, how exact they are, bits that no
thread changes, what is not finite."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from test_direct import kernels_of, normal, three

import tinygrad_bn as tb
from tinygrad_bn.core import launch
from tinygrad_bn.kernels.direct import taps_of_gradient, taps_of_windows
from tinygrad_bn.kernels.panels import plan

Options = dict[str, Any]
CASES: dict[str, tuple[str, tuple[tuple[int, ...], ...], Options]] = {
    "pointwise": ("conv2d", ((18, 80, 14, 14), (72, 80, 1, 1), (72,)), {}),
    "pointwise, small": ("conv2d", ((75, 64, 3, 5), (260, 64, 1, 1), (260,)), {}),
    "pointwise, strided": ("conv2d", ((12, 70, 28, 29), (136, 70, 1, 1), (136,)), {"stride": 2}),
    "pointwise in groups": ("conv2d", ((12, 128, 21, 21), (128, 64, 1, 1), (128,)), {"groups": 2}),
    "strided": ("conv2d", ((9, 132, 17, 15), (130, 132, 3, 3), (130,)), {"stride": 2, "padding": 1}),
    "strided, of few channels": ("conv2d", ((9, 64, 17, 19), (132, 64, 3, 3), (132,)), {"stride": 2, "padding": 1}),
    "every third": ("conv2d", ((9, 66, 25, 26), (128, 66, 2, 2), (128,)), {"stride": 3, "padding": 1}),
    "dilated": ("conv2d", ((9, 256, 7, 7), (257, 256, 2, 2), (257,)), {"padding": 2, "dilation": 3}),
    "transposed": ("conv_transpose2d", ((12, 128, 8, 8), (128, 129, 4, 4), (129,)), {"stride": 2, "padding": 1}),
    "one axis": ("conv1d", ((20, 70, 300), (130, 70, 1), (130,)), {"stride": 3}),
}


@pytest.mark.parametrize("case", CASES)
def test_accuracy_for_normal_data(case: str) -> None:
    """Forward and backward within rounding of sums in order, of the largest result; float64 likewise."""
    op, shapes, options = CASES[case]
    arrays = normal(*shapes)
    names = kernels_of(lambda: three(op, arrays, options, "cpu"))
    assert "panel_convolution" in names
    assert ("pointwise_weight" in names) == (np.prod(shapes[1][2:]) == 1)
    exact = three(op, tuple(a.astype(float) for a in arrays), options, "ref")
    depth = max(np.prod(shapes[1][1:]), np.prod(shapes[1]) // shapes[1][1])
    windows = exact[0].size // exact[0].shape[1]
    for dtype, unit in (("float32", 1.0), ("float64", 1e-8)):
        found = three(op, tuple(a.astype(dtype) for a in arrays), options, "cpu")
        for got, wanted, terms in zip(found[:3], exact[:3], (depth, depth, windows), strict=True):
            limit = unit * (4e-7 + 3e-8 * terms**0.5) * max(1.0, np.abs(wanted).max())
            assert np.abs(got - wanted).max() <= limit, dtype


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


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("kernel", [1, 3])
def test_values_that_are_not_finite_show_where_they_are_seen(kernel: int, value: float) -> None:
    x, w, b = normal((20, 64, 9, 9), (128, 64, kernel, kernel), (128,))
    x[3, 5, 4, 4] = value
    y = three("conv2d", (x, w, b), {"stride": 2, "padding": kernel // 2}, "cpu")[0]
    expected = np.zeros(y.shape, bool)
    expected[3, :, 2, 2] = True
    np.testing.assert_array_equal(~np.isfinite(y), expected)


def test_taps_that_see_the_same_share_what_is_laid_out() -> None:
    """A 3×3 filter's nine taps look nine ways; its gradient of stride 2 looks four ways."""
    forward, backward = ((3, 3), (1, 1), (1, 1)), ((3, 3), (2, 2), (1, 1), (1, 1))
    assert len(plan(taps_of_windows(*forward), 1, 64, 64, 1).offsets) == 9
    turned = plan(taps_of_gradient(*backward), 4, 64, 64, 1)
    assert len(turned.offsets) == 4
    assert sorted(turned.taps[:, 5].tolist()) == [0, 0, 0, 0, 1, 1, 2, 2, 3]


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(
    ("x", "w", "options"),
    [
        ((5, 64, 64, 60), (268, 64, 1, 1), {}),
        ((5, 64, 67, 57), (260, 64, 1, 1), {}),
        ((5, 64, 129, 119), (272, 64, 2, 2), {"stride": 2, "padding": 1}),
    ],
)
def test_results_that_go_past_the_caches_are_the_same(
    x: tuple[int, ...], w: tuple[int, ...], options: Options, biased: bool
) -> None:
    """Of a batch too large for them, against its samples one by one."""
    a, filters, bias = (tb.tensor(v) for v in normal(x, w, (w[0],)))

    def result(part: tb.Tensor) -> Any:
        return tb.functional.conv2d(part, filters, bias if biased else None, **options).numpy()

    y = result(a)
    assert y.nbytes > 1 << 24
    np.testing.assert_array_equal(y, np.concatenate([result(a[n : n + 1]) for n in range(len(a))]))
