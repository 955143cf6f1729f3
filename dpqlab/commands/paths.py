"""Pruning paths of a whole model: one for every pool, and the budgets that they are read at."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from dpqlab.commands.terminal import Meter
from dpqlab.core import CodebookCodec, Member, ModelLedger, PoolConfig, PruneRecord, prune_path
from dpqlab.core.pruning import POINTS
from dpqlab.core.refitting import weighted_errors
from dpqlab.kernels.dispatch import best_assigner, best_clusterer
from dpqlab.nn.linear import CompressedLinear


@dataclass(frozen=True, kw_only=True, eq=False)
class PoolPath:
    """The path of one pool.

    Attributes
    ----------
    names
        The layers that share the pool, in model order.
    records
        The points, the unpruned pool first where the form allows it.
    energy, weighted_energy
        What all weights of the layers sum up to, squared, and the same counted by column moments:
        what the records' relative errors are relative to.
    """

    names: tuple[str, ...]
    records: tuple[PruneRecord, ...]
    energy: float
    weighted_energy: float

    def at(self, budget: float) -> PruneRecord | None:
        """Return the point with the lowest weighted error whose pool and tables fit a budget."""
        fitting = [record for record in self.records if record.share <= budget]
        return min(fitting, key=lambda record: record.weighted_error, default=None)

    @property
    def smallest(self) -> float:
        """The smallest budget that a point of the path fits."""
        return min(record.share for record in self.records)

    def to_dict(self) -> dict[str, Any]:
        """Return the points as JSON values, each with its share."""
        records = [record.to_dict() | {"share": record.share} for record in self.records]
        return {"layers": list(self.names), "records": records}


@dataclass(frozen=True, kw_only=True)
class Budget:
    """A whole model at a budget: sums over its pools.

    ``share`` is what pools and tables take of the bits of the codes: below ``budget``, as points
    lie apart on a path. ``true_bits`` is what a folder would store, biases included.
    """

    budget: float
    share: float
    codewords: int
    true_bits: float
    weight_error: float
    weighted_error: float

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON values; no budget is null."""
        finite = self.budget < float("inf")
        return vars(self) | {"budget": self.budget if finite else None}


@torch.no_grad()
def pool_paths(
    model: nn.Module,
    weights: dict[str, Tensor],
    inputs: dict[str, Tensor],
    config: PoolConfig,
    meter: Meter,
    *,
    seed: int,
) -> list[PoolPath]:
    """Walk the path of every pool of a model that was compressed without one.

    Parameters
    ----------
    model
        The compressed model.
    weights
        The full-precision weights of its layers, by layer name.
    inputs
        Column moments (in,) or grams (in, in) of what goes into the layers, by layer name.
    config
        How to prune; its budget plays no part.
    meter
        Of 1 in all.
    seed
        Of the k-means of indexed pools.
    """
    layers = {n: m for n, m in model.named_modules() if isinstance(m, CompressedLinear)}
    sharing: dict[int, list[str]] = {}
    for name, layer in layers.items():
        sharing.setdefault(id(layer.pool), []).append(name)
    total = sum(weights[name].numel() for name in layers)
    paths = []
    for names in sharing.values():
        members = _members({name: layers[name] for name in names}, weights, inputs)
        unit = sum(weights[name].numel() for name in names) / total
        records = _walk(members, layers[names[0]].codec, config, meter, unit, names[0], seed)
        energy = sum(float(weights[name].double().square().sum()) for name in names)
        paths.append(
            PoolPath(
                names=tuple(names),
                records=tuple(records),
                energy=energy,
                weighted_energy=sum(weighted_errors(member)[1] for member in members),
            )
        )
    return paths


def _members(
    layers: dict[str, CompressedLinear], weights: dict[str, Tensor], inputs: dict[str, Tensor]
) -> list[Member]:
    """Make the members of one pool, which hold the very same codewords."""
    encoded = [layer.encoded() for layer in layers.values()]
    shared = encoded[0].pool
    members = []
    for name, part in zip(layers, encoded, strict=True):
        known = inputs[name]
        gram = known if known.ndim == 2 else None
        moments = known if gram is None else gram.diagonal()
        whole = replace(part, pool=shared)
        members.append(Member(weight=weights[name], encoded=whole, moments=moments, gram=gram))
    return members


def _walk(
    members: Sequence[Member],
    codec: CodebookCodec,
    config: PoolConfig,
    meter: Meter,
    unit: float,
    name: str,
    seed: int,
) -> list[PruneRecord]:
    """Walk one path; the meter advances by ``unit`` in all, whatever the number of points."""
    device = members[0].weight.device
    digest = hashlib.sha256(f"{seed}:{name}:path".encode()).digest()
    records: list[PruneRecord] = []
    expected = POINTS * (2 if config.form == "auto" else 1) + 2
    for record in prune_path(
        members,
        config,
        codec,
        generator=torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "little") >> 1),
        clusterer=best_clusterer(device),
        assigner=best_assigner(device),
    ):
        records.append(record)
        meter.advance(unit / expected, f"{name}, {record.codewords:,} codewords")
    meter.advance(unit * max(0.0, 1 - len(records) / expected), name)
    return records


def at_budget(paths: Sequence[PoolPath], ledger: ModelLedger, budget: float) -> Budget | None:
    """Sum all pools at a budget; None if one of them cannot fit it.

    Parameters
    ----------
    paths
        Of all pools.
    ledger
        Of the model without pruning: what else it stores stays.
    budget
        Share of the bits of the codes, for each pool.
    """
    points = [path.at(budget) for path in paths]
    chosen = [point for point in points if point is not None]
    if len(chosen) < len(paths):
        return None
    pruned = {name for path in paths for name in path.names}
    # all but biases is counted anew
    saved = sum(layer.total - layer.bias for layer in ledger.layers if layer.name in pruned)
    weights = ledger.compressed_weights + sum(t.weights for t in ledger.kept if t.in_blocks)
    added = sum(p.codes + p.table + p.pool + p.scale for p in chosen)
    before = ledger.true_bits_per_weight * weights
    missed = sum(r.weight_error * p.energy for r, p in zip(chosen, paths, strict=True))
    felt = sum(r.weighted_error * p.weighted_energy for r, p in zip(chosen, paths, strict=True))
    return Budget(
        budget=budget,
        share=sum(p.pool + p.table for p in chosen) / sum(p.codes for p in chosen),
        codewords=sum(p.codewords for p in chosen),
        true_bits=(before - saved + added) / weights,
        weight_error=missed / sum(path.energy for path in paths),
        weighted_error=felt / sum(path.weighted_energy for path in paths),
    )


@torch.no_grad()
def prune_to_(model: nn.Module, paths: Sequence[PoolPath], budget: float) -> None:
    """Give the layers of a model the codes and codewords of their paths' points at a budget."""
    for path in paths:
        point = path.at(budget)
        assert point is not None, "the caller has checked that it fits"
        shared: nn.Parameter | None = None
        for name, encoded in zip(path.names, point.encoded, strict=True):
            layer: Any = model.get_submodule(name)
            layer.set_pool_(encoded, pool_parameter=shared)
            shared = layer.pool
