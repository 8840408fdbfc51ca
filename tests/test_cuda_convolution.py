"""Convolutions on ``cuda`` against the CPU's: on a GPU where there is one, else in the simulator
(NUMBA_ENABLE_CUDASIM=1)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tinygrad_bn as tb
import tinygrad_bn.functional as F
from tinygrad_bn import cuda
from tinygrad_bn.core.device import as_device
from tinygrad_bn.core.launch import observers
from tinygrad_bn.errors import ArgumentError, DeviceError

Array = np.ndarray[Any, Any]
pytestmark = pytest.mark.skipif(not cuda.is_available(), reason="no GPU, and NUMBA_ENABLE_CUDASIM is not 1")

CASES = {
    "of stride 1": ((2, 3, 7, 6), (5, 3, 3, 3), {"padding": 1}),
    "of odd sizes": ((1, 5, 9, 5), (9, 5, 2, 3), {"padding": (0, 2)}),
    "of stride 2": ((2, 4, 8, 8), (6, 4, 3, 3), {"stride": 2, "padding": 1}),
    "of strides that skip": ((1, 2, 7, 9), (3, 2, 2, 1), {"stride": (3, 2)}),
    "dilated": ((2, 2, 9, 8), (4, 2, 3, 2), {"dilation": (2, 3), "padding": 2}),
    "in groups": ((2, 10, 5, 6), (10, 5, 3, 3), {"groups": 2, "padding": 1}),
    "1×1": ((2, 4, 4, 6), (8, 4, 1, 1), {}),
    "1×1 of stride 2": ((2, 4, 5, 7), (8, 4, 1, 1), {"stride": 2}),
    "depthwise": ((2, 6, 7, 5), (6, 1, 3, 3), {"groups": 6, "padding": 1}),
    "depthwise of stride 2": ((2, 3, 9, 6), (6, 1, 5, 3), {"groups": 3, "stride": 2, "padding": (2, 1)}),
    "larger than the input": ((1, 2, 3, 3), (2, 2, 5, 5), {"padding": 2}),
}
rng = np.random.default_rng(0)


def results(device: str, x: Array, w: Array, b: Array, gy: Array | None, options: dict[str, Any]) -> list[Array]:
    """A convolution and its three gradients."""
    tensors = [tb.tensor(a).to(device).requires_grad_() for a in (x, w, b)]
    y = F.conv2d(*tensors, **options)
    host = y.detach().cpu().numpy()
    y.backward(tb.tensor(np.ones_like(host) if gy is None else gy).to(device))
    return [host, *[t.grad.cpu().numpy() for t in tensors]]  # type: ignore[union-attr]  # there are gradients


def agrees(x_shape: tuple[int, ...], w_shape: tuple[int, ...], options: dict[str, Any], dtype: str) -> None:
    x, w, b = (rng.standard_normal(s).astype(dtype) for s in (x_shape, w_shape, w_shape[:1]))
    with tb.no_grad():
        shape = F.conv2d(tb.tensor(x), tb.tensor(w), **options).shape
    gy = rng.standard_normal(shape).astype(dtype)
    ours, theirs = (results(device, x, w, b, gy, options) for device in ("cuda", "cpu"))
    for name, got, want in zip(("y", "gx", "gw", "gb"), ours, theirs, strict=True):
        assert (got.dtype, got.shape) == (want.dtype, want.shape)
        worst = np.abs(got - want).max() / np.abs(want).max()
        assert worst < (1e-5 if dtype == "float32" else 1e-13), name


@pytest.mark.parametrize("algorithm", ["auto", "im2col"])
@pytest.mark.parametrize("case", CASES)
def test_a_convolution_and_its_gradients_agree_with_the_cpus(case: str, algorithm: str) -> None:
    with tb.backends.cuda.flags(conv_algorithm=algorithm):
        agrees(*CASES[case], "float32")


@pytest.mark.parametrize("case", ["of stride 2", "depthwise", "in groups"])
def test_they_agree_in_float64(case: str) -> None:
    agrees(*CASES[case], "float64")


def test_an_input_whose_channels_lie_last_in_memory_is_taken() -> None:
    x = rng.standard_normal((2, 5, 4, 3)).astype(np.float32)
    w = rng.standard_normal((4, 3, 3, 3)).astype(np.float32)
    got = F.conv2d(tb.tensor(x).to("cuda").permute(0, 3, 1, 2), tb.tensor(w).to("cuda"), padding=1)
    want = F.conv2d(tb.tensor(x).permute(0, 3, 1, 2), tb.tensor(w), padding=1)
    np.testing.assert_allclose(got.cpu().numpy(), want.numpy(), rtol=1e-5, atol=1e-5)


def test_a_transposed_convolution_agrees_with_the_cpus() -> None:
    x, w, b = (rng.standard_normal(s).astype(np.float32) for s in ((2, 4, 5, 3), (4, 3, 3, 3), (3,)))
    got, want = (
        F.conv_transpose2d(*[tb.tensor(a).to(d) for a in (x, w, b)], stride=2, padding=1, output_padding=1)
        .cpu()
        .numpy()
        for d in ("cuda", "cpu")
    )
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def kernels_of(options: dict[str, Any]) -> set[str]:
    """Names of the kernels that a convolution and its gradients launch."""
    seen = []

    def note(kernel: Any, arguments: Any, run: Any) -> None:
        seen.append(kernel.name)
        run()

    observers.append(note)
    try:
        groups = options.get("groups", 1)
        agrees_on = [rng.standard_normal(s).astype(np.float32) for s in ((1, 2, 4, 4), (2, 2 // groups, 3, 3), (2,))]
        results("cuda", *agrees_on, None, options)  # type: ignore[misc]  # three arrays
    finally:
        observers.remove(note)
    return set(seen)


def test_auto_writes_no_columns_and_im2col_does() -> None:
    direct = kernels_of({})
    assert {"direct_convolution", "direct_weight"} <= direct
    assert "im2col" not in direct
    assert {"depthwise", "depthwise_input", "depthwise_weight"} <= kernels_of({"groups": 2})
    with tb.backends.cuda.flags(conv_algorithm="im2col"):
        assert {"im2col", "col2im", "matmul_nn"} <= kernels_of({})


def test_the_algorithms_of_a_gpu_are_its_own() -> None:
    with pytest.raises(
        ArgumentError, match=r"backends\.cuda: 'conv_algorithm' must be one of 'auto', 'direct', 'im2col'"
    ):
        tb.backends.cuda.conv_algorithm = "winograd"
    assert tb.backends.cuda.conv_algorithm == "auto"


def test_samples_beyond_65535_are_all_convolved() -> None:
    n = 65_536 + 3
    x = np.arange(n, dtype=np.float32).reshape(n, 1, 1, 1)
    with tb.no_grad():
        y = F.conv2d(tb.tensor(x).to("cuda"), tb.tensor(np.full((1, 1, 1, 1), 3, np.float32)).to("cuda"))
    assert (y.cpu().numpy() == 3 * x).all()


@pytest.mark.parametrize("parts", [1, 3])
def test_parts_of_a_sum_over_windows_give_the_filters_gradient_and_the_same_bits_each_time(parts: int) -> None:
    gpu = as_device("cuda")
    x, gy = (rng.standard_normal(s).astype(np.float32) for s in ((3, 4, 6, 7), (3, 5, 4, 5)))
    want = np.array([[[[(gy[:, o] * x[:, c, p : p + 4, q : q + 5]).sum(dtype=np.float64) for q in range(3)]
                       for p in range(3)] for c in range(4)] for o in range(5)])  # fmt: skip
    found = []
    for _ in range(2):
        gw = gpu.array(np.full((5, 4, 3, 3), np.nan, np.float32))
        room = gpu.array(np.full((parts, 180), np.nan, np.float32))
        none = gpu.array(np.empty(0, np.float32))
        given = (gpu.array(x), gpu.array(gy), 1, 1, 0, 0, 1, 1, 3, 4, 5, 4, none, none, room, gw)
        gpu.kernels.direct_weight.serial(*given)
        found.append(gpu.to_host(gw))
    assert (found[0] == found[1]).all()
    np.testing.assert_allclose(found[0], want, rtol=1e-4, atol=1e-4)


def test_what_32_bits_cannot_count_is_refused_with_a_way_out() -> None:
    from tinygrad_bn.kernels.cuda.convolution import limited

    limited(2**31 - 1)
    with pytest.raises(DeviceError, match=r"must be fewer than 2147483648\. Got 2147483648\.\nHint: divide the batch"):
        limited(2**31)
