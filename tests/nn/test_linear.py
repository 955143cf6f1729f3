"""Packed layers: decoding, forward, sharing, caching, holding, moving."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dpqlab.core import (
    CodebookCodec,
    ScalarCodec,
    decode,
    encode,
    fit_pool,
    ledger_of_encoded,
    scalar_decode,
    scalar_encode,
)
from dpqlab.errors import ShapeError
from dpqlab.nn.accounting import layer_ledger
from dpqlab.nn.linear import CompressedLinear, PackedLinear, ScalarLinear, hold_decoded

CODECS = [
    CodebookCodec(d=4, k=8, scope="position", row_scale=True, iterations=2),
    CodebookCodec(d=3, k=5, scope="layer", iterations=2),  # neither divides
    CodebookCodec(d=4, k=16, scope="group", group=2, iterations=2),  # a shorter last group
    CodebookCodec(d=2, k=200, scope="kind", row_scale=True, iterations=2),
]


def weight_of(shape: tuple[int, int] = (24, 20), seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def compressed(codec: CodebookCodec, *, bias: bool = True) -> CompressedLinear:
    weight = weight_of()
    pool = fit_pool([weight], codec, generator=torch.Generator().manual_seed(1))
    encoded = encode(weight, codec, pool)
    return CompressedLinear.from_encoded(
        encoded, codec, bias=torch.randn(24).half() if bias else None
    )


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.describe())
def test_decode_is_the_core_decode_bit_for_bit(codec: CodebookCodec) -> None:
    layer = compressed(codec)
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        assert torch.equal(layer.decode(dtype), decode(layer.encoded(), dtype))
    layer.cache_codes_()
    assert torch.equal(layer.decode(), decode(layer.encoded()))


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.describe())
def test_encoded_survives_packing(codec: CodebookCodec) -> None:
    weight = weight_of()
    pool = fit_pool([weight], codec, generator=torch.Generator().manual_seed(1))
    encoded = encode(weight, codec, pool)
    again = CompressedLinear.from_encoded(encoded, codec).encoded()
    assert torch.equal(again.codes, encoded.codes)
    assert torch.equal(again.pool.entries, encoded.pool.entries)
    assert torch.equal(again.scope_of, encoded.scope_of)


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.describe())
def test_ledger_of_the_layer_is_the_ledger_of_its_code(codec: CodebookCodec) -> None:
    layer = compressed(codec)
    mine = layer_ledger("x", layer)
    reference = ledger_of_encoded("x", layer.encoded(), 16 * 24, codec=codec.describe(), kind="x")
    assert mine == reference


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
def test_forward_is_a_linear_with_the_decoded_weight(dtype: torch.dtype, bias: bool) -> None:
    layer = compressed(CODECS[0], bias=bias)
    x = torch.randn(2, 3, 20, dtype=dtype)
    expected = F.linear(x, layer.decode(dtype), layer.bias.to(dtype) if bias else None)
    assert torch.equal(layer(x), expected)
    assert isinstance(layer, nn.Linear)
    assert layer(x).dtype == dtype


def test_scalar_layer_round_trips() -> None:
    codec = ScalarCodec(bits=3, group_size=8)
    encoded = scalar_encode(weight_of(), codec)
    layer = ScalarLinear.from_encoded(encoded, codec, bias=torch.zeros(24).half())
    assert torch.equal(layer.encoded().codes, encoded.codes)
    assert torch.equal(layer.decode(), scalar_decode(encoded))
    reference = ledger_of_encoded("x", encoded, 16 * 24, codec=codec.describe(), kind="x")
    assert layer_ledger("x", layer) == reference
    x = torch.randn(5, 20)
    assert torch.equal(layer(x), F.linear(x, layer.decode(), torch.zeros(24)))


def test_what_is_stored_is_frozen_parameters_only() -> None:
    layer = compressed(CODECS[0])
    assert set(layer.state_dict()) == {"weight", "pool", "scale", "bias"}
    assert not any(parameter.requires_grad for parameter in layer.parameters())
    assert layer.weight.dtype == torch.uint8


@pytest.mark.parametrize("cached", [True, False])
def test_decode_with_is_differentiable(cached: bool) -> None:
    layer = compressed(CODECS[0])
    if cached:
        layer.cache_codes_()
    entries = layer.pool.detach().double().requires_grad_()
    scale = layer.scale.detach().double().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda e, s: layer.decode_with(e, s, torch.float64)[:3], (entries, scale)
    )


def test_gradient_of_an_entry_sums_over_its_uses() -> None:
    layer = compressed(CODECS[1])
    layer.cache_codes_()
    entries = layer.pool.detach().float().requires_grad_()
    layer.decode_with(entries, None).sum().backward()
    uses = torch.bincount(layer.entry_indices().flatten(), minlength=len(entries)).float()
    assert torch.equal(entries.grad[:, 0], uses)


def test_set_codes_follows_through_the_cache() -> None:
    layer = compressed(CODECS[0])
    layer.cache_codes_()
    codes = torch.zeros(24, 5, dtype=torch.int64)
    layer.set_codes_(codes)
    assert torch.equal(layer.codes(), codes)
    assert torch.equal(layer.codes_cache, layer.base[:-1].expand(24, -1).int())
    layer.drop_codes_()
    assert layer.codes_cache is None
    with pytest.raises(ShapeError, match="beyond their codebook"):
        layer.set_codes_(codes + 8)
    with pytest.raises(ShapeError, match=r"expected \(24, 5\)"):
        layer.set_codes_(codes[:2])


def test_codes_below_the_width_but_beyond_a_short_codebook_are_refused() -> None:
    layer = compressed(CODECS[1])  # k = 5 in 3 bits
    with pytest.raises(ShapeError, match="beyond their codebook"):
        layer.set_codes_(torch.full((24, 7), 5))


def test_other_dtypes_change_the_arithmetic_not_the_storage() -> None:
    layer = compressed(CODECS[0])
    before = copy.deepcopy(layer.state_dict())
    layer.cache_codes_()
    model = nn.Sequential(layer).to(torch.bfloat16)
    assert layer.compute_dtype == torch.bfloat16
    model.float()
    assert layer.compute_dtype == torch.float32
    after = layer.state_dict()
    assert all(after[k].dtype == v.dtype and torch.equal(after[k], v) for k, v in before.items())
    assert layer.codes_cache.dtype == torch.int32


def test_shared_pool_is_one_parameter_also_after_moving_and_copying() -> None:
    codec = CODECS[3]
    weights = [weight_of(seed=0), weight_of(seed=1)]
    pool = fit_pool(weights, codec, generator=torch.Generator().manual_seed(1))
    first = CompressedLinear.from_encoded(encode(weights[0], codec, pool), codec)
    second = CompressedLinear.from_encoded(
        encode(weights[1], codec, pool), codec, pool_parameter=first.pool
    )
    model = nn.ModuleList([first, second])
    assert first.pool is second.pool
    moved = copy.deepcopy(model).half().to("cpu")
    assert moved[0].pool is moved[1].pool


@pytest.mark.parametrize("broken", ["codes", "pool", "scale", "bias", "base"])
def test_tensors_that_do_not_fit_are_refused(broken: str) -> None:
    layer = compressed(CODECS[0])
    from dpqlab.nn.linear import CodebookTensors

    tensors = {
        "codes": layer.weight,
        "pool": layer.pool,
        "scale": layer.scale,
        "bias": layer.bias,
        "base": layer.base,
    }
    tensors[broken] = tensors[broken][:-1]
    with pytest.raises(ShapeError, match="expected"):
        CompressedLinear(layer.codec, (24, 20), CodebookTensors(**tensors))


class TestHoldDecoded:
    def test_nests_and_restores(self) -> None:
        layer = compressed(CODECS[0])
        model = nn.Sequential(layer)
        x = torch.randn(4, 20)
        expected = model(x)
        with hold_decoded(model):
            held = layer._held
            assert held is not None
            with pytest.raises(RuntimeError, match="stop"), hold_decoded(model):
                assert layer._held is held  # not decoded twice
                raise RuntimeError("stop")
            assert layer._held is held
            assert torch.equal(model(x), expected)
            with hold_decoded(model, torch.bfloat16):
                assert layer._held.dtype == torch.bfloat16
                assert torch.equal(model(x), expected)  # float32 input: decoded as usual
            assert layer._held is held
        assert layer._held is None

    def test_restores_when_decoding_fails(self) -> None:
        class Broken(PackedLinear):
            def decode(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
                raise ZeroDivisionError

        good = compressed(CODECS[0])
        bad = Broken((2, 2), torch.zeros(1, dtype=torch.uint8), None, torch.float32)
        with pytest.raises(ZeroDivisionError), hold_decoded(nn.Sequential(good, bad)):
            pass
        assert good._held is None

    def test_gradient_reaches_the_input(self) -> None:
        layer = compressed(CODECS[0])
        x = torch.randn(4, 20, requires_grad=True)
        with hold_decoded(layer):
            layer(x).sum().backward()
        assert x.grad is not None
