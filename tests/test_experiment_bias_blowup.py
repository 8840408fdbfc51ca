"""The experiment ``bias_blowup``: its gradients, its counts, its repeatability, its claims."""

from __future__ import annotations

import numpy as np
import pytest
from experiment_pieces import drawn, outcome_of, verdict, without_clock

import tinygrad_bn as tb
from tinygrad_bn import nn
from tinygrad_bn.experiments import _blowup_networks as networks
from tinygrad_bn.experiments.bias_blowup import EXPERIMENT, LAYERS, Setting, normalise
from tinygrad_bn.experiments.runner.results import Outcome

TINY = Setting(30, 12, samples=24, width=6, rates=(0.1, 1.0), interval=4, inputs=5, hidden=2, train=120, batch=40)


@pytest.fixture(scope="module")
def outcomes() -> list[Outcome]:
    return [outcome_of(EXPERIMENT, TINY, seed) for seed in (1, 2)]


def gradient(scale: bool, outside: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return u, the outputs' gradient and that of b, for x = u + b."""
    rng = np.random.default_rng(0)
    u, gy = rng.standard_normal((2, 9, 4))
    b = tb.tensor(rng.standard_normal(4), requires_grad=True)
    (normalise(tb.tensor(u) + b, scale, outside) * tb.tensor(gy)).sum().backward()
    assert b.grad is not None
    return u, gy, b.grad.numpy()


def test_outside_the_bias_has_the_gradient_of_the_outputs_and_inside_none() -> None:
    for scale in (False, True):
        u, gy, outside = gradient(scale, outside=True)
        deviation = np.sqrt(u.var(0) + networks.EPS) if scale else 1
        np.testing.assert_allclose(outside, gy.sum(0) / deviation, rtol=1e-12)
        np.testing.assert_allclose(gradient(scale, outside=False)[2], 0, atol=1e-13)


def test_outside_and_inside_have_the_same_outputs() -> None:
    x = tb.tensor(np.random.default_rng(1).standard_normal((9, 4)) * 3 + 2)
    for scale, expected in ((False, x.numpy() - x.numpy().mean(0)), (True, None)):
        inside, outside = (normalise(x, scale, away).numpy() for away in (False, True))
        np.testing.assert_allclose(inside, outside, atol=1e-13)
        if expected is not None:
            np.testing.assert_allclose(inside, expected, atol=1e-14)


def test_the_bias_of_one_layer_grows_by_the_same_step_each_time(outcomes: list[Outcome]) -> None:
    outside, inside = (outcomes[0][arm] for arm in ("mean_outside", "mean_inside"))
    np.testing.assert_allclose(
        outside["bias"]["y"], outside["bias"]["y"][0] * np.array(outside["bias"]["x"]), rtol=1e-4
    )
    assert outside["growth"] == pytest.approx(1, abs=1e-3)
    assert outside["loss_moved"] < 1e-6
    assert inside["bias_end"] < 1e-5 * outside["bias_end"]
    assert inside["loss"]["y"][0] == pytest.approx(outside["loss"]["y"][0], rel=1e-6)


def test_a_norm_outside_is_batch_norm_in_value_and_takes_its_statistics_for_constants() -> None:
    x = tb.tensor(np.random.default_rng(2).standard_normal((20, 3)).astype(np.float32) * 4 - 1)
    norm, reference = networks.OutsideNorm(3), nn.BatchNorm1d(3, eps=networks.EPS)
    with tb.no_grad():
        norm.measure(x)
    np.testing.assert_allclose(norm(x).detach().numpy(), reference(x).detach().numpy(), rtol=1e-4, atol=1e-5)
    assert {name for name, _ in norm.named_parameters()} == {"weight", "bias"}
    leaf = x.clone().requires_grad_()
    norm(leaf).sum().backward()
    assert leaf.grad is not None
    np.testing.assert_allclose(leaf.grad.numpy()[0], 1 / np.sqrt(x.numpy().var(0) + networks.EPS), rtol=1e-5)


def test_flops_are_counted() -> None:
    """By hand, for 10 rows of 4: 7 · 40; 160 + 640 and 11 · 64 or 30 · 64."""
    counts = {arm: networks.flops(arm, 10, 4) for arm in networks.NETWORKS}
    assert counts == {"none": 0, "bn": 280, "outside": 280, "interval": 280, "iter_norm": 2720, "decorrelated": 1504}


def test_networks_differ_in_nothing_but_the_normalisation() -> None:
    weights = []
    for arm in networks.NETWORKS:
        tb.manual_seed(3)
        model = networks.network(arm, TINY)
        weights.append(
            np.concatenate([layer.weight.detach().numpy().ravel() for layer in model if type(layer) is nn.Linear])
        )
        assert [type(layer).__name__ for layer in model][1::3][:2] == 2 * [type(networks.NETWORKS[arm][1](6)).__name__]
    assert all(np.array_equal(w, weights[0]) for w in weights)


def test_lengths() -> None:
    model = networks.network("bn", TINY)
    w, b = (np.concatenate([getattr(model[i], n).detach().numpy().ravel() for i in (0, 3)]) for n in ("weight", "bias"))
    np.testing.assert_allclose(networks.lengths(model), [np.linalg.norm(w), np.linalg.norm(b)], rtol=1e-6)


def test_the_problem_has_the_condition_number_and_all_classes() -> None:
    x, labels = networks.problem(Setting(1, 1, train=20_000), np.random.default_rng(0))
    values = np.linalg.eigvalsh(np.cov(x.T))
    assert values[-1] / values[0] == pytest.approx(100, rel=0.1)
    assert set(labels) == set(range(5))


def test_the_same_seed_gives_the_same_numbers_and_another_one_does_not(outcomes: list[Outcome]) -> None:
    first, other = (without_clock(outcome.runs) for outcome in outcomes)
    assert without_clock(outcome_of(EXPERIMENT, TINY, 1).runs) == first
    assert all(first[arm] != other[arm] for arm in first)


def test_best_rate_is_that_of_the_lowest_final_loss(outcomes: list[Outcome]) -> None:
    found = outcomes[0]["bn"]
    finals = {rate: numbers["final"] for rate, numbers in found["by_rate"].items()}
    assert found["rate"] == min(finals, key=lambda rate: finals[rate])
    assert found["final"] == min(finals.values())
    assert found["by_rate"]["1.0"]["bias_growth"] == pytest.approx(1, abs=1e-4)


def test_claims_about_one_layer_decide() -> None:
    for name, number, holds, fails in (("bias_grows", "growth", 1.0, 0.5), ("loss_fixed", "loss_moved", 1e-7, 0.1)):
        assert verdict(EXPERIMENT, name, {"mean_outside": {number: holds}}) == "held"
        assert verdict(EXPERIMENT, name, {"mean_outside": {number: fails}}) == "not held"
    for value, expected in ((1e-6, "held"), (1.0, "not held")):
        runs = {"mean_inside": {"bias_end": value}, "mean_outside": {"bias_end": 1.0}}
        assert verdict(EXPERIMENT, "inside_stays", runs) == expected
    for value, expected in ((0.2, "held"), (-0.07, "not held")):
        assert verdict(EXPERIMENT, "scale_is_worse", {"scale_outside": {"loss_end": value}}) == expected


def network_runs(arm: str, final: float, ms: float = 1.0) -> dict[str, object]:
    at = {"first": 2.0, "final": final}
    return {arm: {"rate": "1.0", "by_rate": {"1.0": at}, "final": final, "clock": {"ms_per_step": ms}}}


@pytest.mark.parametrize(
    ("claim", "arm", "holds", "fails"),
    [
        ("model_blows_up", "outside", float("inf"), 0.5),
        ("interval_blows_up", "interval", 3.0, 1.0),
        ("whitening_converges_faster", "decorrelated", 0.5, 1.5),
    ],
)
def test_claims_about_networks_decide(claim: str, arm: str, holds: float, fails: float) -> None:
    others = network_runs("bn", 0.4) | network_runs("none", 1.0)
    assert verdict(EXPERIMENT, claim, others | network_runs(arm, holds)) == "held"
    assert verdict(EXPERIMENT, claim, others | network_runs(arm, fails)) == "not held"


def test_claims_about_batch_norm_and_cost_decide() -> None:
    for final, trains, faster in ((0.4, "held", "held"), (1.2, "not held", "not held")):
        runs = network_runs("bn", final) | network_runs("none", 1.0)
        assert verdict(EXPERIMENT, "bn_does_not", runs) == trains
        assert verdict(EXPERIMENT, "bn_converges_faster", runs) == faster
    for ms, expected in ((5.0, "held"), (1.5, "not held")):
        runs = network_runs("bn", 0.4) | network_runs("decorrelated", 0.4, ms)
        assert verdict(EXPERIMENT, "whitening_costs", runs) == expected


def test_figure(outcomes: list[Outcome]) -> None:
    figure = drawn(EXPERIMENT, outcomes)
    assert len(figure.axes[0].lines) == len(LAYERS) + 1
