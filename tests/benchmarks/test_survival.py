"""Jobs come through kills, signals, bad disks, little memory and company: parts of the suite."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from benchmarks.record import validate
from benchmarks.survival import gpu
from benchmarks.survival.__main__ import PARTS, Setting, record_of
from benchmarks.survival.company import foreign_records, second_jobs, thread_counts
from benchmarks.survival.disks import TROUBLES, replacing, too_long, troubled
from benchmarks.survival.faults import Fault
from benchmarks.survival.jobs import JOBS, Place, Whole, whole
from benchmarks.survival.kills import killed_at_random, killed_at_steps, spread
from benchmarks.survival.memory import starved
from benchmarks.survival.nursery import nursery
from benchmarks.survival.stops import stopped_at_random

COMPRESS = JOBS["compress"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Tiny models, and a process that jobs are forked from."""
    with nursery() as parent:
        yield Place.prepared(parent, tmp_path_factory.mktemp("survival"))


@pytest.fixture(scope="module")
def base(place: Place) -> Whole:
    """A compression that nothing happens to."""
    return whole(place, COMPRESS)


def test_a_job_is_what_it_seems(base: Whole) -> None:
    """It writes in many steps, each of which can be hit, and leaves its result alone."""
    assert base.left == ("m",)
    assert base.outcome.steps > 50
    assert base.outcome.pieces > 7
    assert "m/transformer/diffusion_pytorch_model.safetensors" in base.result


def test_a_kill_is_a_kill_and_its_trace_is_seen(place: Place, base: Whole) -> None:
    """What the harness says of a job that does not go on: that it is not the same."""
    place.fresh()
    outcome = place.run(COMPRESS, fault=Fault(kind="kill", step=60))
    assert outcome.code == -9
    assert outcome.steps == 60
    assert place.left() == ["m.partial"]
    assert not base.result.items() <= place.result(COMPRESS, outcome).items()


@pytest.mark.parametrize("kind", ["kill", "tear"])
def test_compress_killed_at_write_steps(place: Place, base: Whole, kind: str) -> None:
    steps = spread(base.outcome.steps, 4)
    for found in killed_at_steps(place, COMPRESS, base, steps, kind):  # type: ignore[arg-type]
        assert found.hit, found
        assert found.same, found
        assert found.redone <= 1, found


def test_compress_on_a_full_disk(place: Place, base: Whole) -> None:
    middle = base.outcome.steps // 2
    found = list(troubled(place, COMPRESS, base, "full disk", range(middle, middle + 3)))
    assert all(one.sound and one.hit for one in found), found
    assert any(one.bytes_named for one in found), found
    assert all(one.sound for one in too_long(place, COMPRESS, base, [2000]))


@pytest.mark.slow  # moments at random: what it finds now and then is for a quiet look, not for CI
def test_compress_stopped_in_order(place: Place, base: Whole) -> None:
    found = list(stopped_at_random(place, COMPRESS, base, 4, random.Random(0)))
    assert all(one.orderly for one in found), found


@pytest.mark.slow
def test_compress_in_company(place: Place, base: Whole) -> None:
    found = [*second_jobs(place, COMPRESS, base), *foreign_records(place, COMPRESS, base)]
    assert len(found) == 5
    assert all(one.sound for one in found), found


@pytest.mark.slow
def test_sampling_takes_fewer_images_at_a_time_where_memory_runs_out(place: Place) -> None:
    job = JOBS["sample"]
    found = list(starved(place, job, whole(place, job)))
    assert [one.hit for one in found] == [False, False, True, True]  # decoding cannot be halved
    assert all(one.sound for one in found), found


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", list(JOBS))
def test_every_job_survives(place: Place, name: str) -> None:
    job = JOBS[name]
    undisturbed = whole(place, job)
    steps = spread(undisturbed.outcome.steps, 8)
    killed = [
        *killed_at_steps(place, job, undisturbed, steps),
        *killed_at_random(place, job, undisturbed, 4, random.Random(1)),
    ]
    assert all(one.same and one.redone <= 1 for one in killed), killed
    disks = [
        one for kind in TROUBLES for one in troubled(place, job, undisturbed, kind, steps[::3])
    ]
    if undisturbed.left and job.program == "dpqlab":
        disks += replacing(place, job, undisturbed, steps[::3])
    others = [*starved(place, job, undisturbed), *thread_counts(place, job, undisturbed)]
    others += [*second_jobs(place, job, undisturbed), *foreign_records(place, job, undisturbed)]
    assert all(one.sound for one in [*disks, *others]), [*disks, *others]


@pytest.mark.slow
def test_a_part_makes_records(place: Place, base: Whole) -> None:
    setting = Setting(kills=5, most=2, seed=0)
    for part in ("kills", "threads"):
        for tally in PARTS[part](place, COMPRESS, base, setting):
            record = record_of(COMPRESS, tally)
            validate(record)
            assert record["value"] == 1.0, record


FOUND = {
    "whole": [0.7, 0.5],
    "pieces": [0.7, 0.51],
    "peak_bytes": 100,
    "limit_bytes": 60,
    "bytes_in_pieces": 59,
}


def test_less_memory_is_less_memory_and_the_same_losses() -> None:
    assert gpu.came_through(FOUND)
    for change in ({"pieces": [0.7, 0.6]}, {"bytes_in_pieces": 61}, {"peak_bytes": 60}):
        assert not gpu.came_through(FOUND | change), change


def test_without_a_gpu_there_is_nothing_to_measure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit):
        gpu.main([])
    assert "wants a GPU, and PyTorch sees none" in capsys.readouterr().err


@pytest.mark.gpu
def test_memory_that_runs_out_for_real() -> None:
    assert gpu.came_through(gpu.measured())
