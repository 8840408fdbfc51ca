"""What the doctor looks at: a model is run over the batches under watch, and is then as it was.

Each batch goes through the model as in training, by the batch's statistics; where there are Dropout layers, again
without them; and as in evaluation. Nothing is recorded, no running statistic moves: of layers without a switch
for that, and of what users wrote, buffers are put back after each pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from tinygrad_bn import nn
from tinygrad_bn.core.random import get_rng_state, set_rng_state
from tinygrad_bn.core.tape import no_grad
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.doctor.activities import SLOPES, Activity, activation_of
from tinygrad_bn.doctor.outputs import overlap, same, shifted, tensors
from tinygrad_bn.doctor.records import Batch, Call, Layer, Seen, layer_of
from tinygrad_bn.doctor.untouched import untouched
from tinygrad_bn.errors import ArgumentError, DTypeError, TinygradError, wrong
from tinygrad_bn.nn.bn_tools.fold import Folded
from tinygrad_bn.nn.bn_tools.members import by_batches, normalised_by
from tinygrad_bn.nn.bn_tools.moments import Moments
from tinygrad_bn.nn.bn_tools.sync import SyncBatchNorm
from tinygrad_bn.nn.instance_norm import _InstanceNorm
from tinygrad_bn.nn.module import Module
from tinygrad_bn.nn.normalisation import Affine
from tinygrad_bn.nn.norms.lazy import LazyBatchNorm

OP = "diagnose"
LINEAR = (nn.Linear,)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d)
BY_LAST_AXIS = (nn.LayerNorm, nn.RMSNorm)
BY_SECOND_AXIS = (nn.GroupNorm, _InstanceNorm)


def collect(model: Module, loader: Iterable[Any]) -> Seen:
    """Run a model over a loader and return what was seen.

    Raises
    ------
    ArgumentError, DTypeError
        If the loader yields nothing, or something else than tensors. The model is as it was, whatever is raised.
    """
    if not isinstance(model, Module):
        raise DTypeError(wrong(OP, "model", "a Module", type(model).__name__))
    unknown = [name or "the model" for name, m in model.named_modules() if isinstance(m, LazyBatchNorm)]
    if unknown:
        want, hint = "of layers that know their channels", "call the model once"
        raise ArgumentError(wrong(OP, "model", want, f"{', '.join(unknown)} without", hint))
    if not isinstance(loader, Iterable):
        raise DTypeError(wrong(OP, "loader", "an iterable of batches", type(loader).__name__))
    with no_grad(), untouched(model) as buffers_back:
        watch = _Watch(model, buffers_back)
        for x, size in _inputs(loader):
            watch.look(x, size)
    if not watch.seen.batches:
        hint = "a generator can be gone through only once"
        raise ArgumentError(f"{OP}: 'loader' must yield at least one batch. Got none.\nHint: {hint}.")
    return watch.seen


def _inputs(loader: Iterable[Any]) -> Iterator[tuple[Any, int]]:
    """The model's argument for each batch, and how many samples it holds."""
    for batch in loader:
        x = batch[0] if isinstance(batch, tuple | list) and batch else batch
        parts = [t for t in x.values() if isinstance(t, Tensor)] if isinstance(x, Mapping) else [x]
        first = parts[0] if parts else None
        if not isinstance(first, Tensor) or not first.array.ndim:
            got = type(x).__name__ if not isinstance(first, Tensor) else "a tensor of no axes"
            hint = "convert arrays by tb.tensor, or use tb.data.DataLoader"
            want = "an iterable of tensors with a batch axis, dicts of such, or tuples and lists that begin with one"
            raise DTypeError(wrong(OP, "loader", want, got, hint))
        yield x, first.array.shape[0]


