"""One codeword looked up: its values, its neighbours, and every place where it is used."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dpqlab.core import Measure
from dpqlab.core.subvectors import split
from dpqlab.errors import ConfigError
from dpqlab.studies.codewords import MEASURES, CodewordStudy


@dataclass(frozen=True, kw_only=True, eq=False)
class CodewordUse:
    """One codeword: its values, its neighbours, and where it is used.

    Attributes
    ----------
    entry, scope
        Number in the pool, and the scope that it belongs to.
    values
        float32 (d,).
    blocks, rows, positions
        Of every sub-vector that uses it, (n,): index into the study's layers, row, position.
    neighbours
        The nearest codewords of its scope, nearest first.
    distances
        Euclidean distances to them.
    worth, rank
        What every measure says, and its place in the whole pool: 1 is the most important.
    """

    entry: int
    scope: int
    values: np.ndarray
    blocks: np.ndarray
    rows: np.ndarray
    positions: np.ndarray
    neighbours: tuple[int, ...]
    distances: tuple[float, ...]
    worth: dict[Measure, float]
    rank: dict[Measure, int]


def use_of(study: CodewordStudy, entry: int, *, neighbours: int = 5) -> CodewordUse:
    """Look a codeword up.

    Raises
    ------
    ConfigError
        If the pool has no such codeword.
    """
    pool = study.pool
    if not 0 <= entry < len(pool.entries):
        raise ConfigError(
            f"codeword {entry} is not in the pool: expected 0 to {len(pool.entries) - 1}"
        )
    scope = int(study.scope[entry])
    found = [
        (member.encoded.pool.entry_indices(member.encoded.codes, member.encoded.scope_of) == entry)
        for member in study.members
    ]
    where = [hit.nonzero().numpy() for hit in found]
    blocks = np.concatenate([np.full(len(hit), i) for i, hit in enumerate(where)])
    places = np.concatenate(where)
    start, stop = int(pool.base[scope]), int(pool.base[scope + 1])
    book = pool.entries[start:stop].float()
    far = (book - pool.entries[entry].float()).norm(dim=1)
    far[entry - start] = torch.inf
    near = far.argsort(stable=True)[: min(neighbours, len(book) - 1)]
    return CodewordUse(
        entry=entry,
        scope=scope,
        values=pool.entries[entry].float().numpy(),
        blocks=blocks,
        rows=places[:, 0],
        positions=places[:, 1],
        neighbours=tuple(int(i) + start for i in near),
        distances=tuple(float(far[i]) for i in near),
        worth={m: float(study.worth_by(m)[entry]) for m in MEASURES},
        rank={m: _rank(study.worth_by(m), entry) for m in MEASURES},
    )


def _rank(worth: Tensor, entry: int) -> int:
    return int((worth > worth[entry]).sum()) + 1


def subvectors_of(study: CodewordStudy, scope: int) -> tuple[np.ndarray, np.ndarray]:
    """Return all sub-vectors of a scope, float32 (n, d) in units of the row scale, and their codes.

    Codes are entries of the pool, int64 (n,).
    """
    points: list[Tensor] = []
    entries: list[Tensor] = []
    for member in study.members:
        encoded = member.encoded
        mine = encoded.scope_of == scope
        sub = split(member.weight.float(), encoded.pool.d)[:, mine]
        if encoded.scale is not None:
            sub = sub / encoded.scale.float()[:, None, None].clamp(min=1e-12)
        points.append(sub.flatten(0, 1))
        entries.append(encoded.pool.entry_indices(encoded.codes, encoded.scope_of)[:, mine])
    return torch.cat(points).numpy(), torch.cat([e.flatten() for e in entries]).numpy()
