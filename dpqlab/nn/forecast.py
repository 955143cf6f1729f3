"""What a plan will store, counted from shapes alone: no weight is read, nothing is fitted."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from dpqlab.core import CodebookCodec, LayerLedger, ModelLedger, PoolConfig, ScalarCodec
from dpqlab.core.ledger import OFFSET_BITS
from dpqlab.core.packing import code_bits, packed_size
from dpqlab.core.scope import scope_of_positions
from dpqlab.core.subvectors import position_count
from dpqlab.errors import ConfigError
from dpqlab.nn.accounting import Storage, ledger_of_model, set_storage_
from dpqlab.nn.plan import FLOAT_DTYPES, Plan, kind_of
from dpqlab.nn.targets import Target, targets_of, validate_shapes


def forecast_(model: nn.Module, plan: Plan) -> ModelLedger:
    """Count what ``compress_(model, plan)`` would store.

    Exact without pools; a pool with a budget counts as all of its budget, or (a ragged one) as all
    that k-means makes where this is less, and its codes at their widest: the most that they take.

    Parameters
    ----------
    model
        May be on the meta device, its copies of one module tied. It is marked as stored the way the
        plan says, and otherwise unchanged.
    plan
        What would be compressed, and how.

    Raises
    ------
    ConfigError
        If the plan matches nothing, or a codec does not fit a layer's shape.
    """
    targets = targets_of(model, plan)
    if not targets:
        raise ConfigError(
            f"plan {plan.name!r} matches no nn.Linear of {type(model).__name__}: check its patterns"
        )
    validate_shapes(targets)
    members: dict[tuple[str, PoolConfig | None], list[Target]] = {}
    for target in targets:
        members.setdefault(target.group, []).append(target)
    layers = [_layer(target, members[target.group], plan) for target in targets]
    set_storage_(model, Storage(rest_dtype=plan.rest_dtype, bias_dtype=plan.bias_dtype))
    compressed = {f"{t.name}.{leaf}" for t in targets for leaf in ("weight", "bias")}
    kept = tuple(k for k in ledger_of_model(model).kept if k.name not in compressed)
    return ModelLedger(layers=tuple(layers), kept=kept)


def _layer(target: Target, sharing: list[Target], plan: Plan) -> LayerLedger:
    """Count one layer; the first of those that share a pool owns it."""
    linear, codec = target.linear, target.codec
    rows, columns = linear.out_features, linear.in_features
    dense = LayerLedger(
        name=target.name,
        kind=kind_of(target.name),
        shape=(rows, columns),
        codec=codec.describe(),
        codes=0,
        table=0,
        pool=0,
        scale=0,
        bias=0 if linear.bias is None else 8 * FLOAT_DTYPES[plan.bias_dtype].itemsize * rows,
        weights=rows * columns,
    )
    if isinstance(codec, ScalarCodec):
        groups = -(-columns // codec.group_size)
        codes = 8 * packed_size(rows * columns, codec.bits)
        return replace(dense, codes=codes, scale=16 * rows * groups)
    sizes = codebook_sizes(codec, sharing)
    counted = replace(
        dense, codes=_code_bits(codec, target, sizes), scale=16 * rows * codec.row_scale
    )
    if target is not sharing[0]:
        return counted
    if target.pool is not None:
        codes = sum(_code_bits(codec, member, sizes) for member in sharing)
        most = int(target.pool.budget * codes)
        if target.pool.form == "ragged":  # never more than what k-means made, and where it is
            most = min(most, 16 * codec.d * sum(sizes) + OFFSET_BITS * len(sizes))
        return replace(counted, pool=most)
    uneven = len(set(sizes)) > 1
    return replace(counted, pool=16 * codec.d * sum(sizes), table=OFFSET_BITS * len(sizes) * uneven)


def codebook_sizes(codec: CodebookCodec, sharing: list[Target]) -> list[int]:
    """Return the codewords of every scope: ``k``, or its sub-vectors where they are fewer."""
    first = sharing[0].linear
    m = position_count(first.in_features, codec.d)
    if codec.scope == "layer":
        each = [
            t.linear.out_features * position_count(t.linear.in_features, codec.d) for t in sharing
        ]
        return [min(codec.k, sum(each))]
    rows = sum(t.linear.out_features for t in sharing)
    positions = torch.bincount(scope_of_positions(codec.scope, m, codec.group)).tolist()
    return [min(codec.k, rows * count) for count in positions]


def _code_bits(codec: CodebookCodec, target: Target, sizes: list[int]) -> int:
    linear = target.linear
    count = linear.out_features * position_count(linear.in_features, codec.d)
    return 8 * packed_size(count, code_bits(max(sizes)))
