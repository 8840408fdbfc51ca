"""Batches of a data set, in order or shuffled, made when they are asked for or ahead of time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import islice
from typing import Any

import numpy as np

from tinygrad_bn.core.random import Generator, default_generator
from tinygrad_bn.core.tensor import Array, Tensor
from tinygrad_bn.data.collate import default_collate
from tinygrad_bn.data.dataset import Subset, TensorDataset
from tinygrad_bn.data.prefetch import made_ahead
from tinygrad_bn.data.transforms import Transform
from tinygrad_bn.errors import ArgumentError, DTypeError, StateDictError, expected, wrong
from tinygrad_bn.ops import from_numpy, randint, randperm

Fetch = Callable[[Any], Any]
SEEDS = 1 << 62


class _Epoch:
    """Where an epoch stands: the generator's state at its beginning, and how many batches were handed out."""

    def __init__(self, state: Any, batches: int = 0) -> None:
        self.state = state
        self.batches = batches
        self.over = False


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
        Above 0, one thread makes ``num_workers`` times ``prefetch_factor`` batches ahead, unless ``prefetch`` tells
        otherwise.
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
    transform : callable, optional
        Changes the pictures of a batch: its first entry, or the batch itself if that is a Tensor. A ``Transform`` gets
        a generator that depends on the epoch and the batch's number alone; anything else is called with the pictures.
    prefetch : int, optional
        How many batches a thread makes ahead; 0: none, and no thread. The batches are the same, unless data set or
        ``collate_fn`` draw from a generator that others draw from in the meantime.
    prefetch_factor : int, optional
        Of ``num_workers``, default 2.
    persistent_workers : bool
        Taken for the sake of scripts that give it; the thread ends with the epoch.

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
        transform: Callable[..., Tensor] | None = None,
        prefetch: int | None = None,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
    ) -> None:
        _check(batch_size, bool(shuffle), sampler, batch_sampler, drop_last)
        self.prefetch = _ahead(num_workers, prefetch, prefetch_factor)
        if transform is not None and batch_size is None:
            raise ArgumentError("DataLoader: 'transform' needs batches. Got batch_size=None.")
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
        self.transform = transform
        self.prefetch_factor = prefetch_factor
        self.persistent_workers = persistent_workers
        self._epoch: _Epoch | None = None
        self._resumed: _Epoch | None = None

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        if self.batch_sampler is not None:
            return len(self.batch_sampler)  # type: ignore[arg-type]  # an iterable without a length says so itself
        count = len(self.dataset if self.sampler is None else self.sampler)  # type: ignore[arg-type]  # likewise
        if self.batch_size is None:
            return count
        return count // self.batch_size if self.drop_last else -(-count // self.batch_size)

    def __iter__(self) -> Iterator[Any]:
        resumed, self._resumed = self._resumed, None
        drawn_from = self.generator or default_generator
        if resumed is not None:
            drawn_from = Generator()
            drawn_from.set_state(resumed.state)
        epoch = self._epoch = _Epoch(drawn_from.get_state(), 0 if resumed is None else resumed.batches)
        samples = self._samples(drawn_from)
        make = self._make(drawn_from)
        if resumed is not None and self.generator is not None:
            self.generator.set_state(drawn_from.get_state())
        jobs = islice(enumerate(samples), epoch.batches, None)
        return _handed_out(epoch, made_ahead(make, jobs, self.prefetch))

    def state_dict(self) -> dict[str, Any]:
        """Return where the epoch that was begun last stands: what another loader of the same arguments continues.

        Returns
        -------
        dict
            ``generator``, a state: that of the epoch's beginning, or, between epochs, the present one; ``batches``, how
            many were handed out, 0 between epochs. Samplers keep their own state.
        """
        epoch = self._resumed if self._epoch is None or self._epoch.over else self._epoch
        if epoch is None:
            return {"generator": (self.generator or default_generator).get_state(), "batches": 0}
        return {"generator": epoch.state, "batches": epoch.batches}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Let the next iteration continue where ``state_dict`` was called: the same order, after the same batches.

        A loader that draws from the default generator leaves that alone; its state is the caller's to put back.

        Raises
        ------
        StateDictError
            If it is not what ``state_dict`` returns.
        """
        if set(state_dict) != {"generator", "batches"}:
            want = "keys 'generator' and 'batches'"
            raise StateDictError(expected("DataLoader", "state_dict", want, sorted(state_dict)))
        state, batches = state_dict["generator"], int(state_dict["batches"])
        self._epoch = None
        self._resumed = _Epoch(state, batches) if batches else None
        if not batches and self.generator is not None:
            self.generator.set_state(state)

    def _samples(self, generator: Generator) -> Iterator[Any]:
        """The numbers of each batch's samples, or one by one; a shuffled order is drawn at once."""
        if self.batch_sampler is not None:
            return iter(self.batch_sampler)
        order = self._order(generator)
        if self.batch_size is None:
            return iter(order.tolist())
        size = self.batch_size
        end = len(order) - len(order) % size if self.drop_last else len(order)
        return (order[start : start + size] for start in range(0, end, size))

    def _order(self, generator: Generator) -> Array:
        if self.sampler is not None:
            return np.fromiter(self.sampler, np.int64)
        count = len(self.dataset)
        return randperm(count, generator=generator).numpy() if self.shuffle else np.arange(count)

    def _make(self, generator: Generator) -> Fetch:
        """What makes a batch of its number and its samples' numbers."""
        if self.batch_size is None and self.batch_sampler is None:
            dataset = self.dataset
            return lambda job: dataset[job[1]]
        fetch, transform = self._fetch(), self.transform
        if transform is None:
            return lambda job: fetch(job[1])
        if not isinstance(transform, Transform) or not transform.draws:
            return lambda job: _transformed(fetch(job[1]), transform)
        seed = int(randint(0, SEEDS, 1, generator=generator).item())
        return lambda job: _transformed(fetch(job[1]), transform, Generator().manual_seed(seed + job[0]))

    def _fetch(self) -> Fetch:
        whole = None if self.collate_fn is not None else _whole_batches(self.dataset)
        if whole is not None:
            return whole
        dataset, collate = self.dataset, self.collate_fn or default_collate
        return lambda indices: collate([dataset[int(i)] for i in indices])


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
            return lambda indices: inner(numbers[np.asarray(indices, np.int64)])
    return None


