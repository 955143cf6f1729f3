"""Memory that a compression is said to take: where it is booked, and that it is near."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from dpqlab.core import CodebookCodec, PoolConfig, ScalarCodec
from dpqlab.diffusion.dit import make_dit
from dpqlab.nn.forecast import forecast_
from dpqlab.nn.plan import Coding, Plan
from dpqlab.nn.targets import targets_of
from dpqlab.nn.workspace import Workspace, workspace_of
from tests.tiny import TINY

VQ = CodebookCodec(d=4, k=16, scope="layer")
KIND = CodebookCodec(d=4, k=16, scope="layer", across="kind")


def skeleton(**shape: Any) -> Any:
    with torch.device("meta"):
        return make_dit(TINY | shape)


def forecast(coding: Coding | CodebookCodec | ScalarCodec, **shape: Any) -> Workspace:
    model, plan = skeleton(**shape), Plan.for_blocks(coding)
    targets = targets_of(model, plan)
    return workspace_of(targets, forecast_(model, plan))


def test_more_blocks_add_what_they_store_and_no_more() -> None:
    two, eight = (forecast(VQ, num_layers=layers) for layers in (2, 8))
    assert eight.working == two.working
    assert two.layer == "transformer_blocks.1.norm1.linear"
    assert eight.layer == "transformer_blocks.7.norm1.linear"
    stored = forecast_(skeleton(num_layers=8), Plan.for_blocks(VQ)).layers
    before = [layer.total // 8 for layer in stored]
    assert sum(before) / 2 < eight.output <= sum(before)
    assert eight.total == eight.output + eight.working


def test_a_squeezed_pool_holds_the_codes_of_all_its_layers() -> None:
    wide: dict[str, Any] = {"num_attention_heads": 8, "attention_head_dim": 64}
    coding = Coding(codec=KIND, pool=PoolConfig())
    shapes = [forecast(coding, num_layers=n, **wide) for n in (80, 160)]
    layer = 6 * 512**2
    assert shapes[0].working == 32 * layer + 12 * 80 * layer // 4
    assert shapes[1].working == 32 * layer + 12 * 160 * layer // 4
    assert shapes[1].layer.endswith("norm1.linear")


def test_what_k_means_looks_at_is_bounded_where_layers_share() -> None:
    wide: dict[str, Any] = {"num_attention_heads": 8, "attention_head_dim": 64}
    shared = [forecast(KIND, num_layers=n, **wide).working for n in (1, 6, 7)]
    assert shared[0] < shared[1] == shared[2]
    layer = 6 * 512**2
    assert shared[1] == 2_000_000 * (20 * 4 + 24) + 12 * layer


def test_scalar_codes_need_a_layer() -> None:
    assert forecast(ScalarCodec(bits=2, group_size=16)).working == 32 * 6 * 32**2


SCRIPT = """
import sys
from dpqlab.cli import main
from dpqlab.nn.resident import most_resident_bytes
assert main(sys.argv[1:]) == 0
print(most_resident_bytes())
"""


def run(*arguments: str) -> list[str]:
    command = [sys.executable, "-c", SCRIPT, *arguments, "--json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["vq-1bit", "best-1bit", "dpq-2bit"])
def test_the_forecast_is_near(preset: str, tmp_path: Path) -> None:
    from benchmarks.random_dit import write_random_dit

    source = str(write_random_dit(tmp_path / "source", layers=3, attention_head_dim=64))
    said = json.loads("\n".join(run("plan", source, "--preset", preset)[:-1]))["memory"]
    peak = int(run("compress", source, str(tmp_path / "out"), "--preset", preset)[-1])
    assert peak / 1.25 < said["peak_bytes"] < peak * 1.25
    # and not only because libraries are most of it
    own = peak - said["libraries_bytes"]
    assert own / 1.5 < said["output_bytes"] + said["working_bytes"] < own * 1.5
