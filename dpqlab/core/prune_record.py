"""One point of a pruning path: what is stored there, and what it misses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import torch

from dpqlab.core.codecs import decode
from dpqlab.core.formats import Encoded
from dpqlab.core.ledger import ledger_of_encoded
from dpqlab.core.refitting import Member, weighted_error


@dataclass(frozen=True, kw_only=True)
class PruneRecord:
    """One point of a pruning path. Bits are those of all layers that share the pool.

    Attributes
    ----------
    form
        ``"ragged"`` or ``"indexed"``.
    codewords
        Entries of the pool, P.
    codes, table, pool, scale
        Stored bits of each part, as the ledger counts them; biases are not in it.
    true_bits
        All of these over the number of weights.
    weight_error
        ``|W - W'|**2 / |W|**2`` over all layers.
    weighted_error
        The same with every column counted by the second moment of its input: what choosing codes
        and refitting lower.
    output_error
        ``tr((W - W') G (W - W')^T) / tr(W G W^T)`` over all layers; None without grams.
    moved_error
        The weighted error before anything was refitted: codes chosen again, codewords and row
        scales as at the step before.
    merged
        Codewords merged so far: into more important ones, or (indexed) into entries of the pool.
    removed
        Codewords (indexed: rows of full tables) removed so far.
    encoded
        The layers themselves; not in :meth:`to_dict`.
    """

    form: Literal["ragged", "indexed"]
    codewords: int
    codes: int
    table: int
    pool: int
    scale: int
    true_bits: float
    weight_error: float
    weighted_error: float
    output_error: float | None
    moved_error: float
    merged: int
    removed: int
    encoded: tuple[Encoded, ...] = field(repr=False, compare=False)

    @property
    def share(self) -> float:
        """Bits of pool and tables over the bits of the codes: what a budget limits."""
        return (self.pool + self.table) / self.codes

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the encoded layers as JSON values."""
        names = [f.name for f in fields(self) if f.name != "encoded"]
        return {name: getattr(self, name) for name in names}


def record_of(
    members: Sequence[Member],
    moved: Sequence[Member],
    *,
    outputs: float | None,
    merged: int,
    removed: int,
) -> PruneRecord:
    """Measure a point.

    Parameters
    ----------
    members
        The layers as they are now.
    moved
        The same before anything was refitted.
    outputs
        What the output error is relative to: the :func:`output_power` of all members' weights; None
        without grams.
    merged, removed
        Codewords, or rows of tables, that are gone.
    """
    pools = [member.encoded.pool for member in members]
    owners = {id(pool.entries): i for i, pool in reversed(list(enumerate(pools)))}
    ledgers = [
        ledger_of_encoded("", member.encoded, 0, owns_pool=i in owners.values())
        for i, member in enumerate(members)
    ]
    plain = [Member(weight=m.weight, encoded=m.encoded, read=m.read) for m in members]
    output = None
    if outputs is not None:
        missed = sum(output_power(m, m.dense() - decode(m.encoded)) for m in members)
        output = missed / outputs if missed else 0.0
    return PruneRecord(
        form="indexed" if pools[0].indexed else "ragged",
        codewords=sum(len(pools[i].entries) for i in owners.values()),
        codes=sum(ledger.codes for ledger in ledgers),
        table=sum(ledger.table for ledger in ledgers),
        pool=sum(ledger.pool for ledger in ledgers),
        scale=sum(ledger.scale for ledger in ledgers),
        true_bits=sum(ledger.total for ledger in ledgers)
        / sum(ledger.weights for ledger in ledgers),
        weight_error=weighted_error(plain),
        weighted_error=weighted_error(members),
        output_error=output,
        moved_error=weighted_error(moved),
        merged=merged,
        removed=removed,
        encoded=tuple(member.encoded for member in members),
    )


def output_power(member: Member, weight: torch.Tensor) -> float:
    """Return ``tr(W G W^T)``: the mean square of the outputs of a weight, summed over outputs."""
    assert member.gram is not None
    wide = weight.detach().to(member.gram.dtype)
    return float((wide @ member.gram).double().mul_(wide).sum())
