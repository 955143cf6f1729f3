"""What a training leaves on disk to go on from: read back only whole, and by the same run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from dpqlab.checkpoint.whole import write_whole
from dpqlab.errors import CheckpointError

CHECKPOINT = "training.safetensors"
LOG = "training.jsonl"


def save_state(path: Path, tensors: Mapping[str, Tensor], run: str) -> None:
    """Write the tensors of a run, whole or not at all.

    Raises
    ------
    CheckpointError
        If they cannot be written; what was there is unchanged.
    """
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_whole(path, save(stored, metadata={"run": run, "sha256": _digest(stored)}))


def load_state(path: Path, run: str) -> dict[str, Tensor]:
    """Read what :func:`save_state` wrote.

    Raises
    ------
    CheckpointError
        If there is no such file, it is damaged, or it is of another run.
    """
    try:
        with safe_open(path, framework="pt") as file:
            notes = file.metadata() or {}
            # cloned: they outlive the file, which the run is about to replace
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} cannot be read: {error}; leave out --resume to begin again"
        ) from None
    if notes.get("run") != run:
        raise CheckpointError(
            f"{path} is of another run: give the settings of then, or leave out --resume to begin "
            "again"
        )
    if notes.get("sha256") != _digest(tensors):
        raise CheckpointError(f"{path} is damaged: leave out --resume to begin again")
    return tensors


def write_log(path: Path, records: list[dict[str, Any]]) -> None:
    """Write all records of a run, one JSON object a line."""
    write_whole(path, "".join(json.dumps(record) + "\n" for record in records).encode())


def read_log(path: Path, step: int) -> list[dict[str, Any]]:
    """Read the records up to ``step``: what a stopped run did after that is done again."""
    try:
        records = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        return [record for record in records if record["step"] <= step]
    except (OSError, ValueError, TypeError, KeyError):
        return []


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}\n".encode())
        digest.update(tensors[name].flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
