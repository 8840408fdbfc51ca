"""Checks for people who add an operation: gradients against finite differences, and everything else that it owes.

    check_vjp   the operation's own <w, J v> against central differences of t -> <w, f(x + t v)>, for a random
                direction v and a random cotangent w; second derivatives likewise
    check_op    that, and values on every device, in every dtype and memory layout; no side effects, no shared memory

A sum is never differentiated: the gradient of Σ y through batch norm is zero, so a backward that returns zeros would
pass.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from tinygrad_bn.core.backward import backward, grad
from tinygrad_bn.core.device import as_device
from tinygrad_bn.core.dtype import as_dtype
from tinygrad_bn.core.tape import enable_grad, no_grad
from tinygrad_bn.core.tensor import Array, Tensor, wrap
from tinygrad_bn.errors import ArgumentError, wrong
from tinygrad_bn.ops.movement import to

Function = Callable[..., Any]

VALUE_TOLERANCE = {"float32": 1e-5, "float64": 1e-12}
"""Largest error of a value, relative to its own size plus that of its tensor's largest element."""
GRADIENT_TOLERANCE = {"float32": 2e-4, "float64": 1e-6}
"""Largest relative error of a derivative in a random direction, by the dtype in which backward runs."""
LAYOUTS = ("permuted", "sliced", "expanded")
"""Strides that are tried besides C order: axes reversed in memory, every second element, a first row repeated."""
STEP = 1e-3
"""Of the differences: elements move by up to twice as much. Keep samples further than that from kinks."""


def check_vjp(
    function: Function,
    inputs: Sequence[Tensor],
    *,
    order: int = 1,
    dtype: Any = "float64",
    rtol: float | None = None,
    step: float = STEP,
    seed: int = 0,
) -> None:
    """Check a function's derivatives in a random direction, under a random cotangent, against central differences.

    Parameters
    ----------
    function : callable
        Takes the inputs; returns a tensor, or a sequence whose floating-point tensors are checked together.
    inputs : sequence of Tensor
        It is differentiated with respect to those of floating point, and must be smooth within two steps of them.
    order : {1, 2}
        2 checks the second derivatives too: the gradients, as a function of inputs and cotangents, are differentiated.
    dtype : DType or str
        In which backward runs; the differences are taken in float64.
    rtol : float, optional
        Default by dtype: ``GRADIENT_TOLERANCE``.
    step : float
        Of the differences, along directions whose elements lie between 0.5 and 1.
    seed : int
        Of the random direction and cotangent.

    Raises
    ------
    AssertionError
        If a derivative is wrong; the message tells with respect to which input.

    Notes
    -----
    The differences are (8 (φ(h) - φ(-h)) - φ(2h) + φ(-2h)) / 12h, off by h⁴ φ⁽⁵⁾ / 30. Errors are relative to the
    largest of both derivatives and the 2-norm of the terms of <gradient, v>: terms that happen to cancel prove nothing
    wrong. The rounding of φ, taken to be at least of size 1, is allowed for.
    """
    name = as_dtype(dtype, "check_vjp").name
    if order not in (1, 2):
        raise ArgumentError(wrong("check_vjp", "order", "1 or 2", order))
    limit = GRADIENT_TOLERANCE[name] if rtol is None else rtol
    rng = np.random.default_rng(seed)
    points = [_copied(x, "float64") for x in inputs]
    _check_once(function, points, "first", name, limit, step, rng)
    if order == 2:
        with no_grad():
            outs = floating_outputs(function(*points))
        cotangents = [_like(o, _random(o.shape, rng)) for o in outs]
        _check_once(_gradients_of(function, len(points)), points + cotangents, "second", name, limit, step, rng)


def floating_outputs(result: Any) -> list[Tensor]:
    """Return the floating-point tensors in what a function returned: a tensor, or a sequence that holds some."""
    return [t for t in _tensors(result) if t.dtype.is_floating_point]


def _tensors(result: Any) -> list[Tensor]:
    return [t for t in ([result] if isinstance(result, Tensor) else result) if isinstance(t, Tensor)]


