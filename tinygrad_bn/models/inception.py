"""Inception networks with batch norm: the one of the batch-norm paper, and a small one for CIFAR.

Ioffe & Szegedy 2015 (arXiv:1502.03167), figure 5; Zhang, Bengio, Hardt, Recht & Vinyals 2017 (arXiv:1611.03530),
appendix A.
"""

from __future__ import annotations

from typing import NamedTuple

from tinygrad_bn import nn, ops
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.models._blocks import ConvNormReLU, he_normal, positive


class Row(NamedTuple):
    """An Inception module of the paper's table: channels of its convolutions, 0 where it has none.

    Attributes
    ----------
    one : int
        1×1.
    reduce3, three : int
        1×1, and the 3×3 after it.
    reduce33, double : int
        1×1, and the two 3×3 after it.
    pool : {"avg", "max"}
    project : int
        1×1 after the pooling; 0: the pooled input is passed on.
    stride : int
        Of the pooling and of the last 3×3 of each branch.
    """

    one: int
    reduce3: int
    three: int
    reduce33: int
    double: int
    pool: str
    project: int
    stride: int = 1

    def outputs(self, inputs: int) -> int:
        """Return the channels that leave the module."""
        return self.one + self.three + self.double + (self.project or inputs)


TABLE = {
    "3a": Row(64, 64, 64, 64, 96, "avg", 32),
    "3b": Row(64, 64, 96, 64, 96, "avg", 64),
    "3c": Row(0, 128, 160, 64, 96, "max", 0, 2),
    "4a": Row(224, 64, 96, 96, 128, "avg", 128),
    "4b": Row(192, 96, 128, 96, 128, "avg", 128),
    "4c": Row(160, 128, 160, 128, 160, "avg", 96),
    "4d": Row(96, 128, 192, 160, 192, "avg", 96),
    "4e": Row(0, 128, 192, 192, 256, "max", 0, 2),
    "5a": Row(352, 192, 320, 160, 224, "avg", 128),
    "5b": Row(352, 192, 320, 192, 224, "max", 128),
}
"""Figure 5 of arXiv:1502.03167, from the first Inception module on."""

STEM = (64, 64, 192)
DEPTH_MULTIPLIER = 8


class InceptionModule(nn.Module):
    """Branches side by side, their channels put one behind the other.

    Parameters
    ----------
    inputs : int
        Channels.
    row : Row

    Notes
    -----
    In this order: 1×1; 1×1 and 3×3; 1×1 and twice 3×3; pooling 3×3 and 1×1. A module of stride 2 has no first branch.
    """

    def __init__(self, inputs: int, row: Row) -> None:
        super().__init__()
        first = [ConvNormReLU(inputs, row.one, 1)] if row.one else []
        three = nn.Sequential(ConvNormReLU(inputs, row.reduce3, 1), ConvNormReLU(row.reduce3, row.three, 3, row.stride))
        double = nn.Sequential(
            ConvNormReLU(inputs, row.reduce33, 1),
            ConvNormReLU(row.reduce33, row.double, 3),
            ConvNormReLU(row.double, row.double, 3, row.stride),
        )
        kind = nn.MaxPool2d if row.pool == "max" else nn.AvgPool2d
        pooled = [kind(3, row.stride, padding=1), *([ConvNormReLU(inputs, row.project, 1)] if row.project else [])]
        self.branches = nn.ModuleList([*first, three, double, nn.Sequential(*pooled)])

    def forward(self, x: Tensor) -> Tensor:
        """Return shape (N, the branches' channels, ⌈H / stride⌉, ⌈W / stride⌉)."""
        return ops.cat([branch(x) for branch in self.branches], 1)


