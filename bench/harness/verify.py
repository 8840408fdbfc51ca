"""Whether an answer is right."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bench.harness.case import Answer, Array


def fault(answer: Sequence[Array], reference: Answer, tolerance: float) -> str | None:
    """Return what is wrong with an answer, or None.

    Parameters
    ----------
    answer : sequence of numpy.ndarray
        In the order of the reference.
    reference : dict of numpy.ndarray, float64
    tolerance : float
        The largest error of an array, relative to the largest absolute value that it should hold.
    """
    if len(answer) != len(reference):
        return f"{len(answer)} arrays instead of {len(reference)}: {', '.join(reference)}"
    for got, (name, want) in zip(answer, reference.items(), strict=True):
        if got.shape != want.shape:
            return f"{name}: shape {got.shape} instead of {want.shape}"
        if not np.isfinite(got).all():
            return f"{name}: not finite"
        scale = float(np.abs(want).max(initial=0.0))
        error = float(np.abs(got - want).max(initial=0.0))
        if error > tolerance * scale:
            return f"{name}: off by {error:.2e} where the largest value is {scale:.2e}; allowed is {tolerance:g} of it"
    return None
