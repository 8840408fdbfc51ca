"""The one table of operations.

``@operation(Rule, …)`` enters a public function under its name, with the nodes that state its backward rules. The
generic test suite, the documentation and the coming passes read the table; calling an op does not go through it. What
the decorator returns looks once whether mixed precision is in use (``core.mixed``), and is the function else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tinygrad_bn.core.mixed import entrance, policy_of
from tinygrad_bn.core.tape import Node

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Operation:
    """One entry of the table.

    Attributes
    ----------
    name : str
    function : callable
    rules : tuple of Node subclasses
        Empty for what has no derivative (comparisons, argmax).
    capturable : bool
        False where the output's shape depends on the data.
    """

    name: str
    function: Callable[..., Any]
    rules: tuple[type[Node], ...] = field(default=())
    capturable: bool = True


OPS: dict[str, Operation] = {}


def operation(*rules: type[Node], name: str | None = None, capturable: bool = True) -> Callable[[F], F]:
    """Enter a function into the table of operations."""

    def enter(function: F) -> F:
        entry = name or function.__name__
        if entry in OPS:
            raise ValueError(f"operation {entry} is in the table already")
        policy = policy_of(entry)
        public = function if policy is None else entrance(function, policy)
        OPS[entry] = Operation(entry, public, rules, capturable)
        return public

    return enter
