"""The memory of a recording: every array that is made while a step is recorded lies in it, and stays there.

Buffers come back as their last view dies and serve again, as they do in eager code: so the step's own order of life and
death is the plan, and the peak is eager code's. When the recording is done the memory is kept as it is: whatever a
kernel was given lies where it lay, and nobody else is given it.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import numpy as np

from tinygrad_bn.core import memory
from tinygrad_bn.core.memory import POOLED, Lease, Place, Pool
from tinygrad_bn.core.tensor import Array
from tinygrad_bn.kernels.cuda.array import CudaArray

if TYPE_CHECKING:
    from tinygrad_bn.replay.gpu_memory import GpuMemory

_BYTES = np.dtype(np.uint8)
_LINE = 64
_SMALL_SEGMENT = 1 << 20


class _Counted(Pool):
    """A pool whose memory counts as in use from its first touch until the pool is dropped."""

    def __init__(self) -> None:
        super().__init__(freely=0)
        self.counted = [0]
        weakref.finalize(self, _discount, self.counted)

    def _touch(self, size: int) -> int:
        position = super()._touch(size)
        if self.touched_bytes > self.counted[0]:
            memory.pool.count(self.touched_bytes - self.counted[0])
            self.counted[0] = self.touched_bytes
        return position


def _discount(counted: list[int]) -> None:
    memory.pool.count(-counted[0])


class Kept(Lease):
    """The root of the views of a buffer that a recording has lent."""

    __slots__ = ("pool", "trial")
    pool: Pool
    trial: object

    def __del__(self, give: Any = None) -> None:
        self.pool.give(self.place)


class KeptOnGpu(CudaArray):
    """The same of the GPU's memory."""

    __slots__ = ("pool", "trial")
    pool: Pool
    trial: object

    def __del__(self, give: Any = None) -> None:
        self.pool.give(self.place)


Root = Kept | KeptOnGpu
_ROOTS = frozenset({Kept, KeptOnGpu})


class Memory:
    """Lends arrays.

    Attributes
    ----------
    trial : object
        What the arrays lent from now on are made for.
    status : numpy.ndarray, shape (4,), int64
        The status word of the recorded kernels.
    live : weakref.WeakValueDictionary
        By number, the roots of all arrays that are in use.
    """

    def __init__(self) -> None:
        self._large = _Counted()
        self._small = Pool(_LINE, _SMALL_SEGMENT, freely=0)  # small arrays are not counted, as elsewhere
        self.trial: object = None
        self.status = np.zeros(4, np.int64)
        self.live: weakref.WeakValueDictionary[int, Root] = weakref.WeakValueDictionary()
        self._gpu: GpuMemory | None = None

    @property
    def gpu(self) -> GpuMemory:
        """The GPU's part of it, made when it is first asked for."""
        if self._gpu is None:
            from tinygrad_bn.replay.gpu_memory import GpuMemory

            self._gpu = GpuMemory()
        return self._gpu

    def lend(self, shape: tuple[int, ...], storage: np.dtype[Any], nbytes: int, on_gpu: bool = False) -> Array:
        """Return an uninitialised array, of the host's memory or the GPU's."""
        if on_gpu:
            return self._lent(self.gpu, KeptOnGpu, CudaArray, shape, storage, max(nbytes, 1))
        pool = self._large if nbytes >= POOLED else self._small
        return self._lent(pool, Kept, np.ndarray, shape, storage, nbytes)

    def _lent(
        self, pool: Pool, root: type[Root], kind: Any, shape: tuple[int, ...], storage: np.dtype[Any], nbytes: int
    ) -> Array:
        place = pool.take(nbytes)
        lease: Any = np.ndarray.__new__(root, (nbytes,), _BYTES, place[0], place[1])
        lease.place, lease.pool, lease.trial = place, pool, self.trial
        self.live[id(lease)] = lease
        array: Array = np.ndarray.__new__(kind, shape, storage, lease)
        return array

    @property
    def nbytes(self) -> int:
        """What has been touched of it."""
        on_gpu = 0 if self._gpu is None else self._gpu.touched_bytes
        return self._large.touched_bytes + self._small.touched_bytes + on_gpu

    def made(self) -> list[Root]:
        """Return the roots of this trial's arrays that are in use."""
        return [lease for lease in list(self.live.values()) if lease.trial is self.trial]


def root_of(array: Array) -> Root | None:
    """Return the lent buffer in which an array lies; None where it lies elsewhere."""
    base: Any = array
    while base is not None:
        if type(base) in _ROOTS:
            return base  # type: ignore[no-any-return]  # one of the two
        base = getattr(base, "base", None)
    return None


def bottom(array: Array) -> Array:
    """Return the array that an array is a view of, in the end; itself where it is none."""
    while isinstance(base := array.base, np.ndarray):
        array = base
    return array


def unowned(array: Array, root: Root) -> Array:
    """Return the same elements as an array that does not keep the buffer from being lent again."""
    place: Place = root.place
    offset = address(array) - address(root) + place[1]
    found: Array = np.ndarray.__new__(_kind(array), array.shape, array.dtype, place[0], offset, array.strides)
    return found


def _kind(array: Array) -> Any:
    return CudaArray if isinstance(array, CudaArray) else np.ndarray


class _Interface:
    """What NumPy asks for an array anywhere."""

    def __init__(self, at: int, like: Array, owner: Array) -> None:
        self.owner = owner
        self.__array_interface__ = {
            "data": (at, False),
            "shape": like.shape,
            "strides": like.strides,
            "typestr": like.dtype.str,
            "version": 3,
        }


def placed(source: Array, offset: int, like: Array) -> Array:
    """Return what lies ``offset`` bytes behind a source's first element, with another's dtype, shape and strides."""
    if source.flags.c_contiguous:
        found: Array = np.ndarray.__new__(_kind(source), like.shape, like.dtype, source, offset, like.strides)
        return found
    return np.asarray(_Interface(address(source) + offset, like, source)).view(_kind(source))


def address(array: Array) -> int:
    """Return where an array's first element lies."""
    where: int = array.__array_interface__["data"][0]
    return where


def span(array: Array) -> tuple[int, int]:
    """Return where the memory of an array's elements begins, and where it ends."""
    low, high = np.lib.array_utils.byte_bounds(array)
    return int(low), int(high)
