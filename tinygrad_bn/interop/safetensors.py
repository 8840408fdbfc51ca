"""``save`` and ``load``: nested dicts, lists and tuples of tensors, numbers and strings in one safetensors file.

The file's tensors are named by their path, its keys joined by "/": {"model": {"0.weight": w}} is stored as
"model/0.weight", and a plain state dict under its own names, as other programs expect them. What is no tensor, and how
all of it is nested, is kept as JSON in the header's metadata under "tinygrad_bn", with these forms for what JSON lacks:

    {"tensor": name}                    {"tuple": [value, …]}
    {"dict": [[key, value], …]}         every dict, so that keys may be numbers and order is kept

Nothing in a file is executed when it is read. A file without that entry is read as a flat dict of tensors.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tinygrad_bn import ops
from tinygrad_bn.core.dtype import DType, as_dtype, bfloat16
from tinygrad_bn.core.launch import reads_values
from tinygrad_bn.core.tensor import Array, Tensor, wrap
from tinygrad_bn.errors import ArgumentError, DataError, DTypeError, wrong

ENTRY = "tinygrad_bn"
SEPARATOR = "/"
RESERVED = "__metadata__"  # the format's own key in the header
_KINDS = {"bool": "BOOL", "uint8": "U8", "bfloat16": "BF16"} | {
    f"{long}{bits}": f"{short}{bits}" for long, short in (("int", "I"), ("float", "F")) for bits in (8, 16, 32, 64)
}
PLAIN = (str, bool, int, float, type(None))


def save(obj: Any, f: str | os.PathLike[str]) -> None:
    """Write tensors, and what describes them, to a file.

    The file appears in one piece: it is written beside its place and then renamed, so that an interruption leaves the
    old one.

    Parameters
    ----------
    obj : dict, list, tuple, Tensor, numpy.ndarray, str, int, float, bool or None
        Nested as deep as you like; keys are strings without "/", ints, floats or bools. A module's or an optimiser's
        ``state_dict()`` is such an object.
    f : path

    Raises
    ------
    DTypeError, ArgumentError
        If something cannot be written; the message names where it stands.
    DataError
        If the file cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    skeleton = _encode(obj, (), tensors)
    metadata = {ENTRY: json.dumps(skeleton)}
    path = Path(f)
    try:
        _write(path, tensors, metadata)
    except OSError as error:
        raise DataError(f"save: {path}: cannot be written: {error.strerror or error}.") from error


