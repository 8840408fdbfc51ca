"""Batch normalisation's family against what the papers write, in NumPy and float64, and identities that it fulfils."""

from __future__ import annotations

import copy
import math
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_bn as tb
from tinygrad_bn import functional as F
from tinygrad_bn import nn
from tinygrad_bn.errors import ArgumentError
from tinygrad_bn.functional import symmetric
from tinygrad_bn.functional.family import noisy
from tinygrad_bn.functional.symmetric import inverse_root, lyapunov
from tinygrad_bn.nn.parametrizations import weight_standardization
from tinygrad_bn.testing import check_op, check_vjp

Array = np.ndarray[Any, Any]
EPS = 1e-5
FOLD = settings(max_examples=10)
devices = st.sampled_from(["cpu", "ref"])


def draw(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape)


def channel(t: Array, x: Array) -> Array:
    """(C,) as it broadcasts over (N, C, …)."""
    return t.reshape(1, -1, *[1] * (x.ndim - 2))


def rows(x: Array) -> Array:
    return np.moveaxis(x, 1, 0).reshape(x.shape[1], -1)


def moments(x: Array) -> tuple[Array, Array]:
    return rows(x).mean(1), rows(x).var(1)


def plain_norm(x: Array, w: Array, b: Array, eps: float = EPS) -> Array:
    mean, var = (channel(t, x) for t in moments(x))
    return (x - mean) / np.sqrt(var + eps) * channel(w, x) + channel(b, x)


# ------------------------------------------------------------------------------------------- the papers, written out


def ghost(x: Array, size: int, w: Array, b: Array) -> Array:
    """1705.08741, Algorithm 1."""
    return np.concatenate([plain_norm(x[i : i + size], w, b) for i in range(0, len(x), size)])


def renorm(x: Array, mu: Array, sigma: Array, w: Array, b: Array, rmax: float, dmax: float) -> Array:
    """1702.03275, Algorithm 1."""
    mean, var = moments(x)
    std = np.sqrt(var + EPS)
    r = np.clip(std / sigma, 1 / rmax, rmax)
    d = np.clip((mean - mu) / sigma, -dmax, dmax)
    hat = (x - channel(mean, x)) / channel(std, x) * channel(r, x) + channel(d, x)
    return hat * channel(w, x) + channel(b, x)


def lp(x: Array, p: float, w: Array, b: Array, uncentred: bool = False) -> Array:
    """1805.11604, section 3.3."""
    left = np.abs(x - (0 if uncentred else channel(moments(x)[0], x)))
    scale = rows(left).max(1) + EPS if p == math.inf else ((rows(left) ** p).mean(1) + EPS) ** (1 / p)
    return (x - channel(moments(x)[0], x)) / channel(scale, x) * channel(w, x) + channel(b, x)


def grouped(x: Array, size: int, root: Callable[[Array], Array]) -> tuple[Array, Array]:
    """Each group of channels times its own matrix, and these."""
    flat, out, found = rows(x), [], []
    for at in range(0, len(flat), size):
        left = flat[at : at + size] - flat[at : at + size].mean(1, keepdims=True)
        found.append(root(left @ left.T / left.shape[1] + EPS * np.eye(size)))
        out.append(found[-1] @ left)
    whole = np.concatenate(out).reshape(x.shape[1], x.shape[0], *x.shape[2:])
    return np.moveaxis(whole, 0, 1), np.stack(found)


def zca(cov: Array) -> Array:
    """1804.08450: D Λ^(-1/2) Dᵀ."""
    values, vectors = np.linalg.eigh(cov)
    return np.asarray(vectors @ np.diag(values**-0.5) @ vectors.T)


def newton(cov: Array, steps: int) -> Array:
    """1904.03441, Algorithm 1."""
    p, trace = np.eye(len(cov)), np.trace(cov)
    for _ in range(steps):
        p = 0.5 * (3 * p - np.linalg.matrix_power(p, 3) @ (cov / trace))
    return np.asarray(p / np.sqrt(trace))


def response(x: Array, w: Array, b: Array, eps: float) -> Array:
    """1911.09737, equations 1 to 4."""
    nu2 = (x**2).mean(tuple(range(2, x.ndim)), keepdims=True)
    return np.asarray(x / np.sqrt(nu2 + eps) * channel(w, x) + channel(b, x))


def standardised(w: Array, eps: float, dim: int = 0) -> Array:
    """1903.10520, equations 5 to 7."""
    over = tuple(i for i in range(w.ndim) if i != dim)
    return np.asarray((w - w.mean(over, keepdims=True)) / np.sqrt(w.var(over, keepdims=True) + eps))


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


# ------------------------------------------------------------- functions: values, first and second derivatives, layouts

X = draw(6, 4, 3) * np.array([1.0, 2.0, 0.5, 3.0]).reshape(4, 1) + np.array([0.0, 5.0, -1.0, 2.0]).reshape(4, 1)
FLAT = draw(10, 4, seed=1)
W, B = draw(4, seed=2), draw(4, seed=3)
ZERO = np.zeros(4)


def first(function: Callable[..., Any]) -> Callable[..., Any]:
    """The output alone."""
    return lambda *args: function(*args)[0]


