"""What is seen while training runs, and how Ctrl-C ends it."""

from __future__ import annotations

import os
import signal
import sys
import threading
from time import time
from types import FrameType, TracebackType
from typing import Any

from tqdm import tqdm

from tinygrad_bn.train.history import EpochDone
from tinygrad_bn.train.loop import StepDone, StopTraining

FORMAT = "{desc} {percentage:3.0f}%|{bar}| step {n_fmt}/{total_fmt} [{elapsed}, ETA {remaining}, {rate_fmt}]{postfix}"


class ProgressBar:
    """A callback of ``fit``: one bar over all steps, with the time still to go, running loss and accuracy.

    Parameters
    ----------
    epochs, steps : int
        Epochs, and steps of each.
    done : int
        Steps that were taken in an earlier run.
    """

    def __init__(self, epochs: int, steps: int, done: int = 0) -> None:
        self.epochs = epochs
        self.done = done
        interval = 0.1 if sys.stderr.isatty() else 10.0
        total = epochs * steps
        options = {"bar_format": FORMAT, "unit": "step", "mininterval": interval, "smoothing": 0}
        self.bar = tqdm(total=total, initial=done, desc=f"epoch {1 + done // max(steps, 1)}", **options)

    def __call__(self, event: StepDone | EpochDone) -> None:
        if isinstance(event, EpochDone):
            return
        if event.step % 10 == 1 or event.step == event.steps:
            self.bar.set_description_str(f"epoch {event.epoch}/{self.epochs}", refresh=False)
            running = f"loss {event.loss:.4f}, accuracy {100 * event.accuracy:.2f} %"
            self.bar.set_postfix_str(running, refresh=False)
        self.bar.update(1)
        if self.bar.n == self.done + 1:
            self._start_clock()

    def _start_clock(self) -> None:
        """Judge the time to go without the first step, which may have compiled kernels."""
        self.bar.initial = self.bar.n
        self.bar.start_t = self.bar.last_print_t = time()

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *details: Any) -> None:
        self.bar.close()


class GracefulInterrupt:
    """A callback of ``fit``, and a context: the first Ctrl-C ends training after the running step, a second at once.

    So a step is never cut in half: weights, running statistics and optimiser state belong together in what is saved.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: Any = None

    def __call__(self, event: StepDone | EpochDone) -> None:
        if self.requested and isinstance(event, StepDone):
            raise StopTraining

    def __enter__(self) -> GracefulInterrupt:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._request)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        os.write(2, b"\nstopping after this step; Ctrl-C again stops at once\n")  # print() may be what was interrupted