class _Watch:
    """Runs the model in the several ways, and notes what its modules take and return."""

    def __init__(self, model: Module, buffers_back: Callable[[], None]) -> None:
        self.model = model
        self.buffers_back = buffers_back
        self.seen = Seen()
        self.names = {id(m): name for name, m in model.named_modules()}
        self.norms: dict[int, Layer] = {}
        self.ranks = any(isinstance(m, SyncBatchNorm) and m.process_group is not None for m in model.modules())
        # layers that are in evaluation while the model is in training are meant to be: "frozen" by eval()
        self.still = [m for m in model.modules() if model.training and not m.training]
        self.dropouts = [m for m in model.modules() if isinstance(m, nn.Dropout) and m.p > 0 and m not in self.still]
        self.note = False  # whether hooks take notes, and of what
        self.plain = False
        self.tried = False  # whether it is known which biases do nothing
        self.shifted: dict[int, float] = {}  # which biases are moved, by how much
        self.made: dict[int, Module] = {}  # of the results of layers with a bias, by identity
        self.held: list[Tensor] = []  # so that nothing else gets their identity
        self.current: dict[int, list[Call]] = {}
        self.size = 0  # of the batch
        self.samples: dict[int, int] = {}  # that a layer takes: a part of it, or those of all ranks
        self.pending: list[tuple[Activity, Tensor]] = []
        self.calls: dict[int, int] = {}
        self.ahead: list[str] = []
        self.inside: Layer | None = None  # which normalisation is running
        self.last_linear: Module | None = None
        self.given: list[Tensor] = []  # to the model
        self.last_inputs: list[Tensor] = []  # to the model and to last_linear
        self.axis = 1  # of the channels
        self.activated = False
        for module in model.modules():
            self.seen.normalised |= normalises(module)
            if by_batches(module):
                module.update_stats = False
                layer = layer_of(self.names[id(module)], module, module in self.still)
                self.norms[id(module)] = layer
                self.seen.layers.append(layer)
            module.register_forward_pre_hook(self._enter, with_kwargs=True)
            module.register_forward_hook(self._leave)

    # ----------------------------------------------------------------------------------------------------- the passes

    def look(self, x: Any, size: int) -> None:
        """Run one batch."""
        batch, self.size = Batch(size), size
        first = not self.seen.batches
        self.made, self.held = {}, []
        try:
            out = self._noted(x)
        except TinygradError as error:
            if first or self.inside is None or size >= max(b.size for b in self.seen.batches):
                raise
            batch.error, batch.layer = str(error), self.inside.name
            self.seen.batches.append(batch)
            return
        self.seen.batches.append(batch)
        self._keep()
        suspects = [] if self.tried else self._suspects()
        self.made, self.held = {}, []
        if self.dropouts:
            out = self._without_dropout(x)
        self.seen.compare(out, self._evaluated(x))
        if suspects:
            self._try_biases(x, suspects)

    def _call(self, x: Any) -> list[Tensor]:
        try:
            return tensors(self.model(x))
        finally:
            self.buffers_back()

    def _train(self, dropout: bool = True) -> None:
        self.model.train()
        for module in self.still if dropout else [*self.still, *self.dropouts]:
            module.training = False

    def _noted(self, x: Any) -> list[Tensor]:
        self._train()
        self.current, self.calls, self.samples, self.ahead, self.pending = {}, {}, {}, [], []
        self.last_linear, self.activated, self.inside, self.note = None, False, None, True
        self.given = self.last_inputs = tensors(x)
        try:
            out = self._call(x)
        finally:
            self.note = False
        for activity, y in self.pending:
            activity.last = activity.last or any(overlap(y, t) for t in out)
        self.pending, self.given, self.last_inputs = [], [], []
        return out

    def _keep(self) -> None:
        """Add what a pass has shown to the layers."""
        for key, found in self.current.items():
            self.norms[key].take(found, self.samples[key])
        self.seen.in_order([self.norms[key] for key in self.current])

    def _without_dropout(self, x: Any) -> list[Tensor]:
        self._train(dropout=False)
        self.current, self.plain = {}, True
        try:
            out = self._call(x)
        finally:
            self.plain = False
        for key, found in self.current.items():
            self.norms[key].take_plain(found)
        return out

    def _evaluated(self, x: Any) -> list[Tensor]:
        self.model.eval()
        return self._call(x)

    # -------------------------------------------------------------------------------------------------------- biases

    def _suspects(self) -> list[tuple[Module, Layer]]:
        """Layers with a bias whose result went into a batch normalisation as it was."""
        found = []
        self.tried = any(layer.rows for layer in self.seen.layers)  # not by a batch that is empty, or not finite
        for layer in self.seen.layers:
            if layer.maker is not None and layer.normalises and len(layer.counts) == 1:
                found.append((layer.maker, layer))
        return found

    def _try_biases(self, x: Any, suspects: list[tuple[Module, Layer]]) -> None:
        """Move all suspected biases: where no output moves, they do nothing. Else, and where several ranks must run the
        model equally often, one by one."""
        self._train(dropout=False)
        state = get_rng_state()

        def moved(*suspected: tuple[Module, Layer]) -> list[Tensor]:
            set_rng_state(state)
            self.shifted = {id(module): layer.size for module, layer in suspected}
            try:
                return self._call(x)
            finally:
                self.shifted = {}

        base = moved()
        together = same(base, moved(*suspects))
        for module, layer in suspects:
            if (together and not self.ranks) or same(base, moved((module, layer))):
                layer.biases.append((self.names[id(module)], module))

    # --------------------------------------------------------------------------------------------------------- hooks

    def _enter(self, module: Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not (self.note or self.plain):
            return
        x = args[0] if args else kwargs.get("input")
        if not isinstance(x, Tensor) or not x.dtype.is_floating_point:
            return
        layer = self.norms.get(id(module))
        if layer is not None:
            values = normalised_by(module, x, kwargs.get("mask"))
            if values is not None:
                self._take(layer, x, values, layer.step(args, kwargs))
        elif self.note and x.array.ndim > 1 and x.array.size and isinstance(module, (*LINEAR, *CONVOLUTIONS)):
            self._consume(module, x)
            self.last_inputs = [*self.given, x]

    def _take(self, layer: Layer, x: Tensor, values: Tensor, step: int) -> None:
        """Note what a layer that normalises by batches takes: an input, and what of it counts."""
        self.inside = layer
        found = Moments.of(values) if values.array.size else None
        here = 0 if found is None else found.count
        if isinstance(layer.module, SyncBatchNorm):
            found = layer.module.together(found)  # every rank must ask, one with an empty batch too
        if found is None:
            return
        key, samples = id(layer.module), min(self.size, x.array.shape[0])
        samples = round(samples * (found.count / here)) if here else found.count  # of all ranks
        self.current.setdefault(key, []).append((step, found))
        self.samples[key] = max(self.samples.get(key, 0), samples)
        layer.note_input(x, self.ahead)
        layer.maker = self.made.get(id(x), layer.maker)

    def _consume(self, module: Module, x: Tensor) -> None:
        """See channels that an activation which is no module has left at zero."""
        linear = isinstance(module, LINEAR)
        before = self.last_linear
        if before is None or self.activated or (linear and (x.array.ndim != 2 or not isinstance(before, nn.Linear))):
            return  # a picture flattened has places that are always zero
        axis = -1 if linear else 1
        if x.array.shape[axis] != channels_of(before) or any(overlap(x, t) for t in self.last_inputs):
            return  # the input of a second branch, which the layer before has nothing to do with
        self.axis = axis
        self._activity(before, x, "relu").of_consumer = True

    def _leave(self, module: Module, args: tuple[Any, ...], out: Any) -> Any:
        key = id(module)
        if key in self.shifted and isinstance(out, Tensor):
            return shifted(out, 1 if not isinstance(module, LINEAR) else -1, self.shifted[key])
        if not self.note or not isinstance(out, Tensor):
            return None
        if isinstance(module, nn.Dropout) and module in self.dropouts:
            self.ahead.append(self.names[key])
        if key in self.norms:
            self.inside = None
        if isinstance(module, (*LINEAR, *CONVOLUTIONS)):
            self.last_linear, self.activated = module, False
            if module.bias is not None and not self.tried and self.norms:
                self.made[id(out)] = module
                self.held.append(out)
        if isinstance(module, (*LINEAR, *BY_LAST_AXIS)):
            self.axis = -1
        elif key in self.norms or isinstance(module, (*CONVOLUTIONS, *BY_SECOND_AXIS)):
            self.axis = 1
        kind = activation_of(module)
        if kind and out.array.ndim >= 2 and out.array.size and out.dtype.is_floating_point:
            self.activated = True
            activity = self._activity(module, out, kind)
            if kind in SLOPES and len(self.seen.batches) == 0:
                self.pending.append((activity, out))  # what the model returns may be certain
        return None

    def _activity(self, module: Module, y: Tensor, kind: str) -> Activity:
        key = id(module)
        number = self.calls[key] = self.calls.get(key, -1) + 1
        after = "" if self.last_linear is None else self.names[id(self.last_linear)]
        activity = self.seen.activity(self.names[key], number, kind, after)
        values = y.detach().cpu()
        values = values.float() if values.dtype.low else values
        activity.take(np.moveaxis(np.asarray(values.numpy()), self.axis, 1))
        return activity


def normalises(module: Module) -> bool:
    """Whether a layer normalises, or did until it was folded; a user's own by the name of its buffer."""
    return by_batches(module) or isinstance(module, Affine | Folded) or "running_mean" in module._buffers


def channels_of(layer: Any) -> int:
    """How many channels a layer's results have."""
    return int(layer.out_features if isinstance(layer, LINEAR) else layer.out_channels)
