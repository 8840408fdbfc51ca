"""One member of the normalisation family for another, with the parameters that mean the same carried over."""

from __future__ import annotations

from typing import Any

from tinygrad_bn import ops
from tinygrad_bn.core.tape import no_grad
from tinygrad_bn.errors import ArgumentError, DTypeError, wrong
from tinygrad_bn.nn.batch_norm import BatchNorm, BatchNorm1d, BatchNorm2d, BatchNorm3d
from tinygrad_bn.nn.bn_tools.activated import ACTIVATED
from tinygrad_bn.nn.bn_tools.fold import Folded
from tinygrad_bn.nn.bn_tools.members import by_batches, second_of
from tinygrad_bn.nn.bn_tools.sync import SyncBatchNorm
from tinygrad_bn.nn.instance_norm import InstanceNorm1d, InstanceNorm2d, InstanceNorm3d, _InstanceNorm
from tinygrad_bn.nn.linear import Identity
from tinygrad_bn.nn.module import Module
from tinygrad_bn.nn.normalisation import GroupNorm, LayerNorm, RMSNorm
from tinygrad_bn.nn.norms._running import RunningNorm
from tinygrad_bn.nn.norms.lazy import LazyBatchNorm

CHANNELS = (BatchNorm, _InstanceNorm, GroupNorm)
"""Those that have a weight and a bias for each channel, on the second axis."""
BY_AXES: dict[str, tuple[type[Any], ...]] = {
    "BatchNorm": (BatchNorm1d, BatchNorm2d, BatchNorm3d),
    "InstanceNorm": (InstanceNorm1d, InstanceNorm2d, InstanceNorm3d),
}
ALONE: dict[str, type[Any]] = {
    k.__name__: k for k in (*BY_AXES["BatchNorm"], *BY_AXES["InstanceNorm"], SyncBatchNorm, GroupNorm, LayerNorm)
} | {"RMSNorm": RMSNorm, "Identity": Identity}
GROUPS = 32  # the paper's


def convert(model: Module, to: str | type[Any], *, of: Any = CHANNELS, **options: Any) -> Module:
    """Replace normalisation layers by another member of the family.

    Parameters
    ----------
    model : Module
        Changed in place, unless it is such a layer itself.
    to : str or class
        "BatchNorm" and "InstanceNorm" stand for the layer of as many axes as the one that is replaced; else a class or
        its name: "BatchNorm2d", "SyncBatchNorm", "GroupNorm", "LayerNorm", "RMSNorm", "Identity". Any other class that
        is made like ``BatchNorm1d``, ``to(num_features, eps=…, affine=…, device=…, dtype=…)``, will do, such as
        ``nn.GhostBatchNorm`` with ``ghost_batch_size``.
    of : class or tuple of class
        Which layers are replaced: all batch norms, their family included, instance and group norms. ``nn.LayerNorm``
        and ``nn.RMSNorm`` have to be asked for: one of (N, L, C) has no counterpart.
    **options
        Arguments of the new layers, such as ``num_groups`` (default: the largest divisor of C up to 32), ``eps``,
        ``process_group``.

    Returns
    -------
    Module
        The model, or what replaces it.

    Raises
    ------
    ArgumentError
        If a name is unknown, or a layer does not say how many axes its inputs have. Nothing has been changed then.

    Notes
    -----
    Carried over are eps, the mode, dtype and device, and the very parameters, where both have one for each channel:
    names in the state dict and what an optimiser holds stay valid. Among batch norms also momentum, the switches and
    running means and variances; among instance norms momentum and running statistics. What normalises otherwise has
    other outputs, of course, and wants training. A batch norm's fused activation stays, and with it the residual that
    may be passed; one without an activation becomes a layer that takes none, where it becomes no batch norm. A layer
    that occurs twice is replaced by one. Hooks are not carried over.

    Layer normalisation of a picture's channels together is group normalisation with one group (Wu & He 2018, section
    3): "LayerNorm" for a layer of more than two axes gives ``GroupNorm(1, C)``.

    References
    ----------
    Wu & He 2018 (arXiv:1803.08494).

    Examples
    --------
    >>> import tinygrad_bn as tb
    >>> net = tb.nn.Sequential(tb.nn.Conv2d(3, 8, 3), tb.nn.BatchNorm2d(8))
    >>> tb.nn.utils.convert(net, "GroupNorm", num_groups=4)[1]
    GroupNorm(4, 8, eps=1e-05, affine=True, bias=True)
    """
    if not isinstance(model, Module):
        raise DTypeError(wrong("convert", "model", "a Module", type(model).__name__))
    kind = _known(to)
    made = {m: _made(kind, m, dict(options)) for m in model.modules() if _of(m, of)}
    for owner in list(model.modules()):
        for name, child in list(owner._modules.items()):
            if child in made:
                setattr(owner, name, made[child])
    return made.get(model, model)


