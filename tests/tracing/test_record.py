"""A trace in memory and in a file, and what is refused as one."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from dpqlab.errors import CheckpointError, ConfigError
from dpqlab.nn.accounting import ledger_of_model
from dpqlab.tracing import EDGES, MEASURES, Trace, TraceBuilder, trace_steps
from dpqlab.tracing.record import KIND
from tests.archives import change_npz, in_about
from tests.tracing.conftest import CONFIG, REQUEST


def test_a_trace_comes_back_as_it_was(traced: Trace, tmp_path: Path):
    traced.save(tmp_path / "trace.npz")
    again = Trace.load(tmp_path / "trace.npz")
    for field in fields(Trace):
        assert np.array_equal(getattr(again, field.name), getattr(traced, field.name)), field.name
        assert type(getattr(again, field.name)) is type(getattr(traced, field.name))
    assert [path.name for path in tmp_path.iterdir()] == ["trace.npz"]


def test_it_says_where_it_comes_from(traced, student):
    about = traced.about
    assert (about.teacher, about.student, about.sampler) == ("tiny", "tiny-pq", "ddim")
    assert about.true_bits == ledger_of_model(student).true_bits_per_weight
    assert (about.labels, about.seed, about.steps) == (REQUEST.labels, 3, 4)
    assert about.made[:2] == "20"
    assert traced.name == "tiny-pq"


def test_branches_add_up_to_all(traced):
    both = traced.error("accumulated")
    weights = traced.norm / traced.norm.sum(0)
    each = np.stack([traced.error("accumulated", branch) for branch in traced.branches])
    np.testing.assert_allclose((weights * each).sum(0), both)
    np.testing.assert_allclose(traced.by_step("local"), traced.error("local").mean(0))
    by_block = (traced.error("local") * traced.norm.sum(0)).sum(1) / traced.norm.sum((0, 2))
    np.testing.assert_allclose(traced.by_block("local"), by_block)


def test_growth_along_blocks_and_along_steps(traced):
    local, one_pass, accumulated = (traced.error(measure).mean() for measure in MEASURES)
    blocks, steps = traced.growth()
    assert blocks == pytest.approx(one_pass / local)
    assert blocks * steps == pytest.approx(accumulated / local)
    exact = replace(traced, energy=np.zeros_like(traced.energy))
    assert np.isnan(exact.growth()).all()


def test_distributions_hold_every_token_of_a_cell(traced):
    tokens = 5 * 4  # images, 2 by 2 patches
    for measure in MEASURES:
        cell = traced.distribution(measure, 1, 2)
        assert cell.sum() == 2 * tokens
        assert traced.distribution(measure, 1, 2, "with class").sum() == tokens
        low, middle, high = traced.quantiles(measure, 1, 2)
        assert low <= middle <= high
        assert EDGES[0] < low
        assert low / 2 <= traced.error(measure)[1, 2] <= high * 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: t.error("global"), "measure is 'global'.*local, pass"),
        (lambda t: t.error("local", "third"), "branch is 'third'.*with class"),
        (lambda t: t.distribution("local", 3, 0), "block 3.*0 to 2"),
        (lambda t: t.distribution("local", 0, -1), "step -1.*0 to 3"),
        (
            lambda t: replace(t, picture_steps=(), pictures=t.pictures[:, :0]).nearest_picture(0),
            "no pictures",
        ),
    ],
)
def test_questions_without_an_answer(traced, call, message):
    with pytest.raises(ConfigError, match=message):
        call(traced)


def test_the_nearest_picture(traced):
    assert [traced.nearest_picture(step) for step in range(4)] == [0, 0, 1, 2]


# --- building -----------------------------------------------------------------------------------


def test_a_trace_that_was_stopped_keeps_whole_batches(pair, traced):
    builder = TraceBuilder(pair=pair, request=REQUEST)
    steps = trace_steps(pair, REQUEST, CONFIG)
    for _ in range(3):
        builder.add(next(steps))
    with pytest.raises(ConfigError, match="no batch"):
        builder.trace()
    for _ in range(7):
        builder.add(next(steps))
    part = builder.trace()
    assert builder.images == 4
    assert part.about.labels == REQUEST.labels[:4]
    assert np.array_equal(part.image_error, traced.image_error[:, :4])
    assert (part.norm < traced.norm).all()
    for step in steps:
        builder.add(step)
    assert np.array_equal(builder.trace().energy, traced.energy)


def test_records_out_of_order_are_refused(pair):
    builder = TraceBuilder(pair=pair, request=REQUEST)
    first, second, *_ = trace_steps(pair, REQUEST)
    with pytest.raises(ConfigError, match="in order"):
        builder.add(second)
    builder.add(first)
    with pytest.raises(ConfigError, match="expected step 1"):
        builder.add(first)


# --- files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"no zip at all", b"PK\x03\x04 cut off"])
def test_other_files_are_refused(tmp_path: Path, content: bytes):
    path = tmp_path / "trace.npz"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"trace\.npz.*dpqlab trace"):
        Trace.load(path)


def test_a_missing_file_is_refused(tmp_path: Path):
    with pytest.raises(CheckpointError, match="cannot be read"):
        Trace.load(tmp_path / "none.npz")


FORGED = {
    "another array": lambda a: a.update(more=np.zeros(1)),
    "an array less": lambda a: a.pop("norm"),
    "objects": lambda a: a.update(norm=np.array([object()], dtype=object)),
    "pictures of floats": lambda a: a.update(pictures=a["pictures"].astype(np.float32)),
    "a short array": lambda a: a.update(energy=a["energy"][..., 1:]),
    "an error that is not finite": lambda a: a["energy"].__setitem__(0, np.nan),
    "an error below zero": lambda a: a["energy"].__setitem__(0, -1.0),
    "no JSON": lambda a: a.update(about=np.frombuffer(b"{", dtype=np.uint8)),
    "a key less": in_about(lambda about: about["about"].pop("seed")),
    "a list less": in_about(lambda about: about.pop("blocks")),
    "bits in words": in_about(lambda about: about["about"].update(true_bits="1")),
    "steps of pictures": in_about(lambda about: about.update(picture_steps=[0, 0, 9])),
    "a list for a dict": in_about(lambda about: about.update(about=[1])),
}


@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED.keys())
def test_what_is_not_a_trace_is_refused(traced, tmp_path: Path, forge):
    path = tmp_path / "trace.npz"
    traced.save(path)
    change_npz(path, forge)
    with pytest.raises(CheckpointError, match=r"trace\.npz"):
        Trace.load(path)


def test_a_file_that_unpacks_to_too_much_is_refused_unread(traced, tmp_path: Path):
    path = tmp_path / "trace.npz"
    np.savez_compressed(path, norm=np.zeros(KIND.limit // 4 + 1, dtype=np.float32))
    assert path.stat().st_size < 1_000_000
    with pytest.raises(CheckpointError, match="unpacks"):
        Trace.load(path)
