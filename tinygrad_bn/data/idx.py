"""The IDX format of the MNIST files, gzipped or not.

A file holds, big-endian: two zero bytes, a byte for the element type, a byte for the number of axes, a 32-bit unsigned
extent for each axis, then the elements in C order and nothing after them (Y. LeCun, C. Cortes, C. J. C. Burges: The
MNIST database).
"""

from __future__ import annotations

import gzip
import os
import zlib
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, cast

import numpy as np

from tinygrad_bn.errors import DataError, expected

TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
PIECE = 1 << 24
_GZIP = b"\x1f\x8b"


def read_idx(path: str | os.PathLike[str]) -> np.ndarray[Any, Any]:
    """Return the array that an IDX file holds.

    Whether it is gzipped is told by its first bytes, not by its name.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    numpy.ndarray
        Of the type and shape that the file declares, in native byte order.

    Raises
    ------
    DataError
        If the file is missing, cannot be read, is truncated, has bytes too many, or is not IDX or gzip at all.
    """
    file = Path(path)
    try:
        with _opened(file) as stream:
            return _parsed(stream, file)
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"read_idx: '{file}' does not exist.") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        reason = "truncated" if isinstance(error, EOFError) else "corrupt"
        raise DataError(f"read_idx: '{file}' is {reason}: {str(error).rstrip('.')} (gzip).") from None
    except OSError as error:
        raise DataError(f"read_idx: '{file}' cannot be read: {error.strerror or error}.") from None


def _opened(file: Path) -> BinaryIO:
    with file.open("rb") as raw:
        zipped = raw.read(2) == _GZIP
    return cast(BinaryIO, gzip.open(file, "rb")) if zipped else file.open("rb")


def _parsed(stream: BinaryIO, file: Path) -> np.ndarray[Any, Any]:
    magic = stream.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in TYPES:
        _refuse(file, "the magic number of IDX, 00 00 type axes", magic.hex(" ") or "an empty file")
    extents = stream.read(4 * magic[3])
    if len(extents) < 4 * magic[3]:
        _refuse(file, f"extents of {magic[3]} axes", f"{len(extents)} bytes (truncated)")
    shape = tuple(int(n) for n in np.frombuffer(extents, ">u4"))
    dtype = np.dtype(TYPES[magic[2]])
    size = prod(shape) * dtype.itemsize
    content = _read(stream, size + 1)  # one more than there should be: gzip checks its sum at the end
    if len(content) != size:
        got = f"{len(content)} (truncated)" if len(content) < size else "more"
        _refuse(file, f"{size} bytes of elements for its shape {shape}", got)
    return np.frombuffer(content, dtype).reshape(shape).astype(dtype.newbyteorder("="))


def _read(stream: BinaryIO, size: int) -> bytes:
    """Read up to so many bytes, in pieces: a corrupt header must not allocate what it claims."""
    pieces: list[bytes] = []
    while size and (piece := stream.read(min(size, PIECE))):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def _refuse(file: Path, want: str, got: str) -> NoReturn:
    raise DataError(expected("read_idx", str(file), want, got))
