"""Data sets and loaders, in PyTorch's manner, and the two collections of handwritten digits."""

from tinygrad_bn.data.collate import default_collate
from tinygrad_bn.data.dataset import Dataset, Subset, TensorDataset, random_split
from tinygrad_bn.data.digits import Split, digits
from tinygrad_bn.data.idx import read_idx
from tinygrad_bn.data.loader import DataLoader
from tinygrad_bn.data.mnist import mnist

__all__ = [
    "DataLoader",
    "Dataset",
    "Split",
    "Subset",
    "TensorDataset",
    "default_collate",
    "digits",
    "mnist",
    "random_split",
    "read_idx",
]
