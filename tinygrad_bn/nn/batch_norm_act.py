"""Batch normalisation, a residual and an activation as one layer: y = act(bn(x) + r)."""

from __future__ import annotations

from typing import Any

from tinygrad_bn.nn.batch_norm import BatchNorm2d


class BatchNormAct2d(BatchNorm2d):
    """Batch normalisation of inputs (N, C, H, W) and the activation behind it, in one pass over memory.

    ``forward(x, residual=None)`` returns act(bn(x) + residual). The state dict is that of ``BatchNorm2d``.

    Parameters
    ----------
    num_features : int
        C, the number of channels.
    activation : str or None
        One of "none", "relu", "leaky_relu", "sigmoid", "tanh", "silu", "gelu" and its approximation "gelu_tanh".
    eps, momentum, affine, track_running_stats, device, dtype
        As for ``BatchNorm1d``.
    negative_slope : float
        Of "leaky_relu".
    **options
        As for ``BatchNorm1d``.

    Notes
    -----
    Nothing is kept for backward beyond what ``BatchNorm2d`` alone keeps; with a residual the output, of SiLU and GELU
    the residual.

    References
    ----------
    Ioffe & Szegedy 2015 (arXiv:1502.03167); He et al. 2016 (arXiv:1512.03385), figure 2; Rota Bulò et al. 2018
    (arXiv:1712.02616).

    Examples
    --------
    >>> import tinygrad_bn as tb
    >>> layer = tb.nn.BatchNormAct2d(8, "silu")
    >>> layer(tb.ones(2, 8, 4, 4), tb.ones(2, 8, 4, 4)).shape
    (2, 8, 4, 4)
    """

    def __init__(
        self,
        num_features: int,
        activation: str | None = "relu",
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        negative_slope: float = 0.01,
        **options: Any,
    ) -> None:
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, device, dtype,
            activation=activation, negative_slope=negative_slope, **options,
        )  # fmt: skip
