"""The residual networks for pictures of 32 × 32: 6n + 2 weighted layers in three stages of 16, 32 and 64 channels.

    y = relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x))

He, Zhang, Ren & Sun 2016 (arXiv:1512.03385), section 4.2.
"""

from __future__ import annotations

from tinygrad_bn import functional as F
from tinygrad_bn import nn, ops
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import ArgumentError, wrong
from tinygrad_bn.models._blocks import he_normal, positive
from tinygrad_bn.nn._chain import residual_branch

SHORTCUTS = ("pad", "conv")
WIDTHS = (16, 32, 64)


class PadShortcut(nn.Module):
    """Option A: every ``stride``-th row and column, and channels of zeros behind those of the input. No parameters.

    Parameters
    ----------
    inputs, outputs : int
        Channels.
    stride : int
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.more = outputs - inputs
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Return shape (N, outputs, ⌈H / stride⌉, ⌈W / stride⌉)."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more))

    def extra_repr(self) -> str:
        return f"more={self.more}, stride={self.stride}"


def _shortcut(kind: str, inputs: int, outputs: int, stride: int) -> nn.Module | None:
    """What the input goes through beside the two convolutions; None: nothing."""
    if stride == 1 and inputs == outputs:
        return None
    if kind == "pad":
        return PadShortcut(inputs, outputs, stride)
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """Two 3×3 convolutions beside a shortcut.

    Parameters
    ----------
    inputs, outputs : int
        Channels.
    stride : int
        Of the first convolution.
    shortcut : {"pad", "conv"}
        Where the shapes differ.
    """

    downsample: nn.Module | None

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs, activation="relu")
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs, activation="relu")
        self.downsample = _shortcut(shortcut, inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return shape (N, outputs, ⌈H / stride⌉, ⌈W / stride⌉)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        return residual_branch(x, self.conv1, self.bn1, self.conv2, self.bn2, shortcut)


class ResNet(nn.Module):
    """The residual network of ``depth`` weighted layers.

    Parameters
    ----------
    depth : int
        6n + 2: a first convolution, three stages of n blocks of two, and a linear layer.
    num_classes : int
    in_channels : int
    shortcut : {"pad", "conv"}
        Where a stage halves height and width and doubles the channels: the paper's option A for these networks (the
        input subsampled, zeros as further channels, no parameters), or option B (a 1×1 convolution with batch norm).

    Notes
    -----
    Parameters and buffers have torchvision's names: ``conv1``, ``bn1``, ``layer1`` … ``layer3``, ``fc``. Weights start
    from N(0, 2 / fan_in) (He et al. 2015, arXiv:1502.01852), batch norms from weight 1 and bias 0. The pictures need
    not be of 32 × 32: before the linear layer each channel is averaged.

    ======  ==========  ===========
    depth   option A    the paper's
    ======  ==========  ===========
    20      269,722     0.27 M
    32      464,154     0.46 M
    44      658,586     0.66 M
    56      853,018     0.85 M
    ======  ==========  ===========

    Option B adds 2,752 parameters at 3 input channels and 10 classes, and at any other number of these.

    References
    ----------
    He et al. 2016 (arXiv:1512.03385), section 4.2 and table 6.
    """

    def __init__(self, depth: int, num_classes: int = 10, in_channels: int = 3, shortcut: str = "pad") -> None:
        super().__init__()
        positive("ResNet", depth=depth, num_classes=num_classes, in_channels=in_channels)
        if depth < 8 or depth % 6 != 2:
            raise ArgumentError(wrong("ResNet", "depth", "6n + 2 with n of at least 1", depth))
        if shortcut not in SHORTCUTS:
            raise ArgumentError(wrong("ResNet", "shortcut", f"one of {', '.join(SHORTCUTS)}", repr(shortcut)))
        blocks = (depth - 2) // 6
        first, second, third = WIDTHS
        self.conv1 = nn.Conv2d(in_channels, first, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(first, activation="relu")
        self.layer1 = _stage(blocks, first, first, 1, shortcut)
        self.layer2 = _stage(blocks, first, second, 2, shortcut)
        self.layer3 = _stage(blocks, second, third, 2, shortcut)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(third, num_classes)
        he_normal(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores, shape (N, num_classes), of pictures of shape (N, in_channels, H, W)."""
        x = self.bn1(self.conv1(x))
        x = self.avgpool(self.layer3(self.layer2(self.layer1(x))))
        y: Tensor = self.fc(ops.flatten(x, 1))
        return y


def _stage(blocks: int, inputs: int, outputs: int, stride: int, shortcut: str) -> nn.Sequential:
    """So many blocks; the first changes the shape."""
    first = BasicBlock(inputs, outputs, stride, shortcut)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs, 1, shortcut) for _ in range(blocks - 1)))


def resnet20(num_classes: int = 10, in_channels: int = 3, shortcut: str = "pad") -> ResNet:
    """Return the ``ResNet`` of 20 layers, 0.27 million parameters.

    Parameters
    ----------
    num_classes : int
    in_channels : int
    shortcut : {"pad", "conv"}
        The paper's option A, or option B.

    Examples
    --------
    >>> import tinygrad_bn as tb
    >>> model = tb.models.resnet20()
    >>> sum(p.numel() for p in model.parameters())
    269722
    """
    return ResNet(20, num_classes, in_channels, shortcut)


def resnet32(num_classes: int = 10, in_channels: int = 3, shortcut: str = "pad") -> ResNet:
    """Return the ``ResNet`` of 32 layers, 0.46 million parameters; arguments as for ``resnet20``."""
    return ResNet(32, num_classes, in_channels, shortcut)


def resnet44(num_classes: int = 10, in_channels: int = 3, shortcut: str = "pad") -> ResNet:
    """Return the ``ResNet`` of 44 layers, 0.66 million parameters; arguments as for ``resnet20``."""
    return ResNet(44, num_classes, in_channels, shortcut)


def resnet56(num_classes: int = 10, in_channels: int = 3, shortcut: str = "pad") -> ResNet:
    """Return the ``ResNet`` of 56 layers, 0.85 million parameters; arguments as for ``resnet20``."""
    return ResNet(56, num_classes, in_channels, shortcut)
