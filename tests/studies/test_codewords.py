"""A pool under the lens, on a tiny model: against compress_, and against running the layers."""

from __future__ import annotations

import pytest
import torch

from dpqlab.core import decode
from dpqlab.errors import ConfigError
from dpqlab.nn import CompressedLinear, compress_
from dpqlab.studies.codewords import activations_of, output_error, study_of
from tests.studies.conftest import LAYER, PLAN
from tests.tiny import tiny_dit


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


def test_layers_without_codebooks_are_refused(model):
    with pytest.raises(ConfigError, match="gives 'proj_out_1' no codebooks"):
        study_of(model, PLAN, "proj_out_1")
    others = activations_of(model, ["proj_out_1"])
    with pytest.raises(ConfigError, match=r"no activations of .*0.attn1.to_q: expected"):
        study_of(model, PLAN, LAYER, activations=others)
