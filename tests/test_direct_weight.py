"""The gradient of filters as a direct sum: which way it goes, how exact it is, and that nothing else changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_bn as tb
from tinygrad_bn.core import launch
from tinygrad_bn.kernels.spec import Kernel
from tinygrad_bn.ops import _direct_weight
from tinygrad_bn.ops._geometry import Geometry, windows

Array = np.ndarray[Any, Any]
KERNELS = {"direct_weight", "direct_weight_pixels"}

CASES: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    # x, weight, settings
    "1×1": ((3, 20, 13, 17), (33, 20, 1, 1), {}),
    "1×1, large": ((1, 5, 40, 30), (40, 5, 1, 1), {}),
    "1×1 stride 2": ((3, 20, 13, 16), (33, 20, 1, 1), {"stride": 2}),
    "3×3 stride 2": ((3, 9, 15, 18), (18, 9, 3, 3), {"stride": 2, "padding": 1}),
    "5×5": ((2, 3, 14, 14), (17, 3, 5, 5), {"padding": 2}),
    "stem": ((2, 3, 41, 38), (64, 3, 7, 7), {"stride": 2, "padding": 3}),
    "stem of 3×3": ((2, 3, 32, 32), (16, 3, 3, 3), {"padding": 1}),
    "dilation": ((2, 9, 20, 20), (20, 9, 3, 3), {"padding": (2, 3), "dilation": (2, 3)}),
    "groups": ((2, 24, 17, 18), (40, 6, 3, 3), {"padding": 1, "groups": 4}),
    "unequal": ((2, 5, 9, 30), (7, 5, 2, 4), {"stride": (3, 1), "padding": (1, 5), "dilation": (2, 3)}),
    "padding beyond the kernel": ((2, 3, 4, 5), (5, 3, 2, 2), {"padding": 7}),
    "one element": ((1, 1, 1, 1), (1, 1, 1, 1), {}),
    "one pixel": ((5, 7, 3, 3), (18, 7, 3, 3), {}),
    "a wide row": ((1, 2, 1, 2100), (3, 2, 1, 9), {}),
}


def gradient(x: Array, w: Array, gy: Array, device: str, **settings: Any) -> Array:
    """The gradient of w, asked for alone."""
    weight = tb.tensor(w, device=device, requires_grad=True)
    y = tb.conv2d(tb.tensor(x, device=device), weight, **settings)
    return np.asarray(tb.grad(y, (weight,), tb.tensor(gy, device=device))[0].numpy())


def problem(
    rng: Any, x: tuple[int, ...], w: tuple[int, ...], settings: dict[str, Any], dtype: str
) -> tuple[Array, Array, Array]:
    y = tb.conv2d(tb.zeros(*x, device="ref"), tb.zeros(*w, device="ref"), **settings)
    values = [rng.standard_normal(s).astype(dtype) for s in (x, w, tuple(y.shape))]
    return values[0], values[1], values[2]


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


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", CASES)
def test_agrees_with_ref(case: str, dtype: str) -> None:
    shape, weight, settings = CASES[case]
    arrays = problem(np.random.default_rng(0), shape, weight, settings, dtype)
    found: list[Array] = []
    names = launched(lambda: found.append(gradient(*arrays, "cpu", **settings)))
    assert len(names & KERNELS) == 1
    assert "im2col" not in names
    wanted = gradient(*(a.astype(np.float64) for a in arrays), "ref", **settings)
    limit = 1e-6 if dtype == "float32" else 1e-14
    np.testing.assert_allclose(found[0], wanted, rtol=0, atol=limit * max(1.0, np.abs(wanted).max()))


@given(st.data())
def test_agrees_with_ref_however_it_is_cut(data: st.DataObject) -> None:
    def pair(low: int, high: int) -> tuple[int, int]:
        return data.draw(st.integers(low, high)), data.draw(st.integers(low, high))

    kernel, groups = pair(1, 4), data.draw(st.integers(1, 3))
    settings = {"stride": pair(1, 3), "padding": pair(0, 5), "dilation": pair(1, 3), "groups": groups}
    need = [max(1, d * (k - 1) + 1 - 2 * p) for k, d, p in zip(kernel, settings["dilation"], settings["padding"])]
    size = tuple(n + data.draw(st.integers(0, 25)) for n in need)
    n, c, o = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 9)), data.draw(st.integers(1, 40))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    arrays = problem(rng, (n, groups * c, *size), (groups * o, c, *kernel), settings, "float64")
    wanted = gradient(*arrays, "ref", **settings)
    np.testing.assert_allclose(gradient(*arrays, "cpu", **settings), wanted, rtol=0, atol=1e-12)


def test_in_one_axis_and_transposed() -> None:
    rng = np.random.default_rng(0)

    def both(function: Any, x: tuple[int, ...], w: tuple[int, ...], **settings: Any) -> None:
        a, b = rng.standard_normal(x), rng.standard_normal(w)
        found = []
        for device in ("cpu", "ref"):
            weight = tb.tensor(b, device=device, requires_grad=True)
            y = function(tb.tensor(a, device=device), weight, **settings)
            g = np.random.default_rng(1).standard_normal(tuple(y.shape))
            names = launched(lambda: y.backward(tb.tensor(g, device=device)))  # noqa: B023
            assert bool(names & KERNELS) == (device == "cpu")
            found.append(np.asarray(weight.grad.numpy()))
        np.testing.assert_allclose(*found, rtol=0, atol=1e-11)

    F = tb.nn.functional
    both(F.conv1d, (3, 7, 500), (20, 7, 9), padding=4)
    both(F.conv_transpose1d, (3, 7, 50), (7, 5, 4), stride=2, padding=1)
    both(F.conv_transpose2d, (2, 18, 9, 9), (18, 5, 4, 4), stride=2, padding=1)
    both(F.conv_transpose2d, (2, 16, 9, 9), (16, 6, 3, 3), stride=2, padding=1, output_padding=1, groups=2)


# ------------------------------------------------------------------------------------------------- which way, and cuts


def geometry(**changes: Any) -> Geometry:
    given_ = {"size": (40, 40), "kernel": (3, 3), "stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1)}
    return windows("conv2d", **{**given_, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("pixels", "depth", "outputs", "changes"),
    [
        (True, 64, 16, {}),
        (False, 64, 17, {}),
        (False, 64, 16, {"size": (15, 15)}),
        (True, 3, 64, {}),
        (False, 4, 64, {}),
        (False, 3, 64, {"size": (20, 20)}),
        (True, 64, 64, {"kernel": (1, 1), "padding": ((0, 0), (0, 0))}),
        (False, 64, 64, {"kernel": (1, 1), "padding": ((0, 0), (0, 0)), "stride": (2, 2)}),
    ],
)
def test_registers_lie_along_pixels(pixels: bool, depth: int, outputs: int, changes: dict[str, Any]) -> None:
    assert _direct_weight.along_pixels(depth, outputs, geometry(**changes)) is pixels


@given(st.data())
def test_cuts_cover_everything_once(data: st.DataObject) -> None:
    """And keep what a share needs small, and a block's rows whole where the kernel wants them whole."""
    draw = data.draw
    g = geometry(
        size=(draw(st.integers(3, 300)), draw(st.integers(3, 3000))),
        stride=(draw(st.integers(1, 3)), draw(st.integers(1, 3))),
        groups=draw(st.integers(1, 4)),
    )
    batch, depth, outputs = draw(st.integers(1, 64)), draw(st.integers(1, 600)), draw(st.integers(1, 600))
    pixels = draw(st.booleans())
    cut = _direct_weight.plan(batch, depth, outputs, g, pixels)
    assert (cut.ranges - 1) * cut.channels < depth <= cut.ranges * cut.channels
    assert cut.columns == g.output[1] or cut.rows == 1
    assert cut.samples == 1 or (cut.rows, cut.columns) == g.output
    assert cut.samples * cut.rows * cut.columns <= (1024 if pixels else 256)
    blocks = -(-batch // cut.samples) * -(-g.output[0] // cut.rows) * -(-g.output[1] // cut.columns)
    assert 1 <= cut.parts <= blocks
    assert cut.channels == 1 or cut.work < 1 << 18


# ------------------------------------------------------------------------------------------------------------- accuracy


@pytest.mark.parametrize("outputs", [16, 48])
def test_accuracy_for_normal_data(outputs: int) -> None:
    """Sums of 57,600 terms are off by a few last places of the largest."""
    rng = np.random.default_rng(0)
    settings = {"stride": 2, "padding": 2}
    arrays = problem(rng, (4, 4, 240, 240), (outputs, 4, 5, 5), settings, "float32")
    exact = gradient(*(a.astype(np.float64) for a in arrays), "cpu", **settings)
    assert np.abs(gradient(*arrays, "cpu", **settings) - exact).max() < 1e-6 * np.abs(exact).max()


@pytest.mark.peers
@pytest.mark.parametrize("case", CASES)
def test_accuracy_beside_pytorch(case: str) -> None:
    torch = pytest.importorskip("torch")
    shape, weight, settings = CASES[case]
    arrays = problem(np.random.default_rng(0), shape, weight, settings, "float32")

    def theirs(dtype: str) -> Array:
        x, w, gy = (torch.from_numpy(a.astype(dtype)) for a in arrays)
        w.requires_grad_()
        y = torch.nn.functional.conv2d(x, w, **settings)
        return np.asarray(torch.autograd.grad(y, (w,), gy)[0].numpy())

    exact = theirs("float64")
    ours, error = (np.abs(a - exact).max() for a in (gradient(*arrays, "cpu", **settings), theirs("float32")))
    assert ours <= max(error, 5e-7 * np.abs(exact).max())


# ------------------------------------------------------------------------------------------------ nothing else changes


@pytest.mark.parametrize("case", ["1×1, large", "3×3 stride 2", "stem of 3×3", "groups"])
def test_bits_for_any_number_of_threads(case: str) -> None:
    shape, weight, settings = CASES[case]
    arrays = problem(np.random.default_rng(0), (16, *shape[1:]), weight, settings, "float32")
    before, found = tb.get_num_threads(), []
    try:
        for threads in range(1, launch.pool.limit + 1):
            tb.set_num_threads(threads)
            found.append(gradient(*arrays, "cpu", **settings).tobytes())
    finally:
        tb.set_num_threads(before)
    assert len(set(found)) == 1


@pytest.mark.parametrize("outputs", [5, 21])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_stay_where_they_belong(value: float, outputs: int) -> None:
    """Of what only fills up tiles and registers nothing shows."""
    settings = {"stride": 2, "padding": 1}
    x, w, gy = problem(np.random.default_rng(0), (2, 5, 21, 23), (outputs, 5, 3, 3), settings, "float32")
    x[1, 0, 4, 4] = value
    found = np.isfinite(gradient(x, w, gy, "cpu", **settings))
    wanted = np.ones(found.shape, bool)
    wanted[:, 0, 1, 1] = False  # the one tap that meets an even row and an even column
    np.testing.assert_array_equal(found, wanted)
    x[1, 0, 4, 4], gy[0, outputs - 1, 10, 11] = 0, value
    found = np.isfinite(gradient(x, w, gy, "cpu", **settings))
    assert found[:-1].all()
    assert not found[-1, :, :2, :2].any()
