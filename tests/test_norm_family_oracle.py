"""Every member of the family against its paper's formula, written out in PyTorch, whose autograd differentiates it.

Values, running statistics, first and second derivatives, in training and evaluation, with weights of 0 too: what finite
differences can only say roughly, to 1e-10 in float64 and to rounding in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest

import tinygrad_bn as tb
from tinygrad_bn import functional as F
from tinygrad_bn import nn
from tinygrad_bn.nn import parametrizations

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.peers

Array = np.ndarray[Any, Any]
Torch = Any
State = dict[str, Torch]
Paper = Callable[[Torch, State, bool], Torch]
EPS = 1e-5
MOMENTUM = 0.3


class Case(NamedTuple):
    """A layer, its inputs' shape, and y by the paper: of x, of parameters and buffers by name, and of the mode."""

    make: Callable[..., Any]
    shape: tuple[int, ...]
    paper: Paper
    gains: tuple[str, ...] = ("weight",)
    call: Callable[[Any, Any], Any] = lambda layer, x: layer(x)
    count: int = 1


def draw(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape)


# --------------------------------------------------------------------------------------- the papers, in PyTorch's words


def channel(t: Torch, x: Torch) -> Torch:
    return t.reshape(1, -1, *[1] * (x.ndim - 2))


def rows(x: Torch) -> Torch:
    return x.transpose(0, 1).reshape(x.shape[1], -1)


def affine(x: Torch, s: State) -> Torch:
    return x * channel(s["weight"], x) + channel(s["bias"], x)


def commit(s: State, name: str, new: Torch) -> None:
    s[name] = s[name] + MOMENTUM * (new.detach() - s[name])


def standardised(x: Torch, mean: Torch, var: Torch) -> Torch:
    return (x - channel(mean, x)) / torch.sqrt(channel(var, x) + EPS)


def of_batch(x: Torch, s: State, training: bool) -> Torch:
    """1502.03167, Algorithm 1, before γ and β; s gets the batch's statistics."""
    if not training:
        return standardised(x, s["running_mean"], s["running_var"])
    mean, var = rows(x).mean(1), rows(x).var(1, correction=0)
    m = rows(x).shape[1]
    commit(s, "running_mean", mean)
    commit(s, "running_var", var * m / (m - 1))
    return standardised(x, mean, var)


def batch(x: Torch, s: State, training: bool) -> Torch:
    return affine(of_batch(x, s, training), s)


def ghost(x: Torch, s: State, training: bool) -> Torch:
    """1705.08741, Algorithm 1: the statistics of ghost batches one after the other into the running ones."""
    parts = x.split(4) if training else [x]
    return affine(torch.cat([of_batch(part, s, training) for part in parts]), s)


def renorm(x: Torch, s: State, training: bool) -> Torch:
    """1702.03275, Algorithm 1, with rmax = 2 and dmax = 1; stop_gradient is detach."""
    if not training:
        return affine((x - channel(s["running_mean"], x)) / channel(s["running_std"], x), s)
    mean = rows(x).mean(1)
    std = torch.sqrt(EPS + rows(x).var(1, correction=0))
    r = (std / s["running_std"]).clamp(1 / 2, 2).detach()
    d = ((mean - s["running_mean"]) / s["running_std"]).clamp(-1, 1).detach()
    commit(s, "running_mean", mean)
    commit(s, "running_std", std)
    return affine((x - channel(mean, x)) / channel(std, x) * channel(r, x) + channel(d, x), s)


def lp(p: float, uncentred: bool) -> Paper:
    """1805.11604, section 3.3."""

    def paper(x: Torch, s: State, training: bool) -> Torch:
        mean, norm = s["running_mean"], s["running_norm"]
        if training:
            mean = rows(x).mean(1)
            left = (rows(x) - (0 if uncentred else mean[:, None])).abs()
            norm = left.amax(1) if p == math.inf else (left**p).mean(1)
            commit(s, "running_mean", mean)
            commit(s, "running_norm", norm)
        scale = norm + EPS if p == math.inf else (norm + EPS) ** (1 / p)
        return affine((x - channel(mean, x)) / channel(scale, x), s)

    return paper


def zca(cov: Torch) -> Torch:
    """1804.08450: D Λ^(-1/2) Dᵀ."""
    values, vectors = torch.linalg.eigh(cov)
    return vectors @ torch.diag(values**-0.5) @ vectors.T


