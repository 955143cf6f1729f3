"""The three errors against slow computations of their own, and the generator's manners."""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dpqlab.diffusion.sampling import SampleRequest, sample_steps
from dpqlab.diffusion.schedules import make_scheduler
from dpqlab.errors import ConfigError, ShapeError
from dpqlab.nn.taps import block_outputs
from dpqlab.tracing import MEASURES, Pair, TraceConfig, trace, trace_steps
from tests.little_memory import room
from tests.tiny import TINY, tiny_dit
from tests.tracing.conftest import CONFIG, REQUEST


def relative(mine: torch.Tensor, theirs: torch.Tensor) -> float:
    mine, theirs = mine.double(), theirs.double()
    return float((mine - theirs).square().sum() / theirs.square().sum())


class Inputs:
    """Records what a model is called with, by a wrapper instead of a hook."""

    def __init__(self, model: Any) -> None:
        self.model, self.config, self.seen = model, model.config, []

    def __call__(self, x: torch.Tensor, **conditions: torch.Tensor) -> Any:
        self.seen.append((x, conditions))
        return self.model(x, **conditions)

    def parameters(self) -> Any:
        return self.model.parameters()


def model_inputs(model: Any, request: SampleRequest) -> list[Any]:
    spy: Any = Inputs(model)
    list(sample_steps(spy, make_scheduler(), request))
    return spy.seen


@torch.no_grad()
def hidden_states(model: Any, inputs: Any, fed: Any = None) -> list[torch.Tensor]:
    """The blocks' outputs, written out as diffusers' DiT runs them; ``fed``: the blocks' inputs."""
    x, conditions = inputs
    hidden, outputs = model.pos_embed(x), []
    for i, block in enumerate(model.transformer_blocks):
        hidden = block(hidden if fed is None else fed[i], **conditions)
        outputs.append(hidden)
    return outputs


@torch.no_grad()
def slow(teacher: Any, student: Any, request: SampleRequest) -> dict[str, np.ndarray]:
    """The three errors of all images at once, with neither hooks nor lockstep."""
    errors: dict[str, list[list[float]]] = {measure: [] for measure in MEASURES}
    own = model_inputs(student, request)
    for step, inputs in enumerate(model_inputs(teacher, request)):
        wanted = hidden_states(teacher, inputs)
        fed = [teacher.pos_embed(inputs[0]), *wanted[:-1]]
        found = {
            "local": hidden_states(student, inputs, fed),
            "pass": hidden_states(student, inputs),
            "accumulated": hidden_states(student, own[step]),
        }
        for measure, outputs in found.items():
            errors[measure].append([relative(*both) for both in zip(outputs, wanted, strict=True)])
    return {measure: np.array(rows).T for measure, rows in errors.items()}


@pytest.mark.parametrize("guidance", [1.5, 1.0])
def test_the_errors_of_every_block_are_those_of_a_slow_computation(teacher, student, guidance):
    request = replace(REQUEST, guidance=guidance)
    expected = slow(teacher, student, request)
    found = trace(Pair(teacher=teacher, student=student), request, TraceConfig(batch=2))
    assert len(found.branches) == (1 if guidance == 1 else 2)
    for measure in MEASURES:
        assert expected[measure].min() > 1e-4, "an error that can be told from rounding"
        np.testing.assert_allclose(found.error(measure), expected[measure], rtol=1e-4)
    assert not np.allclose(expected["local"], expected["pass"], rtol=0.1)
    assert not np.allclose(expected["pass"], expected["accumulated"], rtol=0.01)


def test_branches_are_told_apart(pair, teacher, student):
    """At guidance 1 the model sees the class alone: its first step is the branch with class."""
    first = {}
    for guidance in (1.0, 1.5):
        (step, *_) = trace_steps(pair, replace(REQUEST, guidance=guidance))
        first[guidance] = step
    with_class = first[1.5].energy[:, 0]
    np.testing.assert_allclose(first[1.0].energy[:, 0], with_class, rtol=1e-4)
    assert not np.allclose(with_class, first[1.5].energy[:, 1], rtol=0.01)


