"""Losses as modules."""

from __future__ import annotations

from tinygrad_bn import functional as F
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.functional.loss import check_current
from tinygrad_bn.nn.module import Module


class CrossEntropyLoss(Module):
    """The cross-entropy of scores against classes; see ``functional.cross_entropy``.

    Parameters
    ----------
    weight : Tensor, shape (C,), optional
        What each class counts; kept as a buffer.
    size_average, reduce : None
        PyTorch's deprecated arguments: use ``reduction``.
    ignore_index : int
    reduction : {"mean", "sum", "none"}
    label_smoothing : float
    """

    weight: Tensor | None

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: None = None,
        ignore_index: int = -100,
        reduce: None = None,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        check_current("CrossEntropyLoss", size_average, reduce, reduction)
        self.register_buffer("weight", weight)
        self.ignore_index = ignore_index
        self.reduction = reduction
        self.label_smoothing = label_smoothing

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss of scores (N, C, …) against class indices (N, …) or probabilities (N, C, …)."""
        return F.cross_entropy(
            input, target, self.weight, None, self.ignore_index, None, self.reduction, self.label_smoothing
        )


class NLLLoss(Module):
    """The negative log-likelihood of log-probabilities; see ``functional.nll_loss``.

    Parameters
    ----------
    weight : Tensor, shape (C,), optional
    size_average, reduce : None
    ignore_index : int
    reduction : {"mean", "sum", "none"}
    """

    weight: Tensor | None

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: None = None,
        ignore_index: int = -100,
        reduce: None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        check_current("NLLLoss", size_average, reduce, reduction)
        self.register_buffer("weight", weight)
        self.ignore_index = ignore_index
        self.reduction = reduction

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss of log-probabilities (N, C, …) against class indices (N, …)."""
        return F.nll_loss(input, target, self.weight, ignore_index=self.ignore_index, reduction=self.reduction)


class MSELoss(Module):
    """The mean squared error; see ``functional.mse_loss``."""

    def __init__(self, size_average: None = None, reduce: None = None, reduction: str = "mean") -> None:
        super().__init__()
        check_current("MSELoss", size_average, reduce, reduction)
        self.reduction = reduction

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss of an input against a target of its shape."""
        return F.mse_loss(input, target, reduction=self.reduction)


class L1Loss(Module):
    """The mean absolute error; see ``functional.l1_loss``."""

    def __init__(self, size_average: None = None, reduce: None = None, reduction: str = "mean") -> None:
        super().__init__()
        check_current("L1Loss", size_average, reduce, reduction)
        self.reduction = reduction

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss of an input against a target of its shape."""
        return F.l1_loss(input, target, reduction=self.reduction)