FUNCTIONS: dict[str, tuple[Callable[..., Any], Callable[..., Any], list[tuple[Any, ...]]]] = {
    "ghost": (first(F.ghost_batch_norm), ghost, [(X, 2, W, B), (FLAT, 5, W, B), (X, 6, ZERO, B), (X, 1, W, B)]),
    "l1": (
        lambda x, w, b: F.lp_batch_norm(x, 1, w, b)[0],
        lambda x, w, b: lp(x, 1, w, b),
        [(X, W, B), (FLAT, ZERO, B)],
    ),
    "l2": (lambda x, w, b: F.lp_batch_norm(x, 2, w, b)[0], lambda x, w, b: lp(x, 2, w, b), [(X, W, B), (X, ZERO, B)]),
    "linf": (
        lambda x, w, b: F.lp_batch_norm(x, math.inf, w, b)[0],
        lambda x, w, b: lp(x, math.inf, w, b),
        [(X, W, B), (FLAT, ZERO, B)],
    ),
    "l2 of x": (
        lambda x, w, b: F.lp_batch_norm(x, 2, w, b, EPS, True)[0],
        lambda x, w, b: lp(x, 2, w, b, uncentred=True),
        [(X, W, B), (FLAT, ZERO, B)],
    ),
    "zca": (
        first(F.decorrelated_batch_norm),
        lambda x, size, w, b: grouped(x, size, zca)[0] * channel(w, x) + channel(b, x),
        [(X, 2, W, B), (FLAT, 4, W, B), (FLAT, 1, W, B), (X, 4, ZERO, B)],
    ),
    "newton": (
        first(F.iter_norm),
        lambda x, size, t, w, b: grouped(x, size, lambda c: newton(c, t))[0] * channel(w, x) + channel(b, x),
        [(X, 2, 5, W, B), (FLAT, 4, 3, W, B), (X, 4, 5, ZERO, B), (FLAT[:3], 4, 5, W, B)],
    ),
    "renorm, clipped": (
        lambda x, w, b: F.batch_renorm(x, b * 0 + 50.0, b * 0 + 0.01, w, b, 2.0, 3.0)[0],
        lambda x, w, b: renorm(x, ZERO + 50.0, ZERO + 0.01, w, b, 2.0, 3.0),
        [(X, W, B), (FLAT, ZERO, B)],
    ),
    "response": (F.filter_response_norm, response, [(X, W, B, 1e-6), (X[..., :1], W, B, 0.1), (X, ZERO, B, 1e-6)]),
    "threshold": (
        F.thresholded_linear_unit,
        lambda x, tau: np.maximum(x, channel(tau, x)),
        [(draw(2, 4, 3, seed=4), W), (draw(3, 4, seed=8), W)],
    ),
    "weight": (F.weight_standardization, standardised, [(draw(3, 2, 2, 2), EPS, 0), (draw(3, 4), EPS, 1)]),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str) -> None:
    """Values to 1e-10, both dtypes and devices, all layouts; first and second derivatives against differences."""
    function, reference, samples = FUNCTIONS[name]
    check_op(function, *samples, reference=reference)
    for sample in samples:
        got = function(*(tb.tensor(a) if isinstance(a, np.ndarray) else a for a in sample))
        np.testing.assert_allclose(got.numpy(), reference(*sample), rtol=1e-10, atol=1e-10)


def test_the_written_gradient_of_renorm(device: str) -> None:
    """Section 3 of 1702.03275: r and d are constants, so differences of the function would not do."""
    x, gy, mu, sigma, r_, d_ = draw(7, 4), draw(7, 4, seed=9), draw(4, seed=5) * 0.1, W**2 + 0.5, 1.5, 0.4
    t = [tb.tensor(a, device=device, requires_grad=True) for a in (x, W, B)]
    held = [tb.tensor(a, device=device, requires_grad=True) for a in (mu, sigma)]
    y, _ = F.batch_renorm(t[0], held[0], held[1], t[1], t[2], r_, d_)
    np.testing.assert_allclose(y.detach().numpy(), renorm(x, mu, sigma, W, B, r_, d_), rtol=1e-12, atol=1e-12)
    y.backward(tb.tensor(gy, device=device))
    mean, std = x.mean(0), np.sqrt(x.var(0) + EPS)
    r, d = np.clip(std / sigma, 1 / r_, r_), np.clip((mean - mu) / sigma, -d_, d_)
    assert [a.grad for a in held] == [None, None]
    assert 0 < ((r > 1 / r_) & (r < r_)).sum() < 4 or 0 < (np.abs(d) < d_).sum() < 4
    ghat = gy * W
    gstd = (ghat * (x - mean) * -r / std**2).sum(0)
    gmean = (ghat * -r / std).sum(0)
    want = ghat * r / std + gstd * (x - mean) / (len(x) * std) + gmean / len(x)
    hat = (x - mean) / std * r + d
    for got, value in zip(t, (want, (gy * hat).sum(0), gy.sum(0)), strict=True):
        assert got.grad is not None
        np.testing.assert_allclose(got.grad.numpy(), value, rtol=1e-10, atol=1e-12)


def test_noise(device: str) -> None:
    """1805.11604, appendix A: s x + m, with s and m drawn as written, and constants to differentiation."""
    x = tb.tensor(draw(500, 3, 4), device=device, requires_grad=True)
    tb.manual_seed(3)
    y = noisy(x, 0.5, 1.25, 0.1, 0.1)
    tb.manual_seed(3)
    zero = noisy(tb.zeros_like(x), 0.5, 1.25, 0.1, 0.1).numpy()
    s = ((y.detach().numpy() - zero) / x.detach().numpy()).transpose(1, 0, 2).reshape(3, -1)
    m = zero.transpose(1, 0, 2).reshape(3, -1)
    assert (np.ptp(m, 1) < 0.2).all()
    assert (np.ptp(m, 1) > 0.19).all()
    assert (np.abs(m.mean(1)) < 0.51).all()
    assert np.ptp(m.mean(1)) > 0.01  # a distribution for each channel
    np.testing.assert_allclose(s.std(1), 0.1, rtol=0.1)
    assert ((s.mean(1) > 0.98) & (s.mean(1) < 1.27)).all()
    assert np.ptp(s.mean(1)) > 0.01
    gy = draw(500, 3, 4, seed=1)
    y.backward(tb.tensor(gy, device=device))
    assert x.grad is not None
    got = (x.grad.numpy() / gy).transpose(1, 0, 2).reshape(3, -1)
    np.testing.assert_allclose(got, s, rtol=1e-9)


