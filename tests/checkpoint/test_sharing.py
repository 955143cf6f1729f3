"""How the layers of a folder are split over processes."""

from __future__ import annotations

import pytest
import torch

from dpqlab.checkpoint.streaming import share_of
from dpqlab.core import CodebookCodec
from dpqlab.distributed import Team
from dpqlab.nn import Plan
from dpqlab.nn.targets import Target, targets_of
from tests.tiny import tiny_dit

PQ = CodebookCodec(d=4, k=8)
SHARED = CodebookCodec(d=4, k=8, scope="layer", across="kind")


def parts(targets: list[Target], world: int) -> list[list[Target]]:
    device = torch.device("cpu")
    return [share_of(targets, Team(rank=r, world=world, device=device)) for r in range(world)]


def weights(targets: list[Target]) -> int:
    return sum(target.linear.weight.numel() for target in targets)


@pytest.mark.parametrize("codec", [PQ, SHARED], ids=["a pool a layer", "a pool a kind"])
@pytest.mark.parametrize("world", [1, 2, 3, 40])
def test_every_layer_has_one_owner_and_its_pool_too(codec: CodebookCodec, world: int) -> None:
    targets = targets_of(tiny_dit(), Plan.for_blocks(codec))
    shares = parts(targets, world)
    assert sorted(t.name for share in shares for t in share) == sorted(t.name for t in targets)
    for share in shares:
        assert share == [target for target in targets if target in share]  # in model order
    groups = [{target.group for target in share} for share in shares]
    assert sum(map(len, groups)) == len(set().union(*groups))
    if world == 2:
        assert abs(weights(shares[0]) - weights(shares[1])) <= 0.2 * weights(targets)
