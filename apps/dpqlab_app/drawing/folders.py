"""What a model folder says about itself: read from configs and headers, without weights."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from dpqlab.errors import CheckpointError, ConfigError

MOST_CREDITS = 4000
"""Characters of a card's credits."""

_BITS = {"U8": 8, "I8": 8, "F16": 16, "BF16": 16, "F32": 32, "I32": 32, "F64": 64, "I64": 64}
_IN_BLOCKS = re.compile(r"transformer_blocks\.\d+\.(?!norm1\.emb\.)")


def stored_bits(folder: Path) -> float | None:
    """Return the true bits per weight of a folder, from the headers of its weight files.

    The same number as :func:`dpqlab.nn.surgery.ledger_of_model` counts in the loaded model.

    Parameters
    ----------
    folder
        A model folder, compressed or not.

    Returns
    -------
    float, or None where there are no blocks to count.
    """
    from safetensors import safe_open

    bits, weights = 0, _compressed_weights(folder)
    for path in sorted((folder / "transformer").glob("*.safetensors")):
        with safe_open(path, framework="np") as file:
            for name in file.keys():  # noqa: SIM118 - not a mapping
                if not _IN_BLOCKS.match(name):
                    continue
                part = file.get_slice(name)
                shape = part.get_shape()
                bits += _BITS[part.get_dtype()] * math.prod(shape)
                # codes are in one dimension; the weights that they stand for are in the config
                whole = name.endswith(".weight") and len(shape) == 2
                weights += math.prod(shape) if whole else 0
    return bits / weights if weights else None


def _compressed_weights(folder: Path) -> int:
    from dpqlab.checkpoint import read_config

    if not compressed(folder):
        return 0
    layers = read_config(folder).quantization.layers
    return sum(math.prod(e.shape) for name, e in layers.items() if _IN_BLOCKS.match(name))


def compressed(folder: Path) -> bool:
    """Say whether a folder holds a compressed model."""
    from dpqlab.checkpoint import is_compressed

    return is_compressed(folder)


def geometry(folder: Path) -> SimpleNamespace:
    """Return ``in_channels``, ``sample_size`` and ``num_embeds_ada_norm`` of a model folder.

    Raises
    ------
    CheckpointError
        If its config cannot be read.
    ConfigError
        If it is a model of another kind.
    """
    path = folder / "transformer" / "config.json"
    try:
        config = json.loads(path.read_bytes())
        numbers: dict[str, Any] = {
            name: int(config[name])
            for name in ("in_channels", "sample_size", "num_embeds_ada_norm")
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}): expected the config of a DiTTransformer2DModel"
        ) from error
    if config.get("_class_name") != "DiTTransformer2DModel":
        raise ConfigError(
            f"{folder} holds a {str(config.get('_class_name'))[:60]}: expected a "
            "DiTTransformer2DModel"
        )
    return SimpleNamespace(**numbers)


def card_credits(folder: Path) -> str:
    """Return what stands below the heading "Credits" of a folder's card; empty without one."""
    try:
        card = (folder / "README.md").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
    found = re.search(r"^#+ Credits\s*\n(.*?)(?=^#|\Z)", card, re.MULTILINE | re.DOTALL)
    return found[1].strip()[:MOST_CREDITS] if found else ""
