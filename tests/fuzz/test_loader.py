"""Folders that a program made up: each is refused by name, or decodes as numpy decodes it.

``DPQLAB_FUZZ_INPUTS`` sets the number of inputs; ``python -m benchmarks.fuzz_loader``
runs a million.
"""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.fuzz_loader import Fuzzer, Outcome
from dpqlab.checkpoint.layout import SINGLE_SHARD
from dpqlab.checkpoint.load import load_compressed
from dpqlab.checkpoint.save import save_compressed
from tests.checkpoint.forge import (
    PROVENANCE,
    QUERY,
    SCHEDULER_CONFIG,
    compressed_dit,
    value_edit,
)
from tests.fuzz.mutations import disagreement, mutated, read_files

INPUTS = int(os.environ.get("DPQLAB_FUZZ_INPUTS", "1000"))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz") / "good"
    save_compressed(
        compressed_dit(), folder, scheduler_config=SCHEDULER_CONFIG, provenance=PROVENANCE, card="x"
    )
    return folder


@pytest.fixture(scope="module")
def fuzzer(good: Path, tmp_path_factory: pytest.TempPathFactory) -> Fuzzer:
    return Fuzzer(Path(shutil.copytree(good, tmp_path_factory.mktemp("fuzz") / "x")))


@settings(max_examples=max(INPUTS // 10, 1), deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_what_hypothesis_draws_is_refused_or_right(fuzzer: Fuzzer, data: st.DataObject) -> None:
    def choose(options: Any) -> Any:
        return options[data.draw(st.integers(0, len(options) - 1))]

    outcome = fuzzer.judge(mutated(fuzzer.good, choose))
    assert outcome.fault is None, outcome


@pytest.mark.usefixtures("one_thread")
def test_random_mutations_are_refused_or_right(fuzzer: Fuzzer) -> None:
    source = random.Random(0)
    loaded = 0
    for _ in range(INPUTS):
        outcome = fuzzer.judge(mutated(fuzzer.good, source.choice))
        assert outcome.fault is None, outcome
        loaded += outcome.loaded
    assert 0.05 * INPUTS < loaded < 0.5 * INPUTS  # both sides of the check are tried


def test_the_good_folder_decodes_alike(good: Path) -> None:
    assert disagreement(load_compressed(good), read_files(good)) is None


def test_a_wrong_code_is_a_disagreement(good: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(good, tmp_path / "x"))
    before = (good / SINGLE_SHARD).read_bytes()
    value_edit(f"{QUERY}.weight", 0, 0x11)(other)
    assert (other / SINGLE_SHARD).read_bytes() != before
    assert disagreement(load_compressed(other), read_files(good)) == QUERY


def test_an_escape_is_a_fault(fuzzer: Fuzzer, monkeypatch: pytest.MonkeyPatch) -> None:
    def escape(_: Path) -> None:
        raise KeyError("x")

    monkeypatch.setattr("benchmarks.fuzz_loader.load_compressed", escape)
    assert fuzzer.judge(fuzzer.good) == Outcome(loaded=False, fault="KeyError('x')")
