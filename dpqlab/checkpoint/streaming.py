"""Compress a folder that need not fit into memory, layer by layer, with a journal.

The model is a skeleton: each layer is read from the source when its turn comes, compressed, written
to the journal and dropped. What stands in the skeleton afterwards is mapped from the journal's
files, so that saving it copies from file to file. Beside the interpreter and its libraries, memory
holds a few copies of the largest layer, at most 2 M sub-vectors of a pool that layers share, and,
where such a pool is squeezed, the codes of the layers that share it.

The result is the one of :func:`dpqlab.nn.surgery.compress_steps`, byte for byte once saved.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from dpqlab.checkpoint.dense import DenseFolder, FileWeights, validate_stored
from dpqlab.checkpoint.journal import Journal, JournalEntry
from dpqlab.checkpoint.model_config import model_config_of, position_table
from dpqlab.core import LayerLedger, Pool, PoolConfig, ScalarCodec
from dpqlab.distributed import Team
from dpqlab.nn.accounting import Storage, kept_tensors, set_storage_
from dpqlab.nn.codebook_tensors import CodebookTensors
from dpqlab.nn.linear import CompressedLinear, PackedLinear, ScalarLinear
from dpqlab.nn.packed import frozen
from dpqlab.nn.plan import FLOAT_DTYPES, Plan
from dpqlab.nn.pools import Pools
from dpqlab.nn.surgery import LayerRecord, layer_steps
from dpqlab.nn.targets import Moments, Target, targets_of, validate_structure


@dataclass(frozen=True, kw_only=True)
class StreamSettings:
    """How a folder is compressed, beside the plan: see :func:`dpqlab.nn.surgery.compress_`.

    Attributes
    ----------
    device
        Where layers are compressed, one at a time.
    team
        Processes that make the layers together, into one journal; each call makes those of its own
        process, whole groups that share a pool, and the model is not whole afterwards.
    """

    seed: int = 0
    moments: Moments | None = None
    device: torch.device | str = "cpu"
    team: Team | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Stream:
    """A compression that is under way.

    Attributes
    ----------
    total, resumed
        Layers, and those of them that the journal has already.
    weights_left
        Number of weights in the others.
    steps
        The records of all layers; the work is done as they are drawn.
    """

    total: int
    resumed: int
    weights_left: int
    steps: Iterator[LayerRecord]


def stream_steps(
    model: nn.Module, dense: DenseFolder, plan: Plan, journal: Journal, settings: StreamSettings
) -> Stream:
    """Compress layer by layer from files; the steps are a generator, as ``compress_steps`` is.

    Everything is validated by the call itself, which reads every tensor once unless the journal has
    layers already. When the last record is drawn the model is whole: ``save_compressed`` can save
    it, as long as the journal's files are there. Layers that the journal has already are not made
    again; their records come first. A pool that is squeezed is made again unless all its layers are
    there.

    Parameters
    ----------
    model
        ``dense.skeleton()``.
    dense
        The full-precision weights.
    plan
        Which layers to compress, and how.
    journal
        Of this source, plan and settings.
    settings
        Seed, moments and device.

    Raises
    ------
    ConfigError
        If the plan, the values of the weights or the moments cannot work.
    """
    targets = targets_of(model, plan)
    moments = dict(settings.moments or {})
    validate_structure(model, plan, targets, moments)
    source = FileWeights(dense, settings.device)
    pools = Pools(seed=settings.seed, moments=moments, weighted=plan.weighted, source=source)
    mapped = _Mapped(model=model, dense=dense, journal=journal)
    team = settings.team
    own = targets if team is None else share_of(targets, team)
    left, done = mapped.resume(own, pools)
    if not done and (team is None or team.leads):
        validate_stored(dense, model, plan, targets)
    return Stream(
        total=len(own),
        resumed=len(done),
        weights_left=sum(t.linear.out_features * t.linear.in_features for t in left),
        steps=_steps(plan, left, done, pools, mapped, whole=own is targets),
    )


def share_of(targets: list[Target], team: Team) -> list[Target]:
    """Return the targets of a process: groups that share a pool, so that all have like amounts.

    The largest groups are given away first, each to whoever has least.
    """
    sizes: dict[tuple[str, PoolConfig | None], int] = defaultdict(int)
    for target in targets:
        sizes[target.group] += target.linear.out_features * target.linear.in_features
    loads = [0] * team.world
    owner: dict[tuple[str, PoolConfig | None], int] = {}
    for group in sorted(sizes, key=lambda group: -sizes[group]):
        owner[group] = loads.index(min(loads))
        loads[owner[group]] += sizes[group]
    return [target for target in targets if owner[target.group] == team.rank]


@torch.no_grad()
def _steps(
    plan: Plan,
    left: list[Target],
    done: list[LayerRecord],
    pools: Pools,
    mapped: _Mapped,
    *,
    whole: bool,
) -> Iterator[LayerRecord]:
    model = mapped.model
    for index, record in enumerate(done):
        yield replace(record, index=index, total=len(done) + len(left))
    by_name = {target.name: target for target in left}
    for made in layer_steps(plan, left, pools, before=len(done)):
        mapped.write(by_name[made.record.name], made.layer, made.record)
        record = made.record
        del made
        yield record
    if not whole:
        return
    mapped.keep_rest(FLOAT_DTYPES[plan.rest_dtype])
    config = model_config_of(model)
    embed = model.get_submodule("pos_embed")
    embed.register_buffer("pos_embed", position_table(config), persistent=False)
    set_storage_(model, Storage(rest_dtype=plan.rest_dtype, bias_dtype=plan.bias_dtype))


@dataclass(frozen=True, kw_only=True)
class _Mapped:
    """A skeleton that is filled from a journal's files.

    ``owners`` are the first layers of the groups that share a pool.
    """

    model: nn.Module
    dense: DenseFolder
    journal: Journal
    owners: dict[tuple[str, PoolConfig | None], CompressedLinear] = field(
        default_factory=dict[tuple[str, PoolConfig | None], CompressedLinear]
    )

    def resume(self, targets: list[Target], pools: Pools) -> tuple[list[Target], list[LayerRecord]]:
        """Put the layers that the journal has into the model; return what is left, and theirs."""
        groups: dict[tuple[str, PoolConfig | None], list[Target]] = defaultdict(list)
        for target in targets:
            groups[target.group].append(target)
        left: list[Target] = []
        records: list[LayerRecord] = []
        for (_, squeezed), members in groups.items():
            found = {member.name: self.journal.read(member.name) for member in members}
            # the first layer has the pool; a squeezed one is made for all of them at once
            whole = None not in found.values() if squeezed else found[members[0].name] is not None
            missing = [m for m in members if not whole or found[m.name] is None]
            for member in members:
                entry = found[member.name]
                if whole and entry is not None:
                    self._install(member, entry)
                    records.append(_record(entry))
            owner = self.owners.get(members[0].group)
            if missing and owner is not None:
                pools.reopen(missing[0], _moved(owner.codebooks(), pools.source.device(missing[0])))
            left += missing
        return left, records

    def write(self, target: Target, layer: PackedLinear, record: LayerRecord) -> None:
        """Write a layer to the journal, and put what is mapped from there into the model."""
        tensors: dict[str, Tensor | None] = {"codes": layer.weight, "bias": layer.bias}
        if isinstance(layer, CompressedLinear):
            tensors |= {"base": layer.base, "table": layer.table, "scale": layer.scale}
            if target.group not in self.owners:
                tensors["pool"] = layer.pool
        elif isinstance(layer, ScalarLinear):
            tensors["scale"] = layer.scale
        given = {key: tensor for key, tensor in tensors.items() if tensor is not None}
        self.journal.write(target.name, given, asdict(record))
        self._install(target, self.journal.expect(target.name))

    def keep_rest(self, dtype: torch.dtype) -> None:
        """Round what is kept to ``dtype``, tensor by tensor."""
        for name, _ in list(kept_tensors(self.model)):
            if self.journal.read(name) is None:
                self.journal.write(name, {"value": self.dense.read(name).to(dtype)}, {})
            value = self.journal.expect(name).tensors["value"]
            owner, _, leaf = name.rpartition(".")
            setattr(self.model.get_submodule(owner), leaf, frozen(value))

    def _install(self, target: Target, entry: JournalEntry) -> None:
        stored, codec, linear = entry.tensors, target.codec, target.linear
        shape, bias = (linear.out_features, linear.in_features), stored.get("bias")
        layer: PackedLinear
        if isinstance(codec, ScalarCodec):
            layer = ScalarLinear(codec, shape, stored["codes"], stored["scale"], bias=bias)
        else:
            owner = self.owners.get(target.group)
            tensors = CodebookTensors(
                codes=stored["codes"],
                pool=stored["pool"] if owner is None else owner.pool,
                base=stored["base"],
                table=stored.get("table"),
                scale=stored.get("scale"),
                bias=bias,
            )
            layer = CompressedLinear(codec, shape, tensors)
            self.owners.setdefault(target.group, layer)
        for name in target.names:
            self.model.set_submodule(name, layer.eval())


def _record(entry: JournalEntry) -> LayerRecord:
    note: dict[str, Any] = dict(entry.note)
    ledger: dict[str, Any] = note["ledger"] | {"shape": tuple(note["ledger"]["shape"])}
    note |= {"shape": tuple(note["shape"]), "ledger": LayerLedger(**ledger)}
    return LayerRecord(**note)


def _moved(pool: Pool, device: torch.device) -> Pool:
    return Pool(entries=pool.entries.to(device), base=pool.base.to(device))
