"""Functions of symmetric matrices, (G, D, D), that whitening is made of.

    W = Σ^(-1/2):   gΣ = -X,  S X + X S = W gW W,  S = Σ^(1/2)        since dΣ = dS S + S dS and dW = -W dS W
    A X + X A = Q:  gQ = Y,  gA = -(Y Xᵀ + Xᵀ Y),  A Y + Y A = gX
    Newton:         P ← H P,  Q ← Q H,  H = (3 I - P Q) / 2            from P = I, Q = A: P → A^(-1/2), Q → A^(1/2)

In the basis of A's eigenvectors the second is a division by sums of two eigenvalues, which are positive. No difference
of eigenvalues stands in a denominator, as it does where eigenvectors are differentiated: equal ones do no harm, and
derivatives of any order follow. Eigenvalues come from LAPACK by way of NumPy, in float64.

Newton's iteration is the P ← (3 P - P³ A) / 2 of Huang et al. 2019 with Q = A P carried along, at the same three
products a step. Carried along it has to be: with A itself in the step, a rounding error that does not commute with A is
multiplied by up to |1 - (κ + √κ) / 2|, κ the condition number, at every step: more than 1 from κ = 2.5 on. P and Q
together forget it (Higham 1997, Stable iterations for the matrix square root, Numerical Algorithms 15).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from threading import Lock
from typing import Any

import numpy as np

from tinygrad_bn import ops
from tinygrad_bn.core.launch import launch, reads_values
from tinygrad_bn.core.tape import Gradients, Node, record
from tinygrad_bn.core.tensor import Array, Tensor
from tinygrad_bn.kernels.spec import Kernel, Spec
from tinygrad_bn.ops._common import new, plain

_RAISED = 8
"""Ulp of the trace: what products of matrices in the inputs' dtype leave of an eigenvalue that is 0, and some more."""


@cache
def _blas() -> list[Any]:
    """The libraries of linear algebra that this process has loaded."""
    from threadpoolctl import ThreadpoolController

    return [library for library in ThreadpoolController().lib_controllers if library.user_api == "blas"]


_alone = Lock()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let linear algebra stay on this thread: others of its own would wait for the pool's, which have the cores.

    One thread at a time: the number is the process's; a second one would take what the first has set for the user's.
    """
    with _alone:
        before = [library.get_num_threads() for library in _blas()]
        for library in _blas():
            library.set_num_threads(1)
        try:
            yield
        finally:
            for library, threads in zip(_blas(), before):
                library.set_num_threads(threads)


def _eigen(a: Array) -> tuple[Array, Array, Array]:
    """Eigenvalues (G, D) and vectors of symmetric matrices, and which of these are finite, (G, 1, 1).

    Eigenvalues are at least what rounding leaves of those that are 0.
    """
    wide = a.astype(np.float64)
    wide = (wide + wide.transpose(0, 2, 1)) / 2
    finite = np.asarray(np.isfinite(wide).all((1, 2), keepdims=True))
    values, vectors = np.linalg.eigh(np.where(finite, wide, np.eye(a.shape[1])))
    info = np.finfo(a.dtype)
    floor = np.maximum(float(info.eps) * a.shape[1] * values[:, -1:], float(info.tiny))
    return np.maximum(values, floor), vectors, finite


@_one_thread()
def _write_inverse_root(cov: Array, w: Array) -> None:
    values, vectors, finite = _eigen(cov)
    w[...] = np.where(finite, (vectors / np.sqrt(values)[:, None]) @ vectors.transpose(0, 2, 1), np.nan)


@_one_thread()
def _write_lyapunov(a: Array, q: Array, x: Array) -> None:
    values, vectors, finite = _eigen(a)
    with np.errstate(all="ignore"):
        turned = vectors.transpose(0, 2, 1) @ q.astype(np.float64) @ vectors
        solved = vectors @ (turned / (values[:, :, None] + values[:, None])) @ vectors.transpose(0, 2, 1)
        x[...] = np.where(finite, solved, np.nan)


_INVERSE_ROOT = Kernel("inverse_root", Spec(writes=("w",)), _write_inverse_root)
_LYAPUNOV = Kernel("lyapunov", Spec(writes=("x",)), _write_lyapunov)


def _on_host(kernel: Kernel, arrays: tuple[Array, ...], out: Tensor) -> None:
    """Run one of these kernels; what lies on the GPU is copied to the host and back."""
    device = out.device
    if device.type != "cuda":
        launch(kernel, *arrays, out.array)
        return
    reads_values("whitening by eigenvalues on the GPU")
    found = np.empty(out.array.shape, out.dtype.storage)
    launch(kernel, *[device.to_host(a) for a in arrays], found)
    device.write(out.array, found)


def _transposed(a: Tensor) -> Tensor:
    return ops.transpose(a, 1, 2)


def _symmetric(a: Tensor) -> Tensor:
    return ops.mul(ops.add(a, _transposed(a)), 0.5)


class InverseRoot(Node):
    """gΣ = -X, S X + X S = W gW W."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        (cov,) = self.unpack()
        w = self.unpack_output()
        return (ops.neg(lyapunov(ops.matmul(cov, w), ops.matmul(w, ops.matmul(gy, w)))),)


def inverse_root(cov: Tensor) -> Tensor:
    """Return Σ^(-1/2) of positive definite matrices, of their symmetric parts; NaN where one is not finite."""
    symmetric = _symmetric(cov)
    w = new(cov.array.shape, cov.dtype, cov.device)
    _on_host(_INVERSE_ROOT, (plain(symmetric),), w)
    return record(InverseRoot, w, (symmetric,), (symmetric,), save_output=True)


class Lyapunov(Node):
    """gQ = Y and gA = -(Y Xᵀ + Xᵀ Y), its symmetric part, where A Y + Y A = gX."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        (a,) = self.unpack()
        x = _transposed(self.unpack_output())
        y = lyapunov(a, gy)
        return ops.neg(_symmetric(ops.add(ops.matmul(y, x), ops.matmul(x, y)))), y


def lyapunov(a: Tensor, q: Tensor) -> Tensor:
    """Return X with A X + X A = Q, for positive definite matrices A, of which the symmetric part is taken; NaN where
    one is not finite."""
    x = new(a.array.shape, a.dtype, a.device)
    _on_host(_LYAPUNOV, (plain(a), plain(q)), x)
    return record(Lyapunov, x, (a, q), (a,), save_output=True)


def newton_root(cov: Tensor, iterations: int) -> Tensor:
    """Return Σ^(-1/2), approached by Newton's iterations of A = Σ / tr Σ, whose P is divided by √tr Σ in the end.

    A is raised by some ulp: an eigenvalue that rounding left below 0 would have no root to converge to.
    """
    one = ops.eye(cov.array.shape[1], dtype=cov.dtype, device=cov.device)
    trace = ops.sum(ops.mul(cov, one), (1, 2), True)
    raised = _RAISED * float(np.finfo(cov.dtype.storage).eps)
    q = ops.add(ops.div(cov, trace), ops.mul(one, raised))
    p = ops.expand(one, cov.array.shape)
    for left in reversed(range(iterations)):
        h = ops.sub(ops.mul(one, 1.5), ops.mul(ops.matmul(p, q), 0.5))
        p = ops.matmul(h, p)
        q = ops.matmul(q, h) if left else q
    return ops.div(p, ops.sqrt(trace))
