from __future__ import annotations

import pytest

from dpqlab.core import CodebookCodec
from dpqlab.errors import ConfigError
from dpqlab.evaluation.projection import DIT_XL_2, Geometry, dit_linears, project, ratio_at
from dpqlab.nn.plan import Plan
from dpqlab.nn.surgery import compress_

CODECS = [
    CodebookCodec(d=4, k=16, scope="position", row_scale=True),
    CodebookCodec(d=6, k=8, scope="layer"),
    CodebookCodec(d=4, k=8, scope="group", group=2),
    CodebookCodec(d=4, k=40, scope="position", across="kind"),  # one layer has but 32 rows
    CodebookCodec(d=4, k=64, scope="layer", across="model", row_scale=True),
]


@pytest.mark.parametrize("codec", CODECS, ids=CodebookCodec.describe)
def test_arithmetic_agrees_with_a_measured_ledger(codec: CodebookCodec) -> None:
    from dpqlab.diffusion.dit import FASHION_DIT, make_dit

    model = make_dit(
        FASHION_DIT | {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 2}
    )
    for parameter in model.parameters():
        parameter.data.normal_()
    ledger = compress_(model, Plan.for_blocks(codec)).ledger
    geometry = Geometry(
        name="tiny", linears=dit_linears(32), blocks=2, parameters=ledger.parameters
    )
    found = project(dict.fromkeys(geometry.linears, codec), geometry)
    assert geometry.block_weights == ledger.compressed_weights
    assert found.true_bits == pytest.approx(ledger.true_bits_per_weight)
    assert found.stored_bytes == ledger.stored_bytes
    assert found.ratio_fp32 == pytest.approx(ledger.fp32_bytes / ledger.stored_bytes)
    assert ratio_at(found.true_bits, geometry) == pytest.approx(found.ratio_fp32)


def test_the_published_size_of_plain_vq() -> None:
    """VQ with d=8, k=256 and all else in fp32 was counted by others at 874,062,848 bits.

    They keep q, k and v in one Linear, leave the row of the positions table in, and store what is
    kept, biases included, in fp32; so only the codes can be compared exactly.
    """
    codec = CodebookCodec(d=8, k=256, scope="layer")
    found = project(dict.fromkeys(DIT_XL_2.linears, codec), DIT_XL_2)
    assert DIT_XL_2.block_weights == 668_860_416
    assert found.codes == DIT_XL_2.block_weights
    assert 1.0 < found.true_bits < 1.03
    assert 26 < found.ratio_fp32 < 29


def test_a_larger_model_shrinks_further() -> None:
    small = Geometry(name="small", linears=dit_linears(384), blocks=8, parameters=21_838_864)
    assert ratio_at(1.1, DIT_XL_2) > ratio_at(1.1, small)
    codec = CodebookCodec(d=6, k=16, row_scale=True)
    here, there = (project(dict.fromkeys(g.linears, codec), g) for g in (small, DIT_XL_2))
    assert there.true_bits < here.true_bits


def test_every_kind_needs_a_codec() -> None:
    with pytest.raises(ConfigError, match=r"norm1\.linear"):
        project({}, DIT_XL_2)
