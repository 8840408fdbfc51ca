"""What the doctor looks at: a model is run over the batches under watch, and is then as it was.

Each batch goes through the model as in training, by the batch's statistics; where there are Dropout layers, again
without them; and as in evaluation. Nothing is recorded, no running statistic moves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from tinygrad_bn import nn, ops
from tinygrad_bn.core.random import get_rng_state, set_rng_state
from tinygrad_bn.core.tape import no_grad
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.doctor import thresholds
from tinygrad_bn.doctor.records import Activity, Batch, Layer, Seen, activation_of
from tinygrad_bn.doctor.untouched import untouched
from tinygrad_bn.errors import ArgumentError, DTypeError, TinygradError, wrong
from tinygrad_bn.nn.bn_tools.members import by_batches
from tinygrad_bn.nn.bn_tools.moments import Moments
from tinygrad_bn.nn.module import Module
from tinygrad_bn.nn.normalisation import Affine

OP = "diagnose"
LINEAR = (nn.Linear,)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d)


def collect(model: Module, loader: Iterable[Any]) -> Seen:
    """Run a model over a loader and return what was seen.

    Raises
    ------
    ArgumentError, DTypeError
        If the loader yields nothing, or something else than tensors. The model is as it was, whatever is raised.
    """
    if not isinstance(model, Module):
        raise DTypeError(wrong(OP, "model", "a Module", type(model).__name__))
    if not isinstance(loader, Iterable):
        raise DTypeError(wrong(OP, "loader", "an iterable of batches", type(loader).__name__))
    with no_grad(), untouched(model):
        watch = _Watch(model)
        for x in _inputs(loader):
            watch.look(x)
    if not watch.seen.batches:
        raise ArgumentError(f"{OP}: 'loader' must yield at least one batch. Got none.")
    return watch.seen


def _inputs(loader: Iterable[Any]) -> Iterator[Tensor]:
    for batch in loader:
        x = batch[0] if isinstance(batch, tuple | list) and batch else batch
        if not isinstance(x, Tensor) or not x.array.ndim:
            got = type(x).__name__ if not isinstance(x, Tensor) else "a tensor of no axes"
            hint = "convert arrays by tb.tensor, or use tb.data.DataLoader"
            want = "an iterable of tensors with a batch axis, or of tuples and lists that begin with one"
            raise DTypeError(wrong(OP, "loader", want, got, hint))
        yield x


class _Watch:
    """Runs the model in the several ways, and notes what its modules take and return."""

    def __init__(self, model: Module) -> None:
        self.model = model
        self.seen = Seen()
        self.names = {id(m): name for name, m in model.named_modules()}
        self.norms: dict[int, Layer] = {}
        self.dropouts = [m for m in model.modules() if isinstance(m, nn.Dropout) and m.p > 0]
        self.note = False  # whether hooks take notes, and of what
        self.plain = False
        self.shifted: set[int] = set()
        self.made: dict[int, Module] = {}  # of the results of layers with a bias, by identity
        self.held: list[Tensor] = []  # so that nothing else gets their identity
        self.current: dict[int, list[Moments]] = {}
        self.pending: dict[int, tuple[Activity, Tensor]] = {}
        self.calls: dict[int, int] = {}
        self.ahead: list[str] = []
        self.last_linear: Module | None = None
        self.activated = False
        for module in model.modules():
            self.seen.normalised |= by_batches(module) or isinstance(module, Affine)
            if by_batches(module):
                module.update_stats = False
                layer = Layer(self.names[id(module)], module)
                self.norms[id(module)] = layer
                self.seen.layers.append(layer)
            module.register_forward_pre_hook(self._enter, with_kwargs=True)
            module.register_forward_hook(self._leave)

    # ----------------------------------------------------------------------------------------------------- the passes

    def look(self, x: Tensor) -> None:
        """Run one batch."""
        size = x.array.shape[0]
        batch = Batch(size)
        first = not self.seen.batches
        try:
            out = self._noted(x)
        except TinygradError as error:
            if first or size >= max(b.size for b in self.seen.batches):
                raise
            batch.error = str(error)
            self.seen.batches.append(batch)
            return
        self.seen.batches.append(batch)
        self._keep(size)
        suspects = self._suspects() if first else []
        self.made, self.held = {}, []
        if self.dropouts:
            out = self._without_dropout(x)
        self.seen.compare(out, self._evaluated(x))
        if suspects:
            self._try_biases(x, suspects)

    def _noted(self, x: Tensor) -> list[Tensor]:
        self.model.train()
        self.current, self.calls, self.ahead, self.pending = {}, {}, [], {}
        self.last_linear, self.activated, self.note = None, False, True
        try:
            out = tensors(self.model(x))
        finally:
            self.note = False
        results = set(map(id, out))
        for activity, y in self.pending.values():
            activity.last = activity.last or id(y) in results
        self.pending = {}
        return out

    def _keep(self, size: int) -> None:
        """Add what a pass has shown to the layers."""
        for key, found in self.current.items():
            self.norms[key].take(found, size)

    def _without_dropout(self, x: Tensor) -> list[Tensor]:
        self._training_without_dropout()
        self.current, self.plain = {}, True
        try:
            out = tensors(self.model(x))
        finally:
            self.plain = False
        for key, found in self.current.items():
            self.norms[key].take_plain(found)
        return out

    def _training_without_dropout(self) -> None:
        self.model.train()
        for module in self.dropouts:
            module.training = False

    def _evaluated(self, x: Tensor) -> list[Tensor]:
        self.model.eval()
        return tensors(self.model(x))

    # -------------------------------------------------------------------------------------------------------- biases

    def _suspects(self) -> list[tuple[Module, Layer]]:
        """Layers with a bias whose result went into a batch normalisation as it was."""
        found = []
        for layer in self.seen.layers:
            if layer.maker is not None and layer.normalises and len(layer.counts) == 1:
                found.append((layer.maker, layer))
        return found

    def _try_biases(self, x: Tensor, suspects: list[tuple[Module, Layer]]) -> None:
        """Move all suspected biases: where no output moves, they do nothing. Else one by one."""
        self._training_without_dropout()
        state = get_rng_state()

        def moved(*modules: Module) -> list[Tensor]:
            set_rng_state(state)
            self.shifted = set(map(id, modules))
            try:
                return tensors(self.model(x))
            finally:
                self.shifted = set()

        base = moved()
        together = same(base, moved(*(m for m, _ in suspects)))
        for module, layer in suspects:
            if together or same(base, moved(module)):
                layer.biases.append((self.names[id(module)], module))

    # --------------------------------------------------------------------------------------------------------- hooks

    def _enter(self, module: Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not (self.note or self.plain):
            return
        x = args[0] if args else kwargs.get("input")
        if not isinstance(x, Tensor) or x.array.ndim < 2 or not x.array.size or not x.dtype.is_floating_point:
            return
        key = id(module)
        if key in self.norms:
            layer = self.norms[key]
            if x.array.shape[1] == layer.module.num_features:
                self.current.setdefault(key, []).append(Moments.of(x))
                layer.note_input(x, self.ahead)
                layer.maker = self.made.get(id(x), layer.maker)
        elif self.note and isinstance(module, (*LINEAR, *CONVOLUTIONS)):
            self._consume(module, x)

    def _consume(self, module: Module, x: Tensor) -> None:
        """See channels that an activation which is no module has left at zero."""
        linear = isinstance(module, LINEAR)
        before = self.last_linear
        if before is None or self.activated or (linear and (x.array.ndim != 2 or not isinstance(before, nn.Linear))):
            return  # a picture flattened has places that are always zero
        self._activity(before, x, "relu", -1 if linear else 1).of_consumer = True

    def _leave(self, module: Module, args: tuple[Any, ...], out: Any) -> Any:
        key = id(module)
        if key in self.shifted and isinstance(out, Tensor):
            return shifted(out, 1 if not isinstance(module, LINEAR) else -1)
        if not self.note or not isinstance(out, Tensor):
            return None
        if isinstance(module, nn.Dropout) and module in self.dropouts:
            self.ahead.append(self.names[key])
        if isinstance(module, (*LINEAR, *CONVOLUTIONS)):
            self.last_linear, self.activated = module, False
            if module.bias is not None and not self.seen.batches:
                self.made[id(out)] = module
                self.held.append(out)
        kind = activation_of(module)
        if kind and out.array.ndim >= 2 and out.array.size and out.dtype.is_floating_point:
            self.activated = True
            axis = -1 if isinstance(self.last_linear, LINEAR) else 1
            activity = self._activity(module, out, kind, axis)
            self.pending = {0: (activity, out)}  # only the last can be the model's result
        return None

    def _activity(self, module: Module, y: Tensor, kind: str, axis: int) -> Activity:
        key = id(module)
        number = self.calls[key] = self.calls.get(key, -1) + 1
        after = "" if self.last_linear is None else self.names[id(self.last_linear)]
        activity = self.seen.activity(self.names[key], number, kind, after)
        activity.take(np.moveaxis(np.asarray(y.detach().numpy()), axis, 1))
        return activity


def tensors(out: Any) -> list[Tensor]:
    """Return all floating-point tensors in what a model returns."""
    if isinstance(out, Tensor):
        return [out] if out.dtype.is_floating_point else []
    items = out.values() if isinstance(out, dict) else out if isinstance(out, tuple | list) else ()
    return [t for item in items for t in tensors(item)]


def shifted(out: Tensor, axis: int) -> Tensor:
    """Return what a layer would return with another bias, which moves each channel by about the size of its values."""
    channels = out.array.shape[axis]
    size = float(np.sqrt(np.mean(np.square(np.asarray(out.numpy(), np.float64)))) or 1.0)
    by = ops.mul(ops.add(ops.arange(channels, dtype=out.dtype, device=out.device), 1.0), size / channels)
    shape = [1] * out.array.ndim
    shape[axis] = channels
    return ops.add(out, ops.reshape(by, shape))


def same(before: list[Tensor], after: list[Tensor]) -> bool:
    """Whether outputs are the same up to rounding."""
    for a, b in zip(before, after, strict=True):
        x, y = (np.asarray(t.numpy(), np.float64) for t in (a, b))
        if x.size and not np.abs(x - y).max() <= thresholds.BIAS * max(float(np.sqrt(np.mean(x * x))), 1e-30):
            return False
    return bool(before)
