"""Compile every kernel for the GPUs that it may meet, without one: ``python tests/cuda_table.py``.

The problems of the generic suite, and the steps that ``bench/run.py --suite gpu`` measures, run on a GPU that does
nothing (``dry_gpu.py``). What they launch, by types of arguments and static parameters, is compiled to PTX and linked
to machine code by nvJitLink. The table says what the assembler made of it; the status is 1 where

* a kernel of the package was launched by nothing, or does not compile;
* registers are spilled to memory;
* a kernel of float32 computes in float64 without standing in ``FLOAT64`` below.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ.setdefault("TINYGRAD_BN_QUIET", "1")

import cuda_steps  # noqa: E402  # the path comes first
import dry_gpu  # noqa: E402

Capability = tuple[int, int]
MAIN: Capability = (9, 0)
OTHERS: tuple[Capability, ...] = ((7, 5), (8, 0), (10, 0))
FORMS = 4  # of a kernel, by types and constants, that are compiled unless everything is asked for

FLOAT64: dict[str, str] = {
    "bn_column_gradients._gradient": "the sums of a channel become its coefficients: once a thread",
    "bn_column_gradients._sums": "partial sums of a channel are added",
    "batch_norm._update": "running statistics from those of the batch: once a channel",
    "bn_columns._moments": "partial statistics of threads are merged",
    "bn_merge._finish": "partial sums of a channel are added",
    "bn_rows._apply": "partial statistics of a channel are merged: once a block",
    "bn_rows._moments": "partial statistics of threads are merged",
    "cross_entropy._merge": "sums of blocks are added",
    "cross_entropy._part": "losses of rows are added",
    "cross_entropy._reduce": "losses of rows are added",
    "bn_merge._gather": "partial sums of a channel are added",
    "bn_merge._given": "mean and invstd of a channel from given statistics",
    "bn_rows._gradient": "the sums of a channel become its coefficients: once a block",
    "bn_rows._sums": "a block's sums are handed on: once a block",
    "depthwise._depthwise_weight": "sums of threads are added",
    "direct_weight._add_parts": "sums of parts are added",
    "gn_rows._forward": "partial statistics of a row are merged: once a block",
    "gn_sums._columns": "partial sums of a column are added",
    "gn_sums._rows": "a block's sums are handed on: once a block",
    "gn_sums._total": "partial sums of a column are added",
    "image._jitter": "the mean of a picture: sums of threads are added",
    "half._update_scale": "the scale: one number",
    "matmul._column_sums": "sums of eight rows of a column are added",
    "optim._adagrad": "settings come as float64: once a thread",
    "optim._adam": "settings come as float64: once a thread",
    "optim._advance": "the number of a step and its corrections",
    "optim._rmsprop": "settings come as float64: once a thread",
    "optim._scale": "the factor comes as float64: once a thread",
    "optim._sgd": "settings come as float64: once a thread",
    "optim._square_sums": "squares that float32 has no room for are added",
    "reduction._sum": "partial sums are added",
    "reduction._sum_shares": "partial sums are added",
    "copying._linspace": "first and step are float64, elements are rounded once",
    "random._uniform": "bounds that float32 has not: the processor's bits",
    "copying._arange": "first and step are float64, elements are rounded once",
}
"""Kernels of float32 that compute in float64, by topic and name, and why: statistics, sums."""

NOT_HERE: dict[str, str] = {}
"""Kernels that neither the problems nor the steps launch, by topic and name, and why."""


@dataclass(frozen=True)
class Row:
    """A kernel as compiled for one GPU."""

    topic: str
    name: str
    kinds: tuple[str, ...]
    constants: tuple[tuple[str, Any], ...]
    capability: Capability
    real: str
    registers: int = 0
    spills: int = 0
    stack: int = 0
    shared: int = 0
    wide: int = 0
    fours: int = 0
    error: str = ""
    seconds: float = 0.0

    @property
    def faults(self) -> list[str]:
        """What must not be."""
        if self.error:
            return [f"does not compile: {self.error}"]
        found = [f"spills {self.spills} bytes"] if self.spills else []
        if self.wide and self.real == "float32" and f"{self.topic}.{self.name}" not in FLOAT64:
            found.append(f"{self.wide} instructions of float64")
        return found

    def label(self) -> str:
        """The kernel and what it was compiled for."""
        static = "".join(f" {k}={v}" for k, v in self.constants)
        return f"{self.topic}.{self.name}({' '.join(self.kinds)}){static} for {self.capability[0]}.{self.capability[1]}"


def place(entry: Any) -> tuple[str, str]:
    """The topic and the name of a kernel."""
    return entry.source.function.__globals__.get("__name__", "").rpartition(".")[2], entry.name


def compiled(job: tuple[dry_gpu.Combination, Capability]) -> Row:
    """Compile one combination for one GPU."""
    from tinygrad_bn.kernels.cuda import target

    (entry, kinds, constants), capability = job
    topic, name = place(entry)
    known = topic, name, kinds, constants, capability, entry.real(kinds).__name__
    start = time.process_time()
    try:
        ptx, _ = entry.compiled(kinds, constants, capability)
        _, log = target.cubin_of(ptx, capability)
    except Exception as error:
        return Row(*known, error=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
    body = re.sub(r"\.param[^\n]*", "", ptx)
    return Row(
        *known,
        registers=max(_numbers(r"[Uu]sed (\d+) registers", log), default=0),
        spills=sum(_numbers(r"(\d+) bytes spill", log)),
        stack=max(_numbers(r"(\d+) bytes stack frame", log), default=0),
        shared=sum(_numbers(r"\.shared [^;\n]*\[(\d+)\];", ptx)),
        seconds=time.process_time() - start,  # of the processor's: others may be busy
        wide=len(re.findall(r"^\s*(?:@\S+\s+)?(?!ld|st|mov|selp)[a-z][\w.]*\.f64\b", body, re.M)),
        fours=len(re.findall(r"\.v4\.(?:f32|u32|b32|s32)|\.v2\.(?:f64|b64|u64)", body)),
    )


def _numbers(pattern: str, text: str) -> list[int]:
    return [int(n) for n in re.findall(pattern, text)]


def jobs(combinations: Iterable[dry_gpu.Combination], everything: bool) -> list[tuple[dry_gpu.Combination, Capability]]:
    """What is compiled: for compute capability 9.0 the first forms of each kernel, one of float64 among them; the first
    of all for the others. Elementwise kernels are written from one text: of them, fewer forms."""
    found: list[tuple[dry_gpu.Combination, Capability]] = []
    taken: Counter[tuple[str, bool]] = Counter()
    for c in combinations:
        topic, name = place(c[0])
        wide = "*d" in c[1] and c[0].real(c[1]).__name__ == "float64"
        key, alike = f"{topic}.{name}", topic == "lift"
        taken[key, wide] += 1
        if everything:
            found += [(c, capability) for capability in (MAIN, *OTHERS)]
        elif taken[key, wide] <= (1 if wide else 2 if alike else FORMS):
            found.append((c, MAIN))
            if not wide and taken[key, wide] == 1:
                found += [(c, capability) for capability in OTHERS]
    return found


def unlaunched(combinations: Iterable[dry_gpu.Combination]) -> list[str]:
    """Kernels of the package that nothing launched, and topics that it lacks."""
    from tinygrad_bn.kernels import CPU_ONLY, TOPICS
    from tinygrad_bn.kernels.cuda.entry import entries

    missing = []
    for topic in sorted(set(TOPICS) - CPU_ONLY):
        try:
            importlib.import_module(f"tinygrad_bn.kernels.cuda.{topic}")
        except ImportError as error:
            missing.append(f"{topic}: {error}")
    used = {id(c[0]) for c in combinations}
    idle = {place(e) for e in entries if id(e) not in used} - {place(c[0]) for c in combinations}
    return missing + sorted(
        f"{topic}.{name}: launched by no problem" for topic, name in idle if f"{topic}.{name}" not in NOT_HERE
    )


def table(rows: Sequence[Row]) -> str:
    """The rows of one GPU, aligned."""
    head = ("kernel", "types", "registers", "spills", "stack", "shared", "float64", "16 bytes")
    cells = [head]
    for r in rows:
        static = "".join(f" {k}={v}" for k, v in r.constants)
        numbers = (r.registers, r.spills, r.stack, r.shared, r.wide, r.fours)
        cells.append((f"{r.topic}.{r.name}{static}", " ".join(r.kinds), *map(str, numbers)))
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    widths[:2] = [min(w, most) for w, most in zip(widths[:2], (60, 50))]
    return "\n".join(
        "  ".join([c[:w].ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths))])
        for row in cells
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Compile, print, and return 1 if something must not be."""
    p = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    p.add_argument("--processes", type=int, default=2)
    p.add_argument("--examples", type=int, default=12, help="of each problem; default: 12")
    p.add_argument("--filter", default="", metavar="REGEX", help="only kernels in whose topic.name it is found")
    p.add_argument("--everything", action="store_true", help="every form for all GPUs: half an hour")
    p.add_argument("--brief", action="store_true", help="print faults and sums alone")
    arguments = p.parse_args(argv)
    start = time.perf_counter()
    dry = dry_gpu.begin()
    failed = [*cuda_steps.cases(), *cuda_steps.optimisers(), *cuda_steps.rare()]
    failed += cuda_steps.problems(arguments.examples)
    idle = unlaunched(dry.combinations)
    noted = time.perf_counter()
    work = jobs(dry.combinations, arguments.everything)
    pattern = re.compile(arguments.filter)
    work = [j for j in work if pattern.search(".".join(place(j[0][0])))]
    _WORK[:] = work
    with multiprocessing.get_context("fork").Pool(arguments.processes) as pool:
        rows = []
        for row in pool.imap_unordered(_compile, range(len(work)), chunksize=4):
            rows.append(row)
            for fault in row.faults:
                print(f"{row.label()}: {fault}", flush=True)
    rows.sort(key=lambda r: (r.topic, r.name, r.kinds, str(r.constants)))
    if not arguments.brief:
        print(table([r for r in rows if r.capability == MAIN]))
    faults = failed + [n for n in idle if not arguments.filter]
    bad = sum(len(r.faults) for r in rows)
    faults += [f"FLOAT64 names {n}, which computes nothing in float64" for n in _stale(rows) if not arguments.filter]
    print("".join(f"{fault}\n" for fault in faults), end="")
    slowest = sorted(rows, key=lambda r: -r.seconds)[:3]
    print("took longest: " + ", ".join(f"{r.topic}.{r.name} {r.seconds:.1f} s" for r in slowest))
    counts = ", ".join(f"{a}.{b} ({sum(r.capability == (a, b) for r in rows)})" for a, b in sorted((MAIN, *OTHERS)))
    kernels, forms = len({(r.topic, r.name) for r in rows}), len(dry.combinations)
    print(f"{kernels} kernels in {forms} forms, {dry.launches} launches in {noted - start:.0f} s")
    took = f"{time.perf_counter() - noted:.0f} s, {sum(r.seconds for r in rows):.0f} s of processors"
    print(f"compiled for {counts} in {took}; {len(faults) + bad} faults")
    return 1 if faults or bad else 0


_WORK: list[tuple[dry_gpu.Combination, Capability]] = []  # of the processes, which inherit it


def _compile(i: int) -> Row:
    return compiled(_WORK[i])


def _stale(rows: Iterable[Row]) -> list[str]:
    return sorted(set(FLOAT64) - {f"{r.topic}.{r.name}" for r in rows if r.wide and r.real == "float32"})


if __name__ == "__main__":
    sys.exit(main())
