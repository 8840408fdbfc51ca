"""Why inputs are scaled: gradient descent needs steps in proportion to the condition number κ.

    bowls        x²/20 + y²  against  x² + y²,  from (-7, 2), rate 0.9
    regression   L(w) = mean((Fw - t)²) / 2,  H = FᵀF / N,  κ = λmax / λmin
                 rate 2 / (λmax + λmin):  ‖w_n - w*‖ ≤ ρⁿ ‖w_0 - w*‖,  ρ = (κ - 1) / (κ + 1)
                 n(κ) = ln(1/ε) / ln(1/ρ) ≈ (κ/2) ln(1/ε)

LeCun, Bottou, Orr & Müller 1998, Efficient BackProp, sections 4.3 and 5; Ioffe & Szegedy 2015 (arXiv:1502.03167),
section 2, from where the normalisation of layers starts.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import tinygrad_bn as tb
from tinygrad_bn import nn
from tinygrad_bn.experiments.runner.experiment import (
    CLOCK,
    Claim,
    Experiment,
    Numbers,
    Published,
    Task,
    above,
    below,
    between,
    curve,
)
from tinygrad_bn.experiments.runner.results import Outcome, Results

BOWLS = {"stretched": (1 / 20, 1.0), "round": (1.0, 1.0)}
SCALINGS = ("raw", "min_max", "z_score")
LABELS = {"raw": "raw", "min_max": "min-max", "z_score": "z-score"}


@dataclass(frozen=True)
class Setting:
    """The bowls are as published; the regressions are ours.

    Attributes
    ----------
    kappas : tuple of float
        Condition numbers that are asked of the inputs' distribution.
    samples, features : int
    distance : float
        ε: descent ends at this share of the first distance from the optimum.
    outliers : float
        The share of values that are off by ``off`` standard deviations.
    """

    kappas: tuple[float, ...]
    samples: int
    features: int = 8
    rate: float = 0.9
    start: tuple[float, float] = (-7.0, 2.0)
    near: float = 0.01
    distance: float = 0.01
    outliers: float = 0.01
    off: float = 10.0
    limit: int = 100_000


def theory(kappa: Any, distance: float) -> Any:
    """Return n(κ), the steps after which the best constant rate is within ``distance`` from any start."""
    return np.log(1 / distance) / np.log((kappa + 1) / (kappa - 1))


def roll(curvature: tuple[float, float], setting: Setting, device: str) -> Numbers:
    """Descend a x² + b y² until both coordinates are near the optimum; return the path and the steps."""
    point = nn.Parameter(tb.tensor(setting.start, device=device))
    weights = tb.tensor(curvature, device=device)
    sgd = tb.optim.SGD([point], lr=setting.rate)
    path, began = [point.tolist()], time.perf_counter()
    while max(map(abs, path[-1])) >= setting.near and len(path) <= setting.limit:
        sgd.zero_grad()
        (weights * point**2).sum().backward()
        sgd.step()
        path.append(point.tolist())
    seconds = time.perf_counter() - began
    x, y = zip(*path)
    return {"steps": len(path) - 1, "x": list(x), "y": list(y), CLOCK: {"seconds": seconds}}


def descend(features: np.ndarray, targets: np.ndarray, setting: Setting, device: str) -> tuple[float, int]:
    """Fit a linear regression from w = 0 at the best constant rate; return κ of H and the steps until w is near w*."""
    eigenvalues = np.linalg.eigvalsh(features.T @ features / len(features))
    best = np.linalg.lstsq(features, targets)[0]
    f, t, goal = (tb.tensor(a, dtype=tb.float64, device=device) for a in (features, targets, best.T))
    model = nn.Linear(features.shape[1], 1, bias=False, device=device, dtype=tb.float64)
    nn.init.zeros_(model.weight)
    sgd = tb.optim.SGD(model.parameters(), lr=2 / (eigenvalues[0] + eigenvalues[-1]))

    @tb.capture
    def step(f: tb.Tensor, t: tb.Tensor) -> tb.Tensor:
        sgd.zero_grad()
        (nn.functional.mse_loss(model(f), t) / 2).backward()
        sgd.step()
        return ((model.weight.detach() - goal) ** 2).sum()

    end = setting.distance**2 * float((best**2).sum())
    steps = 1
    while step(f, t).item() > end and steps < setting.limit:
        steps += 1
    return float(eigenvalues[-1] / eigenvalues[0]), steps


def gaussian(kappa: float, setting: Setting, rng: np.random.Generator) -> np.ndarray:
    """Draw inputs x = Q Λ^(1/2) z whose covariance has eigenvalues from 1 to κ, in equal ratios, in a random basis."""
    basis = np.linalg.qr(rng.standard_normal((setting.features, setting.features)))[0]
    scales = np.sqrt(np.geomspace(1, kappa, setting.features))
    return np.asarray((rng.standard_normal((setting.samples, setting.features)) * scales) @ basis.T)


def measured(setting: Setting, rng: np.random.Generator, outliers: bool) -> np.ndarray:
    """Draw independent inputs of scales from 1 to 10 with means as large as these; some values far off, if wanted."""
    z = rng.standard_normal((setting.samples, setting.features))
    far = rng.random(z.shape) < setting.outliers
    far[rng.integers(setting.samples, size=setting.features), np.arange(setting.features)] = True
    sign = rng.choice((-1.0, 1.0), z.shape)
    z = np.where(far, setting.off * sign, z) if outliers else z
    return (z + rng.standard_normal(setting.features)) * np.geomspace(1, 10, setting.features)


def scaled(inputs: np.ndarray, how: str) -> np.ndarray:
    """Scale each feature: as it is, to [0, 1] by its least and largest value, or by batch norm without γ and β."""
    if how == "min_max":
        return np.asarray((inputs - inputs.min(0)) / np.ptp(inputs, 0))
    if how == "z_score":
        norm = nn.BatchNorm1d(inputs.shape[1], affine=False, dtype=tb.float64)
        return np.asarray(norm(tb.tensor(inputs, dtype=tb.float64)).numpy())
    return inputs


def run(task: Task) -> Numbers:
    """Run an arm: a bowl, the regressions over κ, or a way of scaling without and with outliers."""
    setting = task.setting
    if task.arm in BOWLS:
        roll(
            (1.0, 1.0), replace(setting, limit=3), task.device
        )  # so that the clock does not count the kernels' loading
        numbers = roll(BOWLS[task.arm], setting, task.device)
        task.tick()
        return numbers
    if task.arm == "condition":
        return _over_kappa(task)
    numbers = {}
    for outliers in (False, True):
        rng = np.random.default_rng([task.seed, 2, outliers])  # the same data for each way of scaling
        inputs = measured(setting, rng, outliers)
        standard = (inputs - inputs.mean(0)) / inputs.std(0)
        targets = standard @ rng.standard_normal((setting.features, 1))
        features = np.column_stack([scaled(inputs, task.arm), np.ones(len(inputs))])  # the last weight is the bias
        kappa, steps = descend(features, targets, setting, task.device)
        numbers |= {f"kappa_{_kind(outliers)}": kappa, f"steps_{_kind(outliers)}": steps}
        task.tick()
    return numbers


def _kind(outliers: bool) -> str:
    return "outliers" if outliers else "clean"


def _over_kappa(task: Task) -> Numbers:
    rng = np.random.default_rng([task.seed, 1])
    found = []
    for kappa in task.setting.kappas:
        inputs = gaussian(kappa, task.setting, rng)
        targets = inputs @ rng.standard_normal((task.setting.features, 1))
        found.append(descend(inputs, targets, task.setting, task.device))
        task.tick()
    kappas, steps = np.array(found).T
    slope = np.polyfit(np.log(kappas), np.log(steps), 1)[0]
    ratio = steps / theory(kappas, task.setting.distance)
    return {"steps": curve(kappas, steps), "slope": float(slope), "to_theory": float(ratio.mean())}


def arms(setting: Setting) -> Sequence[str]:
    return (*BOWLS, "condition", *SCALINGS)


def ticks(setting: Setting, arm: str) -> int:
    return 1 if arm in BOWLS else len(setting.kappas) if arm == "condition" else 2


def bowl_ratio(outcome: Outcome) -> float:
    """Steps of the stretched bowl over those of the round one."""
    return float(outcome["stretched"]["steps"] / outcome["round"]["steps"])


def outlier_cost(outcome: Outcome, how: str) -> float:
    """By what factor outliers multiply the steps."""
    return float(outcome[how]["steps_outliers"] / outcome[how]["steps_clean"])


def raw_cost(outcome: Outcome) -> float:
    """Steps on raw inputs over those on z-scores."""
    return float(outcome["raw"]["steps_clean"] / outcome["z_score"]["steps_clean"])


def draw(results: Results, figure: Any) -> None:
    """Paths on contour lines above; steps against κ and the ways of scaling below."""
    axes = figure.subplots(2, 2, gridspec_kw={"height_ratios": (1, 1.6)})
    for panel, arm, formula in zip(axes[0], BOWLS, ("x²/20 + y²", "x² + y²")):
        _draw_bowl(panel, results, arm, formula)
    _draw_kappa(axes[1, 0], results)
    _draw_scalings(axes[1, 1], results)


def _draw_bowl(axes: Any, results: Results, arm: str, formula: str) -> None:
    run = results.runs(arm)[0]
    x, y = np.meshgrid(np.linspace(-8, 8, 81), np.linspace(-3, 3, 61))
    a, b = BOWLS[arm]
    axes.contour(x, y, np.sqrt(a * x**2 + b * y**2), levels=8, colors="0.75", linewidths=0.6)
    axes.plot(run["x"], run["y"], "C3o-", markersize=2.5, linewidth=0.9, label=f"SGD, rate {results.setting.rate:g}")
    axes.plot(0, 0, "k+", markersize=9, label="optimum")
    axes.set_title(f"{formula}: {run['steps']} steps", fontsize=10)
    axes.set(xlabel="x", ylabel="y", xlim=(-8, 8), ylim=(-3, 3), aspect="equal")
    axes.legend(fontsize=7, loc="upper right")


def _draw_kappa(axes: Any, results: Results) -> None:
    for i, run in enumerate(results.runs("condition")):
        axes.loglog(
            run["steps"]["x"], run["steps"]["y"], "C0o", markersize=3.5, label=None if i else "measured, each seed"
        )
    kappas = np.geomspace(min(results.setting.kappas) / 1.5, max(results.setting.kappas) * 1.5, 60)
    slope = float(results.stack("condition", "slope").mean())
    axes.loglog(kappas, theory(kappas, results.setting.distance), "k--", linewidth=1, label="bound ln(1/ε) / ln(1/ρ)")
    axes.set_title(f"linear regression: steps grow as κ to the {slope:.2f}", fontsize=10)
    axes.set(xlabel="condition number κ of the inputs' covariance", ylabel="steps to 1 % of the distance")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:,g}")
        axis.set_minor_formatter("")
    axes.legend(fontsize=7)
    axes.grid(alpha=0.3)


def _draw_scalings(axes: Any, results: Results) -> None:
    for i, kind in enumerate(("clean", "outliers")):
        steps = np.array([results.stack(how, f"steps_{kind}") for how in SCALINGS])
        mean = steps.mean(1)
        spread = np.stack([mean - steps.min(1), steps.max(1) - mean])
        label = "without outliers" if kind == "clean" else f"1 % of values {results.setting.off:g} σ off"
        bars = axes.bar(np.arange(3) + 0.4 * i - 0.2, mean, 0.38, yerr=spread, capsize=2, color=f"C{i}", label=label)
        axes.bar_label(bars, [f"{m:,.0f}" for m in mean], fontsize=7, padding=2)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:,g}")
    axes.set_xticks(range(3), [LABELS[how] for how in SCALINGS])
    axes.set_title("scaling of the inputs (bars: mean; lines: least to most)", fontsize=10)
    axes.set(xlabel="inputs", ylabel="steps to 1 % of the distance")
    axes.margins(y=0.15)
    axes.legend(fontsize=7)


CLAIMS = (
    Claim(
        "more_than_twice",
        "SGD at rate 0.9 from (−7, 2) needs more than twice the steps on x²/20 + y² as on x² + y² (27 s, 9 s).",
        bowl_ratio,
        above(2),
        "The sentence itself. By hand: 7 · 0.91ⁿ < 0.01 after 70 steps, 7 · 0.8ⁿ < 0.01 after 30.",
    ),
    Claim(
        "steps_proportional_to_kappa",
        "The steps of gradient descent grow in proportion to the condition number (LeCun 1998, section 5).",
        lambda o: float(o["condition"]["slope"]),
        between(0.9, 1.1),
        "The exponent of κ, fitted over two decades; in proportion is 1. n(κ)/κ itself changes by 0.4 % from κ = 10 "
        "on; a tenth allows for starts that lie nearer to some eigenvectors than to others.",
    ),
    Claim(
        "constant_as_in_theory",
        "They number at most ln(1/ε) / ln(1/ρ), and nearly that many from a start with a share in the slowest "
        "direction.",
        lambda o: float(o["condition"]["to_theory"]),
        between(0.5, 1),
        "Measured over bound, the mean over κ. Of 8 random components 2 decay at the slowest rate: a half of the first"
        " distance, and (ln 100 − ln 2) / ln 100 = 0.85; half allows for unlucky starts.",
    ),
    Claim(
        "scaling_helps",
        "Descent is faster on inputs that are centred and scaled (LeCun 1998, section 4.3).",
        raw_cost,
        above(2),
        "Steps on raw inputs over steps on z-scores; by at least the factor that the bowls show for scales 4.5 apart.",
    ),
    Claim(
        "outliers_spoil_min_max",
        "Min-max scaling depends on the two extreme values: outliers squeeze all others into a part of the range.",
        lambda o: outlier_cost(o, "min_max"),
        above(2),
        "Steps with outliers over steps without. The range grows from about 6 σ to 20 σ, the variance about twofold: "
        "κ, and with it the steps, should grow about fivefold; twice is clearly more than chance.",
    ),
    Claim(
        "outliers_spare_z_score",
        "Z-score scaling (batch norm without γ and β) hardly depends on outliers.",
        lambda o: outlier_cost(o, "z_score"),
        below(1.5),
        "Steps with outliers over steps without. Variances are 1 either way; only chance correlations differ.",
    ),
)

PUBLISHED = (
    Published("steps on x²/20 + y² over steps on x² + y²", "more than 2", "the blog's text", bowl_ratio),
    Published("steps on x²/20 + y²", "not printed", "the blog's figure", lambda o: o["stretched"]["steps"]),
    Published("steps on x² + y²", "not printed", "the blog's figure", lambda o: o["round"]["steps"]),
    Published("time on x²/20 + y², s", "27", "the blog's animation", lambda o: o["stretched"][CLOCK]["seconds"], ".2g"),
    Published("time on x² + y², s", "9", "the blog's animation", lambda o: o["round"][CLOCK]["seconds"], ".2g"),
    Published("exponent of κ in the steps", "1", "theory", lambda o: o["condition"]["slope"]),
)

EXPERIMENT = Experiment(
    name="input_scaling",
    title="Inputs of equal scale make descent faster",
    source="A blog's bowls; LeCun, Bottou, Orr & Müller 1998, Efficient BackProp, sections 4.3 and 5",
    question="""Why does scaling the inputs help, before there is any batch norm? On two bowls, x²/20 + y² and x² +