def newton(cov: Torch) -> Torch:
    """1904.03441, Algorithm 1, with T = 5."""
    p, trace = torch.eye(len(cov), dtype=cov.dtype), torch.trace(cov)
    for _ in range(5):
        p = 0.5 * (3 * p - p @ p @ p @ (cov / trace))
    return p / torch.sqrt(trace)


def whitening(root: Callable[[Torch], Torch], second: str) -> Paper:
    """By groups of two channels."""

    def paper(x: Torch, s: State, training: bool) -> Torch:
        mean, matrices = s["running_mean"], s[second]
        if training:
            mean = rows(x).mean(1)
            groups = (rows(x) - mean[:, None]).split(2)
            one = torch.eye(2, dtype=x.dtype)
            matrices = torch.stack([root(g @ g.T / g.shape[1] + EPS * one) for g in groups])
            commit(s, "running_mean", mean)
            commit(s, second, matrices)
        groups = (rows(x) - mean[:, None]).split(2)
        white = torch.cat([w @ g for w, g in zip(matrices, groups, strict=True)])
        return affine(white.reshape(x.shape[1], x.shape[0], *x.shape[2:]).transpose(0, 1), s)

    return paper


def within(*over: int, groups: int = 0) -> Paper:
    """1607.06450, 1607.08022, 1803.08494: mean and variance of a sample's axes."""

    def paper(x: Torch, s: State, training: bool) -> Torch:
        t = x.reshape(x.shape[0], groups, -1) if groups else x
        hat = (t - t.mean(over, True)) / torch.sqrt(t.var(over, correction=0, keepdim=True) + EPS)
        hat = hat.reshape(x.shape)
        return hat * s["weight"] + s["bias"] if over == (1, 2) else affine(hat, s)

    return paper


def instance(x: Torch, s: State, training: bool) -> Torch:
    """1607.08022, with running statistics: those of the samples, averaged."""
    if not training:
        return affine(standardised(x, s["running_mean"], s["running_var"]), s)
    commit(s, "running_mean", x.mean(2).mean(0))
    commit(s, "running_var", x.var(2).mean(0))
    return within(2)(x, s, training)


def rms(x: Torch, s: State, training: bool) -> Torch:
    """1910.07467, equation 4, with eps inside the root."""
    return x / torch.sqrt((x * x).mean((1, 2), True) + 1e-3) * s["weight"]


def response(x: Torch, s: State, training: bool) -> Torch:
    """1911.09737: ε = 1e-6 + |ε_l|."""
    eps = 1e-6 + s["eps_l"].abs() if "eps_l" in s else 1e-6
    return affine(x / torch.sqrt((x * x).mean(2, True) + eps), s)


def threshold(x: Torch, s: State, training: bool) -> Torch:
    return torch.maximum(x, channel(s["tau"], x))


def length(x: Torch, s: State, training: bool) -> Torch:
    """1602.07868, equation 2: w = g v / ‖v‖, by filter."""
    g, v = (s[f"parametrizations.weight.original{i}"] for i in range(2))
    w = g * v / torch.sqrt((v * v).sum((1, 2, 3), True))
    return torch.nn.functional.conv2d(x, w, s["bias"])


def standard_filters(x: Torch, s: State, training: bool) -> Torch:
    """1903.10520, equations 5 to 7."""
    w = s["parametrizations.weight.original"]
    w = (w - w.mean((1, 2, 3), True)) / torch.sqrt(w.var((1, 2, 3), correction=0, keepdim=True) + EPS)
    return torch.nn.functional.conv2d(x, w, s["bias"])


def domains(x: Torch, s: State, training: bool) -> Torch:
    """1906.03950: the first five samples are of domain 1, the others of domain 0."""
    out = []
    for name, part in (("bns.1.", x[:5]), ("bns.0.", x[5:])):
        own = {k.removeprefix(name): v for k, v in s.items() if k.startswith(name)}
        out.append(batch(part, own, training))
        s |= {name + k: v for k, v in own.items()}
    return torch.cat(out)


def at_step(s: State, name: str, z: Torch, t: int, training: bool) -> Torch:
    """1603.09025: BN with statistics of the time step, weight and perhaps bias of all."""
    own = {k: s[f"{name}.{k}"][t] for k in ("running_mean", "running_var")}
    hat = of_batch(z, own, training) * s[f"{name}.weight"]
    for key, value in own.items():
        kept = s[f"{name}.{key}"].clone()
        kept[t] = value
        s[f"{name}.{key}"] = kept
    return hat + s[f"{name}.bias"] if f"{name}.bias" in s else hat


