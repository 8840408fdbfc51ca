"""Which experiments there are, each in the module of its name."""

from __future__ import annotations

import importlib
from difflib import get_close_matches

from tinygrad_bn.errors import ArgumentError, wrong
from tinygrad_bn.experiments.runner.experiment import Experiment

NAMES = ("input_scaling", "gamma_beta", "bias_blowup", "mnist_sigmoid", "cs231n", "depth_affine")
"""In the order in which ``all`` runs them."""


def load(name: str) -> Experiment:
    """Return the experiment of that name.

    Parameters
    ----------
    name : str
        One of ``NAMES``.

    Raises
    ------
    ArgumentError
        If there is none of that name.
    """
    if name not in NAMES:
        near = get_close_matches(name, NAMES, 1, 0.5)
        hint = f"did you mean {near[0]}?" if near else None
        raise ArgumentError(wrong("experiments", "name", f"one of {', '.join(NAMES)}", repr(name), hint))
    found: Experiment = importlib.import_module(f"tinygrad_bn.experiments.{name}").EXPERIMENT
    return found
