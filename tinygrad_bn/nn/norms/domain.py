"""Batch normalisation across domains: statistics of each domain's own, or those of a target domain in their place.

DSBN    y = BN_d(x), a batch normalisation for each domain d               (Chang et al. 2019, arXiv:1906.03950)
AdaBN   running mean and variance of every layer := those of the target    (Li et al. 2016, arXiv:1603.04779)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from tinygrad_bn import ops
from tinygrad_bn.core.tensor import Array, Tensor
from tinygrad_bn.errors import ArgumentError, DTypeError, IndexRangeError, ShapeError, expected, wrong
from tinygrad_bn.nn.batch_norm import BatchNorm, BatchNorm1d, BatchNorm2d, BatchNorm3d
from tinygrad_bn.nn.bn_tools.members import by_batches, second_of
from tinygrad_bn.nn.bn_tools.update import update_bn
from tinygrad_bn.nn.containers import ModuleList
from tinygrad_bn.nn.module import Module
from tinygrad_bn.nn.normalisation import check_count
from tinygrad_bn.ops._common import is_tensor


class _DomainSpecific(Module):
    """The layers' common part: see ``DomainSpecificBatchNorm1d``."""

    kind: type[BatchNorm]

    def __init__(self, num_features: int, num_domains: int, **options: Any) -> None:
        super().__init__()
        check_count(type(self).__name__, "num_domains", num_domains, 1)
        self.num_features = num_features
        self.num_domains = num_domains
        self.bns = ModuleList(self.kind(num_features, **options) for _ in range(num_domains))

    def reset_parameters(self) -> None:
        """Put the layers of all domains back."""
        for layer in self.bns:
            layer.reset_parameters()

    def forward(self, input: Tensor, domain: int | Tensor) -> Tensor:
        """Return the input, normalised by its domain's layer.

        Parameters
        ----------
        input : Tensor, shape (N, C, …)
        domain : int or Tensor, shape (N,), of integers
            Of the batch, or of each sample: those of a domain are then normalised together.

        Raises
        ------
        IndexRangeError
            If there is no such domain.
        ShapeError, DTypeError, DeviceError, ArgumentError
        """
        if isinstance(domain, Tensor):
            return self._mixed(input, domain)
        if isinstance(domain, bool) or not isinstance(domain, int | np.integer):
            raise DTypeError(wrong(type(self).__name__, "domain", "an int or a Tensor", type(domain).__name__))
        return self._of(int(domain), input)

    def _of(self, domain: int, x: Tensor) -> Tensor:
        if not 0 <= domain < self.num_domains:
            raise IndexRangeError(wrong(type(self).__name__, "domain", f"from 0 to {self.num_domains - 1}", domain))
        out: Tensor = self.bns[domain](x)
        return out

    def _mixed(self, input: Tensor, domain: Tensor) -> Tensor:
        """Samples of several domains: those of each together, then back to where they were."""
        op = type(self).__name__
        shape = is_tensor(op, "input", input).array.shape
        if domain.array.dtype.kind not in "iu":
            raise DTypeError(expected(op, "domain", "an integer dtype", domain.dtype.name))
        if domain.array.shape != shape[:1]:
            raise ShapeError(expected(op, "domain", f"shape (N,) = {shape[:1]}", domain.array.shape))
        names, label = np.unique(domain.array, return_inverse=True)
        if len(names) < 2:
            return self._of(int(names[0]) if len(names) else 0, input)
        for name in (names[0], names[-1]):
            if not 0 <= name < self.num_domains:
                raise IndexRangeError(wrong(op, "domain", f"from 0 to {self.num_domains - 1}", int(name)))
        order = np.argsort(label, kind="stable")
        outs = [
            self._of(int(name), ops.index_select(input, 0, _index(order[label[order] == i], input)))
            for i, name in enumerate(names)
        ]
        return ops.index_select(ops.cat(outs), 0, _index(np.argsort(order, kind="stable"), input))

    def extra_repr(self) -> str:
        return f"num_domains={self.num_domains}"


def _index(positions: Array, like: Tensor) -> Tensor:
    return ops.tensor(positions.astype(np.int64), device=like.device)


class DomainSpecificBatchNorm1d(_DomainSpecific):
    """A ``BatchNorm1d`` for each domain: parameters and running statistics of its own.

    Parameters
    ----------
    num_features : int
        C, the number of channels.
    num_domains : int
    **options
        As for ``BatchNorm1d``.

    Attributes
    ----------
    bns : ModuleList of BatchNorm1d
        By domain.

    References
    ----------
    Chang, You, Seo, Kwak & Han 2019 (arXiv:1906.03950).
    """

    kind = BatchNorm1d


class DomainSpecificBatchNorm2d(_DomainSpecific):
    """A ``BatchNorm2d`` for each domain; all else as for ``DomainSpecificBatchNorm1d``."""

    kind = BatchNorm2d


class DomainSpecificBatchNorm3d(_DomainSpecific):
    """A ``BatchNorm3d`` for each domain; all else as for ``DomainSpecificBatchNorm1d``."""

    kind = BatchNorm3d


def ada_bn(model: Module, batches: Iterable[Any]) -> Module:
    """Adapt a model to another domain: give all its batch normalisations that domain's statistics; return the model.

    Parameters
    ----------
    model : Module
        Its parameters stay as they are.
    batches : iterable of Tensor, or of sequences that start with one
        Inputs of the target domain; no labels are needed. Each batch is normalised by its own statistics on the way.

    Raises
    ------
    ArgumentError
        If the model has no batch normalisation with running statistics, or there is no batch.

    Notes
    -----
    This is ``update_bn`` over the target: mean and variance are those of all its values together, merged by their
    counts; layers whose ``update_stats`` is False keep their own.

    References
    ----------
    Li, Wang, Shi, Liu & Hou 2016 (arXiv:1603.04779), Algorithm 1.
    """
    if not any(by_batches(m) and second_of(m) is not None for m in model.modules()):
        raise ArgumentError(expected("ada_bn", "model", "a batch normalisation with running statistics", "none"))
    update_bn(model, batches)
    return model
