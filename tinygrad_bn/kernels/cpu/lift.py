"""Turn the functions of ``kernels/scalar.py`` and ``kernels/pointwise.py`` into elementwise kernels, as source in the
cache folder.

A lifted kernel takes flat arrays, where an operand of one element stands for all; or arrays of four axes, where an
operand's axis may have extent 1 and is broadcast. All are C-contiguous. The keyword-only parameters of a scalar
function are settings: one number for all elements, given as an array of one.
"""

from __future__ import annotations

import ast
import inspect
from types import FunctionType, ModuleType

from tinygrad_bn.kernels import scalar
from tinygrad_bn.kernels.cpu._jit import generated

MATHS = dict.fromkeys(("exp", "log", "sqrt", "tanh"), "math") | dict.fromkeys(
    ("erf", "expm1", "log1p", "ndtr"), "special"
)

_HEAD = '''"""Elementwise kernels lifted from tinygrad_bn/kernels/{source}.py: generated, not to be edited."""
from numba import prange
from tinygrad_bn.kernels.cpu._jit import jit, parallel
from tinygrad_bn.kernels.cpu import math, special

BLOCK = 8192


'''

_KERNEL = """
@jit(inline=True)
{scalar}

@jit()
def {name}_flat({arguments}, out):
    n = out.size
{settings}    if {all_same}:
        for i in range(n):
            out[i] = {name}_({at_i})
{one_full}    else:
        {steps}
        for i in range(n):
            out[i] = {name}_({at_step})


@parallel(work="out", grain={grain})
def {name}({arguments}, out):
    if out.ndim == 1:
        n = out.size
        for block in prange(-(-n // BLOCK)):
            lo = block * BLOCK
            hi = min(n, lo + BLOCK)
            {name}_flat({blocks}, out[lo:hi])
    else:
        s1 = out.shape[1]
        s2 = out.shape[2]
        for row in prange(out.shape[0] * s1 * s2):
            i = row // (s1 * s2)
            j = row // s2 % s1
            k = row % s2
            {name}_flat({rows}, out[i, j, k])
"""


def _one_full(name: str, operands: list[str], settings: list[str], full: str) -> str:
    """The branch for one operand of full size and numbers for the others, which vectorises."""
    others = [a for a in operands if a != full]
    test = " and ".join([f"{full}.size == n"] + [f"{a}.size == 1" for a in others])
    loads = "".join(f"        {a}0 = {a}[0]\n" for a in others)
    at = ", ".join([f"{a}[i]" if a == full else f"{a}0" for a in operands] + [f"{a}0" for a in settings])
    return f"    elif {test}:\n{loads}        for i in range(n):\n            out[i] = {name}_({at})\n"


class _Literals(ast.NodeTransformer):
    """Give number literals an operand's type, and call the backend's ``exp`` for ``exp``."""

    def __init__(self, like: str) -> None:
        self.like = like

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        if isinstance(node.value, float):
            return ast.parse(f"type({self.like})({node.value!r})", mode="eval").body
        return node

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id in MATHS:
            return ast.parse(f"{MATHS[node.id]}.{node.id}", mode="eval").body
        return node


def lifted_source(function: FunctionType, grain: int) -> str:
    """Return the source of a scalar function's kernel."""
    tree = ast.parse(inspect.getsource(function)).body[0]
    if not isinstance(tree, ast.FunctionDef):
        raise TypeError(f"{function.__name__} is not a plain function")
    operands, settings = [a.arg for a in tree.args.args], [a.arg for a in tree.args.kwonlyargs]
    tree.args = ast.arguments([], [ast.arg(a) for a in operands + settings], None, [], [], None, [])
    tree.returns = None
    body = _Literals(operands[-1] if operands[0] == "condition" else operands[0]).visit(tree)
    name = function.__name__.removesuffix("_")
    numbers = [f"{a}0" for a in settings]
    everything = operands + settings
    return _KERNEL.format(
        scalar=ast.unparse(ast.fix_missing_locations(body)),
        name=name,
        grain=grain,
        arguments=", ".join(everything),
        settings="".join(f"    {a}0 = {a}[0]\n" for a in settings),
        all_same=" and ".join(f"{a}.size == n" for a in operands),
        at_i=", ".join([f"{a}[i]" for a in operands] + numbers),
        steps="\n        ".join(f"{a}_step = 0 if {a}.size == 1 else 1" for a in operands),
        one_full="".join(_one_full(name, operands, settings, a) for a in operands if len(operands) > 1),
        at_step=", ".join([f"{a}[i * {a}_step]" for a in operands] + numbers),
        blocks=", ".join(f"{a} if {a}.size == 1 else {a}[lo:hi]" for a in everything),
        rows=", ".join(f"{a}[i % {a}.shape[0], j % {a}.shape[1], k % {a}.shape[2]]" for a in everything),
    )


def lift_all(module: ModuleType = scalar, cheap_grain: int = 1 << 17, dear_grain: int = 1 << 14) -> ModuleType:
    """Return the kernels lifted from a module; those that call exp, log, tanh or the like pay on the pool sooner."""
    topic = module.__name__.rpartition(".")[2]
    source = _HEAD.format(source=topic)
    for name, function in vars(module).items():
        if isinstance(function, FunctionType) and function.__module__ == module.__name__ and name.endswith("_"):
            calls = set(function.__code__.co_names) & (set(MATHS) - {"sqrt"}) or name == "pow_"
            source += lifted_source(function, dear_grain if calls else cheap_grain)
    return generated("elementwise" if module is scalar else topic, source)
