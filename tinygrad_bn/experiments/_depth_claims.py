"""What ``depth_affine`` measures and claims."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_bn.experiments._dense import BN, FIXED, PLAIN
from tinygrad_bn.experiments.runner.experiment import Claim, Published, above, below, between
from tinygrad_bn.experiments.runner.results import Outcome

INITS = ("small", "xavier", "he", "large")
ACTIVATIONS, JACOBIANS, SHIFT = "activations", "jacobians", "shift"
BORDER = 20
NEAR = (0.5, 2.0)
"""Singular values that count as close to 1."""


def gain(outcome: Outcome, deep: bool) -> float:
    """Return by how many points γ and β raise the accuracy, the mean of the networks above or below 20 layers."""
    depths = [d for d in outcome.setting.depths if (d > BORDER) == deep]
    return float(np.mean([outcome[f"{BN} {d}"]["accuracy"] - outcome[f"{FIXED} {d}"]["accuracy"] for d in depths]))


def deepest(outcome: Outcome) -> float:
    """Return by how many points batch normalisation raises the accuracy of the deepest networks."""
    depth = max(outcome.setting.depths)
    return float(outcome[f"{BN} {depth}"]["accuracy"] - outcome[f"{PLAIN} {depth}"]["accuracy"])


def factor(name: str) -> Any:
    """Return the measure of how activations grow from a layer to the next."""
    return lambda outcome: outcome[ACTIVATIONS][f"{name} factor"]


def off_one(outcome: Outcome) -> float:
    """Return how far from 1 the factor is with batch normalisation, at the worst initialisation."""
    return float(max(abs(factor(f"{BN} {init}")(outcome) - 1) for init in INITS))


def jacobian(name: str) -> Any:
    """Return the measure of a number of the Jacobians."""
    return lambda outcome: outcome[JACOBIANS][name]


def shifted(batch: str) -> Any:
    """Return the measure of the shift with batch normalisation over the one without."""
    return lambda outcome: outcome[f"{SHIFT} {BN}"][batch] / outcome[f"{SHIFT} {PLAIN}"][batch]


def noise(kind: str) -> Any:
    """Return the measure of the shift of mini-batches over that of the full batch."""
    return lambda outcome: outcome[f"{SHIFT} {kind}"]["mini"] / outcome[f"{SHIFT} {kind}"]["full"]


CONJECTURE = '"Batch Normalization may lead the layer Jacobians to have singular values close to 1" (section 3.3)'
CLAIMS = (
    Claim(
        "affine_spare_below_20",
        "An argument of tutorials: below about 20 layers γ and β make no difference, the next layer does their work.",
        lambda o: gain(o, False),
        between(-1, 1),
        "Points of test accuracy with γ and β less without, mean over the depths below 20. A point is what one would "
        "care for on MNIST, and above the noise of 10,000 test pictures (0.2 points each).",
    ),
    Claim(
        "affine_needed_above_20",
        "The other half of the argument: above about 20 layers networks with γ and β are better.",
        lambda o: gain(o, True),
        above(1),
        "The same over the depths above 20, beyond what counted as no difference.",
        "It is the other way round: without them the deep networks learn faster. Our guess, not tested: gradients "
        "grow by 1.2 a layer towards the first one at the start (see the Jacobians), so that steps are large and "
        "noisy there, and γ and β let them also change the scale and place of each layer's output, which otherwise "
        "stay at 1 and 0.",
    ),
    Claim(
        "bn_trains_deep",
        "Deep networks train better with batch normalisation than without, under He's initialisation too.",
        deepest,
        above(0),
        "Points of test accuracy at the greatest depth, at the same rate.",
    ),
    Claim(
        "small_dies",
        "With small weights (deviation 0.01) activations die out over the layers (CS231n).",
        factor(f"{PLAIN} small"),
        below(0.1),
        "Factor from a layer to the next; theory: 0.01·√(n/2) = 0.057. At a tenth ten layers leave 1e-10.",
    ),
    Claim(
        "xavier_dies",
        "Under Xavier's initialisation the variance halves with each ReLU layer (He et al. 2015, section 2.2).",
        factor(f"{PLAIN} xavier"),
        between(0.65, 0.76),
        "Factor of the root mean square; theory 1/√2 = 0.707, ± 7 % for a network as narrow as this.",
    ),
    Claim(
        "he_keeps",
        "Under He's initialisation activations neither die nor explode.",
        factor(f"{PLAIN} he"),
        between(0.9, 1.1),
        "The same factor; theory 1.",
    ),
    Claim(
        "large_explodes",
        "With weights of deviation 1 activations explode (CS231n).",
        factor(f"{PLAIN} large"),
        above(2),
        "The same factor; theory √(n/2) = 5.7. At 2 twenty layers make 1e6.",
    ),
    Claim(
        "bn_keeps_all",
        "BN(Wu) = BN((aW)u) (section 3.3): with batch normalisation none of them dies or explodes.",
        off_one,
        below(0.02),
        "Distance of the same factor from 1, the worst of the four initialisations; 1.02 to the 40th is 2.2.",
    ),
    Claim(
        "singular_values_near_1",
        f"{CONJECTURE}.",
        jacobian(f"{BN} trained near"),
        above(0.5),
        "Share of the singular values between 1/2 and 2 after training: most of them, the weakest reading.",
        "Section 3.3 supposes a linear map and uncorrelated values. ReLU makes about half of the singular values zero, "
        "those of the units that are off; without ReLU 65 % are between 1/2 and 2 at the start, the spread of a random "
        "square matrix.",
    ),
    Claim(
        "nearer_than_without",
        f"{CONJECTURE}: that it is batch normalisation which leads there.",
        lambda o: jacobian(f"{BN} trained near")(o) - jacobian(f"{PLAIN} trained near")(o),
        above(0),
        "The same share less that without batch normalisation, both from He's initialisation. A network that diverged "
        "has none near 1 (this rule was added when the first run met one).",
    ),
    Claim(
        "gradients_preserved",
        'If all singular values are 1, this "preserves the gradient magnitudes during backpropagation" (section 3.3).',
        jacobian(f"{BN} trained rms"),
        between(0.9, 1.1),
        "Root mean square of the singular values, by which a layer changes the length of a gradient: 1.1 to the 20th "
        "is 6.7.",
        "At the start it is 1.21 = √(π/(π − 1)), what Yang et al. 2019 derive for ReLU: half of the units pass a "
        "gradient, but only 1/2 − 1/(2π) of the variance is left to divide by. Training brings it to 0.89, the other "
        "side of 1.",
    ),
    Claim(
        "less_shift_mini_batch",
        "Batch normalisation reduces internal covariate shift (Ioffe & Szegedy 2015), in steps of mini-batches.",
        shifted("mini"),
        below(1),
        "Shift of the gradient (definition 2.1 of Santurkar et al. 2018) with batch normalisation over that without.",
    ),
    Claim(
        "less_shift_full_batch",
        "The same in steps of the full batch, where no noise of sampling is left.",
        shifted("full"),
        below(1),
        "The same ratio.",
    ),
)


def row(what: str, value: str, where: str, measure: Any) -> Published:
    """Return a row of the table."""
    return Published(what, value, where, measure)


SPECTRA = (
    (f"{BN} he", "BN, start"),
    (f"{BN} linear", "BN, start, no ReLU"),
    (f"{BN} trained", "BN, trained"),
    (f"{PLAIN} he", "no BN, He, start"),
)
HE, SANTURKAR = "He et al. 2015, section 2.2", "Santurkar et al. 2018, figure 2"
PUBLISHED = (
    row("gain from γ, β below 20 layers (points)", "none", "tutorials", lambda o: gain(o, False)),
    row("gain from γ, β above 20 layers (points)", "some", "tutorials", lambda o: gain(o, True)),
    row("gain from BN in the deepest network (points)", "–", "ours", deepest),
    row("factor of activations a layer, no BN, small weights", "0.057", "theory", factor(f"{PLAIN} small")),
    row("factor of activations a layer, no BN, Xavier", "0.707", HE, factor(f"{PLAIN} xavier")),
    row("factor of activations a layer, no BN, He", "1", HE, factor(f"{PLAIN} he")),
    row("factor of activations a layer, no BN, large weights", "5.7", "theory", factor(f"{PLAIN} large")),
    row("the factor's distance from 1 with BN, worst of the four", "0", "section 3.3", off_one),
    *(
        row(f"share of singular values in 1/2 … 2, {net}", "conjecture: 1", "section 3.3", jacobian(f"{key} near"))
        for key, net in (*SPECTRA, (f"{PLAIN} trained", "no BN, He, trained"))
    ),
    row("root mean square of singular values, BN, start", "1.211", "Yang et al. 2019", jacobian(f"{BN} he rms")),
    *(
        row(f"root mean square of singular values, {net}", "1", "section 3.3", jacobian(f"{key} rms"))
        for key, net in SPECTRA[1:]
    ),
    row("shift with BN over shift without, mini-batches", "often above 1", SANTURKAR, shifted("mini")),
    row("shift with BN over shift without, full batch", "often above 1", SANTURKAR, shifted("full")),
    row("shift of mini-batches over that of the full batch, BN", "–", "ours", noise(BN)),
    row("shift of mini-batches over that of the full batch, no BN", "–", "ours", noise(PLAIN)),
)