def recurrent(kind: str) -> Paper:
    """1603.09025, equations 6 to 8, with gates in the order i, f, g, o; x is (T, N, I)."""

    def paper(x: Torch, s: State, training: bool) -> Torch:
        h = c = torch.zeros(x.shape[1], 2, dtype=x.dtype)
        out = []
        for t in range(len(x)):
            z = at_step(s, "bn_hh", h @ s["weight_hh"].T, t, training) + s["bias"]
            z = z + at_step(s, "bn_ih", x[t] @ s["weight_ih"].T, t, training)
            h = torch.tanh(z)
            if kind == "lstm":
                i, f, g, o = z.chunk(4, 1)
                c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
                h = torch.sigmoid(o) * torch.tanh(at_step(s, "bn_c", c, t, training))
            out.append(h)
        return torch.stack(out)

    return paper


DEEP = (8, 4, 3)
KEPT = {"momentum": MOMENTUM}
DOMAIN = tb.tensor([1] * 5 + [0] * 5)
CASES: dict[str, Case] = {
    "batch": Case(lambda **k: nn.BatchNorm1d(4, **KEPT, **k), DEEP, batch),
    "sync": Case(lambda **k: nn.SyncBatchNorm(4, **KEPT, **k), DEEP, batch),
    "ghost": Case(lambda **k: nn.GhostBatchNorm(4, 4, **KEPT, **k), DEEP, ghost, count=2),
    "renorm": Case(lambda **k: nn.BatchRenorm(4, schedule=(2.0, 1.0), **KEPT, **k), DEEP, renorm),
    "l1": Case(lambda **k: nn.LpBatchNorm(4, 1, **KEPT, **k), DEEP, lp(1, False)),
    "l2": Case(lambda **k: nn.LpBatchNorm(4, 2, **KEPT, **k), DEEP, lp(2, False)),
    "linf": Case(lambda **k: nn.LpBatchNorm(4, math.inf, **KEPT, **k), DEEP, lp(math.inf, False)),
    "l1 of x": Case(lambda **k: nn.LpBatchNorm(4, 1, uncentred=True, **KEPT, **k), DEEP, lp(1, True)),
    "l2 of x": Case(lambda **k: nn.LpBatchNorm(4, 2, uncentred=True, **KEPT, **k), DEEP, lp(2, True)),
    "linf of x": Case(lambda **k: nn.LpBatchNorm(4, math.inf, uncentred=True, **KEPT, **k), DEEP, lp(math.inf, True)),
    "zca": Case(lambda **k: nn.DecorrelatedBatchNorm(4, 2, **KEPT, **k), DEEP, whitening(zca, "running_projection")),
    "newton": Case(lambda **k: nn.IterNorm(4, 2, **KEPT, **k), DEEP, whitening(newton, "running_wmat")),
    "domains": Case(
        lambda **k: nn.DomainSpecificBatchNorm1d(4, 2, **KEPT, **k),
        (10, 4, 3),
        domains,
        ("bns.0.weight", "bns.1.weight"),
        lambda layer, x: layer(x, DOMAIN),
    ),
    "layer": Case(lambda **k: nn.LayerNorm((4, 3), **k), DEEP, within(1, 2)),
    "group": Case(lambda **k: nn.GroupNorm(2, 4, **k), DEEP, within(2, groups=2)),
    "instance": Case(
        lambda **k: nn.InstanceNorm1d(4, affine=True, track_running_stats=True, **KEPT, **k), DEEP, instance, count=0
    ),
    "rms": Case(lambda **k: nn.RMSNorm((4, 3), 1e-3, **k), DEEP, rms),
    "response": Case(lambda **k: nn.FilterResponseNorm(4, **k), DEEP, response),
    "learned eps": Case(lambda **k: nn.FilterResponseNorm(4, learnable_eps=True, **k), (8, 4, 1), response),
    "threshold": Case(lambda **k: nn.TLU(4, **k), DEEP, threshold, ()),
    "weight norm": Case(
        lambda **k: parametrizations.weight_norm(nn.Conv2d(2, 3, 2, **k)),
        (2, 2, 4, 3),
        length,
        ("parametrizations.weight.original0",),
    ),
    "weight standardisation": Case(
        lambda **k: parametrizations.weight_standardization(nn.Conv2d(2, 3, 2, **k)),
        (2, 2, 4, 3),
        standard_filters,
        (),
    ),
    "rnn": Case(
        lambda **k: nn.BNRNNCell(3, 2, 3, **KEPT, **k),
        (3, 6, 3),
        recurrent("rnn"),
        ("bn_ih.weight", "bn_hh.weight"),
        lambda cell, x: cell.unroll(x)[0],
    ),
    "lstm": Case(
        lambda **k: nn.BNLSTMCell(3, 2, 3, **KEPT, **k),
        (3, 6, 3),
        recurrent("lstm"),
        ("bn_ih.weight", "bn_hh.weight", "bn_c.weight"),
        lambda cell, x: cell.unroll(x)[0],
    ),
}


