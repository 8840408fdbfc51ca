"""Everything else that an operation owes: values, dtypes, layouts, no side effects."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from tinygrad_bn.core.backward import backward
from tinygrad_bn.core.tensor import Array, Tensor
from tinygrad_bn.errors import ArgumentError, expected
from tinygrad_bn.ops._custom import CustomOp
from tinygrad_bn.ops.elementwise import Elementwise
from tinygrad_bn.testing import own
from tinygrad_bn.testing.comparison import compare_all, elements, make_tensor
from tinygrad_bn.testing.derivatives import check_vjp, like, random_of, tensors_in, track

Function = Callable[..., Any]

VALUE_TOLERANCE = {"float32": 1e-5, "float64": 1e-12}
"""Largest error of a value, relative to its own size plus that of its tensor's largest element."""
LAYOUTS = ("permuted", "sliced", "expanded")
"""Strides that are tried besides C order: axes reversed in memory, every second element, a first row repeated."""


def check_op(
    function: Function,
    *samples: Sequence[Any],
    reference: Function | None = None,
    devices: Iterable[str] = ("cpu", "ref"),
    dtypes: Iterable[str] = ("float32", "float64"),
    layouts: Sequence[str] = LAYOUTS,
    order: int | None = None,
    view: bool = False,
    rtol: float | None = None,
    nan: bool = True,
) -> None:
    """Check all that an operation owes: values, dtypes, derivatives, the same for all memory layouts; no side effects.

    Of operations by ``tb.register_op`` and ``tb.elementwise`` also: that kernels write all of their results and change
    nothing else, that results do not depend on the number of threads, that a NaN is passed on, that a change in place
    of what was saved is noticed; of elementwise ones, empty tensors and broadcasting.

    Parameters
    ----------
    function : callable
        Takes tensors; returns a tensor or a sequence of tensors (what is no tensor is not looked at).
    *samples : sequence
        Arguments to call it with: arrays, which become tensors, those of floating point of each dtype; and whatever
        else the function takes.
    reference : callable, optional
        The same on NumPy arrays of float64; default: the function on device ``ref`` in float64.
    devices, dtypes : iterable of str
    layouts : sequence of {"permuted", "sliced", "expanded"}
        Strides to try besides C order.
    order : {0, 1, 2}, optional
        Up to which derivatives are checked, 0 for none; default: 2, or what a registered operation has.
    view : bool
        Whether outputs may share memory with inputs.
    rtol : float, optional
        Of values; default by dtype: ``VALUE_TOLERANCE``.
    nan : bool
        Whether a NaN in an input has to show in the outputs, of operations of one's own.

    Raises
    ------
    ArgumentError
        If there is no sample.
    AssertionError
        With what is wrong, and where.
    """
    if not samples:
        raise ArgumentError(expected("check_op", "samples", "at least one sequence of arguments", "none"))
    if order is None:
        order = getattr(function, "order", 2)
    for sample in samples:
        given, arrays = _taken_apart(function, sample)
        oracle = None if reference is None else _taken_apart(reference, sample)[0]
        for device, dtype in itertools.product(devices, dtypes):
            limit = VALUE_TOLERANCE[dtype] if rtol is None else rtol
            cast = [a.astype(dtype) if a.dtype.kind == "f" else a for a in arrays]
            where = f"check_op on {device} in {dtype}"
            if isinstance(function, CustomOp | Elementwise):
                own.check_memory(given, cast, device, order, where)
            _check_layouts(given, cast, oracle, device, dtype, layouts, order, view, limit)
            if order:
                check_vjp(given, [make_tensor(a, "plain", device) for a in arrays], order=order, dtype=dtype)
            if isinstance(function, CustomOp | Elementwise):
                own.check(function, given, cast, device, order, nan, where)


