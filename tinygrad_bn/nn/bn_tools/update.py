"""Running statistics that are exact: of all values of given batches, each counted once.

A running average weights the last batches most, and mixes the statistics of layers as they were many steps ago. Precise
statistics are those of a set of batches under the weights as they are: Wu & Johnson 2021 (arXiv:2105.07576), section 3.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import islice
from typing import Any

from tinygrad_bn import ops
from tinygrad_bn.core.tape import no_grad
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import ArgumentError, DTypeError, wrong
from tinygrad_bn.nn.bn_tools.members import by_batches, normalised_by, second_of
from tinygrad_bn.nn.bn_tools.moments import Moments
from tinygrad_bn.nn.bn_tools.sync import SyncBatchNorm
from tinygrad_bn.nn.module import Module
from tinygrad_bn.nn.norms.lazy import LazyBatchNorm
from tinygrad_bn.nn.norms.recurrent import SeparatedBatchNorm1d


def update_bn(model: Module, loader: Iterable[Any], device: Any = None, *, max_batches: int | None = None) -> None:
    """Replace the running statistics of all batch norms by those of the values they see over a loader.

    Parameters
    ----------
    model : Module
        Called with each batch. Batch norms take the batch's statistics, everything else is in evaluation mode, as it
        will be where the statistics are used: dropout, which would add its own variance, is off.
    loader : iterable
        Yields inputs, or tuples and lists that begin with one. Its batches may differ in size.
    device : Device or str, optional
        Where the inputs are moved first.
    max_batches : int, optional
        Take so many at most: a few thousand samples give statistics that hardly differ from those of all.

    Raises
    ------
    ArgumentError
        If the loader yields nothing, or ``max_batches`` is below 1. Statistics are written at the very end: whatever is
        raised on the way, they are as before.

    Notes
    -----
    Count, mean and sum of squares of all batches are merged in float64 (Chan), so that a batch counts by its size:
    a first layer gets the mean and variance of the whole set, however it is cut. A layer behind another batch norm sees
    what that one made of each batch. ``num_batches_tracked`` becomes the number of batches; ``running_var`` takes
    Bessel's factor of the whole count where the layer asks for it.

    The same goes for the members of the family with a mean and a variance or deviation: ghost, noisy and synchronised
    batch norm (over all ranks), batch renormalisation, and, by time step, recurrent batch norm. Left alone are layers
    without running statistics, layers whose ``update_stats`` is False, and, with a warning, those with statistics of
    another kind, such as a covariance, and those that were never called. A batch whose statistics are not finite is not
    counted; the layer's ``skipped_batches`` is. The average over batches alike, as ``momentum=None`` and PyTorch's
    ``update_bn`` have it, differs where batches differ in size, and its variance lacks what lies between their means.

    References
    ----------
    Wu & Johnson 2021 (arXiv:2105.07576); Izmailov et al. 2018 (arXiv:1803.05407), section 3.

    Examples
    --------
    >>> import tinygrad_bn as tb
    >>> layer = tb.nn.BatchNorm1d(1)
    >>> tb.nn.utils.update_bn(layer, [tb.tensor([[1.0], [2.0]]), tb.tensor([[3.0], [4.0], [5.0]])])
    >>> layer.running_mean.item(), layer.running_var.item()
    (3.0, 2.5)
    """
    op = "update_bn"
    if not isinstance(model, Module):
        raise DTypeError(wrong(op, "model", "a Module", type(model).__name__))
    if max_batches is not None and (not isinstance(max_batches, int) or max_batches < 1):
        raise ArgumentError(wrong(op, "max_batches", "an int of at least 1, or None", repr(max_batches)))
    moving = [m for m in model.modules() if by_batches(m) and m.track_running_stats and m.update_stats]
    watched = {m: found for m in moving if (found := _watch_of(m)) is not None}
    others = [name or type(m).__name__ for name, m in model.named_modules() if m in moving and m not in watched]
    if others:
        text = f"{op}: statistics that are no mean and variance are left as they are: {', '.join(others)}."
        warnings.warn(text, RuntimeWarning, stacklevel=2)
    if not watched:
        return
    with no_grad(), _watching(model, watched):
        if not sum(1 for _ in map(model, _inputs(islice(loader, max_batches), device))):
            hint = "a generator can be gone through only once: pass a list or a DataLoader"
            raise ArgumentError(f"{op}: 'loader' must yield at least one batch. Got none.\nHint: {hint}.")
    for layer, found in watched.items():
        found.write(layer)
    missed = [name for name, m in model.named_modules() if m in watched and not watched[m].batches]
    if missed:
        text = f"{op}: never called, and left as they are: {', '.join(missed)}."
        warnings.warn(text, RuntimeWarning, stacklevel=2)


class Watched:
    """What one layer has seen so far."""

    def __init__(self) -> None:
        self.moments: Moments | None = None
        self.batches = 0
        self.skipped = 0

    def see(self, module: Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Take an input in, as a hook ahead of forward."""
        x = args[0] if args else kwargs.get("input")
        if not isinstance(x, Tensor) or not x.array.size:
            return  # forward says what is wrong with it, or that it is empty
        if isinstance(module, LazyBatchNorm):
            module.initialize_parameters(x)
        values = normalised_by(module, x, kwargs.get("mask"))
        if values is None or not values.array.size:
            return
        found = Moments.exactly(values)
        if not found.is_finite():
            self.skipped += 1
            return
        self.moments = found if self.moments is None else self.moments.merged(found)
        self.batches += 1

    def write(self, layer: Any) -> None:
        """Put what was seen into a layer's buffers."""
        layer._skipped.set(int(layer._skipped) + self.skipped)
        moments = self.moments
        if isinstance(layer, SyncBatchNorm):
            moments = layer.together(moments)
        second = second_of(layer)
        if moments is None or second is None:
            return
        with no_grad():
            buffer: Tensor = getattr(layer, second)
            for place, value in ((layer.running_mean, moments.mean), (buffer, _spread(moments, layer, second))):
                place.copy_(ops.reshape(ops.to(value, place.dtype), place.shape))
            if second == "running_var":  # batch renormalisation's schedule goes by the number of batches
                layer.num_batches_tracked.fill_(self.batches)


