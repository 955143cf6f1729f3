"""Whatever can be stored loads, bit by bit as it was saved: strictness spares what is good.

A tenth of the folders here; the slow test makes them all, as ``python -m benchmarks.fuzz_loader``
does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.fuzzing import good as module
from benchmarks.fuzzing.good import Good, good_folders, trouble
from dpqlab.checkpoint import load_compressed
from dpqlab.core import CodebookCodec
from dpqlab.errors import CheckpointError

ALL = tuple(good_folders())

pytestmark = pytest.mark.usefixtures("one_thread")


def test_there_are_two_hundred_of_every_sort() -> None:
    assert len({one.name for one in ALL}) == len(ALL) >= 200
    codebooks = [one.codec for one in ALL if isinstance(one.codec, CodebookCodec)]
    assert {codec.scope for codec in codebooks} == {"position", "group", "layer"}
    assert {codec.across for codec in codebooks} == {"layer", "kind", "model"}
    assert {one.rest_dtype for one in ALL} == {one.bias_dtype for one in ALL}
    assert any(one.table for one in ALL)
    assert len({one.shards for one in ALL}) == 5


@pytest.mark.parametrize("one", ALL[::10], ids=lambda one: one.name)
def test_good_folders_load(one: Good, tmp_path: Path) -> None:
    assert trouble(one, tmp_path / "x") is None


@pytest.mark.slow
@pytest.mark.parametrize("one", ALL, ids=lambda one: one.name)
def test_all_good_folders_load(one: Good, tmp_path: Path) -> None:
    assert trouble(one, tmp_path / "x") is None


def refuse(_: Path) -> Any:
    raise CheckpointError("no")


def round_off(folder: Path) -> Any:
    model = load_compressed(folder)
    model.get_submodule("proj_out_2").weight.data[0, 0] += 1  # type: ignore[union-attr, operator]
    return model


@pytest.mark.parametrize(
    ("load", "said"), [(refuse, "no"), (round_off, "['proj_out_2.weight'] changed")]
)
def test_trouble_is_told(
    load: Any, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "load_compressed", load)
    assert trouble(ALL[0], tmp_path / "x") == said
