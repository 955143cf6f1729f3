"""The nearest codeword of the right scope, for every latent."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dpqlab.calibration import codesearch
from dpqlab.calibration.codesearch import CodeSearch, initial_latent
from dpqlab.core import CodebookCodec, Pool, encode, fit_pool, row_rms, split
from dpqlab.nn.linear import CompressedLinear

# 11 positions, the last filled up: groups of 4, 4 and 3
SHAPE, D = (40, 32), 3
CODECS = {
    "position": CodebookCodec(d=D, k=8, iterations=1),
    "group": CodebookCodec(d=D, k=16, scope="group", group=4, iterations=1),
    "layer": CodebookCodec(d=D, k=32, scope="layer", iterations=1),
    "scaled": CodebookCodec(d=D, k=16, scope="group", group=4, row_scale=True, iterations=1),
}


def pool_of(codec: CodebookCodec, form: str) -> Pool:
    """Random codewords; codebooks of 1 to k of them, or listed by a table."""
    seeded = torch.Generator().manual_seed(1)
    pool = fit_pool([torch.randn(SHAPE, generator=seeded)], codec, generator=seeded)
    if form == "even":
        return pool
    sizes = torch.randint(1, codec.k + 1, (len(pool.sizes),), generator=seeded)
    base = torch.nn.functional.pad(sizes.cumsum(0), (1, 0))
    if form == "ragged":
        return Pool(entries=pool.entries[: int(base[-1])], base=base)
    drawn = [torch.randperm(len(pool.entries), generator=seeded)[:k] for k in sizes.tolist()]
    return Pool(entries=pool.entries, base=base, table=torch.cat(drawn))


def layer_of(
    codec: CodebookCodec, form: str = "even", *, codes: bool = True
) -> tuple[CompressedLinear, torch.Tensor]:
    """A layer with cached codes, and the weight it was made of; without ``codes`` all are 0."""
    weight = torch.randn(SHAPE, generator=torch.Generator().manual_seed(2))
    weight[3] = 0
    encoded = encode(weight, codec, pool_of(codec, form))
    if not codes:
        encoded = replace(encoded, codes=torch.zeros_like(encoded.codes))
    layer = CompressedLinear.from_encoded(encoded, codec)
    layer.cache_codes_()
    return layer, weight


def units(layer: CompressedLinear, weight: torch.Tensor) -> torch.Tensor:
    """Sub-vectors in units of the row scale."""
    sub = split(weight, D)
    if layer.scale is None:
        return sub
    scale = layer.scale.float()[:, None, None]
    return torch.where(scale > 0, sub / scale, 0.0)


def nearest(layer: CompressedLinear, latent: torch.Tensor) -> torch.Tensor:
    """Position by position, in float64."""
    pool, codes = layer.codebooks(), torch.empty(latent.shape[:2], dtype=torch.int64)
    for position, scope in enumerate(layer.scope_of.tolist()):
        words = pool.codewords[pool.base[scope] : pool.base[scope + 1]].double()
        apart = latent[:, position, None].double() - words
        codes[:, position] = apart.square().sum(-1).argmin(1)
    return codes


@pytest.fixture(params=["one chunk", "a row a chunk", "7 rows a chunk"])
def chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    size = {"one chunk": 1 << 29, "a row a chunk": 1, "7 rows a chunk": 7 * 4 * 8 * 16}
    monkeypatch.setattr(codesearch, "CHUNK_BYTES", size[request.param])


@pytest.mark.parametrize("form", ["even", "ragged", "indexed"])
@pytest.mark.parametrize("name", CODECS)
def test_codes_are_the_nearest_of_their_scope(name, form, chunks):
    layer, weight = layer_of(CODECS[name], form, codes=False)
    search, latent = CodeSearch(layer), units(layer, weight)
    search.choose_(latent, layer.pool.float())
    assert torch.equal(search.codes, nearest(layer, latent))
    assert len(search.codes.unique()) > 1
    expected = layer.codebooks().entry_indices(search.codes, layer.scope_of)
    assert torch.equal(layer.entry_indices(), expected.int())
    assert not layer.codes().any()  # what is stored stays


@pytest.mark.parametrize("form", ["even", "ragged", "indexed"])
@pytest.mark.parametrize("name", ["position", "group", "layer"])
def test_codes_are_those_of_encode(name, form):
    layer, weight = layer_of(CODECS[name], form)
    search = CodeSearch(layer)
    expected = search.codes.clone()
    search.codes.zero_()
    search.choose_(split(weight, D), layer.pool.float())
    assert torch.equal(search.codes, expected)


def test_codes_follow_codewords_that_move():
    layer, weight = layer_of(CODECS["group"], "indexed")
    search, latent = CodeSearch(layer), split(weight, D)
    moved = layer.pool.float() + 0.5 * torch.randn(layer.pool.shape)
    before = search.codes.clone()
    search.choose_(latent, moved)
    assert not torch.equal(search.codes, before)
    layer.pool.data = moved.half()
    search.choose_(latent, layer.pool.float())
    assert torch.equal(search.codes, nearest(layer, latent))


def test_a_search_writes_where_a_graph_reads():
    """Whatever cache the layer was given since, it is one tensor that codes are shown in."""
    layer, weight = layer_of(CODECS["position"])
    search, cache = CodeSearch(layer), layer.codes_cache
    assert cache is not None
    where = cache.data_ptr()
    layer.set_codes_(torch.zeros_like(search.codes))
    assert layer.codes_cache is not cache
    search.choose_(2 * split(weight, D), layer.pool.float())
    assert layer.codes_cache is cache
    assert cache.data_ptr() == where


@pytest.mark.parametrize("form", ["even", "ragged", "indexed"])
@pytest.mark.parametrize("name", CODECS)
def test_latents_start_where_no_code_changes(name, form):
    layer, weight = layer_of(CODECS[name], form)
    codes = layer.codes()
    if name != "scaled":  # some codes that are not the nearest, such as an E-step leaves
        other = torch.rand(codes.shape) < 0.3
        codes = torch.where(other, 0, codes)
        layer.set_codes_(codes)
    decoded = layer.decode()
    latent = initial_latent(layer, weight)
    assert latent.dtype == torch.float32
    assert torch.equal(layer.decode(), decoded)
    assert torch.equal(layer.codes(), codes)
    sub, words = units(layer, weight), layer.pool.float()[layer.entry_indices().long()]
    fits = nearest(layer, sub) == codes
    assert 0 < fits.float().mean() < 1
    assert torch.equal(latent, torch.where(fits[..., None], sub, words))
    search = CodeSearch(layer)
    search.choose_(latent, layer.pool.float())
    assert torch.equal(search.codes, codes)


def test_a_row_of_zeros_has_a_latent_of_codewords():
    layer, weight = layer_of(CODECS["scaled"])
    assert layer.scale is not None
    assert layer.scale[3] == row_rms(weight)[3] == 0
    latent = initial_latent(layer, weight)
    assert latent.isfinite().all()
    assert torch.equal(nearest(layer, latent)[3], layer.codes()[3])
