"""The original DiT's weights in diffusers: the same function, whole, and nothing taken on trust."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from dpqlab.checkpoint.convert import convert_original, read_original, write_dense
from dpqlab.errors import CheckpointError, ConfigError
from tests.checkpoint.original_dit import forward, random_state

SHAPE = {"width": 64, "heads": 4, "depth": 3, "side": 8, "patch": 2, "channels": 4, "classes": 5}


@pytest.fixture(scope="module")
def original() -> dict[str, Tensor]:
    return random_state(**SHAPE)


@pytest.fixture
def state(original: dict[str, Tensor]) -> dict[str, Tensor]:
    return dict(original)


def loaded(folder: Path) -> Any:
    from diffusers import DiTTransformer2DModel

    return DiTTransformer2DModel.from_pretrained(folder).eval()  # type: ignore[attr-defined]


def original_conventions(model: Any) -> Any:
    """Compute timesteps and the last norm as the original code does."""
    for block in model.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = 0
        block.norm3.eps = 1e-6
    return model


@torch.no_grad()
def test_both_models_compute_the_same(original: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(original, tmp_path / "dit.pt")
    converted = convert_original(read_original(tmp_path / "dit.pt"), heads=4)
    write_dense(converted, tmp_path / "out", "# Card\n", dtype=torch.float32)
    model = original_conventions(loaded(tmp_path / "out"))
    x = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    t, y = torch.tensor([0, 37, 500, 999]), torch.tensor([0, 2, 4, 5])
    expected = forward(original, x, t, y, heads=4)
    found = model(x, timestep=t, class_labels=y).sample
    assert expected.std() > 0.5
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_diffusers_own_convention_is_another(original: dict[str, Tensor], tmp_path: Path) -> None:
    """What the documentation says of the timestep's frequencies is so."""
    write_dense(convert_original(original, heads=4), tmp_path / "out", "", dtype=torch.float32)
    model = loaded(tmp_path / "out")
    x, y = torch.randn(2, 4, 8, 8), torch.tensor([0, 1])
    off = {}
    for t in (0, 500):
        expected = forward(original, x, torch.tensor([t, t]), y, heads=4)
        found = model(x, timestep=torch.tensor([t, t]), class_labels=y).sample
        off[t] = float((found - expected).norm() / expected.norm())
    assert off[0] < 1e-3  # every angle is 0: what is left is the epsilon of the last norm
    assert off[500] > 0.1


def test_the_geometry_is_read_from_the_shapes(state: dict[str, Tensor]) -> None:
    config = convert_original(state, heads=4).config
    assert (config["num_layers"], config["sample_size"], config["patch_size"]) == (3, 8, 2)
    assert (config["in_channels"], config["out_channels"]) == (4, 8)
    assert config["num_embeds_ada_norm"] == 5
    assert config["attention_head_dim"] == 16


def test_every_value_arrives_once(state: dict[str, Tensor]) -> None:
    made = convert_original(state, heads=4).state
    blocks = {
        n: v
        for n, v in made.items()
        if "norm1.emb" not in n or n.startswith("transformer_blocks.0.")
    }
    before = sum(v.double().sum() for n, v in state.items() if n != "pos_embed")
    assert sum(v.double().sum() for v in blocks.values()) == pytest.approx(float(before))
    numbers = sum(v.numel() for n, v in state.items() if n != "pos_embed")
    assert sum(v.numel() for v in blocks.values()) == numbers


def test_a_trainings_checkpoint_gives_its_average(state: dict[str, Tensor], tmp_path: Path) -> None:
    other = {name: tensor + 1 for name, tensor in state.items()}
    torch.save({"model": other, "ema": state, "steps": 7}, tmp_path / "train.pt")
    found = read_original(tmp_path / "train.pt")
    assert torch.equal(found["final_layer.linear.bias"], state["final_layer.linear.bias"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_dtype_is_the_one_asked_for(
    state: dict[str, Tensor], tmp_path: Path, dtype: torch.dtype
) -> None:
    write_dense(convert_original(state, heads=4), tmp_path / "out", "card", dtype=dtype)
    weights = load_file(tmp_path / "out" / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {dtype}
    assert (tmp_path / "out" / "README.md").read_text() == "card"


BAD = {
    "without the table of classes": (
        lambda s: s.pop("y_embedder.embedding_table.weight"),
        r"y_embedder.embedding_table.weight is missing",
    ),
    "without a bias": (lambda s: s.pop("blocks.1.mlp.fc2.bias"), r"blocks.1.mlp.fc2.bias is miss"),
    "with another tensor": (lambda s: s.update(lora=torch.ones(3)), "lora is no tensor of a DiT"),
    "with a hole between blocks": (
        lambda s: [s.pop(n) for n in list(s) if n.startswith("blocks.1.")],
        r"blocks are \[0, 2\]",
    ),
    "with trained positions": (
        lambda s: s.update(pos_embed=s["pos_embed"] + 1e-3),
        "pos_embed.*not trained",
    ),
    "with an oblong of patches": (
        lambda s: s.update(pos_embed=s["pos_embed"][:, :12]),
        "pos_embed.*a square of patches",
    ),
    "with a narrow MLP": (
        lambda s: s.update({"blocks.0.mlp.fc1.weight": torch.ones(128, 64)}),
        r"transformer_blocks.0.ff.net.0.proj.weight would have shape \(128, 64\)",
    ),
    "with two parts of three": (
        lambda s: s.update({"blocks.0.attn.qkv.bias": torch.ones(128)}),
        "attn.qkv.bias has 128 rows",
    ),
    "with whole numbers": (
        lambda s: s.update({"blocks.2.attn.proj.bias": torch.ones(64, dtype=torch.int64)}),
        "to_out.0.bias would be torch.int64",
    ),
    "with a flat kernel": (
        lambda s: s.update({"x_embedder.proj.weight": torch.ones(64, 16)}),
        "x_embedder.proj.weight has shape",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_dit_is_refused_by_name(state: dict[str, Tensor], case: str) -> None:
    edit, message = BAD[case]
    edit(state)
    with pytest.raises(CheckpointError, match=message):
        convert_original(state, heads=4)


def test_heads_are_asked_for_where_nothing_tells(state: dict[str, Tensor]) -> None:
    with pytest.raises(ConfigError, match=r"width is 64.*--heads"):
        convert_original(state)
    with pytest.raises(ConfigError, match="number of heads is 5: expected one that divides 64"):
        convert_original(state, heads=5)


class Exploding:
    """Runs when it is unpickled."""

    def __reduce__(self) -> Any:
        return (exec, ("raise SystemExit('unpickled')",))


@pytest.mark.parametrize(
    "content",
    [
        {"w": Exploding()},
        argparse.Namespace(a=1),
        {"ema": {"w": torch.ones(1)}, "args": argparse.Namespace(a=1)},
        [torch.ones(1)],
        {"w": 1},
        {"ema": [1]},
    ],
)
def test_nothing_but_tensors_is_built(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "bad.pt")
    with pytest.raises(CheckpointError, match="tensors"):
        read_original(tmp_path / "bad.pt")


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match="no file of tensors alone"):
        read_original(tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="No such file"):
        read_original(tmp_path / "none.pt")
