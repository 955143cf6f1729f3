"""One pool under the lens: the codebooks of a kind of layer, and what is measured of them.

Everything is computed on a kind of layer of a real model, in seconds on a CPU: the codebooks are
those that ``compress_`` would make, importances come from activations of half of the classes, and
damage is judged on activations of the other half, which nothing was chosen by.
``codeword_use.py`` looks a codeword up, ``removals.py`` takes codewords away.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, get_args

import torch
from torch import Tensor

from dpqlab.core import CodebookCodec, Measure, Member, Pool, decode, reencode
from dpqlab.core.importance import importance_of_members, scope_of_rows
from dpqlab.core.prune_record import output_power
from dpqlab.core.refitting import weighted_errors
from dpqlab.errors import ConfigError
from dpqlab.kernels.dispatch import best_assigner
from dpqlab.nn.plan import Plan, kind_of
from dpqlab.nn.pools import Pools
from dpqlab.nn.targets import Target, targets_of
from dpqlab.studies.codeword_inputs import Activations, activations_of

MEASURES: tuple[Measure, ...] = get_args(Measure)


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
        members=tuple(recoded(member, pool) for member in members),
        activations=known,
    )


def output_error(study: CodewordStudy) -> float:
    """Return the relative squared error of the layers' outputs on held-out activations."""
    with torch.no_grad():
        return study.power_of(m.weight - decode(m.encoded) for m in study.members) / study.power


def weighted_error(study: CodewordStudy) -> float:
    """Return the relative weighted error of the layers, on the activations that choose."""
    return sum(weighted_errors(member)[0] for member in study.members) / study.energy


def recoded(member: Member, pool: Pool) -> Member:
    """Return a layer with its codes chosen anew from another pool, by weighted error."""
    encoded = reencode(
        member.weight,
        member.encoded,
        pool,
        member.moments,
        assigner=best_assigner(member.weight.device),
    )
    return replace(member, encoded=encoded)
