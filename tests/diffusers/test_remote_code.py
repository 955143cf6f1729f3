"""The file that lets a folder load without an import of dpqlab beforehand, for who allows it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dpqlab.checkpoint import load_compressed
from dpqlab.diffusers import add_remote_code
from dpqlab.errors import CheckpointError, ConfigError
from tests.diffusers.models import assert_same, load, predict

STRANGER = """
import sys, torch
from diffusers import AutoModel

plain, offering, out = sys.argv[1:]

def load(folder, trust):
    return AutoModel.from_pretrained(folder, trust_remote_code=trust)

for folder, trust in ((plain, True), (plain, False), (offering, False)):
    try:
        load(folder, trust)
    except (ValueError, OSError) as error:
        print(error)
    else:
        sys.exit(f"{folder} was loaded, trusting it: {trust}")
    assert not any(name.startswith("dpqlab") for name in sys.modules)
model = load(offering, True)
assert "dpqlab" in sys.modules and model.is_quantized
noise = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(3))
times, labels = torch.tensor([7, 500]), torch.tensor([0, 1])
with torch.no_grad():
    torch.save(model(noise, timestep=times, class_labels=labels).sample, out)
"""


@pytest.fixture
def copy(sharing: Path, tmp_path: Path) -> Path:
    load(sharing, subfolder="transformer").save_pretrained(tmp_path / "copy")
    return tmp_path / "copy"


def test_a_program_that_knows_diffusers_alone(copy: Path, tmp_path: Path):
    """It loads the folder that carries the file, if it says so, and nothing else of ours."""
    expected = predict(load(copy))
    load(copy).save_pretrained(tmp_path / "plain")
    code = add_remote_code(copy)
    assert len(code.read_text().splitlines()) == 4
    roots = os.pathsep.join(path or "." for path in sys.path)
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, tmp_path / "plain", copy, tmp_path / "out.pt"],
        env=os.environ | {"HF_HOME": str(tmp_path / "home"), "PYTHONPATH": roots},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "trust_remote_code" in done.stdout.splitlines()[-1]
    drawn = torch.load(tmp_path / "out.pt", weights_only=True)
    torch.testing.assert_close(drawn, expected, rtol=1e-5, atol=1e-6)


def test_the_other_ways_to_load_stay(copy: Path, sharing: Path):
    for _ in range(2):  # adding it again changes nothing
        code = add_remote_code(copy)
        assert json.loads((copy / "config.json").read_text())["auto_map"] == {
            "AutoModel": "modeling_dpqlab.DiTTransformer2DModel"
        }
        assert code.is_file()
    assert_same(load(copy), load_compressed(sharing))


def test_a_folder_that_dpqlab_wrote_whole_stays_as_it_is(sharing: Path):
    before = {p: p.read_bytes() for p in sharing.rglob("*") if p.is_file()}
    with pytest.raises(ConfigError, match="manifest lists every file"):
        add_remote_code(sharing / "transformer")
    assert before == {p: p.read_bytes() for p in sharing.rglob("*") if p.is_file()}


@pytest.mark.parametrize("harm", ["none", "dense", "another method", "no name"])
def test_a_folder_of_another_kind_is_refused(copy: Path, harm: str):
    path = copy / "config.json"
    config = json.loads(path.read_text())
    if harm == "dense":
        del config["quantization_config"]
    elif harm == "another method":
        config["quantization_config"]["quant_method"] = "bitsandbytes"
    elif harm == "no name":
        config["_class_name"] = 'x"]; import os  #'
    path.unlink() if harm == "none" else path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"a compressed model|that dpqlab compressed"):
        add_remote_code(copy)
    assert not list(copy.glob("*.py"))
