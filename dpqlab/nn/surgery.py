"""Replace a model's Linears by compressed ones, in place.

:func:`layer_steps` makes the layers, group by group: those that share a pool one after the other,
so that no more than one pool is open at a time. It reads weights from wherever they are, and puts
nothing anywhere: :func:`compress_steps` puts the layers into a model,
:func:`dpqlab.checkpoint.streaming.stream_steps` into files.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dpqlab.core import (
    LayerLedger,
    ModelLedger,
    PoolConfig,
    ScalarCodec,
    relative_error,
    scalar_encode,
)
from dpqlab.nn.accounting import (
    Storage,
    kept_tensors,
    layer_ledger,
    ledger_of_model,
    set_storage_,
)
from dpqlab.nn.linear import CompressedLinear, PackedLinear, ScalarLinear
from dpqlab.nn.plan import FLOAT_DTYPES, Plan
from dpqlab.nn.pools import Pools
from dpqlab.nn.targets import Moments, Skipped, Target, skipped_layers, targets_of, validate

__all__ = [
    "Compression",
    "LayerRecord",
    "Made",
    "Skipped",
    "compress_",
    "compress_steps",
    "layer_steps",
    "ledger_of_model",
]


@dataclass(frozen=True, kw_only=True)
class LayerRecord:
    """One layer is done.

    Attributes
    ----------
    index, total, name, shape, codec
        Which layer of how many, (out, in), and its codec in words.
    relative_error
        ``||W - What||^2 / ||W||^2``.
    weighted_error
        The same with every column weighted by its moment; None without moments.
    codewords_made, codewords_kept
        Codewords that k-means made, and those in the pool now, of all layers that share it; 0 for a
        codec without codebooks.
    ledger
        Stored bits.
    seconds
        Taken, including the fit of the pool.
    """

    index: int
    total: int
    name: str
    shape: tuple[int, int]
    codec: str
    relative_error: float
    weighted_error: float | None
    codewords_made: int
    codewords_kept: int
    ledger: LayerLedger
    seconds: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Made:
    """A compressed layer, the names of the Linear that it replaces, and its record."""

    names: tuple[str, ...]
    layer: PackedLinear
    record: LayerRecord


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
    moments: Moments | None = None,
) -> Compression:
    """Compress a model in place.

    Memory stays bounded: one layer at a time, its dense weight freed once it is replaced. Layers
    whose rule squeezes a pool that they share are encoded together, so their codes (8 bytes a
    sub-vector, a few times) wait in memory until each is replaced; layers that share a pool follow
    one another. Every parameter that is kept is rounded to
    what ``plan.rest_dtype`` can represent, and stays in its dtype. The result depends on the
    weights, the plan, the seed and the layers' names, not on the order of the layers.

    Parameters
    ----------
    model
        A model whose weights are in memory; its plain ``nn.Linear`` layers are candidates.
    plan
        Which layers to compress, and how.
    seed
        Of the k-means starts.
    moments
        Column moments (in,) of layers, by layer name: the mean square of every input feature on
        calibration activations. Pruning weighs errors by them, and so does k-means if the plan is
        ``weighted``. For all or none of the layers that share a pool; those of other Linears of the
        model are ignored.

    Raises
    ------
    ConfigError
        If the plan, the model or the moments cannot work. The model is unchanged then. An
        interruption later (Ctrl-C) leaves a mixture: start again from the full-precision model.
        So does a pool that cannot meet its budget, which shows when its codebooks are made.
    """
    skipped = skipped_layers(model, plan)
    records = tuple(compress_steps(model, plan, seed=seed, moments=moments))
    return Compression(layers=records, skipped=skipped, ledger=ledger_of_model(model))


def compress_steps(
    model: nn.Module, plan: Plan, *, seed: int = 0, moments: Moments | None = None
) -> Iterator[LayerRecord]:
    """Compress a model layer by layer: :func:`compress_` as a generator.

    Everything is validated by the call itself; the model changes as the records are drawn.
    """
    targets = targets_of(model, plan)
    moments = dict(moments or {})
    validate(model, plan, targets, moments)
    return _steps(model, plan, targets, Pools(seed=seed, moments=moments, weighted=plan.weighted))


@torch.no_grad()
def _steps(
    model: nn.Module, plan: Plan, targets: list[Target], pools: Pools
) -> Iterator[LayerRecord]:
    _round_rest_(model, plan, targets)
    set_storage_(model, Storage(rest_dtype=plan.rest_dtype, bias_dtype=plan.bias_dtype))
    steps = layer_steps(plan, targets, pools)
    del targets  # emptied by the steps, so that each dense weight is freed once it is replaced
    for made in steps:
        for name in made.names:
            model.set_submodule(name, made.layer)
        record = made.record
        del made
        yield record


@torch.no_grad()
def layer_steps(
    plan: Plan, targets: list[Target], pools: Pools, *, before: int = 0
) -> Iterator[Made]:
    """Make the layers that take the place of some Linears.

    Parameters
    ----------
    plan
        Says how biases are stored.
    targets
        The Linears, all of a group or those that are left of it. The list is emptied on the way.
    pools
        Makes the layers, and reads the weights.
    before
        How many layers were made earlier: the records count on from there.
    """
    total = before + len(targets)
    sharing: dict[tuple[str, PoolConfig | None], list[Target]] = defaultdict(list)
    for target in targets:
        sharing[target.group].append(target)
    queue = [target for group in sharing.values() for target in group]
    targets.clear()
    queue.reverse()
    for index in range(before, total):
        started = time.perf_counter()
        target = queue.pop()
        layer, owner, made = _compressed(target, plan, pools, sharing[target.group])
        sharing[target.group].remove(target)
        weight, decoded = pools.source.weight(target), layer.decode()
        moments = pools.moments.get(target.name)
        layer.train(target.linear.training)
        record = LayerRecord(
            index=index,
            total=total,
            name=target.name,
            shape=(layer.out_features, layer.in_features),
            codec=target.codec.describe(),
            relative_error=relative_error(weight, decoded),
            weighted_error=None if moments is None else _weighted_error(weight, decoded, moments),
            codewords_made=made,
            codewords_kept=len(layer.pool) if isinstance(layer, CompressedLinear) else 0,
            ledger=layer_ledger(target.name, layer, owns_pool=owner),
            seconds=time.perf_counter() - started,
        )
        step = Made(names=target.names, layer=layer, record=record)
        del target, layer, weight, decoded, record
        yield step
        del step


def _compressed(
    target: Target, plan: Plan, pools: Pools, sharing: list[Target]
) -> tuple[CompressedLinear | ScalarLinear, bool, int]:
    """Encode one layer; also say whether it is the first user of its pool, and what was made."""
    codec, bias = target.codec, pools.source.bias(target)
    bias = None if bias is None else bias.to(FLOAT_DTYPES[plan.bias_dtype])
    if isinstance(codec, ScalarCodec):
        encoded = scalar_encode(pools.source.weight(target), codec)
        dtype = target.linear.weight.dtype
        layer = ScalarLinear.from_encoded(encoded, codec, bias=bias, compute_dtype=dtype)
        return layer, True, 0
    fitted = pools.layer(target, sharing, bias)
    return fitted.layer, fitted.owner, fitted.made


def _weighted_error(weight: Tensor, decoded: Tensor, moments: Tensor) -> float:
    """Return the relative error with column j weighted by ``moments[j]``."""
    root = moments.to(weight.device).double().sqrt()
    return relative_error(weight.double() * root, decoded.double() * root)


def _round_rest_(model: nn.Module, plan: Plan, targets: list[Target]) -> None:
    compressed = {id(p) for target in targets for p in target.linear.parameters()}
    for _, tensor in kept_tensors(model):
        if id(tensor) not in compressed and tensor.is_floating_point():
            tensor.copy_(tensor.to(FLOAT_DTYPES[plan.rest_dtype]))