def _of(module: Module, of: Any) -> bool:
    return isinstance(module, of) or (of is CHANNELS and isinstance(module, RunningNorm))


def _known(to: object) -> type[Any] | str:
    if isinstance(to, type):
        return to
    if to in BY_AXES:
        return str(to)
    if to not in ALONE:
        raise ArgumentError(wrong("convert", "to", f"a class or one of {', '.join([*BY_AXES, *ALONE])}", repr(to)))
    return ALONE[str(to)]


def _made(to: type[Any] | str, old: Any, options: dict[str, Any]) -> Module:
    """The new layer for an old one."""
    kind = _by_axes(to, old) if isinstance(to, str) else to
    if kind is LayerNorm and _axes(old) != 2:
        kind, options = GroupNorm, {"num_groups": 1, **options}
    activation = getattr(old, "activation", "none")
    if issubclass(kind, BatchNorm):
        options.setdefault("activation", activation)
    elif kind is not Identity and activation != "none":
        kind = _activated(kind, activation)
    if kind is Identity:
        return (Identity() if activation == "none" else Folded(activation)).train(old.training)
    new = _constructed(kind, old, options)
    if hasattr(kind, "activation") and not issubclass(kind, BatchNorm):
        new.activation = activation
    _carry(old, new)
    return new.train(old.training)


def _activated(kind: type[Any], activation: str) -> type[Any]:
    if kind not in ACTIVATED:
        hint = "use layers without a fused activation"
        raise ArgumentError(wrong("convert", "to", f"able to apply {activation!r}", kind.__name__, hint))
    return ACTIVATED[kind]


def _axes(old: Any) -> int | None:
    """How many axes a layer's inputs have; None: it does not say."""
    for kinds in BY_AXES.values():
        for i, kind in enumerate(kinds):
            if isinstance(old, kind):
                return i + 2
    return 2 if isinstance(old, LayerNorm | RMSNorm) else None


def _by_axes(to: str, old: Any) -> type[Any]:
    axes = _axes(old)
    if axes is None:
        hint = f"name one: to='{to}2d'"
        want = f"one of {', '.join(k.__name__ for k in BY_AXES[to])} for a {type(old).__name__}"
        raise ArgumentError(wrong("convert", "to", want, repr(to), hint))
    return BY_AXES[to][axes - 2]


def _channels(old: Any) -> int:
    if isinstance(old, LazyBatchNorm):
        hint = "call the model once"
        raise ArgumentError(wrong("convert", "model", "of layers that know their channels", repr(old), hint))
    if getattr(old, "axis", 1) != 1:
        hint = "leave such layers out by the argument 'of'"
        raise ArgumentError(wrong("convert", "model", "free of batch norms of another axis than 1", repr(old), hint))
    for name in ("num_features", "num_channels"):
        if hasattr(old, name):
            return int(getattr(old, name))
    shape: Any = getattr(old, "normalized_shape", ())
    if len(shape) != 1:
        raise ArgumentError(wrong("convert", "of", "layers with a number for each channel", f"{old!r}"))
    channels: int = shape[0]
    return channels


