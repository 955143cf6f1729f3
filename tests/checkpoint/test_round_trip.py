"""What is saved comes back, bit by bit, and costs on disk what the ledger says."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dpqlab.checkpoint import shards
from dpqlab.checkpoint.layout import SHARD_INDEX, SINGLE_SHARD
from dpqlab.checkpoint.load import is_compressed, load_compressed, read_config
from dpqlab.checkpoint.save import save_compressed
from dpqlab.core import CodebookCodec, Pool, PoolConfig, encode
from dpqlab.errors import CheckpointError, ConfigError
from dpqlab.nn.accounting import storage_of
from dpqlab.nn.embedder import untie_embedders_
from dpqlab.nn.linear import CompressedLinear, ScalarLinear
from dpqlab.nn.plan import Coding, Plan
from dpqlab.nn.surgery import compress_, ledger_of_model
from tests.checkpoint.forge import (
    KIND,
    OTHER_SHIFT,
    PLAN,
    PQ,
    PROVENANCE,
    RAGGED,
    SCHEDULER_CONFIG,
    SHIFT,
    compressed_dit,
    dense_dit,
    inputs,
)


def save(model: nn.Module, folder: Path, **settings: object) -> Path:
    arguments = {"scheduler_config": SCHEDULER_CONFIG, "provenance": {}, "card": ""} | settings
    return save_compressed(model, folder, **arguments).path


def assert_bit_equal(first: nn.Module, second: nn.Module) -> None:
    for kind in ("named_parameters", "named_buffers", "named_modules"):
        ours = dict(getattr(first, kind)(remove_duplicate=False))
        theirs = dict(getattr(second, kind)(remove_duplicate=False))
        assert list(ours) == list(theirs)
        if kind == "named_modules":
            assert [type(m) for m in ours.values()] == [type(m) for m in theirs.values()]
            continue
        for name, tensor in ours.items():
            other = theirs[name]
            assert tensor.dtype == other.dtype, name
            assert tensor.requires_grad == other.requires_grad, name
            assert torch.equal(bits(tensor), bits(other)), name


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """Compare bit patterns: 0.0 == -0.0 would not do."""
    return tensor.detach().contiguous().view(torch.uint8) if tensor.ndim else tensor.detach()


def test_every_tensor_and_the_output_are_bit_equal(model: nn.Module, original: Path) -> None:
    loaded = load_compressed(original)
    assert_bit_equal(model, loaded)
    with torch.no_grad():
        assert torch.equal(model(*inputs()).sample, loaded(*inputs()).sample)
    assert not loaded.training
    assert storage_of(loaded) == storage_of(model)
    assert ledger_of_model(loaded) == ledger_of_model(model)


def test_saving_what_was_loaded_writes_the_same_bytes(original: Path, tmp_path: Path) -> None:
    again = save(
        load_compressed(original), tmp_path / "again", provenance=PROVENANCE, card="# Tiny\n"
    )
    for file in original.rglob("*"):
        if file.is_file():
            assert (again / file.relative_to(original)).read_bytes() == file.read_bytes()


def test_ties_are_restored(original: Path) -> None:
    first, second = load_compressed(original).transformer_blocks
    assert first.norm1.emb is second.norm1.emb
    assert first.attn1.to_k.pool is second.attn1.to_k.pool
    assert first.attn1.to_q.pool is not second.attn1.to_q.pool
    assert first.norm1.linear.pool is second.norm1.linear.pool
    assert len(first.norm1.linear.table) == 80
    assert len(second.norm1.linear.table) == 73  # a table of its own
    assert not torch.equal(first.norm1.linear.base, second.norm1.linear.base)
    assert isinstance(first.ff.net[0].proj, ScalarLinear)
    assert isinstance(first.attn1.to_v, CompressedLinear)
    assert type(first.attn1.to_out[0]) is nn.Linear


def test_what_is_shared_is_stored_once(original: Path) -> None:
    names = shards.read_header(original, SINGLE_SHARD)
    assert [n for n in names if "to_k.pool" in n] == ["transformer_blocks.0.attn1.to_k.pool"]
    assert [n for n in names if "norm1.linear.pool" in n] == [f"{SHIFT}.pool"]
    assert len([n for n in names if n.endswith("norm1.linear.table")]) == 2
    assert [n for n in names if n.endswith("norm1.linear.sizes")] == [f"{OTHER_SHIFT}.sizes"]
    assert not [n for n in names if n.startswith("transformer_blocks.1.norm1.emb")]
    assert [n for n in names if n.startswith("transformer_blocks.0.norm1.emb")]


def test_disk_bytes_are_the_ledgers_bytes(model: nn.Module, original: Path) -> None:
    data = (original / SINGLE_SHARD).read_bytes()
    header = int.from_bytes(data[:8], "little")
    assert len(data) - 8 - header == ledger_of_model(model).stored_bytes


def test_a_latent_is_not_saved(model: nn.Module, original: Path, tmp_path: Path) -> None:
    model = copy.deepcopy(model)
    layer = model.transformer_blocks[0].attn1.to_q
    layer.latent = nn.Parameter(torch.randn(32, 8, 4))
    saved = save(model, tmp_path / "x", provenance=PROVENANCE, card="# Tiny\n")
    assert (saved / SINGLE_SHARD).read_bytes() == (original / SINGLE_SHARD).read_bytes()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_loading_in_another_dtype_changes_what_is_kept_only(
    model: nn.Module, original: Path, dtype: torch.dtype
) -> None:
    loaded = load_compressed(original, dtype=dtype)
    assert {p.dtype for n, p in loaded.named_parameters() if "proj_out" in n} == {dtype}
    ours, theirs = (m.transformer_blocks[0].attn1.to_q for m in (model, loaded))
    assert theirs.compute_dtype == dtype
    assert torch.equal(ours.pool, theirs.pool)
    assert torch.equal(ours.decode(dtype), theirs.decode(dtype))
    images, steps, labels = inputs()
    with torch.no_grad():
        assert loaded(images.to(dtype), steps, labels).sample.dtype == dtype


def test_dtypes_that_models_do_not_have_are_refused(original: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected torch\.bfloat16"):
        load_compressed(original, dtype=torch.int8)


def test_loading_leaves_the_random_numbers_alone(original: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    load_compressed(original)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("rest", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("bias", ["bfloat16", "float16", "float32"])
def test_every_storage_dtype_round_trips(tmp_path: Path, rest: str, bias: str) -> None:
    plan = Plan.for_blocks({"attn1.to_q": PQ}, rest_dtype=rest, bias_dtype=bias)
    model = compressed_dit(plan, num_layers=1)
    assert_bit_equal(model, load_compressed(save(model, tmp_path / "x")))


@pytest.mark.parametrize(
    "settings",
    [
        {"attention_bias": False},
        {"norm_elementwise_affine": True, "norm_eps": 1e-6},
        {"activation_fn": "geglu"},
        {"out_channels": None, "in_channels": 3, "sample_size": 12},
        {"num_layers": 1, "dropout": 0.1},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_other_geometries_round_trip(tmp_path: Path, settings: dict[str, object]) -> None:
    model = compressed_dit(Plan.for_blocks({"attn1.*": KIND}), **settings)
    assert_bit_equal(model, load_compressed(save(model, tmp_path / "x")))


def test_untied_embedders_and_compressed_ends_round_trip(tmp_path: Path) -> None:
    model = dense_dit()
    untie_embedders_(model)
    compress_(model, Plan(rules=(*Plan.for_blocks({"attn1.to_q": PQ}).rules[1:2], *_ends())))
    loaded = load_compressed(save(model, tmp_path / "x"))
    assert_bit_equal(model, loaded)
    assert loaded.transformer_blocks[0].norm1.emb is not loaded.transformer_blocks[1].norm1.emb
    assert isinstance(loaded.proj_out_1, CompressedLinear)


def test_a_compressed_tied_embedder_round_trips(tmp_path: Path) -> None:
    from dpqlab.nn.plan import Rule

    model = dense_dit()
    compress_(model, Plan(rules=(Rule(pattern="*.timestep_embedder.linear_2", codec=PQ),)))
    loaded = load_compressed(save(model, tmp_path / "x"))
    assert_bit_equal(model, loaded)
    first, second = loaded.transformer_blocks
    assert first.norm1.emb is second.norm1.emb


def _ends() -> tuple[object, ...]:
    from dpqlab.nn.plan import Rule

    return (Rule(pattern="proj_out_1", codec=PQ),)


@pytest.mark.parametrize("form", ["ragged", "indexed"])
def test_squeezed_pools_round_trip_and_cost_what_the_ledger_says(tmp_path: Path, form: Any) -> None:
    kind = CodebookCodec(d=4, k=16, across="kind", row_scale=True, iterations=1)
    wide = CodebookCodec(d=4, k=64, scope="layer", across="model", iterations=1)
    budgets = {"norm1.linear": (kind, 0.5), "attn1.*": (wide, 0.25), "ff.*": (RAGGED, 0.9)}
    plan = Plan.for_blocks(
        {
            pattern: Coding(codec=codec, pool=PoolConfig(budget=budget, form=form, refits=1))
            for pattern, (codec, budget) in budgets.items()
        }
    )
    model = compressed_dit(plan)
    folder = save(model, tmp_path / "x")
    loaded = load_compressed(folder)
    assert_bit_equal(model, loaded)
    ledger = ledger_of_model(model)
    assert ledger_of_model(loaded) == ledger
    data = (folder / SINGLE_SHARD).read_bytes()
    assert len(data) - 8 - int.from_bytes(data[:8], "little") == ledger.stored_bytes
    tables = [layer.table for layer in ledger.layers if "attn1" in layer.name]
    assert all(tables) if form == "indexed" else not any(tables)  # one size without a table


def test_shards(tmp_path: Path, model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_BYTES", 20_000)
    folder = save(model, tmp_path / "x")
    files = sorted(file.name for file in (folder / "transformer").glob("*.safetensors"))
    assert len(files) > 2
    assert files[0] == f"diffusion_pytorch_model-00001-of-{len(files):05}.safetensors"
    assert_bit_equal(model, load_compressed(folder))
    index = json.loads((folder / SHARD_INDEX).read_bytes())
    assert index["metadata"]["total_size"] == ledger_of_model(model).stored_bytes
    largest = max((folder / "transformer" / file).stat().st_size for file in files)
    assert largest < 20_000 + 8_000  # header


def test_configs_can_be_read_alone(original: Path) -> None:
    config = read_config(original)
    assert config.scheduler["_class_name"] == "DDIMScheduler"
    assert config.quantization.provenance == PROVENANCE
    assert config.model["num_layers"] == 2
    assert len(config.quantization.layers) == 12


def test_is_compressed(original: Path, tmp_path: Path) -> None:
    assert is_compressed(original)
    assert not is_compressed(tmp_path)
    assert not is_compressed(tmp_path / "missing")
    (tmp_path / "transformer").mkdir()
    for content in ("[]", "{}", "{", '{"quantization_config": 3}', '{"quantization_config": []}'):
        (tmp_path / "transformer/config.json").write_text(content)
        assert not is_compressed(tmp_path)


def test_diffusers_is_imported_by_loading_only(original: Path) -> None:
    code = """
