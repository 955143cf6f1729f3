"""What a model folder stores, and how far its weights are from those it was made of."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from dpqlab.commands.loading import load
from dpqlab.core import ModelLedger, relative_error
from dpqlab.diffusion.models import bundled
from dpqlab.errors import ConfigError
from dpqlab.nn.linear import PackedLinear
from dpqlab.nn.surgery import ledger_of_model

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def stored_dtype(folder: Path) -> torch.dtype:
    """Return the float dtype that most values of a full-precision folder are stored in."""
    counts: dict[str, int] = {}
    for path in (folder / "transformer").glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a mapping
                part = file.get_slice(name)
                size = torch.Size(part.get_shape()).numel()
                counts[part.get_dtype()] = counts.get(part.get_dtype(), 0) + size
    return DTYPES.get(max(counts, key=lambda name: counts[name], default="F32"), torch.float32)


def stored_ledger(model: nn.Module, folder: Path) -> ModelLedger:
    """Count what ``folder`` stores of ``model``, which may be loaded in a wider dtype."""
    if any(isinstance(module, PackedLinear) for module in model.modules()):
        return ledger_of_model(model)
    return ledger_of_model(copy.deepcopy(model).to(stored_dtype(folder)))


def origin_of(name: str, folder: Path) -> dict[str, str]:
    """Say where the weights came from, without naming a path: name, and SHA-256 of the files."""
    digest = hashlib.sha256()
    inside = folder / "transformer" if (folder / "transformer").is_dir() else folder
    for path in sorted(inside.glob("*.safetensors")):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return {"source": Path(name).name, "source_sha256": digest.hexdigest()}


def find_source(provenance: Mapping[str, Any]) -> str | None:
    """Return the bundled full-precision model that a compressed one says it was made of."""
    for entry in bundled():
        if entry.kind == "full" and entry.name == provenance.get("source"):
            origin = origin_of(entry.name, entry.path)
            # another model may have the same name
            if origin["source_sha256"] == provenance.get("source_sha256", origin["source_sha256"]):
                return entry.name
    return None


def weight_errors(model: nn.Module, source: str | Path) -> dict[str, float]:
    """Return the relative squared error of each compressed layer against a full-precision model.

    Raises
    ------
    ConfigError
        If the two are not of the same shapes.
    """
    dense = dict(load(source).transformer.named_modules())
    errors = {}
    for name, module in model.named_modules():
        if not isinstance(module, PackedLinear):
            continue
        original = getattr(dense.get(name), "weight", None)
        decoded = module.decode()
        if original is None or original.shape != decoded.shape:
            raise ConfigError(
                f"{source} has no layer {name} of shape {tuple(decoded.shape)}: expected the "
                "full-precision model that this one was made of"
            )
        errors[name] = relative_error(original.float(), decoded)
    return errors
