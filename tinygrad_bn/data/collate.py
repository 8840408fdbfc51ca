"""Making one batch of several samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tinygrad_bn.core.dtype import float64
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import DTypeError, ShapeError, expected, wrong
from tinygrad_bn.ops import as_tensor, stack, tensor


def default_collate(batch: Sequence[Any]) -> Any:
    """Return a list of samples as one batch, as PyTorch's function of that name does.

    Tensors and arrays are stacked along a new first axis; Python floats become a float64 tensor and ints an int64 one;
    strings stay a list. Tuples, lists and mappings are collated entry by entry: a tuple or list gives a list, a named
    tuple or mapping its own kind.

    Parameters
    ----------
    batch : sequence of samples, not empty

    Raises
    ------
    DTypeError
        If a sample is of another kind.
    ShapeError
        If samples differ in length or shape.
    """
    if not batch:
        raise ShapeError(expected("default_collate", "batch", "at least one sample", "none"))
    first = batch[0]
    if isinstance(first, Tensor):
        return stack(list(batch), 0)
    if isinstance(first, np.ndarray):
        return stack([as_tensor(sample) for sample in batch], 0)
    if isinstance(first, np.generic):
        return as_tensor(np.array(batch))
    if isinstance(first, float):
        return tensor(list(batch), dtype=float64)
    if isinstance(first, int):
        return tensor(list(batch))
    if isinstance(first, str | bytes):
        return list(batch)
    return _collate_entries(first, batch)


def _collate_entries(first: Any, batch: Sequence[Any]) -> Any:
    if isinstance(first, Mapping):
        return {key: default_collate([sample[key] for sample in batch]) for key in first}
    if not isinstance(first, Sequence):
        want = "made of tensors, arrays, numbers, strings, sequences or mappings"
        hint = "give the loader a collate_fn of your own"
        raise DTypeError(wrong("default_collate", "batch", want, type(first).__name__, hint))
    if any(len(sample) != len(first) for sample in batch):
        lengths = sorted({len(sample) for sample in batch})
        raise ShapeError(expected("default_collate", "batch", "samples of one length", f"lengths {lengths}"))
    columns = [default_collate(column) for column in zip(*batch, strict=True)]
    return type(first)(*columns) if hasattr(first, "_fields") else columns
