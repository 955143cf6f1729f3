"""Read a compressed folder back: everything is validated first, from the outside in.

The order matters. Names and kinds of files; the manifest; the configs, whose sizes are bounded; the
model's skeleton, without memory for weights; the headers of the weight files against it; the hash
of every byte; only then are tensors read, and their values checked.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from dpqlab.checkpoint.documents import Json, as_object, check_extent, naming, parse_json
from dpqlab.checkpoint.layout import (
    CONFIG,
    MANIFEST,
    MODEL_INDEX,
    SCHEDULER,
    SHARD_INDEX,
    read_bytes,
)
from dpqlab.checkpoint.manifest import (
    FileRecord,
    check_hash,
    check_hashes,
    check_listing,
    sha256_of,
)
from dpqlab.checkpoint.model_config import (
    build_skeleton,
    check_model_config,
    check_model_index,
    check_scheduler_config,
    model_config_of,
    position_table,
)
from dpqlab.checkpoint.schema import (
    QUANT_METHOD,
    STORED_DTYPES,
    QuantizationConfig,
    TensorSpec,
)
from dpqlab.checkpoint.shards import check_headers, check_loaded, read_shard, spec_of
from dpqlab.checkpoint.values import base_of, check_values, table_of
from dpqlab.core import ScalarCodec
from dpqlab.errors import CheckpointError, ConfigError
from dpqlab.nn.accounting import Storage, kept_tensors, modules_of, set_storage_
from dpqlab.nn.codebook_tensors import CodebookTensors
from dpqlab.nn.embedder import tied_groups
from dpqlab.nn.linear import CompressedLinear, PackedLinear, ScalarLinear
from dpqlab.nn.plan import FLOAT_DTYPES


@dataclass(frozen=True, kw_only=True)
class FolderConfig:
    """The documents of a compressed folder, checked."""

    model: dict[str, Json]
    quantization: QuantizationConfig
    scheduler: dict[str, Json]


def load_compressed(
    folder: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    verify: bool = True,
) -> nn.Module:
    """Load a compressed model.

    Parameters
    ----------
    folder
        What ``save_compressed`` wrote.
    dtype
        float32, bfloat16 or float16: what the kept parameters become, and the model computes in.
        What compressed layers store keeps its dtype.
    device
        Where to put the model.
    verify
        Compare every byte with the manifest's hashes. All other checks are made in any case.

    Returns
    -------
    torch.nn.Module
        diffusers' ``DiTTransformer2DModel`` in evaluation mode, bit-equal to the saved one.

    Raises
    ------
    CheckpointError
        If anything about the folder is not as it was saved, or could not have been saved.
    ConfigError
        For another dtype.
    """
    if dtype not in FLOAT_DTYPES.values():
        raise ConfigError(f"dtype is {dtype}: expected torch.{', torch.'.join(FLOAT_DTYPES)}")
    folder = Path(folder)
    config, model, expected, records = inspect_folder(folder, verify=verify)
    tensors: dict[str, Tensor] = {}
    for path in _shards(records):
        tensors |= read_shard(folder, path, records[path] if verify else None)
    with naming(*_weight_files(records)):
        check_loaded(tensors, expected)
        check_values(config.quantization, tensors)
        _install(model, config.quantization, tensors, dtype)
    _restore_position_table(model, config.model, dtype)
    homeless = [name for name, tensor in model.state_dict().items() if tensor.is_meta]
    assert not homeless, homeless
    rest, bias = config.quantization.rest_dtype, config.quantization.bias_dtype
    set_storage_(model, Storage(rest_dtype=rest, bias_dtype=bias))
    return model.to(device)


def fill_(
    model: nn.Module,
    quantization: QuantizationConfig,
    tensors: Mapping[str, Tensor],
    dtype: torch.dtype,
) -> None:
    """Give a full-precision model, built but not filled, the layers and values that were stored.

    For loaders that build the model and read its files themselves; :func:`load_compressed` does all
    of it. Everything is checked first, and the model is unchanged if a check fails.

    Parameters
    ----------
    model
        diffusers' ``DiTTransformer2DModel``, its parameters on the meta device or anywhere.
    quantization
        Of its folder.
    tensors
        All that its weight files hold, by name.
    dtype
        As in :func:`load_compressed`.

    Raises
    ------
    CheckpointError
        If the model, the config and the tensors do not belong together.
    """
    config = model_config_of(model)
    skeleton = build_skeleton(config)
    _tie(skeleton, quantization)
    expected = _expected(skeleton, quantization)
    found = {name: spec_of(tensor) for name, tensor in tensors.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise CheckpointError(
                f"tensor {name!r}: the files hold {found.get(name) or 'none'}, the config asks for "
                f"{expected.get(name) or 'none'}"
            )
    check_values(quantization, tensors)
    _tie(model, quantization)
    _install(model, quantization, tensors, dtype)
    _restore_position_table(model, config, dtype)
    rest, bias = quantization.rest_dtype, quantization.bias_dtype
    set_storage_(model, Storage(rest_dtype=rest, bias_dtype=bias))


def inspect_folder(
    folder: Path, *, verify: bool = True
) -> tuple[FolderConfig, nn.Module, dict[str, TensorSpec], dict[str, FileRecord]]:
    """Check everything about a folder that can be checked without reading tensors into memory.

    Returns
    -------
    FolderConfig, Module, dict, dict
        The documents, the model on the meta device with its embedders tied, the stored tensors by
        name, and the manifest.
    """
    records = check_listing(folder)
    read = _Reader(folder, records if verify else {})
    config = _documents(read)
    with naming(CONFIG):
        skeleton = build_skeleton(config.model)
        _tie(skeleton, config.quantization)
        expected = _expected(skeleton, config.quantization)
    index = read(SHARD_INDEX) if SHARD_INDEX in records else None
    with naming(*_weight_files(records)):
        check_headers(folder, _shards(records), expected, index)
    if verify:
        check_hashes(folder, records)
    return config, skeleton, expected, records


def read_config(folder: str | Path) -> FolderConfig:
    """Read and check the documents of a compressed folder, without tensors or diffusers."""
    folder = Path(folder)
    return _documents(_Reader(folder, check_listing(folder)))


def is_compressed(folder: str | Path) -> bool:
    """Say whether a folder claims to hold a model that dpqlab compressed; never raises.

    A manifest is such a claim: a folder with a damaged config beside it is still read strictly.
    """
    if os.path.lexists(Path(folder) / MANIFEST):
        return True
    try:
        value = parse_json(read_bytes(Path(folder), CONFIG), CONFIG)
        return value["quantization_config"]["quant_method"] == QUANT_METHOD
    except (CheckpointError, KeyError, TypeError, OSError, ValueError):
        return False


@dataclass(frozen=True)
class _Reader:
    """Reads documents of a folder; what is parsed are the very bytes whose hash was checked."""

    folder: Path
    records: Mapping[str, FileRecord]

    def __call__(self, path: str) -> bytes:
        data = read_bytes(self.folder, path)
        if path in self.records:
            check_hash(path, sha256_of(data), self.records[path])
        check_extent(data, path)
        return data


def _documents(read: _Reader) -> FolderConfig:
    with naming(SCHEDULER):
        scheduler = check_scheduler_config(parse_json(read(SCHEDULER), SCHEDULER))
    with naming(MODEL_INDEX):
        check_model_index(parse_json(read(MODEL_INDEX), MODEL_INDEX), scheduler["_class_name"])
    with naming(CONFIG):
        model = as_object(parse_json(read(CONFIG), CONFIG))
        if model is None or "quantization_config" not in model:
            raise CheckpointError(f"{CONFIG} has no quantization_config: it is no compressed model")
        quantization = QuantizationConfig.from_dict(model.pop("quantization_config"))
        return FolderConfig(
            model=check_model_config(model), quantization=quantization, scheduler=scheduler
        )


def _shards(records: Mapping[str, FileRecord]) -> list[str]:
    return [path for path in records if path.endswith(".safetensors")]


def _weight_files(records: Mapping[str, FileRecord]) -> list[str]:
    """Return the files of the weights, first the one to name when none is to blame alone."""
    shards = _shards(records)
    return [SHARD_INDEX, *shards] if SHARD_INDEX in records else shards


def _tie(skeleton: nn.Module, config: QuantizationConfig) -> None:
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


def _signature(module: nn.Module) -> list[tuple[str, torch.Size]]:
    return [
        (type(module).__name__, torch.Size()),
        *((n, p.shape) for n, p in module.named_parameters()),
    ]


def _expected(skeleton: nn.Module, config: QuantizationConfig) -> dict[str, TensorSpec]:
    """Return the tensors that the folder must hold, given what the model is made of."""
    modules = modules_of(skeleton)
    compressed: set[str] = set()
    for name, entry in config.layers.items():
        module = modules.get(name)
        if type(module) is not nn.Linear:
            raise CheckpointError(
                f"the config compresses {name!r}, which is no Linear of the model"
            )
        shape = (module.out_features, module.in_features)
        has_bias = getattr(module, "bias", None) is not None
        if shape != entry.shape or has_bias != entry.bias:
            raise CheckpointError(
                f"layer {name!r} has shape {entry.shape}, bias {entry.bias}: the model's has "
                f"{shape}, bias {has_bias}"
            )
        compressed |= {f"{name}.weight", f"{name}.bias"}
    dtype = STORED_DTYPES[config.rest_dtype]
    expected = {
        name: TensorSpec(dtype=dtype, shape=tuple(tensor.shape))
        for name, tensor in kept_tensors(skeleton)
        if name not in compressed
    }
    return expected | dict(config.tensors())


def _install(
    model: nn.Module, config: QuantizationConfig, tensors: Mapping[str, Tensor], dtype: torch.dtype
) -> None:
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
        value = tensors[name].to(dtype)
        if not bool(torch.isfinite(value).all()):
            raise CheckpointError(f"{name} holds values beyond {dtype}: load in another dtype")
        owner, _, leaf = name.rpartition(".")
        setattr(
            model.get_submodule(owner), leaf, nn.Parameter(value, requires_grad=old.requires_grad)
        )


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


def _restore_position_table(
    model: nn.Module, config: Mapping[str, Json], dtype: torch.dtype
) -> None:
    embed = model.get_submodule("pos_embed")
    embed.register_buffer("pos_embed", position_table(config).to(dtype), persistent=False)
