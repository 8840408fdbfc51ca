"""The experiment on depth: its equations, its repeatability, its verdicts on made-up numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tinygrad_bn as tb
from tinygrad_bn.experiments import _dense as dense
from tinygrad_bn.experiments import depth_affine as experiment
from tinygrad_bn.experiments._dense import BN, FIXED, PLAIN
from tinygrad_bn.experiments.depth_affine import EXPERIMENT, Setting
from tinygrad_bn.experiments.runner.experiment import CLOCK, Task
from tinygrad_bn.experiments.runner.pictures import Pictures
from tinygrad_bn.experiments.runner.results import Outcome, Results
from tinygrad_bn.experiments.runner.verdicts import HELD, NOT_HELD, judge

TINY = Setting(
    depths=(2, 22), steps=6, pictures=40, shift_steps=4, shift_every=2, shift_pictures=24, width=8, batch=8, forward=5,
    jacobian=3, points=2, shift_depth=3,
)  # fmt: skip


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    rng = np.random.default_rng(0)
    x = rng.random((60, 1, 4, 4), dtype=np.float32)
    y = (x.mean((1, 2, 3)) > 0.5).astype(np.int64)
    return Pictures("digits", x[:45], y[:45], x[45:], y[45:])


def task(arm: str, pictures: Pictures, seed: int = 1) -> Task:
    return Task(arm, TINY, seed, pictures, "cpu", lambda n=1: None)


def numbers(arm: str, pictures: Pictures, seed: int = 1) -> dict[str, Any]:
    return {name: value for name, value in EXPERIMENT.run(task(arm, pictures, seed)).items() if name != CLOCK}


def test_pictures_are_chosen_by_the_seed_and_standardised_by_the_training_ones(pictures: Pictures) -> None:
    rows = dense.data(task("x", pictures), 30)
    assert rows.x.shape == (30, 16)
    assert rows.x.dtype == rows.test_x.dtype == np.float32
    assert abs(rows.x.mean()) < 1e-6
    assert abs(rows.x.std() - 1) < 1e-6
    other = dense.data(task("x", pictures, seed=2), 30)
    assert not np.array_equal(rows.x, other.x)
    slope = (rows.test_x - rows.test_x.mean()) / (pictures.test_x.reshape(15, -1) - pictures.test_x.mean())
    np.testing.assert_allclose(slope, slope[0, 0], rtol=1e-3)


@pytest.mark.parametrize(("init", "deviation"), [("small", 0.01), ("xavier", 0.05), ("he", 0.0707), ("large", 1.0)])
def test_initialisations_have_the_deviations_of_their_papers(init: str, deviation: float) -> None:
    net = dense.network(PLAIN, 2, 400, 400, init)
    assert net[2].weight.detach().numpy().std() == pytest.approx(deviation, rel=0.02)
    assert not net[2].bias.detach().numpy().any()


def test_kinds_of_networks() -> None:
    names = {kind: [type(layer).__name__ for layer in dense.network(kind, 1, 4, 3)] for kind in (PLAIN, FIXED, BN)}
    assert names[PLAIN] == ["Linear", "ReLU", "Linear"]
    assert names[BN] == names[FIXED] == ["Linear", "BatchNorm1d", "ReLU", "Linear"]
    counts = {kind: sum(p.numel() for p in dense.network(kind, 1, 4, 3).parameters()) for kind in (PLAIN, FIXED, BN)}
    assert counts == {PLAIN: 15 + 40, FIXED: 12 + 40, BN: 12 + 6 + 40}


def test_activations_grow_as_in_theory(pictures: Pictures) -> None:
    """He et al. 2015, section 2.2, with many layers for the mean to show in a narrow network."""
    setting = Setting((), 0, 40, 0, 1, 24, width=100, forward=20)
    found = experiment.activations(Task("activations", setting, 0, pictures, "cpu", lambda n=1: None))
    theory = {"small": 0.01 * 50**0.5, "xavier": 0.5**0.5, "he": 1.0, "large": 50**0.5}
    for init, factor in theory.items():
        assert found[f"plain {init} factor"] == pytest.approx(factor, rel=0.08)
        assert found[f"bn {init} factor"] == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("kind", [PLAIN, FIXED, BN])
def test_jacobians_are_those_of_the_formula(kind: str) -> None:
    """J = diag(1/σ) W diag(γ·[γx̂ + β > 0]), without batch normalisation W diag([z > 0])."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 6)).astype(np.float32)
    tb.manual_seed(0)
    net = dense.network(kind, 2, 6, 5)
    if kind == BN:
        with tb.no_grad():
            for norm in (net[1], net[4]):
                norm.weight.copy_(tb.from_numpy(rng.uniform(0.5, 2, 5).astype(np.float32)))
                norm.bias.copy_(tb.from_numpy(rng.normal(size=5).astype(np.float32)))
    found = dense.layer_jacobians(net, kind, 2, x, 3, "cpu")
    assert found.shape == (1, 3, 5, 5)
    first, second = (layer for layer in net[:-1] if isinstance(layer, tb.nn.Linear))
    z = x @ first.weight.detach().numpy().T
    h, gamma, sigma = z, np.ones(5), np.ones(5)
    if kind != PLAIN:
        z = (z - z.mean(0)) / np.sqrt(z.var(0, ddof=1) + 1e-5)  # inference, as algorithm 2 has it
        h = z * np.sqrt(50 / 49)  # what the statistics of the next layer are taken of: biased
    if kind == BN:
        gamma, beta = (p.detach().numpy() for p in (net[1].weight, net[1].bias))
        z, h = z * gamma + beta, h * gamma + beta
    if kind != PLAIN:
        sigma = np.sqrt((np.maximum(h, 0) @ second.weight.detach().numpy().T).var(0, ddof=1) + 1e-5)
    expected = second.weight.detach().numpy() / sigma[:, None] * (gamma * (z[:3] > 0))[:, None, :]
    np.testing.assert_allclose(found[0], expected, rtol=2e-4, atol=1e-5)


