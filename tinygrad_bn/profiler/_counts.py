"""What a kernel does with its arguments, counted: bytes that it must move, floating-point operations that it must do.

Bytes follow from the kernel's declaration: what is read or written counts once, what is updated twice, scratch memory
not at all; elements that an axis of stride 0 repeats count once. Operations are those of the definition, a
multiplication and an addition counting as two: a convolution by Winograd's algorithm counts like any other, and may
thus take less time than its operations seem to allow. What is not in the table below does one operation an element.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import numpy as np

from tinygrad_bn.kernels.spec import Kernel, parameters_of
from tinygrad_bn.kernels.winograd import LANES

Named = Mapping[str, Any]

FORWARD_NORM = 7  # mean, sum of squared deviations, then subtract, divide, scale and shift: an element
BACKWARD_NORM = 11

_names: dict[Kernel, tuple[str, ...]] = {}


def named(kernel: Kernel, arguments: tuple[Any, ...]) -> dict[str, Any]:
    """Return a kernel's arguments by name."""
    names = _names.get(kernel)
    if names is None:
        names = _names[kernel] = parameters_of(kernel.serial)
    return dict(zip(names, arguments, strict=False))


def _touched(array: Any) -> int:
    if not isinstance(array, np.ndarray):
        return 0
    if 0 not in array.strides:
        return int(array.nbytes)
    return int(array.itemsize * prod(n for n, step in zip(array.shape, array.strides, strict=True) if step or not n))


def _of_table(table: Any) -> tuple[int, int]:
    """Bytes and elements of a row's first array, over the rows of a table of arrays, and the number of columns."""
    if isinstance(table, np.ndarray):
        return int(table[:, -1].sum()), table.shape[1] - 1
    return sum(row[0].size for row in table), len(table[0]) if table else 0


PICKED = {"take_rows": "x", "take_along": "x", "take_grid": "x", "pool_gather": "x"}
"""Kernels that read of an argument no more than they write."""
PUT = {"put_rows": "x", "put_along": "x"}
"""Kernels that write into an argument no more than they read of another, and do not look at what was there."""


def nbytes(kernel: Kernel, given: Named) -> int:
    """Return how many bytes a kernel has to move."""
    spec, name = kernel.spec, kernel.name
    if "table" in given and "like" in given:
        elements, columns = _of_table(given["table"])
        once = elements * int(given["like"].itemsize)
        if name in ("square_sums", "scale"):
            return once * (1 if name == "square_sums" else 2)
        return once * (1 + 2 * (columns - 1))  # an optimiser: the gradient is read, parameter and states updated
    if name in PUT:
        return 2 * _touched(given[PUT[name]]) + _touched(given["positions"])
    if name == "add_rows":
        return 3 * _touched(given["x"]) + _touched(given["positions"])
    total = 0
    for key, value in given.items():
        if key in spec.workspace or key == "status":
            continue
        size = _touched(value)
        if PICKED.get(name) == key:
            size = min(size, _touched(given["out"]))
        total += 2 * size if key in spec.updates else size
    return total


def flops(kernel: Kernel, given: Named) -> int:
    """Return how many floating-point operations a kernel has to do."""
    counter = COUNTERS.get(kernel.name)
    if counter is not None:
        return counter(given)
    if kernel.name in MOVES:
        return 0
    spec = kernel.spec
    sizes = [v.size for k, v in given.items() if isinstance(v, np.ndarray) and k not in spec.workspace]
    return max(sizes, default=0)


def _product(axis: int) -> Callable[[Named], int]:
    """Each element of the result is a sum over an axis of ``a``."""
    return lambda g: int(2 * g["out"].size * g["a"].shape[axis])


def _linear(g: Named) -> int:
    return int(2 * g["out"].size * g["x"].shape[1] + (g["out"].size if g["bias"].size else 0))


def _linear_backward(g: Named) -> int:
    rows = g["gy"].shape[0]
    return int(2 * rows * (g["weight"].size if g["gx"].size else 0) + 2 * rows * g["gweight"].size + (
        g["gy"].size if g["gbias"].size else 0))  # fmt: skip


def _taps(w: Any) -> int:
    """Multiplications and additions an output element: channels of a group times elements of a filter, each two."""
    return int(2 * prod(w.shape[1:]))


def _direct(g: Named) -> int:
    return int((g["x"] if g["turned"] else g["out"]).size * _taps(g["w"]))


def _filters(g: Named) -> int:
    return int(g["gy"].size * _taps(g["gw"]))


