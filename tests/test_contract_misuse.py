"""Every misuse of batch normalisation that a caller can commit: the argument, what was expected, what was got, and what
to do about it. Nothing is changed by a call that fails."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad_bn as tb
import tinygrad_bn.nn.functional as F
from tinygrad_bn import nn
from tinygrad_bn.errors import ArgumentError, DeviceError, DTypeError, ShapeError

pytestmark = pytest.mark.jit_off
X = tb.tensor(np.random.default_rng(0).standard_normal((4, 3, 5)).astype(np.float32))
ONES = tb.ones(4, 5) > 0


def zeros(*shape: int, **options: Any) -> tb.Tensor:
    return tb.zeros(shape, **options)


def train(**options: Any) -> tb.Tensor:
    return F.batch_norm(
        X, options.pop("running_mean", None), options.pop("running_var", None), training=True, **options
    )


def corner() -> tb.Tensor:
    mask = np.zeros((4, 5), bool)
    mask[1, 2] = True
    return tb.tensor(mask)


Case = tuple[Callable[[], Any], type[Exception], str, str]
"""What is called, the error, the text, and the part of the remedy that is named; "" where the text says it all."""

INPUTS: dict[str, Case] = {
    "channels": (
        lambda: nn.BatchNorm1d(3)(zeros(5, 4)),
        ShapeError,
        "BatchNorm1d: 'input' must have shape (N, C) or (N, C, L) with C = 3. Got (5, 4).",
        "num_features=4",
    ),
    "channels last": (
        lambda: nn.BatchNorm2d(3)(zeros(5, 8, 8, 3)),
        ShapeError,
        "BatchNorm2d: 'input' must have shape (N, C, H, W) with C = 3. Got (5, 8, 8, 3).",
        "axis=-1",
    ),
    "axes": (
        lambda: nn.BatchNorm2d(3)(zeros(5, 3)),
        ShapeError,
        "BatchNorm2d: 'input' must have shape (N, C, H, W) with C = 3. Got (5, 3).",
        "BatchNorm1d takes 2 or 3 axes",
    ),
    "no batch": (
        lambda: nn.BatchNorm2d(3)(zeros(3, 8, 8)),
        ShapeError,
        "BatchNorm2d: 'input' must have shape (N, C, H, W) with C = 3. Got (3, 8, 8).",
        "input.unsqueeze(0)",
    ),
    "five axes": (
        lambda: nn.BatchNorm3d(3)(zeros(5, 3, 2, 2)),
        ShapeError,
        "BatchNorm3d: 'input' must have shape (N, C, D, H, W) with C = 3. Got (5, 3, 2, 2).",
        "BatchNorm2d takes 4",
    ),
    "one axis": (
        lambda: F.batch_norm(zeros(3), None, None, training=True),
        ShapeError,
        "batch_norm: 'input' must have at least 2 axes, (N, C, …). Got shape (3,).",
        "",
    ),
    "integers": (
        lambda: nn.BatchNorm1d(3)(zeros(5, 3, dtype=tb.int64)),
        DTypeError,
        "batch_norm: 'input' must be a floating-point tensor. Got int64.",
        "convert it with .float()",
    ),
    "an array": (
        lambda: nn.BatchNorm1d(3)(np.zeros((5, 3))),
        DTypeError,
        "BatchNorm1d: 'input' must be a Tensor. Got ndarray.",
        "tb.tensor(",
    ),
    "another dtype": (
        lambda: nn.BatchNorm1d(3)(zeros(5, 3, dtype=tb.float64)),
        DTypeError,
        "dtype float64, as input has. Got float32.",
        "convert the layer with .to(tb.float64)",
    ),
    "another device": (
        lambda: nn.BatchNorm1d(3)(zeros(5, 3, device="ref")),
        DeviceError,
        "must be on device ref, as the first argument is. Got cpu.",
        "move the layer with .to('ref')",
    ),
    "one value": (
        lambda: nn.BatchNorm2d(3)(zeros(1, 3, 1, 1)),
        ArgumentError,
        "'input' must have more than one value a channel in training. Got shape (1, 3, 1, 1).",
        "drop_last=True",
    ),
    "a residual of another shape": (
        lambda: nn.BatchNorm1d(3)(X, zeros(4, 3, 4)),
        ShapeError,
        "'residual' must have the input's shape (4, 3, 5). Got (4, 3, 4).",
        "",
    ),
}

ARGUMENTS: dict[str, Case] = {
    "weight's shape": (
        lambda: train(weight=zeros(1, 3)),
        ShapeError,
        "batch_norm: 'weight' must have shape (C,) = (3,). Got (1, 3).",
        "",
    ),
    "bias's shape": (
        lambda: train(bias=zeros(4)),
        ShapeError,
        "batch_norm: 'bias' must have shape (C,) = (3,). Got (4,).",
        "",
    ),
    "weight's dtype": (
        lambda: train(weight=zeros(3, dtype=tb.float64)),
        DTypeError,
        "batch_norm: 'weight' must have dtype float32, as input has. Got float64.",
        ".to(tb.float32)",
    ),
    "weight's device": (
        lambda: train(weight=zeros(3, device="ref")),
        DeviceError,
        "batch_norm: 'weight' must be on device cpu, as the first argument is. Got ref.",
        ".to('cpu')",
    ),
    "weight is an array": (
        lambda: train(weight=np.ones(3)),
        DTypeError,
        "batch_norm: 'weight' must be a Tensor. Got ndarray.",
        "tb.tensor(",
    ),
    "running mean's shape": (
        lambda: train(running_mean=zeros(4), running_var=zeros(3)),
        ShapeError,
        "batch_norm: 'running_mean' must have shape (C,) = (3,). Got (4,).",
        "",
    ),
    "running mean's shape, evaluation": (
        lambda: F.batch_norm(X, zeros(4), zeros(3)),
        ShapeError,
        "batch_norm: 'running_mean' must have shape (C,) = (3,). Got (4,).",
        "",
    ),
    "running variance's dtype": (
        lambda: train(running_mean=zeros(3), running_var=zeros(3, dtype=tb.float64)),
        DTypeError,
        "batch_norm: 'running_var' must have dtype float32, as input has. Got float64.",
        ".to(tb.float32)",
    ),
    "half of the running statistics": (
        lambda: train(running_mean=zeros(3)),
        ArgumentError,
        "batch_norm: 'running_var' must be given where the other running statistic is. Got None.",
        "",
    ),
    "no running statistics": (
        lambda: F.batch_norm(X, None, None),
        ArgumentError,
        "batch_norm: 'running_mean' must be given, and 'running_var', outside training. Got None.",
        "training=True",
    ),
    "use of running statistics that are not kept": (
        lambda: _without(),
        ArgumentError,
        "BatchNorm1d: 'use_batch_stats' must be None or True without these. Got False.",
        "track running statistics",
    ),
    "momentum above 1": (
        lambda: nn.BatchNorm1d(3, momentum=1.5),
        ArgumentError,
        "batch_norm: 'momentum' must be from 0 to 1, the weight of the new batch. Got 1.5.",
        "momentum_from_keras",
    ),
    "momentum below 0": (lambda: nn.BatchNorm1d(3, momentum=-0.1), ArgumentError, "Got -0.1.", "momentum_from_keras"),
    "momentum as text": (lambda: nn.BatchNorm1d(3, momentum="0.1"), ArgumentError, "Got '0.1'.", "momentum_from_keras"),
    "NaN for a momentum": (lambda: nn.BatchNorm1d(3, momentum=float("nan")), ArgumentError, "Got nan.", ""),
    "no momentum where nothing counts": (
        lambda: train(running_mean=zeros(3), running_var=zeros(3), momentum=None),
        ArgumentError,
        "batch_norm: 'momentum' must be from 0 to 1, the weight of the new batch. Got None.",
        "",
    ),
    "momentum of Keras": (
        lambda: nn.utils.momentum_from_keras(1.2),
        ArgumentError,
        "momentum_from_keras: 'momentum' must be from 0 to 1",
        "",
    ),
    "negative eps": (
        lambda: nn.BatchNorm1d(3, eps=-1e-5),
        ArgumentError,
        "BatchNorm: 'eps' must be at least 0. Got -1e-05.",
        "",
    ),
    "negative eps of the function": (
        lambda: train(eps=-1.0),
        ArgumentError,
        "batch_norm: 'eps' must be at least 0. Got -1.0.",
        "inside the square root",
    ),
    "NaN for eps": (lambda: train(eps=float("nan")), ArgumentError, "'eps' must be at least 0. Got nan.", "inside"),
    "features below 0": (
        lambda: nn.BatchNorm1d(-1),
        ArgumentError,
        "BatchNorm: 'num_features' must be an int of at least 0. Got -1.",
        "",
    ),
    "features that are no int": (
        lambda: nn.BatchNorm1d(2.0),
        ArgumentError,
        "must be an int of at least 0. Got 2.0.",
        "",
    ),
    "kind of running variance": (
        lambda: nn.BatchNorm1d(3, running_var="sample"),
        ArgumentError,
        "BatchNorm: 'running_var' must be 'unbiased' or 'biased'. Got 'sample'.",
        "",
    ),
    "on_single": (
        lambda: nn.BatchNorm1d(3, on_single="ignore"),
        ArgumentError,
        "BatchNorm: 'on_single' must be 'error' or 'warn'. Got 'ignore'.",
        "",
    ),
    "activation": (lambda: nn.BatchNorm1d(3, activation="softplus"), ArgumentError, "'activation' must be", ""),
}

AXES: dict[str, Case] = {
    "beyond the input": (lambda: train(axis=3), ShapeError, "batch_norm: 'axis' must be from -3 to 2. Got 3.", ""),
    "beyond the layer's input": (
        lambda: nn.BatchNorm1d(3, axis=5)(X),
        ShapeError,
        "BatchNorm1d: 'axis' must be from -3 to 2. Got 5.",
        "",
    ),
    "twice": (lambda: train(axis=(1, -2)), ArgumentError, "'axis' must be free of repeated axes", ""),
    "all": (
        lambda: train(axis=(0, 1, 2)),
        ArgumentError,
        "'axis' must be fewer than the input's 3 axes.",
        "1, -1 or (1, 2)",
    ),
    "a float": (lambda: train(axis=1.5), ArgumentError, "'axis' must be an int. Got float.", ""),
    "text": (
        lambda: nn.BatchNorm1d(3, axis="1"),
        ArgumentError,
        "'axis' must be an int or a tuple of ints. Got '1'.",
        "",
    ),
    "one extent for two axes": (
        lambda: nn.BatchNorm1d(3, axis=(1, 2)),
        ArgumentError,
        "BatchNorm: 'num_features' must be as many extents as 'axis' = (1, 2) has axes. Got 3.",
        "num_features=(C, L)",
    ),
    "two extents for one axis": (
        lambda: nn.BatchNorm1d((3, 5)),
        ArgumentError,
        "as many extents as 'axis' = 1 has axes. Got (3, 5).",
        "axis=(1, 2)",
    ),
    "extents": (
        lambda: nn.BatchNorm1d((3, 5), axis=(1, 2))(zeros(4, 3, 6)),
        ShapeError,
        "BatchNorm1d: 'input' must have 2 or 3 axes, of extent (3, 5) at axis (1, 2). Got (4, 3, 6).",
        "",
    ),
    "extent of the last": (
        lambda: nn.BatchNorm1d(3, axis=-1)(X),
        ShapeError,
        "of extent 3 at axis -1. Got (4, 3, 5).",
        "",
    ),
    "weight's shape": (
        lambda: train(axis=-1, weight=zeros(3)),
        ShapeError,
        "'weight' must have shape (5,), the extents of the axes that are kept. Got (3,).",
        "",
    ),
    "buffers that lie apart": (
        lambda: train(axis=(1, 2), running_mean=zeros(5, 3).T, running_var=zeros(3, 5)),
        ArgumentError,
        "batch_norm: 'running_mean' must be contiguous.",
        "call contiguous()",
    ),
    "one value": (
        lambda: F.batch_norm(zeros(1, 3, 5), None, None, training=True, axis=(1, 2)),
        ArgumentError,
        "'input' must have more than one value a channel in training. Got shape (1, 3, 5).",
        "drop_last=True",
    ),
    "over ranks": (
        lambda: nn.SyncBatchNorm(3, axis=-1),
        ArgumentError,
        "SyncBatchNorm: 'axis' must be 1. Got -1.",
        "permute",
    ),
    "converted": (
        lambda: nn.utils.convert(nn.BatchNorm1d(3, axis=-1), "GroupNorm"),
        ArgumentError,
        "convert: 'model' must be free of batch norms of another axis than 1.",
        "'of'",
    ),
    "fused": (
        lambda: nn.utils.fusion.fuse_linear_bn_eval(nn.Linear(3, 3).eval(), nn.BatchNorm1d(3, axis=0).eval()),
        ArgumentError,
        "fuse_linear_bn_eval: 'bn' must be of axis 1, the layer's channels. Got 0.",
        "",
    ),
}

MASKS: dict[str, Case] = {
    "shape": (
        lambda: train(mask=zeros(4, 3) > 0),
        ShapeError,
        "batch_norm: 'mask' must have shape (4, 5) or (4, 1, 5) for an input of shape (4, 3, 5). Got (4, 3).",
        "",
    ),
    "a mask a channel": (
        lambda: train(mask=zeros(4, 3, 5) > 0),
        ShapeError,
        "Got (4, 3, 5).",
        "one mask serves all channels",
    ),
    "turned": (lambda: train(mask=zeros(5, 4) > 0), ShapeError, "Got (5, 4).", ""),
    "numbers": (
        lambda: train(mask=zeros(4, 5)),
        DTypeError,
        "batch_norm: 'mask' must have dtype bool, True for what counts. Got float32.",
        "mask != 0",
    ),
    "an array": (
        lambda: train(mask=np.ones((4, 5), bool)),
        DTypeError,
        "'mask' must be a Tensor. Got ndarray.",
        "tb.tensor(",
    ),
    "another device": (
        lambda: train(mask=zeros(4, 5, device="ref") > 0),
        DeviceError,
        "'mask' must be on device cpu",
        "",
    ),
    "one value": (
        lambda: nn.BatchNorm1d(3)(X, mask=corner()),
        ArgumentError,
        "BatchNorm1d: 'input' must have more than one value a channel in training. Got shape (4, 3, 5), of which "
        "'mask' leaves one value a channel.",
        "drop_last=True",
    ),
    "one value of the function": (
        lambda: train(mask=corner()),
        ArgumentError,
        "of which 'mask' leaves one value",
        "eval",
    ),
    "channels": (lambda: nn.BatchNorm1d(4)(X, mask=ONES), ShapeError, "with C = 4. Got (4, 3, 5).", "num_features=3"),
    "axes": (
        lambda: nn.BatchNorm2d(3)(X, mask=ONES),
        ShapeError,
        "(N, C, H, W) with C = 3. Got (4, 3, 5).",
        "takes 2 or 3",
    ),
}

LAZY: dict[str, Case] = {
    "axes": (
        lambda: nn.LazyBatchNorm2d()(X),
        ShapeError,
        "LazyBatchNorm2d: 'input' must have shape (N, C, H, W). Got (4, 3, 5).",
        "",
    ),
    "integers": (lambda: nn.LazyBatchNorm1d()(zeros(4, 3, dtype=tb.int64)), DTypeError, "Got int64.", ".float()"),
    "converted": (
        lambda: nn.utils.convert(nn.LazyBatchNorm1d(), "GroupNorm"),
        ArgumentError,
        "convert: 'model' must be of layers that know their channels.",
        "call the model once",
    ),
    "momentum": (lambda: nn.LazyBatchNorm3d(momentum=9.0), ArgumentError, "Got 9.0.", "momentum_from_keras"),
}

CASES = {
    f"{group}-{name}": case
    for group, cases in {"input": INPUTS, "argument": ARGUMENTS, "axis": AXES, "mask": MASKS, "lazy": LAZY}.items()
    for name, case in cases.items()
}


def _without() -> tb.Tensor:
    layer = nn.BatchNorm1d(3, track_running_stats=False)
    layer.use_batch_stats = False
    return layer(X)  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", CASES)
def test_misuse_is_named_with_a_remedy(name: str) -> None:
    """Misuse: `name: 'argument' must have …. Got ….`, and a hint wherever the sentence is not the remedy itself."""
    call, kind, text, remedy = CASES[name]
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    sentence, _, hint = message.partition("\nHint: ")
    assert text in sentence + "."
    assert re.match(r"\w+: '\w+' must ", message)
    assert remedy in hint
    assert bool(hint) >= bool(remedy)


def test_a_call_that_fails_changes_nothing() -> None:
    layer = nn.BatchNorm1d(3)
    for x, more in ((zeros(5, 4), {}), (zeros(1, 3), {}), (X, {"mask": zeros(4, 3) > 0}), (X, {"mask": corner()})):
        with pytest.raises((ShapeError, ArgumentError)):
            layer(x, **more)
    assert (layer.running_mean.tolist(), layer.running_var.tolist()) == ([0.0] * 3, [1.0] * 3)
    assert (layer.num_batches_tracked.item(), layer.skipped_batches) == (0, 0)
    lazy = nn.LazyBatchNorm2d()
    with pytest.raises(ShapeError):
        lazy(X)
    assert type(lazy) is nn.LazyBatchNorm2d
    assert lazy.weight.shape == (0,)


def test_warnings_come_with_a_remedy() -> None:
    layer = nn.BatchNorm1d(3, on_single="warn")
    with pytest.warns(
        RuntimeWarning, match=r"^BatchNorm1d: one value a channel in training, shape \(1, 3\).*\nHint: use "
    ):
        layer(zeros(1, 3))
    with pytest.warns(
        RuntimeWarning, match=r"^BatchNorm1d: 'mask' is False everywhere.*\nHint: True marks what counts"
    ):
        layer(X, mask=zeros(4, 5) > 0)
    with pytest.warns(RuntimeWarning, match="update_bn: never called, and left as they are: 1"):
        nn.utils.update_bn(_Unused(), [zeros(4, 3)])


class _Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.add_module("0", nn.BatchNorm1d(3))
        self.add_module("1", nn.BatchNorm1d(3))

    def forward(self, x: tb.Tensor) -> Any:
        return self.get_submodule("0")(x)
