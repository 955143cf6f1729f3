from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dpqlab import demo
from dpqlab.cli import main
from dpqlab.commands.demo import results_table
from dpqlab.commands.expected import CALIBRATED
from dpqlab.commands.terminal import Terminal
from dpqlab.core import CodebookCodec, ScalarCodec, encode, fit_pool
from dpqlab.demo import (
    PRESETS,
    DemoConfig,
    family_and_rate,
    has_whole_codebooks,
    joined,
    run_demo,
)
from dpqlab.errors import ConfigError
from dpqlab.evaluation.features import FeatureNet
from dpqlab.nn import CompressedLinear
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
    assert family_and_rate("fashion-dit-best-1.25bit") == ("Best", 1.25)
    assert family_and_rate("fashion-dit-dpq-2bit") == ("DPQ", 2)


def test_bundled_models_come_by_rate_and_then_by_family() -> None:
    families = ("VQ", "PQ", "DPQ", "Best")
    found = [family_and_rate(name) for name in CALIBRATED]
    assert found == sorted(found, key=lambda pair: (-pair[1], families.index(pair[0])))
    assert {("Best", 2), ("Best", 1)} <= set(found)


def test_the_live_part_stays_fast() -> None:
    assert not any(name.startswith(("dpq", "best")) for name in PRESETS)


@pytest.mark.parametrize(
    ("codecs", "text"),
    [
        ([], ""),
        (["VQ d=4 k=256"], "VQ d=4 k=256"),
        (["VQ/kind d=8 k=512 +scale", "VQ/kind d=8 k=64 +scale"], "VQ/kind d=8 k=64/512 +scale"),
        (["PQ d=4 k=16", "VQ d=4 k=16"], "PQ d=4 k=16, VQ d=4 k=16"),
    ],
)
def test_codecs_that_differ_in_k_alone_are_one(codecs: list[str], text: str) -> None:
    assert joined(codecs) == text


@pytest.mark.parametrize("whole", [True, False])
def test_only_whole_codebooks_are_projected(whole: bool) -> None:
    weight = torch.randn(600, 16, generator=torch.Generator().manual_seed(0))
    codec = CodebookCodec(d=8, k=16, scope="position")
    generator = torch.Generator().manual_seed(0)
    encoded = encode(weight, codec, fit_pool([weight], codec, generator=generator))
    if not whole:
        pool = encoded.pool
        keep = torch.tensor([*range(10), *range(16, 32)])
        base = torch.tensor([0, 10, 26])
        pool = replace(pool, entries=pool.entries[keep], base=base)
        encoded = replace(encoded, pool=pool, codes=encoded.codes.clamp(max=9))
    assert has_whole_codebooks(CompressedLinear.from_encoded(encoded, codec)) is whole


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
    assert len(summary["models"]) == 1 + len(PRESETS) + len(CALIBRATED)
    assert summary["ablation"]["results"]
    by_rate: dict[tuple[str, float], dict[str, float]] = {}
    for model in summary["models"][1:]:
        key = (model["group"], model["nominal_bits"])
        by_rate.setdefault(key, {})[model["family"]] = model["true_bits_per_weight"]
    for (_, rate), bits in by_rate.items():
        best = bits.pop("Best", 0.0)
        least = min(bits.values(), default=best)
        assert best <= least, "no larger than what it is shown beside"
        # dpq-2bit keeps the paper's budget for codebooks, and docs/results.md says what that costs
        apart = 1.1 if {"VQ", "DPQ"} <= bits.keys() and rate == 2 else 1.02
        assert max(bits.values(), default=least) <= apart * least, "equal true bits"
