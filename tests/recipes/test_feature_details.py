from __future__ import annotations

import pytest
import torch

from recipes.feature_details import (
    BLUR,
    GRID,
    KINDS,
    LEVELS,
    NOISE,
    Details,
    blurred,
    corrupt,
    noisy,
    posterized,
)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(24, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 1.8 - 0.9


def test_every_fourth_image_stays_and_the_others_change(images, generator):
    before = images.clone()
    changed, kinds = corrupt(images, generator)
    assert torch.equal(images, before), "what was given is not touched"
    assert kinds.tolist() == [0, 1, 2, 3] * 6
    off = (changed - images).abs().amax(dim=(1, 2, 3))
    assert (off[kinds == 0] == 0).all()
    assert (off[kinds != 0] > 0).all()
    assert changed.abs().max() <= 1


def test_noise_is_as_strong_as_it_says(generator):
    grey = torch.zeros(400, 3, 16, 16)
    strength = noisy(grey, generator).std(dim=(1, 2, 3)) * 127.5
    assert NOISE[0] * 0.9 < strength.min() < NOISE[0] * 1.3
    assert NOISE[1] * 0.9 < strength.max() < NOISE[1] * 1.1


def test_a_blur_keeps_the_mean_and_is_a_gaussian(generator):
    point = torch.zeros(200, 1, 15, 15)
    point[:, :, 7, 7] = 1.0
    seen = blurred(point, generator)[:, 0]
    torch.testing.assert_close(seen.sum(dim=(1, 2)), torch.ones(200))
    torch.testing.assert_close(seen, seen.transpose(1, 2), msg="rows as columns")
    torch.testing.assert_close(seen, seen.flip(1))
    # two neighbours of the middle tell the standard deviation: exp(-1 / (2 s^2))
    sigma = (-0.5 / (seen[:, 7, 8] / seen[:, 7, 7]).log()).sqrt()
    assert BLUR[0] <= sigma.min() and sigma.max() <= BLUR[1] + 1e-5


def test_an_edge_is_not_darkened_by_a_blur(generator):
    torch.testing.assert_close(blurred(torch.ones(4, 3, 8, 8), generator), torch.ones(4, 3, 8, 8))


def test_levels_are_few(images, generator):
    for before, after in zip(images, posterized(images, generator), strict=True):
        count = len(after.unique())
        assert count <= LEVELS[1]
        assert (after - before).abs().max() <= 1.0 / (LEVELS[0] - 1) + 1e-5


def test_the_heads_learn_what_the_features_hold(images):
    torch.manual_seed(0)
    details = Details(features=3 * GRID**2, channels=3)
    kinds = torch.arange(24) % len(KINDS)
    wanted = torch.nn.functional.adaptive_avg_pool2d(images, GRID).flatten(1)
    with torch.no_grad():
        details.picture.weight.copy_(torch.eye(3 * GRID**2))
        details.picture.bias.zero_()
        details.kind.weight.zero_()
        details.kind.bias.zero_()
    chance = torch.tensor(4.0).log()
    torch.testing.assert_close(details.loss(wanted, images, kinds), chance)
    assert details.loss(torch.zeros_like(wanted), images, kinds) > chance + 0.01
