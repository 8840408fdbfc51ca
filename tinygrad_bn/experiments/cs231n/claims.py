"""What CS231n's notebook says, as predicates: measures, thresholds and reasons."""

from __future__ import annotations

from collections.abc import Sequence
from math import log10

import numpy as np

from tinygrad_bn.experiments.runner.experiment import CLOCK, Claim, above, below, between
from tinygrad_bn.experiments.runner.results import Outcome

SAME_ORDER = 0.5
"""In decimal logarithms: 2e-8 is of the order of 1e-8, 4e-8 is not."""
EXPECTED = {"W": 1e-4, "b": 1e-8, "gamma": 1e-8, "beta": 1e-8}
"""The largest errors of a net's gradients that the notebook lets one expect."""


def magnitude(errors: Sequence[float]) -> float:
    """Return the decimal logarithm of the largest error."""
    return log10(max(1e-17, *errors))


def net_magnitude(outcome: Outcome) -> float:
    """By how many orders the errors of the nets exceed what may be expected: the worst of all that have an expectation.

    A bias ahead of batch norm has none: its gradient is zero.
    """
    excess = []
    for norm in ("none", "batch"):
        for name, error in outcome["checks"]["nets"][norm]["errors"].items():
            if norm == "none" or name not in ("b1", "b2"):
                excess.append(log10(max(1e-17, error) / EXPECTED[name.rstrip("123")]))
    return max(excess)


def final(outcome: Outcome, arm: str, name: str = "train") -> float:
    """The accuracy after the last epoch."""
    return float(outcome[arm][name]["y"][-1])


def gap(outcome: Outcome) -> float:
    """Training accuracy with batch norm less that without, the mean over all epochs but the start."""
    both = [np.mean(outcome[arm]["train"]["y"][1:]) for arm in ("depth_batch", "depth_none")]
    return float(both[0] - both[1])


def spread(outcome: Outcome, norm: str) -> float:
    """Largest less smallest of the best training accuracies over the middle two of the four decades of scales."""
    curve = outcome[f"scale_{norm}"]["best_train"]
    decades = np.abs(np.log10(curve["x"]) + 2)
    return float(np.ptp(np.array(curve["y"])[decades < 1 + 1e-9]))


def at_smallest(outcome: Outcome, norm: str) -> float:
    """The best training accuracy at the smallest scale."""
    return float(outcome[f"scale_{norm}"]["best_train"]["y"][0])


def drop(outcome: Outcome, norm: str, name: str = "train") -> float:
    """The final accuracy with the largest batches less that with the smallest."""
    sizes = outcome.setting.batches
    return final(outcome, f"size_{norm}", f"{name}_{sizes[-1]}") - final(outcome, f"size_{norm}", f"{name}_{sizes[0]}")


def speedup(outcome: Outcome, form: str) -> float:
    """The time of ``batchnorm_backward``, step by step, over another form's."""
    seconds = outcome["checks"][CLOCK]
    return float(seconds["steps"] / seconds[form])


RECORDINGS = "Three recordings of this cell are at hand: {}. They differ by implementation and draws"

