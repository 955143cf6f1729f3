"""Pictures of a student without codewords."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dpqlab.core import decode
from dpqlab.diffusion import SampleRequest
from dpqlab.errors import ConfigError
from dpqlab.studies.removal_pictures import RemovalTask, removal_pictures, student_of
from tests.studies.conftest import LAYER


def test_pictures_of_a_student_without_codewords(model, study):
    request = SampleRequest(labels=(1, 2), steps=3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    task = RemovalTask(measure="usage", manner="in rounds", share=0.5, request=request)
    records = list(removal_pictures(model, [study], task))
    drawn = [record for record in records if record.stage == "draw"]
    assert [record.stage for record in records][-3:] == ["draw"] * 3
    assert len(records) > 4
    assert drawn[-1].removed == 64
    assert drawn[-1].done == 1
    assert drawn[-1].images.shape == (2, 1, 8, 8)
    again = list(removal_pictures(model, [study], replace(task, share=0.0)))
    assert len(again) == 3
    assert (again[-1].images != drawn[-1].images).any()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    student = student_of(model, [study])
    assert torch.equal(student.get_submodule(LAYER).weight, decode(study.members[1].encoded))


def test_a_share_that_is_none_is_refused():
    with pytest.raises(ConfigError, match="share is 2"):
        RemovalTask(measure="usage", manner="at once", share=2, request=SampleRequest(labels=(0,)))
