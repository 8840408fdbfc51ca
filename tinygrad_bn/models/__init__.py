"""Networks of the literature, with its parameter counts, and the fully connected one that the main job trains.

Names of parameters and buffers are torchvision's where it has the network. Inputs are (N, C, H, W).
"""

from tinygrad_bn.models.cifar_cnn import CifarCNN, cifar_cnn
from tinygrad_bn.models.inception import InceptionBN, InceptionSmall, inception_bn, inception_small
from tinygrad_bn.models.mlp import mlp
from tinygrad_bn.models.resnet import ResNet, resnet20, resnet32, resnet44, resnet56
from tinygrad_bn.models.vgg import VGG, vgg11, vgg11_bn, vgg16, vgg16_bn

__all__ = [
    "VGG",
    "CifarCNN",
    "InceptionBN",
    "InceptionSmall",
    "ResNet",
    "cifar_cnn",
    "inception_bn",
    "inception_small",
    "mlp",
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet56",
    "vgg11",
    "vgg11_bn",
    "vgg16",
    "vgg16_bn",
]
