"""Write a compressed model as a folder in the layout of diffusers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dpqlab.checkpoint.atomic import staged_folder, write_file
from dpqlab.checkpoint.documents import dump_json
from dpqlab.checkpoint.layout import (
    CARD,
    CONFIG,
    MANIFEST,
    MAX_DOCUMENT,
    MODEL_INDEX,
    SCHEDULER,
    list_files,
)
from dpqlab.checkpoint.load import inspect_folder
from dpqlab.checkpoint.manifest import FileRecord, manifest_bytes, sha256_of
from dpqlab.checkpoint.model_config import (
    build_skeleton,
    model_config_of,
    model_index,
    position_table,
    scheduler_config_of,
)
from dpqlab.checkpoint.schema import LayerEntry, QuantizationConfig, check_provenance
from dpqlab.checkpoint.shards import pack_shards
from dpqlab.checkpoint.values import check_values
from dpqlab.core import CodebookCodec, pack
from dpqlab.errors import CheckpointError
from dpqlab.nn.accounting import Storage, kept_tensors, modules_of, storage_of
from dpqlab.nn.embedder import tied_groups
from dpqlab.nn.linear import CompressedLinear, PackedLinear, ScalarLinear
from dpqlab.nn.plan import FLOAT_DTYPES


@dataclass(frozen=True, kw_only=True)
class SavedFolder:
    """What was written: the folder, the bytes of all its files, and the size of each by path."""

    path: Path
    bytes_on_disk: int
    files: Mapping[str, int]


def save_compressed(
    model: nn.Module,
    folder: str | Path,
    *,
    scheduler_config: Mapping[str, Any],
    provenance: Mapping[str, str | int | float],
    card: str,
    overwrite: bool = False,
) -> SavedFolder:
    """Save a compressed model; the folder appears whole or not at all.

    Parameters
    ----------
    model
        A diffusers ``DiTTransformer2DModel`` that ``compress_`` worked on.
    folder
        Where to; the parent must exist.
    scheduler_config
        The scheduler's settings with its ``_class_name``, as in its ``to_json_string()``.
    provenance
        Where the weights come from (source, licence, hashes, commit): names to strings and numbers.
    card
        The model card, Markdown.
    overwrite
        Replace a compressed folder that is there already; it stays until the new one is complete.

    Raises
    ------
    CheckpointError
        If the model would not come back bit by bit, if ``folder`` exists (without ``overwrite``, or
        being something else than a compressed folder), or if writing fails; an old folder is then
        unchanged.
    """
    target = Path(folder)
    _check_target(target, overwrite)
    config = model_config_of(model)
    quantization, tensors = stored_form(model, provenance)
    check_settings(model, config)
    check_values(quantization, tensors)
    scheduler = scheduler_config_of(scheduler_config)
    version = config["_diffusers_version"]
    files = {
        CARD: card.encode("utf-8"),
        MODEL_INDEX: dump_json(model_index(scheduler["_class_name"], version)),
        SCHEDULER: dump_json(scheduler),
        CONFIG: dump_json(config | {"quantization_config": quantization.to_dict()}),
    }
    for path in (CARD, CONFIG):
        if len(files[path]) > MAX_DOCUMENT[path]:
            raise CheckpointError(
                f"{path} would have {len(files[path])} bytes: expected at most {MAX_DOCUMENT[path]}"
            )
    sizes = _write(target, files, tensors)
    return SavedFolder(path=target, bytes_on_disk=sum(sizes.values()), files=sizes)


def stored_form(
    model: nn.Module, provenance: Mapping[str, str | int | float] | None = None
) -> tuple[QuantizationConfig, dict[str, Tensor]]:
    """Return the config and the tensors that a compressed model is stored as.

    Raises
    ------
    CheckpointError
        If the model is not compressed, or if storing would change a value.
    """
    storage = storage_of(model)
    if storage is None:
        raise CheckpointError("the model is not compressed: call dpqlab.nn.surgery.compress_ first")
    layers: dict[str, LayerEntry] = {}
    tensors: dict[str, Tensor] = {}
    owners: dict[nn.Parameter, tuple[str, CompressedLinear]] = {}
    for name, module in modules_of(model).items():
        if isinstance(module, PackedLinear):
            layers[name] = _entry(name, module, storage, owners)
            tensors |= _layer_tensors(name, module, layers[name])
    for name, tensor in kept_tensors(model):
        tensors[name] = _representable(name, tensor, storage)
    quantization = QuantizationConfig(
        rest_dtype=storage.rest_dtype,
        bias_dtype=storage.bias_dtype,
        layers=layers,
        tied=tuple((group[0], group[1:]) for group in tied_groups(model)),
        provenance=check_provenance(provenance or {}),
    )
    return QuantizationConfig.from_dict(quantization.to_dict()), tensors


def _entry(
    name: str,
    module: PackedLinear,
    storage: Storage,
    owners: dict[nn.Parameter, tuple[str, CompressedLinear]],
) -> LayerEntry:
    bias = FLOAT_DTYPES[storage.bias_dtype]
    if module.bias is not None and module.bias.dtype != bias:
        raise CheckpointError(
            f"{name}.bias is {module.bias.dtype}, but biases are stored as {bias}: "
            "round it, or compress with another bias_dtype"
        )
    shape = (module.out_features, module.in_features)
    has_bias = module.bias is not None
    if isinstance(module, ScalarLinear):
        return LayerEntry(
            codec=module.codec, shape=shape, bias=has_bias, code_bits=module.codec.bits
        )
    if not isinstance(module, CompressedLinear):
        raise CheckpointError(f"{name} is a {type(module).__name__}, which cannot be saved")
    book = module.codebooks()
    owner, first = owners.setdefault(module.pool, (name, module))
    if module.table is None and first.table is None and not torch.equal(module.base, first.base):
        raise CheckpointError(
            f"{name} shares the pool of {owner} without a table, but not the sizes of its "
            "codebooks: give it a pool of its own, or a table"
        )
    return LayerEntry(
        codec=module.codec,
        shape=shape,
        bias=has_bias,
        pool_of=None if owner == name else owner,
        pool_rows=len(book.entries),
        table_rows=None if book.table is None else len(book.table),
        ragged=book.ragged,
        code_bits=module.code_bits,
    )


def _layer_tensors(name: str, module: PackedLinear, entry: LayerEntry) -> dict[str, Tensor]:
    found: dict[str, Tensor | None] = {
        "weight": module.weight,
        "scale": getattr(module, "scale", None),
        "bias": module.bias,
    }
    if isinstance(entry.codec, CodebookCodec):
        assert isinstance(module, CompressedLinear)
        if entry.pool_of is None:
            found["pool"] = module.pool
        if entry.ragged and entry.book_of(name) == name:
            found["sizes"] = module.base.diff().to(torch.int32)
        if module.table is not None:
            found["table"] = pack(module.table, entry.entry_bits)
    for leaf, dtype in (("pool", torch.float16), ("scale", torch.float16), ("weight", torch.uint8)):
        tensor = found.get(leaf)
        if tensor is not None and tensor.dtype != dtype:
            raise CheckpointError(f"{name}.{leaf} is {tensor.dtype}: it is stored as {dtype}")
    return {f"{name}.{leaf}": t.detach().cpu() for leaf, t in found.items() if t is not None}


def _representable(name: str, tensor: Tensor, storage: Storage) -> Tensor:
    dtype = FLOAT_DTYPES[storage.rest_dtype]
    stored = tensor.detach().to(dtype)
    if not tensor.is_floating_point() or not torch.equal(stored.to(tensor.dtype), tensor.detach()):
        raise CheckpointError(
            f"{name} holds values that {storage.rest_dtype} cannot store exactly: round it to "
            f"{storage.rest_dtype} before saving (compress_ does), or use rest_dtype='float32'"
        )
    return stored.cpu()


def check_settings(model: nn.Module, config: Mapping[str, Any]) -> None:
    """Raise :class:`CheckpointError` for a DiT that its ``config`` does not tell the whole of."""
    skeleton = build_skeleton(config)
    for name, module in modules_of(skeleton).items():
        try:
            ours = model.get_submodule(name)
        except AttributeError:
            raise CheckpointError(f"the model lacks {name!r}, which its config asks for") from None
        for key, expected in _settings(module).items():
            found = getattr(ours, key, expected)
            if found != expected:
                raise CheckpointError(
                    f"{name}.{key} is {found}, but a model loaded from its config has {expected}: "
                    "the change would be lost"
                )
    table = position_table(config)
    ours: Any = model.get_submodule("pos_embed").pos_embed
    if not torch.equal(ours.cpu(), table.to(ours.dtype)):
        raise CheckpointError("pos_embed.pos_embed was changed: it is computed, never stored")


def _settings(module: nn.Module) -> dict[str, Any]:
    changing = ("training", "dropout_prob", "p", "gradient_checkpointing")
    return {
        key: value
        for key, value in vars(module).items()
        if type(value) in (bool, int, float, str) and key not in changing and key[0] != "_"
    }


def _check_target(target: Path, overwrite: bool) -> None:
    if not target.parent.is_dir():
        raise CheckpointError(f"{target.parent} is not a folder: create it first")
    if not os.path.lexists(target):
        return
    if not overwrite:
        raise CheckpointError(f"{target} exists: choose another folder, or pass overwrite=True")
    if not target.is_dir():
        raise CheckpointError(f"{target} is not a folder: it cannot be replaced by one")
    if any(target.iterdir()):
        try:
            list_files(target)
        except CheckpointError as error:
            raise CheckpointError(
                f"{target} is not a compressed folder and is not overwritten ({error})"
            ) from None


def _write(
    target: Path, documents: Mapping[str, bytes], tensors: Mapping[str, Tensor]
) -> dict[str, int]:
    """Write all files of a folder, the weights shard by shard; return the size of each."""
    needed = sum(map(len, documents.values())) + sum(t.nbytes for t in tensors.values())
    records: dict[str, FileRecord] = {}
    try:
        with staged_folder(target) as staging:
            for path, data in chain(documents.items(), pack_shards(tensors)):
                (staging / path).parent.mkdir(exist_ok=True)
                write_file(staging / path, data)
                records[path] = FileRecord(size=len(data), sha256=sha256_of(data))
            manifest = manifest_bytes(records)
            write_file(staging / MANIFEST, manifest)
            inspect_folder(staging)
    except OSError as error:
        raise CheckpointError(
            f"could not write {target}: {error.strerror} ({needed} bytes are needed beside it); "
            "what was there is unchanged"
        ) from error
    return {path: record.size for path, record in records.items()} | {MANIFEST: len(manifest)}