def test_the_latents_and_images_are_those_of_sampling(pair, teacher, student, traced):
    runs = [list(sample_steps(m, make_scheduler(), REQUEST)) for m in (teacher, student)]
    for step, (theirs, mine) in enumerate(zip(*runs, strict=True)):
        assert traced.timesteps[step] == theirs.timestep
        expected = relative(mine.latents, theirs.latents)
        assert traced.latent_error()[step] == pytest.approx(expected, rel=1e-4)
        difference = (mine.predicted_clean - theirs.predicted_clean).double() / 2
        expected = float(difference.square().mean())
        assert traced.picture_error()[step] == pytest.approx(expected, rel=1e-4)
    assert traced.latent_error()[-1] > 0
    assert traced.picture_steps == (0, 2, 3)
    last = ((theirs.predicted_clean[:3] + 1) * 127.5).round().numpy()
    assert np.abs(traced.pictures[0, -1] - last).max() <= 1


def test_the_output_error_is_that_of_the_predicted_noise(teacher, student, traced):
    with torch.no_grad():
        x, conditions = model_inputs(teacher, REQUEST)[2]
        expected = relative(*(model(x, **conditions).sample for model in (student, teacher)))
    assert traced.output_error("pass")[2] == pytest.approx(expected, rel=1e-4)
    assert traced.output_error("accumulated")[0] == pytest.approx(traced.output_error("pass")[0])
    with pytest.raises(ConfigError, match="single blocks"):
        traced.output_error("local")


def test_an_identical_student_has_no_error_at_all(teacher):
    found = trace(Pair(teacher=teacher, student=copy.deepcopy(teacher)), REQUEST)
    assert found.norm.min() > 0
    for name in ("energy", "output_energy", "latent_energy", "image_error"):
        assert (getattr(found, name) == 0).all(), name
    assert found.counts[..., 1:].sum() == 0
    assert np.array_equal(found.pictures[0], found.pictures[1])
    assert (trace(Pair(teacher=teacher, student=teacher), REQUEST).energy == 0).all()


def check_same(other, traced):
    for name in ("energy", "norm", "output_energy", "latent_energy", "latent_norm", "image_error"):
        np.testing.assert_allclose(getattr(other, name), getattr(traced, name), rtol=2e-3)
    assert other.picture_steps == traced.picture_steps
    assert np.abs(other.pictures.astype(int) - traced.pictures).max() <= 1
    moved = np.abs(other.counts - traced.counts).sum() / 2
    assert other.counts.sum() == traced.counts.sum()
    assert moved <= 0.005 * traced.counts.sum(), "tokens that rounding takes over an edge"


@pytest.mark.parametrize("batch", [1, 5, 100])
def test_the_batch_size_changes_nothing(pair, traced, batch):
    check_same(trace(pair, REQUEST, replace(CONFIG, batch=batch)), traced)


def test_where_memory_runs_out_batches_are_smaller(pair, traced):
    """Guidance has two branches: two images make four."""
    with room([pair.teacher, pair.student], lambda images: images <= 5) as passed:
        steps = list(trace_steps(pair, REQUEST, replace(CONFIG, batch=5)))
        check_same(trace(pair, REQUEST, replace(CONFIG, batch=5)), traced)
    assert [step.count for step in steps if step.index == 0] == [2, 2, 1]
    assert max(passed) == 4
    with (
        room([pair.student], lambda images: images < 2),
        pytest.raises(RuntimeError, match="allocate memory"),
    ):
        trace(pair, REQUEST, CONFIG)


def test_memory_that_is_back_at_once_changes_nothing(pair, traced):
    fates = iter([True, True, False] + [True] * 200)
    with room([pair.teacher, pair.student], lambda images: next(fates)):
        other = trace(pair, REQUEST, CONFIG)
    assert np.array_equal(other.energy, traced.energy)
    assert np.array_equal(other.pictures, traced.pictures)


def test_it_can_wait_and_the_models_can_be_used_meanwhile(pair, traced):
    """Between two records nothing is hooked; whatever runs then changes nothing."""
    records = []
    for record in trace_steps(pair, REQUEST, CONFIG):
        records.append(record)
        assert not any(m._forward_hooks for p in (pair.teacher, pair.student) for m in p.modules())
        model_inputs(pair.teacher, replace(REQUEST, steps=1))
        assert torch.is_grad_enabled()
    assert [(r.first, r.index) for r in records] == [(f, i) for f in (0, 2, 4) for i in range(4)]
    total = sum(record.energy.sum() for record in records)
    assert total == pytest.approx(traced.energy.sum(), rel=1e-12)
    assert records[-1].remaining == 0 < records[0].remaining