CLAIMS = (
    Claim(
        "forward_as_recorded",
        "Means and deviations of forward passes are those that the notebook records (batch norm in training, with γ "
        "and β, in evaluation after 50 batches; layer norm).",
        lambda o: float(o["checks"]["forward_off"]),
        below(1e-8),
        "The largest deviation from 32 recorded numbers of eight decimals on the notebook's data (seed 231): a unit "
        "of the last.",
    ),
    Claim(
        "losses_as_recorded",
        "Initial losses of three-layer nets, without and with batch norm and L2 regularisation, are those recorded.",
        lambda o: float(o["checks"]["losses_off"]),
        below(1e-12),
        "Four numbers of 16 digits; sums in another order may differ in the last three.",
    ),
    Claim(
        "batch_norm_gradients",
        "Batch norm, numeric against analytic gradients: 'relative errors between 1e-13 and 1e-8'.",
        lambda o: magnitude(o["checks"]["batch_errors"]),
        below(-8 + SAME_ORDER),
        "Decimal logarithm of the largest of the errors of dx, dγ, dβ: of the order of 1e-8 at most. "
        "Gradients are autograd's.",
    ),
    Claim(
        "layer_norm_gradients",
        "Layer norm, the same: 'relative errors between 1e-12 and 1e-8'.",
        lambda o: magnitude(o["checks"]["layer_errors"]),
        below(-8 + SAME_ORDER),
        "As for batch norm.",
    ),
    Claim(
        "net_gradients",
        "Whole nets: errors of '1e-4 ~ 1e-10 for W, 1e-8 ~ 1e-10 for b, 1e-8 ~ 1e-9 for beta and gammas'.",
        net_magnitude,
        below(SAME_ORDER),
        "By how many orders the worst error exceeds the expected upper end, with and without batch norm and "
        "regularisation. Recorded are 1.1e-4 for W1 and 1.5e-8 for b1. Biases ahead of batch norm are left out: their "
        "gradient is zero.",
    ),
    Claim(
        "alternative_backward",
        "The simplified backward pass gives 'nearly identical results' as the one through the graph (1e-12).",
        lambda o: magnitude(o["checks"]["alt"]),
        below(-12 + SAME_ORDER),
        "Decimal logarithm of the largest relative error of dx, dγ, dβ on 100 × 500 values; recorded are 9.2e-13 "
        "to 1.3e-12. Speed depends on the machine: published below, and not claimed.",
    ),
    Claim(
        "converges_faster",
        "'Batch normalization helps the network to converge much faster.'",
        gap,
        above(0.05),
        "The mean over epochs of training accuracy with batch norm less that without. 'Much': at least 50 of 1,000 "
        "pictures at any time. Recorded curves of two others: 0.13 and 0.20.",
    ),
    Claim(
        "trains_higher",
        "After 10 epochs the net with batch norm has the higher training accuracy (.801 against .726).",
        lambda o: final(o, "depth_batch") - final(o, "depth_none"),
        above(0),
        "Accuracy with batch norm less that without: the order of the two recorded numbers.",
    ),
    Claim(
        "train_batch_as_recorded",
        "Training accuracy with batch norm: .801.",
        lambda o: final(o, "depth_batch"),
        between(0.801 - 0.12, 0.801 + 0.12),
        RECORDINGS.format(".801, .772, .687") + " by up to .114, rounded up.",
    ),
    Claim(
        "train_none_as_recorded",
        "Training accuracy without batch norm: .726.",
        lambda o: final(o, "depth_none"),
        between(0.726 - 0.12, 0.726 + 0.12),
        RECORDINGS.format(".726, .612, .391") + "; the third is far off and left out. .114 lie between the "
        "other two, rounded up.",
        "The notebook's 1,000 pictures are others: the part of CIFAR-10 at hand is not in the original order. It "
        "is not the engine: nets of PyTorch with the same weights and batches have the same losses for the first "
        "30 steps to 1e-6, and end at .58.",
    ),
    Claim(
        "val_batch_as_recorded",
        "Validation accuracy with batch norm: .357.",
        lambda o: final(o, "depth_batch", "val"),
        between(0.357 - 0.05, 0.357 + 0.05),
        RECORDINGS.format(".357, .327, .312")
        + " by up to .045; other pictures validate here: a standard error of .015.",
        "Other pictures, both to train on and to validate with, the same for all seeds; the draws of 1,000 alone "
        "have a standard error of .015. PyTorch's nets reach .31 on them.",
    ),
    Claim(
        "val_none_as_recorded",
        "Validation accuracy without batch norm: .335.",
        lambda o: final(o, "depth_none", "val"),
        between(0.335 - 0.05, 0.335 + 0.05),
        RECORDINGS.format(".335, .320, .248") + "; the distance as with batch norm.",
        "As with batch norm: other pictures. PyTorch's nets reach .31 on them.",
    ),
    Claim(
        "hardly_cares_for_scale",
        "With batch norm the net hardly cares for the scale of its initial weights (initialization, figure and "
        "question 1).",
        lambda o: spread(o, "batch") / spread(o, "none"),
        below(0.5),
        "Largest less smallest of the best training accuracies over scales from 1e-3 to 1e-1, with batch norm "
        "over without. 'Hardly': less than half as much.",
        "With Adam the scale of weights ahead of batch norm acts as the inverse of a learning rate. BN((aW)u) = "
        "BN(Wu), so only the direction of W counts, and Adam moves each weight by about 1e-3 a step whatever the "
        "size of its gradient. At a scale of 1e-3 one step overwrites the initial weights; at 1 the 200 steps "
        "hardly turn them. With a rate in proportion to the scale (the arm scale_matched, added after this "
        "verdict) the curve is flat from 1e-3 to 1.",
    ),
    Claim(
        "small_weights_stop_the_baseline",
        "Without batch norm, small initial weights let activations and gradients vanish: the net does not learn.",
        lambda o: at_smallest(o, "none"),
        below(0.2),
        "Best training accuracy at a scale of 1e-4: below twice that of guessing.",
    ),
    Claim(
        "small_weights_with_batch_norm",
        "With batch norm it learns from there too.",
        lambda o: at_smallest(o, "batch") - at_smallest(o, "none"),
        above(0.1),
        "Best training accuracies at a scale of 1e-4, with less without: by more than that of guessing.",
        "It does learn from there, but in this range a step of Adam overwrites the initial weights (see "
        "hardly_cares_for_scale), so that it starts slowly; and one of the five baselines wakes up within ten "
        "epochs.",
    ),
    Claim(
        "batch_norm_needs_large_batches",
        "The larger the batch, the better a net with batch norm trains (batch sizes, figure and question 2).",
        lambda o: drop(o, "batch"),
        above(0),
        "Final training accuracy with batches of 50 less that with batches of 5, although the latter take ten times as "
        "many steps.",
    ),
    Claim(
        "small_batches_hurt_batch_norm_more_in_training",
        "Small batches hurt batch norm more than layer norm: training accuracy (batch sizes, question 4).",
        lambda o: drop(o, "batch") - drop(o, "layer"),
        above(0),
        "The loss from batches of 50 to batches of 5, with batch norm less with layer norm.",
    ),
    Claim(
        "small_batches_hurt_batch_norm_more_in_validation",
        "The same of validation accuracy.",
        lambda o: drop(o, "batch", "val") - drop(o, "layer", "val"),
        above(0),
        "As for training accuracy.",
    ),
)
