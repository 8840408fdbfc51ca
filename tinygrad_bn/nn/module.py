"""Module: the base class of everything with parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NoReturn, Self

from tinygrad_bn.core.device import Device, as_device
from tinygrad_bn.core.dtype import DType, as_dtype
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import ArgumentError, DTypeError, wrong
from tinygrad_bn.nn import state
from tinygrad_bn.nn.hooks import Hook, Hooks, RemovableHandle
from tinygrad_bn.nn.parameter import retarget
from tinygrad_bn.nn.tree import Tree


def _no_forward(self: Module, *args: Any, **kwargs: Any) -> NoReturn:
    raise NotImplementedError(f"{type(self).__name__}: a module must define forward().")


class Module(Tree):
    """The base class of layers and networks.

    A subclass calls ``super().__init__()``, assigns parameters and other modules to attributes, registers buffers and
    defines ``forward``.

    Attributes
    ----------
    training : bool
        The mode, set by ``train()`` and ``eval()``.

    Examples
    --------
    >>> import tinygrad_bn as tb
    >>> class Net(tb.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.hidden = tb.nn.Linear(4, 8)
    ...         self.norm = tb.nn.BatchNorm1d(8)
    ...
    ...     def forward(self, x):
    ...         return self.norm(self.hidden(x)).relu()
    >>> Net()(tb.ones(3, 4)).shape
    (3, 8)
    """

    _version: ClassVar[int] = 1
    """Of the form of a module's own part of a state dict; it is noted there, as PyTorch does."""
    training: bool
    _hooks: Hooks | None

    def __init__(self) -> None:
        super().__init__()
        self.__dict__.update(training=True, _hooks=None)

    forward: Callable[..., Any] = _no_forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run ``forward``, and the hooks around it where there are some."""
        if self._hooks is not None:
            return self._hooks.call(self, args, kwargs)
        return self.forward(*args, **kwargs)

    # ---------------------------------------------------------------------------------------------------- mode, place

    def train(self, mode: bool = True) -> Self:
        """Set training mode here and below; return the module."""
        if not isinstance(mode, bool):
            raise ArgumentError(wrong("train", "mode", "True or False", repr(mode)))
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Set evaluation mode here and below; return the module."""
        return self.train(False)

    def apply(self, fn: Callable[[Module], Any]) -> Self:
        """Call a function on every module below, then on this one; return the module."""
        for module in self.children():
            module.apply(fn)
        fn(self)
        return self

    def to(self, *target: Any, dtype: Any = None, device: Any = None, non_blocking: bool = False) -> Self:
        """Convert all parameters and buffers, in place: optimisers that hold them stay valid.

        Parameters
        ----------
        *target : DType, Device, str or Tensor
            A floating-point dtype, a device, or a tensor whose dtype and device are taken.
        dtype, device
            The same by name. Integer buffers keep their dtype.
        non_blocking : bool
            Accepted for PyTorch's sake.

        Raises
        ------
        DTypeError
            If the dtype is not floating-point.
        """
        for t in target:
            if isinstance(t, Tensor):
                dtype, device = t.dtype, t.device
            elif isinstance(t, Device) or (isinstance(t, str) and not _names_dtype(t)):
                device = t
            elif t is not None:
                dtype = t
        wanted = None if dtype is None else as_dtype(dtype, "to")
        place = None if device is None else as_device(device, "to")
        if wanted is not None and not wanted.is_floating_point:
            raise DTypeError(wrong("to", "dtype", "a floating-point type", wanted.name))
        return self._convert(wanted, place)

    def _convert(self, dtype: DType | None, device: Device | None) -> Self:
        for tensor in [*self.parameters(), *self.buffers()]:
            retarget(tensor, dtype, device)
        return self

    def float(self) -> Self:
        """Convert floating-point parameters and buffers to float32."""
        return self.to("float32")

    def half(self) -> Self:
        """Convert floating-point parameters and buffers to float16."""
        return self.to("float16")

    def bfloat16(self) -> Self:
        """Convert floating-point parameters and buffers to bfloat16."""
        return self.to("bfloat16")

    def double(self) -> Self:
        """Convert floating-point parameters and buffers to float64."""
        return self.to("float64")

    def cpu(self) -> Self:
        """Move parameters and buffers to the CPU."""
        return self.to(device="cpu")

    def cuda(self, device: Any = None) -> Self:
        """Move parameters and buffers to the GPU."""
        return self.to(device="cuda" if device in (None, 0) else device)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Start or stop recording on all parameters; return the module."""
        for parameter in self.parameters():
            parameter.requires_grad = requires_grad
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients of all parameters: to None, or to zeros in place."""
        for parameter in self.parameters():
            state.clear_gradient(parameter, set_to_none)

    # ---------------------------------------------------------------------------------------------------------- state

    def state_dict(
        self, *, destination: dict[str, Any] | None = None, prefix: str = "", keep_vars: bool = False
    ) -> dict[str, Any]:
        """Return all parameters and persistent buffers by dotted name.

        Parameters
        ----------
        destination : dict, optional
            To be added to, instead of a new one.
        prefix : str
            Put before every name.
        keep_vars : bool
            Return the tensors themselves; else detached ones that share their memory.

        Returns
        -------
        dict
            With an attribute ``_metadata``, the version of each module's part by the module's name.
        """
        out: dict[str, Any] = state.new_dict() if destination is None else destination
        state.note_versions(self, prefix, out)
        for name, tensor in state.entries(self, prefix):
            out[name] = tensor if keep_vars else tensor.alias()
        return out

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> state.IncompatibleKeys:
        """Copy values into the parameters and persistent buffers.

        Everything is checked first: where something does not fit, nothing is written.

        Parameters
        ----------
        state_dict : mapping of str to Tensor, numpy.ndarray or torch.Tensor
            Converted to each parameter's dtype and device. What older versions of a layer's part lack is left as it is,
            where the version is older, or not told by ``_metadata``: ``num_batches_tracked`` before version 2.
        strict : bool
            Missing and unexpected names are errors; shapes that differ always are.

        Returns
        -------
        IncompatibleKeys
            ``missing_keys`` and ``unexpected_keys``.

        Raises
        ------
        StateDictError
            Naming all that does not fit.
        """
        return state.load(self, state_dict, strict)

    def _may_lack(self, version: int | None) -> tuple[str, ...]:
        """The names of its own that a module's part of a state dict lacks in a version; None: it does not say."""
        return ()

    def _extent_in(self, given: Mapping[str, Any], prefix: str) -> tuple[int, ...] | None:
        """The shape that a module without one yet is to take from its part of a state dict."""
        return None

    def _take_extent(self, shape: tuple[int, ...]) -> None:
        """Give the tensors of a module that has none yet a shape, in place."""

    # ---------------------------------------------------------------------------------------------------------- hooks

    def _own_hooks(self) -> Hooks:
        if self._hooks is None:
            self.__dict__["_hooks"] = Hooks()
        return self.__dict__["_hooks"]  # type: ignore[no-any-return]  # set above

    def register_forward_pre_hook(self, hook: Hook, *, with_kwargs: bool = False) -> RemovableHandle:
        """Call ``hook(module, args)`` before forward; what it returns, unless None, replaces the arguments."""
        return RemovableHandle(self._own_hooks().before, (hook, with_kwargs))

    def register_forward_hook(self, hook: Hook, *, with_kwargs: bool = False) -> RemovableHandle:
        """Call ``hook(module, args, output)`` after forward; what it returns, unless None, replaces the output."""
        return RemovableHandle(self._own_hooks().after, (hook, with_kwargs))

    def register_full_backward_hook(self, hook: Hook) -> RemovableHandle:
        """Call ``hook(module, grad_input, grad_output)`` when the gradients of the module's inputs are complete.

        Both are tuples, None where there is no gradient; what it returns, unless None, replaces ``grad_input``.
        """
        return RemovableHandle(self._own_hooks().backward, hook)

    # ------------------------------------------------------------------------------------------------------- printing

    def extra_repr(self) -> str:
        """Return what stands in the parentheses when the module is printed."""
        return ""

    def __repr__(self) -> str:
        extra = self.extra_repr()
        lines = extra.split("\n") if extra else []
        below = [f"({name}): " + repr(module).replace("\n", "\n  ") for name, module in self._modules.items()]
        if not below and len(lines) <= 1:
            return f"{type(self).__name__}({extra})"
        return "\n  ".join([f"{type(self).__name__}(", *lines, *below]) + "\n)"


def _names_dtype(text: str) -> bool:
    try:
        as_dtype(text)
    except DTypeError:
        return False
    return True
