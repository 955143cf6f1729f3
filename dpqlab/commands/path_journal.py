"""Pruning paths in a journal: a run that was stopped does not walk a finished one again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dpqlab.checkpoint.journal import Journal, JournalEntry
from dpqlab.core import PruneRecord
from dpqlab.core.formats import Encoded
from dpqlab.core.pool import Pool
from dpqlab.nn.pool_paths import PathStep, PoolPath

PREFIX = "path."
"""Of the entries' names; the name of the first layer of the pool follows."""


def kept_paths(journal: Journal, names: Sequence[str]) -> dict[str, PoolPath]:
    """Return the paths that a journal has, by the first layer of their pools.

    Parameters
    ----------
    journal
        Of the run.
    names
        The layers of the model; those that no path begins with are passed over.
    """
    found = {name: journal.read(PREFIX + name) for name in names}
    return {name: _path(entry) for name, entry in found.items() if entry is not None}


def journaled(
    steps: Iterator[PathStep], journal: Journal, kept: Mapping[str, PoolPath]
) -> Iterator[PathStep]:
    """Pass steps on; each path goes to the journal as it is complete, but for those kept there."""
    for step in steps:
        if step.path is not None and step.name not in kept:
            journal.write(PREFIX + step.name, *_written(step.path))
        yield step


def _written(path: PoolPath) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors: dict[str, Tensor] = {}
    for j, first in enumerate(path.records[0].encoded):
        tensors[f"{j}.scope_of"] = first.scope_of
    for i, record in enumerate(path.records):
        tensors[f"{i}.entries"] = record.encoded[0].pool.entries
        for j, encoded in enumerate(record.encoded):
            small = torch.uint8 if encoded.code_bits <= 8 else torch.int32
            parts = {
                "codes": encoded.codes.to(small),
                "base": encoded.pool.base,
                "table": encoded.pool.table,
                "scale": encoded.scale,
            }
            tensors |= {f"{i}.{j}.{key}": t for key, t in parts.items() if t is not None}
    note = {
        "names": list(path.names),
        "energy": path.energy,
        "weighted_energy": path.weighted_energy,
        "shapes": [list(encoded.shape) for encoded in path.records[0].encoded],
        "records": [record.to_dict() for record in path.records],
    }
    # a tensor that stands in two places is written twice
    return {name: tensor.clone() for name, tensor in tensors.items()}, note


def _path(entry: JournalEntry) -> PoolPath:
    note, stored = entry.note, entry.tensors
    shapes = [(int(out), int(width)) for out, width in note["shapes"]]

    def encoded(i: int) -> tuple[Encoded, ...]:
        # one tensor for all layers that share the pool
        entries = stored[f"{i}.entries"]
        return tuple(
            Encoded(
                codes=stored[f"{i}.{j}.codes"],
                pool=Pool(
                    entries=entries,
                    base=stored[f"{i}.{j}.base"],
                    table=stored.get(f"{i}.{j}.table"),
                ),
                scope_of=stored[f"{j}.scope_of"],
                scale=stored.get(f"{i}.{j}.scale"),
                shape=shape,
            ).narrow()
            for j, shape in enumerate(shapes)
        )

    return PoolPath(
        names=tuple(note["names"]),
        records=tuple(
            PruneRecord(**values, encoded=encoded(i)) for i, values in enumerate(note["records"])
        ),
        energy=note["energy"],
        weighted_energy=note["weighted_energy"],
    )
