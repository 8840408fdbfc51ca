"""A recording of kernels of the GPU, as a CUDA graph: one call of the driver runs them all.

A graph has its addresses for good. So what a step is given anew in each call is copied to places of the recording's own
ahead of the graph, and what its kernels have to report is written to words of its own, which the device looks at when
somebody next waits for it.
"""

from __future__ import annotations

import weakref
from typing import Any

from tinygrad_bn.core.device import as_device
from tinygrad_bn.core.tensor import Array
from tinygrad_bn.kernels.cuda.array import CudaArray
from tinygrad_bn.replay.calls import Call
from tinygrad_bn.replay.runs import Views

__all__ = ["Graph", "on_gpu"]


def on_gpu(call: Call) -> bool:
    """Whether a call is of a kernel of the GPU."""
    return any(isinstance(a, CudaArray) for a in call.arguments)


class Graph:
    """The calls of a step, which run without Python.

    The first run only records them, which costs as much as an eager step; kernels are compiled and memory is there
    since the step was recorded.
    """

    def __init__(self, calls: list[Call], views: Views) -> None:
        self._gpu: Any = as_device("cuda")
        self._calls = calls
        self._views = views
        self._places: list[Array] = []
        self._reporting = [(c.op, c.kernel, c.arguments[-1]) for c in calls if c.kernel.spec.status]
        self._graph: Any = None

    def run(self, sources: list[Array]) -> Call | None:
        """Run on this call's arrays; returns before the kernels are done, so that none has reported anything yet."""
        views = self._views.of(sources)
        if self._graph is None:
            self._places = [self._gpu.copied(view) for view in views]
            self._record()
        else:
            for place, view in zip(self._places, views, strict=True):
                self._gpu.kernels.copy.serial(view, place)
        from tinygrad_bn.kernels.cuda.driver import driver

        driver().replay(self._graph)
        if self._reporting:
            self._gpu.reports.expect(self._reporting)
        return None

    def _record(self) -> None:
        from tinygrad_bn.kernels.cuda.driver import driver

        given = [[*call.arguments] for call in self._calls]
        for i, position, view in self._views.patched:
            given[i][position] = self._places[view]
        driver().begin()
        try:
            for call, arguments in zip(self._calls, given, strict=True):
                call.kernel.serial(*arguments)
        finally:
            self._graph = driver().end()
        weakref.finalize(self, driver().destroy, self._graph)
