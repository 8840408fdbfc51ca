"""Averages of a model's weights over training, and the learning rate that goes with them.

    SWA   mean ← mean + (w - mean) / (n + 1)
    EMA   mean ← decay mean + (1 - decay) w

An average of weights has seen no batch: the running statistics of its batch norms belong to none of the models that
went into it, and are estimated anew. Izmailov et al. 2018 (arXiv:1803.05407); Polyak & Juditsky 1992. Names, arguments
and state dicts are those of ``torch.optim.swa_utils``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from itertools import chain
from typing import Any

from tinygrad_bn import ops
from tinygrad_bn.core.dtype import int64
from tinygrad_bn.core.tape import no_grad
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import ArgumentError, DTypeError, ShapeError, expected, wrong
from tinygrad_bn.nn import bn_tools
from tinygrad_bn.nn.module import Module
from tinygrad_bn.optim.optimizer import Optimizer
from tinygrad_bn.optim.schedule import LRScheduler

__all__ = [
    "SWALR",
    "AveragedModel",
    "get_ema_avg_fn",
    "get_ema_multi_avg_fn",
    "get_swa_avg_fn",
    "get_swa_multi_avg_fn",
    "update_bn",
]

Average = Callable[[Tensor, Tensor, Any], Tensor]
MultiAverage = Callable[[Sequence[Tensor], Sequence[Tensor], Any], None]


def get_ema_avg_fn(decay: float = 0.999) -> Average:
    """Return the function (average, weights, count) -> the next exponential moving average."""
    kept = _checked_decay(decay)
    return lambda averaged, current, count: averaged * kept + current * (1 - kept)


def get_swa_avg_fn() -> Average:
    """Return the function (average, weights, count) -> the mean of one more."""
    return lambda averaged, current, count: averaged + (current - averaged) / (int(count) + 1)


def get_ema_multi_avg_fn(decay: float = 0.999) -> MultiAverage:
    """Return the function (averages, weights, count) that moves averages in place, exponentially.

    Parameters
    ----------
    decay : float
        From 0 to 1, the weight of the average so far.

    Raises
    ------
    ArgumentError
    """
    return _in_place(get_ema_avg_fn(decay))


def get_swa_multi_avg_fn() -> MultiAverage:
    """Return the function (averages, weights, count) that takes one more into means, in place."""
    return _in_place(get_swa_avg_fn())


def _checked_decay(decay: object) -> float:
    if isinstance(decay, bool) or not isinstance(decay, int | float) or not 0 <= decay <= 1:
        raise ArgumentError(wrong("ema", "decay", "from 0 to 1", repr(decay)))
    return float(decay)


def _in_place(average: Average) -> MultiAverage:
    def update(averaged: Sequence[Tensor], current: Sequence[Tensor], count: Any) -> None:
        with no_grad():
            for mean, value in zip(averaged, current, strict=True):
                mean.copy_(ops.to(average(mean, value, count), mean.dtype))

    return update


class AveragedModel(Module):
    """A copy of a model whose parameters are averages of that model's.

    Parameters
    ----------
    model : Module
    device : Device or str, optional
        Where the copy is kept.
    avg_fn : callable, optional
        (average, weights, count) -> the next average; see ``get_ema_avg_fn``.
    multi_avg_fn : callable, optional
        (averages, weights, count), lists of tensors, the averages changed in place; see ``get_ema_multi_avg_fn``. With
        neither, averages are means.
    use_buffers : bool
        Average buffers as well; else they are copied.
    loader : iterable, optional
        Batches that running statistics are estimated from, by ``update_bn``, before the averages are first used in
        evaluation mode after they have moved, or a state dict was loaded. It is gone through each time: no generator.

    Attributes
    ----------
    module : Module
        The copy.
    n_averaged : Tensor, shape (), int64
        How many models went into the averages; a buffer.

    Raises
    ------
    ArgumentError
        If both functions are given.

    References
    ----------
    Izmailov et al. 2018 (arXiv:1803.05407), Algorithm 1.

    Examples
    --------
    >>> import tinygrad_bn as tb
    >>> from tinygrad_bn.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
    >>> model = tb.nn.Linear(2, 1)
    >>> average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    >>> average.update_parameters(model)
    >>> average.n_averaged.item()
    1
    """

    n_averaged: Tensor
    module: Module

    def __init__(
        self,
        model: Module,
        device: Any = None,
        avg_fn: Average | None = None,
        multi_avg_fn: MultiAverage | None = None,
        use_buffers: bool = False,
        *,
        loader: Iterable[Any] | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(model, Module):
            raise DTypeError(wrong("AveragedModel", "model", "a Module", type(model).__name__))
        if avg_fn is not None and multi_avg_fn is not None:
            raise ArgumentError("AveragedModel: 'avg_fn' and 'multi_avg_fn' exclude each other. Got both.")
        self.module = deepcopy(model)
        if device is not None:
            self.module.to(device=device)
        self.register_buffer("n_averaged", ops.zeros((), dtype=int64, device=device))
        self.avg_fn = avg_fn
        self.multi_avg_fn = multi_avg_fn
        self.use_buffers = use_buffers
        self.loader = loader
        self.stale = False
        self._estimated = self._versions()
        self.train(model.training)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the averaged model returns, its running statistics estimated anew where that is due."""
        if not self.training and self.loader is not None and self._is_due():
            self.update_bn()
        return self.module(*args, **kwargs)

    def update_bn(self, loader: Iterable[Any] | None = None, device: Any = None) -> None:
        """Estimate the running statistics of the averaged model over a loader, by default its own.

        Raises
        ------
        ArgumentError
            If there is no loader, or it yields nothing.
        """
        source = self.loader if loader is None else loader
        if source is None:
            raise ArgumentError(wrong("update_bn", "loader", "given here or to AveragedModel", None))
        bn_tools.update_bn(self.module, source, device)
        self.stale = False
        self._estimated = self._versions()

    def _versions(self) -> list[int]:
        """What changes with the parameters' values, also where a state dict is loaded."""
        return [p.version for p in self.module.parameters()]

    def _is_due(self) -> bool:
        """Whether the running statistics may belong to other weights than the averages."""
        return self.stale or (self._estimated != self._versions() and self.n_averaged.item() > 0)

    def update_parameters(self, model: Module) -> None:
        """Take a model's weights into the averages; the first are copied.

        Raises
        ------
        ShapeError
            If the model has other parameters than the one that was copied.
        """
        averaged, current = self._averaged(self.module), self._averaged(model)
        shapes = [t.shape for t in averaged]
        if shapes != [t.shape for t in current]:
            want = "the parameters of the model that is averaged"
            raise ShapeError(expected("update_parameters", "model", want, f"shapes {[t.shape for t in current]}"))
        moved = [ops.to(t.detach(), device=mean.device) for mean, t in zip(averaged, current, strict=True)]
        with no_grad():
            if self.n_averaged.item() == 0:
                _copy(averaged, moved)
            elif self.avg_fn is not None:
                _in_place(self.avg_fn)(averaged, moved, self.n_averaged)
            else:
                (self.multi_avg_fn or get_swa_multi_avg_fn())(averaged, moved, self.n_averaged)
            if not self.use_buffers:
                _copy(list(self.module.buffers()), list(model.buffers()))
            self.n_averaged.add_(1)
        self.stale = True

    def _averaged(self, model: Module) -> list[Tensor]:
        tensors = chain(model.parameters(), model.buffers()) if self.use_buffers else model.parameters()
        return [t.detach() for t in tensors]


