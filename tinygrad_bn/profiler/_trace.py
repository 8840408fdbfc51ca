"""A profile as a trace for chrome://tracing and Perfetto: https://ui.perfetto.dev opens the file.

"Trace Event Format" (Google, 2016): complete events (``"ph": "X"``), microseconds; one that lies within another on its
thread is drawn below it: layer, operation, kernel.
"""

from __future__ import annotations

import os
import threading
from typing import Any

from tinygrad_bn.profiler._events import Launch, Record, Span
from tinygrad_bn.profiler._machine import Limits
from tinygrad_bn.profiler._report import runs

Event = dict[str, Any]


def events(record: Record, limits: Limits | None) -> list[Event]:
    """Return the events of a profile, outer ones ahead of inner ones."""
    process = os.getpid()
    threads = {record.owner: "main"} | {t.ident or 0: t.name for t in threading.enumerate()}
    seen = {s.thread for s in record.spans} | {e.thread for e in record.launches} | {record.owner}
    out: list[Event] = [
        {"ph": "M", "name": "thread_name", "pid": process, "tid": t, "args": {"name": threads.get(t, str(t))}}
        for t in sorted(seen)
    ]
    whole = Span("range", "profile", "", False, record.owner, record.start, record.end, None)
    for rank, span in enumerate([whole, *record.spans, *runs(record.spans)]):
        if rank == 0 or span.end > span.start:
            out.append(_span(span, record.start, process))
    out += [_launch(e, record.start, process, limits) for e in record.launches]
    order = {"range": 0, "layer": 1, "op": 2, "kernel": 3}
    return sorted(out, key=lambda e: (e["ph"] != "M", e.get("ts", 0), -e.get("dur", 0), order.get(e.get("cat", ""), 0)))


def _event(name: str, kind: str, thread: int, start: int, end: int, since: int, process: int, args: Event) -> Event:
    return {
        "ph": "X", "name": name, "cat": kind, "pid": process, "tid": thread, "ts": (start - since) / 1e3,
        "dur": max(end - start, 0) / 1e3, "args": args,
    }  # fmt: skip


def _span(span: Span, since: int, process: int) -> Event:
    args: Event = {"layer": span.layer, "backward": span.backward}
    return _event(span.name, span.kind, span.thread, span.start, span.end, since, process, args)


def _launch(e: Launch, since: int, process: int, limits: Limits | None) -> Event:
    args: Event = {
        "op": e.op.name,
        "layer": e.op.layer,
        "flops": e.flops,
        "bytes": e.nbytes,
        "python_us": e.python / 1e3,
    }
    if limits is not None and e.end > e.start:
        args["fraction_of_floor"] = round(limits.floor(e.flops, e.nbytes, e.wide) * 1e9 / (e.end - e.start), 4)
    return _event(e.name, "kernel", e.thread, e.start, e.end, since, process, args)