def test_a_network_that_diverged_has_no_singular_values_near_one(pictures: Pictures) -> None:
    net = dense.network(PLAIN, TINY.jacobian, 16, 8)
    tb.nn.init.constant_(net[2].weight, float("nan"))
    rows = dense.data(task("x", pictures), 20)
    found = experiment._spectrum(net, PLAIN, rows, task("x", pictures), "plain he")
    assert found["plain he near"] == 0
    assert np.isnan(found["plain he rms"])


def softmax_gradient(scores: np.ndarray, classes: np.ndarray) -> np.ndarray:
    p = np.exp(scores - scores.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    p[np.arange(len(p)), classes] -= 1
    return p / len(p)


def test_shift_is_that_of_the_definition() -> None:
    rng = np.random.default_rng(0)
    x, classes, rate = rng.normal(size=(9, 4)), rng.integers(0, 10, 9), 0.3
    net = dense.network(PLAIN, 1, 4, 3).double()
    w, v = net[0].weight.detach().numpy().copy(), net[2].weight.detach().numpy().copy()
    h = np.maximum(x @ w.T, 0)
    g = softmax_gradient(h @ v.T, classes)
    gz = (g @ v) * (h > 0)
    ahead = np.maximum(x @ (w - rate * gz.T @ x).T - rate * gz.sum(0), 0)
    after = softmax_gradient(ahead @ v.T, classes)
    expected = np.linalg.norm(after.T @ ahead - g.T @ h) / np.linalg.norm(g.T @ h)
    assert expected > 0.01
    found = dense.shift(net, PLAIN, tb.from_numpy(x), tb.from_numpy(classes), rate)
    np.testing.assert_allclose(found, [expected], rtol=1e-9)


@pytest.mark.parametrize("kind", [PLAIN, FIXED, BN])
def test_shift_leaves_the_parameters_and_is_nothing_without_steps(kind: str) -> None:
    rng = np.random.default_rng(0)
    x, classes = tb.from_numpy(rng.normal(size=(12, 4))), tb.from_numpy(rng.integers(0, 10, 12))
    net = dense.network(kind, 3, 4, 5).double()
    before = [p.detach().numpy().copy() for p in net.parameters()]
    assert all(shift > 0 for shift in dense.shift(net, kind, x, classes, 0.1))
    assert all(np.array_equal(p.detach().numpy(), old) for p, old in zip(net.parameters(), before, strict=True))
    assert dense.shift(net, kind, x, classes, 0.0) == [0, 0, 0]


def test_looking_at_the_shift_does_not_change_the_training(pictures: Pictures) -> None:
    rows = dense.data(task("x", pictures), 40)
    ends = []
    for looks in (False, True):
        tb.manual_seed(0)
        net = dense.network(FIXED, 3, 16, 8)
        for _, images, classes in dense.training(net, rows, task("x", pictures), 8):
            if looks:
                dense.shift(net, FIXED, images, classes, 0.1)
        ends.append([p.detach().numpy().copy() for p in net.parameters()])
    assert all(np.array_equal(a, b) for a, b in zip(*ends, strict=True))


@pytest.mark.parametrize("arm", ["activations", "bn 2", "bn_fixed 2", "plain 2", "jacobians", "shift bn"])
def test_the_same_seed_gives_the_same_numbers(arm: str, pictures: Pictures) -> None:
    first = numbers(arm, pictures)
    tb.manual_seed(99)
    assert numbers(arm, pictures) == first
    if arm.startswith("activations"):
        assert numbers(arm, pictures, seed=2) != first


def made_up(good: bool) -> Outcome:
    def accuracy(kind: str, depth: int) -> float:
        if good:
            return {BN: 97.0, FIXED: 96.8 if depth < 20 else 90.0, PLAIN: 50.0}[kind]
        return {BN: 90.0, FIXED: 95.0, PLAIN: 96.0}[kind]

    runs: dict[str, Any] = {f"{k} {d}": {"accuracy": accuracy(k, d)} for k in (BN, FIXED, PLAIN) for d in TINY.depths}
    plain = {"small": 0.06, "xavier": 0.7, "he": 1.0, "large": 5.7} if good else dict.fromkeys(experiment.INITS, 0.5)
    runs["activations"] = {f"plain {init} factor": value for init, value in plain.items()}
    runs["activations"] |= {f"bn {init} factor": 1.001 if good else 1.1 for init in experiment.INITS}
    near, rms = (0.7, 1.0) if good else (0.3, 1.5)
    runs["jacobians"] = {"bn trained near": near, "plain trained near": 0.5, "bn trained rms": rms}
    ours = 0.5 if good else 2.0
    runs |= {"shift bn": {"mini": ours, "full": ours}, "shift plain": {"mini": 1.0, "full": 1.0}}
    return Outcome(TINY, 0, runs)


@pytest.mark.parametrize("good", [True, False])
def test_claims_decide(good: bool) -> None:
    found = judge(EXPERIMENT.claims, Results("standard", TINY, "mnist", [made_up(good)] * 5))
    assert len(found) == 13
    assert {verdict.claim.name: verdict.verdict for verdict in found} == {
        verdict.claim.name: HELD if good else NOT_HELD for verdict in found
    }


def test_the_figure_is_drawn_and_the_table_has_numbers(pictures: Pictures) -> None:
    figures = pytest.importorskip("matplotlib.figure")
    arms = EXPERIMENT.arms(TINY)
    assert all(EXPERIMENT.steps(TINY, arm) > 0 for arm in arms)
    outcome = Outcome(TINY, 0, {arm: EXPERIMENT.run(task(arm, pictures)) for arm in arms})
    figure = figures.Figure()
    EXPERIMENT.draw(Results("quick", TINY, "digits", [outcome]), figure)
    assert len(figure.axes) == 4
    assert all(panel.get_xlabel() and panel.get_ylabel() and panel.get_legend() for panel in figure.axes)
    for row in EXPERIMENT.published:
        assert row.measure is not None
        assert not np.isnan(row.measure(outcome)), row.what
