"""The ablation that ships agrees with the benchmark records."""

from __future__ import annotations

import pytest

from benchmarks import ablation, record
from benchmarks.quality_tables import ABLATION_ROWS
from dpqlab.calibration.ablation import ablation_rows
from dpqlab.diffusion.models import ASSETS
from dpqlab.evaluation.ablation import read_ablation

FCD = {"value": 0.2, "low": 0.1, "high": 0.3, "standard_error": 0.05, "bias": 0.01}
JUDGED = {"fcd": FCD, "noise_floor": FCD, "images": 10_000, "steps": 50, "guidance": 1.5}


def add(folder, suite, row, metric="fcd_10k", **details):
    made = record.make_record(
        suite, row, metric, 0.2, "FCD", higher_is_better=False, details=JUDGED | details
    )
    record.append(made, folder)


def test_what_ships_agrees_with_the_records():
    shipped = read_ablation(ASSETS / "fashion-dit-runs/ablation.json")
    remedy = "python -m benchmarks.ablation --export dpqlab/assets/fashion-dit-runs/ablation.json"
    assert shipped == ablation.exported(), remedy


def test_the_latest_record_of_each_row_is_exported(tmp_path):
    add(tmp_path, "fashion", "teacher")
    common = {"base": "dpq pruned", "change": "the loss", "true_bits": 1.1}
    add(tmp_path, "ablation", "vq latent", **common)
    add(tmp_path, "ablation", "dpq ddpm", **common | {"true_bits": 1.0})
    add(tmp_path, "ablation", "dpq ddpm", **common, psnr=21.0, calibration_seconds=3.0)
    add(tmp_path, "ablation", "dpq paper", metric="fcd_2k", **common)
    ablation.export(tmp_path / "ablation.json", tmp_path)
    found = read_ablation(tmp_path / "ablation.json")
    assert [result.name for result in found.results] == ["dpq ddpm", "vq latent"]
    first = found.results[0]
    assert (first.true_bits, first.psnr, first.calibration_seconds) == (1.1, 21.0, 3.0)
    assert first.excess_fcd is None
    assert found.teacher.value == 0.2


def test_nothing_is_exported_without_a_teacher(tmp_path):
    add(tmp_path, "ablation", "dpq ddpm", base="", change="", true_bits=1.0)
    with pytest.raises(ValueError, match=r"1 rows .* no teacher"):
        ablation.exported(tmp_path)


def test_the_readme_names_the_rows_in_the_planned_order():
    assert list(ABLATION_ROWS) == list(ablation_rows())
