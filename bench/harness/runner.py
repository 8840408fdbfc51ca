"""One run: workers started, each case checked, then timed in alternating rounds."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bench.harness.case import Answer, Case, Inputs, inputs_of
from bench.harness.client import Client, WorkerError
from bench.harness.contenders import CONTENDERS, OURS
from bench.harness.timing import Summary, alternate, summary
from bench.harness.verify import fault


@dataclass
class Entry:
    """What one contender did in one case.

    Attributes
    ----------
    case, contender, malloc : str
    status : {"right", "WRONG", "ERROR"}
    reason : str
        Why it is not right.
    samples : list of float
        Seconds a call, one a round.
    count : int
        Steps in a sample.
    """

    case: str
    contender: str
    malloc: str
    status: str = "right"
    reason: str = ""
    samples: list[float] = field(default_factory=list)
    count: int = 0

    @property
    def right(self) -> bool:
        """Whether the answer was right and nothing failed."""
        return self.status == "right"

    @property
    def summary(self) -> Summary | None:
        """The statistics; None if it was not timed."""
        return summary(self.samples) if self.right and self.samples else None


@dataclass(frozen=True)
class Plan:
    """What a run does.

    Attributes
    ----------
    cases : sequence of Case
    peers : sequence of str
    mallocs : sequence of {"default", "tuned"}
        Of the peers; ours always runs as it is installed.
    threads : int
    rounds : int
        0 checks the answers only.
    package : str
        Where the cases are.
    """

    cases: Sequence[Case]
    peers: Sequence[str]
    mallocs: Sequence[str]
    threads: int
    rounds: int
    package: str


class Runner:
    """The workers of a run. A context manager: they end with it."""

    def __init__(self, plan: Plan, say: Callable[[str], None]) -> None:
        self.plan = plan
        self.say = say
        self.notes: list[str] = []
        self.descriptions: dict[str, object] = {}
        self.workers: dict[str, Client] = {}

    def __enter__(self) -> Runner:
        for contender in (OURS, *self.plan.peers):
            if not any(c.takes_part(contender) for c in self.plan.cases):
                continue
            if not CONTENDERS[contender].installed:
                self.note(f"{contender} does not take part: {CONTENDERS[contender].module} is not installed")
                continue
            for malloc in ("default",) if contender == OURS else self.plan.mallocs:
                self.workers[f"{contender}/{malloc}"] = Client(contender, self.plan.threads, malloc, self.plan.package)
        return self

    def __exit__(self, *exception: object) -> None:
        for worker in self.workers.values():
            worker.close()

    def note(self, text: str) -> None:
        """Say something, and keep it for the report."""
        self.notes.append(text)
        self.say(f"note: {text}")

    def run(self) -> list[Entry]:
        """Return what every contender did in every case."""
        self._start()
        entries: list[Entry] = []
        for i, case in enumerate(self.plan.cases):
            self.say(f"[{i + 1}/{len(self.plan.cases)}] {case.name}")
            entries.extend(self._case(case))
        for name, worker in self.workers.items():
            if worker.alive:
                self.descriptions[name] = worker.ask("describe")
        return entries

    def _start(self) -> None:
        """Let all import their frameworks; the one that cannot takes no part."""
        for worker in self.workers.values():
            worker.send("start")
        for name, worker in list(self.workers.items()):
            try:
                worker.receive()
            except WorkerError as error:
                if worker.contender == OURS:
                    raise
                self.note(f"{name} does not take part: {error}")
                self.workers.pop(name).close()

    def _case(self, case: Case) -> list[Entry]:
        taking = {n: w for n, w in self.workers.items() if case.takes_part(w.contender)}
        entries = {n: Entry(case.name, w.contender, w.malloc) for n, w in taking.items()}
        self._check(case, inputs_of(case), taking, entries)
        self._time(entries)
        for worker in taking.values():
            if worker.alive:
                worker.ask("drop")
        return list(entries.values())

    def _check(self, case: Case, inputs: Inputs, taking: dict[str, Client], entries: dict[str, Entry]) -> None:
        """Set the case up everywhere and compare the answers. Nothing is timed yet: all work at once."""
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            files = {name: str(Path(folder) / f"answer{i}.npz") for i, name in enumerate(taking)}
            given = str(Path(folder) / "inputs.npz")
            np.savez(given, **inputs)  # type: ignore[arg-type]  # the names are the arrays'
            self._all(taking, entries, lambda name: {"do": "setup", "case": case.name, "inputs": given})
            reference = case.reference(inputs)
            self._all(taking, entries, lambda name: {"do": "answer", "to": files[name]})
            for name, entry in entries.items():
                reason = _fault_in(files[name], reference, case.tolerance) if entry.right else None
                if reason:
                    entry.status, entry.reason = "WRONG", reason
        for entry in entries.values():
            if not entry.right:
                self.say(f"  {entry.status}: {entry.contender}, malloc {entry.malloc}: {entry.reason}")

    def _all(
        self, taking: dict[str, Client], entries: dict[str, Entry], command: Callable[[str], dict[str, str]]
    ) -> None:
        """Give all workers a command, then collect the answers; who fails is an error."""
        sent = []
        for name, worker in taking.items():
            if entries[name].right:
                with self._blame(entries[name]):
                    worker.send(**command(name))
                    sent.append(name)
        for name in sent:
            with self._blame(entries[name]):
                taking[name].receive()

    @contextmanager
    def _blame(self, entry: Entry) -> Iterator[None]:
        """Make an entry an error if its worker fails."""
        try:
            yield
        except WorkerError as error:
            entry.status, entry.reason = "ERROR", str(error)

    def _time(self, entries: dict[str, Entry]) -> None:
        """Time those whose answers are right."""
        if not self.plan.rounds:
            return
        names = [n for n, e in entries.items() if e.right]
        for name in names:
            with self._blame(entries[name]):
                entries[name].count = self.workers[name].ask("calibrate")
        alternate(names, self.plan.rounds, lambda name: self._turn(name, entries[name]))

    def _turn(self, name: str, entry: Entry) -> None:
        """One sample of one contender, unless it has failed before."""
        if entry.right:
            with self._blame(entry):
                entry.samples.append(self.workers[name].ask("time", count=entry.count))


def _fault_in(file: str, reference: Answer, tolerance: float) -> str | None:
    with np.load(file) as arrays:
        return fault([arrays[f"arr_{i}"] for i in range(len(arrays.files))], reference, tolerance)
