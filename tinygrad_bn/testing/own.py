"""What an operation of people's own owes beyond what every operation does.

Memory that a kernel is to write, or may scribble in, is filled with nonsense before it runs: what it leaves there
shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from tinygrad_bn.core.backward import backward
from tinygrad_bn.core.launch import get_num_threads, observers, pool, set_num_threads
from tinygrad_bn.core.tape import no_grad
from tinygrad_bn.core.tensor import Array, Tensor
from tinygrad_bn.errors import SavedTensorError
from tinygrad_bn.kernels.spec import Kernel, parameters_of
from tinygrad_bn.ops.elementwise import Elementwise
from tinygrad_bn.testing.comparison import assert_close, make_tensor
from tinygrad_bn.testing.derivatives import like, random_of, tensors_in, track

Function = Callable[..., Any]
LARGE = (300, 1001)
"""A shape with enough elements for the pool, that no block divides."""


def check(
    op: Function, function: Function, arrays: Sequence[Array], device: str, order: int, nan: bool, where: str
) -> None:
    """Check all below but memory; ``function`` is the operation's call on these arrays alone."""
    check_nan(function, arrays, device, nan, where)
    if order:
        check_saved(function, arrays, device, where)
    if device != "ref":
        check_threads(op, function, arrays, device, order, where)
    if isinstance(op, Elementwise):
        check_broadcasting(function, arrays, device, where)


def results(function: Function, arrays: Sequence[Array], device: str, order: int) -> list[Array]:
    """Return outputs, and gradients under random cotangents where there are some."""
    inputs = [make_tensor(a, "plain", device) for a in arrays]
    if order:
        track(inputs)
    outs = tensors_in(function(*inputs))
    found = [o.array.copy() for o in outs]
    gradients(outs)
    return found + [x.grad.array for x in inputs if x.grad is not None]


def gradients(outs: Sequence[Tensor]) -> None:
    """Run backward from outputs, under the same random cotangents each time."""
    rng = np.random.default_rng(0)
    tracked = [o for o in outs if o.node is not None]
    backward(tracked, [like(o, random_of(o.shape, rng)) for o in tracked], None, False)


def same(first: Sequence[Array], second: Sequence[Array]) -> bool:
    """Whether arrays are equal bit by bit."""
    return all(a.tobytes() == b.tobytes() for a, b in zip(first, second, strict=True))


# -------------------------------------------------------------------------------------------------------------- memory


@contextmanager
def nonsense(number: float, where: str) -> Iterator[None]:
    """Fill what kernels are to write with a number before each launch; see that the rest stays as it was."""

    def watch(kernel: Kernel, arguments: tuple[Any, ...], run: Callable[[], None]) -> None:
        names = parameters_of(kernel.serial)
        kept = []
        for name, a in zip(names, arguments, strict=True):
            if not isinstance(a, np.ndarray):
                continue
            if name in kernel.spec.writes + kernel.spec.workspace:
                a.fill(number if a.dtype.kind == "f" or np.isfinite(number) else 77)
            elif name not in kernel.spec.updates:
                kept.append((name, a, a.copy()))
        run()
        for name, a, before in kept:
            if a.tobytes() != before.tobytes():
                raise AssertionError(f"{where}: kernel {kernel.name} changed '{name}', which it only reads.")

    observers.append(watch)
    try:
        yield
    finally:
        observers.remove(watch)


def check_memory(function: Function, arrays: Sequence[Array], device: str, order: int, where: str) -> None:
    """Kernels write all of their results, whatever these held, and change nothing else."""
    found = []
    for number in (3.0, float("nan")):
        with nonsense(number, where):
            found.append(results(function, arrays, device, order))
    if not same(*found):
        raise AssertionError(f"{where}: a kernel uses what its results or workspace held before, or leaves some of it.")


def check_nan(function: Function, arrays: Sequence[Array], device: str, nan: bool, where: str) -> None:
    """A NaN shows where the reference has one; and shows at all."""
    for i, a in enumerate(arrays):
        if a.dtype.kind != "f" or not a.size:
            continue
        spoilt = [b.copy() for b in arrays]
        spoilt[i].flat[a.size // 2] = np.nan
        outs = results(function, spoilt, device, 0)
        wide = [b.astype(np.float64) if b.dtype.kind == "f" else b for b in spoilt]
        wanted = results(function, wide, "ref", 0)
        for out, want in zip(outs, wanted, strict=True):
            if out.dtype.kind == "f" and not np.array_equal(np.isnan(out), np.isnan(want)):
                raise AssertionError(
                    f"{where}: with a NaN in input {i}, NaN must stand where {want} has it. Got {out}."
                )
        floating = [o for o in outs if o.dtype.kind == "f" and o.size]
        if nan and floating and not any(np.isnan(o).any() for o in floating):
            raise AssertionError(
                f"{where}: a NaN in input {i} must show in the outputs (or pass nan=False). It does not."
            )


# --------------------------------------------------------------------------------------------------------- derivatives


def check_saved(function: Function, arrays: Sequence[Array], device: str, where: str) -> None:
    """Backward after a change in place of an input is an error, or what it would have been."""
    wanted = results(function, arrays, device, 1)
    for i, a in enumerate(arrays):
        if a.dtype.kind != "f" or not a.size:
            continue
        inputs = [make_tensor(b, "plain", device) for b in arrays]
        track(inputs)
        outs = tensors_in(function(*inputs))
        found = [o.array.copy() for o in outs]
        with no_grad():
            inputs[i].array += 1
            inputs[i].bump()
        try:
            gradients(outs)
        except SavedTensorError:
            continue
        found += [x.grad.array for x in inputs if x.grad is not None]
        if not same(found, wanted):
            raise AssertionError(f"{where}: input {i} was changed in place after the call, and backward went wrong.")


# --------------------------------------------------------------------------------------------------- threads and shapes


def check_threads(
    op: Function, function: Function, arrays: Sequence[Array], device: str, order: int, where: str
) -> None:
    """Results are the same bit by bit for any number of threads."""
    if isinstance(op, Elementwise):
        arrays = [np.resize(a, LARGE) if a.size else a for a in arrays]
    before = get_num_threads()
    found = []
    try:
        for n in sorted({1, pool.limit}):
            set_num_threads(n)
            found.append(results(function, arrays, device, order))
    finally:
        set_num_threads(before)
    if any(not same(found[0], again) for again in found[1:]):
        raise AssertionError(f"{where}: results depend on the number of threads.")


def check_broadcasting(function: Function, arrays: Sequence[Array], device: str, where: str) -> None:
    """Empty tensors give empty ones; an operand with extents of 1 counts as one that is repeated."""
    full = np.broadcast_shapes(*[a.shape for a in arrays])
    if full:
        outs = results(function, [np.broadcast_to(a, full)[:0].copy() for a in arrays], device, 1)
        if any(o.shape != (0, *full[1:]) for o in outs):
            raise AssertionError(f"{where}: of empty tensors the results must be empty.")
    for i, a in enumerate(arrays):
        if not a.size or not a.ndim:
            continue
        for narrow in (a[:1], a[..., :1]):
            given = [narrow if j == i else np.broadcast_to(b, full).copy() for j, b in enumerate(arrays)]
            whole = np.broadcast_shapes(*[b.shape for b in given])
            wide = [np.broadcast_to(b, whole).copy() for b in given]
            for out, want in zip(results(function, given, device, 0), results(function, wide, device, 0), strict=True):
                assert_close(out, want, 1e-5, f"{where}: output of broadcast input {i}")
