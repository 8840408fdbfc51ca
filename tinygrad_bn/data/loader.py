"""Batches of a data set, in order or shuffled."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from tinygrad_bn.core.random import Generator
from tinygrad_bn.core.tensor import Array, Tensor
from tinygrad_bn.data.collate import default_collate
from tinygrad_bn.data.dataset import Subset, TensorDataset
from tinygrad_bn.errors import ArgumentError, wrong
from tinygrad_bn.ops import from_numpy, randperm

Fetch = Callable[[Array], Any]


class DataLoader:
    """Iterates over a data set in batches; every iteration is one epoch.

    Batches of a ``TensorDataset``, and of a ``Subset`` of one, are taken from its tensors in one piece; of other data
    sets sample by sample, put together by ``collate_fn``. A batch shares no memory with the data set.

    Parameters
    ----------
    dataset : Dataset, or anything with ``__getitem__`` and ``__len__``
    batch_size : int or None
        Samples a batch; None: samples one by one, as they are.
    shuffle : bool
        Draw a new order every epoch.
    sampler : iterable of int, optional
        The order of the samples, instead of ``shuffle``.
    batch_sampler : iterable of lists of int, optional
        The samples of each batch, instead of ``batch_size``, ``shuffle``, ``sampler`` and ``drop_last``.
    num_workers : int
        Taken for the sake of scripts that give it; samples are fetched on the calling thread whatever it is.
    collate_fn : callable, optional
        Makes a batch of a list of samples; default: ``default_collate``.
    pin_memory : bool
        Taken for the sake of scripts that give it; it means nothing on a CPU.
    drop_last : bool
        Leave out the last batch if it is smaller than the others.
    generator : Generator, optional
        Where orders are drawn from; default: the generator that ``tb.manual_seed`` seeds.
    seed : int, optional
        Gives the loader a generator of its own: loaders of one seed draw the same orders, epoch by epoch.

    Raises
    ------
    ArgumentError
        If an argument is out of range, or two exclude each other.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int | None = 1,
        shuffle: bool | None = None,
        sampler: Iterable[int] | None = None,
        batch_sampler: Iterable[Sequence[int]] | None = None,
        num_workers: int = 0,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        pin_memory: bool = False,
        drop_last: bool = False,
        *,
        generator: Generator | None = None,
        seed: int | None = None,
    ) -> None:
        _check(batch_size, bool(shuffle), sampler, batch_sampler, num_workers, drop_last)
        if generator is not None and seed is not None:
            raise ArgumentError("DataLoader: 'generator' and 'seed' exclude each other. Got both.")
        self.dataset = dataset
        self.batch_size = None if batch_sampler is not None else batch_size
        self.shuffle = bool(shuffle)
        self.sampler = sampler
        self.batch_sampler = batch_sampler
        self.num_workers = num_workers
        self.collate_fn = collate_fn
        self.pin_memory = pin_memory
        self.drop_last = drop_last
        self.generator = generator if seed is None else Generator().manual_seed(seed)

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        if self.batch_sampler is not None:
            return len(self.batch_sampler)  # type: ignore[arg-type]  # an iterable without a length says so itself
        count = len(self.dataset if self.sampler is None else self.sampler)  # type: ignore[arg-type]  # likewise
        if self.batch_size is None:
            return count
        return count // self.batch_size if self.drop_last else -(-count // self.batch_size)

    def __iter__(self) -> Iterator[Any]:
        if self.batch_size is None and self.batch_sampler is None:
            return (self.dataset[int(i)] for i in self._order())
        fetch = self._fetch()
        return (fetch(indices) for indices in self._batches())

    def _batches(self) -> Iterator[Array]:
        if self.batch_sampler is not None:
            yield from (np.asarray(batch, np.int64) for batch in self.batch_sampler)
            return
        size = self.batch_size or 1
        order = self._order()
        end = len(order) - len(order) % size if self.drop_last else len(order)
        for start in range(0, end, size):
            yield order[start : start + size]

    def _order(self) -> Array:
        if self.sampler is not None:
            return np.fromiter(self.sampler, np.int64)
        count = len(self.dataset)
        return randperm(count, generator=self.generator).numpy() if self.shuffle else np.arange(count)

    def _fetch(self) -> Fetch:
        whole = None if self.collate_fn is not None else _whole_batches(self.dataset)
        if whole is not None:
            return whole
        dataset, collate = self.dataset, self.collate_fn or default_collate
        return lambda indices: collate([dataset[i] for i in indices.tolist()])


def _whole_batches(dataset: Any) -> Fetch | None:
    """How to take batches from the tensors in one piece; None where a sample is more than the tensors' entries."""
    kind = type(dataset)
    if isinstance(dataset, TensorDataset) and kind.__getitem__ is TensorDataset.__getitem__:
        tensors: tuple[Tensor, ...] = dataset.tensors
        return lambda indices: _take(tensors, indices)
    if isinstance(dataset, Subset) and kind.__getitem__ is Subset.__getitem__:
        inner = _whole_batches(dataset.dataset)
        if inner is not None:
            numbers = np.asarray(dataset.indices, np.int64)
            return lambda indices: inner(numbers[indices])
    return None


def _take(tensors: tuple[Tensor, ...], indices: Array) -> list[Tensor]:
    positions = from_numpy(np.ascontiguousarray(indices))
    return [tensor[positions] for tensor in tensors]


def _check(
    batch_size: int | None, shuffle: bool, sampler: Any, batch_sampler: Any, num_workers: int, drop_last: bool
) -> None:
    if batch_size is not None and (isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1):
        raise ArgumentError(wrong("DataLoader", "batch_size", "an int of at least 1, or None", repr(batch_size)))
    if not isinstance(num_workers, int) or num_workers < 0:
        raise ArgumentError(wrong("DataLoader", "num_workers", "an int of at least 0", repr(num_workers)))
    if sampler is not None and shuffle:
        raise ArgumentError("DataLoader: 'sampler' and 'shuffle' exclude each other. Got both.")
    if batch_sampler is not None and (batch_size != 1 or shuffle or sampler is not None or drop_last):
        others = "'batch_size', 'shuffle', 'sampler' and 'drop_last'"
        raise ArgumentError(f"DataLoader: 'batch_sampler' excludes {others}. Got some of them.")
    if batch_size is None and drop_last:
        raise ArgumentError("DataLoader: 'drop_last' needs a 'batch_size'. Got batch_size=None.")