# ------------------------------------------------------------------------------------------------------- the comparison


def spread(shape: tuple[int, ...], seed: int) -> Array:
    """Inputs whose channels differ in mean and size."""
    size = np.linspace(0.5, 3.0, shape[1]).reshape(1, -1, *[1] * (len(shape) - 2))
    return draw(*shape, seed=seed) * size + 2 * size - 3


def near(ours: Any, theirs: Torch, tolerance: float, what: str) -> None:
    a, b = ours.detach().numpy().astype(np.float64), theirs.detach().numpy()
    assert np.isfinite(a).all(), what
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1.0, np.abs(b).max()), err_msg=what)


def pulled(lib: Any, y: Any, inputs: Sequence[Any], cotangents: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    """First derivatives of y, under the first cotangent; and those of all these, under the others."""
    grad = tb.grad if lib is tb else torch.autograd.grad
    first = grad(y, inputs, cotangents[0], create_graph=True)
    yield from ((f"first {i}", g) for i, g in enumerate(first))
    recorded = [(g, u) for g, u in zip(first, cotangents[1:], strict=True) if g.requires_grad]
    points = [*inputs, cotangents[0]]
    second = grad([g for g, _ in recorded], points, [u for _, u in recorded], allow_unused=True)
    yield from ((f"second {i}", lib.zeros_like(p) if g is None else g) for i, (g, p) in enumerate(zip(second, points)))


def compare(case: Case, layer: Any, state: State, x: Array, kind: str, device: str) -> None:
    """Values, first and second derivatives of a layer and its paper, at an input of theirs."""
    names = [k for k, _ in layer.named_parameters()]
    tolerance = 1e-10 if kind == "float64" else 3e-5
    parameters = [p.detach().clone().requires_grad_() for p in (state[k] for k in names)]
    given = {**state, **dict(zip(names, parameters, strict=True))}
    theirs_x = torch.tensor(x, requires_grad=True)
    theirs = case.paper(theirs_x, given, layer.training)
    state.update({k: v for k, v in given.items() if k not in names})
    u = [draw(*s, seed=50 + i) for i, s in enumerate([tuple(theirs.shape), x.shape, *(p.shape for p in parameters)])]
    ours_x = tb.tensor(x.astype(kind), device=device, requires_grad=True)
    ours = case.call(layer, ours_x)
    near(ours, theirs, tolerance, "y")
    on_ours = [tb.tensor(a.astype(kind), device=device) for a in u]
    on_theirs = [torch.tensor(a) for a in u]
    on_ours[0].requires_grad_()
    on_theirs[0].requires_grad_()
    mine = pulled(tb, ours, [ours_x, *layer.parameters()], on_ours)
    reference = pulled(torch, theirs, [theirs_x, *parameters], on_theirs)
    for (what, a), (_, b) in zip(mine, reference, strict=True):
        near(a, b, tolerance * (4 if "second" in what else 1), what)


PROBLEMS = [(name, zero) for name, case in CASES.items() for zero in (False, True) if case.gains or not zero]


@pytest.mark.parametrize(("name", "zero"), PROBLEMS, ids=[f"{n}{', weight 0' * z}" for n, z in PROBLEMS])
def test_members_are_their_papers(name: str, zero: bool, dtype: str, device: str) -> None:
    case = CASES[name]
    layer = case.make(dtype=getattr(tb, dtype), device=device)
    state: State = {k: torch.tensor(v.numpy().astype(np.float64)) for k, v in layer.state_dict().items()}
    for i, (key, p) in enumerate(layer.named_parameters()):
        value = draw(*p.shape, seed=30 + i) * (0 if zero and key in case.gains else 1)
        state[key] = torch.tensor(value)
        with tb.no_grad():
            p.copy_(tb.tensor(value.astype(dtype), device=device))
    for step in range(3):
        compare(case, layer, state, spread(case.shape, step), dtype, device)
        for key, value in layer.state_dict().items():
            if key.endswith("num_batches_tracked"):
                assert set(np.ravel(value.numpy())) == {case.count * (step + 1)}
            elif "running" in key:
                near(value, state[key], 1e-10 if dtype == "float64" else 1e-5, key)
    before = {k: v.numpy().copy() for k, v in layer.state_dict().items()}
    layer.eval()
    compare(case, layer, state, spread(case.shape, 9), dtype, device)
    for key, value in layer.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), before[key])


