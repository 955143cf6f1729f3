"""A calibration whose memory runs out goes on with less at a time."""

from __future__ import annotations

import pytest
import torch

from dpqlab.calibration import calibrate, paired
from tests.calibration.kinds import AFTER_CHOICES, CHOSEN, SETTINGS, SHORT, TOLERANCE
from tests.calibration.states import codes_of, same, state_of
from tests.little_memory import room


@pytest.mark.parametrize("name", SETTINGS)
def test_pieces_that_fit_lead_to_the_same_student(compressed, teacher, data, name):
    whole, student = compressed(), compressed()
    expected = list(calibrate(whole, teacher, data, SETTINGS[name]))
    with room([student, teacher], lambda images: images <= 6) as passed:
        found = list(calibrate(student, teacher, data, SETTINGS[name]))
    assert 1 < max(passed) <= 6
    tolerance = AFTER_CHOICES if name in CHOSEN else TOLERANCE
    totals = [record.total for record in found]
    assert totals == pytest.approx([record.total for record in expected], rel=tolerance)
    assert [record.revived for record in found] == [record.revived for record in expected]
    different = (codes_of(student) != codes_of(whole)).float().mean()
    assert different <= (0.01 if name in CHOSEN else 0)


@pytest.mark.parametrize("name", ["guided", "one e-step"])
def test_memory_that_is_back_at_once_changes_nothing(compressed, teacher, data, name):
    whole, student = compressed(), compressed()
    list(calibrate(whole, teacher, data, SETTINGS[name]))
    fates: list[bool] = []

    def fits(images: int) -> bool:
        """Every pass that is tried anew fits."""
        fates.append(len(fates) % 5 != 3)
        return fates[-1]

    with room([student, teacher], fits):
        list(calibrate(student, teacher, data, SETTINGS[name]))
    assert fates.count(False) > 5
    assert same(state_of(student), state_of(whole))


def test_where_one_image_is_too_much_the_best_state_is_left(student, teacher, data):
    steps = calibrate(student, teacher, data, SHORT)
    assert next(steps).step == 0
    before = state_of(student)
    with (
        room([student, teacher], lambda images: False),
        pytest.raises(RuntimeError, match="allocate memory"),
    ):
        next(steps)
    assert same(state_of(student), before)


@pytest.mark.parametrize("most", range(1, 15))
@pytest.mark.parametrize("parts", [1, 2])
def test_pieces_are_the_batch(data, most: int, parts: int) -> None:
    batch = data.draw(7, null_class=10, label_drop=0.3, generator=torch.Generator())
    batch = batch if parts == 1 else paired(batch, 10)
    pieces = batch.pieces(most, parts)
    assert all(len(piece) <= max(most, parts) for piece in pieces)
    for name in ("noisy", "timesteps", "labels", "target"):
        halves = [getattr(piece, name).chunk(parts) for piece in pieces]
        whole = torch.cat([half[i] for i in range(parts) for half in halves])
        assert torch.equal(whole, getattr(batch, name))
