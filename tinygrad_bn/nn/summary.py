"""A table of a model's modules: shapes of their outputs, parameters, multiply-adds and floating-point operations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tinygrad_bn import ops
from tinygrad_bn.core.random import get_rng_state, set_rng_state
from tinygrad_bn.core.tape import no_grad
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import ArgumentError, DTypeError, expected, wrong
from tinygrad_bn.nn.flops import count
from tinygrad_bn.nn.module import Module

Shape = tuple[int, ...]


@dataclass
class Row:
    """One call of a module.

    Attributes
    ----------
    name : str
        Dotted; "" for the model itself.
    kind : str
        The class.
    depth : int
        How many modules stand around it.
    output_shape : tuple of int, or a list of such
        None where the module returned no tensor.
    parameters, trainable : int
        How many numbers it holds itself and below, and how many of these require grad; 0 where the module has had a row
        before.
    mult_adds, flops : int
        Of this call, itself and below.
    """

    name: str
    kind: str
    depth: int
    output_shape: Any = None
    parameters: int = 0
    trainable: int = 0
    mult_adds: int = 0
    flops: int = 0


@dataclass
class Summary:
    """What ``summary`` returns; printing it gives the table.

    Attributes
    ----------
    rows : list of Row
        In the order of the calls, a module ahead of those that it calls.
    input_shapes : list of tuple of int
    total_params, trainable_params : int
        Of the whole model, each parameter counted once.
    total_buffers : int
    mult_adds : int
        Multiplications with an addition in products: convolutions, linear and recurrent layers.
    flops : int
        Twice that, and what other modules compute.
    param_bytes : int
    """

    rows: list[Row]
    input_shapes: list[Shape]
    total_params: int
    trainable_params: int
    total_buffers: int
    param_bytes: int
    mult_adds: int = field(default=0)
    flops: int = field(default=0)

    def __post_init__(self) -> None:
        tops = [r for r in self.rows if r.depth == 0]
        self.mult_adds = sum(r.mult_adds for r in tops)
        self.flops = sum(r.flops for r in tops)

    @property
    def non_trainable_params(self) -> int:
        """Parameters that do not require grad."""
        return self.total_params - self.trainable_params

    @property
    def output_shape(self) -> Any:
        """The shape of the model's output."""
        return self.rows[0].output_shape

    def __str__(self) -> str:
        head = ("Layer (name)", "Output shape", "Parameters", "Trainable", "Mult-adds", "Flops")
        lines = [head, *[_cells(row) for row in self.rows]]
        widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
        text = [_line(line, widths) for line in lines]
        rule = "-" * max(len(t) for t in text)
        shapes = ", ".join(str(s) for s in self.input_shapes)
        totals = [
            f"Input shape: {shapes}",
            f"Parameters: {self.total_params:,} ({self.param_bytes / 2**20:.2f} MiB), trainable: "
            f"{self.trainable_params:,}, not trainable: {self.non_trainable_params:,}; buffers: {self.total_buffers:,}",
            f"Multiply-adds: {self.mult_adds:,}; floating-point operations: {self.flops:,}",
        ]
        return "\n".join([text[0], rule, *text[1:], rule, *totals])

    __repr__ = __str__


def _cells(row: Row) -> tuple[str, ...]:
    title = "  " * row.depth + row.kind + (f" ({row.name})" if row.name else "")
    trainable = "-" if not row.parameters else {0: "no", row.parameters: "yes"}.get(row.trainable, "partly")
    numbers = (row.parameters, row.mult_adds, row.flops)
    parameters, mult_adds, flops = (f"{n:,}" if n else "-" for n in numbers)
    return title, "-" if row.output_shape is None else str(row.output_shape), parameters, trainable, mult_adds, flops


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    left = [c.ljust(w) for c, w in zip(cells[:2], widths[:2], strict=True)]
    right = [c.rjust(w) for c, w in zip(cells[2:], widths[2:], strict=True)]
    return "  ".join(left + right).rstrip()


class _Watch:
    """Notes every call of a model's modules, by hooks."""

    def __init__(self, model: Module) -> None:
        self.rows: list[Row] = []
        self.open: list[Row] = []
        self.seen: set[int] = set()
        self.names = {id(m): name for name, m in model.named_modules()}

    def enter(self, module: Module, args: tuple[Any, ...]) -> None:
        row = Row(self.names[id(module)], type(module).__name__, len(self.open))
        if id(module) not in self.seen:
            self.seen.add(id(module))
            given = list(module.parameters())
            row.parameters = sum(p.array.size for p in given)
            row.trainable = sum(p.array.size for p in given if p.requires_grad)
        self.rows.append(row)
        self.open.append(row)

    def leave(self, module: Module, args: tuple[Any, ...], out: Any) -> None:
        row = self.open.pop()
        row.output_shape = _shapes(out)
        mult_adds, flops = count(module, args, out)
        row.mult_adds += mult_adds
        row.flops += flops
        if self.open:
            self.open[-1].mult_adds += row.mult_adds
            self.open[-1].flops += row.flops


