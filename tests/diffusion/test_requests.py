"""What may be asked for, and the noise that an image starts from."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dpqlab.diffusion.sampling import (
    SampleRequest,
    image_generator,
    initial_noise,
    sample_steps,
    to_uint8,
)
from dpqlab.diffusion.schedules import make_scheduler
from dpqlab.errors import ConfigError, ShapeError
from tests.tiny import forwards_of

GOOD = SampleRequest(labels=(1, 2))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"labels": ()}, "labels is empty: expected at least one class label"),
        ({"labels": (1, -1)}, "a label is -1: expected 0 to "),
        ({"labels": (1.5,)}, "a label is 1.5: expected a whole number"),
        ({"steps": 0}, "steps is 0: expected 1 to 1000"),
        ({"steps": 1001}, "steps is 1001: expected 1 to 1000"),
        ({"steps": 2.5}, "steps is 2.5: expected a whole number"),
        ({"steps": True}, "steps is True: expected a whole number"),
        ({"seed": -1}, "seed is -1: expected 0 to "),
        ({"seed": 2**64}, "seed is 18446744073709551616: expected 0 to 18446744073709551615"),
        ({"first_index": -1}, "first_index is -1: expected 0 to "),
        ({"guidance": float("nan")}, "guidance is nan: expected a number from 0 to 100"),
        ({"guidance": float("inf")}, "guidance is inf: expected a number from 0 to 100"),
        ({"guidance": -0.1}, "guidance is -0.1: expected a number from 0 to 100"),
        ({"guidance": 100.5}, "guidance is 100.5: expected a number from 0 to 100"),
    ],
)
def test_an_impossible_request_is_refused_when_it_is_made(change, complaint):
    with pytest.raises(ConfigError) as caught:
        replace(GOOD, **change)
    assert str(caught.value).startswith(complaint)


def test_the_limits_themselves_are_allowed():
    for change in ({"steps": 1}, {"steps": 1000}, {"guidance": 0}, {"guidance": 100}):
        replace(GOOD, **change)
    replace(GOOD, seed=2**64 - 1, first_index=2**31 - 1, labels=(np.int64(3),))


@pytest.mark.parametrize("label", [11, 2**31 - 1])
def test_a_label_the_model_does_not_know_is_refused_before_any_work(dit, label):
    with forwards_of(dit) as sizes, pytest.raises(ConfigError, match=r"expected 0 to 9, or 10"):
        sample_steps(dit, make_scheduler(), SampleRequest(labels=(0, label)))
    assert sizes == []


@pytest.mark.parametrize("shape", [(1, 1, 8, 8), (2, 8, 8), (2, 3, 8, 8), (2, 1, 8, 4)])
def test_latents_of_another_shape_are_refused(dit, shape):
    with pytest.raises(ShapeError, match=r"expected \(2, 1, 8, 8\)"):
        sample_steps(dit, make_scheduler(), GOOD, latents=torch.zeros(shape))


def draw(seed: int, index: int, stream: int = 0) -> tuple[float, ...]:
    return tuple(torch.randn(4, generator=image_generator(seed, index, stream)).tolist())


def test_pairs_of_seed_and_index_do_not_collide():
    pairs = list(itertools.product(range(40), range(40)))
    assert len({draw(*pair) for pair in pairs}) == len(pairs)
    # long seeds, whose words could be taken for an index
    long = [(5, 0), (0, 5), (5 * 2**32, 0), (2**32, 7), (0, 1 + 7 * 2**31), (2**63, 1), (2**63, 0)]
    assert len({draw(*pair) for pair in long}) == len(long)


def test_streams_differ_and_the_first_is_the_default():
    assert draw(3, 4) == draw(3, 4, 0)
    assert len({draw(3, 4, stream) for stream in range(4)}) == 4


def test_the_noise_of_the_shipped_figures():
    """Benchmarks and bundled references were drawn from this noise: it may never change."""
    state = np.random.SeedSequence([7, 2]).generate_state(1, np.uint64)[0]
    expected = torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(int(state)))
    assert torch.equal(initial_noise((1, 8, 8), 7, [2])[0], expected)


def test_noise_is_standard_normal():
    noise = initial_noise((1, 32, 32), 0, range(64))
    assert noise.shape == (64, 1, 32, 32)
    assert noise.dtype == torch.float32
    assert abs(noise.mean().item()) < 4 / 256
    assert abs(noise.std().item() - 1) < 4 / 256 / 2**0.5
    # images are independent of each other
    correlation = torch.corrcoef(noise.flatten(1)).fill_diagonal_(0)
    assert correlation.abs().max() < 6 / 32


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(6)), st.integers(0, 2**64 - 1))
def test_a_row_depends_on_its_own_index_alone(order, seed):
    together = initial_noise((1, 2, 2), seed, range(6))
    assert torch.equal(initial_noise((1, 2, 2), seed, order), together[list(order)])


def test_to_uint8_rounds_and_clamps():
    values = torch.tensor([-2.0, -1.0, -0.9961, 0.0, 0.5, 1.0, 7.0])
    assert to_uint8(values).tolist() == [0, 0, 0, 128, 191, 255, 255]
    assert to_uint8(values.bfloat16()).dtype == torch.uint8
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(every.float() / 127.5 - 1), every)
