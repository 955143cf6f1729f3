"""A calibration on disk: what an interrupted run needs to go on as if nothing had happened."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from dpqlab.calibration.batch import Batch
from dpqlab.calibration.config import CalibrationConfig
from dpqlab.calibration.masters import Snapshot
from dpqlab.checkpoint.whole import write_whole
from dpqlab.errors import CheckpointError

VERSION = "1"
_KEY, _SUM = "dpqlab_calibration", "checksum"


@dataclass(frozen=True, kw_only=True, eq=False)
class Progress:
    """A run after some steps.

    Attributes
    ----------
    run
        What run it is: see :func:`fingerprint`.
    tensors
        The trained state, ``Distiller.state()``, and the random generator's as ``generator``.
    best
        The state that did best so far.
    figures
        JSON values that the loop wants back: steps done, seconds, the last record.
    """

    run: str
    tensors: Mapping[str, Tensor]
    best: Snapshot
    figures: Mapping[str, Any]


def fingerprint(student: nn.Module, config: CalibrationConfig, held_out: Batch, items: int) -> str:
    """Return a hash of what a run starts from.

    Parameters
    ----------
    student
        As it is before the run.
    config
        Settings of the run.
    held_out
        What the run is judged on: stands for all data, and tells CPU from GPU, which draw
        differently.
    items
        The amount of data to train on.
    """
    digest = hashlib.sha256(json.dumps([config.to_dict(), items], sort_keys=True).encode())
    snapshot = Snapshot.of(student)
    parts = {**snapshot.parameters, **{f"{name}.codes": c for name, c in snapshot.codes.items()}}
    parts |= {f"held_out.{i}": tensor for i, tensor in enumerate(held_out.tensors)}
    for name, tensor in sorted(parts.items()):
        digest.update(name.encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> Any:
    """Return the bytes of a tensor as a buffer."""
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()


def _checksum(about: str, tensors: Mapping[str, Tensor]) -> str:
    """Sum up a file, to tell it from a damaged one."""
    total = zlib.crc32(about.encode())
    for name, tensor in sorted(tensors.items()):
        total = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), total)
        total = zlib.crc32(_bytes(tensor), total)
    return f"{total:08x}"


def save_progress(path: Path, progress: Progress) -> None:
    """Write a run to ``path``, whole or not at all; what was there stays until then.

    Raises
    ------
    CheckpointError
        If it cannot be written.
    """
    tensors = {f"state.{name}": tensor for name, tensor in progress.tensors.items()}
    tensors |= {f"best.{name}": tensor for name, tensor in progress.best.parameters.items()}
    tensors |= {f"best_codes.{name}": tensor for name, tensor in progress.best.codes.items()}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    about = json.dumps({"version": VERSION, "run": progress.run, "figures": dict(progress.figures)})
    data = save(tensors, metadata={_KEY: about, _SUM: _checksum(about, tensors)})
    write_whole(path, data)


def load_progress(path: Path, run: str) -> Progress:
    """Read what :func:`save_progress` wrote.

    Raises
    ------
    CheckpointError
        If the file is not of this run, or is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            about = json.loads(metadata.get(_KEY, "null"))
            if type(about) is not dict or about.get("version") != VERSION:
                raise CheckpointError(
                    f"{path} is no calibration of this dpqlab: delete it to start again"
                )
            if about.get("run") != run:
                raise CheckpointError(
                    f"{path} is of another calibration (other model, settings or data): "
                    "choose another file, or delete it to start again"
                )
            # cloned: they outlive the file, which the run is about to replace
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            if metadata.get(_SUM) != _checksum(metadata[_KEY], tensors):
                raise CheckpointError(f"{path} is damaged: delete it to start again")
    except (SafetensorError, ValueError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}; delete it to start again") from None

    def part(prefix: str) -> dict[str, Tensor]:
        return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}

    return Progress(
        run=run,
        tensors=part("state."),
        best=Snapshot(parameters=part("best."), codes=part("best_codes.")),
        figures=about["figures"],
    )
