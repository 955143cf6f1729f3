"""Any single byte of a shipped checkpoint that changes is noticed."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest
from torch import nn

from benchmarks.fuzzing import flips as module
from benchmarks.fuzzing.flips import flips
from dpqlab.checkpoint import load_compressed
from dpqlab.checkpoint.manifest import verify
from dpqlab.diffusion import resolve

SHIPPED = "fashion-dit-best-1bit"


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    return Path(shutil.copytree(resolve(SHIPPED), tmp_path / SHIPPED))


def judged(folder: Path, numbers: range) -> None:
    found: Counter[str] = Counter()
    for flip in flips(folder, numbers, seed=1):
        assert flip.refused, flip
        found[flip.path] += 1
    files = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    assert found.keys() == files
    assert found.total() == len(numbers)
    verify(folder)  # as it was


@pytest.mark.usefixtures("one_thread")
def test_flipped_bytes_of_a_shipped_checkpoint_are_refused(shipped: Path) -> None:
    judged(shipped, range(60))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ten_thousand_flipped_bytes_are_refused(shipped: Path) -> None:
    judged(shipped, range(10_000))


def test_a_flip_follows_from_its_number(shipped: Path) -> None:
    first = list(flips(shipped, range(8), seed=1))
    assert list(flips(shipped, [5, 2], seed=1)) == [first[5], first[2]]
    assert list(flips(shipped, range(8), seed=2)) != first


def test_a_flip_that_goes_unnoticed_is_no_refusal(
    shipped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def careless(folder: Path) -> nn.Module:
        return load_compressed(folder, verify=False)

    monkeypatch.setattr(module, "load_compressed", careless)
    found = {flip.path: flip.refused for flip in flips(shipped, range(0, 24, 2), seed=0)}
    assert not found["README.md"]  # which nothing but its hash covers
