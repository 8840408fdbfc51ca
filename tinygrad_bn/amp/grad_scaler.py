"""``GradScaler``: a loss multiplied by a factor that grows for as long as the gradients bear it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinygrad_bn import ops
from tinygrad_bn.core.dtype import float32, int32
from tinygrad_bn.core.launch import launch
from tinygrad_bn.core.table import Table, dense, write_back
from tinygrad_bn.core.tape import no_grad
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import ArgumentError, DTypeError, GradientError, StateDictError, expected, wrong
from tinygrad_bn.optim.fused import FusedOptimizer
from tinygrad_bn.optim.optimizer import Optimizer

_KEYS = ("scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker")
UNSCALED, STEPPED = "unscale_()", "step()"


class GradScaler:
    """Scales a loss so that float16's gradients do not underflow, and skips the steps in which they overflow.

    Parameters
    ----------
    device : str
        Accepted for PyTorch's sake: the scale lives on the device of the first tensor that is scaled.
    init_scale : float
    growth_factor : float
        Above 1: what the scale is multiplied by after ``growth_interval`` steps in a row without infinities and NaN.
    backoff_factor : float
        Below 1: what it is multiplied by after a step with such.
    growth_interval : int
    enabled : bool
        False: ``scale`` returns what it is given, ``step`` is the optimiser's, and nothing else does anything.

    Raises
    ------
    ArgumentError

    Notes
    -----
    The scale, the count of steps and whether a gradient was not finite stay in arrays on the device: nothing is read on
    the host unless one asks (``get_scale``, ``state_dict``), and a captured step works. A step with a gradient that is
    not finite changes no parameter and nothing of the optimiser's state, of all its groups. Optimisers of one's own
    that are no ``FusedOptimizer`` are asked to step only where they may, which takes a look at the flag.

    ``unscale_`` turns gradients of float16 and bfloat16 into float32, since unscaled they may be too small for them.

    References
    ----------
    Micikevicius et al. 2018 (arXiv:1710.03740), section 3.2.

    Examples
    --------
    >>> import tinygrad_bn as tb
    >>> model, scaler = tb.nn.Linear(3, 1), tb.amp.GradScaler(init_scale=1024.0)
    >>> optimizer = tb.optim.SGD(model.parameters(), lr=0.1)
    >>> with tb.autocast("cpu", tb.float16):
    ...     loss = model(tb.ones(2, 3)).mean()
    >>> scaler.scale(loss).backward()
    >>> scaler.step(optimizer)
    >>> scaler.update()
    >>> scaler.get_scale()
    1024.0
    """

    def __init__(
        self,
        device: str = "cpu",
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        enabled: bool = True,
    ) -> None:
        op = "GradScaler"
        if not init_scale > 0:
            raise ArgumentError(wrong(op, "init_scale", "above 0", init_scale))
        if not growth_factor > 1:
            raise ArgumentError(wrong(op, "growth_factor", "above 1", growth_factor))
        if not 0 < backoff_factor < 1:
            raise ArgumentError(wrong(op, "backoff_factor", "above 0 and below 1", backoff_factor))
        if isinstance(growth_interval, bool) or not isinstance(growth_interval, int) or growth_interval < 1:
            raise ArgumentError(wrong(op, "growth_interval", "an int of at least 1", repr(growth_interval)))
        self._enabled = enabled
        self._first = (float(init_scale), 0)  # the scale and the count that the arrays start from
        self._growth = float(growth_factor)
        self._backoff = float(backoff_factor)
        self._interval = growth_interval
        self._scale: Tensor | None = None
        self._tracker: Tensor | None = None
        self._found: dict[Optimizer, Tensor] = {}
        self._stages: dict[Optimizer, str] = {}

    # --------------------------------------------------------------------------------------------------------- a step

    def scale(self, outputs: Any) -> Any:
        """Return a tensor, or the tensors in lists and tuples, multiplied by the scale."""
        if not self._enabled:
            return outputs
        if isinstance(outputs, Tensor):
            return ops.mul(outputs, self._arrays(outputs)[0])
        if isinstance(outputs, list | tuple):
            return type(outputs)(self.scale(o) for o in outputs)
        raise DTypeError(wrong("GradScaler", "outputs", "a Tensor, or a list of Tensors", type(outputs).__name__))

    def unscale_(self, optimizer: Optimizer) -> None:
        """Divide the gradients of an optimiser's parameters by the scale, in place, ahead of clipping, say.

        Raises
        ------
        GradientError
            If that has been done since the last ``update()``, or a step, or nothing has been scaled yet.
        """
        if not self._enabled:
            return
        stage = self._stages.get(optimizer)
        if stage is not None:
            raise GradientError(f"GradScaler: {stage} has been called for this optimiser since the last update().")
        if self._scale is None:
            raise GradientError("GradScaler: nothing has been scaled.\nHint: call scale(loss).backward() first.")
        found = self._found.get(optimizer)
        if found is None:
            found = self._found[optimizer] = ops.zeros(1, dtype=float32, device=self._scale.device)
        else:
            launch(found.device.kernels.fill, 0, found.array)
        found.bump()
        with no_grad():
            for group in _by_kind(optimizer):
                self._unscale(group, self._scale, found)
        self._stages[optimizer] = UNSCALED

    def _unscale(self, gradients: list[Tensor], scale: Tensor, found: Tensor) -> None:
        table = Table([(dense(g),) for g in gradients], gradients[0].dtype, gradients[0].device)
        launch(table.device.kernels.unscale, table.data, table.like, scale.array.reshape(1), found.array)
        for gradient, array in zip(gradients, table.arrays[0], strict=True):
            write_back(gradient, array)
            gradient.bump()

    def step(self, optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
        """Let an optimiser step, unless one of its gradients is not finite; ``unscale_`` comes first if it has not.

        Returns
        -------
        What the optimiser's ``step`` returns

        Raises
        ------
        GradientError
            If it has stepped since the last ``update()``.
        ArgumentError
            For a closure.
        """
        if not self._enabled:
            return optimizer.step(*args, **kwargs)
        if args or kwargs:
            raise ArgumentError("GradScaler: closures are not supported: gradients must be unscaled ahead of the step.")
        if self._stages.get(optimizer) != UNSCALED:
            self.unscale_(optimizer)
        self._stages[optimizer] = STEPPED
        found = self._found[optimizer]
        if not isinstance(optimizer, FusedOptimizer):
            return None if found.item() else optimizer.step()
        optimizer.found_inf = found
        try:
            return optimizer.step()
        finally:
            optimizer.found_inf = None

    def update(self, new_scale: float | Tensor | None = None) -> None:
        """Adapt the scale to what the steps since the last ``update`` have found, or set it.

        Raises
        ------
        GradientError
            If there was none.
        """
        if not self._enabled:
            return
        if self._scale is None or self._tracker is None:
            raise GradientError("GradScaler: nothing has been scaled.\nHint: call scale(loss).backward() first.")
        if new_scale is not None:
            with no_grad():
                value = new_scale if isinstance(new_scale, Tensor) else ops.full((), float(new_scale))
                self._scale[...] = ops.reshape(value, ())
        else:
            self._adapt(self._scale, self._tracker)
        self._stages.clear()

    def _adapt(self, scale: Tensor, tracker: Tensor) -> None:
        flags = [self._found[optimizer] for optimizer in self._stages]
        if not flags:
            raise GradientError("GradScaler: no step was taken, and no gradient unscaled, since the last update().")
        found = flags[0]
        for other in flags[1:]:
            found = ops.maximum(found, ops.to(other, device=found.device))
        launch(
            scale.device.kernels.update_scale, found.array, self._growth, self._backoff, self._interval,
            scale.array.reshape(1), tracker.array.reshape(1),
        )  # fmt: skip
        scale.bump()
        tracker.bump()

    def _arrays(self, like: Tensor) -> tuple[Tensor, Tensor]:
        if self._scale is None or self._tracker is None:
            scale, count = self._first
            self._scale = ops.full((), scale, dtype=float32, device=like.device)
            self._tracker = ops.full((), count, dtype=int32, device=like.device)
        return self._scale, self._tracker

    # ---------------------------------------------------------------------------------------------------------- state

    def get_scale(self) -> float:
        """Return the scale; 1 if not enabled."""
        if not self._enabled:
            return 1.0
        return self._first[0] if self._scale is None else float(self._scale.item())

    def is_enabled(self) -> bool:
        """Whether anything is scaled."""
        return self._enabled

    def get_growth_factor(self) -> float:
        """Return what the scale grows by."""
        return self._growth

    def get_backoff_factor(self) -> float:
        """Return what the scale shrinks by."""
        return self._backoff

    def get_growth_interval(self) -> int:
        """Return the number of steps after which the scale grows."""
        return self._interval

    def state_dict(self) -> dict[str, Any]:
        """Return the scale, the count of steps and the factors, as numbers; {} if not enabled."""
        if not self._enabled:
            return {}
        count = self._first[1] if self._tracker is None else int(self._tracker.item())
        return dict(zip(_KEYS, (self.get_scale(), self._growth, self._backoff, self._interval, count), strict=True))

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from what ``state_dict`` returned.

        Raises
        ------
        StateDictError
            If something is missing: it may be that of a scaler that was not enabled.
        """
        if not self._enabled:
            return
        missing = [key for key in _KEYS if key not in state_dict]
        if missing:
            raise StateDictError(expected("GradScaler", "state_dict", f"keys {', '.join(_KEYS)}", f"no {missing[0]!r}"))
        self._growth = float(state_dict["growth_factor"])
        self._backoff = float(state_dict["backoff_factor"])
        self._interval = int(state_dict["growth_interval"])
        self._first = (float(state_dict["scale"]), int(state_dict["_growth_tracker"]))
        if self._scale is not None and self._tracker is not None:
            _fill(self._scale, self._first[0])
            _fill(self._tracker, self._first[1])


def _fill(tensor: Tensor, value: float) -> None:
    launch(tensor.device.kernels.fill, value, tensor.array)
    tensor.bump()


def _by_kind(optimizer: Optimizer) -> list[list[Tensor]]:
    """The gradients of an optimiser's parameters in groups of one dtype and device, low precision made float32."""
    groups: dict[Any, list[Tensor]] = {}
    for p in (p for group in optimizer.param_groups for p in group["params"] if p._grad is not None):
        if p._grad.dtype.low:
            p._grad = ops.to(p._grad.alias(), float32)
        groups.setdefault((p._grad.dtype.name, p._grad.device.type), []).append(p._grad.alias())
    return list(groups.values())
