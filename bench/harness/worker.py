"""A contender's process: reads commands, one JSON line each, answers each with one line; computes only in between.

    {"do": "start"}                                   import the framework
    {"do": "setup", "case": NAME, "inputs": FILE}     prepare a case
    {"do": "answer", "to": FILE}                      run its first steps and write what they return
    {"do": "calibrate"}                               how many steps make a sample
    {"do": "time", "count": K}                        seconds a step
    {"do": "memory", "count": K}                      bytes that K steps make the process grow by, at their peak
    {"do": "drop"}                                    let go of the case
    {"do": "describe"}                                what the framework says of itself
    {"do": "quit"}

An answer is {"result": …} or {"error": TEXT}.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import traceback
from typing import Any, BinaryIO

import numpy as np

from bench.harness import footprint
from bench.harness.case import Case, Step, discover
from bench.harness.contenders import CONTENDERS
from bench.harness.timing import calibrate, sample


class Worker:
    """The state of the process."""

    def __init__(self, contender: str, threads: int, package: str) -> None:
        self.contender = CONTENDERS[contender]
        self.threads = threads
        self.cases: dict[str, Case] = {c.name: c for c in discover(package)}
        self.case: Case | None = None
        self.step: Step | None = None

    def start(self) -> None:
        self.contender.prepare(self.threads)

    def setup(self, case: str, inputs: str) -> None:
        self.case = self.cases[case]
        with np.load(inputs) as arrays:
            self.step = self.case.prepare(self.contender.name, dict(arrays))

    def answer(self, to: str) -> None:
        case, step = self._prepared()
        rows = [[self.contender.to_numpy(t) for t in case.picked(step())] for _ in range(case.steps)]
        columns = [np.stack(column) for column in zip(*rows, strict=True)] if case.steps > 1 else rows[0]
        np.savez(to, *columns)

    def calibrate(self) -> int:
        gc.collect()
        return calibrate(self._prepared()[1], self.contender.wait)

    def time(self, count: int) -> float:
        case, step = self._prepared()
        return sample(step, self.contender.wait, count) / case.calls

    def memory(self, count: int) -> int:
        step = self._prepared()[1]
        gc.collect()
        before = footprint.resident()
        for _ in range(count):
            self.contender.wait(step())
        return max(0, footprint.peak() - before)

    def drop(self) -> None:
        self.case = self.step = None
        gc.collect()

    def describe(self) -> dict[str, Any]:
        return self.contender.describe()

    def _prepared(self) -> tuple[Case, Step]:
        if self.case is None or self.step is None:
            raise RuntimeError("no case has been set up")
        return self.case, self.step

    def obey(self, command: dict[str, Any]) -> dict[str, Any]:
        """Carry out one command; what it raises goes back as text."""
        try:
            return {"result": getattr(self, command.pop("do"))(**command)}
        except Exception as error:
            traceback.print_exc()
            return {"error": f"{type(error).__name__}: {error}"}


def bind(threads: int) -> None:
    """Let the process use so many processors, where the system offers that: some pools ask for nothing else."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def private_output() -> BinaryIO:
    """Return standard output for answers alone; what frameworks print goes to standard error."""
    sys.stdout.flush()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return answers


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--contender", required=True, choices=list(CONTENDERS))
    parser.add_argument("--threads", required=True, type=int)
    parser.add_argument("--cases", required=True)
    arguments = parser.parse_args()
    answers = private_output()
    bind(arguments.threads)
    worker = Worker(arguments.contender, arguments.threads, arguments.cases)
    for line in sys.stdin:
        command = json.loads(line)
        if command["do"] == "quit":
            return
        answers.write(json.dumps(worker.obey(command)).encode() + b"\n")
        answers.flush()


if __name__ == "__main__":
    main()
