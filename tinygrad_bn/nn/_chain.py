"""Convolutions and batch normalisations that follow one another, run as chains that share trips through memory.

Wherever a chain cannot be run so, or a module has hooks or a ``forward`` of its own, the modules are called one by one.
"""

from __future__ import annotations

from typing import Any

from tinygrad_bn.core.mixed import plainly
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.functional.convolution import geometry_of
from tinygrad_bn.functional.normalisation import check_running, commit
from tinygrad_bn.nn.batch_norm import BatchNorm2d
from tinygrad_bn.nn.batch_norm_act import BatchNormAct2d
from tinygrad_bn.nn.convolution import Conv2d
from tinygrad_bn.nn.module import Module
from tinygrad_bn.ops._channels import check
from tinygrad_bn.ops._geometry import Geometry
from tinygrad_bn.ops.batch_norm import Statistics
from tinygrad_bn.ops.batch_norm_residual import check_residual
from tinygrad_bn.ops.convolution_norm import (
    INWARD,
    batch_norm_given,
    convolution_moments,
    norm_convolution,
    shares_trips,
    statistics_of,
)


def untouched(module: Module) -> bool:
    """Whether calling a module does what its class says and nothing else."""
    kind = type(module)
    hooks = module._hooks
    return (hooks is None or hooks.empty) and kind.__call__ is Module.__call__ and "forward" not in module.__dict__


def _convolves(module: Module) -> bool:
    return type(module) is Conv2d and module.bias is None and module.padding_mode == "zeros" and untouched(module)


def _follows_the_batch(module: Module) -> bool:
    """Whether a module is a batch normalisation that takes the batch's statistics, and keeps running ones."""
    return (
        type(module) in (BatchNorm2d, BatchNormAct2d)
        and module.training
        and module.update_stats
        and module.use_batch_stats is None
        and module.running_mean is not None
        and module.on_single != "warn"
        and module.axis == 1
        and untouched(module)
    )


def _geometry(conv: Any, x: Tensor) -> Geometry:
    return geometry_of("conv2d", 2, x, conv.weight, None, conv.stride, conv.padding, conv.dilation, conv.groups)


def _moments(conv: Any, x: Tensor, eps: float) -> tuple[Tensor, Statistics]:
    geometry = _geometry(conv, x)
    if shares_trips(x, conv.weight, geometry):
        return convolution_moments(x, conv.weight, geometry, eps)
    z = conv.forward(x)
    return z, statistics_of(z, eps)


def _accept(norm: Any, z: Tensor, statistics: Statistics) -> None:
    """Check a normalisation's tensors against what it normalises, and take the statistics in."""
    check(z, ("weight", norm.weight), ("bias", norm.bias))
    check_running(z, norm.running_mean, norm.running_var)
    commit(
        statistics, norm.running_mean, norm.running_var, norm.momentum, norm.unbiased, norm.num_batches_tracked,
        norm._skipped,
    )  # fmt: skip


def _batch(x: object) -> bool:
    return isinstance(x, Tensor) and x.array.ndim == 4 and x.array.size > 0 and plainly(x)


def convolve_norm(conv: Any, norm: Any, x: Tensor, activation: str) -> Tensor:
    """Return an activation of ``norm(conv(x))``."""
    if _convolves(conv) and _follows_the_batch(norm) and _batch(x):
        geometry = _geometry(conv, x)
        if shares_trips(x, conv.weight, geometry) and conv.weight.array.shape[0] == norm.num_features:
            eps = float(norm.eps)
            z, statistics = convolution_moments(x, conv.weight, geometry, eps)
            if statistics.count > 1:
                _accept(norm, z, statistics)
            return batch_norm_given(z, statistics, norm.weight, norm.bias, eps, activation)
    y: Tensor = norm.forward_activated(conv.forward(x), activation)
    return y


def residual_branch(x: Tensor, conv1: Any, norm1: Any, conv2: Any, norm2: Any, shortcut: Tensor) -> Tensor:
    """Return ``norm2(conv2(norm1(conv1(x))), shortcut)``."""
    modules = conv1, norm1, conv2, norm2
    if _batch(x) and all(map(_convolves, modules[::2])) and all(map(_follows_the_batch, modules[1::2])):
        eps1, eps2 = float(norm1.eps), float(norm2.eps)
        h, first = _moments(conv1, x, eps1)
        geometry = _geometry(conv2, h)
        if first.count > 1 and norm1.activation in INWARD and shares_trips(h, conv2.weight, geometry):
            _accept(norm1, h, first)
            z, second = norm_convolution(
                h, norm1.weight, norm1.bias, conv2.weight, first, eps1, norm1.activation, geometry, eps2
            )
            check_residual(z, shortcut)
            _accept(norm2, z, second)
            return batch_norm_given(z, second, norm2.weight, norm2.bias, eps2, norm2.activation, shortcut)
        y: Tensor = norm2(conv2(norm1(h)), shortcut)
        return y
    y = norm2(conv2(norm1(conv1(x))), shortcut)
    return y
