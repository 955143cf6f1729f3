"""The models that ship with dpqlab, and loading any model folder as a pipeline."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from dpqlab.checkpoint import is_compressed, load_compressed
from dpqlab.errors import CheckpointError, ConfigError
from dpqlab.nn.embedder import tie_embedders_

if TYPE_CHECKING:
    from dpqlab.diffusion.pipeline import PixelDiTPipeline

ASSETS = Path(str(files("dpqlab"))) / "assets"

FASHION_CLASSES = (
    "T-shirt",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """A bundled model: its name, folder, whether it is compressed, and its size on disk in bytes."""

    name: str
    path: Path
    kind: Literal["full", "compressed"]
    bytes_on_disk: int


def bundled() -> tuple[ModelEntry, ...]:
    """Return the bundled models, full precision first, then by name."""
    entries = [
        ModelEntry(
            name=folder.name,
            path=folder,
            kind="compressed" if is_compressed(folder) else "full",
            bytes_on_disk=weight_bytes(folder),
        )
        for folder in ASSETS.iterdir()
        if (folder / "model_index.json").is_file()
    ]
    return tuple(sorted(entries, key=lambda e: (e.kind != "full", e.name)))


def weight_bytes(folder: Path) -> int:
    """Return the bytes of a model's weight files."""
    return sum(path.stat().st_size for path in (folder / "transformer").glob("*.safetensors"))


def resolve(name_or_path: str | Path) -> Path:
    """Return the folder of a bundled model's name, or of a path.

    Raises
    ------
    ConfigError
        If it is neither; the message lists the bundled names.
    """
    if (Path(name_or_path) / "model_index.json").is_file():
        return Path(name_or_path)
    found = {entry.name: entry.path for entry in bundled()}
    if str(name_or_path) in found:
        return found[str(name_or_path)]
    raise ConfigError(
        f"no model {str(name_or_path)!r}: expected a folder with a model_index.json, or one of "
        f"{', '.join(found) or '(no bundled models in this installation)'}"
    )


def load_pipeline(
    name_or_path: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> PixelDiTPipeline:
    """Load a bundled or own model, full precision or compressed, ready to sample.

    Parameters
    ----------
    name_or_path
        A bundled name (:func:`bundled`) or a folder in diffusers layout. Nothing is downloaded.
    dtype
        Floating type to compute in. Stored precision (bf16, packed codes) is what the folder says.

    Raises
    ------
    ConfigError
        For an unknown name.
    CheckpointError
        If the folder is damaged or of another kind of model.
    """
    from diffusers import DDIMScheduler, DiTTransformer2DModel, DPMSolverMultistepScheduler

    from dpqlab.diffusion.pipeline import PixelDiTPipeline

    folder = resolve(name_or_path)
    if is_compressed(folder):
        transformer: Any = load_compressed(folder, dtype=dtype, device=device)
    else:
        try:
            transformer = DiTTransformer2DModel.from_pretrained(
                folder / "transformer",
                torch_dtype=dtype,
                local_files_only=True,
                use_safetensors=True,
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"{folder}: the full-precision transformer cannot be loaded ({error}); "
                "expected a diffusers DiTTransformer2DModel folder in safetensors"
            ) from error
        # the untied copies that plain diffusers needs are equal; one is enough from here on
        tie_embedders_(transformer)
        transformer.to(device)
    classes: dict[str, Any] = {
        "DDIMScheduler": DDIMScheduler,
        "DPMSolverMultistepScheduler": DPMSolverMultistepScheduler,
    }
    config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text("utf-8"))
    scheduler_class = config.get("_class_name")
    if scheduler_class not in classes:
        raise CheckpointError(
            f"{folder}: scheduler class {scheduler_class!r}: expected one of {', '.join(classes)}"
        )
    scheduler = classes[scheduler_class].from_config(config)
    return PixelDiTPipeline(transformer.eval(), scheduler)