# ------------------------------------------------------------------------------------------------- equal eigenvalues


def alike(count: int = 12, size: int = 4) -> Array:
    """Values (count, size) whose covariance is a multiple of the identity: all eigenvalues are equal."""
    left = draw(count, size)
    return np.asarray(np.linalg.qr(left - left.mean(0))[0] * np.sqrt(count) + 3.0)


def test_whitening_where_eigenvalues_are_equal(device: str) -> None:
    """First and second derivatives are right, where a formula with λ_i - λ_j below would divide by 0."""
    x = tb.tensor(alike(), device=device)
    np.testing.assert_allclose(np.cov(alike().T, bias=True), np.eye(4), atol=1e-12)
    check_vjp(lambda t: F.decorrelated_batch_norm(t, 4)[0], [x], order=2)
    check_vjp(lambda t: F.iter_norm(t, 4, 5)[0], [x], order=2)


@pytest.mark.parametrize("steps", [20, 60])
def test_any_number_of_iterations_is_stable(steps: int, dtype: str, device: str) -> None:
    """Newton's iterations arrive at Σ^(-1/2) and stay there, derivatives too; P³ Σ / tr Σ step by step would not.

    Uncoupled, a rounding error grows by up to 50 a step at these eigenvalues.
    """
    wide = np.linalg.qr(draw(40, 17) - draw(40, 17).mean(0))[0][:, 1:] * np.geomspace(1, 10, 16)
    x, gy, u = wide @ np.linalg.qr(draw(16, 16, seed=3))[0], draw(40, 16, seed=1), draw(40, 16, seed=2)
    found = []
    for kind, call in ((dtype, lambda t: F.iter_norm(t, 16, steps)), ("float64", lambda t: zca_of(t))):
        t, g, v = (tb.tensor(a.astype(kind), device=device) for a in (x, gy, u))
        y, _, w = call(t.requires_grad_())
        (gx,) = tb.grad(y, t, g, create_graph=True)
        found.append([y, w, gx, *tb.grad(gx, t, v)])
    tolerance = 2e-3 if dtype == "float32" else 1e-10
    for ours, exact in zip(*found, strict=True):
        want = exact.detach().numpy()
        np.testing.assert_allclose(ours.detach().numpy(), want, rtol=0, atol=tolerance * np.abs(want).max())


def zca_of(t: tb.Tensor) -> tuple[tb.Tensor, tb.Tensor, tb.Tensor]:
    return F.decorrelated_batch_norm(t, 16)


def test_iterations_of_dependent_channels_are_bounded(dtype: str) -> None:
    """Eigenvalues that are 0, or less by rounding, are not blown up: sums of others, copies, a constant channel."""
    for seed in range(3):
        mixed = draw(3000, 2, seed=seed) @ np.array([[1.0, 0.3, 0.7, 1.0, 0.0], [0.0, 0.8, -0.6, 0.0, 0.0]])
        x = (mixed * (1e4 if dtype == "float32" else 1e8)).astype(dtype)
        for steps in (5, 50, 200):
            t = tb.tensor(x, requires_grad=True)
            y, *_ = F.iter_norm(t, 5, steps)
            y.backward(tb.tensor(draw(3000, 5, seed=9).astype(dtype)))
            assert t.grad is not None
            assert np.isfinite(t.grad.numpy()).all()
            cov = np.cov(y.detach().numpy().T.astype(np.float64), bias=True)
            assert np.linalg.eigvalsh(cov).max() < 1.01
            assert steps == 5 or abs(np.trace(cov) - 2) < 0.05  # the two directions there are, at length 1


