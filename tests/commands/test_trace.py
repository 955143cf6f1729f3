from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dpqlab.cli import main
from dpqlab.commands import trace as command
from dpqlab.diffusion.sampling import SampleRequest
from dpqlab.tracing import Trace, load_pair, trace


def test_it_writes_the_trace_and_tells_what_it_found(
    tiny: Path, tiny_pq: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "trace.npz"
    options = ["--classes", "bag,0-2", "--steps", "3", "--batch", "3", "--json"]
    assert main(["trace", str(tiny), str(tiny_pq), "--out", str(out), *options]) == 0
    said = json.loads(capsys.readouterr().out)
    written = Trace.load(out)
    assert said["student"] == written.name == "tiny-pq-1bit"
    assert said["images"] == 4
    assert said["blocks"]["local"]["transformer_blocks.1"] == pytest.approx(
        written.by_block("local")[1]
    )
    request = SampleRequest(labels=(8, 0, 1, 2), steps=3)
    expected = trace(load_pair(tiny, tiny_pq), request)
    np.testing.assert_allclose(
        written.error("accumulated"), expected.error("accumulated"), rtol=1e-3
    )
    assert written.error("local").min() > 0


def test_a_table_for_people(
    tiny: Path, tiny_pq: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "trace.npz"
    options = ["--classes", "1", "--count", "2", "--steps", "2", "--scheduler", "dpm"]
    assert main(["trace", str(tiny), str(tiny_pq), "--out", str(out), *options]) == 0
    shown = capsys.readouterr().out
    assert "transformer_blocks.1" in shown
    assert "accumulated" in shown
    assert "Drawing 2 images" in shown
    assert Trace.load(out).about.sampler == "dpm"


def test_ctrl_c_leaves_no_half_file(
    tiny: Path, tiny_pq: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = tmp_path / "trace.npz"
    out.write_bytes(b"what was there")
    steps = command.trace_steps

    def interrupted(*arguments):
        yield next(steps(*arguments))
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "trace_steps", interrupted)
    options = ["--classes", "1", "--steps", "2", "--out", str(out)]
    assert main(["trace", str(tiny), str(tiny_pq), *options]) == 130
    assert "stopped" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["trace.npz"]
    assert out.read_bytes() == b"what was there"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--steps", "0"], "steps is 0"),
        (["--count", "0"], "--count is 0"),
        (["--batch", "0"], "batch is 0"),
        (["--pictures", "-1"], "pictures is -1"),
        (["--classes", "shoe lace"], "shoe lace"),
        (["--out", "trace.txt"], "ends in .npz"),
        (["--out", "."], "is a folder"),
    ],
)
def test_bad_input_is_one_line(
    options: list[str], message: str, tiny: Path, tiny_pq: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(["trace", str(tiny), str(tiny_pq), "--out", "t.npz", *options]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not list(tmp_path.glob("*.npz"))


def test_models_that_do_not_match(
    tiny: Path, save_tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = save_tiny(tmp_path / "other", num_layers=1)
    out = tmp_path / "trace.npz"
    assert main(["trace", str(tiny), str(other), "--out", str(out)]) == 2
    assert "expected the same blocks" in capsys.readouterr().err
