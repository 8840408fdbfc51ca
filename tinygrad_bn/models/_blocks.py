"""What several networks are built of, and how they start."""

from __future__ import annotations

from tinygrad_bn import nn
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import ArgumentError, wrong
from tinygrad_bn.nn import init


class ConvNormReLU(nn.Module):
    """relu(batch_norm(conv(x))), batch norm and ReLU in one pass.

    Parameters
    ----------
    inputs, outputs : int
        Channels.
    kernel : int
        Side of the kernel; the padding is half of it, so that stride 1 keeps height and width.
    stride : int

    Notes
    -----
    The convolution has no bias: batch norm would subtract it.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs, activation="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised and rectified maps, shape (N, outputs, ⌈H / stride⌉, ⌈W / stride⌉)."""
        y: Tensor = self.bn(self.conv(x))
        return y


def he_normal(model: nn.Module) -> None:
    """Draw the weights of all convolutions and linear layers from N(0, 2 / fan_in); put their biases to 0.

    References
    ----------
    He et al. 2015 (arXiv:1502.01852), equation 10: the variance of what flows forward stays as it is through ReLUs.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                init.zeros_(module.bias)


def positive(op: str, **sizes: int) -> None:
    """Raise unless every size is an int of at least 1."""
    for name, value in sizes.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ArgumentError(wrong(op, name, "an int of at least 1", repr(value)))