@pytest.mark.parametrize("zero", [False, True], ids=["", "weight 0"])
@pytest.mark.parametrize("training", [True, False])
def test_noise_is_its_paper(training: bool, zero: bool, dtype: str, device: str) -> None:
    """1805.11604, appendix A: s · BN(x) + m in training, BN(x) in evaluation; s and m are read off the layer's own."""
    layer = nn.NoisyBatchNorm(4, momentum=MOMENTUM, dtype=getattr(tb, dtype), device=device).train(training)
    state: State = {k: torch.tensor(v.numpy().astype(np.float64)) for k, v in layer.state_dict().items()}
    x = spread(DEEP, 0)
    drawn = []
    for value in (0.0, 1.0):
        with tb.no_grad():
            layer.weight.fill_(0.0)
            layer.bias.fill_(value)
        layer.update_stats = False
        tb.manual_seed(4)
        drawn.append(torch.tensor(layer(tb.tensor(x.astype(dtype), device=device)).detach().numpy().astype(np.float64)))
    layer.update_stats = True
    m, s = drawn[0], drawn[1] - drawn[0]
    for i, (key, p) in enumerate(layer.named_parameters()):
        value = draw(*p.shape, seed=30 + i) * (0 if zero and key == "weight" else 1)
        state[key] = torch.tensor(value)
        with tb.no_grad():
            p.copy_(tb.tensor(value.astype(dtype), device=device))

    def paper(x: Torch, given: State, training: bool) -> Torch:
        return s * batch(x, given, training) + m

    def seeded(layer: Any, x: Any) -> Any:
        tb.manual_seed(4)
        return layer(x)

    assert bool(m.abs().max() > 0.1) is training
    compare(Case(lambda: layer, DEEP, paper, call=seeded), layer, state, x, dtype, device)
    for key in ("running_mean", "running_var"):
        near(getattr(layer, key), state[key], 1e-10 if dtype == "float64" else 1e-5, key)


def root_of_equals(cov: Torch) -> Torch:
    """Σ^(-1/2) by products alone, which can be differentiated where eigenvalues are equal: Newton, P and Q coupled."""
    one, trace = torch.eye(len(cov), dtype=cov.dtype), torch.trace(cov)
    p, q = one, cov / trace
    for _ in range(25):
        h = 1.5 * one - 0.5 * p @ q
        p, q = h @ p, q @ h
    return p / torch.sqrt(trace)


@pytest.mark.parametrize("name", ["zca", "newton"])
@pytest.mark.parametrize("eps", [0.0, EPS])
def test_equal_eigenvalues_to_rounding(name: str, eps: float, device: str) -> None:
    """Covariances I, and 4 I beside two equal and two other eigenvalues: first and second derivatives to 1e-9."""
    left = draw(12, 8, seed=1)
    white = np.linalg.qr(left - left.mean(0))[0] * np.sqrt(12)
    x = white * np.array([1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 1.0, 3.0]) + 2.0
    points = [x, draw(12, 8, seed=2), draw(12, 8, seed=3)]
    found = []
    for lib in (tb, torch):
        t, g, u = (lib.tensor(a) for a in points) if lib is torch else (lib.tensor(a, device=device) for a in points)
        t.requires_grad_()
        g.requires_grad_()
        if lib is torch:
            groups = (t - t.mean(0)).T.split(4)
            one = torch.eye(4, dtype=t.dtype)
            y = torch.cat([root_of_equals(r @ r.T / 12 + eps * one) @ r for r in groups]).T
        elif name == "zca":
            y = F.decorrelated_batch_norm(t, 4, eps=eps)[0]
        else:
            y = F.iter_norm(t, 4, 25, eps=eps)[0]
        grad = tb.grad if lib is tb else torch.autograd.grad
        (first,) = grad(y, t, g, create_graph=True)
        found.append([y, first, *grad(first, [t, g], u)])
    for i, (ours, theirs) in enumerate(zip(*found, strict=True)):
        near(ours, theirs, 1e-9, f"result {i}")