def test_stopping_leaves_the_models_as_they_were(pair):
    steps = trace_steps(pair, REQUEST)
    list(islice(steps, 2))
    held = [m for m in pair.student.modules() if getattr(m, "_held", None) is not None]
    assert held, "weights are decoded once"
    steps.close()
    assert not any(getattr(m, "_held", None) is not None for m in pair.student.modules())
    assert next(steps, None) is None


def test_an_exception_inside_a_block_leaves_no_hooks(teacher):
    broken = copy.deepcopy(teacher)
    broken.transformer_blocks[1].ff = nn.Linear(3, 3)
    with pytest.raises(RuntimeError):
        trace(Pair(teacher=teacher, student=broken), REQUEST)
    assert not any(m._forward_hooks for p in (teacher, broken) for m in p.modules())


def test_a_geometry_like_dit_xl(one_thread):
    """Learned variance, RGB-like latents that a decoder turns into images, other widths."""
    changes = {"in_channels": 4, "out_channels": 8, "num_layers": 4, "patch_size": 2}
    teacher = tiny_dit(**changes)
    student = copy.deepcopy(teacher)
    with torch.no_grad():
        student.transformer_blocks[2].attn1.to_q.weight.mul_(1.5)
    request = SampleRequest(labels=(1, 2), steps=3)

    def decode(latents: torch.Tensor) -> torch.Tensor:
        return nn.functional.interpolate(latents[:, :3], scale_factor=2)

    found = trace(Pair(teacher=teacher, student=student, decode=decode), request)
    local = found.error("local")
    assert local.shape == (4, 3)
    assert (local[[0, 1, 3]] == 0).all(), "one block alone was changed"
    assert (local[2] > 0).all()
    carried = found.error("pass")
    assert (carried[:2] == 0).all()
    assert (carried[2:] > 0).all()
    assert found.error("accumulated")[0, 0] == 0 < found.error("accumulated")[0, 1]
    assert found.pictures.shape == (2, 3, 2, 3, 16, 16)
    with pytest.raises(ShapeError, match="decode"):
        trace(Pair(teacher=teacher, student=student), request)
    bare = trace(Pair(teacher=teacher, student=student), request, TraceConfig(pictures=0))
    assert bare.pictures.size == 0


