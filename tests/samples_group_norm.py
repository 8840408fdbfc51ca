"""Records of normalisation within a sample: group, layer, instance and RMS norm."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from op_samples import Fault, Sample, normal, positive, record

import tinygrad_bn as tb
from tinygrad_bn import errors
from tinygrad_bn import functional as F

Array = np.ndarray[Any, Any]


def _standard(x: Array, view: tuple[int, ...], eps: float) -> Array:
    rows = x.reshape(view)
    mean, var = rows.mean(-1, keepdims=True), rows.var(-1, keepdims=True)
    return np.asarray(((rows - mean) / np.sqrt(var + eps)).reshape(x.shape))


def _np_group(x: Array, groups: int, w: Any = None, b: Any = None, eps: float = 1e-5) -> Array:
    if not x.size:
        return x
    y = _standard(x, (len(x), groups, x.size // (len(x) * groups)), eps)
    shape = (1, -1) + (1,) * (x.ndim - 2)
    y = y * w.reshape(shape) if w is not None else y
    return y + b.reshape(shape) if b is not None else y


def _np_layer(x: Array, inner: tuple[int, ...], w: Any = None, b: Any = None, eps: float = 1e-5) -> Array:
    if not x.size:
        return x
    y = _standard(x, (-1, math.prod(inner)), eps)
    y = y * w if w is not None else y
    return y + b if b is not None else y


def _np_rms(x: Array, axes: int, w: Any = None, eps: float = 2.0**-52) -> Array:
    dims = tuple(range(-axes, 0))
    y = x / np.sqrt((x**2).mean(dims, keepdims=True) + eps)
    return np.asarray(y * w if w is not None else y)


def fault(name: str, call: Callable[[], Any], error: type[Exception], message: str) -> Fault:
    return Fault(name, call, error, message)


def channel_faults(op: str, call: Callable[..., Any]) -> list[Fault]:
    """Those of ``call(x, weight, bias)`` on (N, C, …)."""
    x = tb.zeros(4, 6, 2)
    return [
        fault("no tensor", lambda: call([[1.0]]), errors.DTypeError, rf"^{op}: 'input' must be a Tensor\. Got list\."),
        fault(
            "integers",
            lambda: call(tb.zeros(4, 6, 2, dtype=tb.int64)),
            errors.DTypeError,
            rf"^{op}: 'input' must be a floating-point tensor\. Got int64\.",
        ),
        fault(
            "axes",
            lambda: call(tb.zeros(6)),
            errors.ShapeError,
            rf"^{op}: 'input' must have at least 2 axes, \(N, C, …\)\. Got shape \(6,\)\.$",
        ),
        fault(
            "weight",
            lambda: call(x, tb.zeros(4)),
            errors.ShapeError,
            rf"^{op}: 'weight' must have shape \(C,\) = \(6,\)\. Got \(4,\)\.$",
        ),
        fault(
            "bias",
            lambda: call(x, None, tb.zeros(6, 1)),
            errors.ShapeError,
            rf"^{op}: 'bias' must have shape \(C,\) = \(6,\)\. Got \(6, 1\)\.$",
        ),
        fault(
            "dtype",
            lambda: call(x, tb.zeros(6, dtype=tb.float64)),
            errors.DTypeError,
            rf"^{op}: 'weight' must have dtype float32, as input has\. Got float64\.",
        ),
        fault(
            "device",
            lambda: call(x, tb.zeros(6, device="ref")),
            errors.DeviceError,
            rf"^{op}: 'weight' must be on device cpu",
        ),
        fault("no weight", lambda: call(x, [1.0] * 6), errors.DTypeError, rf"^{op}: 'weight' must be a Tensor"),
    ]


# ---------------------------------------------------------------------------------------------------------- group norm

GROUPS: tuple[tuple[tuple[int, ...], int], ...] = (
    ((5, 8), 2),
    ((4, 6, 5), 3),
    ((4, 6, 5), 6),
    ((2, 4, 3, 3), 1),
    ((3, 4, 2, 2, 3), 2),
    ((2, 3, 1, 2), 1),
    ((1, 2, 37), 2),
    ((70, 36), 1),
    ((2, 3), 3),
)


def _group(groups: int, eps: float = 1e-5, **absent: None) -> Callable[..., Any]:
    """A call that takes those of weight and bias that are not named absent."""

    def call(lib: Any, x: Any, *given: Any) -> Any:
        rest = iter(given)
        w, b = (None if name in absent else next(rest) for name in ("weight", "bias"))
        return lib.nn.functional.group_norm(x, groups, w, b, eps)

    return call


def _affine(*shape: int) -> tuple[Array, Array]:
    return positive(*shape, seed=5), normal(*shape, seed=6)


_X, (_W, _B) = normal(3, 4, 2, 3), _affine(4)
record(
    "group_norm",
    [
        *(
            Sample(
                f"{s}-{g}",
                _group(g),
                (normal(*s) * 1.5 + 0.7, *_affine(s[1])),
                lambda x, w, b, g=g: _np_group(x, g, w, b),
                torch_gradient=s != (2, 3),  # of single values, 0: PyTorch returns rounding errors
            )
            for s, g in GROUPS
        ),
        Sample("plain", _group(2, weight=None, bias=None), (_X,), lambda x: _np_group(x, 2)),
        Sample("plain elements", _group(1, weight=None, bias=None), (normal(5, 7),), lambda x: _np_group(x, 1)),
        Sample("weight", _group(2, bias=None), (_X, _W), lambda x, w: _np_group(x, 2, w)),
        Sample("bias", _group(2, weight=None), (_X, _B), lambda x, b: _np_group(x, 2, None, b), torch=None),
        Sample("eps", _group(2, 0.1), (_X, _W, _B), lambda x, w, b: _np_group(x, 2, w, b, 0.1)),
        Sample("no samples", _group(2), (normal(0, 4, 3), _W, _B), lambda x, w, b: x),
        Sample("no places", _group(2), (normal(2, 4, 0), _W, _B), lambda x, w, b: x, torch_gradient=False),  # NaN
        Sample(
            "channels last",
            lambda lib, x, w, b: lib.nn.functional.group_norm(x.permute(0, 3, 1, 2), 2, w, b),
            (normal(3, 5, 2, 4), _W, _B),
            lambda x, w, b: _np_group(np.ascontiguousarray(x.transpose(0, 3, 1, 2)), 2, w, b),
        ),
    ],
    [
        *channel_faults("group_norm", lambda x, w=None, b=None: F.group_norm(x, 2, w, b)),
        fault(
            "no divisor",
            lambda: F.group_norm(tb.zeros(2, 6, 3), 4),
            errors.ArgumentError,
            r"^group_norm: 'num_groups' must be a divisor of the number of channels, C = 6\. Got 4\.$",
        ),
        fault(
            "no groups",
            lambda: F.group_norm(tb.zeros(2, 6, 3), 0),
            errors.ArgumentError,
            r"^group_norm: 'num_groups' must be an int of at least 1\. Got 0\.$",
        ),
        fault("half", lambda: F.group_norm(tb.zeros(2, 6), 2.0), errors.ArgumentError, r"an int of at least 1\. Got 2"),
        fault(
            "one value",
            lambda: F.group_norm(tb.zeros(1, 6, 1), 6),
            errors.ArgumentError,
            r"^group_norm: 'input' must have more than one value a group\. Got shape \(1, 6, 1\)\.$",
        ),
    ],
    ops=("group_norm", "group_norm_backward"),
)

# ---------------------------------------------------------------------------------------------------------- layer norm

LAYERS: tuple[tuple[tuple[int, ...], int], ...] = (
    ((4, 5), 1),
    ((2, 3, 4), 1),
    ((2, 3, 4), 2),
    ((2, 3, 4), 3),
    ((9,), 1),
    ((70, 33), 1),
    ((3, 2, 1), 1),
    ((0, 4), 1),
    ((3, 0), 1),
)


def _layer(inner: tuple[int, ...], eps: float = 1e-5, **absent: None) -> Callable[..., Any]:
    def call(lib: Any, x: Any, *given: Any) -> Any:
        rest = iter(given)
        w, b = (None if name in absent else next(rest) for name in ("weight", "bias"))
        return lib.nn.functional.layer_norm(x, inner, w, b, eps)

    return call


_Y, (_V, _C) = normal(3, 2, 5), _affine(2, 5)
record(
    "layer_norm",
    [
        *(
            Sample(
                f"{s}-{k}",
                _layer(s[-k:]),
                (normal(*s) * 1.5 + 0.7, *_affine(*s[-k:])),
                lambda x, w, b, k=k: _np_layer(x, x.shape[-k:], w, b),
                torch_gradient=s != (3, 2, 1),
            )
            for s, k in LAYERS
        ),
        Sample("plain", _layer((2, 5), weight=None, bias=None), (_Y,), lambda x: _np_layer(x, (2, 5))),
        Sample("weight", _layer((2, 5), bias=None), (_Y, _V), lambda x, w: _np_layer(x, (2, 5), w)),
        Sample("bias", _layer((2, 5), weight=None), (_Y, _C), lambda x, b: _np_layer(x, (2, 5), None, b)),
        Sample("eps", _layer((2, 5), 0.1), (_Y, _V, _C), lambda x, w, b: _np_layer(x, (2, 5), w, b, 0.1)),
        Sample(
            "an int",
            lambda lib, x: lib.nn.functional.layer_norm(x, 5),
            (_Y,),
            lambda x: _np_layer(x, (5,)),
            torch=lambda lib, x: lib.nn.functional.layer_norm(x, (5,)),
        ),
    ],
    [
        fault("no tensor", lambda: F.layer_norm([1.0], 1), errors.DTypeError, r"^layer_norm: 'input' must be a Tensor"),
        fault(
            "integers",
            lambda: F.layer_norm(tb.arange(3), 3),
            errors.DTypeError,
            r"^layer_norm: 'input' must be a floating-point tensor",
        ),
        fault(
            "another shape",
            lambda: F.layer_norm(tb.zeros(2, 3, 4), (3, 5)),
            errors.ShapeError,
            r"^layer_norm: 'input' must have a shape that ends in normalized_shape = \(3, 5\)\. Got shape \(2, 3, 4\)",
        ),
        fault(
            "too few axes", lambda: F.layer_norm(tb.zeros(4), (3, 4)), errors.ShapeError, r"ends in normalized_shape"
        ),
        fault(
            "no axes",
            lambda: F.layer_norm(tb.zeros(4), ()),
            errors.ArgumentError,
            r"^layer_norm: 'normalized_shape' must have at least one axis\. Got \(\)\.$",
        ),
        fault(
            "no ints",
            lambda: F.layer_norm(tb.zeros(4), (4.0,)),
            errors.ArgumentError,
            r"^layer_norm: 'normalized_shape' must be ints\. Got float 4\.0\.$",
        ),
        fault(
            "weight",
            lambda: F.layer_norm(tb.zeros(2, 3, 4), (3, 4), tb.zeros(4)),
            errors.ShapeError,
            r"^layer_norm: 'weight' must have shape normalized_shape = \(3, 4\)\. Got \(4,\)\.$",
        ),
        fault("bias", lambda: F.layer_norm(tb.zeros(4), 4, None, [0.0]), errors.DTypeError, r"'bias' must be a Tensor"),
        fault(
            "dtype",
            lambda: F.layer_norm(tb.zeros(4), 4, None, tb.zeros(4, dtype=tb.float64)),
            errors.DTypeError,
            r"^layer_norm: 'bias' must have dtype float32, as input has\. Got float64\.$",
        ),
        fault(
            "device",
            lambda: F.layer_norm(tb.zeros(4), 4, tb.zeros(4, device="ref")),
            errors.DeviceError,
            r"^layer_norm: 'weight' must be on device cpu",
        ),
    ],
    ops=("layer_norm", "group_norm_backward"),
)

# ------------------------------------------------------------------------------------------------------- instance norm

INSTANCES: tuple[tuple[int, ...], ...] = ((3, 2, 5), (2, 3, 3, 4), (1, 2, 2, 3, 2), (2, 1, 40))


def _instance(lib: Any, x: Any, w: Any = None, b: Any = None) -> Any:
    return lib.nn.functional.instance_norm(x, None, None, w, b)


def _running(lib: Any, x: Any, w: Any, b: Any) -> Any:
    """By the running statistics."""
    if lib is tb:
        mean, var = (tb.tensor(a, dtype=x.dtype, device=x.device) for a in (_MEAN, _VAR))
    else:
        mean, var = (lib.tensor(a, dtype=x.dtype) for a in (_MEAN, _VAR))
    return lib.nn.functional.instance_norm(x, mean, var, w, b, use_input_stats=False)


_MEAN, _VAR = normal(4, seed=7).tolist(), positive(4, seed=8).tolist()


def _np_running(x: Array, w: Array, b: Array) -> Array:
    mean, var, w, b = (np.reshape(a, (1, 4, 1, 1)) for a in (_MEAN, _VAR, w, b))
    return np.asarray((x - mean) / np.sqrt(var + 1e-5) * w + b)


def _with_running(mean: Any, var: Any, use_input_stats: bool = True) -> Callable[[], Any]:
    return lambda: F.instance_norm(tb.zeros(2, 3, 4), mean, var, use_input_stats=use_input_stats)


record(
    "instance_norm",
    [
        *(
            Sample(f"{s}", _instance, (normal(*s), *_affine(s[1])), lambda x, w, b: _np_group(x, x.shape[1], w, b))
            for s in INSTANCES
        ),
        Sample("plain", _instance, (_X,), lambda x: _np_group(x, 4)),
        Sample("weight", _instance, (_X, _W), lambda x, w: _np_group(x, 4, w)),
        Sample("no samples", _instance, (normal(0, 4, 3), _W, _B), lambda x, w, b: x, torch=None),
        Sample("running", _running, (_X, _W, _B), _np_running),
    ],
    [
        *channel_faults("instance_norm", lambda x, w=None, b=None: F.instance_norm(x, None, None, w, b)),
        fault(
            "one place",
            lambda: F.instance_norm(tb.zeros(4, 3, 1, 1)),
            errors.ArgumentError,
            r"^instance_norm: 'input' must have more than one value a channel of a sample\. Got shape \(4, 3, 1, 1\)",
        ),
        fault("no places", lambda: F.instance_norm(tb.zeros(4, 3)), errors.ArgumentError, r"more than one value"),
        fault(
            "running mean",
            _with_running(tb.zeros(2), tb.ones(3)),
            errors.ShapeError,
            r"^instance_norm: 'running_mean' must have shape \(C,\) = \(3,\)\. Got \(2,\)\.$",
        ),
        fault(
            "no running mean",
            _with_running(None, tb.ones(3)),
            errors.ArgumentError,
            r"^instance_norm: 'running_mean' must be given where 'running_var' is\. Got None\.$",
        ),
        fault(
            "nothing to use",
            _with_running(None, None, False),
            errors.ArgumentError,
            r"^instance_norm: 'running_mean' must be given where 'use_input_stats' is False\. Got None\.$",
        ),
        fault(
            "momentum",
            lambda: F.instance_norm(tb.zeros(2, 3, 4), momentum=1.5),
            errors.ArgumentError,
            r"^instance_norm: 'momentum' must be from 0 to 1, the weight of the new batch\. Got 1\.5\.",
        ),
    ],
    ops=("group_norm",),
)

# ------------------------------------------------------------------------------------------------------------ RMS norm


record(
    "rms_norm",
    [
        Sample(
            "last",
            lambda lib, x, w: lib.nn.functional.rms_norm(x, (5,), w),
            (normal(3, 5), positive(5)),
            lambda x, w: _np_rms(x, 1, w, np.finfo(x.dtype).eps),
        ),
        Sample(
            "two axes",
            lambda lib, x, w: lib.nn.functional.rms_norm(x, (2, 5), w, 1e-3),
            (_Y, _V),
            lambda x, w: _np_rms(x, 2, w, 1e-3),
        ),
        Sample("plain", lambda lib, x: lib.nn.functional.rms_norm(x, (5,)), (_Y,), lambda x: _np_rms(x, 1)),
    ],
    [
        fault(
            "another shape",
            lambda: F.rms_norm(tb.zeros(2, 3), (2,)),
            errors.ShapeError,
            r"^rms_norm: 'input' must have a shape that ends in normalized_shape = \(2,\)\. Got shape \(2, 3\)\.$",
        ),
        fault("weight", lambda: F.rms_norm(tb.zeros(3), 3, tb.zeros(1)), errors.ShapeError, r"^rms_norm: 'weight'"),
    ],
    ops=("mul",),
)
