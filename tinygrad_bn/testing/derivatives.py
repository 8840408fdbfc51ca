"""Derivatives against finite differences."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinygrad_bn.core.backward import grad
from tinygrad_bn.core.dtype import as_dtype
from tinygrad_bn.core.tape import enable_grad, no_grad
from tinygrad_bn.core.tensor import Array, Tensor, wrap
from tinygrad_bn.errors import ArgumentError, wrong
from tinygrad_bn.ops.movement import to
from tinygrad_bn.testing.comparison import elements

Function = Callable[..., Any]

GRADIENT_TOLERANCE = {"float32": 2e-4, "float64": 1e-6}
"""Largest relative error of a derivative in a random direction, by the dtype in which backward runs."""
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
        cotangents = [like(o, random_of(o.shape, rng)) for o in outs]
        _check_once(_gradients_of(function, len(points)), points + cotangents, "second", name, limit, step, rng)


def floating_outputs(result: Any) -> list[Tensor]:
    """Return the floating-point tensors in what a function returned: a tensor, or a sequence that holds some."""
    return [t for t in tensors_in(result) if t.dtype.is_floating_point]


def tensors_in(result: Any) -> list[Tensor]:
    """Return the tensors in what a function returned."""
    return [t for t in ([result] if isinstance(result, Tensor) else result) if isinstance(t, Tensor)]


def _copied(x: Tensor, dtype: str) -> Tensor:
    return to(x.alias(), dtype=dtype if x.dtype.is_floating_point else x.dtype, copy=True)


def like(x: Tensor, array: Array) -> Tensor:
    """Return an array as a tensor of another's dtype and device."""
    return wrap(np.array(array, x.dtype.storage, order="C"), x.device)


def random_of(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Numbers of either sign, of magnitude 0.5 to 1: no element's derivative goes unseen."""
    return np.asarray(rng.uniform(0.5, 1.0, shape) * rng.choice([-1.0, 1.0], shape))


def track(points: Sequence[Tensor]) -> None:
    """Let those of floating point require grad."""
    for x in points:
        if x.dtype.is_floating_point and x.node is None:
            x.requires_grad = True


def _gradients_of(function: Function, count: int) -> Function:
    """The function (inputs, cotangents) -> gradients of <cotangents, function(inputs)>, itself differentiable."""

    def gradients(*arguments: Tensor) -> list[Tensor]:
        points = [x if x.node is not None else x.alias() for x in arguments[:count]]
        track(points)
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
    return [like(x, np.zeros(x.shape)) if g is None else g for x, g in zip(wanted, found, strict=True)]


def _check_once(
    function: Function, points: list[Tensor], name: str, dtype: str, rtol: float, step: float, rng: np.random.Generator
) -> None:
    exact = [_copied(x, dtype) for x in points]
    track(exact)
    with enable_grad():
        outs = floating_outputs(function(*exact))
    cotangents = [like(o, random_of(o.shape, rng)) for o in outs]
    gradients = _pull_back(outs, cotangents, exact)
    places = [i for i, x in enumerate(points) if x.dtype.is_floating_point]
    for i, g in zip(places, gradients, strict=True):
        x = exact[i]
        if g.shape != x.shape or g.dtype is not x.dtype or g.device is not x.device:
            raise AssertionError(
                f"check_vjp: the gradient of input {i} ({name} derivative) must have its shape {x.shape}, dtype "
                f"{x.dtype.name} and device {x.device}. Got {g.shape}, {g.dtype.name}, {g.device}."
            )
    directions = {i: random_of(points[i].shape, rng) for i in places}
    terms = {i: elements(g).astype(np.float64) * directions[i] for i, g in zip(places, gradients, strict=True)}
    compare = functools.partial(
        _compare, function, points, [elements(w).astype(np.float64) for w in cotangents], rtol, step
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
    moved = [like(x, elements(x) + t * directions[i]) if i in directions else x for i, x in enumerate(points)]
    with no_grad():
        outs = floating_outputs(function(*moved))
    terms = [w * elements(o) for w, o in zip(weights, outs, strict=True)]
    return float(sum(p.sum() for p in terms)), float(sum(np.abs(p).sum() for p in terms))