y², SGD runs at rate 0.9 from (−7, 2) until both coordinates are below 0.01. Then linear regressions are fitted by
gradient descent at the best constant rate, 2/(λmax + λmin), on Gaussian inputs whose covariance has a chosen
condition number κ. Last, independent inputs of scales from 1 to 10 are used raw, scaled to [0, 1] by minimum and
maximum, and as z-scores by a `BatchNorm1d` without γ and β, each with and without outliers.""",
    meaning="""The bowls are arithmetic: x shrinks by 0.91 a step on the stretched one and by 0.8 on the round one,
which is 70 steps against 30. The blog's seconds are those of its animation; here the same descents take milliseconds,
in the ratio of their steps. In the regressions the steps grow in proportion to κ, at four fifths of the bound, which
only a start along the slowest directions reaches.

With a bias, the matrix that counts is the second moment of (x, 1). Raw inputs of scales 1 to 10 whose means are not 0
make its κ about 3,000. Min-max scaling leaves 430, for it does not centre: the mean of 1/2 acts like a shared large
input. Z-scores leave 1.2. One value in a hundred 10 σ off takes min-max scaling to 1,800 and some five times the
steps; z-scores stay at 1.2 (2 steps either way, so the ratio of steps is coarse). Raw inputs even gain by outliers,
probably as these add variance beside the means. Batch norm scales the way that does not depend on the extremes.""",
    scales={
        "quick": Setting((10, 30, 100), 256),
        "standard": Setting((10, 30, 100, 300, 1000), 2000),
        "paper": Setting((10, 30, 100, 300, 1000, 3000), 5000, features=16),
    },
    arms=arms,
    steps=ticks,
    run=run,
    draw=draw,
    claims=CLAIMS,
    published=PUBLISHED,
    figsize=(9.6, 6.0),
)
