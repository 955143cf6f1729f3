"""Layers laid out for the table linear: rows of codes as columns of words, tables to be built.

All layers take the same input, so they are one layer with many rows. Rows that use the same tables
(same pool, same codebooks) stand together in a *group*, which starts at a multiple of 32 rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dpqlab.core import pack, packed_size, unpack
from dpqlab.errors import ShapeError
from dpqlab.kernels.coded import CodedWeight

UNIT = 32
"""Rows that a warp reads at once."""
_CHUNK = 1 << 22  # codes that are repacked at a time: 32 MB each as int64


@dataclass(frozen=True, kw_only=True)
class Group:
    """Rows that use the same tables.

    Attributes
    ----------
    table
        Which tables.
    row
        The first of them in ``words``, a multiple of 32.
    rows
        How many.
    out
        The first of them in the output.
    """

    table: int
    row: int
    rows: int
    out: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Prepared:
    """Layers with a common input, as the kernels read them, all on one device.

    Attributes
    ----------
    words
        int32 (W, stride), ``W = ceil(m * code_bits / 32)``: column r holds the codes of row r as a
        stream of bits, least significant first. ``stride`` is a multiple of 32.
    pool
        (P, d): the codewords of all layers.
    first, size
        int32 (T, m): of T different tables, the first entry and the number of entries of every
        position's codebook.
    indices
        int32 (I,), each below P; or None. Entries point here if it is there, else into the pool.
    scale, bias
        (total,) float, or None.
    groups
        Which rows use which table.
    shape
        (total, in): rows of all layers, columns.
    code_bits
        Bits of one code.
    exponent
        ``sum(abs(codeword)) < 2**exponent`` for all codewords.
    """

    words: Tensor
    pool: Tensor
    first: Tensor
    size: Tensor
    indices: Tensor | None
    scale: Tensor | None
    bias: Tensor | None
    groups: tuple[Group, ...]
    shape: tuple[int, int]
    code_bits: int
    exponent: int

    @property
    def positions(self) -> int:
        """``m``, the sub-vectors of a row."""
        return self.first.shape[1]


def prepare(weights: Sequence[CodedWeight], biases: Sequence[Tensor | None]) -> Prepared:
    """Lay out layers that take the same input; their outputs follow each other.

    Codes take as much memory as in the canonical stream, up to 31 bits a row and 31 rows a group;
    if widths of codes differ, all get the largest. Pools are copied, unless there is one only.

    Parameters
    ----------
    weights
        At least one; same ``in``, same d, same device.
    biases
        One for each: (out,) or None.

    Raises
    ------
    ShapeError
        If the layers do not go together.
    """
    _check(weights, biases)
    bits = max(weight.code_bits for weight in weights)
    tables, of_weight = _distinct_tables(weights)
    groups = _groups([weight.shape[0] for weight in weights], of_weight)
    m, last = weights[0].positions, groups[-1]
    words = torch.zeros(
        -(-m * bits // 32),
        -(-(last.row + last.rows) // UNIT) * UNIT,
        dtype=torch.int32,
        device=weights[0].codes.device,
    )
    out = 0
    for weight in weights:
        group = next(g for g in groups if g.out <= out < g.out + g.rows)
        _write_streams(weight, bits, words[:, group.row + out - group.out :])
        out += weight.shape[0]
    pool, first, size, indices = _joined(tables)
    largest = float(pool.float().abs().sum(1).max())
    return Prepared(
        words=words,
        pool=pool,
        first=first,
        size=size,
        indices=indices,
        scale=_joined_rows([w.scale for w in weights], weights, 1.0),
        bias=_joined_rows(biases, weights, 0.0),
        groups=groups,
        shape=(out, weights[0].shape[1]),
        code_bits=bits,
        exponent=math.frexp(largest)[1] if math.isfinite(largest) else 0,
    )


def row_streams(weight: CodedWeight, bits: int, start: int, stop: int) -> Tensor:
    """Return the codes of rows ``start`` to ``stop - 1`` as words, ``bits`` a code.

    Parameters
    ----------
    weight
        With codes of at most ``bits`` bits.
    bits
        Bits of a code in the result.
    start, stop
        ``start`` is a multiple of 8, so that its row starts at a whole byte.

    Returns
    -------
    Tensor
        int32 (stop - start, ceil(m * bits / 32)), zeros behind the last code.
    """
    m, rows = weight.positions, stop - start
    count = -(-m * bits // 32)
    first = start * m * weight.code_bits // 8
    size = packed_size(rows * m, weight.code_bits)
    stream = weight.codes[first : first + size]
    if bits == weight.code_bits and m * bits % 8 == 0:
        padded = F.pad(stream.view(rows, -1), (0, 4 * count - m * bits // 8))
    else:  # rows that start within a byte: each is packed again, by itself
        codes = unpack(stream, weight.code_bits, rows * m).view(rows, m)
        codes = F.pad(codes, (0, -m % 8))
        padded = pack(codes.flatten(), bits).view(rows, -1)
        padded = F.pad(padded, (0, 4 * count - padded.shape[1]))
    return padded.clone(memory_format=torch.contiguous_format).view(torch.int32)


def _write_streams(weight: CodedWeight, bits: int, words: Tensor) -> None:
    """Fill the first columns of ``words`` with the rows of a weight."""
    rows = weight.shape[0]
    step = max(8, _CHUNK // weight.positions // 8 * 8)
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        words[:, start:stop] = row_streams(weight, bits, start, stop).t()


def _check(weights: Sequence[CodedWeight], biases: Sequence[Tensor | None]) -> None:
    if not weights or len(weights) != len(biases):
        raise ShapeError(
            f"expected at least one layer and a bias or None for each: got {len(weights)} layers "
            f"and {len(biases)} biases"
        )
    kinds = {(w.shape[1], w.d, w.codes.device) for w in weights}
    if len(kinds) > 1:
        raise ShapeError(
            "layers for one table linear have the same input, sub-vectors of the same length and "
            f"the same device: got (in, d, device) of {sorted(map(str, kinds))}; prepare them apart"
        )


def _distinct_tables(weights: Sequence[CodedWeight]) -> tuple[list[CodedWeight], list[int]]:
    """Return one weight for each different table, and which table each weight uses."""
    tables: list[CodedWeight] = []
    of_weight: list[int] = []
    for weight in weights:
        same = (i for i, other in enumerate(tables) if _same_table(weight, other))
        found = next(same, len(tables))
        if found == len(tables):
            tables.append(weight)
        of_weight.append(found)
    return tables, of_weight


def _same_table(a: CodedWeight, b: CodedWeight) -> bool:
    if not _same_tensor(a.pool, b.pool) or (a.table is None) != (b.table is None):
        return False
    pairs = [(a.first, b.first), (a.size, b.size)]
    if a.table is not None and b.table is not None:
        pairs.append((a.table, b.table))
    return all(_same_tensor(x, y) or torch.equal(x, y) for x, y in pairs)


def _same_tensor(a: Tensor, b: Tensor) -> bool:
    return a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.dtype == b.dtype


def _groups(rows: Sequence[int], tables: Sequence[int]) -> tuple[Group, ...]:
    """Join neighbours with the same table."""
    groups: list[Group] = []
    row = out = 0
    for count, table in zip(rows, tables, strict=True):
        if groups and groups[-1].table == table:
            before = groups.pop()
            group = Group(table=table, row=before.row, rows=before.rows + count, out=before.out)
        else:
            group = Group(table=table, row=row, rows=count, out=out)
        groups.append(group)
        out += count
        row = -(-(group.row + group.rows) // UNIT) * UNIT
    return tuple(groups)


def _joined(tables: Sequence[CodedWeight]) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Return one pool, and ``first``, ``size`` and ``indices`` that point into it."""
    pools: list[Tensor] = []
    firsts: list[Tensor] = []
    indices: list[Tensor] = []
    indexed = any(table.table is not None for table in tables)
    listed = 0
    for table in tables:
        number = next((i for i, p in enumerate(pools) if _same_tensor(p, table.pool)), len(pools))
        if number == len(pools):
            pools.append(table.pool)
        start = sum(len(pool) for pool in pools[:number])
        if indexed:
            entries = table.table
            if entries is None:
                entries = torch.arange(len(table.pool), device=table.pool.device)
            indices.append((entries + start).to(torch.int32))
            start, listed = listed, listed + len(entries)
        firsts.append(table.first + start)
    pool = pools[0]
    if len(pools) > 1:
        dtypes = {p.dtype for p in pools}
        wide = dtypes.pop() if len(dtypes) == 1 else torch.float32
        pool = torch.cat([p.to(wide) for p in pools])
    first = torch.stack(firsts).to(torch.int32).contiguous()
    size = torch.stack([table.size for table in tables]).to(torch.int32).contiguous()
    return pool.detach().contiguous(), first, size, torch.cat(indices) if indexed else None


def _joined_rows(
    values: Sequence[Tensor | None], weights: Sequence[CodedWeight], missing: float
) -> Tensor | None:
    """Join what rows have one of each, such as biases; None if no layer has any."""
    dtypes = {value.dtype for value in values if value is not None}
    if not dtypes:
        return None
    dtype = dtypes.pop() if len(dtypes) == 1 else torch.float32
    parts = [
        torch.full((weight.shape[0],), missing, dtype=dtype, device=weight.codes.device)
        if value is None
        else value.detach().to(dtype)
        for value, weight in zip(values, weights, strict=True)
    ]
    return torch.cat(parts)
