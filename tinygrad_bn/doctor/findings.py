"""What is wrong, by what was seen: each kind of finding is a function, with its evidence and its remedy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tinygrad_bn.doctor import thresholds as t
from tinygrad_bn.doctor.activities import Activity
from tinygrad_bn.doctor.records import SMALLEST, Layer, Seen, pooled, rms

SEVERITIES = ("error", "warning", "info")


@dataclass
class Finding:
    """One thing that is wrong.

    Attributes
    ----------
    kind : str
        One of ``KINDS``.
    severity : {"error", "warning", "info"}
        Evaluation or training cannot work so; it is worse for it; it does no harm.
    layer : str
        The dotted name; "" for the model as a whole.
    message : str
        What was found, with its numbers.
    remedy : str
        What to do about it.
    evidence : dict
        The numbers by name.
    """

    kind: str
    severity: str
    layer: str
    message: str
    remedy: str
    evidence: dict[str, Any] = field(default_factory=dict)


def findings(seen: Seen) -> list[Finding]:
    """Return everything that is wrong, the worst first, then in the order of the layers."""
    found = [] if seen.normalised else [_no_norm()]
    for layer in seen.layers:
        found += [f for look in OF_LAYERS for f in look(layer)]
    found += _not_finite(seen)
    found += _small_last(seen)
    for activity in seen.activities.values():
        found += [*_dead(activity), *_saturated(activity)]
    return sorted(found, key=lambda f: SEVERITIES.index(f.severity))


def _no_norm() -> Finding:
    return Finding(
        "no_norm", "info", "", "no layer normalises: there are no statistics to compare",
        "none is needed for that; where training is slow or unstable, put tb.nn.BatchNorm2d or tb.nn.GroupNorm behind "
        "the convolutions.",
    )  # fmt: skip


def _gap(layer: Layer) -> Iterator[Finding]:
    gaps = layer.gaps()
    if gaps is None or not layer.switches:
        return
    mean, deviation, chance = rms(gaps[0]), rms(gaps[1]), layer.chance()
    largest = float(np.maximum(mean, deviation))  # NaN if one is
    if not largest <= max(t.GAP, t.CHANCES * chance):
        each = np.maximum(np.abs(gaps[0]), np.abs(gaps[1]))
        worst = int(np.argmax(each))
        lost = int(np.sum(~np.isfinite(each)))
        message = f"running statistics are not finite: {lost} of {each.size}, the first of {layer.channel(worst)}"
        if not lost:
            message = (
                f"running and batch statistics differ: means by {mean:.2g} deviations, deviations by a factor of "
                f"{_factor(deviation)} (by chance {chance:.2g}); {layer.channel(worst)} most"
            )
        yield Finding(
            "statistics_gap", "warning" if largest <= t.GAP_SEVERE else "error", layer.name, message,
            "re-estimate them with tb.nn.utils.update_bn(model, loader) before evaluating; if it comes back, the data "
            "of training and evaluation are not prepared alike.",
            {"mean_gap": mean, "deviation_gap": deviation, "by_chance": chance, "worst_channel": worst},
        )  # fmt: skip


def _momentum(layer: Layer) -> Iterator[Finding]:
    gaps, left = layer.gaps(), layer.initial
    if gaps is None or not layer.switches or left <= t.INITIAL:
        return
    if not max(rms(gaps[0]), rms(gaps[1])) > t.INITIAL_GAP + layer.chance() or layer.unexplained() > t.UNEXPLAINED:
        return
    steps, momentum = layer.steps, layer.module.momentum
    evidence = {"steps": steps, "momentum": momentum, "initial_left": left}
    if steps:
        needed = 1 - t.INITIAL ** (1 / steps)
        remedy = f"momentum={math.ceil(100 * needed) / 100:g} or momentum=None (the plain average), or train longer"
        evidence["momentum_needed"] = needed
    else:
        remedy = "train it first, or load its state"
    yield Finding(
        "momentum_too_small", "warning" if steps else "error", layer.name,
        f"after {steps} steps with momentum {momentum} {left:.0%} of the running statistics are still the initial "
        "mean 0 and variance 1",
        f"{remedy}; tb.nn.utils.update_bn(model, loader) puts the statistics right now.", evidence,
    )  # fmt: skip


def _noise(layer: Layer) -> Iterator[Finding]:
    if not layer.rows or not layer.switches or hasattr(layer.module, "ghost_batch_size"):
        return
    size = max(layer.sizes)
    (noise, measured), bound = layer.noise(), 1 / math.sqrt(max(size, 1))
    evidence = {"noise": noise, "bound": bound, "batch_size": size, "values": max(row[0] for row in layer.rows)}
    if measured and noise > t.unlike(len(layer.rows)) * bound:
        yield Finding(
            "batches_not_alike", "warning", layer.name,
            f"means of batches of {size} scatter by {noise:.2g} deviations, where samples drawn alike give {bound:.2g} "
            "at most",
            "shuffle: DataLoader(..., shuffle=True); batches by class or by source each have statistics of their own.",
            evidence,
        )  # fmt: skip
    elif bound > t.NOISE and (_single(layer) or (measured and noise > t.NOISE)):
        noise = evidence["noise"] = bound if _single(layer) else noise
        yield Finding(
            "noisy_statistics", "warning", layer.name,
            f"means of batches of {size} scatter by {noise:.2g} deviations",
            f"batches of {math.ceil(size * (noise / t.NOISE) ** 2)} or more (batch_size=...), tb.nn.SyncBatchNorm over "
            "several processes, or a norm without batches: tb.nn.utils.convert(model, 'GroupNorm').",
            evidence,
        )  # fmt: skip


def _single(layer: Layer) -> bool:
    """Whether each sample gives a channel one value, so that the bound on the scatter is what is expected."""
    return layer.rows[0][0] == layer.sizes[0]


def _twice(layer: Layer) -> Iterator[Finding]:
    if len(layer.calls) < 2 or not layer.switches:
        return
    means, variances = zip(*(pooled(rows) for rows in layer.calls), strict=True)
    spread = np.sqrt(np.maximum(np.mean(variances, 0) + layer.eps, SMALLEST))
    between = max(rms((m - means[0]) / spread) for m in means)
    logs = [0.5 * np.log((v + layer.eps) / np.maximum(variances[0] + layer.eps, SMALLEST)) for v in variances]
    ratio = max(rms(x) for x in logs)
    harm = max(between, ratio) > max(t.GAP, t.CHANCES * layer.chance())
    yield Finding(
        "used_twice", "warning" if harm else "info", layer.name,
        f"called {len(layer.calls)} times a forward; means of the calls differ by {between:.2g} deviations, "
        f"deviations by a factor of {_factor(ratio)}, and share one set of running statistics",
        "give each place a layer of its own (copy.deepcopy); for inputs of several domains take "
        "tb.nn.DomainSpecificBatchNorm2d.",
        {"calls": len(layer.calls), "mean_difference": between, "deviation_difference": ratio},
    )  # fmt: skip


def _vanishing(layer: Layer) -> Iterator[Finding]:
    if not layer.rows or max(row[0] for row in layer.rows) < 2:
        return
    mean, var = pooled(layer.rows)
    limit = np.maximum(layer.eps, np.square(t.ROUNDING * layer.ulp * mean))
    idle = (var == 0) & (mean == 0) if layer.idle_is_fine else np.zeros(var.shape, bool)
    small = np.flatnonzero((var < limit) & ~idle)
    if small.size:
        largest = float(var[small].max())
        yield Finding(
            "vanishing_variance", "error" if small.size == var.size else "warning", layer.name,
            f"{small.size} of {var.size} channels have a variance of {largest:.2g} or less, below eps = {layer.eps:g} "
            "or below rounding: the layer cannot bring it to 1",
            "look at what is ahead: weights that have decayed or a dead layer, inputs that are not scaled (standardise "
            "them), too large a mean (subtract it); a smaller eps=... where the scale is meant.",
            {"channels": small.tolist(), "of": int(var.size), "largest": largest, "eps": layer.eps},
        )  # fmt: skip


def _dropout(layer: Layer) -> Iterator[Finding]:
    if not layer.plain or not layer.rows or not layer.switches or len(layer.plain) != len(layer.rows):
        return
    with_, without = pooled(layer.rows)[1], pooled(layer.plain)[1]
    shift = 0.5 * np.log((with_ + layer.eps) / np.maximum(without + layer.eps, SMALLEST))
    found = rms(shift)
    if found > max(t.DROPOUT, t.CHANCES / math.sqrt(max(sum(layer.sizes), 1))):
        yield Finding(
            "dropout_ahead", "warning", layer.name,
            f"dropout ahead ({', '.join(layer.ahead) or 'in the model'}) changes deviations by a factor of "
            f"{_factor(found)} in training, and not in evaluation",
            "put nn.Dropout behind the last batch norm, or re-estimate with tb.nn.utils.update_bn, which turns it off.",
            {"deviation_shift": found, "dropout": list(layer.ahead)},
        )  # fmt: skip


def _bias(layer: Layer) -> Iterator[Finding]:
    for name, module in layer.biases:
        values = np.asarray(module.bias.detach().cpu().double().numpy(), np.float64)
        yield Finding(
            "useless_bias", "info", name,
            f"its bias of {values.size} numbers (largest {np.abs(values).max(initial=0.0):.2g}) does nothing: "
            f"the batch norm '{layer.name}' behind it subtracts the mean",
            "make the layer with bias=False; the batch norm has a bias of its own.",
            {"parameters": int(values.size), "norm": layer.name},
        )  # fmt: skip


def _not_finite(seen: Seen) -> Iterator[Finding]:
    """Batches that were skipped in training, and those of the loader, at the first layer that they reach."""
    first = seen.first_not_finite
    for layer in seen.layers:
        skipped, here = int(getattr(layer.module, "skipped_batches", 0)), layer.not_finite if layer is first else 0
        if skipped or here:
            yield Finding(
                "batches_skipped", "error" if here else "warning", layer.name,
                f"batches with NaN or infinity ahead of it: {skipped} skipped in training, {here} of "
                f"{len(seen.batches)} here",
                "find where they come from: tb.detect_anomaly(), the data (tb.isfinite(x).all()), the learning rate; "
                "layer.reset_running_stats() and update_bn start the count anew.",
                {"skipped": skipped, "here": here, "batches": len(seen.batches)},
            )  # fmt: skip


def _small_last(seen: Seen) -> Iterator[Finding]:
    layers = [layer for layer in seen.layers if layer.switches and layer.rows]
    sizes = [b.size for b in seen.batches]
    last = seen.batches[-1]
    failed = next((b for b in seen.batches if b.error is not None), None)
    remedy = "DataLoader(..., drop_last=True) in training, or a batch size that divides the data."
    if failed is not None:
        reason = str(failed.error).split("\n")[0].rstrip(".")
        yield Finding(
            "small_last_batch", "error", failed.layer,
            f"training stops at a batch of {failed.size} (others {max(sizes)}): {reason}", remedy,
            {"size": failed.size, "batch_size": max(sizes), "error": reason},
        )  # fmt: skip
    elif layers and 0 < last.size < t.SMALL_LAST * max(sizes):
        noise, layer = max(((_noise_at(layer, last.size), layer) for layer in layers), key=lambda pair: pair[0])
        if noise <= t.NOISE:
            return
        yield Finding(
            "small_last_batch", "warning", layer.name,
            f"the last batch has {last.size} samples (others {max(sizes)}): its mean scatters by "
            f"{noise:.2g} deviations, and weighs as much in the running statistics", remedy,
            {"size": last.size, "batch_size": max(sizes), "values": layer.rows[-1][0], "noise": noise},
        )  # fmt: skip


def _noise_at(layer: Layer, size: int) -> float:
    """How much the means of batches of another size scatter."""
    return 1 / math.sqrt(size) if _single(layer) else layer.noise()[0] * math.sqrt(max(layer.sizes) / size)


def _dead(activity: Activity) -> Iterator[Finding]:
    if activity.alive is None or activity.samples < t.DEAD_SAMPLES or not activity.alive.size:
        return
    dead = np.flatnonzero(~activity.alive)
    if dead.size:
        where = f"the activation behind {activity.name}" if activity.of_consumer else f"{activity.name or 'the model'}"
        yield Finding(
            "dead_channels", "error" if dead.size >= t.DEAD_SEVERE * activity.alive.size else "warning", activity.name,
            f"{dead.size} of {activity.alive.size} channels are zero behind {where} for all {activity.samples} samples"
            + _after(activity),
            "a smaller learning rate and training anew; nn.LeakyReLU lets gradients through; reset the bias of the "
            "batch norm ahead to 0 (nn.init.zeros_).",
            {
                "channels": dead.tolist(), "of": int(activity.alive.size), "samples": activity.samples,
                "call": activity.number,
            },
        )  # fmt: skip


def _saturated(activity: Activity) -> Iterator[Finding]:
    if activity.last or not activity.values:
        return  # the probabilities that a model returns may well be certain
    share = activity.flat / activity.values
    if share > t.SATURATED:
        yield Finding(
            "saturated_activation", "error" if share > t.SATURATED_SEVERE else "warning", activity.name,
            f"{share:.0%} of its values ({activity.kind}) lie where the slope is below {t.FLAT:.0%} of the steepest"
            + _after(activity),
            "put a batch norm ahead of it (tb.nn.BatchNorm1d), or smaller initial weights (nn.init.xavier_uniform_); "
            "of a batch norm ahead, reset the weight to 1.",
            {"share": share, "activation": activity.kind, "call": activity.number},
        )  # fmt: skip


def _after(activity: Activity) -> str:
    return f" (behind {activity.after})" if activity.after and activity.after != activity.name else ""


def _factor(logarithm: float) -> str:
    return f"{math.exp(min(logarithm, 300.0)):.3g}"


OF_LAYERS: tuple[Callable[[Layer], Iterator[Finding]], ...] = (
    _gap, _momentum, _noise, _twice, _vanishing, _dropout, _bias,
)  # fmt: skip
KINDS = (
    "statistics_gap", "momentum_too_small", "noisy_statistics", "batches_not_alike", "batches_skipped", "useless_bias",
    "dead_channels", "vanishing_variance", "saturated_activation", "used_twice", "dropout_ahead", "small_last_batch",
    "no_norm",
)  # fmt: skip
"""Every kind of finding."""