class WatchedSteps:
    """What a layer with statistics of each time step's own has seen so far."""

    def __init__(self) -> None:
        self.steps: dict[int, Watched] = {}

    @property
    def batches(self) -> int:
        """How many calls were counted."""
        return sum(step.batches for step in self.steps.values())

    def see(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Take an input in, as a hook ahead of forward."""
        time = args[1] if len(args) > 1 else kwargs.get("time")
        if isinstance(time, int) and time >= 0:
            self.steps.setdefault(min(time, module.max_length - 1), Watched()).see(module, args, kwargs)

    def write(self, layer: Any) -> None:
        """Put what was seen into a layer's buffers."""
        for time, step in self.steps.items():
            layer._skipped.set(int(layer._skipped) + step.skipped)
            if step.moments is None:
                continue
            with no_grad():
                for buffer, value in (
                    (layer.running_mean, step.moments.mean),
                    (layer.running_var, step.moments.var(True)),
                ):
                    buffer[time] = ops.to(value, buffer.dtype)
                layer.num_batches_tracked[time] = step.batches


def _watch_of(layer: Any) -> Watched | WatchedSteps | None:
    """What watches a layer; None: its statistics are of another kind."""
    if isinstance(layer, SeparatedBatchNorm1d):
        return WatchedSteps()
    return None if second_of(layer) is None else Watched()


def _spread(moments: Moments, layer: Any, second: str) -> Tensor:
    """The running statistic beside the mean: a variance, or √(var + eps)."""
    if second == "running_std":
        return ops.sqrt(ops.add(moments.var(unbiased=False), layer.eps))
    return moments.var(getattr(layer, "unbiased", True))


def _inputs(loader: Iterable[Any], device: Any) -> Iterator[Any]:
    for batch in loader:
        x = batch[0] if isinstance(batch, tuple | list) else batch
        yield x if device is None else ops.to(x, device=device)


@contextmanager
def _watching(model: Module, watched: Mapping[Any, Watched | WatchedSteps]) -> Iterator[None]:
    """Within the block the model is evaluated, but for these layers, which normalise by the batch and are watched."""
    with ExitStack() as after:
        for module in model.modules():
            after.callback(_setter(module, "training", module.training))
        model.eval()
        for layer, found in watched.items():
            after.callback(_setter(layer, "use_batch_stats", layer.use_batch_stats))
            layer.use_batch_stats = True
            after.callback(_setter(layer, "_hooks", layer._hooks))  # an empty table would keep it from running fused
            after.callback(layer.register_forward_pre_hook(found.see, with_kwargs=True).remove)
        yield


def _setter(module: Module, name: str, value: Any) -> Callable[[], None]:
    return lambda: setattr(module, name, value)
