from __future__ import annotations

from dataclasses import replace
from typing import Any

import faiss
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dpqlab.core import (
    CodebookCodec,
    Pool,
    ScalarCodec,
    code_bits,
    codec_from_dict,
    decode,
    decode_weight,
    encode,
    fit_pool,
    relative_error,
    split,
)
from dpqlab.errors import ConfigError, ShapeError

CODECS = [
    CodebookCodec(d=4, k=16),
    CodebookCodec(d=4, k=16, row_scale=True),
    CodebookCodec(d=3, k=7, scope="group", group=4, init="sample"),
    CodebookCodec(d=5, k=32, scope="layer"),
    CodebookCodec(d=8, k=256, scope="layer", across="kind", iterations=3),
    CodebookCodec(d=8, k=16, across="kind", row_scale=True, iterations=3),
]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def weight() -> torch.Tensor:
    return torch.randn(48, 40, generator=seeded(7)) * torch.logspace(-1, 1, 48)[:, None]


@pytest.mark.parametrize("codec", [*CODECS, ScalarCodec(bits=2, group_size=64)])
def test_dictionary_round_trip(codec: Any) -> None:
    assert codec_from_dict(codec.to_dict()) == codec


@pytest.mark.parametrize(
    "change",
    [
        {"d": "4"},
        {"k": 16.0},
        {"k": True},
        {"extra": 1},
        {"family": "other"},
        {"row_scale": 1},
        {"scope": "row"},
        {"scope": "kind"},
        {"across": "block"},
        {"d": 0},
    ],
)
def test_dictionaries_are_a_closed_schema(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        codec_from_dict(CODECS[0].to_dict() | change)


def test_missing_keys_are_refused() -> None:
    values = CODECS[0].to_dict()
    del values["scope"]
    with pytest.raises(ConfigError, match="exactly the keys"):
        CodebookCodec.from_dict(values)


@pytest.mark.parametrize(
    "settings",
    [
        {"d": 0},
        {"d": 2000},
        {"k": 1},
        {"k": 65_537},
        {"scope": "x"},
        {"across": "x"},
        {"across": "model"},
        {"across": "model", "scope": "group", "group": 2},
        {"group": 2},
        {"scope": "group", "group": 0},
        {"iterations": -1},
        {"init": "x"},
    ],
)
def test_impossible_codecs(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        CodebookCodec(**{"d": 4, "k": 16} | settings)


def test_code_bits() -> None:
    assert [code_bits(k) for k in (1, 2, 3, 4, 5, 256, 257, 65_536)] == [1, 1, 2, 2, 3, 8, 9, 16]
    assert CodebookCodec(d=4, k=24).code_bits == 5


def test_descriptions() -> None:
    assert [codec.describe() for codec in CODECS] == [
        "PQ d=4 k=16", "PQ d=4 k=16 +scale", "PQ/4 d=3 k=7", "VQ d=5 k=32", "VQ/kind d=8 k=256",
        "PQ/kind d=8 k=16 +scale",
    ]  # fmt: skip
    assert CodebookCodec(d=4, k=8, scope="layer", across="model").describe() == "VQ/model d=4 k=8"
    assert (
        CodebookCodec(d=4, k=8, scope="group", group=4, across="kind").describe()
        == "PQ/4/kind d=4 k=8"
    )


@pytest.mark.parametrize("codec", CODECS)
def test_every_sub_vector_gets_its_nearest_codeword(
    codec: CodebookCodec, weight: torch.Tensor
) -> None:
    codec = replace(codec, row_scale=False)
    pool = fit_pool([weight], codec, generator=seeded())
    encoded = encode(weight, codec, pool)
    for g, scope in enumerate(encoded.scope_of.tolist()):
        book = pool.entries[pool.base[scope] : pool.base[scope + 1]].float()
        distances = torch.cdist(split(weight, codec.d)[:, g], book)
        chosen = distances.gather(1, encoded.codes[:, g, None])[:, 0]
        torch.testing.assert_close(chosen, distances.amin(1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_decode_is_the_formula(
    codec: CodebookCodec, dtype: torch.dtype, weight: torch.Tensor
) -> None:
    pool = fit_pool([weight], codec, generator=seeded())
    encoded = encode(weight, codec, pool)
    decoded = decode(encoded, dtype)
    assert decoded.dtype == dtype
    assert decoded.shape == weight.shape
    r, column = 11, 38
    g = column // codec.d
    entry = pool.base[encoded.scope_of[g]] + encoded.codes[r, g]
    value = pool.entries[entry, column % codec.d].float()
    if encoded.scale is not None:
        value = value * encoded.scale[r].float()
    assert decoded[r, column] == value.to(dtype)
    assert relative_error(weight, decode(encoded)) < 1


def test_sharing_less_fits_better() -> None:
    weight = torch.randn(64, 32, generator=seeded(1)) * (1 + torch.arange(32) // 4)
    errors: list[float] = []
    for scope, group in (("position", 1), ("group", 4), ("layer", 1)):
        codec = CodebookCodec(d=4, k=16, scope=scope, group=group)  # pyright: ignore[reportArgumentType]
        pool = fit_pool([weight], codec, generator=seeded())
        errors.append(relative_error(weight, decode(encode(weight, codec, pool))))
    assert errors == sorted(errors)


def test_row_scale_helps_where_rows_differ(weight: torch.Tensor) -> None:
    errors = {}
    for row_scale in (False, True):
        codec = CodebookCodec(d=4, k=16, scope="layer", row_scale=row_scale)
        pool = fit_pool([weight], codec, generator=seeded())
        errors[row_scale] = relative_error(weight, decode(encode(weight, codec, pool)))
    assert errors[True] < 0.8 * errors[False]


def test_refitted_scale_never_raises_the_error_of_a_row(weight: torch.Tensor) -> None:
    codec = CodebookCodec(d=4, k=4, row_scale=True)
    encoded = encode(weight, codec, fit_pool([weight], codec, generator=seeded()))
    rms = weight.square().mean(1).sqrt().half()
    before, after = (
        (weight - decode(replace(encoded, scale=scale))).square().sum(1)
        for scale in (rms, encoded.scale)
    )
    assert bool((after <= before).all())
    assert float(after.sum()) < float(before.sum())


@pytest.mark.parametrize("codec", CODECS)
def test_zero_weights_and_zero_rows(codec: CodebookCodec, weight: torch.Tensor) -> None:
    weight[3] = 0
    for target in (weight, torch.zeros(6, 10)):
        pool = fit_pool([target], codec, generator=seeded())
        decoded = decode(encode(target, codec, pool))
        assert bool(torch.isfinite(decoded).all())
    assert relative_error(torch.zeros(6, 10), decoded) == 0.0


def test_small_scopes_get_small_codebooks() -> None:
    weight = torch.randn(3, 20)
    codec = CodebookCodec(d=4, k=8, scope="group", group=2)
    pool = fit_pool([weight], codec, generator=seeded())
    assert pool.sizes == [6, 6, 3]
    assert pool.ragged
    assert relative_error(weight, decode(encode(weight, codec, pool))) < 1e-6
    one = fit_pool([weight[:1]], CodebookCodec(d=4, k=8), generator=seeded())
    assert one.sizes == [1] * 5


def test_pruned_pools_encode_with_what_is_left(weight: torch.Tensor) -> None:
    codec = CodebookCodec(d=4, k=16)
    pool = fit_pool([weight], codec, generator=seeded())
    sizes = torch.tensor([16, 3, 1, 8, 16, 2, 16, 5, 16, 9])
    kept = torch.cat([pool.entries[16 * s : 16 * s + n] for s, n in enumerate(sizes.tolist())])
    pruned = Pool(
        entries=kept, base=torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])
    )
    encoded = encode(weight, codec, pruned)
    assert bool((encoded.codes < sizes).all())
    assert encoded.code_bits == 4
    assert relative_error(weight, decode(encoded)) < 1


def test_a_kind_shares_one_pool() -> None:
    weights = [torch.randn(16, 8), 3 * torch.randn(32, 8), torch.randn(16, 10)]
    codec = CodebookCodec(d=4, k=32, scope="layer", across="kind")
    pool = fit_pool(weights, codec, generator=seeded())
    assert pool.sizes == [32]
    for weight in weights:
        encoded = encode(weight, codec, pool)
        assert encoded.pool is pool
        assert relative_error(weight, decode(encoded)) < 0.7


@pytest.mark.parametrize("scope", ["position", "group"])
def test_a_kind_shares_codebooks_position_by_position(scope: Any) -> None:
    weights = [torch.randn(16, 24, generator=seeded(i)) + torch.arange(24) for i in range(3)]
    group = 2 if scope == "group" else 1
    codec = CodebookCodec(d=4, k=8, scope=scope, group=group, across="kind")
    pool = fit_pool(weights, codec, generator=seeded())
    stacked = fit_pool([torch.cat(weights)], replace(codec, across="layer"), generator=seeded())
    assert pool.entries.equal(stacked.entries)
    assert pool.base.equal(stacked.base)
    for weight in weights:
        assert encode(weight, codec, pool).codes.shape == (16, 6)
    drawn = fit_pool(weights, codec, generator=seeded(), reservoir=9 * 6)
    assert drawn.sizes == [8] * len(drawn.sizes)
    assert len(drawn.sizes) == len(pool.sizes)
    with pytest.raises(ShapeError, match=r"position by position.*got \[20, 24\]"):
        fit_pool([weights[0], weights[1][:, :20]], codec, generator=seeded())


@pytest.mark.parametrize("reservoir", [100, 10_000])
def test_the_reservoir_bounds_what_is_clustered(reservoir: int) -> None:
    seen: list[torch.Tensor] = []

    def spy(points: torch.Tensor, config: Any, *, generator: Any, weights: Any = None) -> Any:
        from dpqlab.core import kmeans

        seen.append(points)
        return kmeans(points, config, generator=generator, weights=weights)

    weights = [torch.full((30, 8), float(i)) for i in range(3)]
    codec = CodebookCodec(d=4, k=3, scope="layer", across="model")
    fit_pool(weights, codec, generator=seeded(), clusterer=spy, reservoir=reservoir)
    (points,) = seen
    assert points.shape == (1, min(reservoir, 180), 4)
    shares = points[0, :, 0].long().bincount()
    assert int(shares.max() - shares.min()) <= 1


def test_sample_weights_move_the_codewords() -> None:
    weight = torch.cat([torch.randn(200, 4), 10 + torch.randn(200, 4)])
    importance = (torch.arange(400) < 200).float()[:, None]
    codec = CodebookCodec(d=4, k=8)
    pool = fit_pool([weight], codec, generator=seeded(), sample_weights=[importance])
    assert float(pool.entries.max()) < 7


def test_fits_the_same_for_the_same_seed(weight: torch.Tensor) -> None:
    pools = [fit_pool([weight], CODECS[0], generator=seeded(5)).entries for _ in range(2)]
    assert pools[0].equal(pools[1])


def test_gradients_reach_entries_and_scale(weight: torch.Tensor) -> None:
    codec = CodebookCodec(d=4, k=8, row_scale=True)
    encoded = encode(weight, codec, fit_pool([weight], codec, generator=seeded()))
    assert encoded.scale is not None
    entries = encoded.pool.entries.double().requires_grad_()
    scale = encoded.scale.double().requires_grad_()

    def rebuilt(entries: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        base, scope_of = encoded.pool.base, encoded.scope_of
        return decode_weight(encoded.codes, entries, base, scope_of, scale, 40, torch.float64)[:2]

    assert torch.autograd.gradcheck(rebuilt, (entries, scale), fast_mode=True)


@pytest.mark.parametrize("iterations", [10, 25])
def test_reconstruction_is_as_good_as_that_of_faiss(iterations: int) -> None:
    weight = torch.randn(1152, 16, generator=seeded(2))
    codec = CodebookCodec(d=4, k=256, init="sample", iterations=iterations)
    ours = decode(encode(weight, codec, fit_pool([weight], codec, generator=seeded())))
    quantizer = faiss.ProductQuantizer(16, 4, 8)
    quantizer.cp.niter = iterations
    quantizer.train(weight.numpy())
    theirs = torch.from_numpy(quantizer.decode(quantizer.compute_codes(weight.numpy())))
    assert relative_error(weight, ours) < 1.01 * relative_error(weight, theirs)


def test_codes_are_those_of_faiss_for_the_same_codebooks() -> None:
    weight = torch.randn(300, 8, generator=seeded(3))
    quantizer = faiss.ProductQuantizer(8, 2, 4)
    quantizer.train(weight.numpy())
    books = faiss.vector_to_array(quantizer.centroids).reshape(32, 4)
    entries = torch.from_numpy(books).half()
    faiss.copy_array_to_vector(entries.float().numpy().ravel(), quantizer.centroids)
    encoded = encode(
        weight, CodebookCodec(d=4, k=16), Pool(entries=entries, base=torch.tensor([0, 16, 32]))
    )
    theirs = torch.from_numpy(quantizer.compute_codes(weight.numpy()))[:, 0].long()
    assert encoded.codes.equal(torch.stack([theirs & 15, theirs >> 4], dim=1))


@given(
    rows=st.integers(1, 12), columns=st.integers(1, 20), d=st.integers(1, 8), k=st.integers(2, 9),
    scale=st.booleans(), scope=st.sampled_from(["position", "group", "layer"]),
    across=st.sampled_from(["layer", "kind"]),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_any_shape_goes_through(
    rows: int, columns: int, d: int, k: int, scale: bool, scope: Any, across: Any
) -> None:
    weight = torch.randn(rows, columns, generator=seeded(rows * columns))
    group = 2 if scope == "group" else 1
    codec = CodebookCodec(
        d=d, k=k, scope=scope, group=group, across=across, row_scale=scale, iterations=3
    )
    pool = fit_pool([weight], codec, generator=seeded())
    encoded = encode(weight, codec, pool)
    sizes = torch.tensor(pool.sizes)
    assert max(pool.sizes) <= k
    assert bool((encoded.codes < sizes[encoded.scope_of]).all())
    decoded = decode(encoded)
    assert decoded.shape == weight.shape
    assert relative_error(weight, decoded) <= 1.001


def test_works_on_each_device(device: torch.device, weight: torch.Tensor) -> None:
    for codec in CODECS:
        pool = fit_pool([weight.to(device)], codec, generator=seeded())
        encoded = encode(weight.to(device), codec, pool)
        assert decode(encoded).device.type == device.type
        assert relative_error(weight.to(device), decode(encoded)) < 0.9


def test_refusals(weight: torch.Tensor) -> None:
    codec = CODECS[0]
    pool = fit_pool([weight], codec, generator=seeded())
    with pytest.raises(ConfigError, match="one weight: got 2"):
        fit_pool([weight, weight], codec, generator=seeded())
    with pytest.raises(ConfigError, match="NaN"):
        fit_pool([weight / 0], codec, generator=seeded())
    with pytest.raises(ConfigError, match="row_scale"):
        fit_pool([weight * 1e6], codec, generator=seeded())
    with pytest.raises(ShapeError, match="sample_weights"):
        fit_pool([weight], codec, generator=seeded(), sample_weights=[torch.ones(48, 9)])
    with pytest.raises(ShapeError, match="d=8"):
        encode(weight, CodebookCodec(d=8, k=16), pool)
    with pytest.raises(ShapeError, match="2 scopes"):
        encode(weight[:, :8], codec, pool)
    with pytest.raises(ShapeError, match="shapes differ"):
        relative_error(weight, weight[1:])
    with pytest.raises(ShapeError, match="base must rise"):
        Pool(entries=torch.zeros(4, 2), base=torch.tensor([0, 3, 3, 4]))
    with pytest.raises(ShapeError, match="scope_of"):
        replace(encode(weight, codec, pool), shape=(48, 41))
