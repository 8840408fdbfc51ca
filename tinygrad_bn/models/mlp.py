"""The fully connected network of the main job."""

from __future__ import annotations

from collections.abc import Sequence

from tinygrad_bn import nn
from tinygrad_bn.errors import ArgumentError, wrong

ACTIVATIONS: dict[str, type[nn.Module]] = {"sigmoid": nn.Sigmoid, "relu": nn.ReLU, "tanh": nn.Tanh}
NORMS = ("batch", "none")


def mlp(
    inputs: int,
    hidden: Sequence[int] = (100, 100, 100),
    classes: int = 10,
    norm: str = "batch",
    activation: str = "sigmoid",
) -> nn.Sequential:
    """Return a fully connected network: Flatten, then for each hidden layer Linear, BatchNorm1d, activation; Linear.

    Parameters
    ----------
    inputs : int
        Values of one sample.
    hidden : sequence of int
        Widths of the hidden layers.
    classes : int
    norm : {"batch", "none"}
        With batch norm the linear layer ahead of it has no bias, whose gradient would be zero.
    activation : {"sigmoid", "relu", "tanh"}

    Raises
    ------
    ArgumentError
        If ``norm`` or ``activation`` is another.

    References
    ----------
    With sigmoid and three hidden layers of 100, the network of section 4.1 of Ioffe & Szegedy 2015 (arXiv:1502.03167).
    """
    if norm not in NORMS:
        raise ArgumentError(wrong("mlp", "norm", f"one of {', '.join(NORMS)}", repr(norm)))
    if activation not in ACTIVATIONS:
        raise ArgumentError(wrong("mlp", "activation", f"one of {', '.join(ACTIVATIONS)}", repr(activation)))
    layers: list[nn.Module] = [nn.Flatten()]
    width = inputs
    for units in hidden:
        layers.append(nn.Linear(width, units, bias=norm == "none"))
        if norm == "batch":
            layers.append(nn.BatchNorm1d(units))
        layers.append(ACTIVATIONS[activation]())
        width = units
    layers.append(nn.Linear(width, classes))
    return nn.Sequential(*layers)
