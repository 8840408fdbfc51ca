"""How much memory this process holds."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

_KIBI = 1 if sys.platform == "darwin" else 1024  # the unit of ru_maxrss


def resident() -> int:
    """Return the bytes that are in memory now; where the system does not tell, the most there ever were."""
    state = Path("/proc/self/statm")
    return int(state.read_text().split()[1]) * resource.getpagesize() if state.exists() else peak()


def peak() -> int:
    """Return the most bytes that were in memory since the process began; ``ru_maxrss`` may be its parent's on Linux."""
    state = Path("/proc/self/status")
    for line in state.read_text().splitlines() if state.exists() else ():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIBI
