"""Fit, encode and squeeze: from the Linears that share a pool to the layers that take their place.

Without a pool config layers are encoded one by one, when their turn comes. A pool that is squeezed
is squeezed over all the layers that use it at once, so that their codes are in memory together
until the last of them is replaced: that is what sharing one costs. Their weights are read whenever
they are looked at; on an accelerator they stay there meanwhile, since reading takes longest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from dpqlab.core import (
    CodebookCodec,
    Encoded,
    LazyWeight,
    Member,
    Pool,
    PoolConfig,
    encode,
    fit_pool,
    position_count,
    prune,
)
from dpqlab.errors import ConfigError
from dpqlab.kernels.dispatch import best_assigner, best_clusterer
from dpqlab.nn.linear import CompressedLinear
from dpqlab.nn.sources import ModuleWeights, WeightSource
from dpqlab.nn.targets import Moments, Target


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A layer with codes; ``owner`` says whether it is the first user of its pool.

    ``made`` counts the codewords that k-means made, for all layers that share the pool.
    """

    layer: CompressedLinear
    owner: bool
    made: int


@dataclass(kw_only=True)
class _Shared:
    """A pool that layers are still to be made with."""

    pool: Pool
    parameter: nn.Parameter | None = None
    encoded: dict[str, Encoded] = field(default_factory=dict[str, Encoded])


@dataclass(kw_only=True)
class Pools:
    """Pools fitted so far; one that more layers will share stays until the last of them.

    Attributes
    ----------
    seed
        Of k-means, together with the pool's key.
    moments
        Column moments by layer name.
    weighted
        Whether k-means is weighted by them.
    source
        Of the weights.
    """

    seed: int
    moments: Moments
    weighted: bool
    source: WeightSource = field(default_factory=ModuleWeights)
    open: dict[tuple[str, PoolConfig | None], _Shared] = field(
        default_factory=dict[tuple[str, PoolConfig | None], _Shared]
    )

    def layer(self, target: Target, sharing: Sequence[Target], bias: Tensor | None) -> Fitted:
        """Make the layer of one target.

        Parameters
        ----------
        target
            A Linear with a codebook codec.
        sharing
            The targets of its group that have no layer yet, itself among them.
        bias
            As it is to be stored.
        """
        codec = target.codec
        assert isinstance(codec, CodebookCodec)
        shared = self.open.get(target.group)
        if shared is None:
            shared = self.open[target.group] = self._shared(codec, sharing)
        encoded = shared.encoded.pop(target.name, None)
        if encoded is None:
            weight = self.source.weight(target)
            encoded = encode(weight, codec, shared.pool, assigner=best_assigner(weight.device))
        owner = shared.parameter is None
        layer = CompressedLinear.from_encoded(
            encoded,
            codec,
            bias=bias,
            pool_parameter=shared.parameter,
            compute_dtype=target.linear.weight.dtype,
        )
        shared.parameter = layer.pool
        if len(sharing) == 1:
            del self.open[target.group]
        return Fitted(layer=layer, owner=owner, made=len(shared.pool.entries))

    def reopen(self, target: Target, pool: Pool) -> None:
        """Go on with the pool of layers that were made before, for the rest of their group.

        Parameters
        ----------
        target
            One of the group, which must not be one that is squeezed: there, pool and codes are made
            together.
        pool
            On the device of the source.
        """
        assert target.pool is None
        parameter = nn.Parameter(pool.entries, requires_grad=False)
        self.open[target.group] = _Shared(pool=pool, parameter=parameter)

    def _shared(self, codec: CodebookCodec, sharing: Sequence[Target]) -> _Shared:
        """Fit one pool on all layers that share it, in the order of their names."""
        ordered = sorted(sharing, key=lambda target: _natural(target.name))
        device = self.source.device(ordered[0])
        weights = [self._lazy(target) for target in ordered]
        moments = [self._moments(target) for target in ordered]
        importance = [
            spread(m, codec.d).expand(w.shape[0], -1)
            for m, w in zip(moments, weights, strict=True)
            if m is not None and self.weighted
        ]
        key, config = ordered[0].group
        pool = fit_pool(
            weights,
            codec,
            generator=self._generator(key),
            clusterer=best_clusterer(device),
            sample_weights=importance or None,
        )
        if config is None:
            return _Shared(pool=pool)
        members = [
            _member(w, codec, pool, moments=m) for w, m in zip(weights, moments, strict=True)
        ]
        names = [target.name for target in ordered]
        encoded = self._squeezed(members, config, codec, names)
        return _Shared(pool=pool, encoded=dict(zip(names, encoded, strict=True)))

    def _squeezed(
        self, members: list[Member], config: PoolConfig, codec: CodebookCodec, names: list[str]
    ) -> tuple[Encoded, ...]:
        """Prune all members together."""
        device = members[0].encoded.codes.device
        try:
            return prune(
                members,
                config,
                codec,
                generator=self._generator(f"{names[0]}:pool"),
                clusterer=best_clusterer(device),
                assigner=best_assigner(device),
            ).encoded
        except ConfigError as error:
            others = f" and the {len(names) - 1} layers that share its pool" * (len(names) > 1)
            raise ConfigError(f"{names[0]}{others}: {error}") from None

    def _moments(self, target: Target) -> Tensor | None:
        found = self.moments.get(target.name)
        return None if found is None else found.to(self.source.device(target))

    def _lazy(self, target: Target) -> LazyWeight:
        shape = (target.linear.out_features, target.linear.in_features)
        return LazyWeight(shape=shape, read=partial(self.source.weight, target))

    def _generator(self, key: str) -> torch.Generator:
        """Return a generator that depends on the seed and the key alone."""
        digest = hashlib.sha256(f"{self.seed}:{key}".encode()).digest()
        return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def _member(
    weight: LazyWeight, codec: CodebookCodec, pool: Pool, *, moments: Tensor | None
) -> Member:
    """Encode a layer that is to be squeezed with others."""
    values = weight.read()
    encoded = encode(values, codec, pool, assigner=best_assigner(values.device)).narrow()
    if values.device.type != "cpu":
        return Member(weight=values, encoded=encoded, moments=moments)
    shape_only = torch.empty(weight.shape, device="meta")
    return Member(weight=shape_only, encoded=encoded, moments=moments, read=weight.read)


def spread(moments: Tensor, d: int) -> Tensor:
    """Return the mean moment of the columns of every sub-vector: (in,) to (m,).

    Columns that fill up the last sub-vector do not count.
    """
    m = position_count(len(moments), d)
    padded = torch.nn.functional.pad(moments.float(), (0, m * d - len(moments))).view(m, d)
    real = (torch.arange(m * d, device=moments.device) < len(moments)).view(m, d)
    return padded.sum(1) / real.sum(1)


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key that puts block 10 behind block 9."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in name.split(".")]
