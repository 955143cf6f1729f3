"""A model whose weights stay in their files: the same numbers, and little memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from dpqlab.checkpoint.dense import open_dense
from dpqlab.checkpoint.lending import lent_model
from dpqlab.diffusion import SampleRequest
from dpqlab.diffusion import inputs as watching
from dpqlab.diffusion.inputs import inputs_of
from dpqlab.errors import CheckpointError
from dpqlab.nn.embedder import untie_embedders_
from tests.live_bytes import live_bytes
from tests.tiny import tiny_dit

REQUEST = SampleRequest(labels=(1, 2), steps=2, guidance=1.5)
WIDTH = 2 * 64


def write(folder: Path, **changes: Any) -> Path:
    model = tiny_dit(**changes)
    untie_embedders_(model)
    model.save_pretrained(folder)
    return folder


def loaded(folder: Path) -> Any:
    from diffusers import DiTTransformer2DModel

    model: Any = DiTTransformer2DModel.from_pretrained(folder, torch_dtype=torch.float32)
    return model.eval()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("lent") / "transformer")


def linears(model: Any) -> list[str]:
    return [name for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)]


def given() -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return {
        "hidden_states": torch.randn(3, 1, 8, 8, generator=g),
        "timestep": torch.tensor([0, 500, 999]),
        "class_labels": torch.tensor([0, 4, 10]),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_computes_what_the_loaded_model_computes(
    source: Path, dtype: torch.dtype, tmp_path: Path
) -> None:
    folder = source
    if dtype != torch.float32:
        folder = tmp_path / "half"
        loaded(source).to(dtype).save_pretrained(folder)
    expected, found = loaded(folder), lent_model(open_dense(folder))
    with torch.no_grad():
        assert torch.equal(found(**given()).sample, expected(**given()).sample)
    held = {name for name, p in found.named_parameters() if not p.is_meta}
    assert not any(name.startswith(f"{linear}.") for linear in linears(found) for name in held)


def test_statistics_are_bit_equal(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dense, lent = loaded(source), lent_model(open_dense(source))
    names = [name for name in linears(lent) if ".emb." not in name and "blocks" in name]
    for grams in (False, True):
        expected = inputs_of(dense, names, REQUEST, grams=grams)
        found = inputs_of(lent, names, REQUEST, grams=grams)
        assert found.keys() == expected.keys() == set(names)
        assert all(torch.equal(found[name], expected[name]) for name in names)
    monkeypatch.setattr(watching, "AT_ONCE", 3 * 8 * 32**2)
    again = list(watching.input_steps(lent, names, REQUEST, grams=True))
    assert [step.index for step in again] == list(range(again[0].total))
    assert again[0].total > REQUEST.steps
    parts = [step.inputs for step in again if step.inputs is not None]
    assert [name for part in parts for name in part] == names
    assert all(torch.equal(part[name], expected[name]) for part in parts for name in part)


def test_a_pass_holds_one_linear_at_a_time(tmp_path: Path) -> None:
    """Of six blocks and of two alike."""
    peaks = []
    for layers in (2, 6):
        shape = {"num_layers": layers, "attention_head_dim": WIDTH // 2}
        folder = write(tmp_path / f"of-{layers}", **shape)
        model = lent_model(open_dense(folder))
        with torch.no_grad(), live_bytes() as count:
            model(**given())
        peaks.append(count.peak)
        assert count.now < 10_000, "what was lent is given back"
    largest = (4 + 4) * 6 * WIDTH**2  # adaLN's, as it is stored and as it is lent
    activations = 4 * 3 * 4 * (4 + 8) * WIDTH  # of 3 images of 4 tokens
    assert largest < peaks[0] < largest + activations
    assert peaks[1] == peaks[0]


def test_gathering_grams_does_not_grow_with_the_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gram = 8 * (4 * WIDTH) ** 2
    monkeypatch.setattr(watching, "AT_ONCE", gram)
    peaks = []
    for layers in (1, 3):
        shape = {"num_layers": layers, "attention_head_dim": WIDTH // 2}
        model = lent_model(open_dense(write(tmp_path / f"of-{layers}", **shape)))
        names = [f"transformer_blocks.{i}.ff.net.2" for i in range(layers)]
        with torch.no_grad(), live_bytes() as count:
            for _ in watching.input_steps(model, names, REQUEST, grams=True):
                pass  # here what was measured would be written away
        peaks.append(count.peak)
    # the sum, the mean of it, float32 of that, and what one call adds
    assert gram < peaks[0] < 2.6 * gram + 4 * 6 * WIDTH**2
    assert peaks[1] < peaks[0] * 1.1 + gram / 2  # that of the layer before goes with its record


def test_a_pass_that_is_left_gives_back_too(source: Path) -> None:
    model = lent_model(open_dense(source))
    gate = model.get_submodule("transformer_blocks.1.norm1.linear")

    def stop(*_: Any) -> None:
        raise KeyError("far enough")

    hook = gate.register_forward_hook(stop)
    with pytest.raises(KeyError), torch.no_grad():
        model(**given())
    hook.remove()
    assert all(p.is_meta for p in gate.parameters())


def test_a_file_that_goes_away_is_named(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    loaded(source).save_pretrained(folder)
    model = lent_model(open_dense(folder))
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"cannot read .*No such file"), torch.no_grad():
        model(**given())


SCRIPT = """
import sys
from pathlib import Path
from dpqlab.checkpoint.dense import open_dense
from dpqlab.checkpoint.heap import return_large_blocks
from dpqlab.checkpoint.lending import lent_model
from dpqlab.diffusion import SampleRequest
from dpqlab.diffusion.inputs import inputs_of
from dpqlab.nn.resident import most_resident_bytes
return_large_blocks()
folder, how = sys.argv[1:]
if how == "lent":
    model = lent_model(open_dense(folder))
else:
    from dpqlab.diffusion.models import load_pipeline
    model = load_pipeline(folder).transformer
names = [f"transformer_blocks.{i}.attn1.to_q" for i in range(len(model.transformer_blocks))]
inputs_of(model, names, SampleRequest(labels=(1, 2), steps=1))
print(most_resident_bytes())
"""


@pytest.mark.slow
def test_a_process_stays_far_below_the_models_size(tmp_path: Path) -> None:
    from benchmarks.random_dit import write_random_dit

    size = 16 * 4 * 18 * 512**2
    assert size > 300e6
    folder = write_random_dit(tmp_path / "source", layers=16, attention_head_dim=32)
    peaks = []
    for how in ("lent", "loaded"):
        command = [sys.executable, "-c", SCRIPT, str(folder), how]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        peaks.append(int(done.stdout))
    assert peaks[1] - peaks[0] > 0.8 * size, (peaks, size)
