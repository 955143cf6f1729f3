"""What must become of a folder, whatever is in it: refused as promised, or loaded and right."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import nn

from benchmarks.fuzzing.decoding import decoded, tensors_of
from benchmarks.fuzzing.mutators import Input
from benchmarks.fuzzing.seeds import Files
from dpqlab.checkpoint import load_compressed
from dpqlab.checkpoint.layout import CONFIG, REQUIRED, SINGLE_SHARD
from dpqlab.checkpoint.model_config import build_skeleton, position_table
from dpqlab.errors import CheckpointError
from dpqlab.nn.accounting import kept_tensors, modules_of
from dpqlab.nn.linear import PackedLinear
from dpqlab.nn.resident import most_resident_bytes

SECONDS = 1.0
"""Most processor time that an input may take."""
MEMORY = 64
"""Most MiB by which the peak of the process may grow during an input."""

LARGEST = float(np.finfo(np.float16).max)
"""A model can be loaded in float16, so no weight may lie beyond it."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one input.

    Attributes
    ----------
    loaded
        Whether it was loaded; refused otherwise.
    seconds
        Processor time that this took.
    grown
        MiB by which the peak of the process's memory grew.
    fault
        What should not be, None if all is well.
    """

    loaded: bool
    seconds: float = 0.0
    grown: float = 0.0
    fault: str | None = None


class Judge:
    """A folder that takes the shape of one input after the other.

    Parameters
    ----------
    folder
        An empty folder to write to, best in memory.
    load
        What is judged.
    """

    def __init__(self, folder: Path, load: Callable[[Path], nn.Module] = load_compressed) -> None:
        self.folder = folder
        self._load = load
        self._there: dict[str, bytes] = {}

    def judge(self, given: Input) -> Outcome:
        """Write one input, read it, and look at what came of it."""
        self._write(given.files)
        peak, started = peak_memory(), time.process_time()
        model, fault = self._tried(given)
        seconds = time.process_time() - started
        grown = peak_memory() - peak
        if model is not None and fault is None:
            fault = disagreement(model, given.files)
        if fault is None and seconds > SECONDS:
            fault = f"took {seconds:.1f} s"
        if fault is None and grown > MEMORY:
            fault = f"took {grown:.0f} MiB of memory"
        return Outcome(loaded=model is not None, seconds=seconds, grown=grown, fault=fault)

    def _tried(self, given: Input) -> tuple[nn.Module | None, str | None]:
        try:
            return self._load(self.folder), None
        except CheckpointError as error:
            return None, complaint(str(error), given)
        except Exception as error:  # whatever else there is, is what this looks for
            return None, f"{type(error).__name__}: {error}"

    def _write(self, files: Files) -> None:
        """Write what differs from what is there; most of it does not."""
        for path in self._there.keys() - files.keys():
            (self.folder / path).unlink()
        for path, data in files.items():
            if self._there.get(path) is not data:
                (self.folder / path).parent.mkdir(exist_ok=True)
                (self.folder / path).write_bytes(data)
        self._there = dict(files)


def complaint(message: str, given: Input) -> str | None:
    """Say what is wrong with the message of a refusal; None if it is as it should be."""
    if not message.isprintable() or not message.isascii() or len(message) > 1000:
        return f"a message that is no short line of text: {message[:200]!r}"
    if not any(
        path in message for path in (*given.files, *REQUIRED, SINGLE_SHARD, "unknown entry")
    ):
        return f"names no file: {message}"
    if given.of_tensor and not any(
        name in message for name in (*_stored(given.files), *layers_of(given.files))
    ):
        return f"names no tensor: {message}"
    return None


def disagreement(model: nn.Module, files: Files) -> str | None:
    """Compare all that was loaded with numpy's reading of the files; say what differs."""
    layers = layers_of(files)
    modules = modules_of(model)
    found = {name for name, module in modules.items() if isinstance(module, PackedLinear)}
    if found != layers.keys():
        return f"other layers are compressed: {sorted(found ^ layers.keys())}"
    tensors = _stored(files)
    try:
        for name, entry in layers.items():
            ours = modules[name].decode(torch.float32).numpy()  # type: ignore[operator]
            if not _same(ours, decoded(entry, name, tensors)):
                return f"{name} decodes otherwise in numpy"
            if np.abs(ours).max() > LARGEST:
                return f"{name} decodes to weights that float16 cannot hold"
        for name, tensor in kept_tensors(model):
            if not _same(tensor.detach().numpy(), tensors[name].astype(np.float32)):
                return f"{name} is read otherwise in numpy"
    except (KeyError, IndexError, ValueError, TypeError) as error:
        return f"loads, but numpy cannot decode it: {error!r}"
    return None


def layers_of(files: Files) -> Mapping[str, Any]:
    """Return the entries of the compressed layers, by name, unchecked."""
    layers: Mapping[str, Any] = json.loads(files[CONFIG])["quantization_config"]["layers"]
    return layers


def peak_memory() -> float:
    """Return the most memory that this process has had, in MiB; 0 where that is not told."""
    return most_resident_bytes() / 2**20


@contextmanager
def skeletons_once(configs: Iterable[Mapping[str, Any]]) -> Generator[None]:
    """Let the loader copy the models of these configs instead of having diffusers build them.

    Building one takes most of the time of a good load, and the same model each time. Any other
    config is built as ever.
    """
    built = [(dict(config), build_skeleton(config), position_table(config)) for config in configs]

    def skeleton(config: Mapping[str, Any]) -> nn.Module:
        for known, model, _ in built:
            if _alike(known, config):
                return _copied(model, {})
        return build_skeleton(config)

    def positions(config: Mapping[str, Any]) -> torch.Tensor:
        for known, _, table in built:
            if _alike(known, config):
                return table.clone()
        return position_table(config)

    with (
        patch("dpqlab.checkpoint.load.build_skeleton", skeleton),
        patch("dpqlab.checkpoint.install.position_table", positions),
    ):
        yield


def _alike(known: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    """Compare as JSON does: 1 is not True."""
    return known == config and all(type(config[key]) is type(known[key]) for key in known)


def _copied(module: nn.Module, done: dict[nn.Module, nn.Module]) -> nn.Module:
    """Copy modules but not their tensors, which have no memory and are replaced, never changed."""
    if module not in done:
        copy = done[module] = module.__new__(type(module))
        copy.__dict__ = dict(module.__dict__)
        copy._parameters = dict(module._parameters)
        copy._buffers = dict(module._buffers)
        copy._modules = {
            name: inner and _copied(inner, done) for name, inner in module._modules.items()
        }
    return done[module]


def _stored(files: Files) -> dict[str, np.ndarray]:
    tensors: dict[str, np.ndarray] = {}
    for path, data in files.items():
        if path.endswith(".safetensors"):
            tensors |= tensors_of(data)
    return tensors


def _same(ours: np.ndarray, theirs: np.ndarray) -> bool:
    return bool(np.isfinite(ours).all()) and np.array_equal(ours, theirs)