def _constructed(kind: type[Any], old: Any, options: dict[str, Any]) -> Module:
    """A new layer of a kind, of an old one's channels, eps, dtype and device; ``options`` come first."""
    channels = _channels(old)
    first = next((t for t in [*old.parameters(), *old.buffers()] if t.dtype.is_floating_point), None)
    given: dict[str, Any] = {} if first is None else {"device": first.device, "dtype": first.dtype}
    if old.eps is not None:
        given["eps"] = old.eps
    if issubclass(kind, LayerNorm | RMSNorm):
        given["elementwise_affine"] = old.weight is not None
    else:
        given["affine"] = old.weight is not None
    if issubclass(kind, LayerNorm | GroupNorm | _InstanceNorm | BatchNorm):
        given["bias"] = old.bias is not None
    if by_batches(old) and (issubclass(kind, BatchNorm) or hasattr(kind, "second")):
        given |= {"momentum": old.momentum, "track_running_stats": old.track_running_stats}
    if issubclass(kind, _InstanceNorm) and isinstance(old, _InstanceNorm):
        given |= {"momentum": old.momentum, "track_running_stats": old.track_running_stats}
    if issubclass(kind, BatchNorm) and isinstance(old, BatchNorm):
        given |= {"running_var": "unbiased" if old.unbiased else "biased", "on_single": old.on_single}
    if issubclass(kind, GroupNorm):
        groups = options.pop("num_groups", None) or _groups(channels)
        made: Module = kind(groups, channels, **{**given, **options})
    else:
        made = kind(channels, **{**given, **options})
    return made


def _groups(channels: int) -> int:
    return next(g for g in range(min(GROUPS, max(channels, 1)), 0, -1) if channels % g == 0)


def _carry(old: Any, new: Any) -> None:
    """Put into a new layer what means the same in it."""
    names = ["weight", "bias"]
    if by_batches(old) and by_batches(new):
        for name in ("update_stats", "use_batch_stats", "before_freeze"):
            if name in old.__dict__:
                setattr(new, name, old.__dict__[name])
        new._skipped.set(int(old._skipped))
        if second_of(old) is not None and second_of(new) is not None:
            names += ["running_mean", "num_batches_tracked"]
            _carry_spread(old, new)
    elif isinstance(old, _InstanceNorm) and isinstance(new, _InstanceNorm):
        names += ["running_mean", "running_var", "num_batches_tracked"]
    for name in names:
        value, place = getattr(old, name, None), getattr(new, name, None)
        if value is not None and place is not None and value.shape == place.shape:
            setattr(new, name, value)


def _carry_spread(old: Any, new: Any) -> None:
    """Carry the running variance over, or make it √(var + eps), or that a variance."""
    name, kept = second_of(new), second_of(old)
    value = getattr(old, str(kept))
    if name != kept:
        with no_grad():
            squared = ops.sub(ops.square(value), old.eps)
            value = ops.sqrt(ops.add(value, old.eps)) if name == "running_std" else ops.clamp(squared, min=0.0)
    setattr(new, str(name), value)


def momentum_from_keras(momentum: float) -> float:
    """Return the weight of the new batch, as PyTorch and this package count it, from the weight of the old.

    Parameters
    ----------
    momentum : float
        From 0 to 1: Keras' (default 0.99), Flax', Chainer's, MXNet's, Paddle's (0.9).

    Raises
    ------
    ArgumentError

    Examples
    --------
    >>> import tinygrad_bn as tb
    >>> tb.nn.BatchNorm1d(8, momentum=tb.nn.utils.momentum_from_keras(0.75))
    BatchNorm1d(8, eps=1e-05, momentum=0.25, affine=True, track_running_stats=True)
    """
    if isinstance(momentum, bool) or not isinstance(momentum, int | float) or not 0 <= momentum <= 1:
        want = "from 0 to 1, the weight of the old statistics"
        raise ArgumentError(wrong("momentum_from_keras", "momentum", want, repr(momentum)))
    return 1.0 - momentum
