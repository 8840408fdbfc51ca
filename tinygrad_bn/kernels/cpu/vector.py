"""The vector type for Numba kernels: how wide it is, how it is stored, where its elements lie. See ``simd.py``."""

from __future__ import annotations

from typing import Any

from llvmlite import binding, ir
from numba import config, types
from numba.core import cgutils
from numba.extending import models, register_model

I64 = ir.IntType(64)
I32 = ir.IntType(32)


def register_bytes() -> int:
    """The width of the vector registers of the processor that Numba compiles for."""
    if config.CPU_FEATURES is not None:
        features = set(config.CPU_FEATURES.replace(" ", "").split(","))
    else:
        features = {f"+{name}" for name, on in binding.get_host_cpu_features().items() if on}
    return 64 if "+avx512f" in features else 32 if "+avx2" in features else 16


WIDTH = register_bytes()


class VectorType(types.Type):
    """A register full of float32 or float64."""

    def __init__(self, dtype: types.Float) -> None:
        self.dtype = dtype
        self.count = WIDTH // (dtype.bitwidth // 8)
        self.scalar = ir.FloatType() if dtype is types.float32 else ir.DoubleType()
        self.value = ir.VectorType(self.scalar, self.count)
        self.suffix = f"v{self.count}f{dtype.bitwidth}"
        super().__init__(name=f"vector<{dtype}>")

    def splat(self, builder: Any, scalar: Any) -> Any:
        one = builder.insert_element(ir.Constant(self.value, ir.Undefined), scalar, ir.Constant(I32, 0))
        return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(I32, self.count), [0] * self.count))

    def mask(self, builder: Any, n: Any) -> Any:
        """Lanes below n."""
        lane = ir.IntType(self.dtype.bitwidth)
        ints = ir.VectorType(lane, self.count)
        whole = ir.Constant(I64, self.count)
        few = builder.select(builder.icmp_signed("<", n, whole), n, whole)
        few = builder.trunc(few, lane) if lane.width < 64 else few
        one = builder.insert_element(ir.Constant(ints, ir.Undefined), few, ir.Constant(I32, 0))
        all_n = builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(I32, self.count), [0] * self.count))
        return builder.icmp_signed("<", ir.Constant(ints, list(range(self.count))), all_n)

    def masked_load(self, builder: Any, pointer: Any, mask: Any, other: Any) -> Any:
        shape = ir.FunctionType(self.value, [pointer.type, I32, mask.type, self.value])
        function = cgutils.get_or_insert_function(builder.module, shape, f"llvm.masked.load.{self.suffix}.p0")
        return builder.call(function, [pointer, ir.Constant(I32, align_of(self)), mask, other])

    def masked_store(self, builder: Any, value: Any, pointer: Any, mask: Any) -> None:
        shape = ir.FunctionType(ir.VoidType(), [self.value, pointer.type, I32, mask.type])
        function = cgutils.get_or_insert_function(builder.module, shape, f"llvm.masked.store.{self.suffix}.p0")
        builder.call(function, [value, pointer, ir.Constant(I32, align_of(self)), mask])

    def call(self, builder: Any, name: str, arguments: list[Any]) -> Any:
        """An LLVM intrinsic on vectors."""
        kind = ir.FunctionType(self.value, [self.value] * len(arguments))
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"{name}.{self.suffix}"), arguments)


VECTORS = {types.float32: VectorType(types.float32), types.float64: VectorType(types.float64)}


@register_model(VectorType)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: VectorType) -> None:
        super().__init__(manager, kind, kind.value)


def address_of(context: Any, builder: Any, array_type: Any, array: Any, index: Any, kind: VectorType) -> Any:
    data = data_of(context, builder, array_type, array)
    return builder.bitcast(builder.gep(data, [index]), kind.value.as_pointer())


def data_of(context: Any, builder: Any, array_type: Any, array: Any) -> Any:
    """Where the elements of an array, or behind a pointer, begin."""
    if isinstance(array_type, types.CPointer):
        return array
    return context.make_array(array_type)(context, builder, array).data


def align_of(kind: VectorType) -> int:
    return int(kind.dtype.bitwidth // 8)
