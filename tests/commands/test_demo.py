from __future__ import annotations

import json
from pathlib import Path

import pytest

from dpqlab import demo
from dpqlab.cli import main
from dpqlab.commands.demo import results_table
from dpqlab.commands.terminal import Terminal
from dpqlab.core import CodebookCodec, ScalarCodec
from dpqlab.demo import PRESETS, DemoConfig, family_and_rate, run_demo
from dpqlab.errors import ConfigError
from dpqlab.evaluation.features import FeatureNet
from dpqlab.report import Report


@pytest.fixture(scope="module")
def outcome(
    tiny: Path, tiny_pq: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Report, Path]:
    out = tmp_path_factory.mktemp("demo") / "out"
    # rounding presets want at least 384 columns
    presets = tuple(name for name in PRESETS if not name.startswith("rtn"))
    config = DemoConfig(
        out=out, source=str(tiny), presets=presets, calibrated=(str(tiny_pq),), steps=2
    )
    few = (ScalarCodec(bits=2, group_size=16), CodebookCodec(d=4, k=8, scope="layer"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "curve_codecs", lambda: few)
        report = run_demo(config, Terminal(as_json=True), FeatureNet(width=4, blocks=(1, 1)).eval())
    return report, out


def test_every_model_is_there(outcome: tuple[Report, Path]) -> None:
    report, out = outcome
    assert [row.group for row in report.rows] == ["full", *["uncalibrated"] * 4, "calibrated"]
    assert [row.family for row in report.rows[1:5]] == ["VQ", "PQ"] * 2
    assert {path.name for path in (out / "models").iterdir()} == set(PRESETS[1:3] + PRESETS[4:])
    assert len(report.points) == 3 * 2


def test_files_are_complete(outcome: tuple[Report, Path]) -> None:
    report, out = outcome
    assert sorted(p.name for p in out.iterdir()) == ["models", "report.html", "summary.json"]
    assert json.loads((out / "summary.json").read_text("utf-8")) == json.loads(
        json.dumps(report.to_dict())
    )
    assert str(out) not in (out / "report.html").read_text("utf-8")


def test_fidelity_is_measured_against_the_first_row(outcome: tuple[Report, Path]) -> None:
    report, _ = outcome
    assert report.rows[0].psnr is None
    assert all(row.psnr is not None and 0 < row.psnr < 100 for row in report.rows[1:])


def test_table_has_all_rows(outcome: tuple[Report, Path]) -> None:
    report, _ = outcome
    assert results_table(report).row_count == len(report.rows) + 2  # and two gaps


def test_names_tell_family_and_rate() -> None:
    assert family_and_rate("fashion-dit-pq-1bit") == ("PQ", 1)
    assert family_and_rate("rtn-2bit") == ("RTN", 2)


def test_a_missing_asset_is_a_clear_error(tiny: Path, tmp_path: Path) -> None:
    config = DemoConfig(out=tmp_path, source=str(tiny), calibrated=("not-there-pq-1bit",))
    with pytest.raises(ConfigError, match=r"not-there-pq-1bit.*doctor"):
        run_demo(config, Terminal())


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_real_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--out", str(tmp_path / "demo"), "--steps", "2"]) == 0
    assert "report.html" in capsys.readouterr().out
    summary = json.loads((tmp_path / "demo" / "summary.json").read_text("utf-8"))
    assert len(summary["models"]) == 11
    by_rate: dict[tuple[str, int], list[float]] = {}
    for model in summary["models"][1:]:
        key = (model["group"], model["nominal_bits"])
        by_rate.setdefault(key, []).append(model["true_bits_per_weight"])
    for bits in by_rate.values():
        assert max(bits) <= 1.02 * min(bits), "rows of one rate are compared at equal true bits"
