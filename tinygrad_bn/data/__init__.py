"""Data sets, loaders and transforms, in PyTorch's manner; two collections of handwritten digits, and CIFAR-10."""

from tinygrad_bn.data import transforms
from tinygrad_bn.data.cifar import CIFAR10_CLASSES, CIFAR10_MEAN, CIFAR10_STD, cifar10, read_cifar
from tinygrad_bn.data.collate import default_collate
from tinygrad_bn.data.dataset import Dataset, Subset, TensorDataset, random_split
from tinygrad_bn.data.digits import Split, digits
from tinygrad_bn.data.idx import read_idx
from tinygrad_bn.data.loader import DataLoader
from tinygrad_bn.data.mnist import mnist

__all__ = [
    "CIFAR10_CLASSES",
    "CIFAR10_MEAN",
    "CIFAR10_STD",
    "DataLoader",
    "Dataset",
    "Split",
    "Subset",
    "TensorDataset",
    "cifar10",
    "default_collate",
    "digits",
    "mnist",
    "random_split",
    "read_cifar",
    "read_idx",
    "transforms",
]
