"""The E-step of a model that does not fit twice: the same codes, and memory that is bounded."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dpqlab.calibration.batch import Batch
from dpqlab.calibration.data import CalibrationData
from dpqlab.calibration.estep import EStepConfig, assign_codes
from dpqlab.checkpoint.dense import open_dense
from dpqlab.checkpoint.lending import lent_model
from dpqlab.core import CodebookCodec
from dpqlab.core.assignment import AssignmentConfig
from dpqlab.errors import ConfigError
from dpqlab.nn import CompressedLinear, Plan, compress_
from dpqlab.nn.embedder import untie_embedders_
from tests.live_bytes import live_bytes
from tests.tiny import tiny_dit

BLOCK = EStepConfig(refresh="block", assignment=AssignmentConfig(candidates=4, sweeps=1))
WIDTH, IMAGES = 128, 32
QUICK = EStepConfig(refresh="block", assignment=AssignmentConfig(candidates=2, sweeps=1, beam=0))


def lent(teacher: Any, folder: Path) -> Any:
    copied = copy.deepcopy(teacher)
    untie_embedders_(copied)
    copied.save_pretrained(folder)
    return lent_model(open_dense(folder))


def batches_of(count: int) -> list[Batch]:
    g = torch.Generator().manual_seed(1)
    return [
        Batch(
            noisy=torch.randn(count, 1, 8, 8, generator=g),
            timesteps=torch.randint(1000, (count,), generator=g),
            labels=torch.randint(10, (count,), generator=g),
        )
    ]


@pytest.mark.parametrize("refresh", ["layer", "block"])
def test_a_lent_teacher_and_chunks_give_the_same_codes(
    refresh: Any,
    compressed: Callable[..., Any],
    teacher: Any,
    data: CalibrationData,
    tmp_path: Path,
) -> None:
    config = EStepConfig(refresh=refresh, assignment=BLOCK.assignment)
    generator = torch.Generator().manual_seed(5)
    batches = [data.draw(48, null_class=10, label_drop=0.1, generator=generator) for _ in range(2)]
    one, two, three = compressed(), compressed(), compressed()
    borrowed = lent(teacher, tmp_path / "teacher")
    expected = list(assign_codes(one, teacher, batches, config))
    whole = list(assign_codes(two, borrowed, batches, config, chunk=1000))
    found = list(assign_codes(three, borrowed, batches, config, chunk=20))
    assert sum(record.changed for record in expected) > 0
    for a, b, c in zip(expected, whole, found, strict=True):
        assert (a.layer, a.changed, a.error_after) == (b.layer, b.changed, b.error_after)
        assert c.layer == a.layer
        assert c.error_after == pytest.approx(a.error_after, rel=1e-4)
    for name, layer in one.named_modules():
        if isinstance(layer, CompressedLinear):
            codes = layer.codes()
            assert torch.equal(two.get_submodule(name).codes(), codes)
            other = three.get_submodule(name).codes() != codes
            assert float(other.float().mean()) < 0.01  # where two codes are equally good


def peak(blocks: int, chunk: int | None, folder: Path) -> int:
    shape = {"num_layers": blocks, "attention_head_dim": WIDTH // 2}
    teacher, student = tiny_dit(**shape), tiny_dit(**shape)
    compress_(student, Plan.for_blocks(CodebookCodec(d=64, k=4, scope="layer", iterations=1)))
    borrowed = lent(teacher, folder / f"{blocks}-{chunk}")
    del teacher
    batches = batches_of(IMAGES)
    with live_bytes() as count:
        for _ in assign_codes(student, borrowed, batches, QUICK, chunk=chunk):
            pass
    return count.peak


def test_memory_does_not_grow_with_the_blocks(tmp_path: Path) -> None:
    tokens, chunk = 4, 4
    shapes = [(WIDTH, WIDTH)] * 4 + [(4 * WIDTH, WIDTH), (WIDTH, 4 * WIDTH), (6 * WIDTH, WIDTH)]
    moments = sum(8 * width * (width + out) for out, width in shapes)
    outputs = sum(4 * chunk * tokens * out for out, _ in shapes)
    largest = max(width * (width + out) for out, width in shapes)
    bound = 8 * 6 * WIDTH**2 + moments + outputs + 40 * largest
    one, two = (peak(blocks, chunk, tmp_path) for blocks in (1, 2))
    assert moments < one < bound
    # what is stored changes with the codes, and no more
    block = 18 * WIDTH**2
    assert two - one < block * 0.1


@pytest.mark.slow
def test_whole_batches_of_decoded_weights_take_more(tmp_path: Path) -> None:
    block = 18 * WIDTH**2
    assert peak(4, None, tmp_path) - peak(4, 4, tmp_path) > block * 4


def test_a_chunk_without_images_is_refused(student: Any, teacher: Any) -> None:
    with pytest.raises(ConfigError, match="chunk is 0: expected at least one image"):
        list(assign_codes(student, teacher, batches_of(2), chunk=0))
