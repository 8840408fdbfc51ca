"""A training step of ResNet-20 for CIFAR with 1×1 convolutions as shortcuts, batch 128; arXiv:1512.03385, option B.

Cross-entropy; SGD 0.01, momentum 0.9.
"""

from __future__ import annotations

from bench.cases._networks import Chain, Conv, Flatten, Layer, Linear, Mean, Norm, ReLU, Sum
from bench.cases._training import CapturedStep, NetworkStep

BATCH, STEPS = 128, 2
WIDTHS, BLOCKS = (16, 32, 64), 3


def block(inputs: int, outputs: int) -> tuple[Layer, ...]:
    """Return two convolutions beside a shortcut; more channels go with half the height and width."""
    stride = 1 if inputs == outputs else 2
    body = Conv(inputs, outputs, 3, stride), Norm(outputs), ReLU(), Conv(outputs, outputs), Norm(outputs)
    shortcut = () if stride == 1 else (Conv(inputs, outputs, 1, stride), Norm(outputs))
    return Sum(Chain(*body), Chain(*shortcut)), ReLU()


def network() -> Chain:
    """Return the description."""
    layers: list[Layer] = [Conv(3, WIDTHS[0]), Norm(WIDTHS[0]), ReLU()]
    channels = WIDTHS[0]
    for width in WIDTHS:
        for _ in range(BLOCKS):
            layers += block(channels, width)
            channels = width
    return Chain(*layers, Mean(), Flatten(), Linear(channels, 10))


STEP = NetworkStep("w3_resnet20", network(), lambda models: models.resnet20(shortcut="conv"), BATCH, STEPS)
CASES = [STEP, CapturedStep(STEP)]