class TwoStreams(nn.Module):
    """A transformer that is no DiT: two kinds of blocks, tuples, one branch, a sampler's own."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(6, 8)
        self.joint = nn.ModuleList(Joint() for _ in range(2))
        self.single = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))
        self.leave = nn.Linear(8, 6)

    def forward(self, x: torch.Tensor, prompt: torch.Tensor) -> torch.Tensor:
        hidden = self.enter(x)
        for block in self.joint:
            hidden, prompt = block(hidden, prompt=prompt)
        for block in self.single:
            hidden = block(hidden) + hidden
        return self.leave(hidden + prompt)


class Joint(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image, self.text = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, hidden: torch.Tensor, *, prompt: torch.Tensor) -> Any:
        return torch.tanh(self.image(hidden + prompt)), torch.tanh(self.text(prompt))


def flow(model: Any, request: SampleRequest) -> Any:
    """Straight steps from noise, as flow models take them."""
    from dpqlab.diffusion.sampling import SampleStep, initial_noise

    indices = range(request.first_index, request.first_index + len(request.labels))
    x = initial_noise((5, 6), request.seed, indices)
    prompt = torch.tensor(request.labels)[:, None, None].float().expand(-1, 5, 8)
    for index in range(request.steps):
        velocity = model(x, prompt)
        x = x + velocity / request.steps
        yield SampleStep(
            index=index,
            total=request.steps,
            timestep=1000 - index,
            latents=x,
            predicted_clean=x[:, None],
        )


def test_another_kind_of_transformer():
    teacher = TwoStreams()
    student = copy.deepcopy(teacher)
    with torch.no_grad():
        student.joint[1].text.weight.add_(0.1)
    pair = Pair(teacher=teacher, student=student, sampler=flow, sampler_name="flow")
    request = SampleRequest(labels=(1, 2, 3), steps=2, guidance=1)
    found = trace(pair, request, TraceConfig(batch=2))
    assert found.blocks == ("joint.0", "joint.1", "single.0", "single.1")
    np.testing.assert_array_equal(
        found.error("local") > 0, [[False] * 2, [True] * 2] + [[False] * 2] * 2
    )
    named = trace(pair, request, TraceConfig(blocks=("single.1", "joint.1")))
    assert named.blocks == ("single.1", "joint.1")
    np.testing.assert_allclose(named.error("accumulated")[0], found.error("accumulated")[3])
    guided = trace(pair, request, TraceConfig(branches=("one",)))
    assert guided.branches == ("one",)


def test_samplers_that_call_a_model_twice_or_otherwise_are_refused(pair):
    def twice(model: Any, request: SampleRequest) -> Any:
        for step in sample_steps(model, make_scheduler(), request):
            model(step.latents, timestep=torch.tensor([5]), class_labels=torch.tensor([1]))
            yield step

    with pytest.raises(ConfigError, match="twice"):
        trace(replace(pair, sampler=twice), replace(REQUEST, labels=(1,)))

    def shorter(model: Any, request: SampleRequest) -> Any:
        steps = request.steps - (model is pair.student)
        return sample_steps(model, make_scheduler(), replace(request, steps=steps))

    with pytest.raises(ConfigError, match="other steps"):
        trace(replace(pair, sampler=shorter), REQUEST)


def test_what_cannot_be_compared_is_refused(pair, teacher, student):
    with pytest.raises(ConfigError, match="3 blocks, student 2"):
        trace(Pair(teacher=teacher, student=tiny_dit()), REQUEST)
    with pytest.raises(ConfigError, match="same"):
        Pair(teacher=teacher, student=copy.deepcopy(teacher).bfloat16())
    with pytest.raises(ConfigError, match="no parameters"):
        Pair(teacher=nn.Identity(), student=teacher)
    with pytest.raises(ConfigError, match="no list of blocks"):
        trace(Pair(teacher=nn.Linear(2, 2), student=nn.Linear(2, 2)), REQUEST)
    with pytest.raises(ConfigError, match=r"no module named 'blocks\.0'.*transformer_blocks\.0"):
        trace(pair, REQUEST, TraceConfig(blocks=("blocks.0",)))
    with pytest.raises(ConfigError, match="did not run"):
        trace(pair, REQUEST, TraceConfig(blocks=("transformer_blocks",)))
    with pytest.raises(ShapeError, match="branches"):
        trace(pair, REQUEST, TraceConfig(branches=("a", "b", "c")))
    wrong = tiny_dit(num_layers=3, attention_head_dim=8)
    with pytest.raises((ShapeError, RuntimeError)):
        trace(Pair(teacher=teacher, student=wrong), REQUEST)


def test_numbers_that_are_not_finite_are_told_with_their_block(teacher):
    broken = copy.deepcopy(teacher)
    with torch.no_grad():
        broken.transformer_blocks[1].ff.net[2].bias[0] = float("nan")
    with pytest.raises(ConfigError, match=r"block transformer_blocks\.1.*not finite"):
        trace(Pair(teacher=teacher, student=broken), REQUEST)


@pytest.mark.parametrize(
    "changes",
    [
        {"batch": 0},
        {"batch": True},
        {"pictures": -1},
        {"pictures": 1000},
        {"shown": 0},
        {"blocks": ()},
        {"blocks": ("a", "a")},
        {"branches": ()},
    ],
)
def test_impossible_settings(changes):
    with pytest.raises(ConfigError, match=next(iter(changes))):
        TraceConfig(**changes)


def test_pictures_are_spread_over_the_steps():
    assert TraceConfig(pictures=3).picture_steps(50) == (0, 24, 49)
    assert TraceConfig(pictures=9).picture_steps(4) == (0, 1, 2, 3)
    assert TraceConfig(pictures=1).picture_steps(4) == (3,)
    assert TraceConfig(pictures=0).picture_steps(4) == ()


def test_block_outputs_agrees(teacher, student, traced):
    """Calibration's own hooks see the same error in one pass."""
    with torch.no_grad():
        inputs = model_inputs(teacher, REQUEST)[1]
        seen = []
        for model in (student, teacher):
            with block_outputs(model) as outputs:
                model(inputs[0], **inputs[1])
            seen.append(outputs)
    expected = [relative(*both) for both in zip(*seen, strict=True)]
    np.testing.assert_allclose(traced.error("pass")[:, 1], expected, rtol=1e-4)
    assert TINY["num_layers"] != len(expected)
