"""Give a model that was built, but not filled, what was stored of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from dpqlab.checkpoint.documents import Json
from dpqlab.checkpoint.model_config import (
    MODEL_CLASS,
    build_skeleton,
    model_config_of,
    position_table,
)
from dpqlab.checkpoint.outline import expected_tensors, outline_of, outline_of_model
from dpqlab.checkpoint.schema import QuantizationConfig
from dpqlab.checkpoint.shards import spec_of
from dpqlab.checkpoint.values import base_of, check_values, table_of
from dpqlab.core import ScalarCodec
from dpqlab.errors import CheckpointError
from dpqlab.nn.accounting import Storage, kept_tensors, modules_of, set_storage_
from dpqlab.nn.codebook_tensors import CodebookTensors
from dpqlab.nn.embedder import tied_groups
from dpqlab.nn.linear import CompressedLinear, PackedLinear, ScalarLinear


def fill_(
    model: nn.Module,
    quantization: QuantizationConfig,
    tensors: Mapping[str, Tensor],
    dtype: torch.dtype,
    float32: Collection[str] = (),
) -> None:
    """Give a full-precision model, built but not filled, the layers and values that were stored.

    For loaders that build the model and read its files themselves;
    :func:`~dpqlab.checkpoint.load.load_compressed` does all of it. Names, shapes and values are
    checked before the model changes.

    Parameters
    ----------
    model
        A model of diffusers, its parameters on the meta device or anywhere. Of its
        ``DiTTransformer2DModel`` the config is checked too, as for ``load_compressed``.
    quantization
        Of its folder.
    tensors
        All that its weight files hold, by name.
    dtype
        As in ``load_compressed``.
    float32
        Kept parameters with one of these in their dotted name stay in float32.

    Raises
    ------
    CheckpointError
        If the model, the config and the tensors do not belong together.
    """
    config: dict[str, Json] | None = None
    if type(model).__name__ == MODEL_CLASS:
        config = model_config_of(model)
        tie_(build_skeleton(config), quantization)
    outline = outline_of_model(model) if config is None else outline_of(config)
    expected = expected_tensors(outline, quantization)
    found = {name: spec_of(tensor) for name, tensor in tensors.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise CheckpointError(
                f"tensor {name!r}: the files hold {found.get(name) or 'none'}, the config asks for "
                f"{expected.get(name) or 'none'}"
            )
    check_values(quantization, tensors)
    tie_(model, quantization)
    install_(model, quantization, tensors, dtype, float32)
    if config is not None:
        restore_position_table_(model, config, dtype)
    rest, bias = quantization.rest_dtype, quantization.bias_dtype
    set_storage_(model, Storage(rest_dtype=rest, bias_dtype=bias))


def tie_(skeleton: nn.Module, config: QuantizationConfig) -> None:
    """Make one of the modules that the config ties, on a model that has them apart.

    Raises
    ------
    CheckpointError
        If they are not there, differ in kind, or are tied in another order than the model's.
    """
    modules = modules_of(skeleton, every_name=True)
    for first, others in config.tied:
        for name in (first, *others):
            if name not in modules:
                raise CheckpointError(f"the config ties {name!r}, which the model does not have")
            if _signature(modules[name]) != _signature(modules[first]):
                raise CheckpointError(
                    f"the config ties {first!r} and {name!r}, which differ in kind"
                )
        for name in others:
            skeleton.set_submodule(name, modules[first])
    if sorted((group[0], group[1:]) for group in tied_groups(skeleton)) != sorted(config.tied):
        raise CheckpointError("the config ties modules that lie in each other, or in another order")


def install_(
    model: nn.Module,
    config: QuantizationConfig,
    tensors: Mapping[str, Tensor],
    dtype: torch.dtype,
    float32: Collection[str] = (),
) -> None:
    """Put stored layers and values in the place of what a dense model has.

    Parameters are those of :func:`fill_`; names, dtypes, shapes and values were checked.

    Raises
    ------
    CheckpointError
        If a kept value does not fit into ``dtype``.
    """
    pools = {
        name: nn.Parameter(t, requires_grad=False)
        for name, t in tensors.items()
        if name.endswith(".pool")
    }
    places: dict[nn.Module, list[str]] = {}
    for name, module in modules_of(model, every_name=True).items():
        places.setdefault(module, []).append(name)
    modules = modules_of(model)
    for name in config.layers:
        layer = _layer(name, config, tensors, pools)
        layer.set_compute_dtype_(dtype)
        for place in places[modules[name]]:
            model.set_submodule(place, layer)
    for name, old in list(kept_tensors(model)):
        wide = not {*float32}.isdisjoint(name.split("."))
        value = tensors[name].to(torch.float32 if wide else dtype)
        if not bool(torch.isfinite(value).all()):
            raise CheckpointError(f"{name} holds values beyond {dtype}: load in another dtype")
        owner, _, leaf = name.rpartition(".")
        if isinstance(old, nn.Parameter):
            value = nn.Parameter(value, requires_grad=old.requires_grad)
        setattr(model.get_submodule(owner), leaf, value)


def restore_position_table_(
    model: nn.Module, config: Mapping[str, Json], dtype: torch.dtype
) -> None:
    """Compute the position embeddings, which are never stored."""
    embed = model.get_submodule("pos_embed")
    embed.register_buffer("pos_embed", position_table(config).to(dtype), persistent=False)


def _layer(
    name: str,
    config: QuantizationConfig,
    tensors: Mapping[str, Tensor],
    pools: Mapping[str, nn.Parameter],
) -> PackedLinear:
    entry = config.layers[name]
    codes, scale, bias = (tensors.get(f"{name}.{leaf}") for leaf in ("weight", "scale", "bias"))
    assert codes is not None
    if isinstance(entry.codec, ScalarCodec):
        assert scale is not None
        return ScalarLinear(entry.codec, entry.shape, codes, scale, bias=bias)
    return CompressedLinear(
        entry.codec,
        entry.shape,
        CodebookTensors(
            codes=codes,
            pool=pools[f"{entry.pool_of or name}.pool"],
            base=base_of(name, entry, tensors),
            table=table_of(name, entry, tensors),
            scale=scale,
            bias=bias,
        ),
    )


def _signature(module: nn.Module) -> list[tuple[str, torch.Size]]:
    return [
        (type(module).__name__, torch.Size()),
        *((n, p.shape) for n, p in module.named_parameters()),
    ]
