"""Replace a model's Linears by compressed ones, in place."""

from __future__ import annotations

import hashlib
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dpqlab.core import (
    CodebookCodec,
    LayerLedger,
    ModelLedger,
    Pool,
    ScalarCodec,
    encode,
    fit_pool,
    relative_error,
    scalar_encode,
)
from dpqlab.kernels.dispatch import best_assigner, best_clusterer
from dpqlab.nn.accounting import (
    Storage,
    kept_tensors,
    layer_ledger,
    ledger_of_model,
    set_storage_,
)
from dpqlab.nn.linear import CompressedLinear, ScalarLinear
from dpqlab.nn.plan import FLOAT_DTYPES, Plan
from dpqlab.nn.targets import Skipped, Statistics, Target, skipped_layers, targets_of, validate

__all__ = [
    "Compression",
    "LayerRecord",
    "Skipped",
    "compress_",
    "compress_steps",
    "ledger_of_model",
]


@dataclass(frozen=True, kw_only=True)
class LayerRecord:
    """One layer is done.

    ``relative_error`` is ``||W - What||^2 / ||W||^2``; ``seconds`` includes the fit of the pool.
    """

    index: int
    total: int
    name: str
    shape: tuple[int, int]
    codec: str
    relative_error: float
    ledger: LayerLedger
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Compression:
    """What :func:`compress_` did."""

    layers: tuple[LayerRecord, ...]
    skipped: tuple[Skipped, ...]
    ledger: ModelLedger


def compress_(
    model: nn.Module,
    plan: Plan,
    *,
    seed: int = 0,
    statistics: Statistics | None = None,
) -> Compression:
    """Compress a model in place.

    Memory stays bounded: one layer at a time, its dense weight freed once it is replaced. Every
    parameter that is kept is rounded to what ``plan.rest_dtype`` can represent, and stays in its
    dtype. The result depends on the weights, the plan, the seed and the layers' names, not on the
    order of the layers.

    Parameters
    ----------
    model
        A model whose weights are in memory; its plain ``nn.Linear`` layers are candidates.
    plan
        Which layers to compress, and how.
    seed
        Of the k-means starts.
    statistics
        Importance of the sub-vectors of some layers, by layer name.

    Raises
    ------
    ConfigError
        If the plan, the model or the statistics cannot work. The model is unchanged then. An
        interruption later (Ctrl-C) leaves a mixture: start again from the full-precision model.
    """
    skipped = skipped_layers(model, plan)
    records = tuple(compress_steps(model, plan, seed=seed, statistics=statistics))
    return Compression(layers=records, skipped=skipped, ledger=ledger_of_model(model))


def compress_steps(
    model: nn.Module, plan: Plan, *, seed: int = 0, statistics: Statistics | None = None
) -> Iterator[LayerRecord]:
    """Compress a model layer by layer: :func:`compress_` as a generator.

    Everything is validated by the call itself; the model changes as the records are drawn.
    """
    targets = targets_of(model, plan)
    statistics = dict(statistics or {})
    validate(model, plan, targets, statistics)
    return _steps(model, plan, targets, _Job(seed=seed, statistics=statistics))


@dataclass(frozen=True, kw_only=True)
class _Job:
    seed: int
    statistics: dict[str, Tensor]

    def weights_for(self, target: Target) -> Tensor | None:
        found = self.statistics.get(target.name)
        return None if found is None else found.to(target.linear.weight.device)

    def generator(self, key: str) -> torch.Generator:
        """Return a generator that depends on the seed and the key alone."""
        digest = hashlib.sha256(f"{self.seed}:{key}".encode()).digest()
        return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "little") >> 1)


@torch.no_grad()
def _steps(model: nn.Module, plan: Plan, targets: list[Target], job: _Job) -> Iterator[LayerRecord]:
    _round_rest_(model, plan, targets)
    set_storage_(model, Storage(rest_dtype=plan.rest_dtype, bias_dtype=plan.bias_dtype))
    sharing: dict[str, list[Target]] = defaultdict(list)
    for target in targets:
        sharing[target.pool_key].append(target)
    pools = _Pools(job)
    total = len(targets)
    targets.reverse()  # popped one by one, so that each dense weight is freed once it is replaced
    for index in range(total):
        started = time.perf_counter()
        target = targets.pop()
        layer, owner = _compressed(target, plan, pools, sharing[target.pool_key])
        sharing[target.pool_key].remove(target)
        error = relative_error(target.linear.weight, layer.decode())
        layer.train(target.linear.training)
        for name in target.names:
            model.set_submodule(name, layer)
        record = LayerRecord(
            index=index,
            total=total,
            name=target.name,
            shape=(layer.out_features, layer.in_features),
            codec=target.codec.describe(),
            relative_error=error,
            ledger=layer_ledger(target.name, layer, owns_pool=owner),
            seconds=time.perf_counter() - started,
        )
        del target, layer
        yield record


class _Pools:
    """Pools fitted so far, by key; one that more layers will share stays until the last of them."""

    def __init__(self, job: _Job) -> None:
        self.job = job
        self.shared: dict[str, tuple[Pool, nn.Parameter]] = {}

    def fit(self, codec: CodebookCodec, sharing: list[Target]) -> Pool:
        """Fit one pool on all layers that share it, in the order of their names."""
        ordered = sorted(sharing, key=lambda target: _natural(target.name))
        key = ordered[0].pool_key
        weights = [target.linear.weight.float() for target in ordered]
        importance = [self.job.weights_for(target) for target in ordered]
        given = [row for row in importance if row is not None]
        return fit_pool(
            weights,
            codec,
            generator=self.job.generator(key),
            clusterer=best_clusterer(weights[0].device),
            sample_weights=given if len(given) == len(weights) else None,
        )


def _compressed(
    target: Target, plan: Plan, pools: _Pools, sharing: list[Target]
) -> tuple[CompressedLinear | ScalarLinear, bool]:
    """Encode one layer; also say whether it is the first user of its pool."""
    linear, codec = target.linear, target.codec
    bias = None if linear.bias is None else linear.bias.to(FLOAT_DTYPES[plan.bias_dtype])
    dtype = linear.weight.dtype
    weight = linear.weight.float()
    if isinstance(codec, ScalarCodec):
        encoded = scalar_encode(weight, codec)
        return ScalarLinear.from_encoded(encoded, codec, bias=bias, compute_dtype=dtype), True
    pool, parameter = pools.shared.get(target.pool_key) or (pools.fit(codec, sharing), None)
    layer = CompressedLinear.from_encoded(
        encode(weight, codec, pool, assigner=best_assigner(weight.device)),
        codec,
        bias=bias,
        pool_parameter=parameter,
        compute_dtype=dtype,
    )
    if len(sharing) > 1:
        pools.shared[target.pool_key] = (pool, layer.pool)
    else:
        pools.shared.pop(target.pool_key, None)
    return layer, parameter is None


def _round_rest_(model: nn.Module, plan: Plan, targets: list[Target]) -> None:
    compressed = {id(p) for target in targets for p in target.linear.parameters()}
    for _, tensor in kept_tensors(model):
        if id(tensor) not in compressed and tensor.is_floating_point():
            tensor.copy_(tensor.to(FLOAT_DTYPES[plan.rest_dtype]))


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key that puts block 10 behind block 9."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in name.split(".")]