class InceptionBN(nn.Module):
    """The network of the batch-norm paper, for pictures of 224 × 224.

    Parameters
    ----------
    num_classes : int
    in_channels : int

    Notes
    -----
    Figure 5 of the paper, row by row (``TABLE``): a 7×7 convolution of stride 2, separable with depth multiplier 8;
    max pooling; 1×1 and 3×3 convolutions; max pooling; ten Inception modules; the average of each channel; one linear
    layer. Batch norm and ReLU after every convolution, except between the two halves of the separable one. About 2·10⁹
    multiply-adds a picture.

    The projections of 4c and 4d have the 96 channels that make up the 576 of the table's output column. Not in the
    figure, and not here: the classifiers on the side that its predecessor had. At 1,000 classes the table's
    rows make 11,188,288 parameters, 9,952 of them weights of batch norms; section 4.2 speaks of 13.6 million, more than
    the figure accounts for.

    References
    ----------
    Ioffe & Szegedy 2015 (arXiv:1502.03167), section 4.2 and figure 5; Szegedy et al. 2014 (arXiv:1409.4842) for its
    predecessor. Weights start from N(0, 2 / fan_in) (He et al. 2015, arXiv:1502.01852).
    """

    def __init__(self, num_classes: int = 1000, in_channels: int = 3) -> None:
        super().__init__()
        positive("InceptionBN", num_classes=num_classes, in_channels=in_channels)
        first, reduced, channels = STEM
        expanded = DEPTH_MULTIPLIER * in_channels
        self.depthwise = nn.Conv2d(in_channels, expanded, 7, 2, padding=3, groups=in_channels, bias=False)
        self.pointwise = ConvNormReLU(expanded, first, 1)
        self.maxpool1 = nn.MaxPool2d(3, 2, padding=1)
        self.reduce = ConvNormReLU(first, reduced, 1)
        self.conv = ConvNormReLU(reduced, channels, 3)
        self.maxpool2 = nn.MaxPool2d(3, 2, padding=1)
        self.inception = nn.Sequential()
        for name, row in TABLE.items():
            self.inception.add_module(name, InceptionModule(channels, row))
            channels = row.outputs(channels)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        he_normal(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores, shape (N, num_classes), of pictures of shape (N, in_channels, H, W)."""
        x = self.maxpool1(self.pointwise(self.depthwise(x)))
        x = self.maxpool2(self.conv(self.reduce(x)))
        y: Tensor = self.fc(ops.flatten(self.avgpool(self.inception(x)), 1))
        return y


class SmallModule(nn.Module):
    """A 1×1 convolution beside a 3×3 one.

    Parameters
    ----------
    inputs, one, three : int
        Channels of the input and of the two convolutions.
    """

    def __init__(self, inputs: int, one: int, three: int) -> None:
        super().__init__()
        self.branch1 = ConvNormReLU(inputs, one, 1)
        self.branch2 = ConvNormReLU(inputs, three, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return shape (N, one + three, H, W)."""
        return ops.cat([self.branch1(x), self.branch2(x)], 1)


class SmallReduction(nn.Module):
    """A 3×3 convolution of stride 2 beside a 3×3 max pooling of stride 2.

    Parameters
    ----------
    inputs, three : int
        Channels of the input and of the convolution.
    """

    def __init__(self, inputs: int, three: int) -> None:
        super().__init__()
        self.branch1 = ConvNormReLU(inputs, three, 3, 2)
        self.branch2 = nn.MaxPool2d(3, 2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return shape (N, inputs + three, ⌈H / 2⌉, ⌈W / 2⌉)."""
        return ops.cat([self.branch1(x), self.branch2(x)], 1)


SMALL_STEM = 96
SMALL: tuple[tuple[int, ...], ...] = (
    (32, 32),
    (32, 48),
    (80,),
    (112, 48),
    (96, 64),
    (80, 80),
    (48, 96),
    (96,),
    (176, 160),
    (176, 160),
)
"""Two numbers: a module of 1×1 and 3×3 convolutions. One: a reduction."""


class InceptionSmall(nn.Module):
    """The "small Inception" for pictures of 32 × 32.

    Parameters
    ----------
    num_classes : int
    in_channels : int
    scale : bool
        Whether the weights of the batch norms are learnt; False keeps them at 1, as the paper does: its ReLUs are
        followed by layers that can scale.

    Notes
    -----
    A 3×3 convolution of 96 channels, two modules, a reduction, four modules, a reduction, two modules, the average of
    each channel, one linear layer. What it leaves out of the batch-norm paper's network (``InceptionBN``):

    - the separable 7×7 convolution of stride 2, the 1×1 and 3×3 convolutions and the two poolings ahead of the modules;
    - in each module the branch of two 3×3 convolutions and the branch of a pooling with its 1×1 convolution;
    - the 1×1 convolutions that reduce the channels ahead of the 3×3 ones;
    - in each reduction (3c and 4e there) the branch of two 3×3 convolutions;
    - two thirds of the widths: 336 channels in the end instead of 1,024.

    At 10 classes 1,649,402 parameters with ``scale=False``, the number in the paper's table 1, and 1,712 weights of
    batch norms besides.

    References
    ----------
    Zhang et al. 2017 (arXiv:1611.03530), figure 3 and table 1; Ioffe & Szegedy 2015 (arXiv:1502.03167). Weights start
    from N(0, 2 / fan_in) (He et al. 2015, arXiv:1502.01852).
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 3, scale: bool = True) -> None:
        super().__init__()
        positive("InceptionSmall", num_classes=num_classes, in_channels=in_channels)
        self.conv = ConvNormReLU(in_channels, SMALL_STEM, 3)
        channels, modules = SMALL_STEM, list[nn.Module]()
        for widths in SMALL:
            if len(widths) == 1:
                modules.append(SmallReduction(channels, widths[0]))
                channels += widths[0]
            else:
                modules.append(SmallModule(channels, *widths))
                channels = sum(widths)
        self.inception = nn.Sequential(*modules)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        he_normal(self)
        if not scale:
            _keep_scales(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores, shape (N, num_classes), of pictures of shape (N, in_channels, H, W)."""
        x = self.avgpool(self.inception(self.conv(x)))
        y: Tensor = self.fc(ops.flatten(x, 1))
        return y


def _keep_scales(model: nn.Module) -> None:
    """Let no batch norm learn its weight."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.weight is not None:
            module.weight.requires_grad_(False)


def inception_bn(num_classes: int = 1000, in_channels: int = 3) -> InceptionBN:
    """Return an ``InceptionBN``, the network of the batch-norm paper.

    Parameters
    ----------
    num_classes : int
    in_channels : int
    """
    return InceptionBN(num_classes, in_channels)


def inception_small(num_classes: int = 10, in_channels: int = 3, scale: bool = True) -> InceptionSmall:
    """Return an ``InceptionSmall``.

    Parameters
    ----------
    num_classes : int
    in_channels : int
    scale : bool
        Whether the weights of the batch norms are learnt.

    Examples
    --------
    >>> import tinygrad_bn as tb
    >>> tb.models.inception_small()(tb.ones(2, 3, 32, 32)).shape
    (2, 10)
    """
    return InceptionSmall(num_classes, in_channels, scale)
