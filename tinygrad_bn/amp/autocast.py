"""``autocast``: matrix products and convolutions in low precision, what needs the range or the digits in float32."""

from __future__ import annotations

from contextlib import ContextDecorator
from typing import Any

from tinygrad_bn.core.device import Device
from tinygrad_bn.core.dtype import DType, as_dtype, bfloat16, float16
from tinygrad_bn.core.mixed import autocasting, gate
from tinygrad_bn.errors import ArgumentError, DTypeError, wrong

TYPES = ("cpu", "cuda", "ref")
_DEFAULTS = {"cpu": bfloat16, "cuda": float16, "ref": bfloat16}


class autocast(ContextDecorator):
    """Context manager or decorator under which operations choose their precision, on this thread.

    Parameters
    ----------
    device_type : str or Device
        The type of the devices whose tensors are converted: "cpu", "cuda" or "ref".
    dtype : DType, optional
        bfloat16 or float16; by default bfloat16, on "cuda" float16.
    enabled : bool
        False: as without it, within another one too.
    cache_enabled : bool
        Whether a parameter that is used more than once is converted once.

    Raises
    ------
    ArgumentError, DTypeError
        If the device type is not known, or the dtype is not one of low precision.

    Notes
    -----
    In low precision: ``linear``, matrix products, convolutions, ``prelu`` and recurrent layers, whose float32 inputs
    are converted. In float32, and so are their results: ``exp``, ``log``, ``pow`` and their kin, ``sum``, ``softmax``,
    ``logsumexp``, ``softplus``, ``layer_norm``, ``group_norm`` and all losses, whose low-precision inputs are
    converted. Everything else takes what it is given; batch normalisation of low-precision inputs has statistics,
    parameters and running statistics in float32. float64 is left alone. Backward passes follow the dtypes of their
    forward: run them outside or inside. The lists are those of PyTorch's CUDA, on every device.

    References
    ----------
    Micikevicius et al. 2018 (arXiv:1710.03740), section 3.

    Examples
    --------
    >>> import tinygrad_bn as tb
    >>> x, w = tb.ones(2, 3), tb.ones(4, 3)
    >>> with tb.autocast(device_type="cpu", dtype=tb.bfloat16):
    ...     y = tb.nn.functional.linear(x, w)
    ...     z = y.sum()
    >>> y.dtype, z.dtype
    (tinygrad_bn.bfloat16, tinygrad_bn.float32)
    """

    def __init__(
        self, device_type: str | Device, dtype: Any = None, enabled: bool = True, cache_enabled: bool | None = None
    ) -> None:
        kind = device_type.type if isinstance(device_type, Device) else device_type
        if kind not in TYPES:
            raise ArgumentError(wrong("autocast", "device_type", "'cpu', 'cuda' or 'ref'", repr(device_type)))
        found = _DEFAULTS[kind] if dtype is None else as_dtype(dtype, "autocast")
        if enabled and not found.low:
            raise DTypeError(wrong("autocast", "dtype", "bfloat16 or float16", found.name))
        self.device_type = kind
        self.dtype = found
        self.enabled = bool(enabled)
        self.cache_enabled = cache_enabled is not False
        self._before: list[tuple[DType | None, str, Any]] = []

    def __enter__(self) -> autocast:
        state = autocasting
        self._before.append((state.dtype, state.device, state.casts))
        if self.enabled:
            gate.on = True
            state.dtype, state.device = self.dtype, self.device_type
            if not self.cache_enabled:
                state.casts = None
            elif state.casts is None:
                state.casts = {}
        elif self.device_type == state.device:
            state.dtype = None
        return self

    def __exit__(self, *exc: object) -> None:
        autocasting.dtype, autocasting.device, autocasting.casts = self._before.pop()


def is_autocast_enabled(device_type: str = "cpu") -> bool:
    """Whether operations on tensors of a type of device choose their precision on this thread."""
    return autocasting.dtype is not None and autocasting.device == device_type


def get_autocast_dtype(device_type: str = "cpu") -> DType:
    """Return the dtype that ``autocast`` converts to on this thread; outside of it, its default."""
    found = autocasting.dtype
    return found if found is not None and autocasting.device == device_type else _DEFAULTS[device_type]
