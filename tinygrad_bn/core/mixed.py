"""Mixed precision: the switch that keeps it out of float32's way, and what each operation does under it.

float16 and bfloat16 are storage: an operation on them computes in float32, and its result is rounded once. Which dtype
that result has, and what ``autocast`` makes of an operation, is its policy. The operations in ``WORDS`` move elements
without looking at them, those in ``INNER`` get float32 from the rules and functions that call them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

if TYPE_CHECKING:
    from tinygrad_bn.core.dtype import DType

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Policy:
    """How an operation treats low precision.

    Attributes
    ----------
    result : {"promoted", "first"}
        Whether a result has the dtype that its tensors are promoted to, or that of the first floating-point tensor:
        normalisations have weights and statistics of float32 beside a low-precision input.
    autocast : {"", "low", "float"}
        Whether autocast converts its tensors to low precision, to float32 (where the result then stays), or not at all.
    direct : bool
        Whether the GPU's kernels take the first tensor as it is, and tensors of its shape; the others are widened.
    """

    result: Literal["promoted", "first"] = "promoted"
    autocast: Literal["", "low", "float"] = ""
    direct: bool = False


class Gate:
    """Whether mixed precision is in use.

    Attributes
    ----------
    on : bool
        Set for good when somebody first names a low-precision dtype, finds one in data, or enters ``autocast``.
    run : callable
        ``run(policy, function, args, kwargs)``: calls a function by its policy. Installed by ``tinygrad_bn.ops``.
    """

    __slots__ = ("on", "run")

    def __init__(self) -> None:
        self.on = False
        self.run: Callable[[Policy, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


gate = Gate()


class Autocast(threading.local):
    """What ``autocast`` has asked for on the calling thread.

    Attributes
    ----------
    dtype : DType or None
        None: nothing.
    device : str
        The type of the devices whose tensors are converted.
    casts : dict or None
        Parameters that have been converted already: by their identity, the parameter, its version and the result.
    """

    dtype: DType | None = None
    device = "cpu"
    casts: dict[int, tuple[Any, int, Any]] | None = None


autocasting = Autocast()


def plainly(*tensors: Any) -> bool:
    """Whether no low precision is in play for these tensors, so that shortcuts past the operations may be taken."""
    return not gate.on or (autocasting.dtype is None and not any(t.dtype.low for t in tensors))


# ----------------------------------------------------------------------------------------------------------- policies

WORDS = {
    *("to", "clone", "contiguous", "reshape", "permute", "expand", "getitem", "unslice", "cat", "narrow", "widen"),
    *("split", "flip", "one_hot", "set_item", "embedding", "take_along", "take_rows"),
}
"""Views and copies: whatever the elements mean."""

INNER = {"add_grid", "convolution_input", "convolution_weight"}
"""Reached only through functions that have a policy themselves; so are all whose name ends with ``_backward``."""

_NORMS = ("batch_norm_eval", "batch_norm_residual", "batch_norm_residual_eval", "batch_norm_train")
_FLOAT = (
    *("bce", "bce_logits", "cross_entropy_indices", "exp", "expm1", "huber", "log", "log1p", "log_softmax"),
    *("logsumexp", "pow", "softmax", "softplus", "sum"),
)
_POLICIES: dict[str, Policy] = {
    **dict.fromkeys(_NORMS, Policy("first", direct=True)),
    **dict.fromkeys(("linear_batch_norm", "norm_convolution"), Policy("first")),
    **dict.fromkeys(("group_norm", "layer_norm"), Policy("first", "float")),
    **dict.fromkeys(("linear", "product_of", "convolution", "recurrent"), Policy("promoted", "low")),
    **dict.fromkeys(_FLOAT, Policy("promoted", "float")),
}
_PLAIN = Policy()


def policy_of(name: str) -> Policy | None:
    """Return the policy of an operation; None for one that is called as it is."""
    if name in WORDS or name in INNER or name.endswith("_backward"):
        return None
    return _POLICIES.get(name, _PLAIN)


# ---------------------------------------------------------------------------------------------------------- entrances

_makers: dict[str, Callable[..., Any]] = {}


def entrance(function: F, policy: Policy) -> F:
    """Return a function with the same parameters that calls this one by its policy once the gate is on.

    It is written for the parameters: one that takes ``*args, **kwargs`` would cost twice as much.
    """
    plain = cast(FunctionType, function)
    source = _source(plain)
    make = _makers.get(source)
    if make is None:
        names: dict[str, Any] = {}
        exec(compile(source, __file__, "exec"), names)
        make = _makers[source] = names["make"]
    call: Any = make(function, gate, policy)
    call.__defaults__, call.__kwdefaults__ = plain.__defaults__, plain.__kwdefaults__
    for name in ("__module__", "__name__", "__qualname__", "__doc__", "__annotations__"):
        setattr(call, name, getattr(function, name))
    call.__dict__.update(plain.__dict__, __wrapped__=function)
    return cast(F, call)


def _source(function: FunctionType) -> str:
    code = function.__code__
    n, k = code.co_argcount, code.co_kwonlyargcount
    names = list(code.co_varnames[:n])
    only = list(code.co_varnames[n : n + k])
    rest = code.co_varnames[n + k] if code.co_flags & 4 else ""
    first = n - len(function.__defaults__ or ())
    given = [name if i < first else f"{name}=None" for i, name in enumerate(names)]
    given += [f"*{rest}"] if rest else ["*"] if only else []
    given += [f"{name}=None" if name in (function.__kwdefaults__ or {}) else name for name in only]
    star = [f"*{rest}"] if rest else []
    return (
        "def make(function, gate, policy):\n"
        f"    def _call({', '.join(given)}):\n"
        "        if gate.on:\n"
        f"            args = ({''.join(f'{a}, ' for a in names + star)})\n"
        f"            return gate.run(policy, function, args, {{{', '.join(f'{a!r}: {a}' for a in only)}}})\n"
        f"        return function({', '.join(names + star + [f'{a}={a}' for a in only])})\n"
        "    return _call\n"
    )


def mixed(
    result: Literal["promoted", "first"] = "promoted",
    autocast: Literal["", "low", "float"] = "",
    direct: bool = False,
) -> Callable[[F], F]:
    """Decorate a function of several operations: as a whole, it computes in float32 and rounds its results once.

    What it changes in place, such as running statistics, is changed in low precision too. ``direct``: as of ``Policy``.
    """
    policy = Policy(result, autocast, direct)

    def enter(function: F) -> F:
        return entrance(function, policy)

    return enter
