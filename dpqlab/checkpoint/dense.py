"""Full-precision models as diffusers saves them, read one tensor at a time.

Nothing is mapped into memory for longer than it takes to copy one tensor out: pages of a mapped
file that were touched count as resident until it is closed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dpqlab.checkpoint.documents import parse_json
from dpqlab.checkpoint.model_config import build_skeleton, dense_config_of
from dpqlab.errors import CheckpointError, ConfigError
from dpqlab.nn.accounting import kept_tensors
from dpqlab.nn.embedder import EMBEDDER
from dpqlab.nn.plan import Plan
from dpqlab.nn.targets import Target, stored_dtype, validate_values

WEIGHTS = "diffusion_pytorch_model.safetensors"
_INDEX = f"{WEIGHTS}.index.json"
_FLOATS = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """Where a tensor is: the file, and its shape there."""

    file: str
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class DenseFolder:
    """The transformer of a full-precision folder.

    Attributes
    ----------
    folder
        That holds ``config.json`` and the weights.
    tensors
        What the weight files hold, by name.
    """

    folder: Path
    tensors: Mapping[str, StoredTensor]

    def read(self, name: str, device: torch.device | str = "cpu") -> Tensor:
        """Read one tensor as float32 into memory of its own."""
        from safetensors import SafetensorError

        path = self.folder / self.tensors[name].file
        try:
            with opened_tensors(path) as file:
                # always a copy: what the file handed out keeps it mapped
                return file.get_tensor(name).to(device, torch.float32, copy=True)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"cannot read {name} of {path}: {error}") from None

    def skeleton(self) -> nn.Module:
        """Build the model on the meta device, its embedders tied if the stored copies are equal.

        Raises
        ------
        CheckpointError
            If the files lack a tensor of it, or hold one of another shape.
        """
        model: Any = build_dense(self.folder)
        self._check(model)
        blocks: Any = getattr(model, "transformer_blocks", ())
        first, *others = blocks
        if all(self._copies(index) for index in range(1, len(others) + 1)):
            for block in others:
                block.norm1.emb = first.norm1.emb
        return model

    def _check(self, model: nn.Module) -> None:
        wanted = model.state_dict()
        missing = sorted(wanted.keys() - self.tensors.keys())
        if missing:
            raise CheckpointError(
                f"{self.folder}: the weight files lack {missing[0]!r} ({len(missing)} missing in "
                "all): expected every tensor that config.json asks for"
            )
        for name, tensor in wanted.items():
            if tuple(tensor.shape) != self.tensors[name].shape:
                raise CheckpointError(
                    f"{self.folder}: {name} has shape {self.tensors[name].shape}, but config.json "
                    f"asks for {tuple(tensor.shape)}"
                )

    def _copies(self, block: int) -> bool:
        """Say whether the embedder of a block equals the first one's."""
        mine, first = (f"transformer_blocks.{i}.{EMBEDDER}." for i in (block, 0))
        names = [name for name in self.tensors if name.startswith(first)]
        return all(
            torch.equal(self.read(name), self.read(mine + name.removeprefix(first)))
            for name in names
        )


def open_dense(folder: str | Path) -> DenseFolder:
    """Look into a pipeline's folder, or that of its transformer; no tensor is read.

    Raises
    ------
    CheckpointError
        If there are no safetensors files of a model, or they are damaged.
    """
    from safetensors import SafetensorError

    inside = transformer_folder(folder)
    tensors: dict[str, StoredTensor] = {}
    for file in _weight_files(inside):
        try:
            with opened_tensors(inside / file) as opened:
                for name in opened.keys():  # noqa: SIM118 - not a mapping
                    part = opened.get_slice(name)
                    if part.get_dtype() not in _FLOATS:
                        raise CheckpointError(
                            f"{inside / file}: {name} is {part.get_dtype()}: expected one of "
                            f"{', '.join(_FLOATS)}"
                        )
                    tensors[name] = StoredTensor(file=file, shape=tuple(part.get_shape()))
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"{inside / file} cannot be read ({error}): expected a safetensors file of a "
                "full-precision model"
            ) from None
    return DenseFolder(folder=inside, tensors=tensors)


def transformer_folder(folder: str | Path) -> Path:
    """Return where the transformer of a pipeline's folder is; that of a transformer is itself."""
    inside = Path(folder) / "transformer"
    return inside if inside.is_dir() else Path(folder)


def opened_tensors(path: Path) -> Any:
    """Open a safetensors file; what its ``get_tensor`` returns is mapped from it."""
    from safetensors import safe_open

    opener: Any = safe_open
    return opener(path, framework="pt")


def build_dense(inside: Path) -> nn.Module:
    """Build the DiT of a folder's ``config.json`` on the meta device, every block with an embedder.

    Raises
    ------
    ConfigError
        If there is no config.
    CheckpointError
        If it is not that of a DiT, or diffusers cannot build one of it.
    """
    path = inside / "config.json"
    if not path.is_file():
        raise ConfigError(f"{path} is missing: expected the folder of a diffusers pipeline")
    what = f"{inside.name}/config.json"
    return build_skeleton(dense_config_of(parse_json(path.read_bytes(), what), what))


class FileWeights:
    """The weights of a folder, read when they are asked for, and put on a device.

    The last one is kept: it is asked for again, for the error of its codes.
    """

    def __init__(self, dense: DenseFolder, device: torch.device | str = "cpu") -> None:
        self.dense, self.place = dense, torch.device(device)
        self._last: tuple[str, Tensor] | None = None

    def weight(self, target: Target) -> Tensor:
        """Return the weight of a target, float32 (out, in); it must not be changed."""
        if self._last is None or self._last[0] != target.name:
            self._last = None  # freed before the next one is read
            self._last = target.name, self.dense.read(f"{target.name}.weight", self.place)
        return self._last[1]

    def bias(self, target: Target) -> Tensor | None:
        """Return its bias, (out,), or None without one."""
        if getattr(target.linear, "bias", None) is None:
            return None
        return self.dense.read(f"{target.name}.bias", self.place)

    def device(self, target: Target) -> torch.device:
        """Return where weights are put, whatever the target."""
        return self.place


def validate_stored(
    dense: DenseFolder, model: nn.Module, plan: Plan, targets: list[Target]
) -> None:
    """Raise :class:`ConfigError` for values that cannot be stored; every tensor is read once."""
    compressed = {
        f"{target.name}.{leaf}": stored_dtype(leaf, plan)
        for target in targets
        for leaf, _ in target.linear.named_parameters()
    }
    for name, _ in kept_tensors(model):
        validate_values(name, dense.read(name), compressed.get(name, plan.rest_dtype))


def _weight_files(inside: Path) -> list[str]:
    index = inside / _INDEX
    if not index.is_file():
        if (inside / WEIGHTS).is_file():
            return [WEIGHTS]
        raise CheckpointError(
            f"{inside} has neither {WEIGHTS} nor {_INDEX}: expected the full-precision weights of "
            "a diffusers model, in safetensors"
        )
    try:
        names: set[Any] = set(json.loads(index.read_bytes())["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} is no index of shards ({error!r})") from None
    # a name with a path in it would lead out of the folder
    odd = [name for name in names if type(name) is not str or Path(name).name != name]
    if odd or not names:
        raise CheckpointError(f"{index} names {odd[:1] or 'no files'}: expected files beside it")
    return sorted(names)
