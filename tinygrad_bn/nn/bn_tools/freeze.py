"""Batch norms that stay as they are while the rest of a network is trained, and back.

"Frozen" may mean three things, and each has its switch: the weight and bias get no gradient (``requires_grad_``), the
running statistics do not move (``update_stats``), the layer normalises by them rather than by the batch
(``use_batch_stats``). The last makes it an affine map, in training too.
"""

from __future__ import annotations

from typing import Any

from tinygrad_bn.errors import ArgumentError, DTypeError, wrong
from tinygrad_bn.nn.batch_norm import BatchNorm
from tinygrad_bn.nn.bn_tools.members import by_batches
from tinygrad_bn.nn.module import Module


def freeze_bn(
    model: Module, *, parameters: bool = True, update_stats: bool = False, use_batch_stats: bool | None = False
) -> Module:
    """Set the three switches of all batch norms of a model, its family included; ``unfreeze_bn`` sets them back.

    Parameters
    ----------
    model : Module
    parameters : bool
        Stop recording on weight and bias.
    update_stats : bool
        Whether training moves the running statistics.
    use_batch_stats : bool or None
        Normalise by the batch's statistics, or by the running ones; None: as each layer's mode says.

    Returns
    -------
    Module
        The model itself.

    Raises
    ------
    ArgumentError
        If a layer is to use running statistics and has none; then nothing has been changed.

    Notes
    -----
    The switches hold in either mode: ``model.train()`` does not thaw them. With the defaults a layer computes what it
    does in evaluation. What the switches were is noted in the layer itself by the first of several calls.

    Examples
    --------
    >>> import tinygrad_bn as tb
    >>> net = tb.nn.Sequential(tb.nn.Linear(2, 3), tb.nn.BatchNorm1d(3))
    >>> [p.requires_grad for p in tb.nn.utils.freeze_bn(net).parameters()]
    [True, True, False, False]
    >>> [p.requires_grad for p in tb.nn.utils.unfreeze_bn(net).parameters()]
    [True, True, True, True]
    """
    layers = _layers("freeze_bn", model)
    if use_batch_stats is False:
        bare = [name or "the model" for name, layer in layers if not layer.track_running_stats]
        if bare:
            hint = "pass use_batch_stats=None"
            want = "None or True where running statistics are not tracked"
            raise ArgumentError(wrong("freeze_bn", "use_batch_stats", want, f"False, at {', '.join(bare)}", hint))
    for _, layer in layers:
        if _noted(layer) is None:
            recorded = {name: p.requires_grad for name, p in layer.named_parameters(recurse=False)}
            layer.before_freeze = (recorded, layer.update_stats, layer.use_batch_stats)
        if parameters:
            layer.requires_grad_(False)
        layer.update_stats = update_stats
        layer.use_batch_stats = use_batch_stats
    return model


def unfreeze_bn(model: Module) -> Module:
    """Set the switches of all batch norms to what they were before ``freeze_bn``; others are left alone.

    Parameters
    ----------
    model : Module

    Returns
    -------
    Module
        The model itself.
    """
    for _, layer in _layers("unfreeze_bn", model):
        noted = _noted(layer)
        if noted is None:
            continue
        recorded, layer.update_stats, layer.use_batch_stats = noted
        for name, p in layer.named_parameters(recurse=False):
            p.requires_grad = recorded.get(name, True)
        del layer.before_freeze
    return model


def _noted(layer: BatchNorm) -> Any:
    """What ``freeze_bn`` noted in a layer, or None."""
    return layer.__dict__.get("before_freeze")


def _layers(op: str, model: object) -> list[tuple[str, BatchNorm]]:
    if not isinstance(model, Module):
        raise DTypeError(wrong(op, "model", "a Module", type(model).__name__))
    return [(name, m) for name, m in model.named_modules() if by_batches(m)]
