"""One pool under the lens: what each codeword is worth, where it is used, what removing costs.

Everything is computed on a kind of layer of a real model, in seconds on a CPU: the codebooks are
those that ``compress_`` would make, importances come from activations of half of the classes, and
the damage of a removal is judged on activations of the other half, which nothing was chosen by.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from dpqlab.core import CodebookCodec, Measure, Member, Pool, decode, reencode
from dpqlab.core.budget import ranking
from dpqlab.core.importance import importance_of_members, scope_of_rows
from dpqlab.core.prune_record import output_power
from dpqlab.core.refitting import weighted_errors
from dpqlab.core.subvectors import split
from dpqlab.errors import ConfigError
from dpqlab.kernels.dispatch import best_assigner
from dpqlab.nn.plan import Plan, kind_of
from dpqlab.nn.pools import Pools
from dpqlab.nn.targets import Target, targets_of
from dpqlab.studies.codeword_inputs import Activations, activations_of

MEASURES: tuple[Measure, ...] = get_args(Measure)
SHARES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
ROUND = 0.1  # share of what is left that goes before importances are made anew

Manner = Literal["at once", "in rounds"]
"""Whether all codewords go by one ranking, or few at a time, each time with a new one."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CodewordStudy:
    """The pool of some layers with all codewords of k-means, and what was measured of it.

    Attributes
    ----------
    preset
        Name of the plan whose codec it is.
    codec
        The codec.
    names
        The layers that share the pool, in model order.
    members
        Their weights and codes, with the ``moments`` of the activations that choose.
    activations
        Where those come from, and the grams of those that judge.
    """

    preset: str
    codec: CodebookCodec
    names: tuple[str, ...]
    members: tuple[Member, ...]
    activations: Activations = field(repr=False)

    @property
    def kind(self) -> str:
        """What the layers are within their blocks."""
        return kind_of(self.names[0])

    @property
    def pool(self) -> Pool:
        """The codewords."""
        return self.members[0].encoded.pool

    @cached_property
    def scope(self) -> Tensor:
        """Scope of every codeword, int64 (P,)."""
        return scope_of_rows(self.pool)

    @property
    def worth(self) -> dict[Measure, Tensor]:
        """What every measure says of every codeword, float64 (P,)."""
        return {measure: self.worth_by(measure) for measure in MEASURES}

    def worth_by(self, measure: Measure) -> Tensor:
        """Return what one measure says of every codeword, float64 (P,); measured once."""
        if measure not in self._measured:
            with torch.no_grad():
                self._measured[measure] = importance_of_members(self.members, measure)
        return self._measured[measure]

    @cached_property
    def _measured(self) -> dict[Measure, Tensor]:
        return {}

    @cached_property
    def power(self) -> float:
        """Mean square of all outputs on the activations that judge."""
        return self.power_of(member.weight for member in self.members)

    def power_of(self, weights: Iterable[Tensor]) -> float:
        """Return the mean square of all outputs of other weights, on the same activations."""
        grams = self.activations.judge(self.names)
        judged = (replace(m, gram=grams[n]) for n, m in zip(self.names, self.members, strict=True))
        return sum(output_power(m, weight) for m, weight in zip(judged, weights, strict=True))

    @cached_property
    def energy(self) -> float:
        """The weighted error if all was lost: what removal costs are set against."""
        return sum(weighted_errors(member)[1] for member in self.members)


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


@dataclass(frozen=True, kw_only=True)
class Removal:
    """What removing codewords did.

    Attributes
    ----------
    measure, manner
        What chose them, and how.
    removed, share
        How many went; of all codewords.
    predicted
        The sum of their single removal costs, a rise of the relative weighted error; None in
        rounds.
    felt
        The true rise of the relative weighted error, on the activations that chose.
    output_error
        Relative squared error of the layers' outputs on held-out activations.
    """

    measure: Measure
    manner: Manner
    removed: int
    share: float
    predicted: float | None
    felt: float
    output_error: float


def sharing_of(model: Any, plan: Plan, layer: str) -> list[Target]:
    """Return the layers that a plan lets share a pool with ``layer``, itself among them.

    Raises
    ------
    ConfigError
        If the plan does not give the layer codebooks.
    """
    bare = replace(plan, rules=tuple(replace(rule, pool=None) for rule in plan.rules))
    targets = targets_of(model, bare)
    mine = next((target for target in targets if layer in target.names), None)
    if mine is None or not isinstance(mine.codec, CodebookCodec):
        known = [target.name for target in targets if isinstance(target.codec, CodebookCodec)]
        raise ConfigError(
            f"the plan {plan.name!r} gives {layer!r} no codebooks: expected one of its "
            f"{len(known)} layers, such as {known[0] if known else '(none)'}"
        )
    return [target for target in targets if target.group == mine.group]