def _copy(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    for target, source in zip(targets, sources, strict=True):
        target.copy_(ops.to(source.detach(), device=target.device))


def update_bn(loader: Iterable[Any], model: Module, device: Any = None) -> None:
    """Replace the running statistics of all batch norms by those over a loader: ``nn.utils.update_bn``, with the order
    of arguments that PyTorch has here.

    Parameters
    ----------
    loader : iterable
    model : Module
    device : Device or str, optional
    """
    bn_tools.update_bn(model, loader, device)


class SWALR(LRScheduler):
    """The rate goes from what it is to a constant in ``anneal_epochs`` steps, and stays there.

    Parameters
    ----------
    optimizer : Optimizer
    swa_lr : float or sequence of float
        The constant rate, one for all groups or one a group.
    anneal_epochs : int
        At least 0.
    anneal_strategy : {"cos", "linear"}
        By half a period of a cosine, or in equal steps.
    last_epoch : int

    Raises
    ------
    ArgumentError

    Notes
    -----
    After t steps of T the rate is α swa_lr + (1 - α) lr, α = t / T or (1 - cos(π t / T)) / 2. lr, the rate at the
    beginning, is found from the present one, so that another schedule may have changed it in the meantime.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        swa_lr: float | Sequence[float],
        anneal_epochs: int = 10,
        anneal_strategy: str = "cos",
        last_epoch: int = -1,
    ) -> None:
        if anneal_strategy not in ("cos", "linear"):
            raise ArgumentError(wrong("SWALR", "anneal_strategy", "'cos' or 'linear'", repr(anneal_strategy)))
        if isinstance(anneal_epochs, bool) or not isinstance(anneal_epochs, int) or anneal_epochs < 0:
            raise ArgumentError(wrong("SWALR", "anneal_epochs", "an int of at least 0", repr(anneal_epochs)))
        groups = optimizer.param_groups if isinstance(optimizer, Optimizer) else []
        rates = list(swa_lr) if isinstance(swa_lr, list | tuple) else [swa_lr] * len(groups)
        if len(rates) != len(groups) and groups:
            raise ArgumentError(expected("SWALR", "swa_lr", f"one rate a group, {len(groups)}", len(rates)))
        for group, rate in zip(groups, rates, strict=True):
            group["swa_lr"] = rate
        self.anneal_epochs = anneal_epochs
        self.anneal_strategy = anneal_strategy
        super().__init__(optimizer, last_epoch)

    def _share(self, step: int) -> float:
        """α after so many steps."""
        t = max(0.0, min(1.0, step / max(1, self.anneal_epochs)))
        return t if self.anneal_strategy == "linear" else (1 - math.cos(math.pi * t)) / 2

    def get_lr(self) -> list[float]:
        """Return the rates after ``last_epoch`` steps."""
        step = self._step_count - 1
        if not self.anneal_epochs:
            step = max(1, step)
        before, now = self._share(step - 1), self._share(step)
        rates = []
        for group in self.optimizer.param_groups:
            final = group["swa_lr"]
            first = final if before == 1 else (group["lr"] - before * final) / (1 - before)
            rates.append(now * final + (1 - now) * first)
        return rates
