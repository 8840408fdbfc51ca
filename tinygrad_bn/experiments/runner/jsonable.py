"""Numbers as strict JSON and back: floats come back exactly, those that JSON has no words for as strings."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from tinygrad_bn.errors import DTypeError, expected

WORDS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def encode(value: Any, where: str = "numbers", op: str = "experiments") -> Any:
    """Return what ``json`` can write without losing anything.

    Arrays and their scalars become (lists of) Python's numbers, tuples become lists, and what is not finite becomes one
    of the strings ``"nan"``, ``"inf"`` and ``"-inf"``.

    Parameters
    ----------
    value : Any
    where : str
        What it is called in messages.
    op : str
        Who asks.

    Raises
    ------
    DTypeError
        If something cannot be written, with its key and type.
    """
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, str):
        return _text(value, where, op)
    if isinstance(value, Mapping):
        return {_key(key, where, op): encode(v, f"{where}[{key!r}]", op) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [encode(v, f"{where}[{i}]", op) for i, v in enumerate(value)]
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    hint = "a tensor has .item() and .tolist()" if hasattr(value, "tolist") else None
    raise DTypeError(expected(op, where, "a type that JSON can hold", kind, hint))


def _text(value: str, where: str, op: str) -> str:
    if value in WORDS:
        raise DTypeError(expected(op, where, "a text other than nan, inf and -inf, which stand for numbers", value))
    return value


def _key(key: Any, where: str, op: str) -> str:
    if not isinstance(key, str):
        raise DTypeError(expected(op, where, "strings as its keys", f"{key!r} of type {type(key).__name__}"))
    return key


def decode(value: Any) -> Any:
    """Return what ``encode`` was given, with lists for arrays and tuples."""
    if isinstance(value, str):
        return WORDS.get(value, value)
    if isinstance(value, list):
        return [decode(v) for v in value]
    if isinstance(value, dict):
        return {key: decode(v) for key, v in value.items()}
    return value


def text(value: Mapping[str, Any]) -> str:
    """Return what was encoded as JSON text, a line for each of its keys."""
    rows = [f"{json.dumps(key)}: {json.dumps(v, allow_nan=False, ensure_ascii=False)}" for key, v in value.items()]
    return "{\n" + ",\n".join(rows) + "\n}\n"