def _take(tensors: tuple[Tensor, ...], indices: Any) -> list[Tensor]:
    positions = from_numpy(np.ascontiguousarray(indices, np.int64))
    return [tensor[positions] for tensor in tensors]


def _transformed(batch: Any, transform: Callable[..., Tensor], *generator: Generator) -> Any:
    """The batch with its pictures changed."""
    if isinstance(batch, Tensor):
        return transform(batch, *generator)
    if not isinstance(batch, list | tuple) or not batch:
        want = "a Tensor, or a list or tuple whose first entry is one, for a 'transform'"
        raise DTypeError(wrong("DataLoader", "batch", want, type(batch).__name__))
    entries = [transform(batch[0], *generator), *batch[1:]]
    return entries if isinstance(batch, list) else tuple(entries)


def _handed_out(epoch: _Epoch, batches: Any) -> Iterator[Any]:
    """The batches, counted; closing this closes what makes them."""
    with closing(batches):
        for batch in batches:
            epoch.batches += 1
            yield batch
            del batch
    epoch.over = True


def _ahead(num_workers: int, prefetch: int | None, prefetch_factor: int | None) -> int:
    for name, value in (("num_workers", num_workers), ("prefetch", prefetch)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
            raise ArgumentError(wrong("DataLoader", name, "an int of at least 0", repr(value)))
    if prefetch_factor is not None:
        if not isinstance(prefetch_factor, int) or prefetch_factor < 1:
            raise ArgumentError(wrong("DataLoader", "prefetch_factor", "an int of at least 1", repr(prefetch_factor)))
        if not num_workers:
            raise ArgumentError("DataLoader: 'prefetch_factor' needs 'num_workers' above 0. Got 0.")
    return num_workers * (prefetch_factor or 2) if prefetch is None else prefetch


def _check(batch_size: int | None, shuffle: bool, sampler: Any, batch_sampler: Any, drop_last: bool) -> None:
    if batch_size is not None and (isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1):
        raise ArgumentError(wrong("DataLoader", "batch_size", "an int of at least 1, or None", repr(batch_size)))
    if sampler is not None and shuffle:
        raise ArgumentError("DataLoader: 'sampler' and 'shuffle' exclude each other. Got both.")
    if batch_sampler is not None and (batch_size != 1 or shuffle or sampler is not None or drop_last):
        others = "'batch_size', 'shuffle', 'sampler' and 'drop_last'"
        raise ArgumentError(f"DataLoader: 'batch_sampler' excludes {others}. Got some of them.")
    if batch_size is None and drop_last:
        raise ArgumentError("DataLoader: 'drop_last' needs a 'batch_size'. Got batch_size=None.")