def _copied(x: Tensor, dtype: str) -> Tensor:
    return to(x.alias(), dtype=dtype if x.dtype.is_floating_point else x.dtype, copy=True)


def _like(x: Tensor, array: Array) -> Tensor:
    return wrap(np.array(array, x.dtype.storage, order="C"), x.device)


def _random(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Numbers of either sign, of magnitude 0.5 to 1: no element's derivative goes unseen."""
    return np.asarray(rng.uniform(0.5, 1.0, shape) * rng.choice([-1.0, 1.0], shape))


def _track(points: Sequence[Tensor]) -> None:
    for x in points:
        if x.dtype.is_floating_point and x.node is None:
            x.requires_grad = True


def _gradients_of(function: Function, count: int) -> Function:
    """The function (inputs, cotangents) -> gradients of <cotangents, function(inputs)>, itself differentiable."""

    def gradients(*arguments: Tensor) -> list[Tensor]:
        points = [x if x.node is not None else x.alias() for x in arguments[:count]]
        _track(points)
        with enable_grad():
            return _pull_back(floating_outputs(function(*points)), arguments[count:], points)

    return gradients


def _pull_back(outs: Sequence[Tensor], cotangents: Sequence[Tensor], points: Sequence[Tensor]) -> list[Tensor]:
    """The gradients with respect to the floating-point points, recorded; zeros where there is none."""
    wanted = [x for x in points if x.dtype.is_floating_point]
    tracked = [(o, w) for o, w in zip(outs, cotangents, strict=True) if o.node is not None]
    found: Sequence[Tensor | None] = [None] * len(wanted)
    if tracked:
        starts = [w for _, w in tracked]
        found = grad([o for o, _ in tracked], wanted, starts, create_graph=True, allow_unused=True)
    return [_like(x, np.zeros(x.shape)) if g is None else g for x, g in zip(wanted, found, strict=True)]


def _check_once(
    function: Function, points: list[Tensor], name: str, dtype: str, rtol: float, step: float, rng: np.random.Generator
) -> None:
    exact = [_copied(x, dtype) for x in points]
    _track(exact)
    with enable_grad():
        outs = floating_outputs(function(*exact))
    cotangents = [_like(o, _random(o.shape, rng)) for o in outs]
    gradients = _pull_back(outs, cotangents, exact)
    places = [i for i, x in enumerate(points) if x.dtype.is_floating_point]
    for i, g in zip(places, gradients, strict=True):
        x = exact[i]
        if g.shape != x.shape or g.dtype is not x.dtype or g.device is not x.device:
            raise AssertionError(
                f"check_vjp: the gradient of input {i} ({name} derivative) must have its shape {x.shape}, dtype "
                f"{x.dtype.name} and device {x.device}. Got {g.shape}, {g.dtype.name}, {g.device}."
            )
    directions = {i: _random(points[i].shape, rng) for i in places}
    terms = {i: g.array.astype(np.float64) * directions[i] for i, g in zip(places, gradients, strict=True)}
    compare = functools.partial(
        _compare, function, points, [w.array.astype(np.float64) for w in cotangents], rtol, step
    )
    if (error := compare(directions, terms)) is None:
        return
    lines = [f"check_vjp: the {name} derivative is wrong, or the function is not smooth there. {error}"]
    for i in places:
        error = compare({i: directions[i]}, {i: terms[i]})
        lines.append(f"  input {i} of shape {points[i].shape}: {error or 'right.'}")
    raise AssertionError("\n".join(lines))


def _compare(
    function: Function,
    points: Sequence[Tensor],
    weights: Sequence[Array],
    rtol: float,
    step: float,
    directions: dict[int, Array],
    terms: dict[int, Array],
) -> str | None:
    """Compare Σ terms with the differences along directions; say what is wrong, or return None."""
    along = functools.partial(_along, function, points, weights, directions)
    (plus, size), (minus, _), (plus2, _), (minus2, _) = (along(k * step) for k in (1, -1, 2, -2))
    numeric = (8 * (plus - minus) - (plus2 - minus2)) / (12 * step)
    exact = float(sum(t.sum() for t in terms.values()))
    scale = max(abs(exact), abs(numeric), float(np.sqrt(sum((t**2).sum() for t in terms.values()))))
    noise = 16 * np.finfo(np.float64).eps * max(size, 1.0) / step
    if abs(exact - numeric) <= rtol * scale + noise:
        return None
    off = abs(exact - numeric) / scale if scale else float("nan")
    return (
        f"Backward gives {exact:.12g}, differences give {numeric:.12g}: relative error {off:.2g}, allowed {rtol:.2g}."
    )


def _along(
    function: Function, points: Sequence[Tensor], weights: Sequence[Array], directions: dict[int, Array], t: float
) -> tuple[float, float]:
    """<weights, function(points + t directions)>, and the sum of its terms' sizes."""
    moved = [_like(x, x.array + t * directions[i]) if i in directions else x for i, x in enumerate(points)]
    with no_grad():
        outs = floating_outputs(function(*moved))
    terms = [w * o.array for w, o in zip(weights, outs, strict=True)]
    return float(sum(p.sum() for p in terms)), float(sum(np.abs(p).sum() for p in terms))


def check_op(
    function: Function,
    arrays: Sequence[Array],
    *,
    reference: Function | None = None,
    devices: Iterable[str] = ("cpu", "ref"),
    dtypes: Iterable[str] = ("float32", "float64"),
    layouts: Sequence[str] = LAYOUTS,
    order: int = 2,
    view: bool = False,
    rtol: float | None = None,
) -> None:
    """Check all that an operation owes: values, dtypes, derivatives, the same for all memory layouts; no side effects.

    Parameters
    ----------
    function : callable
        Takes tensors, one an array; returns a tensor or a sequence of tensors (what is no tensor is not looked at).
    arrays : sequence of numpy.ndarray
        The inputs; those of floating point are converted to each dtype.
    reference : callable, optional
        The same on NumPy arrays of float64; default: the function on device ``ref`` in float64.
    devices, dtypes : iterable of str
    layouts : sequence of {"permuted", "sliced", "expanded"}
        Strides to try besides C order.
    order : {0, 1, 2}
        Up to which derivatives are checked, 0 for none.
    view : bool
        Whether outputs may share memory with inputs.
    rtol : float, optional
        Of values; default by dtype: ``VALUE_TOLERANCE``.

    Raises
    ------
    AssertionError
        With what is wrong, and where.
    """
    for device, dtype in itertools.product(devices, dtypes):
        limit = VALUE_TOLERANCE[dtype] if rtol is None else rtol
        cast = [a.astype(dtype) if a.dtype.kind == "f" else a for a in arrays]
        for layout in ("plain", *layouts):
            where = f"check_op on {device} in {dtype}, {layout}"
            run = functools.partial(_run, function, dtype, order > 0, view, where)
            base = [a[:1].repeat(len(a), 0) if a.ndim and layout == "expanded" else a for a in cast]
            outs, gradients = run([make_tensor(a, "plain", device) for a in base])
            if layout == "plain":
                _compare_all(outs, _expected(function, reference, cast), limit, f"{where}: output")
                continue
            again, same = run([make_tensor(a, layout, device) for a in base])
            _compare_all(again, outs, limit, f"{where}: output")
            _compare_all(same, gradients, limit, f"{where}: gradient")
        if order:
            check_vjp(function, [make_tensor(a, "plain", device) for a in arrays], order=order, dtype=dtype)


def _run(
    function: Function, dtype: str, differentiable: bool, view: bool, where: str, inputs: list[Tensor]
) -> tuple[list[Array], list[Array]]:
    """Run a function, and backward where that is wanted; return outputs and gradients, which may share no memory."""
    before = [(x.array.copy(), x.version) for x in inputs]
    if differentiable:
        _track(inputs)
    outs = _tensors(function(*inputs))
    if any(o.dtype.is_floating_point and o.dtype.name != dtype for o in outs):
        raise AssertionError(f"{where}: outputs must have dtype {dtype}. Got {', '.join(o.dtype.name for o in outs)}.")
    if not view:
        _check_apart(outs, inputs, f"{where}: an output", "an input")
    tracked = [o for o in outs if o.node is not None]
    rng = np.random.default_rng(0)
    cotangents = [_like(o, _random(o.shape, rng)) for o in tracked]
    kept = [w.array.copy() for w in cotangents]
    backward(tracked, cotangents, None, False)
    gradients = [x.grad for x in inputs if x.grad is not None]
    for i, g in enumerate(gradients):
        _check_apart([g], [*inputs, *cotangents, *tracked, *gradients[:i]], f"{where}: a gradient", "another tensor")
    if any(not np.array_equal(w.array, k) for w, k in zip(cotangents, kept, strict=True)):
        raise AssertionError(f"{where}: backward changed the gradient that it was given.")
    for i, (x, (array, version)) in enumerate(zip(inputs, before, strict=True)):
        if x.version != version or not np.array_equal(x.array, array, equal_nan=x.dtype.is_floating_point):
            raise AssertionError(f"{where}: input {i} was changed.")
    return [o.array for o in outs], [g.array for g in gradients]


def _check_apart(tensors: Sequence[Tensor], others: Sequence[Tensor], name: str, what: str) -> None:
    if any(np.shares_memory(a.array, b.array) for a in tensors for b in others):
        raise AssertionError(f"{name} shares memory with {what}.")


def _expected(function: Function, reference: Function | None, arrays: Sequence[Array]) -> list[Array]:
    wide = [a.astype(np.float64) if a.dtype.kind == "f" else a for a in arrays]
    if reference is None:
        return [t.array for t in _tensors(function(*[make_tensor(a, "plain", "ref") for a in wide]))]
    with np.errstate(all="ignore"):
        found = reference(*[a.copy() for a in wide])
    return [np.asarray(a) for a in (found if isinstance(found, tuple | list) else (found,))]


def make_tensor(array: Array, layout: str = "plain", device: str = "cpu") -> Tensor:
    """Return a tensor of an array's values in a memory layout, "plain" or one of ``LAYOUTS``, in memory of its own.

    "expanded" keeps the values only if all rows, along the first axis, are alike.
    """
    strided = array.copy(order="C")
    if layout == "permuted":
        strided = array.copy(order="F")
    elif layout == "sliced" and array.ndim:
        strided = np.empty((*array.shape[:-1], 2 * array.shape[-1] + 1), array.dtype)[..., 1::2]
        strided[...] = array
    elif layout == "expanded" and array.ndim and array.shape[0] > 1:
        row = array[:1].copy(order="C")
        strided = np.lib.stride_tricks.as_strided(row, array.shape, (0, *row.strides[1:]))
    return wrap(strided, as_device(device))


def _compare_all(actual: Sequence[Array], expected: Sequence[Array], rtol: float, name: str) -> None:
    if len(actual) != len(expected):
        raise AssertionError(f"{name}s: {len(expected)} were expected. Got {len(actual)}.")
    for i, (a, b) in enumerate(zip(actual, expected, strict=True)):
        assert_close(a, b, rtol, f"{name} {i}")


def assert_close(actual: Array, expected: Array, rtol: float, name: str = "the result") -> None:
    """Raise unless two arrays agree in shape and, to ``rtol`` of an element plus of the largest finite one, in values.

    NaN and infinities must stand exactly where they are expected; integers and booleans must be equal.
    """
    if actual.shape != expected.shape:
        raise AssertionError(f"{name} must have shape {expected.shape}. Got {actual.shape}.")
    a, b = actual.astype(np.float64), expected.astype(np.float64)
    finite = np.isfinite(b) & (actual.dtype.kind == "f")
    if not np.isfinite(a[finite]).all() or not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        raise AssertionError(f"{name} must be\n{expected}\nGot\n{actual}")
    a, b = np.where(finite, a, 0), np.where(finite, b, 0)
    excess = np.abs(a - b) - rtol * (np.abs(b) + np.abs(b).max(initial=0))
    if excess.max(initial=0) > 0:
        at = np.unravel_index(int(excess.argmax()), b.shape)
        raise AssertionError(
            f"{name} is off at {int((excess > 0).sum())} of {b.size} elements, worst at {tuple(map(int, at))}: "
            f"{float(a[at])!r} instead of {float(b[at])!r}, allowed {rtol:.2g}."
        )
