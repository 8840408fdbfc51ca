"""A training step of a small convolutional network on pictures of 32 × 32, batch 32.

(Conv 3×3, BN, ReLU) × 2 of 32 channels, MaxPool 2, the same × 2 of 64, MaxPool 2, Linear 4096 → 512, BN, ReLU, Linear
512 → 10; cross-entropy; SGD 0.01, momentum 0.9.
"""

from __future__ import annotations

from bench.cases._networks import Chain, Conv, Flatten, Linear, MaxPool, Norm, ReLU
from bench.cases._training import CapturedStep, NetworkStep

BATCH, STEPS = 32, 3


def network() -> Chain:
    """Return the description."""

    def block(inputs: int, outputs: int) -> tuple[Conv, Norm, ReLU]:
        return Conv(inputs, outputs), Norm(outputs), ReLU()

    features = (*block(3, 32), *block(32, 32), MaxPool(), *block(32, 64), *block(64, 64), MaxPool())
    hidden = Linear(64 * 8 * 8, 512, bias=False), Norm(512, pictures=False), ReLU()
    return Chain(*features, Flatten(), *hidden, Linear(512, 10))


STEP = NetworkStep("w2_cifar_cnn", network(), lambda models: models.cifar_cnn(), BATCH, STEPS)
CASES = [STEP, CapturedStep(STEP)]
