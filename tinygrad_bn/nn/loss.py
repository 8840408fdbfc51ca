"""Losses as modules."""

from __future__ import annotations

from tinygrad_bn import functional as F
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.functional._reduction import check_current
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


class SmoothL1Loss(Module):
    """Squared below ``beta``, absolute above; see ``functional.smooth_l1_loss``."""

    def __init__(
        self, size_average: None = None, reduce: None = None, reduction: str = "mean", beta: float = 1.0
    ) -> None:
        super().__init__()
        check_current("SmoothL1Loss", size_average, reduce, reduction)
        self.reduction = reduction
        self.beta = beta

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss of an input against a target of its shape."""
        return F.smooth_l1_loss(input, target, None, None, self.reduction, self.beta)


class HuberLoss(Module):
    """Squared below ``delta``, linear above; see ``functional.huber_loss``."""

    def __init__(self, reduction: str = "mean", delta: float = 1.0) -> None:
        super().__init__()
        check_current("HuberLoss", None, None, reduction)
        self.reduction = reduction
        self.delta = delta

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss of an input against a target of its shape."""
        return F.huber_loss(input, target, self.reduction, self.delta)


class BCELoss(Module):
    """The binary cross-entropy of probabilities; see ``functional.binary_cross_entropy``.

    Parameters
    ----------
    weight : Tensor, of a shape that broadcasts to the input's, optional
        What each element counts; kept as a buffer.
    size_average, reduce : None
    reduction : {"mean", "sum", "none"}
    """

    weight: Tensor | None

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: None = None,
        reduce: None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        check_current("BCELoss", size_average, reduce, reduction)
        self.register_buffer("weight", weight)
        self.reduction = reduction

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss of probabilities against probabilities."""
        return F.binary_cross_entropy(input, target, self.weight, None, None, self.reduction)


class BCEWithLogitsLoss(Module):
    """The binary cross-entropy of scores; see ``functional.binary_cross_entropy_with_logits``.

    Parameters
    ----------
    weight : Tensor, of a shape that broadcasts to the input's, optional
        What each element counts; kept as a buffer.
    size_average, reduce : None
    reduction : {"mean", "sum", "none"}
    pos_weight : Tensor, of a shape that broadcasts to the input's, optional
        What positive targets count; kept as a buffer.
    """

    weight: Tensor | None
    pos_weight: Tensor | None

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: None = None,
        reduce: None = None,
        reduction: str = "mean",
        pos_weight: Tensor | None = None,
    ) -> None:
        super().__init__()
        check_current("BCEWithLogitsLoss", size_average, reduce, reduction)
        self.register_buffer("weight", weight)
        self.register_buffer("pos_weight", pos_weight)
        self.reduction = reduction

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss of scores against probabilities."""
        return F.binary_cross_entropy_with_logits(
            input, target, self.weight, None, None, self.reduction, self.pos_weight
        )


class KLDivLoss(Module):
    """The terms of the Kullback-Leibler divergence; see ``functional.kl_div``.

    Parameters
    ----------
    size_average, reduce : None
    reduction : {"batchmean", "mean", "sum", "none"}
    log_target : bool
        Whether targets are logarithms.
    """

    def __init__(
        self,
        size_average: None = None,
        reduce: None = None,
        reduction: str = "mean",
        log_target: bool = False,
    ) -> None:
        super().__init__()
        check_current("KLDivLoss", size_average, reduce, reduction, ("batchmean",))
        self.reduction = reduction
        self.log_target = log_target

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss of log-probabilities against probabilities."""
        return F.kl_div(input, target, None, None, self.reduction, self.log_target)


class CosineSimilarity(Module):
    """The cosine of two vectors along ``dim``; see ``functional.cosine_similarity``."""

    def __init__(self, dim: int = 1, eps: float = 1e-8) -> None:
        super().__init__()
        self.dim = dim
        self.eps = eps

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        """Return the cosines."""
        return F.cosine_similarity(x1, x2, self.dim, self.eps)


class _Margin(Module):
    """A loss with a margin."""

    def __init__(
        self, margin: float = 0.0, size_average: None = None, reduce: None = None, reduction: str = "mean"
    ) -> None:
        super().__init__()
        check_current(type(self).__name__, size_average, reduce, reduction)
        self.margin = margin
        self.reduction = reduction


class CosineEmbeddingLoss(_Margin):
    """1 - cos, or max(0, cos - margin); see ``functional.cosine_embedding_loss``."""

    def forward(self, input1: Tensor, input2: Tensor, target: Tensor) -> Tensor:
        """Return the loss of two inputs (N, D) against targets 1 or -1 (N,)."""
        return F.cosine_embedding_loss(input1, input2, target, self.margin, None, None, self.reduction)


class MarginRankingLoss(_Margin):
    """max(0, margin - target (input1 - input2)); see ``functional.margin_ranking_loss``."""

    def forward(self, input1: Tensor, input2: Tensor, target: Tensor) -> Tensor:
        """Return the loss of two inputs against targets 1 or -1."""
        return F.margin_ranking_loss(input1, input2, target, self.margin, None, None, self.reduction)


class HingeEmbeddingLoss(_Margin):
    """The input, or max(0, margin - input); see ``functional.hinge_embedding_loss``."""

    def __init__(
        self, margin: float = 1.0, size_average: None = None, reduce: None = None, reduction: str = "mean"
    ) -> None:
        super().__init__(margin, size_average, reduce, reduction)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss of distances against targets 1 or -1."""
        return F.hinge_embedding_loss(input, target, self.margin, None, None, self.reduction)


class SoftMarginLoss(Module):
    """ln(1 + e^(-target input)); see ``functional.soft_margin_loss``."""

    def __init__(self, size_average: None = None, reduce: None = None, reduction: str = "mean") -> None:
        super().__init__()
        check_current("SoftMarginLoss", size_average, reduce, reduction)
        self.reduction = reduction

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss of scores against targets 1 or -1."""
        return F.soft_margin_loss(input, target, None, None, self.reduction)
