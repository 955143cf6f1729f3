from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from dpqlab.calibration.ablation import ablation_rows
from dpqlab.errors import CheckpointError
from dpqlab.evaluation.ablation import (
    Ablation,
    AblationResult,
    bundled_ablation,
    in_order,
    read_ablation,
)
from dpqlab.evaluation.frechet import Interval


def result(name: str, **changes: object) -> AblationResult:
    fcd = Interval(value=0.2, low=0.1, high=0.4, standard_error=0.1)
    plain = AblationResult(
        name=name,
        change="",
        base="",
        true_bits=1.1,
        fcd=fcd,
        excess_fcd=None,
        psnr=None,
        calibration_steps=None,
        calibration_seconds=None,
        device="a GPU",
        date="2026-11-22",
    )
    return replace(plain, **changes)  # pyright: ignore[reportArgumentType]


def study(*results: AblationResult) -> Ablation:
    near = Interval(value=0.01, low=0.0, high=0.02, standard_error=0.005)
    return Ablation(
        teacher=near,
        noise_floor=near,
        images=10,
        sampling_steps=5,
        guidance=1.5,
        results=results,
    )


def test_what_is_written_is_read(tmp_path: Path) -> None:
    one = result("dpq latent", excess_fcd=result("").fcd, psnr=20.0, calibration_seconds=3.5)
    made = study(one, result("best-1bit"))
    path = tmp_path / "ablation.json"
    path.write_text(json.dumps(made.to_dict()))
    assert read_ablation(path) == made


def test_rows_come_in_the_planned_order_and_others_last() -> None:
    names = list(ablation_rows())
    mixed = [result("mine"), *(result(name) for name in reversed(names))]
    assert [r.name for r in in_order(mixed)] == [*names, "mine"]
    assert study(result(names[0])).planned == len(names)
    assert study(result("mine")).planned == len(names) + 1


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"teacher": 1, "noise_floor": 2}'])
def test_anything_else_is_refused_with_the_remedy(text: str, tmp_path: Path) -> None:
    path = tmp_path / "ablation.json"
    path.write_text(text)
    with pytest.raises(CheckpointError, match=r"cannot be read.*--export"):
        read_ablation(path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_ablation(tmp_path / "missing")


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("teacher", "value"), "0.1", "value: '0.1' is not a number"),
        (("results", 0, "fcd", "low"), None, "low: None is not a number"),
        (("results", 0, "true_bits"), -1, "true_bits: -1 is not a finite number of 0 or more"),
        (("results", 0, "calibration_steps"), 0.5, "calibration_steps: 0.5 is not a count"),
        (("results", 0, "device"), 3, "device is 3: expected str"),
        (("guess",), 3, "Ablation has the keys"),
    ],
)
def test_values_of_another_type_are_refused(place, value, message, tmp_path: Path) -> None:
    values = inner = json.loads(json.dumps(study(result("mine")).to_dict()))
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    (tmp_path / "ablation.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=message):
        read_ablation(tmp_path / "ablation.json")


def test_one_ships_with_the_bundled_model_only() -> None:
    assert bundled_ablation() is not None
    assert bundled_ablation("another-dit") is None
