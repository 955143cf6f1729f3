"""Folders that a program made up: each is refused by name, or decodes as numpy decodes it.

``DPQLAB_FUZZ_INPUTS`` sets how many, ``DPQLAB_FUZZ_SEED`` which. CI judges 20,000;
``python -m benchmarks.fuzz_loader`` a million, and records it.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.fuzzing.judge import Judge
from benchmarks.fuzzing.mutators import MUTATORS, mutated
from benchmarks.fuzzing.seeds import Files
from benchmarks.fuzzing.tally import judged

INPUTS = int(os.environ.get("DPQLAB_FUZZ_INPUTS", "1500"))
SEED = int(os.environ.get("DPQLAB_FUZZ_SEED", "1"))

pytestmark = pytest.mark.usefixtures("one_thread")


def all_well(seeds: dict[str, Files], folder: Path, numbers: range) -> None:
    """Judge inputs; both sides of the check must have been tried, with every sort of change."""
    loaded, refused = 0, Counter[str]()
    for number, (made, outcome) in zip(numbers, judged(seeds, folder, SEED, numbers), strict=True):
        assert outcome.fault is None, f"input {number} of seed {SEED}, {made.changes}: {outcome}"
        loaded += outcome.loaded
        refused.update(made.changes if not outcome.loaded else ())
    assert 0.03 * len(numbers) < loaded < 0.4 * len(numbers)
    assert refused.keys() >= MUTATORS.keys()


@pytest.mark.timeout(1200)
def test_made_up_folders_are_refused_or_right(seeds: dict[str, Files], tmp_path: Path) -> None:
    all_well(seeds, tmp_path, range(INPUTS))


@settings(max_examples=max(INPUTS // 15, 1), deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_what_hypothesis_draws_is_refused_or_right(
    seeds: dict[str, Files], judges: dict[str, Judge], data: st.DataObject
) -> None:
    def choose(options: Any) -> Any:
        return options[data.draw(st.integers(0, len(options) - 1))]

    name = choose(list(seeds))
    outcome = judges[name].judge(mutated(seeds[name], choose))
    assert outcome.fault is None, outcome


def passes(value: object = None, *_: object) -> object:
    """Take the place of a check, or of what says whether something is well."""
    return True if value is None or not isinstance(value, dict) else value


@pytest.mark.parametrize(
    "check",
    [
        "load.check_values",
        "load.check_model_config",
        "load.check_scheduler_config",
        "schema.LayerEntry.check",
        "schema._check_sharing",
    ],
)
def test_a_loader_without_a_check_is_found_out(
    check: str, seeds: dict[str, Files], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"dpqlab.checkpoint.{check}", passes)
    outcomes = judged(seeds, tmp_path, seed=0, numbers=range(400))
    assert any(outcome.fault for _, outcome in outcomes)


@pytest.mark.slow
@pytest.mark.parametrize("check", ["_check_codes", "_check_table", "_check_magnitude"])
def test_a_loader_that_does_not_look_at_values_is_found_out(
    check: str, seeds: dict[str, Files], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"dpqlab.checkpoint.values.{check}", passes)
    outcomes = judged(seeds, tmp_path, seed=0, numbers=range(5000))
    assert any(outcome.fault for _, outcome in outcomes)