def test_fewer_values_than_channels_can_be_iterated(device: str) -> None:
    """Newton's iterations need no full rank, as eigenvalues do."""
    layer = nn.IterNorm(6, dtype=tb.float64, device=device)
    x = draw(4, 6)
    y = layer(tb.tensor(x, device=device)).detach().numpy()
    want, matrices = grouped(x, 6, lambda c: newton(c, 5))
    np.testing.assert_allclose(y, want, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(layer.running_wmat.numpy(), 0.9 * np.eye(6) + 0.1 * matrices, rtol=1e-10, atol=1e-12)
    with pytest.raises(ArgumentError, match="at least 2 values a channel in training"):
        layer(tb.tensor(x[:1], device=device))


def test_inverse_root_and_lyapunov(device: str) -> None:
    a = draw(2, 3, 3)
    cov = a @ a.transpose(0, 2, 1) + 0.5 * np.eye(3)
    t = tb.tensor(cov, device=device)
    w = inverse_root(t)
    np.testing.assert_allclose(w.numpy() @ w.numpy() @ cov, np.broadcast_to(np.eye(3), cov.shape), atol=1e-12)
    q = draw(2, 3, 3, seed=1)
    x = lyapunov(t, tb.tensor(q, device=device)).numpy()
    np.testing.assert_allclose(cov @ x + x @ cov, q, atol=1e-12)
    check_vjp(inverse_root, [t], order=2)
    check_vjp(lyapunov, [t, tb.tensor(q, device=device)], order=2)


def test_numpys_threads_are_the_users_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many threads whiten at once: each has one thread of NumPy's, and the number before is there after it."""

    class Library:
        threads = 5

        def get_num_threads(self) -> int:
            return self.threads

        def set_num_threads(self, n: int) -> None:
            self.threads = n

    library, seen = Library(), []
    eigh = np.linalg.eigh

    def slow(a: Any) -> Any:
        seen.append(library.threads)
        time.sleep(0.02)
        return eigh(a)

    monkeypatch.setattr(symmetric, "_blas", lambda: [library])
    monkeypatch.setattr(np.linalg, "eigh", slow)
    cov = tb.tensor(np.eye(3)[None])
    workers = [threading.Thread(target=inverse_root, args=(cov,)) for _ in range(3)]
    for worker in workers:
        worker.start()
        time.sleep(0.005)
    for worker in workers:
        worker.join()
    assert (library.threads, seen) == (5, [1, 1, 1])


def test_whitening_of_dependent_channels_is_finite(dtype: str) -> None:
    """Sums of others, copies, a constant one: an eigenvalue that rounding makes negative counts as a small one."""
    found = []
    for seed in range(4):
        x = draw(40, 2, seed=seed) @ np.array([[1.0, 0.3, 0.7, 1.0, 0.0], [0.0, 0.8, -0.6, 0.0, 0.0]])
        x = (x * (1e4 if dtype == "float32" else 1e8)).astype(dtype)
        left = x - x.mean(0)
        found.append(np.linalg.eigvalsh(left.T @ left / 40 + EPS * np.eye(5, dtype=dtype)).min())
        t = tb.tensor(x, requires_grad=True)
        y, *_ = F.decorrelated_batch_norm(t, 5)
        y.backward(tb.tensor(draw(40, 5, seed=9).astype(dtype)))
        assert t.grad is not None
        assert np.isfinite(y.detach().numpy()).all()
        assert np.isfinite(t.grad.numpy()).all()
        assert np.abs(y.detach().numpy()).max() < 40
    assert min(found) < 0
    constant = F.decorrelated_batch_norm(tb.tensor(np.full((9, 2), 0.1)), 2, None, tb.tensor([1.0, 2.0]).double())[0]
    np.testing.assert_array_equal(constant.numpy(), np.tile([1.0, 2.0], (9, 1)))


def test_a_batch_that_is_not_finite_is_passed_on(device: str) -> None:
    x = draw(9, 4)
    x[0, 0] = np.nan
    y, _, projection = F.decorrelated_batch_norm(tb.tensor(x, device=device), 2)
    assert np.isnan(y.numpy()[:, :2]).all()
    assert np.isfinite(y.numpy()[:, 2:]).all()
    assert np.isnan(projection.numpy()[0]).all()


# -------------------------------------------------------------------------------------------------------- identities

problems = st.tuples(st.integers(2, 5), st.integers(1, 4), st.integers(1, 5), st.integers(0, 99), devices)


@FOLD
@given(problems, st.sampled_from(["float32", "float64"]))
def test_what_equals_batch_norm(p: tuple[int, int, int, int, str], kind: str) -> None:
    """One ghost batch, r = 1 and d = 0, the second norm, groups of one channel."""
    n, c, length, seed, device = p
    x, w, b = (tb.tensor(a.astype(kind), device=device) for a in (draw(n, c, length, seed=seed), draw(c), draw(c)))
    want = F.batch_norm(x, None, None, w, b, True).numpy()
    one = tb.ones_like(w)
    tolerance = 1e-12 if kind == "float64" else 1e-5
    for got in (
        F.ghost_batch_norm(x, n, w, b)[0],
        F.batch_renorm(x, one * 7.0, one * 3.0, w, b, 1.0, 0.0)[0],
        F.lp_batch_norm(x, 2, w, b)[0],
        F.decorrelated_batch_norm(x, 1, w, b)[0],
    ):
        np.testing.assert_allclose(got.numpy(), want, rtol=tolerance, atol=10 * tolerance)


@FOLD
@given(problems)
def test_renorm_by_its_own_statistics_is_batch_norm(p: tuple[int, int, int, int, str]) -> None:
    """μ = μ_B and σ = σ_B give r = 1 and d = 0, whatever the bounds; and where nothing is clipped, y = (x - μ) / σ."""
    n, c, length, seed, device = p
    x = draw(n, c, length, seed=seed)
    mean, var = moments(x)
    t, *own = (tb.tensor(a, device=device) for a in (x, mean, np.sqrt(var + EPS)))
    got = F.batch_renorm(t, own[0], own[1], rmax=3.0, dmax=5.0)[0]
    np.testing.assert_allclose(got.numpy(), plain_norm(x, np.ones(c), np.zeros(c)), rtol=1e-9, atol=1e-9)
    mu, sigma = mean + 0.3, np.sqrt(var + EPS) * 1.7
    held = [tb.tensor(a, device=device) for a in (mu, sigma)]
    got = F.batch_renorm(t, held[0], held[1], rmax=math.inf, dmax=math.inf)[0]
    np.testing.assert_allclose(got.numpy(), (x - channel(mu, x)) / channel(sigma, x), rtol=1e-9, atol=1e-9)


@FOLD
@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(0, 99), devices)
def test_whitened_channels_have_the_identity_for_covariance(
    size: int, groups: int, length: int, seed: int, device: str
) -> None:
    c = size * groups
    x = draw(8 * size, c, length, seed=seed) @ np.diag(np.arange(1.0, length + 1)) + 5.0
    mixed = np.einsum("ij,njl->nil", draw(c, c, seed=seed + 1) + 2 * np.eye(c), x)
    t = tb.tensor(mixed, device=device)
    spread = np.linalg.cond(grouped(mixed, size, lambda cov: cov)[1]).max()
    found = [(F.decorrelated_batch_norm(t, size, eps=0.0)[0], 1e-14 * spread + 1e-12)]
    mild = np.linalg.qr(draw(8 * size, c + 1, seed=seed))[0][:, 1:] + 0.05 * draw(8 * size, c)
    found.append((F.iter_norm(tb.tensor(mild, device=device), size, 14, eps=0.0)[0], 1e-6))
    for y, tolerance in found:
        flat = rows(y.numpy())
        np.testing.assert_allclose(flat.mean(1), 0, atol=1e-10 * np.sqrt(spread))
        for at in range(0, c, size):
            cov = flat[at : at + size] @ flat[at : at + size].T / flat.shape[1]
            np.testing.assert_allclose(cov, np.eye(size), atol=tolerance)


