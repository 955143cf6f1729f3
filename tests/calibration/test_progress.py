"""Calibrations that are interrupted, and go on from a file."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dpqlab.calibration import (
    CalibrationRecord,
    EStepSchedule,
    LatentConfig,
    Objective,
    RevivalConfig,
    RevivalSchedule,
    calibrate,
)
from dpqlab.calibration.distiller import Distiller
from dpqlab.calibration.masters import Snapshot
from dpqlab.calibration.progress import Progress, load_progress, save_progress
from dpqlab.checkpoint import atomic
from dpqlab.errors import CheckpointError
from tests.calibration.conftest import CONFIG, PQ, QUICK, VQ_KIND
from tests.calibration.states import course, held_out_loss, same, state_of, untouched

BASE = replace(CONFIG, steps=5, every=2, warmup=1, batch=8, holdout=8)
REVIVAL = RevivalSchedule(every=3, until=1.0, settings=RevivalConfig(share=0.8))
E_STEP = EStepSchedule(every=3, batches=1, settings=QUICK)
CONFIGS = {
    "fixed codes": BASE,
    "latents": replace(BASE, latent=LatentConfig(learning_rate=0.1, every=3), revival=REVIVAL),
    "moves": replace(BASE, e_step=E_STEP, revival=REVIVAL),
    "guidance": replace(BASE, objective=Objective(ddpm=0.5, guidance=2.0, timestep_power=-0.5)),
}
CODECS = {"fixed codes": PQ, "latents": VQ_KIND, "moves": VQ_KIND, "guidance": PQ}
Full = tuple[list[CalibrationRecord], dict[str, torch.Tensor]]


@pytest.fixture(scope="module")
def full(compressed: Any, teacher: Any, data: Any) -> Callable[[str], Full]:
    """``full(name)``: the records and the final state of a run that nothing interrupted."""
    made: dict[str, Full] = {}

    def run(name: str) -> Full:
        if name not in made:
            torch.set_num_threads(1)
            student = compressed(CODECS[name])
            made[name] = (list(calibrate(student, teacher, data, CONFIGS[name])), state_of(student))
        return made[name]

    return run


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "run.progress"


@pytest.fixture
def stopped(compressed: Any, teacher: Any, data: Any, file: Path) -> Path:
    """The file of a run that was stopped at its second record."""
    stop_at(2, compressed(), teacher, data, BASE, file)
    return file


def stop_at(count: int, student: Any, teacher: Any, data: Any, config: Any, file: Path) -> None:
    """Draw some records, then close the generator."""
    run = calibrate(student, teacher, data, config, progress=file)
    for _ in range(count):
        next(run)
    run.close()


@pytest.mark.parametrize("name", CONFIGS)
def test_a_stopped_run_goes_on_as_if_nothing_had_happened(
    full, compressed, teacher, data, file, name
):
    records, state = full(name)
    moving = name in ("latents", "moves")
    assert any(record.changed > 0 for record in records) == moving
    assert any(record.revived > 0 for record in records) == moving
    for count in (1, 2, 2):  # stopped again and again, with one file
        student = compressed(CODECS[name])
        stop_at(count, student, teacher, data, CONFIGS[name], file)
        assert untouched(student)
    student = compressed(CODECS[name])
    rest = list(calibrate(student, teacher, data, CONFIGS[name], progress=file))
    assert course(rest) == course(records[2:])
    assert same(state_of(student), state)
    assert [path.name for path in file.parent.iterdir()] == [file.name]


@pytest.mark.parametrize("name", ["fixed codes", "latents", "moves"])
def test_a_run_that_broke_off_between_records_goes_on_from_the_last(
    full, compressed, teacher, data, file, monkeypatch, name
):
    records, state = full(name)
    step, taken = Distiller.step, []

    def breaks(distiller: Distiller, *given: Any) -> None:
        if len(taken) == 3:
            raise KeyboardInterrupt
        taken.append(1)
        step(distiller, *given)

    monkeypatch.setattr(Distiller, "step", breaks)
    student, seen = compressed(CODECS[name]), []
    with pytest.raises(KeyboardInterrupt):
        for record in calibrate(student, teacher, data, CONFIGS[name], progress=file):
            seen.append(record)
    assert course(seen) == course(records[:2])
    # products outside of a calibration come from another kernel, which may sum in another order
    least = min(r.total for r in seen)
    assert held_out_loss(student, teacher, data, BASE) == pytest.approx(least, rel=1e-6)
    assert untouched(student)
    monkeypatch.undo()
    again = compressed(CODECS[name])
    rest = list(calibrate(again, teacher, data, CONFIGS[name], progress=file))
    assert course(rest) == course(records[1:])
    assert same(state_of(again), state)


def test_time_adds_up_and_a_finished_run_gives_its_last_record(
    full, compressed, teacher, data, stopped
):
    records, state = full("fixed codes")
    first = list(calibrate(compressed(), teacher, data, BASE, progress=stopped))
    seconds = [record.seconds for record in first]
    assert seconds[0] > 0
    assert seconds == sorted(seconds)
    student = compressed()
    again = list(calibrate(student, teacher, data, BASE, progress=stopped))
    assert again == first[-1:]
    assert course(again) == course(records[-1:])
    assert same(state_of(student), state)


def test_what_is_resumed_is_the_best_state_and_not_the_last(compressed, teacher, data, file):
    settings = replace(BASE, learning_rate=5.0, steps=4)
    stop_at(2, compressed(), teacher, data, settings, file)
    student = compressed()
    records = list(calibrate(student, teacher, data, settings, progress=file))
    assert [record.best for record in records] == [False, False]
    assert same(state_of(student), state_of(compressed()))


def test_the_file_of_another_run_is_refused_and_left_alone(compressed, teacher, data, stopped):
    before = stopped.read_bytes()
    fewer = replace(data, images=data.images[1:], labels=data.labels[1:])
    others = replace(data, images=255 - data.images)
    trained = compressed()
    with torch.no_grad():
        next(p for n, p in trained.named_parameters() if n.endswith("pool"))[0, 0] += 0.125
    recoded = compressed()
    layer = recoded.transformer_blocks[1].ff.net[2]
    layer.set_codes_(layer.codes().roll(1, 0))
    for student, given, config in (
        (compressed(), data, replace(BASE, seed=1)),
        (compressed(), data, CONFIGS["latents"]),
        (compressed(), fewer, BASE),
        (compressed(), others, BASE),
        (trained, data, BASE),
        (recoded, data, BASE),
    ):
        start = state_of(student)
        with pytest.raises(CheckpointError, match=r"another calibration \(other model, settings"):
            next(calibrate(student, teacher, given, config, progress=stopped))
        assert same(state_of(student), start)
        assert untouched(student)
    assert stopped.read_bytes() == before


def test_a_file_of_something_else_is_refused(student, teacher, data, file):
    from safetensors.torch import save_file

    contents = (b"", b"no tensors", b"\x00" * 100, b"\xff" * 100)
    for content in contents:
        file.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"cannot be read: .*; delete it"):
            next(calibrate(student, teacher, data, BASE, progress=file))
        assert file.read_bytes() == content
    key = "dpqlab_calibration"
    for metadata in (None, {"format": "pt"}, {key: "[]"}, {key: "{}"}, {key: '{"version": "0"}'}):
        save_file({"x": torch.zeros(2)}, file, metadata=metadata)
        with pytest.raises(CheckpointError, match="no calibration of this dpqlab"):
            load_progress(file, "run")
    save_file({"x": torch.zeros(2)}, file, metadata={key: "{not json"})
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_progress(file, "run")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_progress(file.parent, "run")


def small(file: Path) -> bytes:
    """Save a small run; return the bytes of its file."""
    tensors = {
        "master.a.pool": torch.randn(3, 2),
        "adam.step.a.pool": torch.tensor(4.0),
        "generator": torch.Generator().get_state()[:40],
    }
    best = Snapshot(
        parameters={"a.pool": torch.randn(3, 2).half()},
        codes={"a": torch.arange(5).to(torch.uint8)},
    )
    figures = {"lowest": 0.1, "record": {"step": 3}}
    save_progress(file, Progress(run="run", tensors=tensors, best=best, figures=figures))
    return file.read_bytes()


def test_what_is_loaded_is_what_was_saved(file):
    small(file)
    found = load_progress(file, "run")
    assert found.figures == {"lowest": 0.1, "record": {"step": 3}}
    assert found.tensors["adam.step.a.pool"].shape == ()
    assert found.tensors.keys() == {"master.a.pool", "adam.step.a.pool", "generator"}
    assert found.best.parameters["a.pool"].dtype == torch.float16
    assert found.best.codes["a"].tolist() == [0, 1, 2, 3, 4]
    file.unlink()
    assert found.best.codes["a"].sum() == 10  # nothing reads from the file any more


def test_damage_is_noticed_wherever_it_is(file):
    whole = small(file)
    for length in (*range(0, len(whole), 37), len(whole) - 1):
        file.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"cannot be read|damaged|no calibration"):
            load_progress(file, "run")
    file.write_bytes(whole + b"\0")
    with pytest.raises(CheckpointError):
        load_progress(file, "run")
    spaces = {i for i, byte in enumerate(whole) if byte == ord(" ")}  # padding of the header
    for place in random.Random(0).sample(sorted(set(range(len(whole))) - spaces), 200):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << (place % 8)
        file.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            load_progress(file, "run")


def test_a_full_disk_keeps_the_best_state_and_the_last_file(
    compressed, teacher, data, file, monkeypatch
):
    def full_disk(path: Path, content: bytes) -> None:
        path.write_bytes(content[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    student, records = compressed(), []
    run = calibrate(student, teacher, data, BASE, progress=file)
    records.append(next(run))
    before = file.read_bytes()
    monkeypatch.setattr(atomic, "write_file", full_disk)
    with pytest.raises(CheckpointError, match=r"No space left .*bytes are needed.* unchanged"):
        next(run)
    monkeypatch.undo()
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]
    assert held_out_loss(student, teacher, data, BASE) < 0.9 * records[0].total
    assert untouched(student)
    with pytest.raises(StopIteration):
        next(run)
    rest = list(calibrate(compressed(), teacher, data, BASE, progress=file))
    assert rest[0] == records[0]


def test_an_error_without_a_name_still_says_something(compressed, teacher, data, file, monkeypatch):
    def refuses(path: Path, content: bytes) -> None:
        raise PermissionError("not here")

    monkeypatch.setattr("dpqlab.checkpoint.whole.replace_file", refuses)
    student = compressed()
    with pytest.raises(CheckpointError, match=r"could not write .*: not here"):
        next(calibrate(student, teacher, data, BASE, progress=file))
    assert same(state_of(student), state_of(compressed()))
    assert untouched(student)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="could not write"):
        next(calibrate(student, teacher, data, BASE, progress=file / "no" / "folder"))


def test_replacing_a_file_leaves_nothing_beside_it(file):
    atomic.replace_file(file, b"old")
    atomic.replace_file(file, b"new")
    assert file.read_bytes() == b"new"
    assert list(file.parent.iterdir()) == [file]
    file.unlink()
    file.mkdir()
    with pytest.raises(OSError, match="directory"):
        atomic.replace_file(file, b"a folder is in the way")
    assert list(file.parent.iterdir()) == [file]
