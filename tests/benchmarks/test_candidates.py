"""The benchmark of what was left out: its counting, and its quantizers against each other."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
import torch

from benchmarks import candidates
from dpqlab.core import CodebookCodec
from dpqlab.nn import CompressedLinear, Plan, compress_
from tests.tiny import tiny_dit


def test_entropy_is_what_equal_and_lopsided_codes_need() -> None:
    assert candidates.entropy(np.arange(64).repeat(3)) == pytest.approx(6 * 192)
    assert candidates.entropy(np.zeros(50, dtype=np.int64)) == 0
    assert candidates.entropy(np.array([0, 0, 0, 5])) == pytest.approx(3 * np.log2(4 / 3) + 2)


def test_no_coder_of_bytes_beats_the_entropy_of_independent_codes() -> None:
    generator = np.random.default_rng(0)
    codes = generator.choice(256, size=20_000, p=np.arange(1, 257) / 32_896)
    deflated = 8 * len(zlib.compress(codes.astype(np.uint8).tobytes(), 9))
    assert 0.98 * deflated < candidates.entropy(codes) < deflated


@pytest.mark.parametrize("scope", ["layer", "position"])
def test_every_codebook_of_a_layer_has_its_own_counts(scope: str) -> None:
    model = tiny_dit()
    compress_(model, Plan.for_blocks(CodebookCodec(d=4, k=8, scope=scope, iterations=2)))  # type: ignore[arg-type]
    layer = next(m for m in model.modules() if isinstance(m, CompressedLinear))
    codes = layer.codes().numpy()
    books = codes.T if scope == "position" else codes[None]
    expected = sum(candidates.entropy(book) + 12 * 8 for book in books)
    assert candidates.coded_bits(layer) == pytest.approx(expected)
    record = candidates.codes_record("tiny", model)
    assert 0 < record["value"] <= record["details"]["true_bits"]


def test_of_gaussian_values_neither_form_is_below_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # the rates of the benchmark, one bit a weight, with fewer and shorter codewords
    for name, size in {"CODEWORDS": 16, "PLAIN": 4, "SUM": 8}.items():
        monkeypatch.setattr(candidates, name, size)
    weights = [torch.randn(64, 256, generator=torch.Generator().manual_seed(0)).numpy()]
    records = list(candidates.additive_records("noise", weights))
    assert len(records) == 2
    for record in records:
        details = record["details"]
        assert details["true_bits_without_scales"] > 1 < details["rival_true_bits_without_scales"]
        for error in (record["value"], details["rival_error"]):
            assert 0.25 < error < 0.4
