"""Hostile folders through every door: whoever opens one gets a ``CheckpointError`` that names it.

The corpus is that of ``test_malformed``; here it goes through the pipeline, ``inspect`` and the
reader of configs as well, and what each costs is measured.
"""

from __future__ import annotations

import gzip
import json
import pickle
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dpqlab.checkpoint import load_compressed, read_config
from dpqlab.checkpoint.layout import (
    CARD,
    CONFIG,
    MANIFEST,
    MODEL_INDEX,
    SCHEDULER,
    SHARD_INDEX,
    SINGLE_SHARD,
)
from dpqlab.commands.inspect import inspect
from dpqlab.diffusion import load_pipeline
from dpqlab.errors import CheckpointError, DPQError
from tests.bounded import bounded
from tests.checkpoint.forge import Edit, bytes_edit, file_edit, header_edit, seal
from tests.checkpoint.test_malformed import CASES, duplicate_key

NAMES = (CARD, CONFIG, MANIFEST, MODEL_INDEX, SCHEDULER, SHARD_INDEX, SINGLE_SHARD)
DOORS: dict[str, Callable[[Path], Any]] = {
    "load_compressed": load_compressed,
    "load_pipeline": load_pipeline,
    "inspect": lambda folder: inspect(str(folder)),
}


def names_something(text: str, folder: Path) -> bool:
    """Say whether a message names a file of the folder, or the folder."""
    return any(n in text for n in (*NAMES, "transformer/", str(folder)))


def many_tensors(data: bytes) -> bytes:
    entry = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
    header = {"__metadata__": {"format": "pt"}} | {f"t{i}": entry for i in range(100_000)}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text


def twice_in_the_header(data: bytes) -> bytes:
    length = int.from_bytes(data[:8], "little")
    text = duplicate_key(data[8 : 8 + length]).replace(b'"num_layers": 2', b'"x": 1, "x": 2', 1)
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


MORE: dict[str, Edit] = {
    "100k tensors": bytes_edit(SINGLE_SHARD, many_tensors),
    "many empty lists": header_edit(lambda h: h.update(x=[[]] * 1_500_000)),
    "config of empty objects": file_edit(CONFIG, "[" + "{}," * 2_000_000 + "{}]"),
    "config of short texts": file_edit(CONFIG, "[" + '"ab",' * 1_500_000 + "0]"),
    "gzip": bytes_edit(SINGLE_SHARD, gzip.compress),
    "the same key twice in a header": bytes_edit(SINGLE_SHARD, twice_in_the_header),
    "header length 1e8-1": bytes_edit(
        SINGLE_SHARD, lambda data: (10**8 - 1).to_bytes(8, "little") + data[8:]
    ),
    "config of another program": file_edit(CONFIG, '{"quantization_config": {"a": 1}}'),
    "config of lone surrogates": file_edit(CONFIG, '{"\\ud800": "\\udfff"}'),
    "scheduler of brackets": file_edit(SCHEDULER, "[" * 100_000),
    "pipeline of brackets": file_edit(MODEL_INDEX, "[" * 65_000),
    "pipeline is null": file_edit(MODEL_INDEX, "null"),
}
ALL = {name: edit for name, (edit, _) in CASES.items()} | MORE


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("case", sorted(ALL))
def test_refused_at_every_door(case: str, door: str, folder: Path) -> None:
    ALL[case](folder)
    tracemalloc.start()
    try:
        # traced, which takes several times as long
        with bounded(10), pytest.raises(CheckpointError) as caught:
            DOORS[door](folder)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    text = str(caught.value)
    assert names_something(text, folder), text
    assert text.isprintable()
    assert peak < 64 * 2**20


@pytest.mark.parametrize("case", sorted(ALL))
def test_configs_are_read_or_refused(case: str, folder: Path) -> None:
    ALL[case](folder)
    try:
        config = read_config(folder)
    except CheckpointError as error:
        assert names_something(str(error), folder), error
    else:  # what is wrong lies in the weights, or in how they fit the model
        assert config.quantization.layers


def test_every_truncation_of_the_start_is_refused(folder: Path) -> None:
    data = (folder / SINGLE_SHARD).read_bytes()
    for length in range(0, 2048, 7):
        (folder / SINGLE_SHARD).write_bytes(data[:length])
        seal(folder)
        with pytest.raises(CheckpointError, match=r"diffusion_pytorch_model\.safetensors"):
            load_compressed(folder)


class Exploding:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (pytest.fail, ("a file was unpickled",))


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("path", NAMES)
@pytest.mark.parametrize("protocol", [0, 4])
def test_pickles_are_never_opened(folder: Path, path: str, protocol: int, door: str) -> None:
    (folder / path).write_bytes(pickle.dumps(Exploding(), protocol))
    if path != MANIFEST:
        seal(folder)
    if path == CARD:  # text for people, which nothing parses
        DOORS[door](folder)
        return
    with pytest.raises(CheckpointError):
        DOORS[door](folder)


@pytest.mark.parametrize(
    "path",
    [
        "transformer/diffusion_pytorch_model.bin",
        "transformer/pytorch_model.bin",
        "transformer/model.pt",
        "transformer/model.pkl",
        "transformer/diffusion_pytorch_model.safetensors.index.json.pt",
        "transformer/../evil.safetensors",
        "transformer/diffusion_pytorch_model-00001-of-00001.safetensors",
        "transformer/DIFFUSION_PYTORCH_MODEL.safetensors",
        "transformer/ diffusion_pytorch_model.safetensors",
    ],
)
@pytest.mark.parametrize("door", DOORS)
def test_unknown_names_are_refused_whatever_they_hold(folder: Path, path: str, door: str) -> None:
    (folder / path).write_bytes(pickle.dumps(Exploding()))
    with pytest.raises(CheckpointError):
        DOORS[door](folder)


def test_a_folder_without_its_index_is_refused(folder: Path) -> None:
    (folder / MODEL_INDEX).unlink()
    with pytest.raises(DPQError, match=r"model_index\.json"):
        load_pipeline(folder)


def test_a_refused_folder_is_left_as_it_was(folder: Path, tmp_path: Path) -> None:
    ALL["code equal to k"](folder)
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    shutil.copytree(folder, tmp_path / "copy")
    with pytest.raises(CheckpointError):
        load_pipeline(folder)
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before
