"""A small convolutional network for pictures of 32 × 32."""

from __future__ import annotations

from tinygrad_bn import nn
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.models._blocks import ConvNormReLU, positive


class CifarCNN(nn.Module):
    """Two convolutions of 32 channels, two of 64, each with batch norm and ReLU, then 4096 → 512 → classes.

    Parameters
    ----------
    num_classes : int
    in_channels : int

    Notes
    -----
    (Conv 3×3, BN, ReLU) × 2 of 32 channels, MaxPool 2, the same × 2 of 64, MaxPool 2, Linear 4096 → 512, BN, ReLU,
    Linear 512 → classes. Layers ahead of a batch norm have no bias. With 10 classes and 3 channels 2,169,066
    parameters; they start as PyTorch's layers do.
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        positive("CifarCNN", num_classes=num_classes, in_channels=in_channels)
        self.features = nn.Sequential(
            ConvNormReLU(in_channels, 32, 3),
            ConvNormReLU(32, 32, 3),
            nn.MaxPool2d(2),
            ConvNormReLU(32, 64, 3),
            ConvNormReLU(64, 64, 3),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(64 * 8 * 8, 512, bias=False),
            nn.BatchNorm1d(512, activation="relu"),
            nn.Linear(512, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores, shape (N, num_classes), of pictures of shape (N, in_channels, 32, 32)."""
        y: Tensor = self.classifier(self.features(x))
        return y


def cifar_cnn(num_classes: int = 10, in_channels: int = 3) -> CifarCNN:
    """Return a ``CifarCNN``.

    Parameters
    ----------
    num_classes : int
    in_channels : int
        Pictures are of shape (N, in_channels, 32, 32).

    Examples
    --------
    >>> import tinygrad_bn as tb
    >>> tb.models.cifar_cnn()(tb.ones(2, 3, 32, 32)).shape
    (2, 10)
    """
    return CifarCNN(num_classes, in_channels)
