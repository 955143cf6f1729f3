"""Calibrating on a GPU: a step as a CUDA graph, of compiled blocks."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from dpqlab.calibration import (
    EStepSchedule,
    LatentConfig,
    RevivalSchedule,
    calibrate,
)
from tests.calibration.conftest import QUICK
from tests.calibration.states import (
    held_out_loss,
    untouched,
)


@pytest.fixture
def on_gpu(compressed, teacher, data) -> Iterator[tuple[Any, Any, Any]]:
    moved = {name: getattr(data, name).cuda() for name in ("images", "labels", "alphas")}
    yield compressed, copy.deepcopy(teacher).cuda(), replace(data, **moved)


MOVES: dict[str, dict[str, Any]] = {
    "fixed codes": {},
    "latents": {"latent": LatentConfig(learning_rate=0.02), "revival": RevivalSchedule(every=7)},
    "rare choices": {"latent": LatentConfig(learning_rate=0.02, every=3)},
    "e-steps": {"e_step": EStepSchedule(every=10, batches=2, settings=QUICK)},
}


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "compiled"])
@pytest.mark.parametrize("name", MOVES)
def test_a_cuda_graph_trains_like_single_kernels(on_gpu, config, name, compiled):
    compressed, teacher, data = on_gpu
    courses = []
    for graph in (False, True):
        student = compressed().cuda()
        settings = replace(config, cuda_graph=graph, compile=compiled, **MOVES[name])
        records = list(calibrate(student, teacher, data, settings))
        assert records[-1].total < 0.7 * records[0].total
        assert any(record.changed > 0 for record in records) == (name != "fixed codes")
        best = min(record.total for record in records)
        with torch.autocast("cuda", torch.bfloat16):
            stored = held_out_loss(student, teacher, data, settings)
        assert stored == pytest.approx(best, rel=1e-3)
        assert untouched(student)
        courses.append([record.total for record in records])
    # codes that flip at another moment, for bf16's sake, take another course
    assert courses[0] == pytest.approx(courses[1], rel=0.05 if name == "fixed codes" else 0.3)


@pytest.mark.gpu
@pytest.mark.parametrize("graph", [False, True], ids=["single kernels", "graph"])
def test_a_run_goes_on_from_a_file_on_a_gpu(on_gpu, config, tmp_path, graph):
    compressed, teacher, data = on_gpu
    settings = replace(config, cuda_graph=graph, compile=False, **MOVES["latents"])
    whole = list(calibrate(compressed().cuda(), teacher, data, settings))
    for _ in range(2):
        run = calibrate(compressed().cuda(), teacher, data, settings, progress=tmp_path / "run")
        for _ in range(3):
            next(run)
        run.close()
    rest = list(calibrate(compressed().cuda(), teacher, data, settings, progress=tmp_path / "run"))
    assert [record.step for record in rest] == [record.step for record in whole[-len(rest) :]]
    assert rest[0].total == pytest.approx(whole[-len(rest)].total, rel=0.3)
    assert rest[-1].total == pytest.approx(whole[-1].total, rel=0.3)