def _write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    handle, part = tempfile.mkstemp(suffix=".part", prefix=path.name, dir=path.parent)
    os.close(handle)
    try:
        _serialise(tensors, part, metadata)
        _as_if_opened(part)
        os.replace(part, path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise


def _serialise(tensors: dict[str, Tensor], part: str, metadata: dict[str, str]) -> None:
    from safetensors.numpy import save_file

    arrays = {name: _dense(t.device.to_host(t.array)) for name, t in tensors.items()}
    if any(t.dtype is bfloat16 for t in tensors.values()):
        _write_file(arrays, {name: t.dtype for name, t in tensors.items()}, part, metadata)
    else:
        save_file(arrays, part, metadata)


def _write_file(arrays: dict[str, Array], dtypes: dict[str, DType], part: str, metadata: dict[str, str]) -> None:
    """Write the format itself: safetensors takes NumPy's dtypes alone. Elements of larger types come first, so that all
    are aligned; the header is filled up to a multiple of 8 bytes."""
    header: dict[str, Any] = {RESERVED: metadata}
    names = sorted(arrays, key=lambda name: (-dtypes[name].itemsize, name))
    end = 0
    for name in names:
        begin, end = end, end + arrays[name].nbytes
        kind = _KINDS[dtypes[name].name]
        header[name] = {"dtype": kind, "shape": list(arrays[name].shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(part, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            file.write(_little(arrays[name]).tobytes())


def _dense(array: Array) -> Array:
    return np.ascontiguousarray(array).reshape(array.shape)


def _little(array: Array) -> Array:
    """An array in the format's order of bytes, or out of it."""
    return array if sys.byteorder == "little" else array.byteswap()


def _as_if_opened(part: str) -> None:
    """Give a temporary file, made for its owner alone, the permissions of an ordinary new one."""
    mask = os.umask(0)
    os.umask(mask)
    os.chmod(part, 0o666 & ~mask)


def _encode(value: Any, at: tuple[str, ...], tensors: dict[str, Tensor]) -> Any:
    """Return a value's place in the skeleton; its tensors are added to ``tensors``."""
    if isinstance(value, Tensor):
        reads_values("save")
    if isinstance(value, Tensor | np.ndarray):
        return {"tensor": _add(value, at, tensors)}
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, Mapping):
        return {"dict": [[key, _encode(v, (*at, _name(key, at)), tensors)] for key, v in value.items()]}
    if isinstance(value, list | tuple):
        items = [_encode(v, (*at, str(i)), tensors) for i, v in enumerate(value)]
        return items if isinstance(value, list) else {"tuple": items}
    hint = "save its state_dict()" if hasattr(value, "state_dict") else None
    want = "tensors, dicts, lists, tuples, numbers, strings and None only"
    raise DTypeError(wrong("save", "obj", want, f"{type(value).__name__} at {_path(at)}", hint))


def _add(value: Tensor | Array, at: tuple[str, ...], tensors: dict[str, Tensor]) -> str:
    name = SEPARATOR.join(at) if at else "tensor"
    if name in tensors or name == RESERVED:
        raise ArgumentError(wrong("save", "obj", f"free of keys that read alike, and of {RESERVED!r}", _path(at)))
    tensors[name] = value if isinstance(value, Tensor) else wrap(value, op="save")
    return name


def _name(key: Any, at: tuple[str, ...]) -> str:
    if not isinstance(key, str | int | float):
        raise DTypeError(wrong("save", "obj", "free of keys but strings and numbers", f"{key!r} at {_path(at)}"))
    text = str(key)
    if SEPARATOR in text:
        raise ArgumentError(wrong("save", "obj", f"free of keys with {SEPARATOR!r}", f"{key!r} at {_path(at)}"))
    return text


def _path(at: tuple[str, ...]) -> str:
    return SEPARATOR.join(at) or "its top"


def load(f: str | os.PathLike[str], map_location: Any = None) -> Any:
    """Read a file that ``save``, or another program, wrote in the safetensors format.

    Parameters
    ----------
    f : path
    map_location : Device or str, optional
        Where the tensors are put; the CPU by default.

    Returns
    -------
    The object that was saved, arrays as Tensors; a dict of Tensors from another program's file

    Raises
    ------
    DataError
        If the file is missing, truncated or corrupt, or holds a dtype that is not offered; path and reason are named.
    """
    path = Path(f)
    arrays, metadata = _read(path)
    try:
        tensors = {name: ops.to(_tensor(array), device=map_location) for name, array in arrays.items()}
    except DTypeError as error:
        raise DataError(f"load: {path}: {error}") from error
    if ENTRY not in metadata:
        return tensors
    try:
        return _decode(json.loads(metadata[ENTRY]), tensors)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"load: {path}: corrupt: its metadata does not describe its tensors ({error!r}).") from error


def _tensor(array: Array) -> Tensor:
    """An array that was read as a tensor; words are bfloat16's, since uint16 is not offered."""
    return Tensor(array, as_dtype(bfloat16)) if array.dtype == np.uint16 else wrap(array, op="load")


def _read(path: Path) -> tuple[dict[str, Array], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise DataError(f"load: {path}: {'is a directory' if path.is_dir() else 'no such file'}.")
    try:
        with safe_open(os.fspath(path), framework="numpy") as file:
            kinds = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118  # no mapping
            if "U16" in kinds.values():
                raise TypeError("elements of type uint16 have no dtype here")
            arrays = {name: file.get_tensor(name) for name, kind in kinds.items() if kind != "BF16"}
            metadata = file.metadata() or {}
        if len(arrays) < len(kinds):
            words = _read_words(path, [name for name, kind in kinds.items() if kind == "BF16"])
            arrays = {name: words[name] if name in words else arrays[name] for name in kinds}
        return arrays, metadata
    except SafetensorError as error:
        raise DataError(f"load: {path}: truncated, corrupt or no safetensors file: {error}.") from error
    except (OSError, AttributeError, TypeError, KeyError) as error:  # AttributeError: a dtype that NumPy lacks
        raise DataError(f"load: {path}: cannot be read: {error}.") from error


def _read_words(path: Path, names: list[str]) -> dict[str, Array]:
    """Tensors of bfloat16, which NumPy lacks, as words: from the file itself, whose header safetensors has checked."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        found = {}
        for name in names:
            begin, end = header[name]["data_offsets"]
            file.seek(8 + size + begin)
            words = np.frombuffer(bytearray(file.read(end - begin)), np.uint16)
            found[name] = _little(words).reshape(header[name]["shape"])
    return found


def _decode(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Return the object at a place of the skeleton."""
    if isinstance(value, list):
        return [_decode(v, tensors) for v in value]
    if not isinstance(value, dict):
        return value
    ((form, content),) = value.items()
    if form == "tensor":
        return tensors[content]
    if form == "tuple":
        return tuple(_decode(v, tensors) for v in content)
    if form == "dict":
        return dict(_pairs(content, tensors))
    raise ValueError(f"form {form!r}")


def _pairs(content: Any, tensors: dict[str, Tensor]) -> Iterator[tuple[Any, Any]]:
    return ((key, _decode(v, tensors)) for key, v in content)
