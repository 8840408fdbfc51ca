"""Deep stacks of 3×3 convolutions: configurations A (11 layers) and D (16 layers).

Simonyan & Zisserman 2015 (arXiv:1409.1556), table 1.
"""

from __future__ import annotations

from tinygrad_bn import nn, ops
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import ArgumentError, wrong
from tinygrad_bn.models._blocks import positive
from tinygrad_bn.nn import init

CONFIGURATIONS: dict[int, tuple[int | str, ...]] = {
    11: (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"),
    16: (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"),
}
"""By depth: the channels of each convolution, and "M" for a max pooling of 2×2."""

HEADS = ("paper", "linear")
SHRINKS = 32  # five poolings
LAST = 512
HIDDEN = 4096


class VGG(nn.Module):
    """3×3 convolutions with ReLU, five max poolings, and fully connected layers.

    Parameters
    ----------
    depth : {11, 16}
        Configuration A or D.
    num_classes : int
    batch_norm : bool
        Batch norm ahead of each ReLU of the convolutions; not in the paper, which is older.
    input_size : int
        Height and width of the pictures, at least 32: decides on the inputs of the first fully connected layer. The
        network takes pictures of other sizes, too: they are averaged to what it expects.
    head : {"paper", "linear"}
        After the convolutions: 4096, 4096 and the classes, with ReLU and dropout between them, as in the paper; or one
        linear layer, as is usual for CIFAR.
    dropout : float
        The probability in the paper's head.

    Notes
    -----
    Parameters and buffers have torchvision's names, ``features.0.weight`` and so on, ``classifier`` for the head. The
    convolutions have biases, with batch norm as well, as in torchvision. Their weights start from N(0, 2 / fan_out) (He
    et al. 2015, arXiv:1502.01852), linear ones from N(0, 0.01²), biases from 0: as in torchvision again; the paper
    draws from N(0, 0.1²), trains configuration A first and starts the others from its layers.

    At 224 × 224 and 1,000 classes 132,863,336 parameters (11) and 138,357,544 (16): 133 and 138 million in the paper's
    table 2. For CIFAR-10: ``vgg16(10, input_size=32, head="linear")``, 14,719,818.

    References
    ----------
    Simonyan & Zisserman 2015 (arXiv:1409.1556).
    """

    def __init__(
        self,
        depth: int,
        num_classes: int = 1000,
        batch_norm: bool = False,
        input_size: int = 224,
        head: str = "paper",
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        positive("VGG", num_classes=num_classes)
        _check(depth, input_size, head)
        side = input_size // SHRINKS
        self.features = _features(CONFIGURATIONS[depth], batch_norm)
        self.avgpool = nn.AdaptiveAvgPool2d((side, side))
        self.classifier = _head(head, LAST * side * side, num_classes, dropout)
        self._start()

    def _start(self) -> None:
        """Draw the parameters anew."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.Linear):
                init.normal_(module.weight, 0.0, 0.01)
            else:
                continue
            if module.bias is not None:
                init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores, shape (N, num_classes), of pictures of shape (N, 3, H, W), H and W at least 32."""
        x = self.avgpool(self.features(x))
        y: Tensor = self.classifier(ops.flatten(x, 1))
        return y


def _check(depth: int, input_size: int, head: str) -> None:
    if depth not in CONFIGURATIONS:
        raise ArgumentError(wrong("VGG", "depth", f"one of {', '.join(map(str, CONFIGURATIONS))}", depth))
    if isinstance(input_size, bool) or not isinstance(input_size, int) or input_size < SHRINKS:
        raise ArgumentError(wrong("VGG", "input_size", f"an int of at least {SHRINKS}", repr(input_size)))
    if head not in HEADS:
        raise ArgumentError(wrong("VGG", "head", f"one of {', '.join(HEADS)}", repr(head)))


def _features(configuration: tuple[int | str, ...], batch_norm: bool) -> nn.Sequential:
    """The convolutions and poolings."""
    layers: list[nn.Module] = []
    channels = 3
    for width in configuration:
        if isinstance(width, str):
            layers.append(nn.MaxPool2d(2))
            continue
        layers.append(nn.Conv2d(channels, width, 3, padding=1))
        if batch_norm:
            layers.append(nn.BatchNorm2d(width))
        layers.append(nn.ReLU())
        channels = width
    return nn.Sequential(*layers)


def _head(kind: str, features: int, classes: int, dropout: float) -> nn.Module:
    """The fully connected layers."""
    if kind == "linear":
        return nn.Linear(features, classes)
    return nn.Sequential(
        nn.Linear(features, HIDDEN),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(HIDDEN, HIDDEN),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(HIDDEN, classes),
    )


def vgg11(num_classes: int = 1000, input_size: int = 224, head: str = "paper", dropout: float = 0.5) -> VGG:
    """Return the ``VGG`` of 11 layers, the paper's configuration A.

    Parameters
    ----------
    num_classes : int
    input_size : int
    head : {"paper", "linear"}
    dropout : float

    Examples
    --------
    >>> import tinygrad_bn as tb
    >>> model = tb.models.vgg11(10, input_size=32, head="linear")
    >>> model(tb.ones(2, 3, 32, 32)).shape
    (2, 10)
    """
    return VGG(11, num_classes, False, input_size, head, dropout)


def vgg11_bn(num_classes: int = 1000, input_size: int = 224, head: str = "paper", dropout: float = 0.5) -> VGG:
    """Return ``vgg11`` with batch norm ahead of each ReLU of the convolutions."""
    return VGG(11, num_classes, True, input_size, head, dropout)


def vgg16(num_classes: int = 1000, input_size: int = 224, head: str = "paper", dropout: float = 0.5) -> VGG:
    """Return the ``VGG`` of 16 layers, the paper's configuration D; arguments as for ``vgg11``."""
    return VGG(16, num_classes, False, input_size, head, dropout)


def vgg16_bn(num_classes: int = 1000, input_size: int = 224, head: str = "paper", dropout: float = 0.5) -> VGG:
    """Return ``vgg16`` with batch norm ahead of each ReLU of the convolutions."""
    return VGG(16, num_classes, True, input_size, head, dropout)
