"""The doctor: why a model with batch norms is worse in evaluation than in training, layer by layer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tinygrad_bn.doctor.collect import collect
from tinygrad_bn.doctor.findings import KINDS, Finding
from tinygrad_bn.doctor.report import LayerRow, Report
from tinygrad_bn.nn.module import Module

__all__ = ["KINDS", "Finding", "LayerRow", "Report", "diagnose"]


def diagnose(model: Module, loader: Iterable[Any]) -> Report:
    """Run a model over batches and tell what is wrong with its normalisation, layer by layer.

    Parameters
    ----------
    model : Module
        Called with each batch's inputs; left exactly as it was, also when something is raised: modes, buffers, hooks,
        gradients, attributes, and the random state of ``tb.manual_seed``. Where it is in training mode and a layer in
        evaluation mode, that layer counts as frozen.
    loader : iterable
        Yields inputs (tensors, or dicts that the model takes), or tuples and lists that begin with one: the training
        data, batched as in training. It is gone through once. Some ten batches give sound figures.

    Returns
    -------
    Report
        ``print(report)`` for the table and the findings, ``report.findings``, ``report.to_dict()``,
        ``report.figure(path)``.

    Raises
    ------
    ArgumentError, DTypeError
        If the loader yields nothing, or something else than tensors, or a layer does not know its channels yet;
        whatever the model raises.

    Notes
    -----
    Each batch goes through the model as in training and as in evaluation, and, where there are Dropout layers, as in
    training without them. Statistics are taken in float64 and merged (Chan). What counts as more than chance stands,
    with its reason, in ``tinygrad_bn.doctor.thresholds``. Hooks that the model has run too.

    References
    ----------
    Wu & Johnson 2021 (arXiv:2105.07576); Li et al. 2019 (arXiv:1801.05134), dropout; Wu & He 2018 (arXiv:1803.08494),
    small batches; Glorot & Bengio 2010, saturation.

    Examples
    --------
    >>> import tinygrad_bn as tb
    >>> net = tb.nn.Sequential(tb.nn.Linear(4, 8, bias=False), tb.nn.BatchNorm1d(8), tb.nn.ReLU())
    >>> report = tb.diagnose(net, [5 + tb.randn(64, 4) for _ in range(8)])
    >>> [(f.severity, f.layer, f.kind) for f in report.findings][1]
    ('error', '1', 'momentum_too_small')
    """
    return Report(collect(model, loader))
