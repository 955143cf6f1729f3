from __future__ import annotations

import pytest
import torch

from dpqlab.core import CodebookCodec, ScalarCodec
from dpqlab.evaluation.rate_distortion import (
    curve_codecs,
    family_of,
    pareto,
    rate_distortion_points,
)


def test_true_bits_count_everything(generator: torch.Generator) -> None:
    weight = torch.randn(64, 32, generator=generator)
    codecs = (
        CodebookCodec(d=4, k=16, scope="position", row_scale=True),
        CodebookCodec(d=4, k=16, scope="layer"),
        ScalarCodec(bits=2, group_size=16),
    )
    pq, vq, rtn = rate_distortion_points({"w": weight}, codecs)
    assert pq.true_bits == pytest.approx(1 + 8 * 16 * 4 * 16 / weight.numel() + 2 * 16 / 32)
    assert vq.true_bits == pytest.approx(1 + 16 * 4 * 16 / weight.numel() + 16 / 32)
    assert rtn.true_bits == pytest.approx(2 + 16 / 16 + 16 / 32)
    assert (rtn.d, rtn.k) == (1, 4)
    assert [p.family for p in (pq, vq, rtn)] == ["PQ", "VQ", "RTN"]


def test_a_seed_decides_and_more_bits_lose_less(generator: torch.Generator) -> None:
    weight = torch.randn(128, 16, generator=generator)
    codecs = [CodebookCodec(d=4, k=k, scope="layer") for k in (4, 16, 64)]
    first, again = (list(rate_distortion_points({"w": weight}, codecs, seed=5)) for _ in range(2))
    assert first == again
    errors = [point.relative_error for point in first]
    assert errors == sorted(errors, reverse=True)
    assert 0 < errors[-1] < errors[0] < 1


def test_curve_has_every_family_and_spans_the_rates(generator: torch.Generator) -> None:
    codecs = curve_codecs()
    assert {family_of(codec) for codec in codecs} == {"RTN", "VQ", "PQ, grouped", "PQ"}
    assert len(set(codecs)) == len(codecs)


def test_pareto_keeps_what_nothing_beats(generator: torch.Generator) -> None:
    weight = torch.randn(64, 16, generator=generator)
    codecs = [CodebookCodec(d=d, k=k, scope="layer") for d in (2, 4, 8) for k in (4, 16)]
    points = list(rate_distortion_points({"w": weight}, codecs))
    front = pareto(points)
    assert [p.true_bits for p in front] == sorted(p.true_bits for p in front)
    for point in points:
        beaten = any(
            f.true_bits <= point.true_bits and f.relative_error <= point.relative_error
            for f in front
        )
        assert beaten
