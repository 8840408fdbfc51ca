"""Samples of pooling, padding, flipping, resizing and local response normalisation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from op_samples import Fault, Sample, distinct, integers, normal, record

import tinygrad_bn as tb
from tinygrad_bn import errors
from tinygrad_bn.ops import padding, pooling

F = tb.nn.functional
Array = np.ndarray[Any, Any]


def functional(name: str, *args: Any, **kwargs: Any) -> Callable[..., Any]:
    """The call of a function of ``nn.functional``, here and in PyTorch."""
    return lambda lib, x: getattr(lib.nn.functional, name)(x, *args, **kwargs)


def raises(name: str, call: Callable[[], Any], error: type[Exception], message: str) -> Fault:
    return Fault(name, call, error, message)


def image_faults(name: str, *args: Any) -> list[Fault]:
    """What every pooling over two axes refuses."""
    function = getattr(F, name)
    return [
        raises("no tensor", lambda: function([1.0], *args), errors.DTypeError, rf"^{name}: 'input' must be a Tensor"),
        raises(
            "integers",
            lambda: function(tb.zeros(1, 1, 4, 4, dtype=tb.int64), *args),
            errors.DTypeError,
            rf"^{name}: 'input' must be a floating-point tensor\. Got int64\.",
        ),
        raises(
            "axes",
            lambda: function(tb.zeros(4, 4), *args),
            errors.ShapeError,
            rf"^{name}: 'input' must have shape \(N, C, H, W\) or \(C, H, W\)\. Got \(4, 4\)\.$",
        ),
    ]


def window_faults(name: str) -> list[Fault]:
    """What every window refuses."""
    function, x = getattr(F, name), tb.zeros(2, 3, 6, 5)
    return [
        *image_faults(name, 2),
        raises(
            "kernel",
            lambda: function(x, 0),
            errors.ArgumentError,
            rf"^{name}: 'kernel_size' must be an int of at least 1, or 2 of them\. Got 0\.$",
        ),
        raises(
            "three numbers",
            lambda: function(x, (1, 2, 3)),
            errors.ArgumentError,
            rf"^{name}: 'kernel_size' must be an int of at least 1, or 2 of them\. Got \(1, 2, 3\)\.$",
        ),
        raises(
            "stride",
            lambda: function(x, 2, 0),
            errors.ArgumentError,
            rf"^{name}: 'stride' must be an int of at least 1",
        ),
        raises(
            "padding", lambda: function(x, 2, 2, -1), errors.ArgumentError, rf"^{name}: 'padding' must be an int of at"
        ),
        raises(
            "wide padding",
            lambda: function(x, (3, 2), 1, (1, 2)),
            errors.ArgumentError,
            rf"^{name}: 'padding' must be at most half of the kernel \(3, 2\)\. Got \(1, 2\)\.$",
        ),
        raises(
            "no room",
            lambda: function(x, 6),
            errors.ShapeError,
            rf"^{name}: 'input' must have room for a window of \(6, 6\) with a padding of \(0, 0\) in its last axes\. "
            r"Got \(6, 5\)\.$",
        ),
        raises("empty", lambda: function(tb.zeros(1, 2, 0, 4), 2, 1, 1), errors.ShapeError, rf"^{name}: 'input' must"),
    ]


# -------------------------------------------------------------------------------------------------------------- maxima

WINDOWS: tuple[tuple[tuple[int, ...], tuple[Any, ...]], ...] = (
    ((2, 3, 6, 8), (2,)),
    ((2, 3, 7, 9), (3, 2)),
    ((2, 3, 7, 9), (3, 2, 1)),
    ((1, 2, 5, 6), (3, 1, 1)),
    ((2, 2, 7, 8), ((2, 3), (3, 2), (1, 1))),
    ((2, 2, 9, 8), (3, 2, 1, 2)),
    ((3, 5, 6), (2, 2, 0, 1, True)),
    ((2, 7, 7), (3, 2, 1, 1, True)),
    ((1, 1, 1, 1), (1,)),
    ((1, 2, 4, 40), ((1, 2), (1, 2))),
    ((0, 2, 4, 4), (2,)),
)

record(
    "max_pool2d",
    [Sample(f"{s} {a}", functional("max_pool2d", *a), (distinct(*s),)) for s, a in WINDOWS]
    + [
        Sample("indices", functional("max_pool2d", 3, 2, 1, return_indices=True), (distinct(2, 2, 7, 6),)),
        Sample("equal", functional("max_pool2d", 2, 1, return_indices=True), (integers(0, 2, 1, 4, 5) * 1.0,), order=0),
    ],
    [
        *window_faults("max_pool2d"),
        raises(
            "dilation",
            lambda: F.max_pool2d(tb.zeros(1, 4, 4), 2, dilation=0),
            errors.ArgumentError,
            r"^max_pool2d: 'dilation' must be an int of at least 1",
        ),
    ],
    ops=("max_pool", "max_pool_backward"),
)
record(
    "max_pool1d",
    [
        Sample(f"{s} {a}", functional("max_pool1d", *a), (distinct(*s),))
        for s, a in (((2, 3, 9), (2,)), ((2, 3, 9), (3, 2, 1)), ((3, 10), (3, 2, 1, 2)), ((2, 7), (2, 2, 0, 1, True)))
    ]
    + [Sample("indices", functional("max_pool1d", 3, 2, return_indices=True), (distinct(2, 2, 9),))],
    [
        raises(
            "axes",
            lambda: F.max_pool1d(tb.zeros(1, 2, 3, 4), 2),
            errors.ShapeError,
            r"^max_pool1d: 'input' must have shape \(N, C, L\) or \(C, L\)\. Got \(1, 2, 3, 4\)\.$",
        ),
        raises(
            "two numbers",
            lambda: F.max_pool1d(tb.zeros(1, 2, 3), (2, 2)),
            errors.ArgumentError,
            r"^max_pool1d: 'kernel_size' must be an int of at least 1\. Got \(2, 2\)\.$",
        ),
    ],
    ops=("max_pool",),
)

ADAPTIVE: tuple[tuple[tuple[int, ...], Any], ...] = (
    ((2, 3, 6, 8), 2),
    ((2, 3, 7, 5), (3, 4)),
    ((2, 7, 5), (None, 2)),
    ((2, 3, 4, 5), 1),
    ((3, 4, 5), (1, None)),
    ((1, 2, 2, 3), (5, 7)),
    ((0, 2, 4, 4), 2),
)
SIZES = [
    raises(
        "size",
        lambda: F.adaptive_avg_pool2d(tb.zeros(1, 4, 4), (2, -1)),
        errors.ArgumentError,
        r"^adaptive_avg_pool2d: 'output_size' must be an int of at least 0, None or a tuple of two of these\. Got ",
    ),
    raises(
        "three sizes",
        lambda: F.adaptive_avg_pool2d(tb.zeros(1, 4, 4), (2, 2, 2)),
        errors.ArgumentError,
        r"^adaptive_avg_pool2d: 'output_size' must be .* Got \(2, 2, 2\)\.$",
    ),
    raises(
        "empty",
        lambda: F.adaptive_avg_pool2d(tb.zeros(1, 0, 4), 2),
        errors.ShapeError,
        r"^adaptive_avg_pool2d: 'input' must have no empty axis but the batch\. Got \(1, 0, 4\)\.$",
    ),
]

record(
    "adaptive_max_pool2d",
    [Sample(f"{s} {n}", functional("adaptive_max_pool2d", n), (distinct(*s),)) for s, n in ADAPTIVE]
    + [
        Sample("indices", functional("adaptive_max_pool2d", (3, 2), return_indices=True), (distinct(2, 7, 5),)),
        Sample("one axis", functional("adaptive_max_pool1d", 3), (distinct(2, 3, 7),)),
        Sample("one axis, indices", functional("adaptive_max_pool1d", 3, return_indices=True), (distinct(3, 7),)),
    ],
    image_faults("adaptive_max_pool2d", 2),
    ops=("adaptive_max_pool",),
)

PLACES = np.array([[[3, 5, 5], [0, 3, 2]], [[-1, 2, 2], [4, 0, -1]]])


def _scatter_oracle(x: Array) -> Array:
    out = np.zeros((2, 8))
    for p in range(2):
        for value, place in zip(x[p].ravel(), PLACES[p].ravel(), strict=True):
            out[p, place if place >= 0 else 7] += value
    return out[:, :6].reshape(2, 2, 3)


def _places(x: Any) -> Any:
    return tb.tensor(PLACES, device=x.device)


record(
    "pool_scatter",
    [
        Sample(
            "two axes",
            lambda lib, x: pooling.pool_scatter(x, _places(x), (2, 2, 3), 2),
            (normal(2, 2, 3),),
            _scatter_oracle,
            None,
        ),
        Sample(
            "gathered",
            lambda lib, x: pooling.pool_gather(x, _places(x), 2),
            (normal(2, 2, 3),),
            lambda x: np.where(
                PLACES < 0, 0, np.take_along_axis(x.reshape(2, 6), PLACES.reshape(2, 6), 1).reshape(2, 2, 3)
            ),
            None,
        ),
    ],
    ops=("pool_scatter", "pool_gather"),
)

# ------------------------------------------------------------------------------------------------------------- averages

MEANS: tuple[tuple[tuple[int, ...], tuple[Any, ...]], ...] = (
    ((2, 3, 6, 8), (2,)),
    ((2, 3, 7, 9), (3, 1, 1)),
    ((2, 3, 7, 9), (3, 2, 1, False, False)),
    ((2, 2, 7, 8), ((2, 3), (3, 2), (1, 1), True)),
    ((2, 2, 7, 8), ((2, 3), (3, 2), (1, 1), True, False)),
    ((3, 5, 6), (3, 2, 1, True, True, 5)),
    ((2, 4, 4), (2, 1, 0, False, True, -3)),
    ((1, 1, 1, 1), (1,)),
    ((0, 2, 4, 4), (2,)),
)
LINES: tuple[tuple[tuple[int, ...], tuple[Any, ...]], ...] = (
    ((2, 3, 9), (2,)),
    ((3, 10), (3, 2, 1, True, False)),
    ((2, 3, 8), (3, 2, 1, True)),
)

record(
    "avg_pool2d",
    [Sample(f"{s} {a}", functional("avg_pool2d", *a), (normal(*s),)) for s, a in MEANS]
    + [Sample(f"one axis {s} {a}", functional("avg_pool1d", *a), (normal(*s),)) for s, a in LINES]
    + [Sample("large", functional("avg_pool2d", 9, 4, 2), (normal(2, 11, 13),))],
    [
        *window_faults("avg_pool2d"),
        raises(
            "divisor",
            lambda: F.avg_pool2d(tb.zeros(1, 4, 4), 2, divisor_override=0),
            errors.ArgumentError,
            r"^avg_pool2d: 'divisor_override' must be an int other than 0\. Got 0\.$",
        ),
    ],
    ops=("mean_pool", "mean_pool_backward", "avg_pool"),
)
record(
    "adaptive_avg_pool2d",
    [Sample(f"{s} {n}", functional("adaptive_avg_pool2d", n), (normal(*s),)) for s, n in ADAPTIVE]
    + [
        Sample("size 0", functional("adaptive_avg_pool2d", (0, 2)), (normal(2, 3, 4),), torch_gradient=False),
        Sample("one axis", functional("adaptive_avg_pool1d", 3), (normal(2, 3, 7),)),
        Sample("mean of one axis", functional("adaptive_avg_pool1d", (1,)), (normal(3, 7),)),
    ],
    [*image_faults("adaptive_avg_pool2d", 2), *SIZES],
    ops=("avg_pool", "avg_pool_backward"),
)

# -------------------------------------------------------------------------------------------------------------- padding

CONSTANT: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = (
    ((3,), (1, 2)),
    ((2, 3), (1, 0)),
    ((2, 3, 4), (1, 2, 3, 0)),
    ((2, 3, 4, 5), (1, -2, -1, 3, 2, 0)),
    ((2, 3, 4), (-4, 0, 1, 1)),
    ((2, 3), (-3, 4)),
    ((2, 0, 3), (1, 1, 2, 0)),
    ((2, 3), ()),
    ((2, 3), (0, 0, 0, 0)),
)
REACHING: tuple[tuple[tuple[int, ...], tuple[int, ...], str], ...] = (
    ((2, 5), (4, 2), "reflect"),
    ((2, 3, 5), (-1, 3), "reflect"),
    ((2, 3, 4, 5), (4, 1, 0, 3), "reflect"),
    ((2, 3, 4, 5), (1, 2, 2, 3, 1, 2), "reflect"),
    ((1, 1, 1), (0, 0), "reflect"),
    ((2, 3), (7, 2), "replicate"),
    ((2, 3, 4), (-1, 3, 5, 0), "replicate"),
    ((2, 3, 2, 4, 3), (2, 1, 0, 2, 3, 1), "replicate"),
    ((2, 4), (4, 3), "circular"),
    ((2, 3, 4, 5), (1, 2, 3, 0), "circular"),
    ((0, 2, 3), (1, 1), "circular"),
)

record(
    "pad",
    [Sample(f"{s} {p}", functional("pad", p), (normal(*s),)) for s, p in CONSTANT]
    + [Sample(f"{s} {p} {m}", functional("pad", p, mode=m), (normal(*s),)) for s, p, m in REACHING]
    + [
        Sample("value", functional("pad", (1, 1, 2, 0), value=-2.5), (normal(2, 3, 4),)),
        Sample("integers", functional("pad", (1, 1), value=7), (integers(0, 5, 2, 3),), order=0),
        Sample("integers, reflected", functional("pad", (2, 1), mode="reflect"), (integers(0, 5, 2, 3),), order=0),
    ],
    [
        raises("no tensor", lambda: F.pad([1.0], (1, 1)), errors.DTypeError, r"^pad: 'input' must be a Tensor"),
        raises(
            "odd",
            lambda: F.pad(tb.zeros(3), (1, 1, 1)),
            errors.ShapeError,
            r"^pad: 'pad' must have two numbers an axis, at most 2 for 1 axes\. Got \(1, 1, 1\)\.$",
        ),
        raises("many", lambda: F.pad(tb.zeros(3), (1, 1, 1, 1)), errors.ShapeError, r"^pad: 'pad' must have two numb"),
        raises(
            "floats",
            lambda: F.pad(tb.zeros(3), (1, 1.5)),  # type: ignore[list-item]
            errors.ArgumentError,
            r"^pad: 'pad' must be a sequence of ints\. Got \(1, 1\.5\)\.$",
        ),
        raises(
            "cut",
            lambda: F.pad(tb.zeros(2, 3), (-2, -2)),
            errors.ShapeError,
            r"^pad: 'pad' must be no more cut off than the axis of 3 has\. Got \(-2, -2\)\.$",
        ),
        raises(
            "mode",
            lambda: F.pad(tb.zeros(2, 3), (1, 1), "mirror"),
            errors.ArgumentError,
            r"^pad: 'mode' must be 'constant', 'reflect', 'replicate' or 'circular'\. Got 'mirror'\.$",
        ),
        raises(
            "value",
            lambda: F.pad(tb.zeros(2, 3), (1, 1), "reflect", 0.0),
            errors.ArgumentError,
            r"^pad: 'value' must be left out where 'mode' is 'reflect'\. Got 0\.0\.$",
        ),
        raises(
            "far",
            lambda: F.pad(tb.zeros(2, 3), (1, 3), "reflect"),
            errors.ShapeError,
            r"^pad: 'pad' must be less than the axis of 3 in \(2, 3\), as 'mode' is 'reflect'\. Got \(1, 3\)\.$",
        ),
        raises(
            "around",
            lambda: F.pad(tb.zeros(2, 3), (4, 0), "circular"),
            errors.ShapeError,
            r"^pad: 'pad' must be at most the axis of 3 in \(2, 3\), as 'mode' is 'circular'\. Got \(4, 0\)\.$",
        ),
        raises(
            "nothing left",
            lambda: F.pad(tb.zeros(2, 3), (-3, 0), "replicate"),
            errors.ShapeError,
            r"^pad: 'pad' must have something left of the axis of 3 in \(2, 3\)\. Got \(-3, 0\)\.$",
        ),
        raises(
            "axes",
            lambda: F.pad(tb.zeros(3), (1, 1), "reflect"),
            errors.ShapeError,
            r"^pad: 'pad' must have 2, 4 or 6 numbers .* Got \(1, 1\) for shape \(3,\)\.$",
        ),
    ],
    ops=("pad_constant",),
)

record(
    "flip",
    [
        Sample(f"{s} {d}", lambda lib, x, d=d: lib.flip(x, d), (normal(*s),), lambda x, d=d: np.flip(x, d) if d else x)
        for s, d in (((5,), (0,)), ((2, 3, 4), (0, -1)), ((2, 3), ()), ((0, 3), (0, 1)), ((3, 1, 2), (1,)))
    ]
    + [
        Sample("method", lambda lib, x: x.flip(0, 1), (normal(2, 3),), lambda x: x[::-1, ::-1]),
        Sample("one", lambda lib, x: lib.flip(x, (0,)), (normal(),), lambda x: x),
        Sample("integers", lambda lib, x: lib.flip(x, [1]), (integers(0, 9, 2, 3),), lambda x: x[:, ::-1], order=0),
    ],
    [
        raises("no tensor", lambda: tb.flip([1.0], (0,)), errors.DTypeError, r"^flip: 'input' must be a Tensor"),
        raises(
            "repeated",
            lambda: tb.flip(tb.zeros(2, 3), (1, -1)),
            errors.ArgumentError,
            r"^flip: 'dims' must be free of repeated axes\. Got \(1, -1\)\.$",
        ),
        raises(
            "axis",
            lambda: tb.flip(tb.zeros(2, 3), (2,)),
            errors.ShapeError,
            r"^flip: 'dims' must be from -2 to 1\. Got 2\.$",
        ),
    ],
)

# ------------------------------------------------------------------------------------------------------------- resizing

RESIZED: tuple[tuple[tuple[int, ...], dict[str, Any]], ...] = (
    ((2, 3, 4), {"size": 7}),
    ((2, 3, 4, 5), {"scale_factor": 2}),
    ((2, 3, 4, 5), {"size": (3, 9)}),
    ((1, 2, 5, 4), {"scale_factor": (0.5, 2.3)}),
    ((1, 2, 5, 4), {"scale_factor": 1.7, "recompute_scale_factor": True}),
    ((1, 2, 2, 3, 4), {"scale_factor": (2.0, 1.0, 1.5)}),
    ((0, 2, 3), {"size": 5}),
)


def _grid_oracle(x: Array) -> Array:
    return x[:, [2, 0, 0, 1]][:, :, [3, 1]]


def _put(x: Array) -> Array:
    out = np.zeros((2, 3, 4))
    np.add.at(out, (slice(None), np.array([2, 0, 0, 1])[:, None], np.array([3, 1])), x)
    return out


GRID = np.array([2, 0, 0, 1]), np.array([3, 1])

record(
    "interpolate",
    [Sample(f"{s} {k}", functional("interpolate", **k), (normal(*s),)) for s, k in RESIZED]
    + [
        Sample(
            "upsample",
            lambda lib, x: lib.nn.functional.upsample(x, scale_factor=2),
            (normal(1, 2, 3),),
            lambda x: x.repeat(2, 2),
            None,
        ),
        Sample(
            "grid",
            lambda lib, x: padding.take_grid(x, *GRID, 2),
            (normal(2, 3, 4),),
            _grid_oracle,
            None,
        ),
        Sample("added", lambda lib, x: padding.add_grid(x, *GRID, (2, 3, 4), 2), (normal(2, 4, 2),), _put, None),
    ],
    [
        raises(
            "mode",
            lambda: F.interpolate(tb.zeros(1, 1, 4, 4), 8, mode="bilinear"),
            errors.ArgumentError,
            r"^interpolate: 'mode' must be 'nearest', the only one there is here\. Got 'bilinear'\.$",
        ),
        raises(
            "corners",
            lambda: F.interpolate(tb.zeros(1, 1, 4), 8, align_corners=True),
            errors.ArgumentError,
            r"^interpolate: 'align_corners' must be left out where 'mode' is 'nearest'\. Got True\.$",
        ),
        raises(
            "both",
            lambda: F.interpolate(tb.zeros(1, 1, 4), 8, 2),
            errors.ArgumentError,
            r"^interpolate: exactly one of 'size' and 'scale_factor' must be given\. Got both\.$",
        ),
        raises("none", lambda: F.interpolate(tb.zeros(1, 1, 4)), errors.ArgumentError, r"must be given\. Got none\.$"),
        raises(
            "axes",
            lambda: F.interpolate(tb.zeros(1, 4), 8),
            errors.ShapeError,
            r"^interpolate: 'input' must have shape \(N, C, L\), \(N, C, H, W\) or \(N, C, D, H, W\)\. Got \(1, 4\)\.$",
        ),
        raises(
            "sizes",
            lambda: F.interpolate(tb.zeros(1, 1, 4, 4), (8,)),
            errors.ArgumentError,
            r"^interpolate: 'size' must be an int or one for each of 2 axes\. Got \(8,\)\.$",
        ),
        raises(
            "factors",
            lambda: F.interpolate(tb.zeros(1, 1, 4, 4), scale_factor="2"),  # type: ignore[arg-type]
            errors.ArgumentError,
            r"^interpolate: 'scale_factor' must be a number or one for each of 2 axes\. Got '2'\.$",
        ),
        raises(
            "small",
            lambda: F.interpolate(tb.zeros(1, 1, 4), scale_factor=0.1),
            errors.ShapeError,
            r"^interpolate: 'size' must be at least 1, and no axis of \(1, 1, 4\) but the first 0\. Got \(0,\)\.$",
        ),
    ],
    ops=("take_grid", "add_grid"),
)

# -------------------------------------------------------------------------------------------------- local response norm

record(
    "local_response_norm",
    [
        Sample(
            f"{s} {a}",
            functional("local_response_norm", *a),
            (normal(*s),),
        )
        for s, a in (
            ((2, 6, 3, 4), (5,)),
            ((2, 5, 3), (2, 0.5, 0.75, 2.0)),
            ((2, 3, 4), (9, 1.0, 0.5)),
            ((1, 1, 2, 2, 2), (1, 0.3, 2.0)),
        )
    ],
    [
        raises(
            "axes",
            lambda: F.local_response_norm(tb.zeros(2, 3), 2),
            errors.ShapeError,
            r"^local_response_norm: 'input' must have shape \(N, C, …\) of at least three axes\. Got \(2, 3\)\.$",
        ),
        raises(
            "size",
            lambda: F.local_response_norm(tb.zeros(2, 3, 4), 0),
            errors.ArgumentError,
            r"^local_response_norm: 'size' must be an int of at least 1\. Got 0\.$",
        ),
    ],
    ops=("avg_pool",),
)
