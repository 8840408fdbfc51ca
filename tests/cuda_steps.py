"""A launch of every kernel: ``python tests/cuda_steps.py`` on a GPU, under compute-sanitizer say; or in the simulator.

``cuda_table.py`` takes what is launched here from a GPU that does nothing. Nothing is compared: the suite does that.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:] = list(dict.fromkeys([str(ROOT), str(ROOT / "tests"), *sys.path]))
LARGEST = 1 << 30  # bytes that a case touches: the next larger one launches nothing else


def _failure(what: str, error: Exception) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{what}: {type(error).__name__}: {str(error)[:300]} ({Path(last.filename).name}:{last.lineno})"


def _tried(what: str, run: Callable[[], Any]) -> Iterator[str]:
    try:
        run()
    except Exception as error:
        yield _failure(what, error)


def problems(examples: int) -> Iterator[str]:
    """Run the generic suite's problems, so many of each; what failed."""
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import strategies as st
    from test_cuda_kernels import MAKERS, NAMES, SINGLE, on_gpu

    checks = [HealthCheck.too_slow, HealthCheck.differing_executors, HealthCheck.data_too_large]
    chosen = settings(
        max_examples=examples, derandomize=True, database=None, deadline=None, suppress_health_check=checks,
        phases=[Phase.generate], report_multiple_bugs=False,
    )  # fmt: skip
    for name in sorted(set(MAKERS) & set(NAMES)):
        for dtype in ("float32", "float64")[: 1 if name in SINGLE else 2]:

            def run(data: Any, name: str = name, dtype: str = dtype) -> None:
                with np.errstate(all="ignore"):
                    on_gpu(name, data.draw(MAKERS[name][0](name, dtype)))

            yield from _tried(f"problem of {name}, {dtype}", chosen(given(data=st.data())(lambda data: run(data))))


def optimisers() -> Iterator[str]:
    """Take a step with every optimiser, by tables of parameters; what failed."""
    import tinygrad_bn as tb

    kinds: dict[str, dict[str, Any]] = {
        "SGD": {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
        "Adam": {},
        "AdamW": {},
        "Adagrad": {},
        "RMSprop": {"centered": True, "momentum": 0.9},
    }

    def step(name: str, options: dict[str, Any], dtype: str) -> None:
        model = tb.nn.Sequential(tb.nn.Linear(5, 4), tb.nn.BatchNorm1d(4), tb.nn.ReLU(), tb.nn.Linear(4, 3))
        model = model.to(getattr(tb, dtype)).to("cuda")
        optimiser = getattr(tb.optim, name)(model.parameters(), **options)
        x, classes = tb.zeros(6, 5, dtype=getattr(tb, dtype)).to("cuda"), tb.tensor([0, 1, 2, 0, 1, 2]).to("cuda")
        for _ in range(2):
            optimiser.zero_grad()
            tb.nn.functional.cross_entropy(model(x), classes).backward()
            tb.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()

    for name, options in kinds.items():
        for dtype in ("float32", "float64"):
            yield from _tried(f"optim.{name}, {dtype}", lambda n=name, o=options, d=dtype: step(n, o, d))


def rare() -> Iterator[str]:
    """Launch what only shapes need that problems seldom have; what failed."""
    from tinygrad_bn.core.device import as_device
    from tinygrad_bn.kernels.cuda import copying, cross_entropy, gemm, half, pooling
    from tinygrad_bn.kernels.cuda.array import address

    gpu = as_device("cuda")

    def zeros(*shape: int, dtype: str = "float32") -> Any:
        return gpu.array(np.zeros(shape, dtype))

    def many_losses() -> None:
        n = cross_entropy.MANY + 1
        target, status = zeros(n, dtype="int64"), zeros(4, dtype="int64")
        numbers = zeros(1), zeros(n), zeros(1), zeros(70)
        cross_entropy.cross_entropy(zeros(n, 2, 1), target, -100, cross_entropy.MEAN, *numbers, status)

    def unscale() -> None:
        x = zeros(9)
        half.unscale(gpu.array(np.array([[address(x), x.size]])), zeros(1), gpu.array(np.ones(1, np.float32)), zeros(1))

    places = {"index": zeros(2, 300, dtype="int64"), "out": zeros(2, 20, 20)}
    yield from _tried("transposed copy", lambda: copying.copy(zeros(80, 70).T, zeros(70, 80)))
    yield from _tried("cross-entropy of many rows", many_losses)
    yield from _tried(
        "product without terms", lambda: gemm.product("nn", zeros(3, 0), zeros(0, 4), zeros(0), zeros(3, 4))
    )
    yield from _tried("sums of a few long lines", lambda: pooling.pool_scatter(zeros(2, 300), **places))
    yield from _tried("gradients unscaled", unscale)


class _Zeros:
    """A generator whose numbers cost nothing."""

    def standard_normal(self, shape: Any, dtype: Any = np.float64) -> Any:
        return np.zeros(shape, dtype)

    def uniform(self, low: float, high: float, shape: Any) -> Any:
        return np.full(shape, high)

    def integers(self, low: int, high: int, shape: Any) -> Any:
        return np.zeros(shape, np.int64)


def cases() -> Iterator[str]:
    """Take a step of every case that ``bench/run.py --suite gpu`` measures; what failed."""
    os.environ["TINYGRAD_BN_BENCH_DEVICE"] = "cuda"
    from bench.cases.softmax import CrossEntropy
    from bench.harness.case import Case, discover

    def run(case: Case) -> None:
        step = case.prepare("tinygrad_bn", case.inputs(_Zeros()))  # type: ignore[arg-type]
        for _ in range(2):
            step()

    for case in discover("bench.cases_gpu"):
        if case.bytes <= LARGEST or isinstance(case, CrossEntropy):
            yield from _tried(case.name, lambda case=case: run(case))


def main() -> int:
    """Launch them, wait, and return 1 if something failed."""
    from tinygrad_bn.core.device import as_device

    gpu = as_device("cuda")
    failed = [*problems(int(sys.argv[1]) if len(sys.argv) > 1 else 3), *optimisers(), *rare()]
    gpu.synchronize()
    print("\n".join([*failed, f"{len(failed)} failures"]))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
