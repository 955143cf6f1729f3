from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dpqlab.calibration import CalibrationData
from dpqlab.core import CodebookCodec
from dpqlab.diffusion import load_pipeline, make_scheduler
from dpqlab.errors import CheckpointError, ConfigError
from dpqlab.nn import Plan, compress_
from dpqlab.studies.live_calibration import (
    LiveConfig,
    LivePair,
    draw_strip,
    live_calibration,
    live_pair,
    recording_of,
    save_live,
)
from tests.tiny import tiny_dit

pytestmark = pytest.mark.usefixtures("one_thread")
SHORT = LiveConfig(steps=6, batch=4, every=2, strip_every=4)


def tiny_pair() -> LivePair:
    teacher, student = tiny_dit(), tiny_dit()
    plan = Plan.for_blocks(CodebookCodec(d=4, k=8, scope="position", row_scale=True))
    compress_(student, plan)
    scheduler: Any = make_scheduler("ddim")
    data = CalibrationData(
        images=torch.randint(0, 255, (40, 1, 8, 8), dtype=torch.uint8),
        labels=torch.arange(40) % 10,
        alphas=scheduler.alphas_cumprod,
    )
    return LivePair(
        student=student,
        teacher=teacher.requires_grad_(False),
        scheduler=scheduler,
        data=data,
        wanted=draw_strip(teacher),
    )


def test_a_moment_every_few_steps_and_a_strip_now_and_then() -> None:
    moments = list(live_calibration(tiny_pair(), SHORT))
    assert [moment.record.step for moment in moments] == [0, 2, 4, 6]
    drawn = [moment.record.step for moment in moments if moment.strip is not None]
    assert drawn == [0, 4, 6], "at the start, every 4 steps, and at the end"
    assert moments[0].remaining is None, "nobody can know yet"
    assert moments[1].remaining is not None and moments[1].remaining > 0
    assert moments[-1].remaining == 0
    recording = recording_of(SHORT, moments)
    assert recording.strip_steps == (0, 4, 6) and recording.strips.shape == (3, 10, 1, 8, 8)
    assert recording.name == "vq-2bit, live"


def test_closing_it_leaves_the_best_state(tmp_path: Path) -> None:
    pair = tiny_pair()
    run = live_calibration(pair, SHORT)
    moments = [next(run), next(run)]
    run.close()
    records = [moment.record for moment in moments]
    saved = save_live(pair, SHORT, records, tmp_path / "deep" / "student")
    again = load_pipeline(saved.path).transformer
    x, times = torch.randn(2, 1, 8, 8), torch.tensor([5, 500])
    labels = torch.tensor([1, 2])
    with torch.no_grad():
        mine = pair.student(x, timestep=times, class_labels=labels).sample
        theirs = again(x, timestep=times, class_labels=labels).sample
    torch.testing.assert_close(mine, theirs)
    with pytest.raises(CheckpointError, match="exists"):
        save_live(pair, SHORT, records, saved.path)
    best = min(records, key=lambda record: record.total)
    assert f"step {best.step} is kept" in (saved.path / "README.md").read_text()


def test_moving_codes_move() -> None:
    moving = LiveConfig(steps=8, batch=4, every=4, strip_every=4, move_codes=True)
    assert max(m.record.changed for m in live_calibration(tiny_pair(), moving)) > 0
    fixed = LiveConfig(steps=1, batch=4, every=1, strip_every=1)
    assert max(m.record.changed for m in live_calibration(tiny_pair(), fixed)) == 0


@pytest.mark.parametrize(
    "changes",
    [{"preset": "none"}, {"steps": 0}, {"every": 4, "strip_every": 6}, {"strip_every": 0}],
)
def test_settings_that_cannot_run_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        LiveConfig(**changes)


def test_nothing_drawn_is_no_recording() -> None:
    with pytest.raises(ConfigError, match="nothing has run"):
        recording_of(SHORT, [])


@pytest.mark.slow
def test_the_bundled_model_learns_in_a_few_steps() -> None:
    config = LiveConfig(steps=8, batch=8, every=8, strip_every=8)
    moments = list(live_calibration(live_pair(config), config))
    assert moments[-1].record.total < 0.75 * moments[0].record.total
    assert moments[0].record.true_bits == pytest.approx(2.078, abs=0.01)
