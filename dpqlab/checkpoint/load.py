"""Read a compressed folder back: everything is validated first, from the outside in.

The order matters. Names and kinds of files; the manifest; the configs, whose sizes are bounded; the
headers of the weight files against an outline of the model; the hash of every byte; only then are
tensors read and their values checked, and a model is built that takes them.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from dpqlab.checkpoint.documents import Json, as_object, check_extent, naming, parse_json
from dpqlab.checkpoint.install import install_, restore_position_table_, tie_
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
)
from dpqlab.checkpoint.outline import expected_tensors, outline_of
from dpqlab.checkpoint.schema import QUANT_METHOD, QuantizationConfig, TensorSpec
from dpqlab.checkpoint.shards import check_headers, check_loaded, read_shard
from dpqlab.checkpoint.values import check_values
from dpqlab.errors import CheckpointError, ConfigError
from dpqlab.nn.accounting import Storage, set_storage_
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
    config, expected, records = _inspected(folder, verify)
    tensors: dict[str, Tensor] = {}
    where: dict[str, str] = {}
    for path in _shards(records):
        found = read_shard(folder, path, records[path] if verify else None)
        tensors |= found
        where |= dict.fromkeys(found, path)
    with _naming_shard(where, _weight_files(records)):
        check_loaded(tensors, expected)
        check_values(config.quantization, tensors)
    model = _skeleton(config)
    with _naming_shard(where, _weight_files(records)):
        install_(model, config.quantization, tensors, dtype)
    restore_position_table_(model, config.model, dtype)
    homeless = [name for name, tensor in model.state_dict().items() if tensor.is_meta]
    assert not homeless, homeless
    rest, bias = config.quantization.rest_dtype, config.quantization.bias_dtype
    set_storage_(model, Storage(rest_dtype=rest, bias_dtype=bias))
    return model.to(device)


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
    config, expected, records = _inspected(folder, verify)
    return config, _skeleton(config), expected, records


def _inspected(
    folder: Path, verify: bool
) -> tuple[FolderConfig, dict[str, TensorSpec], dict[str, FileRecord]]:
    """Do what :func:`inspect_folder` does, but for the model."""
    records = check_listing(folder)
    read = _Reader(folder, records if verify else {})
    config = _documents(read)
    with naming(CONFIG):
        expected = expected_tensors(outline_of(config.model), config.quantization)
    index = read(SHARD_INDEX) if SHARD_INDEX in records else None
    with naming(*_weight_files(records)):
        check_headers(folder, _shards(records), expected, index)
    if verify:
        check_hashes(folder, records)
    return config, expected, records


def _skeleton(config: FolderConfig) -> nn.Module:
    """Build the model of a folder on the meta device, its embedders tied."""
    with naming(CONFIG):
        skeleton = build_skeleton(config.model)
        tie_(skeleton, config.quantization)
    return skeleton


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


@contextmanager
def _naming_shard(where: Mapping[str, str], files: list[str]) -> Generator[None]:
    """Let a :class:`CheckpointError` about a tensor name its shard; ``where`` tells it by name."""
    try:
        with naming(*files):
            yield
    except CheckpointError as error:
        text = str(error).removeprefix(f"{files[0]}: ")
        subject = text.split(maxsplit=1)[0].rstrip(":")  # a tensor, or a layer with its codes
        path = where.get(subject) or where.get(f"{subject}.weight")
        if path is None:
            raise
        raise CheckpointError(f"{path}: {text}") from None