def _taken_apart(function: Function, sample: Sequence[Any]) -> tuple[Function, list[Array]]:
    """The function of a sample's arrays alone, and those."""
    items = [elements(a) if isinstance(a, Tensor) else a for a in sample]
    places = [i for i, a in enumerate(items) if isinstance(a, np.ndarray)]
    if len(places) == len(items):
        return function, items

    def given(*tensors: Any) -> Any:
        full = list(items)
        for i, t in zip(places, tensors, strict=True):
            full[i] = t
        return function(*full)

    return given, [items[i] for i in places]


def _check_layouts(
    function: Function,
    arrays: Sequence[Array],
    reference: Function | None,
    device: str,
    dtype: str,
    layouts: Sequence[str],
    order: int,
    view: bool,
    limit: float,
) -> None:
    """Values against the reference; the same values and gradients for all strides."""
    for layout in ("plain", *layouts):
        where = f"check_op on {device} in {dtype}, {layout}"
        run = functools.partial(_run, function, dtype, order > 0, view, where)
        base = [a[:1].repeat(len(a), 0) if a.ndim and layout == "expanded" else a for a in arrays]
        outs, gradients = run([make_tensor(a, "plain", device) for a in base])
        if layout == "plain":
            compare_all(outs, _expected(function, reference, arrays), limit, f"{where}: output")
            continue
        again, same = run([make_tensor(a, layout, device) for a in base])
        compare_all(again, outs, limit, f"{where}: output")
        compare_all(same, gradients, limit, f"{where}: gradient")


def _run(
    function: Function, dtype: str, differentiable: bool, view: bool, where: str, inputs: list[Tensor]
) -> tuple[list[Array], list[Array]]:
    """Run a function, and backward where that is wanted; return outputs and gradients, which may share no memory."""
    before = [(elements(x).copy(), x.version) for x in inputs]
    if differentiable:
        track(inputs)
    outs = tensors_in(function(*inputs))
    if any(o.dtype.is_floating_point and o.dtype.name != dtype for o in outs):
        raise AssertionError(f"{where}: outputs must have dtype {dtype}. Got {', '.join(o.dtype.name for o in outs)}.")
    if not view:
        _check_apart(outs, inputs, f"{where}: an output", "an input")
    tracked = [o for o in outs if o.node is not None]
    rng = np.random.default_rng(0)
    cotangents = [like(o, random_of(o.shape, rng)) for o in tracked]
    kept = [elements(w).copy() for w in cotangents]
    backward(tracked, cotangents, None, False)
    gradients = [x.grad for x in inputs if x.grad is not None]
    for i, g in enumerate(gradients):
        _check_apart([g], [*inputs, *cotangents, *tracked, *gradients[:i]], f"{where}: a gradient", "another tensor")
    if any(not np.array_equal(elements(w), k) for w, k in zip(cotangents, kept, strict=True)):
        raise AssertionError(f"{where}: backward changed the gradient that it was given.")
    for i, (x, (array, version)) in enumerate(zip(inputs, before, strict=True)):
        if x.version != version or not np.array_equal(elements(x), array, equal_nan=x.dtype.is_floating_point):
            raise AssertionError(f"{where}: input {i} was changed.")
    return [elements(o) for o in outs], [elements(g) for g in gradients]


def _check_apart(tensors: Sequence[Tensor], others: Sequence[Tensor], name: str, what: str) -> None:
    if any(np.shares_memory(a.array, b.array) for a in tensors for b in others):
        raise AssertionError(f"{name} shares memory with {what}.")


def _expected(function: Function, reference: Function | None, arrays: Sequence[Array]) -> list[Array]:
    wide = [a.astype(np.float64) if a.dtype.kind == "f" else a for a in arrays]
    if reference is None:
        return [t.array for t in tensors_in(function(*[make_tensor(a, "plain", "ref") for a in wide]))]
    with np.errstate(all="ignore"):
        found = reference(*[a.copy() for a in wide])
    return [np.asarray(a) for a in (found if isinstance(found, tuple | list) else (found,))]