def _shapes(out: Any) -> Any:
    if isinstance(out, Tensor):
        return out.array.shape
    if isinstance(out, dict):
        out = list(out.values())
    if isinstance(out, tuple | list):
        found = [s for s in (_shapes(o) for o in out) if s is not None]
        return found[0] if len(found) == 1 else found or None
    return None


def _inputs(shapes: list[Shape], dtypes: Any, model: Module) -> list[Tensor]:
    like = next((p for p in model.parameters() if p.dtype.is_floating_point), None)
    device = None if like is None else like.device
    chosen = list(dtypes) if isinstance(dtypes, tuple | list) else [dtypes] * len(shapes)
    if len(chosen) != len(shapes):
        raise ArgumentError(expected("summary", "dtype", f"one dtype, or one an input, {len(shapes)}", len(chosen)))
    own = None if like is None else like.dtype
    return [ops.zeros(s, dtype=own if d is None else d, device=device) for s, d in zip(shapes, chosen, strict=True)]


def _checked_shapes(input_shape: Any, batch_size: int | None) -> list[Shape]:
    if not isinstance(input_shape, tuple | list):
        raise ArgumentError(wrong("summary", "input_shape", "a shape, or a list of shapes", repr(input_shape)))
    several = bool(input_shape) and all(isinstance(s, tuple | list) for s in input_shape)
    shapes = [tuple(s) for s in input_shape] if several else [tuple(input_shape)]
    for shape in shapes:
        if any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in shape):
            raise ArgumentError(wrong("summary", "input_shape", "made of ints of at least 0", shape))
    return shapes if batch_size is None else [(batch_size, *shape) for shape in shapes]


def summary(
    model: Module,
    input_shape: Sequence[int] | Sequence[Sequence[int]] | None = None,
    *,
    batch_size: int | None = None,
    dtype: Any = None,
    input_data: Tensor | Sequence[Tensor] | None = None,
) -> Summary:
    """Run a model once and tell what each of its modules returns, holds and computes.

    Parameters
    ----------
    model : Module
    input_shape : tuple of int, or list of such, one an input
        With the batch's axis, unless ``batch_size`` is given.
    batch_size : int, optional
        Put in front of each input's shape.
    dtype : DType or str, or list of such, optional
        Of the inputs, which are zeros; default: that of the model's parameters. A model that starts with an embedding
        needs ``"int64"``.
    input_data : Tensor or sequence of Tensor, optional
        The inputs themselves, instead of a shape.

    Returns
    -------
    Summary
        Print it for the table; ``total_params``, ``mult_adds``, ``flops`` and ``rows`` are there to be used.

    Raises
    ------
    ArgumentError, DTypeError

    Notes
    -----
    The model runs in evaluation mode and off the tape; its mode, running statistics, hooks and the random state are
    left as they were. What is computed outside of modules is not counted. A multiply-add is two operations; of
    activations, each element is one, and statistics of normalisations are not counted.

    Examples
    --------
    >>> import tinygrad_bn as tb
    >>> tb.summary(tb.nn.Sequential(tb.nn.Linear(784, 10), tb.nn.ReLU()), (784,), batch_size=1).mult_adds
    7840
    """
    if not isinstance(model, Module):
        raise DTypeError(wrong("summary", "model", "a Module", type(model).__name__))
    if (input_shape is None) == (input_data is None):
        raise ArgumentError("summary: exactly one of 'input_shape' and 'input_data' must be given.")
    if input_data is not None:
        inputs = [input_data] if isinstance(input_data, Tensor) else list(input_data)
    else:
        inputs = _inputs(_checked_shapes(input_shape, batch_size), dtype, model)
    parameters = list(model.parameters())
    return Summary(
        _watched(model, inputs),
        [x.array.shape for x in inputs],
        sum(p.array.size for p in parameters),
        sum(p.array.size for p in parameters if p.requires_grad),
        sum(b.array.size for b in model.buffers()),
        sum(p.array.nbytes for p in parameters),
    )


def _watched(model: Module, inputs: list[Tensor]) -> list[Row]:
    """Run the model in evaluation mode under watch, and put everything back."""
    watch = _Watch(model)
    modules = list(model.modules())
    modes = [m.training for m in modules]
    hookless = [m for m in modules if m._hooks is None]
    state = get_rng_state()
    handles = []
    try:
        for m in modules:
            handles += [m.register_forward_pre_hook(watch.enter), m.register_forward_hook(watch.leave)]
        model.eval()
        with no_grad():
            model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
        for m in hookless:
            m.__dict__["_hooks"] = None
        for m, training in zip(modules, modes, strict=True):
            m.training = training
        set_rng_state(state)
    return watch.rows
