from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dpqlab.cli import main
from dpqlab.commands import bench
from dpqlab.errors import BackendError, ConfigError
from dpqlab.speed import Result, Timing, cpu, kmeans, suites
from dpqlab.speed.suites import Options, Piece, pieces_of

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = ["--quick", "--presets", "best-1bit", "--device", "cpu"]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shapes of DiT-XL/2 take seconds; the code is the same."""
    monkeypatch.setattr(cpu, "XL_WIDTH", 64)
    monkeypatch.setattr(cpu, "XL_COPIES", 1)


def one_result(work: str, seconds: float, **changes: Any) -> Result:
    return Result(work=work, way="best-1bit", timing=Timing(rounds=(seconds,)), **changes)


def test_a_guided_step_beside_diffusers_and_dense(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "sampler", "--model", str(tiny), "--images", "1", *SMALL, "--json"]) == 0
    captured = capsys.readouterr()
    said = json.loads(captured.out)
    assert (said["suite"], said["device"]) == ("sampler", "cpu")
    rows = {row["way"]: row for row in said["rows"]}
    modes = ("modulation ahead", "modulation per step")
    assert list(rows) == [
        "diffusers, eager",
        *(f"dense, {mode}" for mode in modes),
        *(f"best-1bit, {mode}" for mode in modes),
    ]
    assert {row["work"] for row in rows.values()} == {"guided step of tiny, 1 image"}
    for mode in modes:
        ours = rows[f"best-1bit, {mode}"]
        assert 0 <= ours["error"] < 1e-5
        assert set(ours["ratios"]) == {"diffusers, eager", "our runtime, dense"}
        assert 0 < ours["bytes"] < rows[f"dense, {mode}"]["bytes"]
        assert rows[f"dense, {mode}"]["ratios"]["our runtime, dense"] == 1
    assert "guided step of tiny, 1 image" in captured.err, "people are still told"


def test_products_beside_dense_ones(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "rows.json"
    assert main(["bench", "kernels", "--model", str(tiny), *SMALL, "--json", str(file)]) == 0
    shown = capsys.readouterr().out
    said = json.loads(file.read_text())
    works = list(dict.fromkeys(row["work"] for row in said["rows"]))
    assert works == [
        "modulation layer 64->384, M=1",
        "modulation layers 32->192 of tiny, M=2",
        "token layers of tiny, M=98",
        "token layers of tiny, M=392",
    ]
    assert all(work in shown for work in works)
    for row in said["rows"]:
        assert row["flops"] > 0
        if row["way"] == "dense":
            assert (row["error"], row["ratios"]) == (None, {"dense": 1.0})
        else:
            assert row["error"] < 1e-5
            assert row["bytes"] > 0
    table = [row for row in said["rows"] if row["work"] == works[0] and row["way"] == "best-1bit"]
    assert table[0]["method"].startswith(("numba", "torch"))


def test_kmeans_beside_the_reference(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ways = [kmeans.REFERENCE, *(way for way in kmeans.ways_here() if "numba" in way)]
    monkeypatch.setattr(kmeans, "ways_here", lambda: ways)
    assert main(["bench", "kmeans", "--quick", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["way"] for row in rows] == ways
    assert all(0 < row["error"] < 1 for row in rows)
    assert rows[0]["ratios"] == {kmeans.REFERENCE: 1.0}


def test_rows_so_far_are_shown_when_it_is_stopped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def stopped() -> list[Result]:
        raise KeyboardInterrupt

    done = Piece(title="done", share=1, run=lambda: [one_result("some work", 0.002)])
    pieces = (done, Piece(title="next", share=1, run=stopped))
    monkeypatch.setattr(bench, "pieces_of", lambda suite, options: pieces)
    file = tmp_path / "rows.json"
    assert main(["bench", "kernels", "--device", "cpu", "--json", str(file)]) == 130
    captured = capsys.readouterr()
    assert "some work" in captured.out
    assert "2 ms" in captured.out
    assert captured.err.splitlines()[-1] == "dpqlab bench: stopped"
    assert len(json.loads(file.read_text())["rows"]) == 1


def test_what_cannot_run_here_is_left_out_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused() -> list[Result]:
        raise BackendError("no compiler")

    done = Piece(title="done", share=1, run=lambda: [one_result("some work", 0.002)])
    pieces = (Piece(title="first", share=1, run=refused), done)
    monkeypatch.setattr(bench, "pieces_of", lambda suite, options: pieces)
    assert main(["bench", "kernels", "--device", "cpu"]) == 0
    captured = capsys.readouterr()
    assert "first: left out (no compiler)" in captured.err
    assert "some work" in captured.out


def test_a_table_shows_every_rival(capsys: pytest.CaptureFixture[str]) -> None:
    results = [
        one_result("w", 0.5, ratios={"a": 2.0}),
        one_result("w", 1e-5, ratios={"a": 0.5, "b": 1.25}, limit=3.0, bytes=10**6, error=1e-3),
    ]
    bench.show(results, bench.Terminal(), "kernels")
    lines = capsys.readouterr().out.splitlines()
    header, first, second = lines[2:5]
    assert "× a" in header
    assert "× b" in header
    assert "±" not in header, "one round has no spread"
    assert first.split()[1:] == ["500", "ms", "2.00", "-", "-", "-", "-"]
    assert second.split()[1:] == ["10", "us", "0.50", "1.25", "3.0", "1.00", "MB", "1.0e-03"]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"presets": ("nope",)}, "no preset 'nope'"),
        ({"presets": ("rtn-2bit",)}, "no codebooks"),
        ({"images": (0,)}, "expected 1 or more"),
    ],
)
def test_options_that_cannot_be(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        Options(**changes)


def test_usual_presets_suit_the_device() -> None:
    assert Options().chosen() == suites.CPU_PRESETS
    assert "vq-1bit" not in Options(device="cuda").chosen()
    assert Options(quick=True).chosen() == suites.QUICK_PRESETS
    assert Options(quick=True, presets=("vq-1bit",)).chosen() == ("vq-1bit",)


def test_the_suites_of_a_gpu_are_laid_out_without_one() -> None:
    titles = [piece.title for piece in pieces_of("kernels", Options(device="cuda"))]
    assert titles[0].startswith("modulation layers")
    assert titles[1:] == [f"token layers, M={rows}" for rows in (256, 512, 4096)]
    titles = [piece.title for piece in pieces_of("sampler", Options(device="cuda"))]
    assert titles == ["dense weights", "dpq-2bit", "best-2bit", "dpq-1bit", "best-1bit"]
