"""The models that ship with dpqlab, and loading any model folder as a pipeline."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from dpqlab.checkpoint import is_compressed, load_compressed
from dpqlab.checkpoint.model_config import scheduler_config_of
from dpqlab.errors import CheckpointError, ConfigError
from dpqlab.nn.embedder import tie_embedders_

if TYPE_CHECKING:
    from diffusers import SchedulerMixin

    from dpqlab.diffusion.pipeline import PixelDiTPipeline

ASSETS = Path(str(files("dpqlab"))) / "assets"


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """A bundled model; ``bytes_on_disk`` are those of its weight files."""

    name: str
    path: Path
    kind: Literal["full", "compressed"]
    bytes_on_disk: int


def bundled() -> tuple[ModelEntry, ...]:
    """Return the bundled models, full precision first, then by name."""
    if not ASSETS.is_dir():
        return ()
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


def weight_bytes(folder: str | Path) -> int:
    """Return the bytes of a model folder's weight files, headers included.

    Raises
    ------
    CheckpointError
        If it has none.
    """
    weights = list((Path(folder) / "transformer").glob("*.safetensors"))
    if not weights:
        raise CheckpointError(
            f"{folder} has no transformer/*.safetensors; expected a model folder."
        )
    return sum(path.stat().st_size for path in weights)


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
    from dpqlab.diffusion.pipeline import PixelDiTPipeline

    folder = resolve(name_or_path)
    transformer: Any = (
        load_compressed(folder, dtype=dtype, device=device)
        if is_compressed(folder)
        else _load_full(folder, dtype).to(device)
    )
    return PixelDiTPipeline(transformer.eval(), load_scheduler(folder))


@contextmanager
def _without_progress_bar() -> Iterator[None]:
    """Keep diffusers from drawing a bar for a fraction of a second, in every notebook cell."""
    from diffusers.utils import logging

    wanted = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if wanted:
            logging.enable_progress_bar()


def _load_full(folder: Path, dtype: torch.dtype) -> nn.Module:
    from diffusers import DiTTransformer2DModel

    loader: Any = DiTTransformer2DModel.from_pretrained
    try:
        with _without_progress_bar():
            transformer, info = loader(
                folder / "transformer",
                torch_dtype=dtype,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
            )
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        raise CheckpointError(
            f"{folder}: the full-precision transformer cannot be loaded ({error}); "
            "expected a diffusers DiTTransformer2DModel folder in safetensors"
        ) from error
    if missing := info["missing_keys"]:
        # diffusers warns, and leaves them without values
        raise CheckpointError(
            f"{folder}: the weight files lack {min(missing)!r} ({len(missing)} missing in all): "
            "expected every tensor that transformer/config.json asks for"
        )
    # plain diffusers needs a copy of the embedder in each block; one is enough from here on.
    # Copies that differ belong to a model that was trained so, and stay.
    with suppress(ConfigError):
        tie_embedders_(transformer)
    return transformer


def load_scheduler(folder: Path) -> SchedulerMixin:
    """Load the noise schedule of a pipeline's folder.

    Raises
    ------
    CheckpointError
        If it is none of those that dpqlab knows, or has settings that it does not take.
    """
    import diffusers

    path = folder / "scheduler" / "scheduler_config.json"
    try:
        # the checked config names one of a closed table of classes
        config = scheduler_config_of(json.loads(path.read_bytes()))
        return getattr(diffusers, config["_class_name"]).from_config(config)
    # diffusers tells a bad setting by any of these (NotImplementedError: an unknown schedule)
    except (OSError, ValueError, AttributeError, NotImplementedError, TypeError) as error:
        raise CheckpointError(
            f"{path}: the scheduler cannot be loaded ({error}); expected the JSON that a diffusers "
            "scheduler saves"
        ) from error
