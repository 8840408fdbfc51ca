"""What a profile consists of: launches of kernels, and stretches of time around them."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Span:
    """A stretch of time on a thread: a layer's call, an operation, a range of the user's.

    Attributes
    ----------
    kind : {"layer", "op", "range"}
    name : str
    layer : str
        The path of the module that was being called.
    backward : bool
    thread : int
    start, end : int
        Nanoseconds.
    parent : Span or None
        What it lies within.
    own : bool
        Of an operation: its layer is the span around it.
    """

    kind: str
    name: str
    layer: str
    backward: bool
    thread: int
    start: int
    end: int
    parent: Span | None
    own: bool = True


@dataclass(slots=True)
class Launch:
    """One launch of a kernel.

    Attributes
    ----------
    name : str
    op : Span
    thread, start, end : int
    python : int
        Nanoseconds of Python ahead of it.
    flops, nbytes : int
    wide : bool
        It works on float64.
    """

    name: str
    op: Span
    thread: int
    start: int
    end: int
    python: int
    flops: int
    nbytes: int
    wide: bool


@dataclass
class Record:
    """What one profile has noted."""

    owner: int = 0
    start: int = 0
    end: int = 0
    noting: int = 0
    spans: list[Span] = field(default_factory=list)
    launches: list[Launch] = field(default_factory=list)
    python: dict[tuple[str, str, bool], int] = field(default_factory=dict)
