"""Batch normalisation as Stanford's CS231n teaches it: its notebook's checks, and its three studies of deep nets.

    checks   forward passes, gradients, the alternative backward pass
    depth    six-layer nets with and without batch norm
    scale    eight-layer nets over 20 scales of the initial weights
    size     batches of 5, 10 and 50 with batch norm and with layer norm

Stanford CS231n, assignment 2, ``BatchNormalization.ipynb``.
"""

from tinygrad_bn.experiments.cs231n.experiment import EXPERIMENT

__all__ = ["EXPERIMENT"]
