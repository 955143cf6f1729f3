from __future__ import annotations

import dataclasses
import gzip
import json
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dpqlab.checkpoint import load_compressed, read_config
from dpqlab.checkpoint.lock import exclusive
from dpqlab.cli import main
from dpqlab.commands import calibrating, calibration_data, measure
from dpqlab.commands.calibrating import history_of
from dpqlab.commands.stopping import Terminated
from dpqlab.diffusion.models import ModelEntry
from dpqlab.errors import ConfigError
from dpqlab.evaluation import datasets

pytestmark = pytest.mark.usefixtures("one_thread")

STEPS = ["--steps", "6", "--batch", "4", "--every", "2", "--device", "cpu"]
DRAWN = ["--data-free", "2"]


@pytest.fixture
def student(tiny_pq: Path, tiny: Path) -> list[str]:
    """Arguments that name a student and its teacher."""
    return [str(tiny_pq), "--teacher", str(tiny)]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder with 40 images as Fashion-MNIST has them."""
    folder = tmp_path / "idx"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 28, 28), dtype=np.uint8)
    labels = (np.arange(40) % 10).astype(np.uint8)
    for name, array in {"images-idx3": pixels, "labels-idx1": labels}.items():
        head = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
        with gzip.open(folder / f"train-{name}-ubyte.gz", "wb") as file:
            file.write(head + array.tobytes())
    return folder


def calibrate(*arguments: object) -> int:
    return main(["calibrate", *map(str, arguments)])


def stop_after(monkeypatch: pytest.MonkeyPatch, records: int, error: BaseException) -> None:
    """Make the calibration stop after some records, in the middle of a step."""
    whole = calibrating.calibrate

    def stopped(*args: Any, **kwargs: Any) -> Iterator[Any]:
        steps = whole(*args, **kwargs)
        for _ in range(records):
            yield next(steps)
        steps.throw(error)

    monkeypatch.setattr(calibrating, "calibrate", stopped)


def beside(out: Path) -> list[str]:
    """What lies beside OUT and is named after it."""
    return sorted(path.name for path in out.parent.iterdir() if path.name.startswith(out.name))


def test_writes_the_best_state_and_what_was_done(
    student: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "nested" / "out"
    assert calibrate(*student, out, *DRAWN, *STEPS, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert [record["step"] for record in said["records"]] == [0, 2, 4, 6]
    assert said["loss"] == min(record["total"] for record in said["records"])
    assert said["loss"] < said["loss_before"]
    assert (said["stopped"], said["resumed_from"]) == (False, 0)
    assert said["config"]["latent"] is None
    assert beside(out) == ["out"], "an unfinished run is gone once it is finished"
    stored = read_config(out).quantization.provenance
    before = read_config(Path(student[0])).quantization.provenance
    assert (before["calibrated"], stored["calibrated"]) == (0, 1)
    assert stored["calibration_steps"] == 6
    assert stored["calibration_best_step"] == said["best_step"]
    assert stored["source_sha256"] == before["source_sha256"]
    assert stored["relative_errors"] != before["relative_errors"]
    assert str(tmp_path) not in json.dumps(dict(stored))
    card = (out / "README.md").read_text("utf-8")
    assert "6 steps of 4" in card
    assert "trajectories" in card
    old, new = (load_compressed(folder).state_dict() for folder in (student[0], out))
    assert any(not torch.equal(old[name], new[name]) for name in new)


def test_a_full_precision_model_is_compressed_first(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = [tiny, out, "--preset", "best-1bit", *DRAWN, *STEPS, "--codes", "latent"]
    assert calibrate(*arguments, "--guidance", "1.5", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["preset"] == "best-1bit"
    assert said["config"]["latent"] is not None
    assert said["config"]["objective"]["guidance"] == 1.5
    assert max(record["changed"] for record in said["records"]) > 0
    assert read_config(out).quantization.provenance["source"] == "tiny"


def test_real_images_serve_the_loss_of_the_paper(
    tiny: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [tiny, tmp_path / "out", "--preset", "vq-2bit", "--data", images, *STEPS]
    assert calibrate(*arguments, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["data"] == "40 images of Fashion-MNIST"
    assert said["config"]["objective"]["ddpm"] == 1
    assert said["config"]["e_step"] is not None
    assert said["config"]["holdout"] == 8


def default_folder(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Put Fashion-MNIST's default folder elsewhere."""
    fashion = dataclasses.replace(datasets.dataset_of("fashion-dit"), default_folder=folder)
    monkeypatch.setattr(datasets, "DATASETS", (fashion,))


