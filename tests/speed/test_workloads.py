"""What is timed must be what the presets make: sizes, sharing, codes within their codebooks."""

from __future__ import annotations

import pytest
import torch

from dpqlab.core import CodebookCodec
from dpqlab.errors import ConfigError
from dpqlab.kernels import ops
from dpqlab.nn import preset
from dpqlab.speed import (
    DIT_XL_2,
    MODULATION,
    codec_of,
    coded_layers,
    layer_kinds,
    pool_bytes,
    stored_bytes,
)

SMALL = layer_kinds(64, 2)


def test_dit_xl_2_has_its_weights() -> None:
    tokens = sum(kind.weights for kind in DIT_XL_2 if kind.name != MODULATION)
    assert tokens == 445_906_944
    assert sum(kind.weights for kind in DIT_XL_2) - tokens == 222_953_472


@pytest.mark.parametrize("name", ["vq-2bit", "dpq-1bit", "best-2bit", "best-1bit", "best-1.25bit"])
def test_layers_are_coded_as_the_preset_says(name: str) -> None:
    for kind in SMALL:
        codec, _ = preset(name).codec_for(f"transformer_blocks.1.{kind.name}")
        assert isinstance(codec, CodebookCodec)
        assert codec == codec_of(name, kind)
        layers = coded_layers(name, kind, device="cpu")
        assert len(layers) == kind.blocks
        pools = {layer.pool.data_ptr() for layer in layers}
        assert len(pools) == (kind.blocks if codec.across == "layer" else 1)
        assert pool_bytes(layers) == sum(
            p.nbytes for p in {layer.pool.data_ptr(): layer.pool for layer in layers}.values()
        )
        for layer in layers:
            codes = kind.shape[0] * -(-kind.shape[1] // codec.d) * codec.code_bits
            scales = 16 * kind.shape[0] if codec.row_scale else 0
            assert 8 * stored_bytes(layer) == codes + scales
            assert int(layer.size.max()) == codec.k
            weight = ops.decode(layer)
            assert weight.shape == kind.shape
            assert torch.isfinite(weight).all()


def test_layers_differ() -> None:
    one, two = coded_layers("best-1bit", SMALL[0], device="cpu")
    assert not torch.equal(one.codes, two.codes)


def test_a_baseline_without_codebooks_is_refused() -> None:
    with pytest.raises(ConfigError, match="rtn-2bit"):
        codec_of("rtn-2bit", SMALL[0])
