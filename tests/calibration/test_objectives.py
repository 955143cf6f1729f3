"""What a student is asked to match."""

from __future__ import annotations

import pytest
import torch

from dpqlab.calibration import Objective, distillation
from dpqlab.calibration.objectives import JUDGED_FEATURES, timestep_weights, training_loss
from dpqlab.errors import ConfigError


def test_by_hand():
    mine = (torch.tensor([[1.0, 2.0]]), [torch.tensor([[2.0, 0.0]]), torch.tensor([[5.0, 5.0]])])
    theirs = (torch.tensor([[0.0, 4.0]]), [torch.tensor([[1.0, 2.0]]), torch.tensor([[4.0, 3.0]])])
    # output: (1 + 4) / 2; blocks: (1 + 4) / (1 + 4) and (1 + 4) / (16 + 9)
    loss = distillation(mine, theirs, feature_weight=0.5)
    assert loss.output.item() == 2.5
    assert loss.features.item() == pytest.approx((1.0 + 0.2) / 2)
    assert loss.total.item() == pytest.approx(2.5 + 0.5 * 0.6)
    assert distillation(mine, theirs, feature_weight=0.0).total.item() == 2.5


def test_equal_models_have_no_loss():
    blocks = [torch.randn(2, 3, 4) for _ in range(3)]
    out = torch.randn(2, 1, 4, 4)
    loss = distillation((out, blocks), (out.clone(), blocks), feature_weight=1.0)
    assert (loss.total.item(), loss.output.item(), loss.features.item()) == (0, 0, 0)


def test_a_block_counts_by_its_relative_error():
    """The scale of a block, which grows with depth, makes no difference."""
    out = torch.zeros(1, 1)
    mine, theirs = torch.randn(2, 3), torch.randn(2, 3)
    small = distillation((out, [mine]), (out, [theirs]), feature_weight=1.0)
    large = distillation((out, [100 * mine]), (out, [100 * theirs]), feature_weight=1.0)
    assert small.features.item() == pytest.approx(large.features.item())


def test_half_precision_is_compared_in_float32():
    big = torch.full((4,), 300.0, dtype=torch.float16)  # its square overflows
    loss = distillation((big, [big]), (-big, [-big]), feature_weight=1.0)
    assert loss.total.dtype == torch.float32
    assert loss.output.item() == 360_000
    assert loss.features.item() == 4


@pytest.mark.parametrize(("mine", "theirs"), [(1, 2), (2, 1), (0, 0)])
def test_blocks_that_do_not_match_are_refused(mine, theirs):
    x = torch.ones(2)
    with pytest.raises(ConfigError, match=f"student has {mine} blocks, teacher {theirs}"):
        distillation((x, [x] * mine), (x, [x] * theirs), feature_weight=0.1)


def test_blocks_are_listed_and_features_are_their_mean():
    theirs = [torch.randn(2, 3, 4) for _ in range(3)]
    mine = [block * (1 + 0.1 * i) for i, block in enumerate(theirs)]
    out = torch.zeros(2, 1, 4, 4)
    loss = distillation((out, mine), (out, theirs))
    torch.testing.assert_close(loss.blocks, torch.tensor([0.0, 0.01, 0.04]), rtol=1e-4, atol=0)
    assert loss.features.item() == pytest.approx(0.05 / 3, rel=1e-4)
    assert loss.total.item() == pytest.approx(JUDGED_FEATURES * loss.features.item())


ONE = torch.tensor([1.0, 1.0])


def images(*values: float) -> torch.Tensor:
    """Images of one pixel."""
    return torch.tensor(values)[:, None, None, None]


def test_the_output_is_weighed_image_by_image():
    mine, theirs = (images(1, 2), []), (images(0, 5), [])
    objective = Objective(output=2.0, features=0.0)
    found = training_loss(mine, theirs, objective, target=None, weights=torch.tensor([3.0, 1.0]))
    assert found.item() == 2 * (3 * 1 + 1 * 9) / 2


def test_the_parts_of_an_objective_add_up():
    mine, theirs = (images(1, 2), [images(1, 3)]), (images(0, 5), [images(1, 1)])
    noise = images(3, 3)
    # output (1 + 9) / 2; block 4 / 2, relative to 1; noise (4 + 1) / 2
    for output, features, ddpm in ((1, 0, 0), (0, 1, 0), (0, 0, 1), (0.5, 0.25, 2)):
        objective = Objective(output=output, features=features, ddpm=ddpm)
        found = training_loss(mine, theirs, objective, target=noise, weights=ONE)
        assert found.item() == pytest.approx(output * 5 + features * 2 + ddpm * 2.5)


def test_guidance_compares_what_sampling_uses():
    # with a class, then without: the student's guided noise is 1 + 3 (2 - 1) and 4 + 3 (4 - 4)
    mine = (images(2, 4, 1, 4), [images(1, 1, 1, 1)])
    theirs = (images(1, 1, 1, 1), [images(1, 1, 1, 1)])
    objective = Objective(features=0.0, guidance=3.0)
    weights = torch.tensor([1.0, 2.0, 100.0, 100.0])  # those of the first half count
    found = training_loss(mine, theirs, objective, target=None, weights=weights)
    assert found.item() == ((4 - 1) ** 2 + 2 * (4 - 1) ** 2) / 2
    # at scale 1 the branch without class plays no part, at 0 no other does
    for scale, branch in ((1.0, (2, 4)), (0.0, (1, 4))):
        objective = Objective(features=0.0, guidance=scale)
        found = training_loss(mine, theirs, objective, target=None, weights=torch.ones(4))
        assert found.item() == sum((x - 1) ** 2 for x in branch) / 2


def test_the_ddpm_loss_asks_for_the_noise_alone():
    """It needs no teacher, and says nothing about a learned variance."""
    objective = Objective(output=0.0, features=0.0, ddpm=0.5)
    mine = torch.cat([images(1, 2), images(7, 7)], dim=1)
    found = training_loss((mine, []), None, objective, target=images(0, 4), weights=ONE)
    assert found.item() == 0.5 * (1 + 4) / 2
    with pytest.raises(ConfigError, match="DDPM loss needs real images"):
        training_loss((mine, []), None, objective, target=None, weights=ONE)


@pytest.mark.parametrize("power", [0.0, 1.0, -0.5, -2.0])
def test_timesteps_weigh_by_their_noise(power):
    alphas = torch.linspace(0.9999, 0.0001, 100, dtype=torch.float64)
    weights = timestep_weights(alphas, power)
    assert weights.mean().item() == pytest.approx(1)
    sigma = ((1 - alphas) / alphas).sqrt()
    inside = (sigma > 0.05) & (sigma < 10)
    ratio = weights[inside] / sigma[inside] ** power
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio))
    assert weights[0] == weights[sigma < 0.05].mean()
    assert weights[-1] / weights[0] == pytest.approx((10 / 0.05) ** power)
