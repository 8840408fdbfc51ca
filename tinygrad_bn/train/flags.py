"""What the command line's flags accept, one by one."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable


def at_least(low: int) -> Callable[[str], int]:
    """Return a parser of whole numbers from ``low`` on."""

    def parse(text: str) -> int:
        value = int(text) if text.lstrip("+-").isdecimal() else low - 1
        if value < low:
            raise argparse.ArgumentTypeError(f"must be a whole number of at least {low}. Got {text!r}.")
        return value

    return parse


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def positive(text: str) -> float:
    """Parse a number above 0."""
    value = _number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a positive number. Got {text!r}.")
    return value


def not_negative(text: str) -> float:
    """Parse a number from 0 on."""
    value = _number(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number of at least 0. Got {text!r}.")
    return value


def fraction(text: str) -> float:
    """Parse a number from 0 to below 1."""
    value = _number(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to below 1. Got {text!r}.")
    return value


def whole_numbers(text: str) -> tuple[int, ...]:
    """Parse whole numbers from 1 on, with commas between."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(f"must be whole numbers of at least 1 with commas between. Got {text!r}.")
    return tuple(int(part) for part in parts)


def listed(defaults: dict[str, int] | dict[str, float] | dict[str, str]) -> str:
    """Return defaults that depend on another flag, for a help text."""
    return ", ".join(f"{value} for {name}" for name, value in defaults.items())
