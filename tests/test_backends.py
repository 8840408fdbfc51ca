"""Which algorithm convolutions go by, and what may be asked for instead."""

from __future__ import annotations

from typing import Any

import pytest
from test_direct import kernels_of

import tinygrad_bn as tb
from tinygrad_bn.core.device import cpu, ref
from tinygrad_bn.core.dtype import float32, float64
from tinygrad_bn.errors import ArgumentError
from tinygrad_bn.ops._algorithm import CONV_ALGORITHMS, algorithm
from tinygrad_bn.ops._geometry import Geometry, windows
from tinygrad_bn.train.info import info


def geometry(**changes: Any) -> Geometry:
    given: dict[str, Any] = {
        "size": (9, 9), "kernel": (3, 3), "stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1),
    }  # fmt: skip
    return windows("conv2d", **{**given, **changes})


STRIDED = geometry(stride=(2, 2))


@pytest.mark.parametrize(
    ("asked", "wanted", "arguments"),
    [
        ("auto", "winograd", (16, 16, geometry(), float32, cpu)),
        ("auto", "direct", (16, 16, geometry(), float64, cpu)),
        ("auto", "direct", (3, 16, geometry(), float32, cpu)),
        ("auto", "direct", (16, 16, STRIDED, float32, cpu)),
        ("auto", "direct", (16, 16, geometry(groups=2), float32, cpu)),
        ("auto", "depthwise", (16, 16, geometry(groups=16), float32, cpu)),
        ("auto", "im2col", (16, 16, geometry(), float32, ref)),
        ("direct", "direct", (16, 16, geometry(), float32, cpu)),
        ("direct", "depthwise", (16, 16, geometry(groups=16), float64, cpu)),
        ("direct", "im2col", (16, 16, geometry(), float32, ref)),
        ("winograd", "winograd", (3, 3, geometry(), float32, cpu)),
        ("winograd", "direct", (16, 16, STRIDED, float32, cpu)),
        ("winograd", "direct", (16, 16, geometry(), float64, cpu)),
        ("winograd", "depthwise", (16, 16, geometry(groups=16), float32, cpu)),
        ("im2col", "im2col", (16, 16, geometry(), float32, cpu)),
        ("im2col", "im2col", (16, 16, geometry(groups=16), float32, cpu)),
    ],
)
def test_the_policy(asked: str, wanted: str, arguments: tuple[Any, ...]) -> None:
    with tb.backends.cpu.flags(conv_algorithm=asked):
        assert algorithm(*arguments) == wanted


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        ("auto", {"winograd_convolution", "winograd_gradient"}),
        ("winograd", {"winograd_convolution", "winograd_gradient"}),
        ("direct", {"direct_convolution"}),
        ("im2col", {"im2col", "col2im"}),
    ],
)
def test_what_runs(asked: str, wanted: set[str]) -> None:
    """Forward and backward alike, and the answers agree."""
    x, w = tb.randn(2, 16, 9, 9), tb.randn(16, 16, 3, 3)
    found = {}

    def run(name: str) -> None:
        a, b = x.clone().requires_grad_(), w.clone().requires_grad_()
        y = tb.conv2d(a, b, padding=1)
        y.backward(tb.ones_like(y))
        found[name] = (y.detach(), a.grad, b.grad)

    with tb.backends.cpu.flags(conv_algorithm=asked):
        names = kernels_of(lambda: run("ours"))
    assert wanted <= names
    others = {"winograd_convolution", "direct_convolution", "im2col"} - wanted
    assert not others & names
    with tb.backends.cpu.flags(conv_algorithm="im2col"):
        run("theirs")
    for ours, theirs in zip(found["ours"], found["theirs"], strict=True):
        assert tb.allclose(ours, theirs, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", ["fft", "", "AUTO", None, 1, ["auto"]])
def test_no_such_algorithm(name: Any) -> None:
    message = r"^backends\.cpu: 'conv_algorithm' must be one of 'auto', 'direct', 'winograd', 'im2col'\. Got .+\."
    with pytest.raises(ArgumentError, match=message):
        tb.backends.cpu.conv_algorithm = name
    with pytest.raises(ArgumentError, match=message), tb.backends.cpu.flags(conv_algorithm=name):
        pass
    assert tb.backends.cpu.conv_algorithm == "auto"


def test_what_is_asked_for_is_kept_and_shown() -> None:
    for name in CONV_ALGORITHMS:
        tb.backends.cpu.conv_algorithm = name
        try:
            assert tb.backends.cpu.conv_algorithm == name
            assert f"convolution algorithm  {name}\n" in info()
        finally:
            tb.backends.cpu.conv_algorithm = "auto"


def test_a_block_restores_what_was_asked_for() -> None:
    with tb.backends.cpu.flags(conv_algorithm="direct"):
        with pytest.raises(ZeroDivisionError), tb.backends.cpu.flags(conv_algorithm="im2col"):
            1 / 0  # noqa: B018
        assert tb.backends.cpu.conv_algorithm == "direct"
    assert tb.backends.cpu.conv_algorithm == "auto"