SCALED: dict[str, Callable[[tb.Tensor], tb.Tensor]] = {
    "ghost": lambda x: F.ghost_batch_norm(x, 4, eps=0.0)[0],
    "l1": lambda x: F.lp_batch_norm(x, 1, eps=0.0)[0],
    "linf": lambda x: F.lp_batch_norm(x, math.inf, eps=0.0)[0],
    "l1 of x": lambda x: F.lp_batch_norm(x, 1, eps=0.0, uncentred=True)[0],
    "zca": lambda x: F.decorrelated_batch_norm(x, 2, eps=0.0)[0],
    "newton": lambda x: F.iter_norm(x, 2, 5, eps=0.0)[0],
    "response": lambda x: F.filter_response_norm(x, eps=0.0),
    "weight": lambda x: F.weight_standardization(x, eps=0.0),
}


@FOLD
@given(st.sampled_from(sorted(SCALED)), st.sampled_from([0.25, 2.0, 64.0, 3.0]), st.integers(0, 99), devices)
def test_scales_ahead_change_nothing(name: str, a: float, seed: int, device: str) -> None:
    """f(a x) = f(x), and ∂/∂(a x) = (1 / a) ∂/∂x."""
    x, gy = draw(8, 4, 3, seed=seed), tb.tensor(draw(8, 4, 3, seed=seed + 1), device=device)
    found = []
    for factor in (1.0, a):
        t = tb.tensor(x * factor, device=device, requires_grad=True)
        y = SCALED[name](t)
        y.backward(gy)
        assert t.grad is not None
        found.append((y.detach().numpy(), t.grad.numpy() * factor))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-8, atol=1e-9)


@FOLD
@given(
    st.sampled_from(sorted(SCALED.keys() - {"response", "l1 of x"})), st.floats(-100, 100), st.integers(0, 99), devices
)
def test_shifts_ahead_change_nothing(name: str, shift: float, seed: int, device: str) -> None:
    """And a bias ahead has no gradient."""
    x = draw(8, 4, 3, seed=seed)
    t = tb.tensor(x + shift, device=device, requires_grad=True)
    y = SCALED[name](t)
    np.testing.assert_allclose(y.detach().numpy(), SCALED[name](tb.tensor(x, device=device)).numpy(), atol=1e-9)
    y.backward(tb.tensor(draw(8, 4, 3, seed=seed + 1), device=device))
    assert t.grad is not None
    over = (1, 2) if name == "weight" else (0, 2)
    size = np.abs(t.grad.numpy()).sum(over)
    assert (size > 1e-3).all()
    assert (np.abs(t.grad.numpy().sum(over)) <= 1e-9 * size).all()


# ------------------------------------------------------------------------------------------------------------ layers

LAYERS: dict[str, Callable[..., Any]] = {
    "ghost": lambda **k: nn.GhostBatchNorm(4, 4, **k),
    "noisy": lambda **k: nn.NoisyBatchNorm(4, **k),
    "renorm": lambda **k: nn.BatchRenorm(4, schedule=(2.0, 1.0), **k),
    "l1": lambda **k: nn.LpBatchNorm(4, 1, **k),
    "l2": lambda **k: nn.LpBatchNorm(4, 2, **k),
    "linf": lambda **k: nn.LpBatchNorm(4, math.inf, **k),
    "l1 of x": lambda **k: nn.LpBatchNorm(4, 1, uncentred=True, **k),
    "zca": lambda **k: nn.DecorrelatedBatchNorm(4, 2, **k),
    "newton": lambda **k: nn.IterNorm(4, 2, **k),
}
SECOND = {
    "renorm": "running_std",
    "l1": "running_norm",
    "l2": "running_norm",
    "linf": "running_norm",
    "l1 of x": "running_norm",
    "zca": "running_projection",
    "newton": "running_wmat",
}
BATCHES = [draw(8, 4, 3, seed=10 + i) * (i + 1) + i for i in range(3)]


def statistics_of(name: str, x: Array) -> list[tuple[Array, Array]]:
    """What a batch adds to the running statistics: mean and the member's second."""
    parts = np.split(x, 2) if name == "ghost" else [x]
    found = []
    for part in parts:
        mean, var = moments(part)
        left = np.abs(rows(part) - mean[:, None])
        m = left.shape[1]
        second = {
            "ghost": var * m / (m - 1),
            "noisy": var * m / (m - 1),
            "renorm": np.sqrt(var + EPS),
            "l1": left.mean(1),
            "l2": var,
            "linf": left.max(1),
            "l1 of x": np.abs(rows(part)).mean(1),
            "zca": grouped(part, 2, zca)[1],
            "newton": grouped(part, 2, lambda c: newton(c, 5))[1],
        }[name]
        found.append((mean, second))
    return found


def evaluated(name: str, x: Array, mean: Array, second: Array) -> Array:
    """What evaluation makes of these."""
    left = x - channel(mean, x)
    if name in ("zca", "newton"):
        flat = rows(left).reshape(2, 2, -1)
        return np.asarray(np.moveaxis((second @ flat).reshape(4, x.shape[0], *x.shape[2:]), 0, 1))
    norms = {"renorm": second, "l1": second + EPS, "l1 of x": second + EPS, "linf": second + EPS}
    scale = norms.get(name, np.sqrt(second + EPS))
    return np.asarray(left / channel(scale, x))


