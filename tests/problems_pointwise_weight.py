"""Problems of the gradient of 1×1 filters: strides, either factor along the registers, blocks and ranges that are cut
off, parts of one block and of several."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import strategies
from hypothesis import strategies as st
from problems import HOT, MAKERS, SUMS, Arguments, Array, blank

from tinygrad_bn.kernels import direct_weight as sizes


def problem(
    x: Array, gy: Array, stride: tuple[int, int], groups: int, turned: bool, block: tuple[int, int, int],
    registers: int, parts: int, threads: int,
) -> Arguments:  # fmt: skip
    """All arguments; the workspace as small as it may be."""
    depth, each = x.shape[1] // groups, gy.shape[1] // groups
    wide, long = (each, depth) if turned else (depth, each)
    samples, rows, columns = block
    units = -(-x.shape[0] // samples) * -(-gy.shape[2] // rows) * -(-gy.shape[3] // columns)
    held, pitch = -(-wide // sizes.LEAST) * sizes.LEAST, -(-long // sizes.LANES) * sizes.LANES
    return {
        "x": x,
        "gy": gy,
        "stride_h": stride[0],
        "stride_w": stride[1],
        "turned": turned,
        **dict(zip(("samples", "rows", "columns"), block, strict=True)),
        "registers": registers,
        "places": np.full((threads, sizes.places(wide)), -1),
        "work": blank((threads, sizes.block_work(samples * rows * columns)), x.dtype),
        "parts": blank((min(parts, units), groups, held, pitch), x.dtype),
        "gw": blank((groups * each, depth, 1, 1), x.dtype),
    }


@st.composite
def pointwise(draw: st.DrawFn, name: str, dtype: str) -> Arguments:
    n, groups, turned = draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.booleans())
    channels = st.one_of(st.integers(1, 20), st.sampled_from([16, 33, 48, 70]))
    depth, each = draw(channels), draw(channels)
    out = draw(st.integers(1, 7)), draw(st.integers(1, 40))
    stride = (1, 1) if turned or draw(st.booleans()) else (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    beyond = (0, 0) if stride == (1, 1) else (draw(st.integers(0, s - 1)) for s in stride)
    size = tuple((o - 1) * s + 1 + b for o, s, b in zip(out, stride, beyond, strict=True))
    whole = draw(st.booleans())
    rows, columns = (o if whole else draw(st.integers(1, o)) for o in out)
    return problem(
        draw(strategies.values((n, groups * depth, *size), dtype)),
        draw(strategies.values((n, groups * each, *out), dtype)),
        stride, groups, turned, (draw(st.integers(1, n)) if whole else 1, rows, columns), draw(st.integers(1, 5)),
        draw(st.integers(1, 4)), draw(st.integers(1, 3)),
    )  # fmt: skip


MAKERS["pointwise_weight"] = (pointwise, 1e-6)
SUMS.add("pointwise_weight")


def _hot() -> dict[str, Callable[[], Arguments]]:
    rng = np.random.default_rng(0)

    def f(*shape: int) -> Any:
        return rng.standard_normal(shape).astype(np.float32)

    return {
        "pointwise_weight": lambda: problem(f(5, 38, 1, 200), f(5, 70, 1, 200), (1, 1), 2, True, (1, 1, 70), 1, 3, 3),
        "pointwise_weight strided": lambda: problem(
            f(4, 21, 33, 30), f(4, 70, 17, 15), (2, 2), 1, False, (1, 5, 15), 3, 4, 2
        ),
    }


HOT.update(_hot())