import sys
from dpqlab.checkpoint import save, load, manifest
from dpqlab.nn import surgery
folder = load.Path(sys.argv[1])
load.read_config(folder), load.is_compressed(folder), manifest.verify(folder)
assert not {"diffusers", "safetensors", "numba"} & set(sys.modules), set(sys.modules)
"""
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code, str(original)], check=True, cwd=root)


class TestRefusals:
    """The saver refuses what would not come back."""

    def refuses(self, model: nn.Module, folder: Path, message: str, **settings: object) -> None:
        with pytest.raises(CheckpointError, match=message):
            save(model, folder / "x", **settings)
        assert not list(folder.iterdir())

    def test_dense_model(self, tmp_path: Path) -> None:
        self.refuses(dense_dit(), tmp_path, "is not compressed")

    def test_foreign_class(self, tmp_path: Path) -> None:
        self.refuses(nn.Linear(2, 2), tmp_path, "a Linear cannot be saved")

    def test_kept_values_that_the_dtype_cannot_hold(self, tmp_path: Path, model: nn.Module) -> None:
        model = copy.deepcopy(model)
        with torch.no_grad():
            model.proj_out_1.weight[0, 0] = 1 + 2**-12
        self.refuses(model, tmp_path, r"proj_out_1\.weight .* bfloat16 cannot store exactly")

    @pytest.mark.parametrize("leaf", ["pool", "scale", "bias"])
    def test_float32_masters(self, tmp_path: Path, model: nn.Module, leaf: str) -> None:
        model = copy.deepcopy(model)
        layer = model.transformer_blocks[0].attn1.to_q
        setattr(layer, leaf, nn.Parameter(getattr(layer, leaf).float(), requires_grad=False))
        self.refuses(model, tmp_path, f"to_q.{leaf} is torch.float32")

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), 6e4])
    def test_bad_values(self, tmp_path: Path, model: nn.Module, value: float) -> None:
        model = copy.deepcopy(model)
        layer = model.transformer_blocks[0].attn1.to_q
        layer.scale.data[0] = 10
        layer.pool.data[0, 0] = value
        self.refuses(model, tmp_path, "NaN or infinity|expected at most 65504")

    def test_settings_that_the_config_does_not_tell(self, tmp_path: Path, model: nn.Module) -> None:
        model = copy.deepcopy(model)
        model.transformer_blocks[0].norm1.emb.time_proj.downscale_freq_shift = 0
        self.refuses(model, tmp_path, "downscale_freq_shift is 0")

    def test_changed_position_table(self, tmp_path: Path, model: nn.Module) -> None:
        model = copy.deepcopy(model)
        model.pos_embed.pos_embed += 1
        self.refuses(model, tmp_path, "pos_embed was changed")

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"provenance": {"a": [1]}}, "neither a string nor a number"),
            ({"provenance": {"a": float("nan")}}, "provenance: 'a' is nan"),
            ({"provenance": {"<b>": 1}}, "has the key '<b>'"),
            ({"scheduler_config": {}}, "names no scheduler"),
            ({"scheduler_config": {"_class_name": "os.system"}}, "_class_name is 'os.system'"),
            ({"scheduler_config": SCHEDULER_CONFIG | {"x": float("inf")}}, "x is inf"),
            ({"card": "x" * 2_000_000}, "README.md would have 2000000 bytes"),
        ],
    )
    def test_bad_documents(
        self, tmp_path: Path, model: nn.Module, settings: dict[str, object], message: str
    ) -> None:
        self.refuses(model, tmp_path, message, **settings)

    def test_dpm_solvers_minus_infinity_is_left_out(self, tmp_path: Path, model: nn.Module) -> None:
        from diffusers import DPMSolverMultistepScheduler

        config = json.loads(DPMSolverMultistepScheduler().to_json_string())
        folder = save(model, tmp_path / "x", scheduler_config=config)
        stored = read_config(folder).scheduler
        assert "lambda_min_clipped" not in stored
        assert DPMSolverMultistepScheduler.from_config(stored).config.lambda_min_clipped < -1e300

    def test_shared_codewords_in_codebooks_of_other_sizes(
        self, tmp_path: Path, model: nn.Module
    ) -> None:
        # without tables both layers would be loaded with the sizes of the first
        model = copy.deepcopy(model)
        codec = CodebookCodec(d=4, k=10, scope="group", group=4, across="kind")
        pool = None
        for block, base in zip(model.transformer_blocks, ([0, 4, 10], [0, 6, 10]), strict=True):
            book = Pool(entries=torch.randn(10, 4).half(), base=torch.tensor(base))
            encoded = encode(block.attn1.to_k.decode(), codec, book)
            layer = CompressedLinear.from_encoded(
                encoded, codec, bias=block.attn1.to_k.bias, pool_parameter=pool
            )
            block.attn1.to_k, pool = layer, layer.pool
        self.refuses(model, tmp_path, "not the sizes of its codebooks")

    def test_missing_parent(self, model: nn.Module, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="create it first"):
            save(model, tmp_path / "a" / "b")


def test_plan_of_the_fixture_covers_every_kind_of_layer(model: nn.Module) -> None:
    ledger = ledger_of_model(model)
    assert {layer.codec for layer in ledger.layers} >= {PQ.describe(), KIND.describe()}
    assert any(layer.table for layer in ledger.layers)  # ragged
    assert any(tensor.in_blocks for tensor in ledger.kept)
    assert PLAN.rest_dtype == "bfloat16"
