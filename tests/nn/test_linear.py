"""Packed layers: decoding, forward, sharing, caching, holding, moving."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from dpqlab.core import (
    CodebookCodec,
    Encoded,
    Pool,
    ScalarCodec,
    decode,
    encode,
    fit_pool,
    ledger_of_encoded,
    scalar_decode,
    scalar_encode,
)
from dpqlab.errors import ShapeError
from dpqlab.nn.accounting import kept_tensors, layer_ledger, ledger_of_model
from dpqlab.nn.linear import (
    CodebookTensors,
    CompressedLinear,
    PackedLinear,
    ScalarLinear,
    hold_decoded,
)

CODECS = [
    CodebookCodec(d=4, k=8, scope="position", row_scale=True, iterations=2),
    CodebookCodec(d=3, k=5, scope="layer", iterations=2),  # neither divides
    CodebookCodec(d=4, k=16, scope="group", group=2, iterations=2),  # a shorter last group
    CodebookCodec(d=2, k=200, scope="layer", across="kind", row_scale=True, iterations=2),
]
POOLS = [(codec, indexed) for codec in CODECS for indexed in (False, True)]
FORMS = pytest.mark.parametrize(
    ("codec", "indexed"), POOLS, ids=lambda v: v if isinstance(v, bool) else v.describe()
)


def weight_of(shape: tuple[int, int] = (24, 20), seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def indexed_pool(pool: Pool, seed: int = 0) -> Pool:
    """A pool with fewer codewords than codes, and codebooks of other sizes where it has several."""
    entries = pool.entries[: max(2, 2 * len(pool.entries) // 3)]
    sizes = pool.base.diff()
    if len(sizes) > 1:
        sizes[0] = 2
    base = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
    generator = torch.Generator().manual_seed(seed)
    table = torch.randint(len(entries), (int(base[-1]),), generator=generator)
    return Pool(entries=entries, base=base, table=table)


def encoded_of(
    codec: CodebookCodec, *, indexed: bool = False, shape: tuple[int, int] = (24, 20)
) -> Encoded:
    weight = weight_of(shape)
    pool = fit_pool([weight], codec, generator=torch.Generator().manual_seed(1))
    return encode(weight, codec, indexed_pool(pool) if indexed else pool)


def compressed(
    codec: CodebookCodec, *, bias: bool = True, indexed: bool = False
) -> CompressedLinear:
    return CompressedLinear.from_encoded(
        encoded_of(codec, indexed=indexed), codec, bias=torch.randn(24).half() if bias else None
    )


@FORMS
def test_decode_is_the_core_decode_bit_for_bit(codec: CodebookCodec, indexed: bool) -> None:
    layer = compressed(codec, indexed=indexed)
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        assert torch.equal(layer.decode(dtype), decode(layer.encoded(), dtype))
    layer.cache_codes_()
    assert torch.equal(layer.decode(), decode(layer.encoded()))


@FORMS
def test_encoded_survives_packing(codec: CodebookCodec, indexed: bool) -> None:
    encoded = encoded_of(codec, indexed=indexed)
    again = CompressedLinear.from_encoded(encoded, codec).encoded()
    assert_same(again, encoded)


def assert_same(mine: Encoded, other: Encoded) -> None:
    assert torch.equal(mine.codes, other.codes)
    assert torch.equal(mine.scope_of, other.scope_of)
    assert torch.equal(mine.pool.entries, other.pool.entries)
    assert torch.equal(mine.pool.base, other.pool.base)
    for a, b in ((mine.pool.table, other.pool.table), (mine.scale, other.scale)):
        assert (a is None) == (b is None)
        assert a is None or torch.equal(a, b)


@pytest.mark.parametrize("owner", [True, False])
@FORMS
def test_ledger_of_the_layer_is_the_ledger_of_its_code(
    codec: CodebookCodec, indexed: bool, owner: bool
) -> None:
    layer = compressed(codec, indexed=indexed)
    mine = layer_ledger("x", layer, owns_pool=owner)
    words = {"codec": codec.describe(), "kind": "x"}
    assert mine == ledger_of_encoded("x", layer.encoded(), 16 * 24, owner, **words)
    assert (mine.pool > 0) == owner
    assert mine.table > 0 if indexed else mine.table == 0 or owner


@FORMS
def test_set_pool_makes_it_the_layer_of_another_encoding(
    codec: CodebookCodec, indexed: bool
) -> None:
    for before in (False, True):
        layer = compressed(codec, indexed=before)
        bias = layer.bias
        encoded = encoded_of(codec, indexed=indexed)
        layer.cache_codes_()
        layer.set_pool_(encoded)
        fresh = CompressedLinear.from_encoded(encoded, codec, bias=bias)
        assert_same(layer.encoded(), encoded)
        assert layer.code_bits == fresh.code_bits
        assert layer.bias is bias
        assert torch.equal(layer.decode(), fresh.decode())  # through the cache
        assert layer.state_dict().keys() == fresh.state_dict().keys()
        assert not any(parameter.requires_grad for parameter in layer.parameters())
        assert layer_ledger("x", layer) == layer_ledger("x", fresh)


def test_set_pool_keeps_a_shared_parameter_shared() -> None:
    codec = CODECS[3]
    layers = [compressed(codec), compressed(codec)]
    pool = encoded_of(codec, indexed=True).pool
    tables = [pool, indexed_pool(pool, seed=5)]
    for layer, book in zip(layers, tables, strict=True):
        book = Pool(entries=pool.entries, base=book.base, table=book.table % len(pool.entries))
        encoded = encode(weight_of(), codec, book)
        layer.set_pool_(encoded, pool_parameter=None if layer is layers[0] else layers[0].pool)
    assert layers[0].pool is layers[1].pool
    assert not torch.equal(layers[0].table, layers[1].table)


def test_set_pool_refuses_the_encoding_of_another_layer() -> None:
    codec = CODECS[0]
    layer = compressed(codec)
    before = layer.encoded()
    others = [
        encoded_of(codec, shape=(24, 24)),
        encoded_of(CodebookCodec(d=2, k=8, iterations=1, row_scale=True)),
        encoded_of(CodebookCodec(d=4, k=8, iterations=1)),  # no scales
        encoded_of(CodebookCodec(d=4, k=8, scope="layer", iterations=1, row_scale=True)),
    ]
    for other in others:
        with pytest.raises(ShapeError, match="encode the layer's own weight"):
            layer.set_pool_(other)
    with pytest.raises(ShapeError, match="pool of a"):
        layer.set_pool_(before, pool_parameter=nn.Parameter(layer.pool.detach()[:-1]))
    assert_same(layer.encoded(), before)


class TestLatent:
    """Unquantized sub-vectors that take the gradient, and do nothing else."""

    @pytest.mark.parametrize("indexed", [False, True])
    @pytest.mark.parametrize("codec", CODECS[:2], ids=lambda codec: codec.describe())
    def test_gradient_flows_straight_through(self, codec: CodebookCodec, indexed: bool) -> None:
        layer = compressed(codec, indexed=indexed)
        expected = layer.decode()
        layer.latent = nn.Parameter(torch.randn(24, layer.positions, codec.d))
        assert torch.equal(layer.decode(), expected)
        pull = torch.randn(24, 20)
        (layer.decode() * pull).sum().backward()
        if layer.scale is not None:
            pull = pull * layer.scale.float()[:, None]  # the latent is in units of the scale
        padding = layer.positions * codec.d - 20
        wanted = F.pad(pull, (0, padding)).view(24, layer.positions, codec.d)
        assert torch.equal(layer.latent.grad, wanted)

    def test_it_leaves_the_gradient_of_the_codewords_alone(self) -> None:
        layer = compressed(CODECS[0])
        entries = layer.pool.detach().double().requires_grad_()
        latent = torch.randn(24, 5, 4, dtype=torch.float64)
        pull = torch.randn(24, 20, dtype=torch.float64)
        grads = []
        for given in (None, latent):
            what = layer.decode_with(entries, layer.scale, torch.float64, given)
            grads.append(torch.autograd.grad((what * pull).sum(), entries)[0])
        assert torch.equal(*grads)

    @pytest.mark.parametrize("present", [False, True])
    def test_functional_call_substitutes_it(self, present: bool) -> None:
        model = nn.Sequential(compressed(CODECS[0]))
        if present:
            model[0].latent = nn.Parameter(torch.zeros(24, 5, 4))
        latent = torch.randn(24, 5, 4, requires_grad=True)
        x = torch.randn(3, 20)
        out = functional_call(model, {"0.latent": latent}, (x,))
        torch.testing.assert_close(out, model(x))  # another kernel may sum in another order
        out.sum().backward()
        assert bool(latent.grad.any())
        assert (model[0].latent is not None) == present

    def test_it_is_neither_counted_nor_kept(self) -> None:
        model = nn.Sequential(compressed(CODECS[0]))
        before = ledger_of_model(model), [name for name, _ in kept_tensors(model)]
        model[0].latent = nn.Parameter(torch.zeros(24, 5, 4))
        after = ledger_of_model(model), [name for name, _ in kept_tensors(model)]
        assert after == before
        model[0].latent = None
        assert set(model.state_dict()) == {"0.weight", "0.pool", "0.scale", "0.bias"}


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


@pytest.mark.parametrize("broken", ["codes", "pool", "scale", "bias", "base", "table"])
def test_tensors_that_do_not_fit_are_refused(broken: str) -> None:
    layer = compressed(CODECS[0], indexed=broken == "table")
    tensors = {
        "codes": layer.weight,
        "table": layer.table,
        "pool": layer.pool,
        "scale": layer.scale,
        "bias": layer.bias,
        "base": layer.base,
    }
    tensors[broken] = tensors[broken][:-1]
    with pytest.raises(ShapeError, match="expected"):
        CompressedLinear(layer.codec, (24, 20), CodebookTensors(**tensors))


@pytest.mark.parametrize("entry", [-1, 26])
def test_tables_that_point_beyond_the_pool_are_refused(entry: int) -> None:
    encoded = encoded_of(CODECS[0], indexed=True)
    assert len(encoded.pool.entries) == 26
    layer = CompressedLinear.from_encoded(encoded, CODECS[0])
    layer.table[3] = entry
    with pytest.raises(ShapeError, match=r"expected 0 to 25"):
        CompressedLinear(
            CODECS[0],
            (24, 20),
            CodebookTensors(
                codes=layer.weight, pool=layer.pool, base=layer.base, table=layer.table
            ),
        )


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
            torch.testing.assert_close(model(x), expected)  # a kernel may sum in another order
            with hold_decoded(model, torch.bfloat16):
                assert layer._held.dtype == torch.bfloat16
                torch.testing.assert_close(model(x), expected)  # float32 input: decoded as usual
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
