"""Vector instructions for compiled loops, as LLVM IR: loads, stores, fused multiply-add, products of bfloat16 pairs."""

import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from torch import Tensor

_processor = binding.get_host_cpu_features()
WIDE_VECTORS = bool(_processor.get("avx512vl"))  # 32 registers of 16 floats; otherwise at least 16 registers of 8
PAIR_PRODUCTS = bool(_processor.get("avx512bf16")) and not _processor.get("amx-bf16")
LANES = 8  # float32 in a vector of 256 bits


class BFloat(ir.types.Type):  # type: ignore[misc, name-defined]  # bfloat16, which llvmlite lacks
    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BFloat)

    def __hash__(self) -> int:
        return hash(BFloat)


INT32, INT64, FLOAT = ir.IntType(32), ir.IntType(64), ir.FloatType()
VECTOR = ir.VectorType(FLOAT, LANES)
FUSE = ("contract",)  # a product and a sum may be fused into one instruction


def I64(value: int) -> ir.Constant:
    return ir.Constant(INT64, value)


def pointers(context, builder, signature, args):  # type: ignore[no-untyped-def]
    """The arguments, with contiguous arrays replaced by pointers to their first element."""
    return [
        context.make_array(kind)(context, builder, value).data if isinstance(kind, types.Array) else value
        for kind, value in zip(signature.args, args, strict=True)
    ]


def _vector_at(builder, pointer, place, vector):  # type: ignore[no-untyped-def]
    return builder.bitcast(builder.gep(pointer, [place]), vector.as_pointer())


def load_vector(builder, pointer, place, vector=VECTOR):  # type: ignore[no-untyped-def]
    return builder.load(_vector_at(builder, pointer, place, vector), align=4)


def store_vector(builder, value, pointer, place, vector=VECTOR):  # type: ignore[no-untyped-def]
    builder.store(value, _vector_at(builder, pointer, place, vector), align=4)


def broadcast(builder, value, vector=VECTOR):  # type: ignore[no-untyped-def]
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(INT32, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(INT32, vector.count), [0] * vector.count))


def multiply_add(builder, total, a, b):  # type: ignore[no-untyped-def]
    builder.store(builder.fadd(builder.load(total), builder.fmul(a, b, flags=FUSE), flags=FUSE), total)


def multiply_add_pairs(builder, total, a, b):  # type: ignore[no-untyped-def]
    """total[i] += the two products of the bfloat16 pairs in a[i] and b[i]."""
    pairs = ir.VectorType(BFloat(), 2 * a.type.count)
    name = f"llvm.x86.avx512bf16.dpbf16ps.{32 * a.type.count}"
    product = cgutils.get_or_insert_function(builder.module, ir.FunctionType(a.type, [a.type, pairs, pairs]), name)
    operands = [builder.load(total), builder.bitcast(a, pairs), builder.bitcast(b, pairs)]
    builder.store(builder.call(product, operands), total)


def as_array(tensor: Tensor) -> np.ndarray:
    """A contiguous array that shares the tensor's memory if possible."""
    return tensor.detach().contiguous().numpy()
