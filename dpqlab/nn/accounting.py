"""Count what a model stores, compressed or not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from dpqlab.core import KeptTensor, LayerLedger, ModelLedger
from dpqlab.nn.embedder import is_embedder
from dpqlab.nn.linear import CompressedLinear, PackedLinear, ScalarLinear
from dpqlab.nn.plan import EMBEDDER_REASON, FLOAT_DTYPES, OUTSIDE_REASON, FloatName, kind_of

_STORAGE = "_dpqlab_storage"
_PACKED_LEAVES = ("weight", "pool", "scale", "bias", "latent")  # the last is never stored


@dataclass(frozen=True, kw_only=True)
class Storage:
    """How a compressed model is to be stored: see :class:`dpqlab.nn.plan.Plan`."""

    rest_dtype: FloatName
    bias_dtype: FloatName


def storage_of(model: nn.Module) -> Storage | None:
    """Return how ``compress_`` or the loader said the model is stored; None for a dense model."""
    return getattr(model, _STORAGE, None)


def set_storage_(model: nn.Module, storage: Storage | None) -> None:
    """Record how the model is stored; None for a model that is dense again."""
    setattr(model, _STORAGE, storage)


def modules_of(model: nn.Module, *, every_name: bool = False) -> dict[str, nn.Module]:
    """Return the modules by name: each once under its first name, or under every name it has."""
    return dict(model.named_modules(remove_duplicate=not every_name))


def block_lists(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the outermost ``nn.ModuleList`` of a model: what its blocks lie in."""
    found: list[str] = []
    for name, module in model.named_modules():
        inside = any(not outer or name.startswith(f"{outer}.") for outer in found)
        if isinstance(module, nn.ModuleList) and not inside:
            found.append(name)
    return tuple(found)


def in_blocks(name: str, lists: tuple[str, ...]) -> bool:
    """Say whether a module or parameter counts for the true bits of the blocks.

    It does if it lies in one of ``lists`` (:func:`block_lists`; with none, the whole model is a
    block) and not in an embedder: ``*.norm1.emb.*`` is one module tied across the blocks in the
    original DiT, outside of them.
    """
    if is_embedder(name):
        return False
    return not lists or any(not outer or name.startswith(f"{outer}.") for outer in lists)


def ledger_of_model(model: nn.Module) -> ModelLedger:
    """Count every stored bit of a model, tied and shared tensors once.

    Compressed layers count as they are stored, packed codes rounded up to bytes a layer. What is
    kept counts at the plan's ``rest_dtype`` (a dense model at the dtype it has). True bits are
    those of all Linears inside the blocks, kept ones and biases included, over the number of their
    weights; the tied embedder ``*.norm1.emb.*`` is outside (as it is in the original DiT), and so
    are the ends. A layer outside the blocks that was compressed is listed with the kept tensors, at
    its stored size.

    Parameters
    ----------
    model
        Any module, before or after ``compress_``.
    """
    lists = block_lists(model)
    pools: set[int] = set()
    layers: list[LayerLedger] = []
    kept: list[KeptTensor] = []
    for name, module in model.named_modules():
        if isinstance(module, (CompressedLinear, ScalarLinear)):
            pool = getattr(module, "pool", None)
            ledger = layer_ledger(name, module, owns_pool=id(pool) not in pools)
            pools.add(id(pool))
            if in_blocks(name, lists):
                layers.append(ledger)
            else:
                kept.extend(_as_kept(ledger))
    kept.extend(_kept_tensors(model, lists))
    return ModelLedger(layers=tuple(layers), kept=tuple(kept))


def layer_ledger(
    name: str, layer: CompressedLinear | ScalarLinear, *, owns_pool: bool = True
) -> LayerLedger:
    """Count the bits of one compressed layer from the tensors that it stores."""
    pool = table = 0
    if isinstance(layer, CompressedLinear):
        pool = _bits(layer.pool) if owns_pool else 0
        # who shares a ragged pool shares its sizes too; a table is each layer's own
        table = layer.codebooks().table_bits if owns_pool or layer.table is not None else 0
    return LayerLedger(
        name=name,
        kind=kind_of(name),
        shape=(layer.out_features, layer.in_features),
        codec=layer.codec.describe(),
        codes=_bits(layer.weight),
        table=table,
        pool=pool,
        scale=0 if layer.scale is None else _bits(layer.scale),
        bias=0 if layer.bias is None else _bits(layer.bias),
        weights=layer.out_features * layer.in_features,
    )


def kept_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield what is stored as it is, by first name: other modules' parameters, lasting buffers."""
    packed = [name for name, module in model.named_modules() if isinstance(module, PackedLinear)]
    inside = {f"{name}.{leaf}" for name in packed for leaf in _PACKED_LEAVES}
    lasting = model.state_dict().keys()
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if name in lasting and name not in inside:
            yield name, tensor


def _kept_tensors(model: nn.Module, lists: tuple[str, ...]) -> Iterator[KeptTensor]:
    storage = storage_of(model)
    for name, tensor in kept_tensors(model):
        dtype = tensor.dtype
        if storage is not None and dtype.is_floating_point:
            dtype = FLOAT_DTYPES[storage.rest_dtype]
        linear = isinstance(model.get_submodule(name.rpartition(".")[0]), nn.Linear)
        yield KeptTensor(
            name=name,
            bits=8 * dtype.itemsize * tensor.numel(),
            numel=tensor.numel(),
            reason=_kept_reason(name, linear, lists),
            in_blocks=linear and in_blocks(name, lists),
        )


def _kept_reason(name: str, linear: bool, lists: tuple[str, ...]) -> str:
    if is_embedder(name):
        return EMBEDDER_REASON
    if not in_blocks(name, lists):
        return OUTSIDE_REASON
    return "a Linear that is kept" if linear else "not of a Linear"


def _as_kept(layer: LayerLedger) -> Iterator[KeptTensor]:
    reason = f"compressed with {layer.codec}, {OUTSIDE_REASON}"
    parts = {"weight": (layer.total - layer.bias, layer.weights)}
    if layer.bias:
        parts["bias"] = (layer.bias, layer.shape[0])
    for leaf, (bits, numel) in parts.items():
        yield KeptTensor(
            name=f"{layer.name}.{leaf}", bits=bits, numel=numel, reason=reason, in_blocks=False
        )


def _bits(tensor: Tensor) -> int:
    return 8 * tensor.numel() * tensor.element_size()
