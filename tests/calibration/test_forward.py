"""Running a DiT with other parameters than its own, and through torch.compile."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from dpqlab.calibration.codesearch import initial_latent
from dpqlab.calibration.forward import compiled_blocks, predict
from dpqlab.calibration.masters import masters_of
from tests.calibration.states import layers_of, untouched
from tests.tiny import tiny_dit


@pytest.fixture
def batch(data) -> Any:
    generator = torch.Generator().manual_seed(1)
    return data.draw(4, null_class=10, label_drop=0.2, generator=generator)


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Trace as torch.compile does, but run what was traced as it is; counts the traces."""
    traced: list[int] = []

    def backend(module: Any, inputs: Any) -> Any:
        traced.append(len(inputs))
        return module.forward

    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    return traced


def with_latents(student: Any, teacher: Any) -> dict[str, torch.Tensor]:
    masters = masters_of(student)
    for name, layer in student.named_modules():
        if layer in layers_of(student):
            layer.cache_codes_()
            latent = initial_latent(layer, teacher.get_parameter(f"{name}.weight"))
            masters[f"{name}.latent"] = latent.requires_grad_()
    return masters


def run(student: Any, teacher: Any, batch: Any, masters: Any) -> list[torch.Tensor]:
    """Predictions and gradients of a step."""
    with torch.no_grad():
        wanted, _ = predict(teacher, batch, {})
    mine, blocks = predict(student, batch, masters)
    loss = (mine - wanted).square().mean() + sum(block.square().mean() for block in blocks)
    grads = torch.autograd.grad(loss, list(masters.values()))
    return [wanted, mine.detach(), *(b.detach() for b in blocks), *grads]


def test_compiled_blocks_do_what_plain_ones_do(student, teacher, batch, eager):
    masters = with_latents(student, teacher)
    expected = run(student, teacher, batch, masters)
    assert not eager
    with compiled_blocks(student, teacher):
        assert all("forward" in vars(block) for block in student.transformer_blocks)
        found = run(student, teacher, batch, masters)
    # teacher and student, and not block by block
    assert 0 < len(eager) <= 4, len(eager)
    for mine, plain in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-4, atol=1e-6)
    for layer in layers_of(student):
        layer.drop_codes_()
    assert untouched(student)
    assert untouched(teacher)


def test_blocks_are_as_before_after_an_exception(eager, monkeypatch):
    model, seen = tiny_dit(), []

    def fails_at_the_second(forward: Any, **settings: Any) -> Any:
        seen.append(forward)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return forward

    with pytest.raises(ZeroDivisionError), compiled_blocks(model):
        _ = 1 / 0
    assert untouched(model)
    monkeypatch.setattr(torch, "compile", fails_at_the_second)
    with pytest.raises(KeyboardInterrupt), compiled_blocks(model):
        pass
    assert untouched(model)


def test_a_latent_is_put_in_place_and_taken_away(student, teacher, batch):
    masters = with_latents(student, teacher)
    plain = predict(student, batch, masters_of(student))[0]
    assert torch.equal(predict(student, batch, masters)[0], plain)
    assert all(layer.latent is None for layer in layers_of(student))
