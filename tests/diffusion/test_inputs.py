"""What flows into layers while images are drawn, against watching them by hand."""

from __future__ import annotations

import torch

from dpqlab.diffusion import SampleRequest, make_scheduler, sample_images
from dpqlab.diffusion.inputs import IMAGES, STEPS, input_steps, inputs_of, moments_request
from tests.tiny import tiny_dit

NAME = "transformer_blocks.0.attn1.to_q"
REQUEST = SampleRequest(labels=(1, 2), steps=3, guidance=1.5)


def test_moments_are_those_of_every_input_that_was_seen():
    model = tiny_dit()
    seen: list[torch.Tensor] = []
    hook = model.get_submodule(NAME).register_forward_hook(
        lambda module, args, output: seen.append(args[0].flatten(0, -2))
    )
    sample_images(model, make_scheduler("ddim"), REQUEST)
    hook.remove()
    rows = torch.cat(seen)
    moments = inputs_of(model, [NAME], REQUEST)[NAME]
    grams = inputs_of(model, [NAME], REQUEST, grams=True)[NAME]
    torch.testing.assert_close(moments, rows.square().mean(0), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(grams, rows.T @ rows / len(rows), rtol=1e-4, atol=1e-5)


def test_a_record_a_step_and_the_inputs_with_the_last():
    model = tiny_dit()
    records = list(input_steps(model, [NAME], REQUEST))
    assert [record.index for record in records] == [0, 1, 2]
    assert [record.inputs is None for record in records] == [True, True, False]
    assert not model.get_submodule(NAME)._forward_hooks


def test_stopping_takes_the_hooks_away():
    model = tiny_dit()
    steps = input_steps(model, [NAME], REQUEST)
    next(steps)
    assert model.get_submodule(NAME)._forward_hooks
    steps.close()
    assert not model.get_submodule(NAME)._forward_hooks


def test_the_commands_images_have_all_classes_and_a_seed_of_their_own():
    request = moments_request(4, seed=2)
    assert len(request.labels) == IMAGES
    assert set(request.labels) == set(range(4))
    assert request.steps == STEPS
    assert request.seed != 2
