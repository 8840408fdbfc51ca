"""Experiments of the literature on batch normalisation, each with a figure and verdicts on its claims.

On the command line ``python -m tinygrad_bn.experiments list``; from Python ``run``.
"""

from tinygrad_bn.experiments.runner.registry import NAMES, load
from tinygrad_bn.experiments.runner.start import run

__all__ = ["NAMES", "load", "run"]
