"""Loading models quietly."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from dpqlab.diffusion.models import load_pipeline

if TYPE_CHECKING:
    from dpqlab.diffusion.pipeline import PixelDiTPipeline


def load(name_or_path: str | Path, *, device: torch.device | str = "cpu") -> PixelDiTPipeline:
    """Load a model in float32 without diffusers' own progress bars; see ``load_pipeline``."""
    quieten()
    return load_pipeline(name_or_path, device=device)


def quieten() -> None:
    """Keep diffusers from drawing bars, and from remarks about settings that it does not know."""
    from diffusers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
