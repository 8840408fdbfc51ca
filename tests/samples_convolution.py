"""Records of convolutions, their transposes, unfold and fold."""

from __future__ import annotations

from typing import Any

import numpy as np
from op_samples import Array, Call, Fault, Sample, normal, record

import tinygrad_bn as tb
from tinygrad_bn import errors
from tinygrad_bn.functional import fold, unfold

# ------------------------------------------------------------------------------------------------------ the definition


def correlate(x: Array, w: Array, b: Array | None = None, **options: Any) -> Array:
    """conv2d, element by element of the output."""
    s, p, d = (_both(options.get(k, v)) for k, v in (("stride", 1), ("padding", 0), ("dilation", 1)))
    groups = options.get("groups", 1)
    x = np.pad(x, ((0, 0), (0, 0), (p[0], p[0]), (p[1], p[1])))
    kh, kw = w.shape[2:]
    oh, ow = ((x.shape[2 + i] - d[i] * (w.shape[2 + i] - 1) - 1) // s[i] + 1 for i in (0, 1))
    out = np.zeros((len(x), len(w), oh, ow))
    inputs, outputs = x.shape[1] // groups, len(w) // groups
    for o, i, j in np.ndindex(len(w), oh, ow):
        rows, columns = i * s[0] + np.arange(kh) * d[0], j * s[1] + np.arange(kw) * d[1]
        part = x[:, o // outputs * inputs :][:, :inputs]
        out[:, o, i, j] = (part[:, :, rows[:, None], columns] * w[o]).sum((1, 2, 3))
    return out if b is None else out + b[:, None, None]


def spread(x: Array, w: Array, b: Array | None = None, **options: Any) -> Array:
    """conv_transpose2d, element by element of the input."""
    s, p, d, more = (
        _both(options.get(k, v)) for k, v in (("stride", 1), ("padding", 0), ("dilation", 1), ("output_padding", 0))
    )
    groups = options.get("groups", 1)
    n, c, h, width = x.shape
    per, kh, kw = w.shape[1:]
    size = [(e - 1) * s[i] + d[i] * (k - 1) + 1 + more[i] for i, (e, k) in enumerate(((h, kh), (width, kw)))]
    out = np.zeros((n, per * groups, *size))
    for m, i, j, q in np.ndindex(c, h, width, per):
        rows, columns = i * s[0] + np.arange(kh) * d[0], j * s[1] + np.arange(kw) * d[1]
        o = m // (c // groups) * per + q
        out[:, o, rows[:, None], columns] += x[:, m, i, j, None, None] * w[m, q]
    out = out[:, :, p[0] : size[0] - p[0], p[1] : size[1] - p[1]]
    return out if b is None else out + b[:, None, None]


def _both(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


# --------------------------------------------------------------------------------------------------------- convolutions

THREE = ("convolution", "convolution_input", "convolution_weight")


def of_pictures(
    op: str, oracle: Call, *cases: tuple[str, tuple[int, ...], tuple[int, ...], bool, dict[str, Any]]
) -> Any:
    """Samples on (N, C, H, W); the oracle takes numbers only."""
    samples = []
    for name, shape, wshape, bias, options in cases:

        def call(lib: Any, *tensors: Any, options: dict[str, Any] = options) -> Any:
            return getattr(lib, op)(*tensors, **options)

        def numpy(*arrays: Array, options: dict[str, Any] = options) -> Array:
            return oracle(*arrays, **options)

        filters = wshape[0] if op == "conv2d" else wshape[1] * options.get("groups", 1)
        arrays = (normal(*shape), normal(*wshape, seed=1), *((normal(filters, seed=2),) if bias else ()))
        plain = not isinstance(options.get("padding", 0), str) and len(shape) == 4
        samples.append(Sample(name, call, arrays, numpy if plain else None))
    return samples


def fault(name: str, call: Any, error: type[Exception], message: str) -> Fault:
    return Fault(name, call, error, message)


def conv2d(*args: Any, **options: Any) -> Any:
    return lambda: tb.conv2d(*args, **options)


X, W = tb.zeros(1, 4, 5, 5), tb.zeros(6, 4, 3, 3)
record(
    "conv2d",
    of_pictures(
        "conv2d",
        correlate,
        ("plain", (2, 3, 5, 4), (4, 3, 3, 2), False, {}),
        ("bias", (2, 2, 4, 4), (3, 2, 2, 2), True, {"padding": 1}),
        (
            "every option",
            (2, 4, 7, 6),
            (6, 2, 2, 3),
            True,
            {"stride": (2, 1), "padding": (1, 2), "dilation": (2, 1), "groups": 2},
        ),
        ("depthwise", (2, 3, 5, 5), (6, 1, 3, 3), False, {"groups": 3, "stride": 2}),
        ("pointwise", (2, 3, 2, 3), (4, 3, 1, 1), True, {}),
        ("pointwise, long", (2, 3, 8, 9), (2, 3, 1, 1), True, {}),
        ("pointwise, strided", (1, 2, 5, 5), (3, 2, 1, 1), False, {"stride": 2}),
        ("one sample", (1, 2, 4, 4), (2, 2, 3, 3), True, {"padding": [1, 0]}),
        ("one element", (1, 1, 1, 1), (1, 1, 1, 1), True, {}),
        ("window that sees padding only", (1, 1, 1, 2), (1, 1, 1, 2), False, {"padding": 3, "stride": 2}),
        ("no sample", (0, 2, 4, 4), (3, 2, 3, 3), True, {}),
        ("same", (1, 2, 4, 5), (2, 2, 2, 4), True, {"padding": "same", "dilation": (1, 2)}),
        ("valid", (1, 2, 4, 5), (2, 2, 2, 3), False, {"padding": "valid", "stride": 2}),
        ("unbatched", (2, 4, 4), (3, 2, 3, 3), True, {"padding": 1}),
    ),
    [
        fault("no tensor", conv2d([[1.0]], W), errors.DTypeError, r"^conv2d: 'input' must be a Tensor\. Got list\."),
        fault("no weight", conv2d(X, None), errors.DTypeError, r"^conv2d: 'weight' must be a Tensor\. Got NoneType\."),
        fault("no bias", conv2d(X, W, 1.0), errors.DTypeError, r"^conv2d: 'bias' must be a Tensor\. Got float\."),
        fault(
            "integers",
            conv2d(X.to(tb.int64), W),
            errors.DTypeError,
            r"^conv2d: 'input' must be a floating-point tensor\. Got int64\.",
        ),
        fault(
            "dtypes",
            conv2d(X, W.double()),
            errors.DTypeError,
            r"^conv2d: 'weight' must have dtype float32, as input has\. Got float64\.$",
        ),
        fault(
            "dtype of bias",
            conv2d(X, W, tb.zeros(6, dtype=tb.float64)),
            errors.DTypeError,
            r"^conv2d: 'bias' must have dtype float32, as input has\. Got float64\.$",
        ),
        fault("devices", conv2d(X, W.to("ref")), errors.DeviceError, r"^conv2d: 'weight' must be on device cpu"),
        fault(
            "axes",
            conv2d(X[0, 0], W),
            errors.ShapeError,
            r"^conv2d: 'input' must have shape \(N, C, H, W\) or \(C, H, W\)\. Got \(5, 5\)\.$",
        ),
        fault("axes of weight", conv2d(X, W[0]), errors.ShapeError, r"^conv2d: 'weight' must have 4 axes.*\(4, 3, 3\)"),
        fault("no kernel", conv2d(X, W[:, :, :0]), errors.ShapeError, r"'weight' must have a kernel of at least one"),
        fault(
            "channels",
            conv2d(X, W[:, :3]),
            errors.ShapeError,
            r"^conv2d: 'weight' must have C / groups = 4 / 1 channels, as input has, on its second axis\. "
            r"Got shape \(6, 3, 3, 3\)\.$",
        ),
        fault(
            "groups of channels", conv2d(X, W, groups=3), errors.ShapeError, r"'weight' must have C / groups = 4 / 3"
        ),
        fault(
            "groups of filters",
            conv2d(X, W[:5, :2], groups=2),
            errors.ShapeError,
            r"^conv2d: 'weight' must have a multiple of groups = 2 filters\. Got shape \(5, 2, 3, 3\)\.$",
        ),
        fault(
            "no groups",
            conv2d(X, W, groups=0),
            errors.ArgumentError,
            r"^conv2d: 'groups' must be an int of at least 1\. Got 0\.$",
        ),
        fault(
            "bias",
            conv2d(X, W, tb.zeros(4)),
            errors.ShapeError,
            r"^conv2d: 'bias' must have shape \(O,\) = \(6,\)\. Got \(4,\)\.$",
        ),
        fault(
            "large kernel",
            conv2d(X, tb.zeros(1, 4, 3, 4), dilation=2),
            errors.ShapeError,
            r"^conv2d: 'kernel_size' must be at most the padded input's extents \(5, 5\)\. "
            r"Got \(5, 7\), dilation included\.$",
        ),
        fault(
            "stride",
            conv2d(X, W, stride=0),
            errors.ArgumentError,
            r"^conv2d: 'stride' must be an int of at least 1, or 2 of them\. Got 0\.$",
        ),
        fault(
            "strides",
            conv2d(X, W, stride=(1, 1, 1)),
            errors.ArgumentError,
            r"'stride' must be an int of at least 1, or 2 of them\. Got \(1, 1, 1\)\.$",
        ),
        fault("type of stride", conv2d(X, W, stride=1.0), errors.ArgumentError, r"'stride' must be an int.*Got 1\.0"),
        fault(
            "negative padding",
            conv2d(X, W, padding=-1),
            errors.ArgumentError,
            r"'padding' must be an int of at least 0, or 2 of them\. Got -1\.$",
        ),
        fault(
            "dilation", conv2d(X, W, dilation=(1, 0)), errors.ArgumentError, r"'dilation' must be an int of at least 1"
        ),
        fault(
            "padding",
            conv2d(X, W, padding="full"),
            errors.ArgumentError,
            r"^conv2d: 'padding' must be ints, 'same' or 'valid'\. Got 'full'\.$",
        ),
        fault(
            "same, strided",
            conv2d(X, W, padding="same", stride=2),
            errors.ArgumentError,
            r"^conv2d: 'stride' must be 1 where 'padding' is 'same'\. Got \(2, 2\)\.\nHint: ",
        ),
    ],
    THREE,
)

record(
    "conv1d",
    [
        Sample("plain", lambda lib, x, w: lib.conv1d(x, w), (normal(2, 3, 6), normal(4, 3, 3))),
        Sample(
            "every option",
            lambda lib, x, w, b: lib.conv1d(x, w, b, 2, (2,), 2, 2),
            (normal(2, 4, 7), normal(6, 2, 3), normal(6)),
            lambda x, w, b: correlate(
                x[:, :, None], w[:, :, None], b, stride=(1, 2), padding=(0, 2), dilation=(1, 2), groups=2
            )[:, :, 0],
        ),
        Sample("same", lambda lib, x, w: lib.conv1d(x, w, padding="same"), (normal(1, 2, 5), normal(2, 2, 4))),
        Sample("unbatched", lambda lib, x, w: lib.conv1d(x, w, padding=1), (normal(2, 5), normal(3, 2, 3))),
        Sample("no sample", lambda lib, x, w: lib.conv1d(x, w), (normal(0, 2, 5), normal(3, 2, 3))),
    ],
    [
        fault(
            "axes",
            lambda: tb.conv1d(X, W),
            errors.ShapeError,
            r"^conv1d: 'input' must have shape \(N, C, L\) or \(C, L\)\. Got \(1, 4, 5, 5\)\.$",
        ),
        fault(
            "stride",
            lambda: tb.conv1d(X[0], tb.zeros(2, 5, 3), stride=(1, 1)),
            errors.ArgumentError,
            r"^conv1d: 'stride' must be an int of at least 1\. Got \(1, 1\)\.$",
        ),
        fault(
            "large kernel",
            lambda: tb.conv1d(X[0], tb.zeros(1, 5, 8), padding=1),
            errors.ShapeError,
            r"^conv1d: 'kernel_size' must be at most the padded input's extents \(7,\)\. Got \(8,\)",
        ),
    ],
    THREE,
)


def transposed(*args: Any, **options: Any) -> Any:
    return lambda: tb.conv_transpose2d(*args, **options)


V = tb.zeros(4, 3, 3, 3)
record(
    "conv_transpose2d",
    of_pictures(
        "conv_transpose2d",
        spread,
        ("plain", (2, 3, 3, 2), (3, 2, 2, 3), False, {}),
        ("bias", (2, 2, 3, 3), (2, 3, 3, 3), True, {"stride": 2, "padding": 1, "output_padding": 1}),
        (
            "every option",
            (1, 4, 3, 4),
            (4, 3, 2, 3),
            True,
            {"stride": (2, 3), "padding": (1, 2), "output_padding": (1, 0), "groups": 2, "dilation": (2, 1)},
        ),
        ("output padding beyond the stride", (1, 1, 3, 3), (1, 2, 2, 2), False, {"output_padding": 1, "dilation": 2}),
        ("pointwise, long", (2, 2, 8, 9), (2, 3, 1, 1), True, {}),
        ("one element", (1, 1, 1, 1), (1, 1, 1, 1), True, {}),
        ("no sample", (0, 2, 3, 3), (2, 3, 3, 3), True, {}),
        ("unbatched", (2, 3, 3), (2, 3, 2, 2), True, {"stride": 2}),
    ),
    [
        fault(
            "channels",
            transposed(X, V[:2]),
            errors.ShapeError,
            r"^conv_transpose2d: 'weight' must have C = 4 filters, as input has channels, on its first axis\. "
            r"Got shape \(2, 3, 3, 3\)\.$",
        ),
        fault(
            "groups",
            transposed(X, V, groups=3),
            errors.ShapeError,
            r"^conv_transpose2d: 'input' must have a multiple of groups = 3 channels\. Got shape \(1, 4, 5, 5\)\.$",
        ),
        fault(
            "bias",
            transposed(X, V, tb.zeros(3), groups=2),
            errors.ShapeError,
            r"^conv_transpose2d: 'bias' must have shape \(O,\) = \(6,\)\. Got \(3,\)\.$",
        ),
        fault(
            "output padding",
            transposed(X, V, stride=2, output_padding=(1, 2)),
            errors.ArgumentError,
            r"^conv_transpose2d: 'output_padding' must be smaller than the stride \(2, 2\) or the dilation \(1, 1\)\. "
            r"Got \(1, 2\)\.$",
        ),
        fault(
            "nothing left",
            transposed(X[:, :, :2, :2], V, padding=2),
            errors.ShapeError,
            r"^conv_transpose2d: 'padding' must be small enough that something is left of an input of extents "
            r"\(2, 2\)\. Got \(2, 2\), which gives \(0, 0\)\.$",
        ),
        fault(
            "padding by name",
            transposed(X, V, padding="same"),
            errors.ArgumentError,
            r"^conv_transpose2d: 'padding' must be an int of at least 0, or 2 of them\. Got 'same'\.$",
        ),
    ],
    THREE,
)

record(
    "conv_transpose1d",
    [
        Sample(
            "every option",
            lambda lib, x, w, b: lib.conv_transpose1d(x, w, b, 3, 1, 1, 2, 2),
            (normal(2, 4, 4), normal(4, 3, 3), normal(6)),
            lambda x, w, b: spread(
                x[:, :, None],
                w[:, :, None],
                b,
                stride=(1, 3),
                padding=(0, 1),
                output_padding=(0, 1),
                dilation=(1, 2),
                groups=2,
            )[:, :, 0],
        ),
        Sample("unbatched", lambda lib, x, w: lib.conv_transpose1d(x, w), (normal(2, 5), normal(2, 3, 3))),
    ],
    [
        fault(
            "axes",
            lambda: tb.conv_transpose1d(X, V),
            errors.ShapeError,
            r"^conv_transpose1d: 'input' must have shape \(N, C, L\) or \(C, L\)\. Got \(1, 4, 5, 5\)\.$",
        ),
    ],
    THREE,
)

# ------------------------------------------------------------------------------------------------------ unfold and fold


def columns_of(x: Array, kernel: tuple[int, int]) -> Array:
    n, _, h, w = x.shape
    places = np.ndindex(h - kernel[0] + 1, w - kernel[1] + 1)
    return np.stack([x[:, :, i : i + kernel[0], j : j + kernel[1]].reshape(n, -1) for i, j in places], -1)


record(
    "unfold",
    [
        Sample(
            "plain",
            lambda lib, x: lib.nn.functional.unfold(x, (2, 3)),
            (normal(2, 2, 3, 4),),
            lambda x: columns_of(x, (2, 3)),
        ),
        Sample("every option", lambda lib, x: lib.nn.functional.unfold(x, 2, 2, (1, 0), (1, 2)), (normal(2, 3, 4, 5),)),
        Sample("unbatched", lambda lib, x: lib.nn.functional.unfold(x, 2, stride=2), (normal(3, 4, 5),)),
        Sample("no sample", lambda lib, x: lib.nn.functional.unfold(x, 2), (normal(0, 3, 4, 5),)),
    ],
    [
        fault(
            "no tensor", lambda: unfold([1.0], 2), errors.DTypeError, r"^unfold: 'input' must be a Tensor\. Got list"
        ),
        fault(
            "axes",
            lambda: unfold(X[0, 0], 2),
            errors.ShapeError,
            r"^unfold: 'input' must have shape \(N, C, H, W\) or \(C, H, W\)\. Got \(5, 5\)\.$",
        ),
        fault(
            "large kernel",
            lambda: unfold(X, 7),
            errors.ShapeError,
            r"^unfold: 'kernel_size' must be at most the padded input's extents \(5, 5\)\. Got \(7, 7\)",
        ),
        fault(
            "kernel",
            lambda: unfold(X, 0),
            errors.ArgumentError,
            r"^unfold: 'kernel_size' must be an int of at least 1, or 2 of them\. Got 0\.$",
        ),
    ],
)
record(
    "fold",
    [
        Sample("plain", lambda lib, x: lib.nn.functional.fold(x, (3, 4), (2, 3)), (normal(2, 12, 4),)),
        Sample(
            "every option", lambda lib, x: lib.nn.functional.fold(x, (4, 5), 2, 2, (1, 0), (1, 2)), (normal(2, 12, 8),)
        ),
        Sample("unbatched", lambda lib, x: lib.nn.functional.fold(x, 4, 2, stride=2), (normal(8, 4),)),
        Sample("no sample", lambda lib, x: lib.nn.functional.fold(x, 3, 2), (normal(0, 8, 4),)),
        Sample(
            "of unfold: the number of windows that hold an element",
            lambda lib, x: lib.nn.functional.fold(lib.nn.functional.unfold(x, (2, 1)), (3, 2), (2, 1)),
            (normal(1, 2, 3, 2),),
            lambda x: x * np.array([1, 2, 1])[:, None],
        ),
    ],
    [
        fault(
            "axes",
            lambda: fold(X, 5, 1),
            errors.ShapeError,
            r"^fold: 'input' must have shape \(N, C · KH · KW, L\) or \(C · KH · KW, L\)\. Got \(1, 4, 5, 5\)\.$",
        ),
        fault(
            "channels",
            lambda: fold(tb.zeros(1, 11, 16), 5, 2),
            errors.ShapeError,
            r"^fold: 'input' must have a multiple of KH · KW = 4 on its second-last axis\. Got shape \(1, 11, 16\)\.$",
        ),
        fault(
            "columns",
            lambda: fold(tb.zeros(12, 17), 5, 2),
            errors.ShapeError,
            r"^fold: 'input' must have L = 16 columns, as 4 · 4 windows fit the output\. Got shape \(12, 17\)\.$",
        ),
        fault(
            "size",
            lambda: fold(tb.zeros(12, 16), (5, 0), 2),
            errors.ArgumentError,
            r"^fold: 'output_size' must be an int of at least 1, or 2 of them\. Got \(5, 0\)\.$",
        ),
    ],
)
