"""However a calibration ends, the best state is in the student, and nothing else."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from dpqlab import calibration
from dpqlab.calibration import (
    Batch,
    EStepSchedule,
    LatentConfig,
    calibrate,
)
from dpqlab.calibration.distiller import Distiller
from tests.calibration.conftest import QUICK, VQ_KIND
from tests.calibration.states import (
    cached,
    held_out_loss,
    same,
    state_of,
    untouched,
)

HERE = str(Path(calibration.__file__).parent)


E_STEP = EStepSchedule(every=4, batches=1, settings=QUICK)


@pytest.mark.parametrize(
    ("rate", "moves"),
    [
        (0.05, {}),
        (0.8, {}),
        (0.05, {"latent": LatentConfig(learning_rate=1.0)}),
        (0.05, {"e_step": E_STEP}),
    ],
    ids=["fixed codes", "large rate", "latents", "e-steps"],
)
def test_leaving_early_keeps_the_best_state(student, teacher, data, config, rate, moves):
    """With all but the first the loss goes up and down."""
    settings = replace(config, learning_rate=rate, every=1, warmup=1, **moves)
    records = []
    for record in calibrate(student, teacher, data, settings):
        records.append(record)
        assert held_out_loss(student, teacher, data, settings) == min(r.total for r in records)
        if len(records) == 7:
            break
    if rate == 0.8 or moves:
        assert not all(record.best for record in records)
    assert untouched(student)


def test_cached_codes_are_there_meanwhile_and_gone_at_the_end(student, teacher, data, config):
    for _ in calibrate(student, teacher, data, replace(config, steps=2, every=1)):
        assert cached(student)
    assert not cached(student)


def test_cached_codes_are_gone_after_closing(student, teacher, data, config):
    steps = calibrate(student, teacher, data, config)
    assert not cached(student)
    next(steps)
    assert cached(student)
    steps.close()
    assert not cached(student)


def test_cached_codes_are_gone_after_an_exception(student, teacher, data, config):
    steps = calibrate(student, teacher, data, config)
    next(steps)
    with pytest.raises(KeyboardInterrupt):
        steps.throw(KeyboardInterrupt)
    assert not cached(student)


@pytest.mark.parametrize("steps", [0, 1, 4])
@pytest.mark.parametrize("moves", [{}, {"latent": LatentConfig()}], ids=["fixed codes", "latents"])
def test_an_interrupted_step_leaves_the_best_state(
    compressed, teacher, data, config, monkeypatch, steps, moves
):
    settings = replace(config, steps=6, every=2, **moves)
    step = Distiller.step

    def interrupted(distiller: Distiller, batch: Batch, share: float) -> None:
        if distiller.taken == steps:
            with pytest.raises(ZeroDivisionError):  # half a step: gradients, but no new masters
                monkeypatch.setattr(distiller.optimizer, "step", lambda: 1 / 0)
                step(distiller, batch, share)
            raise KeyboardInterrupt
        step(distiller, batch, share)

    monkeypatch.setattr(Distiller, "step", interrupted)
    student, records = compressed(), []
    with pytest.raises(KeyboardInterrupt):
        for record in calibrate(student, teacher, data, settings):
            records.append(record)
    assert len(records) == 1 + steps // 2
    best = min(record.total for record in records)
    assert held_out_loss(student, teacher, data, settings) == best
    assert untouched(student)
    assert untouched(teacher)


@pytest.mark.parametrize(
    "moves",
    [{"latent": LatentConfig(learning_rate=0.5)}, {"e_step": E_STEP}],
    ids=["latents", "e-steps"],
)
def test_an_interruption_anywhere_leaves_the_best_state(compressed, teacher, data, config, moves):
    """Ctrl-C as calibration enters any of its functions, one out of many at a time."""
    settings = replace(config, steps=2, every=1, batch=4, holdout=8, **moves)
    student, best, ends = compressed(VQ_KIND), [], []
    with interruption(after=None) as calls:
        for _ in calibrate(student, teacher, data, settings):
            best.append(state_of(student))
            ends.append(calls[0])
    assert ends[-1] > 100
    for after in random.Random(0).sample(range(1, ends[-1]), 3):
        student, seen = compressed(VQ_KIND), 0
        best_before = state_of(student)
        with pytest.raises(KeyboardInterrupt), interruption(after=after):
            for _ in calibrate(student, teacher, data, settings):
                seen += 1
        # the next best may be there before its record is
        known = [best_before, *best][seen : seen + 2] if seen else [best_before]
        assert any(same(state_of(student), state) for state in known), after
        assert untouched(student), after
        assert untouched(teacher), after


@contextmanager
def interruption(after: int | None) -> Iterator[list[int]]:
    """Raise as the calibration package makes a call, after so many of them; counts them."""
    calls = [0]

    def watch(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(HERE):
            calls[0] += 1
            if calls[0] == after:
                sys.setprofile(None)
                raise KeyboardInterrupt

    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        yield calls
    finally:
        sys.setprofile(before)