@torch.no_grad()
def study_of(
    model: Any,
    plan: Plan,
    layer: str,
    *,
    activations: Activations | None = None,
    seed: int = 0,
) -> CodewordStudy:
    """Make the codebooks that ``layer`` would share, and choose codes by weighted error.

    Parameters
    ----------
    model
        The full-precision transformer; it does not change. With ``activations``, its Linears will
        do (:func:`dpqlab.studies.bare_linears.linears_of`).
    plan
        Its codec is used; its budget is not.
    layer
        Name of a Linear.
    activations
        Of all layers that share the pool; None draws images for them.
    seed
        Of k-means.

    Raises
    ------
    ConfigError
        If the plan gives the layer no codebooks, or the activations are those of other layers.
    """
    sharing = sharing_of(model, plan, layer)
    names = [target.name for target in sharing]
    known = activations or activations_of(model, names)
    if unknown := [name for name in names if name not in known.choose]:
        raise ConfigError(
            f"no activations of {unknown[0]}: expected those of all {len(names)} layers that share "
            "its pool; without any, images are drawn for them"
        )
    codec = sharing[0].codec
    assert isinstance(codec, CodebookCodec)
    pools = Pools(seed=seed, moments={}, weighted=False)
    made = [pools.layer(t, sharing[i:], None).layer.encoded() for i, t in enumerate(sharing)]
    pool = made[0].pool
    members = [
        Member(
            weight=target.linear.weight.detach().float(),
            encoded=replace(encoded, pool=pool),
            moments=known.choose[target.name],
        )
        for target, encoded in zip(sharing, made, strict=True)
    ]
    # codes chosen as they will be chosen after a removal: else removing could seem to help
    return CodewordStudy(
        preset=plan.name,
        codec=codec,
        names=tuple(names),
        members=tuple(_moved(member, pool) for member in members),
        activations=known,
    )


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


def least(study: CodewordStudy, measure: Measure, count: int) -> Tensor:
    """Return which ``count`` codewords a measure calls least important, bool (P,).

    The best codeword of every scope stays, whatever it is worth.

    Raises
    ------
    ConfigError
        If fewer than one a scope would be left.
    """
    total, scopes = len(study.scope), len(study.pool.sizes)
    if not 0 <= count <= total - scopes:
        raise ConfigError(
            f"{count} codewords cannot be removed: expected 0 to {total - scopes}, so that each of "
            f"the {scopes} codebooks keeps one"
        )
    return _lowest(study.worth_by(measure), study.scope, count)


def _lowest(worth: Tensor, scope: Tensor, count: int) -> Tensor:
    gone = torch.zeros(len(scope), dtype=torch.bool)
    gone[ranking(worth, scope).order[len(scope) - count :]] = True
    return gone


@torch.no_grad()
def without(study: CodewordStudy, gone: Tensor) -> CodewordStudy:
    """Remove codewords, bool (P,), and choose codes again; nothing is refitted."""
    sizes = torch.bincount(study.scope[~gone], minlength=len(study.pool.sizes))
    base = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
    pool = Pool(entries=study.pool.entries[~gone], base=base)
    return replace(study, members=tuple(_moved(member, pool) for member in study.members))


def removed(
    study: CodewordStudy, measure: Measure, manner: Manner, after: CodewordStudy
) -> Removal:
    """Measure what a removal has left."""
    total, count = len(study.scope), len(study.scope) - len(after.scope)
    predicted = None
    if manner == "at once":
        costs = study.worth_by("removal")[least(study, measure, count)]
        predicted = float(costs.sum()) / study.energy
    return Removal(
        measure=measure,
        manner=manner,
        removed=count,
        share=count / total,
        predicted=predicted,
        felt=_missed(after) - _missed(study),
        output_error=output_error(after),
    )


def output_error(study: CodewordStudy) -> float:
    """Return the relative squared error of the layers' outputs on held-out activations."""
    with torch.no_grad():
        return study.power_of(m.weight - decode(m.encoded) for m in study.members) / study.power


def race_steps(
    study: CodewordStudy,
    shares: tuple[float, ...] = SHARES,
    manners: tuple[Manner, ...] = ("at once", "in rounds"),
) -> Iterator[Removal]:
    """Remove more and more codewords by each measure, and measure what that does.

    Parameters
    ----------
    study
        With all codewords.
    shares
        Of codewords that are removed, rising.
    manners
        See :func:`remove_steps`.
    """
    total = len(study.scope)
    most = total - len(study.pool.sizes)
    counts = [min(round(share * total), most) for share in shares]
    for manner in manners:
        for measure in MEASURES:
            now = study
            for count in counts:
                if manner == "at once":
                    now = without(study, least(study, measure, count))
                else:
                    more = count - total + len(now.scope)
                    *_, now = now, *remove_steps(now, measure, manner, more)
                yield removed(study, measure, manner, now)


def remove_steps(
    study: CodewordStudy, measure: Measure, manner: Manner, count: int
) -> Iterator[CodewordStudy]:
    """Remove ``count`` codewords, and yield what is left: once, or after every round.

    Parameters
    ----------
    study
        Before.
    measure
        Chooses the codewords.
    manner
        ``"in rounds"`` takes a tenth of what is left at a time, with importances made anew.
    count
        As in :func:`least`.
    """
    if manner == "at once":
        yield without(study, least(study, measure, count))
        return
    left = len(study.scope) - count
    while (size := len(study.scope)) > left:
        step = min(size - left, max(1, int(ROUND * size)))
        with torch.no_grad():
            study = without(study, _lowest(study.worth_by(measure), study.scope, step))
        yield study


def _missed(study: CodewordStudy) -> float:
    return sum(weighted_errors(member)[0] for member in study.members) / study.energy


def _moved(member: Member, pool: Pool) -> Member:
    encoded = reencode(
        member.weight,
        member.encoded,
        pool,
        member.moments,
        assigner=best_assigner(member.weight.device),
    )
    return replace(member, encoded=encoded)
