"""Single weight matrices of a full-precision model, read from its shards: no model is built."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from dpqlab.diffusion.models import resolve
from dpqlab.errors import CheckpointError, ConfigError
from dpqlab.nn.plan import split_block_name

INDEX = "transformer/diffusion_pytorch_model.safetensors.index.json"
SINGLE = "transformer/diffusion_pytorch_model.safetensors"
BLOCKS = "transformer_blocks"
_OUTSIDE = "norm1.emb."  # one embedder that diffusers copies into every block


@dataclass(frozen=True, kw_only=True)
class LayerWeights:
    """Where the matrices of a model's blocks lie.

    Attributes
    ----------
    model
        Name or folder, as it was given.
    files
        File of every tensor, by name.
    blocks
        Number of blocks.
    kinds
        Linears of a block, sorted.
    """

    model: str
    files: dict[str, Path] = field(repr=False)
    blocks: int
    kinds: tuple[str, ...]

    @classmethod
    def open(cls, model: str | Path) -> LayerWeights:
        """Find the matrices of a bundled model, or of a diffusers folder.

        Raises
        ------
        ConfigError
            If there is no such model.
        CheckpointError
            If it is not a full-precision DiT in safetensors.
        """
        folder = resolve(model)
        files = _files_of(folder)
        inside = [split_block_name(name) for name in files if name.endswith(".weight")]
        leaves = {leaf for lists, leaf in inside if lists == BLOCKS}
        kinds = [leaf.removesuffix(".weight") for leaf in leaves if not leaf.startswith(_OUTSIDE)]
        blocks = len({name.split(".")[1] for name in files if name.startswith(f"{BLOCKS}.")})
        if not kinds or not blocks:
            raise CheckpointError(
                f"{folder}: no tensor {BLOCKS}.N.*.weight; expected a full-precision DiT"
            )
        return cls(model=str(model), files=files, blocks=blocks, kinds=tuple(sorted(kinds)))

    def weight(self, block: int, kind: str) -> torch.Tensor:
        """Read one matrix, float32 of shape (out, in)."""
        self.check(block, kind)
        return self._read(f"{BLOCKS}.{block}.{kind}.weight")

    def has_bias(self, block: int, kind: str) -> bool:
        """Say whether the layer has a bias."""
        self.check(block, kind)
        return f"{BLOCKS}.{block}.{kind}.bias" in self.files

    def check(self, block: int, kind: str) -> None:
        """Raise ConfigError unless there is such a layer."""
        if not 0 <= block < self.blocks or kind not in self.kinds:
            raise ConfigError(
                f"{self.model} has no layer {kind!r} in block {block}: expected block 0 to "
                f"{self.blocks - 1} and one of {', '.join(self.kinds)}"
            )

    def _read(self, name: str) -> torch.Tensor:
        path = self.files[name]
        try:
            with safe_open(path, framework="pt") as file:
                tensor = file.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path}: {name} cannot be read ({error})") from None
        if tensor.ndim != 2 or not tensor.is_floating_point():
            raise CheckpointError(
                f"{path}: {name} is {tensor.dtype} of shape {tuple(tensor.shape)}; "
                "expected a floating-point matrix"
            )
        return tensor.float()


def _files_of(folder: Path) -> dict[str, Path]:
    """Return the file of every tensor of the transformer."""
    try:
        if (folder / INDEX).is_file():
            places = json.loads((folder / INDEX).read_bytes())["weight_map"]
            return {str(name): _beside(folder / INDEX, place) for name, place in places.items()}
        with safe_open(folder / SINGLE, framework="pt") as file:
            return {str(name): folder / SINGLE for name in file.keys()}  # noqa: SIM118
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise CheckpointError(
            f"{folder}: the weights cannot be found ({error}); expected {INDEX} or {SINGLE}"
        ) from None


def _beside(index: Path, place: object) -> Path:
    """Return the shard that an index names: a plain file name beside it."""
    if not isinstance(place, str) or Path(place).name != place or not place:
        raise ValueError(f"a shard is called {place!r}, which is no plain file name")
    return index.with_name(place)
