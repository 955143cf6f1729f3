"""Two processes calibrate as one does."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dpqlab.calibration import Objective, calibrate
from dpqlab.calibration.phases import Lesson, Parts, team_step
from dpqlab.distributed import Team
from dpqlab.errors import ConfigError
from tests.calibration.kinds import AFTER_CHOICES, CHOSEN, SETTINGS, SHORT, TOLERANCE
from tests.calibration.states import codes_of, course, state_of
from tests.teams import in_team


def member(team: Team, compressed: Any, teacher: Any, data: Any, out: Path) -> None:
    """Run everything with half of each batch; the last run is stopped half-way."""
    for name, config in SETTINGS.items():
        student = copy.deepcopy(compressed)
        records = list(calibrate(student, teacher, data, config, team=team))
        found = {"records": course(records), "codes": codes_of(student).tolist()}
        (out / f"{name}.{team.rank}.json").write_text(json.dumps(found))
        save_file(state_of(student), out / f"{name}.{team.rank}.safetensors")
    student = copy.deepcopy(compressed)
    steps = calibrate(student, teacher, data, SHORT, progress=out / "progress", team=team)
    for record in steps:
        if record.step == 8:
            break
    steps.close()


@pytest.fixture(scope="module")
def made(compressed, teacher, data, tmp_path_factory) -> Path:
    """What two processes made of each of the settings, and a run that they did not finish."""
    out = tmp_path_factory.mktemp("team")
    in_team(member, compressed(), teacher, data, out)
    return out


@pytest.mark.parametrize("name", SETTINGS)
def test_two_processes_calibrate_as_one_does(made, compressed, teacher, data, name):
    student = compressed()
    expected = list(calibrate(student, teacher, data, SETTINGS[name]))
    first, second = (json.loads((made / f"{name}.{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    totals = [record["total"] for record in first["records"]]
    tolerance = AFTER_CHOICES if name in CHOSEN else TOLERANCE
    assert totals == pytest.approx([record.total for record in expected], rel=tolerance)
    assert [record["revived"] for record in first["records"]] == [r.revived for r in expected]
    different = (torch.tensor(first["codes"]) != codes_of(student)).float().mean()
    assert different <= (0.01 if name in CHOSEN else 0)
    if name != "ddpm alone":
        assert totals[-1] < totals[0]


def test_both_end_with_the_same_student(made):
    for name in SETTINGS:
        first, second = (load_file(made / f"{name}.{rank}.safetensors") for rank in (0, 1))
        assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_run_of_two_is_finished_by_one(made, compressed, teacher, data, tmp_path):
    (tmp_path / "progress").write_bytes((made / "progress").read_bytes())
    records = list(calibrate(compressed(), teacher, data, SHORT, progress=tmp_path / "progress"))
    assert [record.step for record in records] == [8, 12]
    expected = [record.total for record in calibrate(compressed(), teacher, data, SHORT)]
    assert [r.total for r in records] == pytest.approx(expected[-2:], rel=TOLERANCE)


@pytest.mark.parametrize(("world", "guidance", "drawn"), [(3, None, 16), (16, 1.5, 8)])
def test_a_batch_must_divide(student, teacher, data, config, world, guidance, drawn):
    team = Team(rank=0, world=world, device=torch.device("cpu"))
    settings = replace(config, objective=Objective(guidance=guidance))
    with pytest.raises(ConfigError, match=f"{drawn} images does not divide among {world}"):
        next(calibrate(student, teacher, data, settings, team=team))


def test_a_batch_is_shared_out_whole(data):
    batch = data.draw(7, null_class=10, label_drop=0.3, generator=torch.Generator())
    team = [Team(rank=rank, world=3, device=torch.device("cpu")) for rank in range(3)]
    parts = [batch.share(member) for member in team]
    assert [len(part) for part in parts] == [3, 2, 2]
    for name in ("noisy", "timesteps", "labels", "target"):
        whole = torch.empty_like(getattr(batch, name))
        for rank, part in enumerate(parts):
            whole[rank::3] = getattr(part, name)
        assert torch.equal(whole, getattr(batch, name))


def test_gradients_of_a_team_lie_in_one_buffer():
    trained = [torch.ones(2, 3, requires_grad=True), torch.ones(4, requires_grad=True)]

    def learn(lesson: Lesson) -> None:
        sum((part * (i + 1)).sum() for i, part in enumerate(trained)).backward()

    parts = Parts(ask=Lesson, learn=learn, move=lambda: None)
    team_step(parts, trained, Team(device=torch.device("cpu")), capture=False)()
    assert [part.grad.tolist() for part in trained] == [[[1.0] * 3] * 2, [2.0] * 4]
    pointers = {part.grad.untyped_storage().data_ptr() for part in trained}
    assert len(pointers) == 1
