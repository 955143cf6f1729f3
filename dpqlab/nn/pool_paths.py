"""Pruning paths of a whole model: one for every pool, and the budgets that they are read at."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from dpqlab.core import (
    CodebookCodec,
    LazyWeight,
    Member,
    ModelLedger,
    PoolConfig,
    PruneRecord,
    prune_path,
)
from dpqlab.core.lazy import dense
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
class PathStep:
    """One more point of a path is made, or a path is complete.

    Attributes
    ----------
    done
        Share of all the work that is done, 0 to 1.
    name
        First layer of the pool.
    codewords
        What the pool holds at this point.
    path
        The whole path, with the step that completes it; else None.
    """

    done: float
    name: str
    codewords: int
    path: PoolPath | None = None


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


def path_steps(
    model: nn.Module,
    weights: Mapping[str, Tensor | LazyWeight],
    inputs: Mapping[str, Tensor],
    config: PoolConfig,
    *,
    seed: int = 0,
    kept: Mapping[str, PoolPath] | None = None,
) -> Iterator[PathStep]:
    """Walk the path of every pool of a model that was compressed without one.

    Parameters
    ----------
    model
        The compressed model.
    weights
        The full-precision weights of its layers, by layer name; lazy ones are read whenever they
        are looked at, one at a time.
    inputs
        Column moments (in,) or grams (in, in) of what goes into the layers, by layer name.
    config
        How to prune; its budget plays no part.
    seed
        Of the k-means of indexed pools.
    kept
        Paths that are known already, by the first layer of their pool; they are not walked again.
    """
    layers = {n: m for n, m in model.named_modules() if isinstance(m, CompressedLinear)}
    sharing: dict[int, list[str]] = {}
    for name, layer in layers.items():
        sharing.setdefault(id(layer.pool), []).append(name)
    total = sum(prod(weights[name].shape) for name in layers)
    done = 0.0
    for names in sharing.values():
        unit = sum(prod(weights[name].shape) for name in names) / total
        if kept is not None and names[0] in kept:
            done += unit
            known = kept[names[0]]
            yield PathStep(
                done=done, name=names[0], codewords=known.records[-1].codewords, path=known
            )
            continue
        members = _members({name: layers[name] for name in names}, weights, inputs)
        expected = POINTS * (2 if config.form == "auto" else 1) + 2
        records: list[PruneRecord] = []
        for record in _walk(members, layers[names[0]].codec, config, names[0], seed):
            records.append(record)
            share = min(1.0, len(records) / expected)
            yield PathStep(done=done + unit * share, name=names[0], codewords=record.codewords)
        done += unit
        path = PoolPath(
            names=tuple(names),
            records=tuple(records),
            energy=sum(_energy(dense(weights[name])) for name in names),
            weighted_energy=sum(weighted_errors(member)[1] for member in members),
        )
        yield PathStep(done=done, name=names[0], codewords=records[-1].codewords, path=path)


def _energy(weight: Tensor) -> float:
    return float(weight.detach().double().square().sum())


def _members(
    layers: Mapping[str, CompressedLinear],
    weights: Mapping[str, Tensor | LazyWeight],
    inputs: Mapping[str, Tensor],
) -> list[Member]:
    """Make the members of one pool, which hold the very same codewords."""
    encoded = [layer.encoded() for layer in layers.values()]
    shared = encoded[0].pool
    members: list[Member] = []
    for name, part in zip(layers, encoded, strict=True):
        known = inputs[name]
        gram = known if known.ndim == 2 else None
        moments = known if gram is None else gram.diagonal()
        whole = replace(part, pool=shared).narrow()
        weight, read = weights[name], None
        if isinstance(weight, LazyWeight):
            weight, read = torch.empty(weight.shape, device="meta"), weight.read
        members.append(Member(weight=weight, encoded=whole, moments=moments, gram=gram, read=read))
    return members


def _walk(
    members: Sequence[Member], codec: CodebookCodec, config: PoolConfig, name: str, seed: int
) -> Iterator[PruneRecord]:
    device = members[0].encoded.codes.device
    digest = hashlib.sha256(f"{seed}:{name}:path".encode()).digest()
    points = prune_path(
        members,
        config,
        codec,
        generator=torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "little") >> 1),
        clusterer=best_clusterer(device),
        assigner=best_assigner(device),
    )
    while True:
        # not around the yield: the caller's own code keeps its gradients
        with torch.no_grad():
            record = next(points, None)
        if record is None:
            return
        yield record


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
