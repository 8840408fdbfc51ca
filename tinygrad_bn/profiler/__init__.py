"""Where the time of a block of code goes: by operation, by layer, by kernel, and into Python."""

from __future__ import annotations

import json
import os
from types import TracebackType
from typing import Any, Self

from tinygrad_bn.errors import ArgumentError
from tinygrad_bn.profiler import _events, _figure, _machine, _report, _session, _trace
from tinygrad_bn.profiler._figure import FigureError
from tinygrad_bn.profiler._machine import Limits
from tinygrad_bn.profiler._report import Row
from tinygrad_bn.profiler._session import record_function

__all__ = ["FigureError", "Limits", "Row", "profile", "record_function"]


class profile:
    """Context manager that notes every kernel launched in its block, and what launched it.

    Kernels of all threads are noted. A step of a backward pass belongs to the operation and the layer whose forward
    recorded it, where that was within a profile too. Blocks may be nested; each sees its own time. A profile that is
    entered again begins anew.

    Notes
    -----
    Bytes are those that a kernel's arguments make it move, operations those of its definition; the floor is the time
    that these take at least on this machine, whose peak and bandwidth are measured once, when first asked for (about a
    fifth of a second). Time between kernels is Python's, and belongs to the operation that comes next; what the
    profiler itself takes, 10 to 20 µs a kernel, is left out. Reading (``print``, ``table`` …) within the block
    shows what is there so far.

    Examples
    --------
    >>> import tinygrad_bn as tb
    >>> net = tb.nn.Sequential(tb.nn.Linear(8, 4), tb.nn.Tanh())
    >>> with tb.profile() as p:
    ...     net(tb.ones(2, 8)).sum().backward()
    >>> sorted({row["name"] for row in p.to_dict()["by_layer"]})
    ['(outside layers)', 'Sequential', 'Sequential.0', 'Sequential.1']
    """

    def __init__(self) -> None:
        self._record = _events.Record()
        self._running = False

    def __enter__(self) -> Self:
        if self._running:
            raise ArgumentError("profile: it is being taken already.\nHint: nest another profile().")
        self._record = _events.Record()
        self._running = True
        _session.start(self._record)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._running = False
        _session.stop(self._record)

    # --------------------------------------------------------------------------------------------------------- figures

    @property
    def wall_time(self) -> float:
        """Seconds from the block's beginning to its end, less what the profiler took itself."""
        r = self._record
        return 0.0 if r.end <= r.start else (r.end - r.start - r.noting) / 1e9

    @property
    def kernel_time(self) -> float:
        """Seconds in kernels that the block's own thread launched."""
        return sum(e.end - e.start for e in self._record.launches if e.thread == self._record.owner) / 1e9

    @property
    def python_time(self) -> float:
        """Seconds of the block's own thread that were not in kernels."""
        return max(self.wall_time - self.kernel_time, 0.0)

    @property
    def profiler_time(self) -> float:
        """Seconds that the profiler took, in none of the other figures."""
        return max(self._record.noting, 0) / 1e9 if self._record.end else 0.0

    def rows(self, by: str = "op", sort: str | None = None) -> list[Row]:
        """Return the rows of a table.

        Parameters
        ----------
        by : {"op", "layer", "kernel"}
        sort : str, optional
            A column: "time", "python", "total" (the default), "calls", "launches", "flops", "bytes", "fraction" or
            "name".

        Raises
        ------
        ArgumentError
        """
        return _report.ordered(_report.rows(self._record, _report.checked(by), _machine.limits()), sort)

    def table(self, by: str = "op", sort: str | None = None, row_limit: int = 40) -> str:
        """Return a table as text.

        Columns: how often; milliseconds in kernels, and of those in backward passes; milliseconds of Python; both
        together, and as a share of the block; operations and bytes, and how many a second while in kernels; which
        fraction of the machine's limits that is.

        Parameters
        ----------
        by, sort
            As for ``rows``.
        row_limit : int
            How many rows; the others are added up in one.

        Raises
        ------
        ArgumentError
        """
        return "\n".join([*_report.text(self.rows(by, sort), by, self.wall_time, row_limit), *self._totals()])

    def _totals(self) -> list[str]:
        wall, limits = self.wall_time, _machine.limits()
        share = 100 * self.python_time / wall if wall else 0.0
        copies = [f"{limits.copies[size] / 1e9:.0f}" for size in sorted(limits.copies)]
        return [
            f"{1e3 * wall:.3f} ms, of these {1e3 * self.kernel_time:.3f} in {len(self._record.launches)} kernels and "
            f"{1e3 * self.python_time:.3f} in Python ({share:.1f} %); the profiler's own "
            f"{1e3 * self.profiler_time:.3f} ms are left out",
            f"machine, on {limits.threads} threads: {limits.flops / 1e9:.0f} Gflop/s (float32), copies of "
            f"{min(limits.copies) >> 10} KiB to {max(limits.copies) >> 20} MiB at {', '.join(copies)} GB/s",
        ]

    def __str__(self) -> str:
        return self.table()

    def __repr__(self) -> str:
        return f"profile({len(self._record.launches)} kernels, {1e3 * self.wall_time:.3f} ms)"

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as numbers and strings, as JSON has them; times are seconds."""
        limits = _machine.limits()
        return {
            "wall_time": self.wall_time,
            "kernel_time": self.kernel_time,
            "python_time": self.python_time,
            "profiler_time": self.profiler_time,
            "launches": len(self._record.launches),
            "limits": {
                "threads": limits.threads, "flops": limits.flops,
                "copies": {str(size): rate for size, rate in limits.copies.items()},
            },
            **{f"by_{by}": [row.to_dict() for row in self.rows(by)] for by in _report.BY},
        }  # fmt: skip

    # ---------------------------------------------------------------------------------------------------------- files

    def export_chrome_trace(self, path: str | os.PathLike[str]) -> None:
        """Write a trace for chrome://tracing and https://ui.perfetto.dev: layers, their operations, their kernels.

        Gaps between kernels are Python's.
        """
        events = _trace.events(self._record, _machine.limits())
        with open(path, "w", encoding="utf-8") as file:
            json.dump({"traceEvents": events, "displayTimeUnit": "ms"}, file)

    def figure(self, path: str | os.PathLike[str], by: str = "op") -> None:
        """Draw where the time went, and the kernels below the machine's limits (a roofline).

        Parameters
        ----------
        path : path-like
            A file whose ending says the format: .png, .pdf, .svg.
        by : {"op", "layer", "kernel"}
            What the bars are.

        Raises
        ------
        FigureError
            If matplotlib is not installed.
        ArgumentError
        """
        title = f"{1e3 * self.wall_time:.2f} ms, of these {1e3 * self.python_time:.2f} ms in Python"
        _figure.draw(path, self.rows(by), self.rows("kernel"), _machine.limits(), title)
