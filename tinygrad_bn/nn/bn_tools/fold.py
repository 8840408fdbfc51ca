"""Batch norms folded into the layers ahead of them, all over a model.

What is ahead of what is found out by running the model once: a batch norm is folded where its input is the very tensor
that one Conv, ConvTranspose or Linear layer has returned, and where the tape knows no other use of that.
"""

from __future__ import annotations

from collections import Counter
from copy import deepcopy
from typing import Any

from tinygrad_bn import ops
from tinygrad_bn.core.tape import Node, enable_grad, no_grad
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import ArgumentError, DTypeError, wrong
from tinygrad_bn.nn.batch_norm import BatchNorm, BatchNorm1d, BatchNorm2d, BatchNorm3d
from tinygrad_bn.nn.batch_norm_act import BatchNormAct2d
from tinygrad_bn.nn.bn_tools.activated import act
from tinygrad_bn.nn.bn_tools.fusion import fold_into
from tinygrad_bn.nn.bn_tools.sync import SyncBatchNorm
from tinygrad_bn.nn.convolution import Conv1d, Conv2d, ConvTranspose1d, ConvTranspose2d
from tinygrad_bn.nn.linear import Identity, Linear
from tinygrad_bn.nn.module import Module
from tinygrad_bn.nn.parameter import Parameter
from tinygrad_bn.ops._layout import product

AHEAD: dict[type[Any], int] = {Linear: 2, Conv1d: 3, ConvTranspose1d: 3, Conv2d: 4, ConvTranspose2d: 4}
"""What a batch norm is folded into, and how many axes a batch of its results has."""
NORMS = (BatchNorm1d, BatchNorm2d, BatchNorm3d, BatchNormAct2d, SyncBatchNorm)
TOLERANCE = 1e-3  # of the largest output: folding changes it by a few ulp
LOW = 0.05  # the same of low precision
SIDE = 32  # of the pictures, and the length of the sequences, of an example that is made up


class Folded(Identity):
    """What is left of a batch norm that was folded: the residual and the activation that it applied.

    Parameters
    ----------
    activation : str
    """

    def __init__(self, activation: str = "none") -> None:
        super().__init__()
        self.activation = activation

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """Return an activation of the input and of the residual added to it."""
        return act(input, residual, self.activation)

    def extra_repr(self) -> str:
        return "" if self.activation == "none" else f"activation={self.activation!r}"


def fold_bn(model: Module, example: Any = None, *, inplace: bool = False) -> Module:
    """Fold every batch norm that directly follows a convolution or linear layer into that layer's weight and bias.

    Parameters
    ----------
    model : Module
        In evaluation mode.
    example : Tensor or tuple, optional
        An input, or the arguments of a call, of any size that the model takes: it is run once to see what follows what.
        By default one is made up for the first layer: (1, C, 32, 32), (1, C, 32) or (1, C).
    inplace : bool
        Change the model itself, keeping its parameters for those who hold them, rather than a copy.

    Returns
    -------
    Module
        The copy, or the model. Names stay: a folded layer's ``weight`` and ``bias`` are where its weight was, in the
        place of the batch norm stands a ``Folded``, an ``Identity`` that keeps its residual and activation.

    Raises
    ------
    ArgumentError
        If a module is in training mode; if no example can be made up, or the model does not take it; if the example's
        outputs would change by more than rounding. Nothing has been changed then.

    Notes
    -----
    Left as they are: batch norms that follow anything else, that are called more than once, that normalise by the batch
    or have hooks; those behind a layer that is called more than once, whose result or parameters something else uses
    too, or that has hooks, or is a subclass. Outputs change by rounding alone (float32: a few 1e-7).

    References
    ----------
    Ioffe & Szegedy 2015 (arXiv:1502.03167), Algorithm 2.

    Examples
    --------
    >>> import tinygrad_bn as tb
    >>> net = tb.nn.Sequential(tb.nn.Conv2d(3, 8, 3, bias=False), tb.nn.BatchNorm2d(8), tb.nn.ReLU()).eval()
    >>> tb.nn.utils.fold_bn(net)[1]
    Folded()
    >>> list(tb.nn.utils.fold_bn(net).state_dict())
    ['0.weight', '0.bias']
    """
    op = "fold_bn"
    if not isinstance(model, Module):
        raise DTypeError(wrong(op, "model", "a Module", type(model).__name__))
    training = [name or "the model" for name, m in model.named_modules() if m.training]
    if training:
        hint = "call model.eval() first: in training a batch norm depends on the batch, and is no affine map"
        raise ArgumentError(wrong(op, "model", "in evaluation mode", f"{training[0]} in training", hint))
    if not any(isinstance(m, BatchNorm) for m in model.modules()):
        return model if inplace else deepcopy(model)
    trace = _Trace(deepcopy(model), example)
    folded = deepcopy(model)
    pairs = trace.pairs()
    _apply(folded, pairs)
    trace.compare(folded)
    if not inplace:
        return folded
    _apply(model, pairs)
    return model


def _apply(model: Module, pairs: list[tuple[str, str]]) -> None:
    """Fold the batch norms of these names into the layers of these names."""
    modules: dict[str, Any] = dict(model.named_modules(remove_duplicate=False))
    for layer, norm in pairs:
        fold_into(modules[layer], modules[norm], getattr(modules[layer], "transposed", False))
        owner, _, name = norm.rpartition(".")
        setattr(modules[owner], name, Folded(modules[norm].activation))


class _Trace:
    """One call of a copy of a model, watched: who returned what, who took it, and what the tape knows of it."""

    def __init__(self, copy: Module, example: Any) -> None:
        self.names = {id(m): name for name, m in copy.named_modules()}
        self.calls: Counter[int] = Counter()
        self.returned: dict[int, tuple[Module, Tensor, Node | None, int]] = {}
        self.taken: list[tuple[Module, Tensor, Node | None, int]] = []
        self.owners = Counter(id(p) for m in copy.modules() for p in m._parameters.values() if p is not None)
        self.candidates = [m for m in copy.modules() if _plain_layer(m) or _plain_norm(m)]
        self.places = Counter(id(m) for _, m in copy.named_modules(remove_duplicate=False))
        for p in copy.parameters():
            p.requires_grad = True
        for module in self.candidates:
            module.register_forward_hook(self._watch)
        self.args = _made_up(copy) if example is None else example if isinstance(example, tuple) else (example,)
        self.outputs = _tensors(self._call(copy, made_up=example is None))
        self.uses = _uses([t.node for t in self.outputs if t.node is not None])

    def _watch(self, module: Module, args: tuple[Any, ...], out: Any) -> None:
        self.calls[id(module)] += 1
        if isinstance(module, BatchNorm):
            if args:  # an input by keyword is not followed
                self.taken.append((module, args[0], args[0].node, args[0].version))
        elif isinstance(out, Tensor):
            self.returned[id(out)] = (module, out, out.node, out.version)

    def pairs(self) -> list[tuple[str, str]]:
        """The names of each layer and the batch norm to be folded into it."""
        found = []
        for norm, x, node, version in self.taken:
            layer, *as_returned = self.returned.get(id(x), (None, None))
            if layer is None or as_returned != [x, node, version] or not self._alone(layer, norm):
                continue  # changed in place in between, for one
            if self.uses[id(node)] == 1 and x.array.ndim == AHEAD[type(layer)]:
                found.append((self.names[id(layer)], self.names[id(norm)]))
        return found

    def compare(self, folded: Module) -> None:
        """Raise if a folded model returns something else."""
        with no_grad():
            for before, after in zip(self.outputs, _tensors(folded(*self.args)), strict=True):
                scale, change = _largest(before), _largest(ops.sub(after, before.detach()))
                if change > (LOW if before.dtype.low else TOLERANCE) * scale:
                    text = f"fold_bn: an output would change by {change:.2g}, where the largest is {scale:.2g}."
                    hint = "a layer's result is used off the tape too, or the model draws random numbers"
                    raise ArgumentError(f"{text}\nHint: {hint}.")

    def _call(self, copy: Module, made_up: bool) -> Any:
        with enable_grad():
            try:
                return copy(*self.args)
            except Exception as error:
                if not made_up:
                    raise
                text = f"fold_bn: the model does not take an input of shape {self.args[0].shape}, which was made up: "
                raise ArgumentError(f"{text}{error}\nHint: pass an example.") from error

    def _used_here(self, parameter: Parameter) -> bool:
        """Whether a parameter belongs to one layer, and nothing but that uses it."""
        return self.owners[id(parameter)] == 1 and self.uses[id(parameter.node)] <= 1

    def _alone(self, *modules: Module) -> bool:
        """Whether each is called once, stands in one place and shares no parameter."""
        return all(
            self.calls[id(m)] == 1
            and self.places[id(m)] == 1
            and all(self._used_here(p) for p in m._parameters.values() if p is not None)
            for m in modules
        )


def _hooked(module: Module) -> bool:
    hooks = module._hooks
    return hooks is not None and bool(hooks.before or hooks.after or hooks.backward)


def _plain_layer(module: Module) -> bool:
    return type(module) in AHEAD and not _hooked(module) and isinstance(module._parameters.get("weight"), Parameter)


def _plain_norm(module: Module) -> bool:
    return (
        type(module) in NORMS
        and isinstance(module, BatchNorm)
        and not _hooked(module)
        and module.running_mean is not None
        and not module.use_batch_stats
        and module.axis == 1
    )


def _tensors(out: Any) -> list[Tensor]:
    """All tensors in what a model returns."""
    if isinstance(out, Tensor):
        return [out]
    items = out.values() if isinstance(out, dict) else out if isinstance(out, tuple | list) else ()
    return [t for item in items for t in _tensors(item)]


def _largest(t: Tensor) -> float:
    """The largest magnitude among the elements that are finite; 0 if there are none."""
    if not t.array.size or not t.dtype.is_floating_point:
        return 0.0
    return float(ops.max(ops.where(ops.isfinite(t), ops.abs(t.detach()), 0.0)).item())


def _uses(outputs: list[Node]) -> Counter[int]:
    """How often each node's result is used: by other nodes, and as an output."""
    uses: Counter[int] = Counter(map(id, outputs))
    seen: dict[int, Node] = {}
    waiting = list(outputs)
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen[id(node)] = node
        for source in node.inputs:
            if source is not None:
                uses[id(source)] += 1
                waiting.append(source)
    return uses


def _made_up(model: Module) -> tuple[Tensor]:
    """An input for the first layer that has a weight."""
    for module in model.modules():
        kind = type(module)
        if kind in AHEAD:
            layer: Any = module
            channels = layer.in_features if kind is Linear else layer.in_channels
            shape = (1, channels, *[SIDE] * (AHEAD[kind] - 2))
            with no_grad():
                values = ops.linspace(-1, 1, product(shape), dtype=layer.weight.dtype, device=layer.weight.device)
                return (ops.reshape(values, shape),)
    hint = "pass an example"
    raise ArgumentError(
        wrong("fold_bn", "example", "given for a model without convolutions or linear layers", None, hint)
    )
