"""Codewords under the lens, on a tiny model: against slow sums, and against compress_."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dpqlab.core import CodebookCodec, decode
from dpqlab.diffusion import SampleRequest
from dpqlab.errors import ConfigError
from dpqlab.nn import CompressedLinear, Plan, compress_
from dpqlab.studies import codewords
from dpqlab.studies.codewords import (
    MEASURES,
    activations_of,
    least,
    output_error,
    race_steps,
    remove_steps,
    study_of,
    subvectors_of,
    use_of,
    without,
)
from dpqlab.studies.removal_pictures import RemovalTask, removal_pictures, student_of
from tests.tiny import tiny_dit

CODEC = CodebookCodec(d=2, k=8, scope="position", across="kind", iterations=4)
PLAN = Plan.for_blocks(CODEC, name="tiny")
LAYER = "transformer_blocks.1.attn1.to_q"


@pytest.fixture(scope="module")
def model():
    return tiny_dit().requires_grad_(False)


@pytest.fixture(scope="module")
def study(model):
    return study_of(model, PLAN, LAYER)


def test_the_codebooks_are_those_that_compress_makes(model, study):
    student = tiny_dit()
    compress_(student, PLAN)
    layer = student.get_submodule(LAYER)
    assert isinstance(layer, CompressedLinear)
    assert torch.equal(layer.pool, study.pool.entries)
    assert study.names == tuple(f"transformer_blocks.{i}.attn1.to_q" for i in range(2))
    assert study.kind == "attn1.to_q"


def test_what_chooses_is_not_what_judges(model):
    found = activations_of(model, [LAYER])
    gram = found.judge([LAYER])[LAYER]
    assert not torch.allclose(found.choose[LAYER], gram.diagonal(), rtol=1e-3)
    assert found.choose[LAYER].shape == (32,)
    assert gram.shape == (32, 32)
    assert found.judge([LAYER])[LAYER] is gram  # drawn once


def test_usage_adds_up_and_finds_every_place(study):
    total = sum(member.encoded.codes.numel() for member in study.members)
    assert study.worth["usage"].sum() == total
    entry = int(study.worth["usage"].argmax())
    use = use_of(study, entry)
    assert len(use.rows) == use.worth["usage"]
    assert use.rank["usage"] == 1
    for block, row, position in zip(use.blocks, use.rows, use.positions, strict=True):
        encoded = study.members[block].encoded
        code = encoded.codes[row, position]
        assert encoded.pool.base[encoded.scope_of[position]] + code == entry
        part = decode(encoded)[row, 2 * position : 2 * position + 2]
        assert part.tolist() == use.values.tolist()


def test_neighbours_are_the_nearest_of_the_same_scope(study):
    use = use_of(study, 11, neighbours=3)
    assert use.scope == 1
    assert all(8 <= other < 16 and other != 11 for other in use.neighbours)
    far = sorted(
        float((study.pool.entries[i].float() - study.pool.entries[11].float()).norm())
        for i in range(8, 16)
        if i != 11
    )
    assert use.distances == pytest.approx(far[:3])
    with pytest.raises(ConfigError, match="not in the pool: expected 0 to 127"):
        use_of(study, 128)


def test_a_single_removal_costs_what_it_is_said_to_cost(study):
    """The exact measure, against removing each of some codewords in turn."""
    for entry in (0, 9, 17, 63):
        gone = torch.zeros(len(study.scope), dtype=torch.bool)
        gone[entry] = True
        after = without(study, gone)
        rise = codewords._missed(after) - codewords._missed(study)
        cost = float(study.worth["removal"][entry]) / study.energy
        assert rise == pytest.approx(cost, rel=1e-4, abs=1e-9)


def test_subvectors_of_a_scope_are_the_weights_columns(study):
    points, entries = subvectors_of(study, 3)
    columns = torch.cat([member.weight[:, 6:8] for member in study.members])
    assert torch.equal(torch.from_numpy(points), columns)
    assert set(entries.tolist()) <= set(range(24, 32))


def test_every_scope_keeps_its_best(study):
    gone = least(study, "usage", 128 - 16)
    kept = study.scope[~gone]
    assert kept.tolist() == list(range(16))
    for scope in range(16):
        mine = (study.scope == scope).nonzero()[:, 0]
        best = float(study.worth["usage"][mine].max())
        assert float(study.worth["usage"][mine][~gone[mine]]) == best
    with pytest.raises(ConfigError, match="expected 0 to 112"):
        least(study, "usage", 113)


def test_the_output_error_is_that_of_outputs(model, study):
    """Against running the layers on held-out inputs: a gram is the mean of x x^T."""
    missed = whole = 0.0
    grams = study.activations.judge(study.names)
    for name, member in zip(study.names, study.members, strict=True):
        root = torch.linalg.cholesky(grams[name].double() + 1e-9 * torch.eye(32)).T
        off = root @ (member.weight - decode(member.encoded)).double().T
        missed += float(off.square().sum())
        whole += float((root @ member.weight.double().T).square().sum())
    assert output_error(study) == pytest.approx(missed / whole, rel=1e-3)


def test_a_race_has_every_measure_and_only_adds_error(study):
    records = list(race_steps(study, shares=(0.1, 0.5)))
    assert len(records) == 2 * 2 * len(MEASURES)
    for record in records:
        assert record.removed == round(record.share * 128)
        assert record.felt > 0
        assert (record.predicted is None) == (record.manner == "in rounds")
    by = {(r.manner, r.measure, r.removed): r for r in records}
    single = by["at once", "removal", 13]
    assert single.predicted is not None
    # the cheapest by its own measure, and never more than what is truly felt
    assert single.predicted <= by["at once", "usage", 13].predicted
    assert single.predicted <= single.felt * (1 + 1e-6)
    again = by["in rounds", "removal", 64]
    assert again.felt < by["at once", "removal", 64].felt


def test_rounds_end_where_they_should(study):
    sizes = [len(after.scope) for after in remove_steps(study, "weighted", "in rounds", 40)]
    assert sizes[-1] == 88
    assert sizes == sorted(sizes, reverse=True)
    assert max(a - b for a, b in zip([128, *sizes], sizes, strict=False)) <= 12


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


def test_layers_without_codebooks_are_refused(model):
    with pytest.raises(ConfigError, match="gives 'proj_out_1' no codebooks"):
        study_of(model, PLAN, "proj_out_1")
    others = activations_of(model, ["proj_out_1"])
    with pytest.raises(ConfigError, match=r"no activations of .*0.attn1.to_q: expected"):
        study_of(model, PLAN, LAYER, activations=others)
    with pytest.raises(ConfigError, match="share is 2"):
        RemovalTask(measure="usage", manner="at once", share=2, request=SampleRequest(labels=(0,)))
