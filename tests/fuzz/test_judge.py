"""The judge of the fuzzer lets nothing pass that it is there to find."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.fuzzing.container import Part, joined, parts_of
from benchmarks.fuzzing.decoding import decoded, integers, tensors_of
from benchmarks.fuzzing.judge import Judge, disagreement, layers_of, peak_memory
from benchmarks.fuzzing.mutators import Input
from benchmarks.fuzzing.seeds import Files, sealed
from dpqlab.checkpoint import load_compressed
from dpqlab.checkpoint.layout import CONFIG, MANIFEST, SCHEDULER, SINGLE_SHARD
from dpqlab.errors import CheckpointError

QUERY = "transformer_blocks.0.attn1.to_q"

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads how much memory is in use")
pytestmark = pytest.mark.usefixtures("one_thread")


def written(files: Files, folder: Path) -> Path:
    for path, data in files.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def replaced(shard: bytes, name: str, change: Callable[[bytearray], object]) -> bytes:
    """A file with the bytes of one tensor changed."""
    parts = []
    for part in parts_of(shard):
        data = bytearray(part.data)
        if part.name == name:
            change(data)
        parts.append(Part(name=part.name, dtype=part.dtype, shape=part.shape, data=bytes(data)))
    return joined(parts)


def escapes(_: Path) -> nn.Module:
    raise KeyError("x")


def dawdles(folder: Path) -> nn.Module:
    started = time.process_time()
    while time.process_time() - started < 1.1:
        pass
    return load_compressed(folder)


def hoards(folder: Path) -> nn.Module:
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[1])
    spare = peak_memory() - pages * resource.getpagesize() / 2**20
    bytearray(b"x") * int((spare + 80) * 2**20)
    return load_compressed(folder)


def mumbles(_: Path) -> nn.Module:
    raise CheckpointError("something is wrong")


def prattles(_: Path) -> nn.Module:
    raise CheckpointError(f"{CONFIG} is wrong\nvery wrong")


def spoils(folder: Path) -> nn.Module:
    model = load_compressed(folder)
    model.get_submodule(QUERY).pool.data[0, 0] += 1  # type: ignore[union-attr, operator]
    return model


def mislays(folder: Path) -> nn.Module:
    model = load_compressed(folder)
    model.get_submodule("proj_out_2").weight.data[0, 0] = torch.nan  # type: ignore[union-attr]
    return model


@pytest.mark.parametrize(
    ("load", "fault"),
    [
        (escapes, "KeyError: 'x'"),
        (dawdles, "took 1."),
        pytest.param(hoards, "MiB of memory", marks=linux),
        (mumbles, "names no file: something is wrong"),
        (prattles, "no short line of text"),
        (spoils, f"{QUERY} decodes otherwise"),
        (mislays, "proj_out_2.weight is read otherwise"),
    ],
)
def test_what_should_not_be_is_a_fault(
    load: Callable[[Path], nn.Module], fault: str, seeds: dict[str, Files], tmp_path: Path
) -> None:
    outcome = Judge(tmp_path, load).judge(Input(files=seeds["alone"], changes=()))
    assert fault in str(outcome.fault)


def test_a_refusal_for_a_tensor_must_name_one(seeds: dict[str, Files], tmp_path: Path) -> None:
    def vague(_: Path) -> nn.Module:
        raise CheckpointError(f"{SINGLE_SHARD} holds NaN")

    judge, files = Judge(tmp_path, vague), seeds["alone"]
    assert judge.judge(Input(files=files, changes=("raw", "sealed"))).fault is None
    outcome = judge.judge(Input(files=files, changes=("content", "sealed")))
    assert "names no tensor" in str(outcome.fault)


def test_good_folders_are_judged_good(seeds: dict[str, Files], judges: dict[str, Judge]) -> None:
    for name, files in seeds.items():
        outcome = judges[name].judge(Input(files=files, changes=()))
        assert outcome.loaded
        assert outcome.fault is None


def test_each_input_is_written_as_it_is(seeds: dict[str, Files], tmp_path: Path) -> None:
    good = seeds["alone"]
    judge = Judge(tmp_path)
    assert judge.judge(Input(files=good, changes=())).loaded
    less = {path: data for path, data in good.items() if path != SCHEDULER}
    assert not judge.judge(Input(files=less, changes=())).loaded
    assert not judge.judge(Input(files=good | {"x": b""}, changes=())).loaded
    assert judge.judge(Input(files=good, changes=())).loaded


def test_a_wrong_code_is_a_disagreement(seeds: dict[str, Files], tmp_path: Path) -> None:
    def change(codes: bytearray) -> None:
        codes[0] = 0x11 if codes[0] != 0x11 else 0x22

    good = seeds["alone"]
    other = good | {SINGLE_SHARD: replaced(good[SINGLE_SHARD], f"{QUERY}.weight", change)}
    model = load_compressed(written(other | {MANIFEST: sealed(other)}, tmp_path))
    assert disagreement(model, other) is None
    assert disagreement(model, good) == f"{QUERY} decodes otherwise in numpy"


def test_numpy_knows_codes_beyond_their_codebook(seeds: dict[str, Files]) -> None:
    def change(codes: bytearray) -> None:
        codes[0] = 0xAA  # two codes of four bits: 10 of 10

    files = seeds["alone"]
    tensors = tensors_of(replaced(files[SINGLE_SHARD], f"{QUERY}.weight", change))
    with pytest.raises(IndexError, match="code beyond its codebook"):
        decoded(layers_of(files)[QUERY], QUERY, tensors)


def test_numpy_knows_bits_behind_the_last_code() -> None:
    assert integers(np.array([0b00_010_001], np.uint8), 3, 2).tolist() == [1, 2]
    with pytest.raises(ValueError, match="bits behind the last number"):
        integers(np.array([0b01_010_001], np.uint8), 3, 2)


def test_weights_beyond_float16_are_a_fault(seeds: dict[str, Files], tmp_path: Path) -> None:
    def enlarge(data: bytearray) -> None:
        data[:2] = b"\xff\x7b"  # 65,504

    files = seeds["alone"]
    for leaf in ("pool", "scale"):
        shard = replaced(files[SINGLE_SHARD], f"{QUERY}.{leaf}", enlarge)
        files = files | {SINGLE_SHARD: shard}
    files = files | {SINGLE_SHARD: replaced(files[SINGLE_SHARD], f"{QUERY}.weight", clear)}
    sure = Judge(tmp_path).judge(Input(files=files | {MANIFEST: sealed(files)}, changes=()))
    assert not sure.loaded
    with patch("dpqlab.checkpoint.values._check_magnitude"):
        careless = Judge(tmp_path).judge(Input(files=files | {MANIFEST: sealed(files)}, changes=()))
    assert "float16 cannot hold" in str(careless.fault)


def clear(data: bytearray) -> None:
    data[:] = bytes(len(data))


def test_seeds_hold_every_sort_of_layer(seeds: dict[str, Files]) -> None:
    entries = [
        entry
        for files in seeds.values()
        for entry in json.loads(files[CONFIG])["quantization_config"]["layers"].values()
    ]
    codecs = [entry["codec"] for entry in entries]
    assert {codec["family"] for codec in codecs} == {"codebook", "scalar"}
    assert {codec.get("scope") for codec in codecs} == {"position", "group", "layer", None}
    for key in ("pool_of", "table_rows", "ragged"):
        assert any(entry.get(key) for entry in entries), key
    assert any(entry.get("ragged") and "table_rows" in entry for entry in entries)
    assert sum(path.endswith(".safetensors") for path in seeds["sharded"]) == 3