@pytest.mark.parametrize("momentum", [0.3, None])
@pytest.mark.parametrize("name", LAYERS)
def test_running_statistics(name: str, momentum: float | None, device: str) -> None:
    """They move as written, evaluation uses them, and differentiates through them twice."""
    layer = LAYERS[name](momentum=momentum, device=device, dtype=tb.float64)
    second_name = SECOND.get(name, "running_var")
    assert list(layer.state_dict()) == ["weight", "bias", "running_mean", second_name, "num_batches_tracked"]
    mean = np.zeros(4)
    second = np.stack([np.eye(2)] * 2) if name in ("zca", "newton") else np.ones(4)
    np.testing.assert_array_equal(getattr(layer, second_name).numpy(), second)
    count = 0
    for x in BATCHES:
        layer(tb.tensor(x, device=device))
        for of_mean, of_second in statistics_of(name, x):
            count += 1
            rate = 1 / count if momentum is None else momentum
            mean, second = mean + rate * (of_mean - mean), second + rate * (of_second - second)
    assert layer.num_batches_tracked.item() == count
    np.testing.assert_allclose(layer.running_mean.numpy(), mean, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(getattr(layer, second_name).numpy(), second, rtol=1e-10, atol=1e-12)
    layer.eval()
    t = tb.tensor(BATCHES[0], device=device)
    np.testing.assert_allclose(layer(t).detach().numpy(), evaluated(name, BATCHES[0], mean, second), rtol=1e-10)
    check_vjp(layer, [t], order=2)
    assert layer.num_batches_tracked.item() == count
    twin = LAYERS[name](momentum=momentum, device=device, dtype=tb.float64).eval()
    twin.load_state_dict(layer.state_dict())
    np.testing.assert_array_equal(twin(t).detach().numpy(), layer(t).detach().numpy())


@pytest.mark.parametrize("name", LAYERS)
def test_the_guard(name: str, dtype: str) -> None:
    """A batch that is not finite goes into nothing, and is counted; its output shows it. Later ones go in again."""
    layer = LAYERS[name](dtype=getattr(tb, dtype))
    good, bad = (x.astype(dtype) for x in (BATCHES[0], BATCHES[1].copy()))
    bad[0, 0, 0], bad[-1, 3, 0] = np.inf, np.nan
    layer(tb.tensor(good))
    before = {k: v.numpy().copy() for k, v in layer.state_dict().items()}
    assert not np.isfinite(layer(tb.tensor(bad)).detach().numpy()).all()
    for key, value in layer.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), before[key])
    assert layer.skipped_batches == (2 if name == "ghost" else 1)
    layer(tb.tensor(good))
    assert layer.num_batches_tracked.item() == 2 * before["num_batches_tracked"]
    layer.reset_running_stats()
    assert (layer.skipped_batches, layer.num_batches_tracked.item()) == (0, 0)
    assert not layer.running_mean.numpy().any()


@pytest.mark.parametrize("name", LAYERS)
def test_switches_and_empty_batches(name: str, device: str) -> None:
    layer = LAYERS[name](device=device, dtype=tb.float64)
    x = tb.tensor(BATCHES[0], device=device)
    start = {k: v.numpy().copy() for k, v in layer.state_dict().items()}
    empty = tb.zeros(0, 4, 3, dtype=tb.float64, device=device, requires_grad=True)
    y = layer(empty)
    assert y.shape == (0, 4, 3)
    y.backward(tb.zeros_like(y))
    np.testing.assert_array_equal(layer.weight.grad.numpy(), np.zeros(4))
    layer.update_stats = False
    layer(x)
    for key, value in layer.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), start[key])
    layer.update_stats, layer.use_batch_stats = True, True
    by_batch = layer.eval()(x)
    for key, value in layer.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), start[key])
    layer.train()
    layer.use_batch_stats = False
    assert np.abs(by_batch.detach().numpy() - layer(x).detach().numpy()).max() > 1e-2
    if name != "noisy":
        by_running = layer(x).detach().numpy()
        np.testing.assert_array_equal(by_running, layer.eval()(x).detach().numpy())
    free = LAYERS[name](device=device, dtype=tb.float64, track_running_stats=False, affine=False)
    assert list(free.state_dict()) == []
    first = free.eval()(x).numpy()
    np.testing.assert_array_equal(first, free(x).numpy())  # without noise
    if name != "noisy":
        np.testing.assert_array_equal(first, free.train()(x).numpy())
    free.use_batch_stats = False
    with pytest.raises(ArgumentError, match="'use_batch_stats' must be None or True without these"):
        free(x)


@pytest.mark.parametrize("name", LAYERS)
def test_gamma_of_0_in_training_and_evaluation(name: str, device: str) -> None:
    """First and second derivatives are right."""
    layer = LAYERS[name](device=device, dtype=tb.float64)
    b = tb.tensor(B, device=device)
    for mode in (True, False):
        layer.train(mode)
        layer.update_stats = False
        layer.schedule = (1.0, 0.0)  # what renorm's r and d hold constant, differences do not

        def of(x: tb.Tensor, w: tb.Tensor, b: tb.Tensor) -> tb.Tensor:
            tb.manual_seed(1)
            found: tb.Tensor = nn.utils.functional_call(layer, {"weight": w, "bias": b}, x)
            return found

        check_vjp(of, [tb.tensor(BATCHES[0], device=device), b * 0, b], order=2)
        y = of(tb.tensor(BATCHES[0], device=device), b * 0, b).numpy()
        if name != "noisy" or not mode:
            np.testing.assert_array_equal(y, np.broadcast_to(B[:, None], y.shape))


@pytest.mark.parametrize("name", LAYERS)
def test_float32_at_a_large_mean(name: str) -> None:
    """A mean of 1e6 deviations costs a thousandth at most."""
    x = (draw(64, 4, 9, seed=1) + 1e6).astype(np.float32)
    wide = x.astype(np.float64)
    found = []
    for kind in ("float32", "float64"):
        layer = LAYERS[name](dtype=getattr(tb, kind), **({"momentum": 1.0} if name == "renorm" else {}))
        tb.manual_seed(0)
        y = layer(tb.tensor(wide.astype(kind)))
        found.append(y.detach().numpy().astype(np.float64))
    if name == "noisy":  # the noise of the dtypes differs
        found = [F.batch_norm(tb.tensor(wide.astype(k)), None, None, training=True).numpy() for k in ("f4", "f8")]
    np.testing.assert_allclose(found[0], found[1], atol=1e-3)