def _winograd_products(g: Named) -> int:
    """A tile stands for 4×4 results of nine multiplications and additions a channel."""
    inputs = (g["v"].shape[1] - LANES) // g["tiles"]
    outputs = (g["u"].shape[2] - LANES) // inputs
    return int(2 * 16 * 9 * g["tiles"] * inputs * outputs)


def _norm(name: str, per: int) -> Callable[[Named], int]:
    return lambda g: int(per * g[name].size)


def _pool(outputs: str) -> Callable[[Named], int]:
    return lambda g: int(g[outputs].size * g["kh"] * g["kw"])


def _linear_norm(g: Named) -> int:
    return int(2 * g["y"].size * g["x"].shape[1] + FORWARD_NORM * g["y"].size)


def _linear_norm_backward(g: Named) -> int:
    rows = g["gy"].shape[0]
    into = 2 * rows * g["weight"].size
    return int((into if g["gx"].size else 0) + into + BACKWARD_NORM * g["gy"].size)


def _optimiser(per: int) -> Callable[[Named], int]:
    return lambda g: per * _of_table(g["table"])[0]


COUNTERS: dict[str, Callable[[Named], int]] = {
    **dict.fromkeys(("matmul_nn", "matmul_nt"), _product(-1)),
    "matmul_tn": _product(-2),
    "linear": _linear,
    "linear_backward": _linear_backward,
    "linear_batch_norm": _linear_norm,
    "linear_batch_norm_backward": _linear_norm_backward,
    **dict.fromkeys(("direct_convolution", "panel_convolution"), _direct),
    **dict.fromkeys(("direct_weight", "direct_weight_pixels", "pointwise_weight"), _filters),
    "depthwise_rows": lambda g: int(g["y"].size * _taps(g["w"])),
    "depthwise_rows_back": lambda g: int(g["gy"].size * _taps(g["w"]) * (bool(g["gx"].size) + bool(g["gw"].size))),
    "winograd_products": _winograd_products,
    "depthwise": lambda g: int(g["y"].size * _taps(g["w"])),
    "depthwise_input": lambda g: int(g["gy"].size * _taps(g["w"])),
    "depthwise_weight": _filters,
    "winograd_convolution": lambda g: int(18 * g["y"].size * g["x"].shape[1]),
    "winograd_gradient": lambda g: int(18 * g["gy"].size * g["x"].shape[1]),
    **dict.fromkeys(("batch_norm_train", "batch_norm_block", "group_norm"), _norm("x", FORWARD_NORM)),
    "batch_norm_residual": _norm("x", FORWARD_NORM + 1),
    "batch_norm_statistics": _norm("x", 3),
    **dict.fromkeys(("batch_norm_given", "batch_norm_eval", "batch_norm_residual_eval"), _norm("y", 4)),
    **dict.fromkeys(("batch_norm_backward", "batch_norm_block_backward"), _norm("gy", BACKWARD_NORM)),
    **dict.fromkeys(("batch_norm_residual_backward", "group_norm_backward"), _norm("gy", BACKWARD_NORM)),
    **dict.fromkeys(("batch_norm_eval_backward", "batch_norm_residual_eval_backward"), _norm("gy", 7)),
    **dict.fromkeys(("max_pool", "mean_pool"), _pool("out")),
    **dict.fromkeys(("max_pool_backward", "mean_pool_backward"), _norm("gy", 1)),
    **dict.fromkeys(("softmax", "log_softmax", "logsumexp", "cross_entropy"), _norm("x", 4)),
    **dict.fromkeys(("softmax_backward", "log_softmax_backward"), _norm("gy", 4)),
    "cross_entropy_backward": _norm("x", 3),
    "sgd": _optimiser(4),
    "adam": _optimiser(14),
    "adagrad": _optimiser(6),
    "rmsprop": _optimiser(8),
    "square_sums": _optimiser(2),
    "scale": _optimiser(1),
}
MOVES = frozenset((
    "copy", "fill", "im2col", "exchange", "take_rows", "put_rows", "take_along", "spread", "put_along", "take_grid",
    "pool_gather", "ravel_index", "check_index", "gather_pieces", "crop_pictures", "mirror_pictures",
    "max_pool_places", "take_words", "permutation",
))  # fmt: skip
"""Kernels that compute nothing."""


def wide(given: Named) -> bool:
    """Whether the largest floating-point argument is float64."""
    arrays = [v for v in given.values() if isinstance(v, np.ndarray) and v.dtype.kind == "f"]
    return bool(arrays) and max(arrays, key=lambda a: a.size).dtype.itemsize == 8
