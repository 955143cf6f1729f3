"""What flows into layers: drawn, on record, and the record that ships."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from dpqlab.diffusion import SampleRequest, inputs, load_pipeline
from dpqlab.errors import CheckpointError
from dpqlab.nn import preset
from dpqlab.nn.targets import targets_of
from dpqlab.studies import codeword_inputs
from dpqlab.studies.bare_linears import linears_of
from dpqlab.studies.codeword_inputs import (
    GATHER_SEED,
    GUIDANCE,
    IMAGES,
    STEPS,
    InputRecord,
    activations_of,
    bundled_inputs,
    choosing_request,
    judging_request,
)
from dpqlab.studies.codewords import MEASURES, study_of
from dpqlab.studies.layer_weights import LayerWeights
from tests.archives import change_npz

NAMES = [f"transformer_blocks.{i}.ff.net.2" for i in range(2)]


@pytest.fixture
def record(model):
    return InputRecord(moments=dict(activations_of(model, NAMES).choose), about={"seed": 1})


def test_what_chooses_and_what_judges_share_no_class_and_no_seed(model):
    choose, judge = choosing_request(model), judging_request(model)
    assert not set(choose.labels) & set(judge.labels)
    assert choose.seed != judge.seed


def test_moments_are_the_diagonal_of_the_gram_of_the_same_images(model):
    found = activations_of(model, NAMES)
    grams = inputs.inputs_of(model, NAMES, choosing_request(model), grams=True)
    for name in NAMES:
        torch.testing.assert_close(found.choose[name], grams[name].diagonal())


def test_what_judges_is_drawn_when_it_is_asked_for_and_only_then(model, record, monkeypatch):
    drawn: list[list[str]] = []

    def watched(model: object, names: list[str], request: SampleRequest, *, grams: bool):
        drawn.append(names)
        return inputs.inputs_of(model, names, request, grams=grams)

    monkeypatch.setattr(codeword_inputs, "inputs_of", watched)
    asked: list[int] = []
    found = record.activations(lambda: (asked.append(1), model)[1])
    assert found.choose is record.moments
    assert not asked
    assert found.judge(NAMES[:1]).keys() == {NAMES[0]}
    assert found.judge(NAMES).keys() == set(NAMES)
    found.judge(NAMES)
    assert drawn == [NAMES[:1], NAMES[1:]]


def test_a_record_comes_back(record, tmp_path):
    record.save(tmp_path / "inputs.npz")
    back = InputRecord.load(tmp_path / "inputs.npz")
    assert back.about == record.about
    assert list(back.moments) == NAMES
    for name in NAMES:
        assert torch.equal(back.moments[name], record.moments[name])


CHANGES = {
    "a negative moment": lambda arrays: arrays[NAMES[0]].__setitem__(0, -1),
    "NaN": lambda arrays: arrays[NAMES[1]].__setitem__(3, np.nan),
    "another type": lambda arrays: arrays.update({NAMES[0]: np.ones(4)}),
    "a matrix": lambda arrays: arrays.update({NAMES[0]: np.ones((4, 4), np.float32)}),
    "nothing in it": lambda arrays: arrays.update({NAMES[0]: np.ones(0, np.float32)}),
    "no layers": lambda arrays: [arrays.pop(name) for name in NAMES],
    "nothing about it": lambda arrays: arrays.pop("about"),
    "no JSON": lambda arrays: arrays.update(about=np.zeros(5, np.uint8)),
    "JSON of a number": lambda arrays: arrays.update(about=np.frombuffer(b"1", np.uint8)),
    "objects": lambda arrays: arrays.update(more=np.array([{}], dtype=object)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_was_changed_is_refused(name, record, tmp_path):
    path = tmp_path / "inputs.npz"
    record.save(path)
    change_npz(path, CHANGES[name])
    with pytest.raises(CheckpointError, match="cannot be read as moments of inputs"):
        InputRecord.load(path)


def test_what_is_no_record_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "inputs.npz"
    array = io.BytesIO()
    np.save(array, np.ones(4, np.float32))
    for content in (b"", b"PK\x03\x04 no zip", array.getvalue(), json.dumps({}).encode()):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="importance_fashion"):
            InputRecord.load(path)
    with pytest.raises(CheckpointError, match="importance_fashion"):
        InputRecord.load(tmp_path / "none.npz")
    monkeypatch.setattr(codeword_inputs, "KIND", replace(codeword_inputs.KIND, limit=1))
    with pytest.raises(CheckpointError, match="more than 1 bytes"):
        InputRecord.load(path)


def test_only_what_ships_is_on_record(tmp_path):
    assert bundled_inputs("fashion-dit-dpq-1bit") is None
    assert bundled_inputs(str(tmp_path)) is None


def test_the_record_that_ships_is_that_of_the_layers_and_images_studied():
    record = bundled_inputs()
    assert record is not None
    bare = linears_of(LayerWeights.open("fashion-dit"))
    targets = targets_of(bare, preset("dpq-4bit"))
    sizes = {target.name: target.linear.in_features for target in targets}
    assert {name: len(value) for name, value in record.moments.items()} == sizes
    about = [record.about[key] for key in ("seed", "images", "steps", "guidance")]
    assert about == [GATHER_SEED, IMAGES, STEPS, GUIDANCE]


@pytest.mark.slow
def test_the_record_that_ships_is_what_comes_out_today():
    """Recorded equals recomputed: the moments, and what a study makes of them."""
    record, plan = bundled_inputs(), preset("dpq-4bit")
    assert record is not None
    model = load_pipeline("fashion-dit").transformer.requires_grad_(False)
    fresh = activations_of(model, list(record.moments))
    for name, value in record.moments.items():
        torch.testing.assert_close(value, fresh.choose[name], rtol=1e-4, atol=1e-7)
    layer = "transformer_blocks.0.attn1.to_q"
    bare = linears_of(LayerWeights.open("fashion-dit"))
    known = study_of(bare, plan, layer, activations=record.activations(lambda: model))
    made = study_of(model, plan, layer, activations=fresh)
    assert torch.equal(known.pool.entries, made.pool.entries)
    assert known.names == made.names
    for one, other in zip(known.members, made.members, strict=True):
        # a tie may fall otherwise on another machine
        differ = (one.encoded.codes != other.encoded.codes).float().mean()
        assert differ < 1e-4
    for measure in MEASURES:
        torch.testing.assert_close(
            known.worth[measure].sum(), made.worth[measure].sum(), rtol=1e-4, atol=0
        )
