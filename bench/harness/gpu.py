"""``--device cuda --suite gpu``: everything that has to be seen on a machine with a GPU, by one command.

1. The generic suite on the GPU: every kernel and every operation against the NumPy specification.
2. compute-sanitizer's memcheck and racecheck over a launch of every kernel, where the tool is installed.
3. The bandwidth of copies on the card, then the cases of ``bench/cases_gpu``: answers first, then the clock, beside
   PyTorch on the same card.

Where kernels are simulated there is nothing to be timed: ``--verify-only`` then checks the answers of tiny cases.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from bench.harness import machine, report
from bench.harness.case import Case, discover, select
from bench.harness.client import ROOT, WorkerError
from bench.harness.contenders import DEFAULT_PEERS, DEVICE
from bench.harness.runner import Entry, Plan, Runner

SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"
PACKAGE = "bench.cases_gpu"
PEERS = ("torch", "torch_compile")
COPIES = tuple(1 << n for n in range(20, 31, 2))  # bytes read and written together
PACKAGES = ("numba-cuda", "cuda-bindings", "nvidia-nvvm", "nvidia-nvjitlink", "nvidia-cublas", "nvidia-cudnn-cu13")
SANITISED = ("memcheck", "racecheck")


def problem() -> str:
    """Why nothing can be done here; "" where a GPU is."""
    from tinygrad_bn.errors import DeviceError

    try:
        from tinygrad_bn.kernels.cuda.driver import driver

        driver()
    except DeviceError as error:
        return str(error)
    return ""


def card() -> dict[str, Any]:
    """What is known of the card and its software."""
    from importlib import metadata

    from tinygrad_bn.kernels.cuda.driver import driver

    gpu = driver()
    found: dict[str, Any] = {"name": gpu.name, "capability": ".".join(map(str, gpu.capability))}
    found |= {"multiprocessors": gpu.processors, "memory": gpu.memory()[1], "l2_bytes": gpu.l2_bytes}
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "-i", "0", "--query-gpu=driver_version", "--format=csv,noheader"]
        found["driver"] = subprocess.run(query, capture_output=True, text=True).stdout.strip()
    for name in PACKAGES:
        try:
            found.setdefault("versions", {})[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def copies() -> dict[int, float]:
    """Measure the bytes a second that copies within the card read and write, by how many they touch."""
    from tinygrad_bn.kernels.cuda.driver import driver

    gpu, found = driver(), {}
    for size in COPIES:
        a, b = gpu.allocate(size // 2), gpu.allocate(size // 2)
        repeats = max(8, (1 << 34) // size)
        best = float("inf")
        for _ in range(5):
            gpu.copy(b, a, size // 2)
            gpu.synchronize()
            start = time.perf_counter()
            for _ in range(repeats):
                gpu.copy(b, a, size // 2)
            gpu.synchronize()
            best = min(best, (time.perf_counter() - start) / repeats)
        found[size] = size / best
        gpu.free(a)
        gpu.free(b)
    return found


def _run(what: str, command: Sequence[str]) -> dict[str, Any]:
    """Run a check in a process of its own; what it said in the end, and whether it passed."""
    print(f"{what}: {' '.join(command)}", flush=True)
    start = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    tail = done.stdout.strip().splitlines()[-15:]
    print("\n".join(tail[-1:] if not done.returncode else tail), flush=True)
    seconds = round(time.perf_counter() - start, 1)
    return {"check": what, "passed": not done.returncode, "seconds": seconds, "said": tail}


def checks() -> list[dict[str, Any]]:
    """Run the generic suite on the GPU, then compute-sanitizer."""
    tests = sorted(str(p.relative_to(ROOT)) for p in (ROOT / "tests").glob("test_cuda_*.py"))
    found = [_run("generic suite", [sys.executable, "-m", "pytest", "-q", *tests])]
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        print("compute-sanitizer is not installed: memory and races were not checked on the GPU", flush=True)
        return [*found, {"check": "compute-sanitizer", "passed": None, "said": ["not installed"]}]
    for kind in SANITISED:
        command = [tool, "--tool", kind, "--error-exitcode", "9", sys.executable, "tests/cuda_steps.py"]
        found.append(_run(f"compute-sanitizer {kind}", command))
    return found


def markdown(document: dict[str, Any], lines: Sequence[report.Line], notes: Sequence[str]) -> str:
    """Return the report for people."""
    c, m = document["card"], document["machine"]
    versions = ", ".join(f"{k} {v}" for k, v in {**m["versions"], **c.get("versions", {})}.items())
    rates = ", ".join(f"{int(s) >> 20} MiB {r / 1e9:.0f}" for s, r in document["copy_bandwidth"].items())
    status = {True: "passed", False: "FAILED", None: "not run"}
    parts = [
        "# Benchmark on a GPU",
        f"{m['date']}, commit {m['commit'] or 'unknown'}. {c['name']}, compute capability {c['capability']}, driver "
        f"{c.get('driver', 'unknown')}. {m['system']}, Python {m['python']}. {versions}.",
        f"Copies within the card, GB/s read and written, by bytes touched: {rates}. *Of the floor*: the time of a copy "
        "that touches as many bytes as the fused passes do, divided by ours. Ratio: the best peer's median divided by "
        "ours; below 1 ours is slower.",
        "\n".join(f"- {k['check']}: {status[k['passed']]}: {''.join(k['said'][-1:])}" for k in document["checks"]),
        report.table(lines),
        f"### Every contender\n\n{report.contenders_table(lines)}",
    ]
    return "\n\n".join([*parts, *(f"- {note}" for note in notes)]) + "\n"


def _measured(arguments: argparse.Namespace, cases: Sequence[Case], rounds: int) -> tuple[Runner, list[Entry]]:
    peers = PEERS if arguments.peers == DEFAULT_PEERS else tuple(p for p in arguments.peers if p in PEERS)
    plan = Plan(cases, () if SIMULATED else peers, ("default",), arguments.threads[0], rounds, PACKAGE)
    with Runner(plan, lambda text: print(text, file=sys.stderr, flush=True)) as runner:
        return runner, runner.run()


def main(arguments: argparse.Namespace) -> int:
    """Run the suite; return 0 if all was right, 1 if not, 2 if there is no GPU or nothing to do."""
    why = problem()
    if why or (SIMULATED and not arguments.verify_only):
        print(f"bench: --suite gpu needs a GPU. {why or 'The simulator can only --verify-only.'}", file=sys.stderr)
        return 2
    os.environ[DEVICE] = "cuda"
    cases = select(discover(PACKAGE), arguments.filter)
    if not cases:
        print(f"bench: no case of --suite gpu matches {arguments.filter!r}", file=sys.stderr)
        return 2
    checked = [] if arguments.verify_only else checks()
    try:
        limits = machine.Limits(1, 1e15, {1: 1.0} if arguments.verify_only else copies())
        runner, entries = _measured(arguments, cases, 0 if arguments.verify_only else arguments.rounds)
    except WorkerError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    wrong = report.faults(entries) + [f"FAILED: {c['check']}" for c in checked if c["passed"] is False]
    if not arguments.verify_only:
        _write(arguments, limits, checked, report.lines(cases, entries, limits), runner)
    print("\n".join([*wrong, f"{sum(e.right for e in entries)} of {len(entries)} answers right, {len(cases)} cases."]))
    return 1 if wrong else 0


def _write(
    arguments: argparse.Namespace,
    limits: machine.Limits,
    checked: list[dict[str, Any]],
    lines: list[report.Line],
    runner: Runner,
) -> None:
    """Print the table, and write both files."""
    run = report.Run(limits, lines, runner.descriptions, runner.notes)
    about = report.document(machine.describe(), {"rounds": arguments.rounds}, [run])
    document = {
        "card": card(),
        "machine": about["machine"],
        "checks": checked,
        "copy_bandwidth": {str(size): rate for size, rate in limits.copies.items()},
        "contenders": dict(runner.descriptions),
        "notes": list(runner.notes),
        "cases": about["runs"][0]["cases"],
    }
    print(report.table(lines))
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "gpu.json").write_text(json.dumps(document, indent=1) + "\n")
    (arguments.out / "gpu.md").write_text(markdown(document, lines, runner.notes))
    print(f"written to {arguments.out / 'gpu.json'} and gpu.md")
