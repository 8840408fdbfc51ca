"""Problems of batch normalisation of a single block, (N, C): those of the general kernels, positions laid into rows."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from problems import HOT, MAKERS, SCALES, Arguments, Array, blank, normalisations

from tinygrad_bn.core.device import ref


def as_rows(a: Array) -> Array:
    """(N, C, L) as (N L, C)."""
    return np.ascontiguousarray(a.transpose(0, 2, 1).reshape(-1, a.shape[1]))


@st.composite
def blocks(draw: st.DrawFn, name: str, dtype: str) -> Arguments:
    drawn = draw(normalisations(name.replace("block", "train").replace("train_backward", "backward"), dtype))
    del drawn["parts"]
    return {k: as_rows(v) if isinstance(v, np.ndarray) and v.ndim == 3 else v for k, v in drawn.items()}


def _terms(before: Arguments) -> dict[str, Array]:
    """The size of what cancels in the gradients."""
    if "gy" not in before:
        return {}
    x, g = before["x"].astype(np.float64), np.abs(before["gy"].astype(np.float64))
    mean, _, _, invstd = before["statistics"].astype(np.float64)
    hat = np.abs(x - mean) * invstd
    gain = np.abs(before["weight"]) * invstd if before["weight"].size else invstd
    return {"gx": gain * (g + g.max() * (1 + hat)), "gweight": (g * hat).sum(0), "gbias": g.sum(0)}


NAMES = ("batch_norm_block", "batch_norm_block_backward")
MAKERS.update(dict.fromkeys(NAMES, (blocks, 1e-5)))
SCALES.update(dict.fromkeys(NAMES, _terms))


def _large(backward: bool, act: int) -> Arguments:
    rng = np.random.default_rng(0)
    n, c = 200, 101
    train: Arguments = {
        "x": rng.standard_normal((n, c)).astype(np.float32),
        "weight": rng.standard_normal(c).astype(np.float32),
        "bias": rng.standard_normal(c).astype(np.float32),
        "eps": 1e-5,
        "act": act,
        "slope": 0 if act < 2 else 0.25,
        "y": blank((n, c), np.float32),
        "statistics": blank((4, c), np.float32),
    }
    if not backward:
        return train
    ref.kernels.batch_norm_block.serial(*train.values())
    return {
        "gy": rng.standard_normal((n, c)).astype(np.float32),
        **{k: train[k] for k in ("x", "weight", "bias", "statistics", "act", "slope")},
        "gx": blank((n, c), np.float32),
        "gweight": blank(c, np.float32),
        "gbias": blank(c, np.float32),
    }


HOT.update(
    {
        "batch_norm_block": lambda: _large(False, 1),
        "batch_norm_block sigmoid": lambda: _large(False, 2),
        "batch_norm_block_backward": lambda: _large(True, 1),
        "batch_norm_block_backward sigmoid": lambda: _large(True, 2),
    }
)
