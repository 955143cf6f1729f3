"""Recorded pruning runs: they come back as they were saved, and nothing else is believed."""

from __future__ import annotations

import zipfile
from dataclasses import replace

import numpy as np
import pytest

from dpqlab.errors import CheckpointError, ConfigError
from dpqlab.studies.pruning_runs import (
    ERRORS,
    PARTS,
    PoolPoint,
    PruningRun,
    RunPoint,
    bundled_run,
    bundled_runs,
    equal_bits,
    front,
)
from tests.archives import change_npz, in_about


def point(bits, error, budget=None):
    pools = (PoolPoint(kind="ff", form="ragged", codewords=9, share=0.1, weighted_error=error),)
    return RunPoint(
        budget=budget,
        share=0.1,
        codewords=9,
        parts=dict.fromkeys(PARTS, 800),
        true_bits=bits,
        stored_bytes=600,
        weight_error=error,
        weighted_error=error,
        noise_error=error,
        image_error=error,
        pools=pools,
    )


@pytest.fixture
def run():
    return PruningRun(
        name="tiny",
        points=(point(4.0, 0.1), point(3.0, 0.2, 0.25)),
        samples=np.arange(2 * 3 * 16, dtype=np.uint8).reshape(2, 3, 1, 4, 4),
        teacher=np.zeros((3, 1, 4, 4), dtype=np.uint8),
        labels=(0, 1, 2),
        about={"source": "x"},
    )


def test_a_run_comes_back_as_it_was_saved(run, tmp_path):
    run.save(tmp_path / "run.npz")
    back = PruningRun.load(tmp_path / "run.npz")
    assert (back.name, back.points, back.labels, back.about) == (
        run.name,
        run.points,
        run.labels,
        run.about,
    )
    assert np.array_equal(back.samples, run.samples)
    assert np.array_equal(back.teacher, run.teacher)


def test_the_front_is_what_nobody_beats():
    points = [point(4, 0.1), point(3, 0.3), point(2, 0.2), point(2, 0.4), point(1, 0.9)]
    assert front(points, "noise_error") == (0, 2, 4)
    with pytest.raises(ConfigError, match="unknown error"):
        front(points, "bytes")


def test_pairs_have_equal_bits(run):
    other = replace(run, points=(point(4.07, 0.5), point(2.95, 0.6)))
    bits = [(p.true_bits, q.true_bits) for p, q in equal_bits(run, other)]
    assert bits == [(4.0, 4.07), (3.0, 2.95)]
    assert equal_bits(run, other, within=0.01) == ()


CHANGES = {
    "a missing key": in_about(lambda about: about["points"][0].pop("share")),
    "an unknown key": in_about(lambda about: about["points"][0].update(extra=1)),
    "another part": in_about(lambda about: about["points"][0]["parts"].update(gold=1)),
    "a negative error": in_about(lambda about: about["points"][1].update(noise_error=-1)),
    "no number": in_about(lambda about: about["points"][1].update(true_bits="4")),
    "NaN": in_about(lambda about: about["points"][1].update(true_bits=float("nan"))),
    "a truth as a count": in_about(lambda about: about["points"][1].update(codewords=True)),
    "no points": in_about(lambda about: about.update(points=[])),
    "points as text": in_about(lambda about: about.update(points="none")),
    "too few labels": in_about(lambda about: about.update(labels=[1])),
    "floats as pictures": lambda arrays: arrays.update(teacher=np.zeros((3, 1, 4, 4))),
    "too few pictures": lambda arrays: arrays.update(samples=arrays["samples"][:1]),
    "another array": lambda arrays: arrays.update(more=np.zeros(1)),
    "objects": lambda arrays: arrays.update(samples=np.array([{}, {}], dtype=object)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_was_changed_is_refused(name, run, tmp_path):
    run.save(tmp_path / "run.npz")
    change_npz(tmp_path / "run.npz", CHANGES[name])
    with pytest.raises(CheckpointError, match="cannot be read as a pruning run"):
        PruningRun.load(tmp_path / "run.npz")


def test_damaged_and_huge_files_are_refused(run, tmp_path):
    path = tmp_path / "run.npz"
    run.save(path)
    data = path.read_bytes()
    for bad in (b"", b"PK", data[: len(data) // 2], b"\x93NUMPY" + data):
        path.write_bytes(bad)
        with pytest.raises(CheckpointError):
            PruningRun.load(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("samples.npy", bytes(9_000_000))
    with pytest.raises(CheckpointError, match="unpacks to"):
        PruningRun.load(path)
    with pytest.raises(CheckpointError):
        PruningRun.load(tmp_path / "nothing.npz")


def test_pictures_must_fit_the_points(run):
    with pytest.raises(ConfigError, match="do not fit"):
        replace(run, labels=(0,))


def test_the_runs_that_ship_can_be_loaded():
    names = bundled_runs()
    assert names[0] == "dpq-4bit"
    for name in names:
        run = bundled_run(name)
        assert run.name == name
        for error in ERRORS:
            assert len(front(run.points, error)) >= 2
    with pytest.raises(ConfigError, match="no pruning run is called 'x': expected one of dpq-4bit"):
        bundled_run("x")
