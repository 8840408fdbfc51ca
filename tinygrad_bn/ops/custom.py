"""Operations from people's own kernels: ``tb.register_op``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tinygrad_bn.core.registry import OPS
from tinygrad_bn.errors import ArgumentError, wrong
from tinygrad_bn.ops import _declared as declared
from tinygrad_bn.ops._custom import REGISTERED, CustomOp
from tinygrad_bn.ops._declared import Names
from tinygrad_bn.ops._signature import Signature

__all__ = ["REGISTERED", "CustomOp", "register_op"]


def register_op(
    name: str,
    forward: Any,
    backward: Any = None,
    *,
    inputs: Names | Mapping[str, Any],
    outputs: Names | Mapping[str, Any],
    scalars: Names | Mapping[str, Any] = (),
    workspace: Mapping[str, Any] | None = None,
    returns: Names | None = None,
    nondifferentiable: Names = (),
    prefix: str = "g",
    replace: bool = False,
) -> CustomOp:
    """Make an operation of a forward and a backward kernel.

    A kernel is a function, compiled by ``numba.njit`` or plain Python with NumPy, that takes C-contiguous arrays and
    scalars, writes into those that are its results, and returns nothing. **Its parameters are known by their names**:
    those of the forward kernel are inputs, scalars, outputs and workspace, in any order; those of the backward kernel
    are what it needs of the inputs and outputs, which are thereby saved, scalars, workspace, the gradients ``gy`` that
    arrive at outputs ``y``, and the gradients ``gx`` of inputs ``x``, which it writes.

    Parameters
    ----------
    name : str
        For messages and profiles; no other operation may have it.
    forward : callable
    backward : callable or CustomOp, optional
        A kernel; or an operation with these parameters as inputs and scalars, and the gradients as results. If that has
        a backward of its own, the operation can be differentiated twice. Without any, differentiating it is an error.
    inputs : str or mapping
        Names, separated by spaces, in the order in which the operation takes them. A mapping tells of each what it must
        be like: None for any shape; the name of an input, for its shape and dtype; a function that returns the shape,
        with parameters that are names of inputs, whose shapes it gets, and of scalars, whose values; or a pair of any
        of these and a dtype. Inputs must be of one floating-point dtype where nothing else is declared.
    outputs : str or mapping
        Likewise, what they are like; None, or a name alone, for like the first input.
    scalars : str or mapping
        Names of numbers, which follow the inputs; a mapping gives defaults.
    workspace : mapping, optional
        Scratch arrays of either kernel, as outputs are declared; functions may take outputs' names too.
    returns : str, optional
        The outputs that the operation returns; default: all.
    nondifferentiable : str, optional
        Inputs and outputs without a gradient. Those of an integer dtype need not be listed.
    prefix : str
        What the name of a gradient has ahead of that of its array. An operation that is another's backward, and has
        inputs ``gy`` and ``x`` and an output ``gx``, needs another than "g" for gradients of its own.
    replace : bool
        Whether the name may be taken from an operation that was registered before.

    Returns
    -------
    CustomOp
        A function of the inputs and scalars.

    Raises
    ------
    ArgumentError
        If the parameters of a kernel do not match what is declared, a gradient is missing, or the name is taken.

    Notes
    -----
    Kernels run on one thread. On device ``cpu`` they run as they are given, on ``ref`` as plain Python. Arrays are
    allocated uninitialised: a kernel that adds to its results sets them to 0 first. Elements of floating point that
    overflow, or become NaN, raise nothing.

    Examples
    --------
    >>> import tinygrad_bn as tb
    >>> def forward(x, y):
    ...     y[...] = x**3
    >>> def backward(gy, x, gx):
    ...     gx[...] = 3 * x**2 * gy
    >>> cube = tb.register_op("cube", forward, backward, inputs="x", outputs="y")
    >>> x = tb.tensor([1.0, 2.0], requires_grad=True)
    >>> cube(x).sum().backward()
    >>> x.grad.tolist()
    [3.0, 12.0]
    """
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_][\w.:]*", name):
        raise ArgumentError(wrong("register_op", "name", "a name, such as 'rms_norm' or 'mine::rms_norm'", repr(name)))
    if name in OPS or (name in REGISTERED and not replace):
        hint = "pass replace=True to take its place" if name in REGISTERED else None
        raise ArgumentError(wrong("register_op", "name", "one that no operation has", repr(name), hint))
    given = {"inputs": inputs, "outputs": outputs, "scalars": scalars, "workspace": workspace}
    arrays, written, numbers, scratch = (declared.names_of(name, n, v) for n, v in given.items())
    returned = tuple(declared.names_of(name, "returns", returns)) or tuple(written)
    aside = frozenset(declared.names_of(name, "nondifferentiable", nondifferentiable))
    signature = Signature(name, arrays, written, numbers, scratch, returned, aside, prefix)
    operation = backward if isinstance(backward, CustomOp) else None
    signature.take_forward(forward)
    signature.take_backward(backward, None if operation is None else operation.signature)
    found = REGISTERED[name] = CustomOp(signature, forward, operation)
    return found
