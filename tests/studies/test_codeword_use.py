"""A codeword looked up, on a tiny model: against slow sums."""

from __future__ import annotations

import pytest
import torch

from dpqlab.core import decode
from dpqlab.errors import ConfigError
from dpqlab.studies.codeword_use import subvectors_of, use_of


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


def test_subvectors_of_a_scope_are_the_weights_columns(study):
    points, entries = subvectors_of(study, 3)
    columns = torch.cat([member.weight[:, 6:8] for member in study.members])
    assert torch.equal(torch.from_numpy(points), columns)
    assert set(entries.tolist()) <= set(range(24, 32))
