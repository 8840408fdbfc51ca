"""The parent's end of a worker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
KEEP = str(1 << 30)
MALLOC = {
    "default": {},
    # one arena that never goes back to the system: large arrays cost no page faults after the first
    "tuned": {"MALLOC_MMAP_THRESHOLD_": KEEP, "MALLOC_TRIM_THRESHOLD_": str(1 << 34), "MALLOC_TOP_PAD_": str(1 << 26)},
}


class WorkerError(RuntimeError):
    """A worker could not do what it was told, or died."""


def environment(threads: int, malloc: str) -> dict[str, str]:
    """Return a worker's environment variables."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    base = {k: v for k, v in os.environ.items() if k not in MALLOC["tuned"]}
    return base | {"PYTHONPATH": path, "OMP_NUM_THREADS": str(threads), "JAX_PLATFORMS": "cpu"} | MALLOC[malloc]


class Client:
    """A worker process, blocked in a read except while it carries out a command.

    Parameters
    ----------
    contender : str
    threads : int
    malloc : {"default", "tuned"}
    package : str
        Where the cases are.
    """

    def __init__(self, contender: str, threads: int, malloc: str, package: str) -> None:
        self.contender = contender
        self.malloc = malloc
        self.counts: dict[str, int] = {}
        command = [sys.executable, "-m", "bench.harness.worker", "--contender", contender]
        self.process = subprocess.Popen(
            [*command, "--threads", str(threads), "--cases", package],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(threads, malloc), text=True,
        )  # fmt: skip

    def send(self, do: str, **arguments: Any) -> None:
        """Give a command.

        Raises
        ------
        WorkerError
            If the process is gone.
        """
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self.process.stdin.flush()
        except OSError:
            raise self._gone() from None

    def receive(self) -> Any:
        """Wait for the answer to a command.

        Raises
        ------
        WorkerError
            If the command failed, or the process is gone.
        """
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise self._gone()
        reply = json.loads(line)
        if "error" in reply:
            raise WorkerError(reply["error"])
        return reply["result"]

    def ask(self, do: str, **arguments: Any) -> Any:
        """Give a command and wait for its answer."""
        self.send(do, **arguments)
        return self.receive()

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self.process.poll() is None

    def close(self) -> None:
        """End the process."""
        try:
            self.send("quit")
            self.process.wait(5)
        except (WorkerError, subprocess.TimeoutExpired):
            self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with suppress(OSError):  # what a dead process has not read
                    pipe.close()

    def _gone(self) -> WorkerError:
        return WorkerError(f"the process ended with status {self.process.wait()}")
