"""Steps that numba's loops cannot say, as LLVM instructions. Importing this module needs numba.

numba turns loops into vector instructions where it can prove that arrays do not overlap. That fails
for codes, as what is read depends on what was read before; so whole vectors are moved here. Two
arguments are tuples of zeros whose types tell the compiler how long vectors are: ``axes`` is as
long as a codeword (without axes a function compiles, but must not be reached), ``lanes`` as the
rows of x that are looked up together. Arrays are taken as flat and contiguous, and no index is
checked.
"""

# what is handed to an intrinsic are numba's types and LLVM's values
# pyright: reportUnknownParameterType=false, reportMissingParameterType=false

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import extending
from numba.core import cgutils, types

intrinsic: Any = extending.intrinsic

_I32, _I64, _F32 = ir.IntType(32), ir.IntType(64), ir.FloatType()
_FAST = ("contract", "reassoc")


def _address(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    """Point at element ``index`` of an array's memory, taken as flat and contiguous."""
    data = context.make_array(kind)(context, builder, array).data
    bytes_ = builder.mul(index, ir.Constant(index.type, kind.dtype.bitwidth // 8))
    start = builder.bitcast(data, ir.IntType(8).as_pointer())
    return builder.gep(start, [bytes_])


def _load(builder: Any, address: Any, kind: Any, *, constant: bool = False) -> Any:
    """Load a value; ``constant`` memory is not written while the loops run."""
    value = builder.load(builder.bitcast(address, kind.as_pointer()), align=1)
    if constant:  # so that it is loaded once, before a loop, however the loop writes
        value.set_metadata("invariant.load", builder.module.add_metadata([]))
    return value


def _store(builder: Any, value: Any, address: Any) -> None:
    builder.store(value, builder.bitcast(address, value.type.as_pointer()), align=1)


def _vector(builder: Any, parts: Any) -> Any:
    """Make a vector of scalars."""
    vector = ir.Constant(ir.VectorType(parts[0].type, len(parts)), ir.Undefined)
    for i, part in enumerate(parts):
        vector = builder.insert_element(vector, part, ir.Constant(_I32, i))
    return vector


@intrinsic
def eight_bytes(typingctx, stream, at):
    """Return bytes ``at`` to ``at + 7`` of ``stream`` as a uint64."""
    signature = types.uint64(stream, types.intp)

    def generate(context, builder, signature, args):
        return _load(builder, _address(context, builder, signature.args[0], *args), _I64)

    return signature, generate


@intrinsic
def octet(typingctx, low, high, shift, more, bits, size, first, g, index, j):
    """``index[j + i] = first[g + i] + min(code i, size[g + i] - 1)`` for eight codes.

    Codes 0 to 3 lie in the uint64 ``low`` from bit ``shift``, codes 4 to 7 in ``high`` from bit
    ``shift + more``.
    """
    word, whole = types.uint64, types.intp
    signature = types.void(word, word, word, word, word, size, first, whole, index, whole)

    def generate(context, builder, signature, args):
        low, high, shift, more, bits, size, first, g, index, j = args
        lanes = ir.VectorType(_I32, 8)
        further = builder.add(shift, more)
        begins = _vector(builder, [shift] * 4 + [further] * 4)
        steps = builder.mul(
            _vector(builder, [bits] * 8),
            ir.Constant(ir.VectorType(_I64, 8), [0, 1, 2, 3, 0, 1, 2, 3]),
        )
        words = _vector(builder, [low] * 4 + [high] * 4)
        one = ir.Constant(_I64, 1)
        mask = builder.trunc(builder.sub(builder.shl(one, bits), one), _I32)
        codes = builder.trunc(builder.lshr(words, builder.add(begins, steps)), lanes)
        codes = builder.and_(codes, _vector(builder, [mask] * 8))
        kinds = signature.args
        last = _load(builder, _address(context, builder, kinds[5], size, g), lanes)
        last = builder.sub(last, ir.Constant(lanes, [1] * 8))
        codes = builder.select(builder.icmp_signed("<", codes, last), codes, last)
        start = _load(builder, _address(context, builder, kinds[6], first, g), lanes)
        where = _address(context, builder, kinds[8], index, j)
        _store(builder, builder.add(codes, start), where)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def put(typingctx, out, at, words, entry, factor, axes):
    """``out[at + i] = words[entry, i] * factor`` for a whole codeword."""
    signature = types.void(out, types.intp, words, types.intp, types.float32, axes)

    def generate(context, builder, signature, args):
        out, at, words, entry, factor, _ = args
        d = max(len(axes), 1)  # without axes it is compiled, but not reached
        entry = builder.mul(entry, ir.Constant(entry.type, d))
        source = _address(context, builder, signature.args[2], words, entry)
        word = _load(builder, source, ir.VectorType(_F32, d))
        word = builder.fmul(word, _vector(builder, [factor] * d))
        _store(builder, word, _address(context, builder, signature.args[0], out, at))
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def dot(typingctx, sums, at, words, entry, x, column, axes, lanes):
    """``sums[at, r] = sum_i words[entry, i] * x[column + i, r]`` for the rows r of x."""
    whole = types.intp
    signature = types.void(sums, whole, words, whole, x, whole, axes, lanes)

    def generate(context, builder, signature, args):
        sums, at, words, entry, x, column = args[:6]
        kinds, d, rows = signature.args, max(len(axes), 1), len(lanes)

        def pointer(n: int, array: Any, index: Any, width: int) -> Any:
            flat = builder.mul(index, ir.Constant(index.type, width))
            return _address(context, builder, kinds[n], array, flat)

        codeword = _load(builder, pointer(2, words, entry, d), ir.VectorType(_F32, d))
        values = [builder.extract_element(codeword, ir.Constant(_I32, i)) for i in range(d)]
        parts = []
        for i, value in enumerate(values):
            here = pointer(4, x, builder.add(column, ir.Constant(column.type, i)), rows)
            inputs = _load(builder, here, ir.VectorType(_F32, rows), constant=True)
            parts.append(builder.fmul(_vector(builder, [value] * rows), inputs, flags=_FAST))
        _store(builder, _total(builder, parts), pointer(0, sums, at, rows))
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def look_up(typingctx, total, r, sums, index, j, lanes):
    """``total[r] += sum_i sums[index[j + i]]`` over eight indices, for all rows of x."""
    signature = types.void(total, types.intp, sums, index, types.intp, lanes)

    def generate(context, builder, signature, args):
        total, r, sums, index, j, _ = args
        kinds, rows = signature.args, len(lanes)
        kind = ir.VectorType(_F32, rows)
        where = builder.mul(r, ir.Constant(r.type, rows))
        where = _address(context, builder, kinds[0], total, where)
        parts = []
        for i in range(8):
            one = _address(
                context, builder, kinds[3], index, builder.add(j, ir.Constant(j.type, i))
            )
            at = builder.zext(_load(builder, one, _I32), _I64)
            at = builder.mul(at, ir.Constant(_I64, rows))
            parts.append(_load(builder, _address(context, builder, kinds[2], sums, at), kind))
        value = builder.fadd(_load(builder, where, kind), _total(builder, parts))
        _store(builder, value, where)
        return context.get_dummy_value()

    return signature, generate


def _total(builder: Any, parts: list[Any]) -> Any:
    """Add up values in pairs."""
    while len(parts) > 1:
        pairs = zip(parts[::2], parts[1::2], strict=False)
        odd = parts[len(parts) & ~1 :]
        parts = [builder.fadd(a, b, flags=_FAST) for a, b in pairs] + odd
    return parts[0]


@intrinsic
def claim(typingctx, task, field):
    """Return a counter of the task, field 0 or 1, and add one to it, as one step."""
    signature = types.int64(task, types.int64)

    def generate(context, builder, signature, args):
        counters = builder.bitcast(args[0], ir.IntType(64).as_pointer())
        counter = builder.gep(counters, [args[1]])
        return builder.atomic_rmw("add", counter, ir.Constant(ir.IntType(64), 1), "monotonic")

    return signature, generate


@intrinsic
def memory(typingctx, address):
    """Return a pointer for an integer."""
    signature = types.voidptr(types.int64)

    def generate(context, builder, signature, args):
        return builder.inttoptr(args[0], context.get_value_type(types.voidptr))

    return signature, generate


@intrinsic
def multiply(typingctx, sgemm, sizes, factors, a, b, c):
    """Call a BLAS: ``C += A.T @ B`` or ``C = ...``, column by column as in Fortran.

    ``sizes`` are m, n, k and the strides of a, b, c as int64, whose low half is what a BLAS with
    32-bit integers reads; ``factors`` are alpha and beta.
    """
    whole = types.int64
    signature = types.void(whole, whole, whole, whole, whole, whole)

    def generate(context, builder, signature, args):
        sgemm, sizes, factors, a, b, c = args
        text, integer = ir.IntType(8).as_pointer(), ir.IntType(64)

        def pointer(address: Any, step: int = 0) -> Any:
            return builder.inttoptr(builder.add(address, ir.Constant(integer, step)), text)

        letters = [
            cgutils.alloca_once_value(builder, ir.Constant(ir.IntType(8), letter))
            for letter in b"TN"
        ]
        m, n, k, lda, ldb, ldc = (pointer(sizes, 8 * i) for i in range(6))
        values = (*letters, m, n, k, pointer(factors), pointer(a), lda, pointer(b), ldb)
        values = (*values, pointer(factors, 4), pointer(c), ldc)
        kind = ir.FunctionType(ir.VoidType(), [text] * 13)
        builder.call(builder.inttoptr(sgemm, kind.as_pointer()), values)
        return context.get_dummy_value()

    return signature, generate
