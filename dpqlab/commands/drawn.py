"""Drawing that survives: what a model drew waits in a journal until all of it is there."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dpqlab import __version__
from dpqlab.checkpoint.journal import Journal
from dpqlab.commands.drawing import BATCH
from dpqlab.evaluation.config import Sampler

_FILES = ("*.safetensors", "config.json")


def identity_of(models: dict[str, Path], device: torch.device, **settings: Any) -> dict[str, Any]:
    """Return what drawings depend on, as JSON values.

    Parameters
    ----------
    models
        Folders by the part that they play; their weights and configs count, not their names.
    device
        Where it is drawn: another kind of device rounds otherwise.
    settings
        What else it depends on, JSON values.
    """
    hashes = {part: _hash(folder) for part, folder in models.items()}
    versions = {"dpqlab": __version__, "torch": str(torch.__version__)}
    return hashes | settings | versions | {"device": device.type}


def kept(sample: Sampler, journal: Journal, whose: str) -> Sampler:
    """Wrap a sampler: what is in the journal is read, what is not is drawn, then put there.

    Parameters
    ----------
    sample
        Draws images; what it draws for a label must not depend on the batch.
    journal
        Of the models and settings that are sampled.
    whose
        Tells the samplers apart that share a journal.
    """

    def draw_kept(
        labels: tuple[int, ...], *, seed: int, first_index: int, steps: int, guidance: float
    ) -> Tensor:
        pieces: list[Tensor] = []
        for start in range(0, len(labels), BATCH):
            part, at = labels[start : start + BATCH], first_index + start
            name = f"{whose}-{seed}-{at:08d}-{len(part)}"
            if (known := journal.read(name)) is not None:
                pieces.append(known.tensors["images"].clone())
                continue
            drawn = sample(part, seed=seed, first_index=at, steps=steps, guidance=guidance)
            pieces.append(torch.as_tensor(drawn).cpu())
            journal.write(name, {"images": pieces[-1]}, {})
        return torch.cat(pieces)

    return draw_kept


def _hash(folder: Path) -> str:
    """Hash the weights and the config of a model's transformer."""
    inside = folder / "transformer" if (folder / "transformer").is_dir() else folder
    digest = hashlib.sha256()
    for path in sorted(path for pattern in _FILES for path in inside.glob(pattern)):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
