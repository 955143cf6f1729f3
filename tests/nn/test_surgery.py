"""Compressing models: what changes, what does not, and what is refused beforehand."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from dpqlab.core import CodebookCodec, ScalarCodec
from dpqlab.errors import ConfigError
from dpqlab.nn.accounting import storage_of
from dpqlab.nn.linear import CompressedLinear, ScalarLinear
from dpqlab.nn.plan import Plan, Rule
from dpqlab.nn.presets import preset
from dpqlab.nn.surgery import LayerRecord, compress_, compress_steps, ledger_of_model

PQ = CodebookCodec(d=4, k=8, row_scale=True, iterations=2)
KIND = CodebookCodec(d=4, k=16, scope="layer", across="kind", iterations=2)
RTN = ScalarCodec(bits=2, group_size=16)


class Block(nn.Module):
    def __init__(self, emb: nn.Module) -> None:
        super().__init__()
        self.norm1 = nn.Module()
        self.norm1.emb = emb
        self.norm1.linear = nn.Linear(16, 32)
        self.norm = nn.LayerNorm(16)
        self.up = nn.Linear(16, 32)
        self.down = nn.Linear(32, 16, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.norm1.emb(x)
        return x + self.down(torch.relu(self.up(self.norm(x)) + self.norm1.linear(x)))


class Toy(nn.Module):
    """Shaped like a DiT: blocks that share an embedder, and an end."""

    def __init__(self, blocks: int = 2) -> None:
        super().__init__()
        emb = nn.Sequential(nn.Linear(16, 16))
        self.transformer_blocks = nn.ModuleList(Block(emb) for _ in range(blocks))
        self.proj_out = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.transformer_blocks:
            x = block(x)
        return self.proj_out(x)


def toy(seed: int = 0) -> Toy:
    torch.manual_seed(seed)
    return Toy().eval()


def everything(codec: CodebookCodec | ScalarCodec, **settings: Any) -> Plan:
    return Plan(rules=(Rule(pattern="*", codec=codec),), **settings)


def same_state(first: nn.Module, second: nn.Module) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(
        a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a
    )


def test_replaces_the_blocks_linears_and_lists_the_rest() -> None:
    model = toy()
    result = compress_(model, Plan.for_blocks(PQ))
    seen = list(compress_steps(toy(), Plan.for_blocks(PQ)))
    names = [
        f"transformer_blocks.{i}.{n}" for i in range(2) for n in ("norm1.linear", "up", "down")
    ]
    assert [record.name for record in result.layers] == names
    assert [(r.name, r.relative_error) for r in seen] == [
        (r.name, r.relative_error) for r in result.layers
    ]
    assert [(r.index, r.total) for r in seen] == [(i, 6) for i in range(6)]
    assert all(isinstance(model.get_submodule(name), CompressedLinear) for name in names)
    skipped = {skip.name: skip for skip in result.skipped}
    assert list(skipped) == ["transformer_blocks.0.norm1.emb.0", "proj_out"]
    assert "embedder" in skipped["transformer_blocks.0.norm1.emb.0"].reason
    assert skipped["proj_out"].shape == (4, 16)
    assert all(0 < record.relative_error < 0.6 for record in seen)


def test_forward_and_error_match_the_decoded_weights() -> None:
    dense = toy()
    model = copy.deepcopy(dense)
    result = compress_(model, Plan.for_blocks(PQ))
    for record in result.layers:
        layer, linear = model.get_submodule(record.name), dense.get_submodule(record.name)
        missed = (linear.weight - layer.decode()).square().sum() / linear.weight.square().sum()
        assert record.relative_error == pytest.approx(missed.item(), rel=1e-4)
        with torch.no_grad():
            linear.weight.copy_(layer.decode())
            if linear.bias is not None:
                linear.bias.copy_(layer.bias)
    for p in (*dense.transformer_blocks[0].norm1.emb.parameters(), *dense.proj_out.parameters()):
        p.data = p.data.bfloat16().float()
    x = torch.randn(3, 16)
    torch.testing.assert_close(model(x), dense(x))  # a kernel may sum in another order


@pytest.mark.parametrize("rest", ["bfloat16", "float16", "float32"])
def test_what_is_kept_becomes_representable(rest: str) -> None:
    model = toy()
    before = model.proj_out.weight.clone()
    compress_(model, Plan.for_blocks(PQ, rest_dtype=rest, bias_dtype="float32"))
    after = model.proj_out.weight
    assert after.dtype == torch.float32
    assert torch.equal(after, before.to(getattr(torch, rest)).float())
    assert model.transformer_blocks[0].up.bias.dtype == torch.float32
    assert storage_of(model).rest_dtype == rest


@pytest.mark.parametrize("codec", [PQ, KIND, RTN], ids=lambda c: c.describe())
def test_deterministic_for_a_seed(codec: CodebookCodec) -> None:
    models = [toy() for _ in range(3)]
    for model, seed in zip(models, (3, 3, 4), strict=True):
        compress_(model, Plan.for_blocks(codec), seed=seed)
    assert same_state(models[0], models[1])
    if codec is not RTN:
        assert not same_state(models[0], models[2])


@pytest.mark.parametrize("codec", [PQ, KIND], ids=lambda c: c.describe())
def test_independent_of_layer_order(codec: CodebookCodec) -> None:
    dense = toy()
    turned = copy.deepcopy(dense)
    turned._modules = dict(reversed(turned._modules.items()))
    blocks = turned.transformer_blocks
    blocks._modules = dict(reversed(blocks._modules.items()))
    for block in blocks._modules.values():
        block._modules = dict(reversed(block._modules.items()))
    compress_(dense, Plan.for_blocks(codec))
    compress_(turned, Plan.for_blocks(codec))
    assert same_state(dense, turned)


def test_a_layer_does_not_depend_on_what_else_is_compressed() -> None:
    one, all_of_them = toy(), toy()
    compress_(one, Plan(rules=(Rule(pattern="*.1.up", codec=PQ),)))
    compress_(all_of_them, Plan.for_blocks(PQ))
    assert same_state(one.transformer_blocks[1].up, all_of_them.transformer_blocks[1].up)


def test_kind_scope_shares_one_pool_parameter_per_kind() -> None:
    model = toy()
    result = compress_(model, Plan.for_blocks(KIND))
    first, second = model.transformer_blocks
    assert first.up.pool is second.up.pool
    assert first.up.pool is not first.down.pool
    assert first.up.pool is not first.norm1.linear.pool
    pool = 16 * 4 * 16
    assert [record.ledger.pool for record in result.layers] == [pool, 0] * 3, "group by group"
    kinds = [record.name.split(".", 2)[2] for record in result.layers]
    assert kinds == [name for kind in ("norm1.linear", "up", "down") for name in (kind, kind)]
    assert [layer.pool for layer in result.ledger.layers] == [pool] * 3 + [0] * 3, "model order"


def test_model_wide_sharing_is_one_pool_for_each_codec() -> None:
    wide = CodebookCodec(d=4, k=16, scope="layer", across="model", iterations=2)
    other = CodebookCodec(d=4, k=8, scope="layer", across="model", iterations=2)
    model = toy()
    result = compress_(model, Plan.for_blocks({"down": other, "*": wide}))
    first, second = model.transformer_blocks
    assert first.up.pool is second.norm1.linear.pool
    assert first.down.pool is second.down.pool
    assert first.down.pool is not first.up.pool
    assert sum(layer.pool for layer in result.ledger.layers) == (16 + 8) * 4 * 16
    assert {record.codewords_made for record in result.layers} == {8, 16}


def test_kinds_can_share_position_by_position() -> None:
    codec = CodebookCodec(d=4, k=8, across="kind", row_scale=True, iterations=2)
    model = toy()
    compress_(model, Plan.for_blocks(codec))
    first, second = model.transformer_blocks
    assert first.up.pool is second.up.pool
    assert torch.equal(first.up.base, torch.arange(5) * 8)


def test_two_lists_of_blocks_do_not_share_pools() -> None:
    model = nn.ModuleDict({"a": toy(0), "b": toy(1)})
    compress_(model, Plan(rules=(Rule(pattern="*.up", codec=KIND),)))
    a, b = model["a"].transformer_blocks, model["b"].transformer_blocks
    assert a[0].up.pool is a[1].up.pool
    assert a[0].up.pool is not b[0].up.pool


def test_tied_linears_stay_tied_and_count_once() -> None:
    model = toy()
    result = compress_(model, everything(PQ))
    first, second = model.transformer_blocks
    assert isinstance(first.norm1.emb[0], CompressedLinear)
    assert first.norm1.emb[0] is second.norm1.emb[0]
    assert sum("emb" in record.name for record in result.layers) == 1


def test_steps_change_the_model_one_layer_at_a_time() -> None:
    model = toy()
    steps = compress_steps(model, Plan.for_blocks(RTN))
    assert not any(isinstance(m, ScalarLinear) for m in model.modules())
    assert isinstance(next(steps), LayerRecord)
    assert sum(isinstance(m, ScalarLinear) for m in model.modules()) == 1
    assert len(list(steps)) == 5


def test_dense_weights_are_freed_on_the_way() -> None:
    import weakref

    model = toy()
    names = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and "blocks" in n]
    names = [name for name in names if "emb" not in name]
    watched = {name: weakref.ref(model.get_submodule(name).weight) for name in names}
    for record in compress_steps(model, Plan.for_blocks(PQ)):
        assert watched[record.name]() is None
    assert all(ref() is None for ref in watched.values())


def _nan(model: Toy) -> None:
    model.transformer_blocks[1].up.weight.data[0, 0] = float("nan")


def _huge_weight(model: Toy) -> None:
    model.transformer_blocks[1].up.weight.data[0, 0] = 1e6


def _huge_bias(model: Toy) -> None:
    model.transformer_blocks[1].up.bias.data[0] = 1e6


def _huge_rest(model: Toy) -> None:
    model.proj_out.weight.data[0, 0] = float("inf")


def _meta(model: Toy) -> None:
    model.transformer_blocks[1].to("meta")


def _shared_weight(model: Toy) -> None:
    model.transformer_blocks[1].up.weight = model.transformer_blocks[0].up.weight


def _hooked(model: Toy) -> None:
    model.transformer_blocks[1].up.register_forward_hook(lambda *args: None)


def _compressed(model: Toy) -> None:
    compress_(model, Plan(rules=(Rule(pattern="*.0.up", codec=PQ),), rest_dtype="float32"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_nan, r"transformer_blocks\.1\.up\.weight holds a value of magnitude nan"),
        (_huge_weight, "which float16 cannot store"),
        (_huge_bias, r"up\.bias holds"),
        (_huge_rest, r"proj_out\.weight holds .* inf"),
        (_meta, "meta device"),
        (_shared_weight, "shares a parameter"),
        (_hooked, "has hooks"),
        (_compressed, "compressed already"),
    ],
)
def test_impossible_models_are_refused_unchanged(
    damage: Callable[[Toy], None], message: str
) -> None:
    model = toy()
    damage(model)
    before = {name: id(module) for name, module in model.named_modules()}
    values = [p.detach().clone() for p in model.parameters() if not p.is_meta]
    with pytest.raises(ConfigError, match=message):
        compress_(model, Plan.for_blocks(PQ))
    assert before == {name: id(module) for name, module in model.named_modules()}
    now = [p.detach() for p in model.parameters() if not p.is_meta]
    assert all(
        torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(values, now, strict=True)
    )


@pytest.mark.parametrize(
    ("plan", "moments", "message"),
    [
        (Plan(rules=(Rule(pattern="nothing.*", codec=PQ),)), {}, "matches no nn.Linear"),
        (everything(CodebookCodec(d=64, k=8)), {}, "fewer than the 64 values"),
        (everything(ScalarCodec(bits=2, group_size=64)), {}, "fewer than the 64 values"),
        (everything(PQ), {"no.such": torch.ones(16)}, "no Linear of the model"),
        (everything(PQ), {"proj_out": torch.ones(4)}, r"expected floats of shape \(16,\)"),
        (everything(PQ), {"proj_out": torch.ones(16).long()}, "expected floats"),
        (everything(PQ), {"proj_out": -torch.ones(16)}, "negative"),
        (everything(PQ), {"proj_out": torch.full((16,), float("nan"))}, "non-finite"),
        (everything(PQ, weighted=True), {"proj_out": torch.ones(16)}, "there are none for"),
        (
            Plan.for_blocks(KIND),
            {"transformer_blocks.0.up": torch.ones(16)},
            "only some of the layers",
        ),
    ],
)
def test_impossible_plans_are_refused_unchanged(
    plan: Plan, moments: dict[str, torch.Tensor], message: str
) -> None:
    model, untouched = toy(), toy()
    with pytest.raises(ConfigError, match=message):
        compress_(model, plan, moments=moments)
    assert same_state(model, untouched)


def test_layers_that_share_by_position_have_equally_many_positions() -> None:
    codec = CodebookCodec(d=4, k=8, across="kind", iterations=1)
    blocks = [nn.ModuleDict({"lin": nn.Linear(columns, 8)}) for columns in (16, 20)]
    model = nn.ModuleDict({"blocks": nn.ModuleList(blocks)})
    with pytest.raises(ConfigError, match=r"blocks\.1\.lin has 20 inputs and blocks\.0\.lin 16"):
        compress_(model, everything(codec))
    assert type(model["blocks"][0]["lin"]) is nn.Linear
    compress_(model, everything(CodebookCodec(d=4, k=8, scope="layer", across="kind")))


def test_a_model_that_is_a_linear_is_refused() -> None:
    with pytest.raises(ConfigError, match="itself a Linear"):
        compress_(nn.Linear(16, 16), everything(PQ))


def test_subclasses_of_linear_are_skipped_with_the_reason() -> None:
    class Special(nn.Linear):
        pass

    model = nn.ModuleDict({"a": Special(16, 16), "b": nn.Linear(16, 16)})
    result = compress_(model, everything(PQ))
    assert [(s.name, s.reason) for s in result.skipped] == [
        ("a", "not a plain nn.Linear but Special")
    ]


class TestLedger:
    def test_dense_model(self) -> None:
        model = toy()
        ledger = ledger_of_model(model)
        unique = sum(p.numel() for p in model.parameters())
        assert ledger.stored_bytes == ledger.fp32_bytes == 4 * unique
        assert ledger.bf16_bytes == 2 * unique
        inside = [t for t in ledger.kept if t.in_blocks]
        weights = 2 * 3 * 16 * 32
        assert ledger.true_bits_per_weight == 32 * (weights + 2 * 64) / weights
        assert {t.name.rpartition(".")[0] for t in inside} == {
            f"transformer_blocks.{i}.{n}" for i in range(2) for n in ("norm1.linear", "up", "down")
        }

    def test_compression_does_not_change_the_dense_size(self) -> None:
        dense, model = toy(), toy()
        compress_(model, Plan.for_blocks(KIND))
        assert ledger_of_model(model).fp32_bytes == ledger_of_model(dense).fp32_bytes

    def test_skipped_linears_inside_the_blocks_count_at_their_precision(self) -> None:
        model = toy()
        result = compress_(model, Plan.for_blocks({"up": None, "*": PQ}))
        expected = sum(layer.total for layer in result.ledger.layers)
        expected += 2 * 16 * (16 * 32 + 32)  # `up` in bfloat16, bias included
        assert result.ledger.true_bits_per_weight == expected / (2 * 3 * 16 * 32)

    def test_compressed_ends_are_stored_but_not_in_true_bits(self) -> None:
        inside, ends = toy(), toy()
        first = compress_(inside, Plan.for_blocks(PQ)).ledger
        second = compress_(ends, everything(PQ)).ledger
        assert second.true_bits_per_weight == first.true_bits_per_weight
        assert second.stored_bytes < first.stored_bytes
        assert second.fp32_bytes == first.fp32_bytes

    def test_models_without_blocks_are_one_block(self) -> None:
        model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 8))
        result = compress_(model, everything(PQ))
        assert len(result.ledger.layers) == 2
        assert result.ledger.true_bits_per_weight > 0


@pytest.mark.parametrize("name", ["vq-2bit", "pq-1bit", "rtn-2bit"])
def test_presets_run_on_a_small_model(name: str) -> None:
    model = nn.Module()
    model.transformer_blocks = nn.ModuleList([nn.ModuleDict({"lin": nn.Linear(384, 8)})])
    assert len(compress_(model, preset(name)).layers) == 1


class Renamed(nn.Linear):
    """Computes what nn.Linear does, under another name."""


def test_a_subclass_is_compressed_where_a_rule_names_it() -> None:
    model = nn.Sequential(nn.Linear(16, 8), Renamed(16, 8))
    plan = Plan(rules=(Rule(pattern="*", codec=PQ, layer_type=Renamed),))
    result = compress_(model, plan)
    assert [record.name for record in result.layers] == ["1"]
    assert type(model[0]) is nn.Linear
    assert type(model[1]) is CompressedLinear
    assert [skip.name for skip in result.skipped] == ["0"]


def test_a_subclass_with_more_to_store_is_refused() -> None:
    model = nn.Sequential(Renamed(16, 8))
    model[0].register_parameter("gain", nn.Parameter(torch.ones(8)))
    before = copy.deepcopy(model)
    with pytest.raises(ConfigError, match="'gain' besides weight and bias"):
        compress_(model, Plan(rules=(Rule(pattern="*", codec=PQ, layer_type=Renamed),)))
    assert same_state(model, before)
