from __future__ import annotations

from random import Random

import numpy as np
import pytest

from benchmarks.app_stub import StubEngine
from dpqlab_app.drawing.catalogue import catalogue_of
from dpqlab_app.page.blind_pool import (
    BATCH,
    FEW,
    FIRST_BATCH,
    MOST_VOTES,
    Pool,
    Visit,
    advance,
    cast,
    fill,
    is_low,
)

NAMES = tuple(f"class {i}" for i in range(10))


@pytest.fixture
def engine() -> StubEngine:
    return StubEngine(catalogue_of(), step_s=0.0)


@pytest.fixture
def visit() -> Visit:
    return Visit(model="fashion-dit", version="best-1bit")


def filled(engine: StubEngine, visit: Visit, batches: int = 1) -> Pool:
    pool = Pool()
    for number in range(batches):
        list(fill(engine, pool, visit, random=Random(number)))  # type: ignore[arg-type]
    return pool


def test_who_waits_gets_a_small_batch_first(engine, visit) -> None:
    pool = filled(engine, visit)
    assert len(pool.unseen(visit)) == FIRST_BATCH
    busy = advance(visit, pool, NAMES)
    list(fill(engine, pool, busy))
    assert len(pool.unseen(busy)) == FIRST_BATCH - 1 + BATCH


def test_nothing_is_drawn_while_enough_is_there(engine, visit) -> None:
    pool = filled(engine, visit, batches=2)
    assert not is_low(visit, pool)
    assert engine.calls == 2
    assert list(fill(engine, pool, visit)) == []
    assert engine.calls == 2


def test_a_closed_batch_leaves_nothing(engine, visit) -> None:
    pool = Pool()
    frames = fill(engine, pool, visit)
    next(frames)
    frames.close()
    assert pool.unseen(visit) == []


def test_pairs_are_of_the_same_noise_and_can_be_drawn_again(engine, visit) -> None:
    pool = filled(engine, visit)
    at = advance(visit, pool, NAMES)
    assert at.trial is not None
    pair = pool.get(at.trial.pair)
    assert pair is not None
    assert pair.full.shape == pair.compressed.shape == (28, 28, 1)
    assert not np.array_equal(pair.full, pair.compressed)
    assert at.trial.seed == pair.settings.seed
    assert at.trial.label == pair.settings.labels[at.trial.image]
    assert at.trial.class_name == f"class {pair.label}"


def test_no_pair_is_shown_twice_to_one_and_all_to_another(engine, visit) -> None:
    pool = filled(engine, visit, batches=2)
    ready, seen = len(pool.unseen(visit)), []
    now = visit
    while (now := advance(now, pool, NAMES)).trial is not None:
        seen.append(now.trial.pair)
        now = cast(now, "A")
    assert len(seen) == len(set(seen)) == ready
    assert len(pool.unseen(visit)) == ready


def test_pairs_of_another_version_are_not_mixed_in(engine, visit) -> None:
    pool = filled(engine, visit)
    other = Visit(model="fashion-dit", version="vq-1bit")
    assert pool.unseen(other) == []
    assert advance(other, pool, NAMES).trial is None


def test_full_precision_is_on_either_side(engine, visit) -> None:
    pool = filled(engine, visit)
    sides = [advance(visit, pool, NAMES, random=Random(i)).trial for i in range(60)]
    assert {trial.full for trial in sides if trial} == {"A", "B"}


def test_a_vote_counts_once_with_its_time(engine, visit) -> None:
    pool = filled(engine, visit)
    at = advance(visit, pool, NAMES, clock=lambda: 10.0)
    voted = cast(at, "B", clock=lambda: 12.5)
    assert [vote.seconds for vote in voted.votes] == [2.5]
    assert voted.last == voted.votes[0]
    assert cast(voted, "B") is voted, "there is no pair on the screen"


def test_the_oldest_pairs_go(engine, visit) -> None:
    pool = Pool(most=3)
    for _ in range(3):
        list(fill(engine, pool, visit))
    numbers = [pair.number for pair in pool.unseen(visit)]
    assert len(numbers) == 3
    assert pool.get(1) is None


def test_votes_end_somewhere(engine, visit) -> None:
    pool = filled(engine, visit)
    at = advance(visit, pool, NAMES)
    many = Visit(model=at.model, version=at.version, votes=cast(at, "A").votes * MOST_VOTES)
    assert many.full
    assert advance(many, pool, NAMES).trial is None
    assert not is_low(many, pool)
    assert FEW > 1
