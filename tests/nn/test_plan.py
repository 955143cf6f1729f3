"""Plans: which codec a name gets."""

from __future__ import annotations

import pytest
from torch import nn

from dpqlab.core import CodebookCodec, PoolConfig, ScalarCodec
from dpqlab.errors import ConfigError
from dpqlab.nn.linear import CompressedLinear
from dpqlab.nn.plan import Coding, Plan, Rule, kind_of, split_block_name
from dpqlab.nn.presets import preset, presets

CODEC = CodebookCodec(d=4, k=16)
OTHER = ScalarCodec(bits=2, group_size=8)


def test_first_matching_rule_wins() -> None:
    plan = Plan(rules=(Rule(pattern="*.to_q", codec=OTHER), Rule(pattern="blocks.*", codec=CODEC)))
    assert plan.codec_for("blocks.0.to_q") == (OTHER, "")
    assert plan.codec_for("blocks.0.to_k") == (CODEC, "")
    codec, reason = plan.codec_for("head")
    assert codec is None
    assert "no rule" in reason


class Special(nn.Linear):
    pass


class MoreSpecial(Special):
    pass


def test_a_rule_can_be_restricted_to_a_type() -> None:
    restricted = Rule(pattern="*", codec=OTHER, layer_type=Special)
    plan = Plan(rules=(restricted, Rule(pattern="*", codec=CODEC)))
    assert plan.codec_for("a") == (CODEC, "")
    assert plan.codec_for("a", Special) == (OTHER, "")
    assert plan.codec_for("a", MoreSpecial) == (None, "not a plain Special but MoreSpecial")
    turned = Plan(rules=plan.rules[::-1])
    assert turned.codec_for("a", Special) == (None, "not a plain nn.Linear but Special")


def test_a_rule_that_keeps_covers_subclasses() -> None:
    keep = Rule(pattern="*", codec=None, reason="delicate", layer_type=Special)
    plan = Plan(rules=(keep, Rule(pattern="*", codec=CODEC)))
    assert plan.codec_for("a", MoreSpecial) == (None, "delicate")
    assert plan.codec_for("a", nn.Linear) == (CODEC, "")


@pytest.mark.parametrize("layer_type", [nn.Conv2d, "Linear", None, CompressedLinear])
def test_other_layer_types_are_refused(layer_type: object) -> None:
    with pytest.raises(ConfigError, match="layer_type of the rule"):
        Rule(pattern="*", codec=CODEC, layer_type=layer_type)  # pyright: ignore


def test_patterns_are_case_sensitive() -> None:
    plan = Plan(rules=(Rule(pattern="A*", codec=CODEC),))
    assert plan.codec_for("a")[0] is None


@pytest.mark.parametrize(
    ("name", "compressed"),
    [
        ("transformer_blocks.0.attn1.to_q", True),
        ("transformer_blocks.11.ff.net.0.proj", True),
        ("transformer_blocks.0.norm1.linear", True),
        ("transformer_blocks.0.norm1.emb.timestep_embedder.linear_1", False),
        ("proj_out_1", False),
        ("pos_embed.proj", False),
    ],
)
@pytest.mark.parametrize("preset_name", sorted(presets()))
def test_presets_compress_the_blocks_only(preset_name: str, name: str, compressed: bool) -> None:
    codec, reason = preset(preset_name).codec_for(name)
    assert (codec is not None) == compressed
    assert bool(reason) != compressed


def test_for_blocks_by_kind() -> None:
    plan = Plan.for_blocks({"attn1.*": OTHER, "ff.net.2": None, "*": CODEC})
    assert plan.codec_for("transformer_blocks.3.attn1.to_out.0")[0] == OTHER
    assert plan.codec_for("transformer_blocks.3.ff.net.2")[0] is None
    assert plan.codec_for("transformer_blocks.3.norm1.linear")[0] == CODEC


def test_a_rule_carries_the_budget_of_its_pool() -> None:
    tight, loose = PoolConfig(budget=0.1), PoolConfig(budget=0.5)
    codings = {"attn1.*": Coding(codec=CODEC, pool=tight), "ff.net.2": CODEC, "*": OTHER}
    plan = Plan.for_blocks(codings)
    name = "transformer_blocks.3.{}"
    assert plan.coding_for(name.format("attn1.to_q"))[0] == Coding(codec=CODEC, pool=tight)
    assert plan.coding_for(name.format("ff.net.2"))[0] == Coding(codec=CODEC)
    assert plan.codec_for(name.format("attn1.to_q")) == (CODEC, "")
    assert plan.coding_for("proj_out_1")[0] is None
    everything = Plan.for_blocks(Coding(codec=CODEC, pool=loose), weighted=True)
    assert everything.weighted
    assert everything.coding_for(name.format("norm1.linear"))[0].pool == loose


def test_a_pool_needs_a_codec_with_codebooks() -> None:
    with pytest.raises(ConfigError, match="has no codebooks"):
        Rule(pattern="*", codec=OTHER, pool=PoolConfig())
    with pytest.raises(ConfigError, match="keeps its layers"):
        Rule(pattern="*", codec=None, pool=PoolConfig())


@pytest.mark.parametrize(
    ("name", "kind", "outer"),
    [
        ("transformer_blocks.3.attn1.to_out.0", "attn1.to_out.0", "transformer_blocks"),
        ("a.blocks.12.mlp", "mlp", "a.blocks"),
        ("0.lin", "lin", ""),
        ("head", "head", ""),
        ("0", "0", ""),
    ],
)
def test_kind_of(name: str, kind: str, outer: str) -> None:
    assert kind_of(name) == kind
    assert split_block_name(name)[0] == outer


def test_impossible_plans_are_refused() -> None:
    with pytest.raises(ConfigError, match="compresses nothing"):
        Plan(rules=(Rule(pattern="*", codec=None),))
    with pytest.raises(ConfigError, match="rest_dtype is 'int8'"):
        Plan(rules=(Rule(pattern="*", codec=CODEC),), rest_dtype="int8")  # pyright: ignore
    with pytest.raises(ConfigError, match="empty pattern"):
        Rule(pattern="", codec=CODEC)


def test_unknown_preset_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="pq-1bit"):
        preset("pq-3bit")
