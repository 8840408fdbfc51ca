"""Data sets: what can be indexed and has a length. Names and behaviour are PyTorch's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Generic, TypeVar

from tinygrad_bn.core.random import Generator
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import ArgumentError, DTypeError, ShapeError, expected, wrong
from tinygrad_bn.ops import randperm

T_co = TypeVar("T_co", covariant=True)


class Dataset(ABC, Generic[T_co]):
    """Samples by number. A subclass defines ``__getitem__``, and ``__len__`` for loaders that are to shuffle it."""

    @abstractmethod
    def __getitem__(self, index: int) -> T_co:
        """Return one sample."""


class TensorDataset(Dataset[tuple[Tensor, ...]]):
    """Tensors of one length; sample i is the tuple of their i-th entries.

    Parameters
    ----------
    *tensors : Tensor, each of shape (N, ...)

    Raises
    ------
    DTypeError
        If something is not a Tensor.
    ShapeError
        If a tensor has no axes, or another length than the first.
    """

    tensors: tuple[Tensor, ...]

    def __init__(self, *tensors: Tensor) -> None:
        if not tensors:
            raise ArgumentError(wrong("TensorDataset", "tensors", "at least one tensor", "none"))
        for i, tensor in enumerate(tensors):
            if not isinstance(tensor, Tensor):
                raise DTypeError(wrong("TensorDataset", f"tensors[{i}]", "a Tensor", type(tensor).__name__))
            if tensor.shape[:1] != tensors[0].shape[:1] or not tensor.shape:
                want = f"shape (N, ...) with N = {tensors[0].shape[0] if tensors[0].shape else 'the number of samples'}"
                raise ShapeError(expected("TensorDataset", f"tensors[{i}]", want, tensor.shape))
        self.tensors = tensors

    def __getitem__(self, index: Any) -> tuple[Tensor, ...]:
        return tuple(tensor[index] for tensor in self.tensors)

    def __len__(self) -> int:
        return self.tensors[0].shape[0]


class Subset(Dataset[T_co]):
    """The samples of a data set at given numbers.

    Parameters
    ----------
    dataset : Dataset
    indices : sequence of int
    """

    def __init__(self, dataset: Dataset[T_co], indices: Sequence[int]) -> None:
        self.dataset = dataset
        self.indices = indices

    def __getitem__(self, index: int) -> T_co:
        return self.dataset[self.indices[index]]

    def __len__(self) -> int:
        return len(self.indices)


def random_split(
    dataset: Dataset[T_co], lengths: Sequence[int | float], generator: Generator | None = None
) -> list[Subset[T_co]]:
    """Split a data set at random into parts that do not overlap.

    Parameters
    ----------
    dataset : Dataset
    lengths : sequence of int or of float
        The parts' lengths, which add up to the data set's; or fractions, which add up to 1: each part gets the floor of
        its share, and what remains goes one by one to the first parts.
    generator : Generator, optional
        Default: the generator that ``tb.manual_seed`` seeds.

    Raises
    ------
    ArgumentError
        If the lengths do not add up.
    """
    total = len(dataset)  # type: ignore[arg-type]  # a Dataset need not have a length; one that is split must
    counts = _counts(total, lengths)
    order: list[int] = randperm(total, generator=generator).tolist()
    ends = list(accumulate(counts))
    return [Subset(dataset, order[end - count : end]) for count, end in zip(counts, ends, strict=True)]


def _counts(total: int, lengths: Sequence[int | float]) -> list[int]:
    if any(length < 0 for length in lengths):
        raise ArgumentError(wrong("random_split", "lengths", "of at least 0", list(lengths)))
    if any(isinstance(length, float) for length in lengths):
        if abs(sum(lengths) - 1) > 1e-6:
            raise ArgumentError(expected("random_split", "lengths", "a sum of 1 (fractions)", list(lengths)))
        counts = [int(total * length) for length in lengths]
        for i in range(total - sum(counts)):
            counts[i % len(counts)] += 1
        return counts
    if sum(lengths) != total:
        raise ArgumentError(
            expected("random_split", "lengths", f"a sum of {total}, the data set's length", list(lengths))
        )
    return [int(length) for length in lengths]
