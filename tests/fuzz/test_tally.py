"""Sittings of the fuzzer add up, and its records say what was counted."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import fuzz_loader, record
from benchmarks.fuzzing.judge import Outcome
from benchmarks.fuzzing.mutators import Input
from benchmarks.fuzzing.tally import SHOWN, Tally
from benchmarks.reliability import HELD, verdict

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_tally_goes_on_where_it_ended(tmp_path: Path) -> None:
    tally, file = Tally.read(tmp_path / "state", seed=3), tmp_path / "state"
    for number in range(SHOWN + 5):
        outcome = Outcome(loaded=number % 2 == 0, seconds=number, grown=-number, fault="x")
        tally.add(Input(files={}, changes=("raw", "sealed")), outcome)
    tally.save(file)
    again = Tally.read(file, seed=3)
    assert again == tally
    assert (again.inputs, again.loaded, again.faults) == (15, 8, 15)
    assert (again.slowest, again.largest) == (14, 0)
    assert again.changes["raw"] == 15
    assert len(again.shown) == SHOWN
    assert again.shown[2] == "input 2 of seed 3, raw, sealed: x"
    with pytest.raises(ValueError, match="of seed 3, not 4"):
        Tally.read(file, seed=4)


def run(*arguments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["fuzz_loader", *arguments])
    fuzz_loader.main()


def test_two_sittings_are_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state, whole = tmp_path / "state", tmp_path / "whole"
    for inputs, file in (("30", state), ("60", state), ("60", whole)):
        arguments = ("inputs", "--inputs", inputs, "--state", str(file))
        run(*arguments, "--results", str(tmp_path), monkeypatch=monkeypatch)
    counted, at_once = Tally.read(state, 0), Tally.read(whole, 0)
    assert counted.inputs == 60
    assert (counted.loaded, counted.changes) == (at_once.loaded, at_once.changes)
    made = record.read(fuzz_loader.SUITE, tmp_path)
    assert [one["value"] for one in made if one["metric"] == "inputs"] == [30, 60, 60]
    assert {verdict(one) for one in made} == {HELD}


def test_fewer_inputs_than_asked_for_are_no_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("inputs", "--inputs", "100", "--minutes", "0")
    run(*arguments, "--results", str(tmp_path), monkeypatch=monkeypatch)
    (made,) = (one for one in record.read(fuzz_loader.SUITE, tmp_path) if one["goal"] == 100)
    assert made["value"] == 0
    assert verdict(made) == "missed"


def test_flips_of_all_shipped_models_are_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = fuzz_loader.shipped_folders()
    assert len(shipped) >= 5
    arguments = ("flips", "--flips", str(len(shipped)))
    run(*arguments, "--results", str(tmp_path), monkeypatch=monkeypatch)
    (made,) = record.read(fuzz_loader.SUITE, tmp_path)
    assert (made["value"], made["goal"], verdict(made)) == (len(shipped), len(shipped), HELD)
    assert made["details"]["shown"] == []


def test_unknown_parts_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit):
        run("everything", monkeypatch=monkeypatch)