def test_without_data_the_teacher_draws_and_it_is_said(
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    default_folder(monkeypatch, tmp_path / "nowhere")
    monkeypatch.setattr(calibration_data, "TRAJECTORIES", {"cpu": 1, "cuda": 1})
    assert calibrate(tiny, tmp_path / "out", "--preset", "vq-2bit", *STEPS) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "50 noisy images of 1 of the teacher's own trajectories" in shown
    assert "needs real images: distilling instead" in shown


def test_the_data_of_the_system_are_used_where_they_fit(
    tiny: Path,
    save_tiny: Any,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    default_folder(monkeypatch, images)
    monkeypatch.setattr(calibration_data, "TRAJECTORIES", {"cpu": 1, "cuda": 1})
    assert calibrate(tiny, tmp_path / "a", "--preset", "pq-2bit", *STEPS) == 0
    assert "40 images of Fashion-MNIST" in capsys.readouterr().out
    other = save_tiny(tmp_path / "other", num_embeds_ada_norm=4)
    assert calibrate(other, tmp_path / "b", "--preset", "pq-2bit", *STEPS) == 0
    assert "trajectories" in capsys.readouterr().out
    assert calibrate(other, tmp_path / "c", "--preset", "pq-2bit", "--data", images, *STEPS) == 2
    assert "the teacher draws 4 classes" in capsys.readouterr().err


def test_ctrl_c_keeps_the_best_and_resuming_is_as_if_nothing_had_happened(
    student: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert calibrate(*student, whole, *DRAWN, *STEPS, "--json") == 0
    wanted = json.loads(capsys.readouterr().out)
    with monkeypatch.context() as patch:
        stop_after(patch, 2, KeyboardInterrupt())
        assert calibrate(*student, parts, *DRAWN, *STEPS, "--json") == 130
    captured = capsys.readouterr()
    stopped = json.loads(captured.out)
    assert stopped["stopped"]
    line = captured.err.splitlines()[-1]
    assert line.startswith("dpqlab calibrate: stopped after step 2 of 6")
    assert str(parts) in line
    assert "--resume" in line
    load_compressed(parts)
    assert beside(parts) == ["parts", "parts.calibration", "parts.calibration.jsonl"]

    assert calibrate(*student, parts, *DRAWN, *STEPS) == 2
    assert "--resume" in capsys.readouterr().err
    assert calibrate(*student, parts, *DRAWN, *STEPS, "--resume", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["resumed_from"] == 2
    assert [r["total"] for r in found["records"]] == [r["total"] for r in wanted["records"]]
    assert beside(parts) == ["parts"]
    first, second = (load_compressed(folder).state_dict() for folder in (whole, parts))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert "calibration_stopped_at" not in read_config(parts).quantization.provenance


def test_ctrl_c_before_anything_was_judged_leaves_nothing(
    student: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stop_after(monkeypatch, 1, KeyboardInterrupt())
    assert calibrate(*student, tmp_path / "out", *DRAWN, *STEPS) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "dpqlab calibrate: stopped"
    assert beside(tmp_path / "out") == []


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (Terminated(), 143, "stopped after step 2 of 6"),
        (RuntimeError("can't allocate memory"), 2, "memory ran out in a step of 4 images"),
    ],
    ids=["SIGTERM", "out of memory"],
)
def test_what_stops_it_leaves_the_best_and_the_way_on(
    student: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    said: str,
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        stop_after(patch, 2, error)
        assert calibrate(*student, out, *DRAWN, *STEPS) == code
    line = capsys.readouterr().err.splitlines()[-1]
    assert said in line
    assert "--resume" in line
    load_compressed(out)
    assert beside(out) == ["out", "out.calibration", "out.calibration.jsonl"]
    assert calibrate(*student, out, *DRAWN, *STEPS, "--resume") == 0
    assert beside(out) == ["out"]


def test_a_second_one_of_the_same_name_is_refused(
    student: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with exclusive(tmp_path / "out.calibration"):
        assert calibrate(*student, tmp_path / "out", *DRAWN, *STEPS) == 2
    assert "held by another process" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_calibration_that_diverges_keeps_the_best(
    student: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    stop_after(monkeypatch, 2, ConfigError("calibration diverged at step 4"))
    assert calibrate(*student, out, *DRAWN, *STEPS) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("dpqlab calibrate: calibration diverged")
    assert "holds the best state so far (step 2)" in line
    load_compressed(out)
    assert beside(out) == ["out"]


def test_a_foreign_run_is_refused_and_stays(
    student: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        stop_after(patch, 2, KeyboardInterrupt())
        assert calibrate(*student, out, *DRAWN, *STEPS) == 130
    progress = tmp_path / "out.calibration"
    before = (progress.read_bytes(), history_of(progress).read_bytes())
    capsys.readouterr()
    assert calibrate(*student, out, *DRAWN, *STEPS, "--seed", "1", "--resume") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "is of another calibration" in error
    assert (progress.read_bytes(), history_of(progress).read_bytes()) == before
    progress.write_bytes(b"nothing of ours")
    assert calibrate(*student, out, *DRAWN, *STEPS, "--resume") == 2
    assert "cannot be read" in capsys.readouterr().err.splitlines()[-1]
    load_compressed(out)
    assert calibrate(*student, out, *DRAWN, *STEPS, "--overwrite") == 0
    assert beside(out) == ["out"]


def test_a_damaged_history_costs_the_records_only(
    student: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        stop_after(patch, 3, KeyboardInterrupt())
        assert calibrate(*student, out, *DRAWN, *STEPS) == 130
    (tmp_path / "out.calibration.jsonl").write_text("{}\n")
    capsys.readouterr()
    assert calibrate(*student, out, *DRAWN, *STEPS, "--resume", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert [record["step"] for record in said["records"]] == [4, 6]


def test_nothing_is_replaced_without_being_asked(
    student: list[str], tiny_pq: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_pq, other)
    for flags in ([], ["--resume"]):
        assert calibrate(*student, other, *DRAWN, *STEPS, *flags) == 2
        assert "--overwrite" in capsys.readouterr().err
    assert calibrate(*student, tiny_pq, *DRAWN, *STEPS, "--overwrite") == 2
    assert "is the model itself" in capsys.readouterr().err
    assert beside(other) == ["other"]


def test_a_teacher_is_found_by_name_and_hash_or_has_to_be_named(
    tiny: Path,
    tiny_pq: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    assert calibrate(tiny_pq, out, *DRAWN, *STEPS) == 2
    assert "--teacher" in capsys.readouterr().err
    entry = ModelEntry(name="tiny", path=tiny, kind="full", bytes_on_disk=0)
    monkeypatch.setattr(measure, "bundled", lambda: (entry,))
    monkeypatch.chdir(tiny.parent)
    assert calibrate(tiny_pq, out, *DRAWN, *STEPS) == 0


def test_teachers_that_cannot_be(
    save_tiny: Any,
    tiny: Path,
    tiny_pq: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    wider = save_tiny(tmp_path / "wider", attention_head_dim=32)
    for teacher, expected in ((wider, "has no layer"), (tiny_pq, "is compressed")):
        assert calibrate(tiny_pq, out, "--teacher", teacher, *DRAWN, *STEPS) == 2
        assert expected in capsys.readouterr().err
    assert calibrate(tiny, out, "--preset", "rtn-2bit", *DRAWN, *STEPS) == 2
    assert "has no codebooks" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--objective", "ddpm"], "needs real images"),
        (["--objective", "ddpm", "--guidance", "1.5"], "--guidance"),
        (["--batch", "3", "--guidance", "1.5"], "even"),
        (["--data", "."], "train-images"),
        (["--preset", "pq-1bit"], "leave --preset out"),
    ],
)
def test_options_that_do_not_go_together(
    flags: list[str],
    expected: str,
    student: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    drawn = [] if "--data" in flags else DRAWN
    assert calibrate(*student, out, *drawn, *STEPS, *flags) == 2
    captured = capsys.readouterr()
    assert expected in captured.err.splitlines()[-1]
    assert beside(out) == []