@pytest.mark.parametrize("name", ["ghost", "l1", "l2", "linf", "l1 of x"])
@pytest.mark.parametrize("value", [0.1, -1e6, 3e30])
def test_a_constant_channel_gives_exactly_beta(name: str, value: float, device: str, dtype: str) -> None:
    """With a finite gradient."""
    x = BATCHES[0].astype(dtype)
    x[:, 2] = value
    layer = LAYERS[name](device=device, dtype=getattr(tb, dtype))
    with tb.no_grad():
        layer.bias.fill_(0.7)
    t = tb.tensor(x, device=device, requires_grad=True)
    y = layer(t)
    y.backward(tb.tensor(BATCHES[1].astype(dtype), device=device))
    np.testing.assert_array_equal(y.detach().numpy()[:, 2], layer.bias.detach().numpy()[2])
    assert t.grad is not None
    assert np.isfinite(t.grad.numpy()).all()
    np.testing.assert_allclose(layer.running_mean.numpy()[2], (1 - 0.9 ** (2 if name == "ghost" else 1)) * value, 1e-6)


def test_renorm_in_float32_at_a_large_mean(device: str) -> None:
    """The distance of the batch's mean from the running one is not lost to rounding: here 1 / 64 is between numbers."""
    x = (np.array([[0.0, 1.0], [1.0, 2.0], [0.0, 0.0], [0.125, 1.0]]) + 1e6).astype(np.float32)
    wide, mu, sigma = x.astype(np.float64), np.array([1e6, 1e6]), np.array([0.5, 1.0])
    held = [tb.tensor(a.astype(np.float32), device=device) for a in (mu, sigma)]
    got = F.batch_renorm(tb.tensor(x, device=device), held[0], held[1], rmax=9.0, dmax=9.0)[0]
    np.testing.assert_allclose(got.numpy(), renorm(wide, mu, sigma, np.ones(2), np.zeros(2), 9.0, 9.0), atol=1e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_threads_do_not_change_a_bit(name: str) -> None:
    x = draw(64, 4, 700, seed=2).astype(np.float32)
    found = []
    for threads in (1, 2):
        tb.set_num_threads(threads)
        tb.manual_seed(0)
        layer = LAYERS[name]()
        t = tb.tensor(x, requires_grad=True)
        y = layer(t)
        y.backward(tb.tensor(np.ascontiguousarray(x[::-1])))
        assert t.grad is not None
        found.append([a.numpy() for a in (y.detach(), t.grad, layer.weight.grad, *layer.state_dict().values())])
    for one, two in zip(*found, strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("name", LAYERS)
def test_every_layout_gives_the_same(name: str, device: str) -> None:
    """(N, C), (N, C, L), (N, C, H, W) in C order, channels_last, sliced, and (N, C, D, H, W)."""
    x, gy = draw(8, 4, 6, 2, seed=1), draw(8, 4, 6, 2, seed=2)
    last = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    sliced = np.repeat(x, 2, axis=0)[::2]
    found = []
    for array in (x, last, sliced, x.reshape(8, 4, 12), x.reshape(8, 4, 3, 2, 2)):
        tb.manual_seed(0)
        layer = LAYERS[name](device=device, dtype=tb.float64)
        if name == "noisy":
            layer.noise = (0.0, 1.0, 0.0, 0.0)
        t = tb.from_numpy(array).to(device=device).requires_grad_()
        y = layer(t)
        assert y.shape == array.shape
        y.backward(tb.tensor(gy.reshape(array.shape), device=device))
        assert t.grad is not None
        kept = [v.numpy() for v in layer.state_dict().values()]
        found.append([y.detach().numpy().reshape(x.shape), t.grad.numpy().reshape(x.shape), *kept])
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            np.testing.assert_allclose(two, one, rtol=1e-9, atol=1e-11)
    flat = LAYERS[name](device=device, dtype=tb.float64)(tb.tensor(x[..., 0, 0], device=device))
    assert flat.shape == (8, 4)


@pytest.mark.parametrize("name", LAYERS)
def test_captured_steps(name: str) -> None:
    """What a replay computes, running statistics included, is what eager code computes."""
    found = []
    for captured in (False, True):
        tb.manual_seed(0)
        layer = LAYERS[name]()
        model = nn.Sequential(nn.Linear(5, 4), layer, nn.Linear(4, 3))
        optimizer = tb.optim.SGD(model.parameters(), lr=0.1)

        def step(x: tb.Tensor, model: Any = model, optimizer: Any = optimizer) -> tb.Tensor:
            optimizer.zero_grad()
            loss: tb.Tensor = (model(x) * x[:, :3]).mean()
            loss.backward()
            optimizer.step()
            return loss

        run = tb.capture(step) if captured else step
        losses = [run(tb.tensor(draw(8, 5, seed=i).astype(np.float32))).item() for i in range(6)]
        found.append([np.array(losses), *(v.numpy().copy() for v in model.state_dict().values())])
    assert "0 replays" not in repr(run)
    for one, two in zip(*found, strict=True):
        np.testing.assert_array_equal(two, one)


@pytest.mark.parametrize("name", LAYERS)
def test_copies_and_texts(name: str) -> None:
    layer = LAYERS[name]()
    twin = copy.deepcopy(layer)
    layer(tb.tensor(BATCHES[0].astype(np.float32)))
    assert twin.num_batches_tracked.item() == 0
    assert repr(layer).startswith(f"{type(layer).__name__}(4, eps=1e-05, momentum=")
    layer.double()
    assert {v.dtype for k, v in layer.state_dict().items() if k != "num_batches_tracked"} == {tb.float64}
    assert layer(tb.tensor(BATCHES[0])).dtype is tb.float64


def test_the_schedule_of_renorm() -> None:
    """Section 4.1: plain for 5000 steps, then linearly to rmax = 3 at 40000 and dmax = 5 at 25000."""
    layer = nn.BatchRenorm(2)
    for step, limits in (
        (0, (1, 0)),
        (5_000, (1, 0)),
        (15_000, (1 + 2 * 10 / 35, 2.5)),
        (25_000, (1 + 2 * 20 / 35, 5)),
    ):
        assert layer.num_batches_tracked is not None
        layer.num_batches_tracked.fill_(step)
        np.testing.assert_allclose(layer.limits, limits)
    assert nn.RenormSchedule()(10**9) == (3.0, 5.0)
    assert nn.RenormSchedule(2.0, 1.0, 0, 0, 0)(0) == (2.0, 1.0)
    layer = nn.BatchRenorm(2, schedule=nn.RenormSchedule(3.0, 5.0, 1, 1, 1), dtype=tb.float64, momentum=0.5)
    one, two = draw(9, 2), draw(9, 2, seed=1) + 1
    got = [layer(tb.tensor(x)).detach().numpy() for x in (one, two)]
    np.testing.assert_allclose(got[0], plain_norm(one, np.ones(2), np.zeros(2)), rtol=1e-10)
    mean, sigma = one.mean(0) / 2, (1 + np.sqrt(one.var(0) + EPS)) / 2
    np.testing.assert_allclose(got[1], renorm(two, mean, sigma, np.ones(2), np.zeros(2), 3.0, 5.0), rtol=1e-10)


def test_renorm_in_training_is_what_evaluation_does() -> None:
    """Within the bounds, the output of a training batch is (x - μ) / σ by the running statistics of before."""
    layer = nn.BatchRenorm(3, schedule=lambda step: (100.0, 100.0), dtype=tb.float64, momentum=0.2)
    for seed in range(3):
        x = tb.tensor(draw(6, 3, seed=seed) * 2 + 1)
        want = layer.eval()(x).detach().numpy()
        np.testing.assert_allclose(layer.train()(x).detach().numpy(), want, rtol=1e-10)


def test_noise_is_for_training() -> None:
    layer, twin = nn.NoisyBatchNorm(4, dtype=tb.float64), nn.BatchNorm1d(4, dtype=tb.float64)
    x = tb.tensor(BATCHES[0])
    clean = nn.NoisyBatchNorm(4, 0.0, 1.0, 0.0, 0.0, dtype=tb.float64)
    np.testing.assert_array_equal(clean(x).detach().numpy(), twin(x).detach().numpy())
    assert np.abs(layer(x).detach().numpy() - layer(x).detach().numpy()).min() > 0
    twin(x)
    np.testing.assert_array_equal(layer.eval()(x).detach().numpy(), twin.eval()(x).detach().numpy())


def test_response_layers(device: str) -> None:
    layer = nn.FilterResponseNorm(4, learnable_eps=True, device=device, dtype=tb.float64)
    tlu = nn.TLU(4, device=device, dtype=tb.float64)
    assert list(layer.state_dict()) == ["weight", "bias", "eps_l"]
    assert list(tlu.state_dict()) == ["tau"]
    with tb.no_grad():
        tlu.tau.copy_(tb.tensor(W, device=device))
    want = np.maximum(response(X, np.ones(4), ZERO, 1e-6 + 1e-4), channel(W, X))
    np.testing.assert_allclose(tlu(layer(tb.tensor(X, device=device))).detach().numpy(), want, rtol=1e-10)
    fixed = nn.FilterResponseNorm(4, device=device, dtype=tb.float64, affine=False)
    np.testing.assert_allclose(
        fixed(tb.tensor(X, device=device)).numpy(), response(X, np.ones(4), ZERO, 1e-6), rtol=1e-10
    )

    def of(x: tb.Tensor, eps: tb.Tensor) -> tb.Tensor:
        found: tb.Tensor = nn.utils.functional_call(layer, {"eps_l": eps}, x)
        return found

    check_vjp(of, [tb.tensor(X, device=device), tb.tensor([-0.3], device=device)], order=2)
    assert layer(tb.zeros(0, 4, 3, dtype=tb.float64, device=device)).shape == (0, 4, 3)
    x = (draw(3, 2, 9) + 1e6).astype(np.float32)
    got = F.filter_response_norm(tb.tensor(x, device=device)).numpy()
    np.testing.assert_allclose(got, response(x.astype(np.float64), np.ones(2), np.zeros(2), 1e-6), rtol=1e-5)


def test_weight_standardisation_of_layers() -> None:
    conv = nn.Conv2d(3, 4, 2, dtype=tb.float64)
    raw = conv.weight.detach().numpy().copy()
    assert weight_standardization(conv) is conv
    assert list(conv.state_dict()) == ["bias", "parametrizations.weight.original"]
    np.testing.assert_allclose(conv.weight.detach().numpy(), standardised(raw, EPS), rtol=1e-10)
    x = tb.tensor(draw(2, 3, 5, 5))
    want = F.conv2d(x, tb.tensor(standardised(raw, EPS)), conv.bias)
    np.testing.assert_allclose(conv(x).detach().numpy(), want.detach().numpy(), rtol=1e-9, atol=1e-12)
    conv(x).sum().backward()
    original = conv.parametrizations.weight.original
    np.testing.assert_allclose(original.grad.numpy().sum((1, 2, 3)), 0, atol=1e-9 * np.abs(original.grad.numpy()).max())
    back = weight_standardization(nn.ConvTranspose2d(3, 4, 2, dtype=tb.float64), eps=0.0)
    np.testing.assert_allclose(back.weight.detach().numpy().mean((0, 2, 3)), 0, atol=1e-12)
    np.testing.assert_allclose(back.weight.detach().numpy().var((0, 2, 3)), 1, rtol=1e-10)
    large = (draw(2, 3, 3, 3) + 1e6).astype(np.float32)
    np.testing.assert_allclose(
        F.weight_standardization(tb.tensor(large)).numpy(), standardised(large.astype(np.float64), EPS), atol=1e-3
    )
