"""The suites' pieces: what a GPU's are made of, shown without one; comparisons of steps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from dpqlab.diffusion.dit import FASHION_DIT
from dpqlab.errors import ConfigError
from dpqlab.speed import SpeedRow, Timing, kmeans, suites
from dpqlab.speed.models import random_dit
from dpqlab.speed.rows import speed_results, step_results
from dpqlab.speed.sampler import COMPILED, EAGER, Contender, StepRow, eager_contender, step_rows
from dpqlab.speed.suites import Options, pieces_of, title_of

TINY = FASHION_DIT | {"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 16}

pytestmark = pytest.mark.usefixtures("one_thread")


def step(name: str, seconds: float) -> StepRow:
    timing = Timing(rounds=(seconds,))
    return StepRow(images=2, name=name, timing=timing, bytes={"dense": 8}, error=None)


def test_steps_are_compared_with_the_compiled_model_where_there_is_one() -> None:
    rows = [step(EAGER, 4.0), step(COMPILED, 2.0), step("dense, a", 1.5), step("best-1bit, a", 1.0)]
    results = step_results(rows, "some model")
    assert {result.work for result in results} == {"guided step of some model, 2 images"}
    assert results[0].ratios == {COMPILED: 0.5}
    assert results[-1].ratios == {COMPILED: 2.0, "our runtime, dense": 1.5}
    (alone,) = step_results(rows[:1], "some model")
    assert alone.ratios == {EAGER: 1.0}


def test_rows_are_compared_with_the_dense_one() -> None:
    timing = Timing(rounds=(1.0,))
    dense = SpeedRow(work="w", way="dense", timing=timing, floor=0.5, bytes=8)
    coded = replace(dense, way="a", timing=Timing(rounds=(0.5,)), floor=0.25, flops=3.0)
    results = speed_results([coded, dense])
    assert [result.ratios for result in results] == [{"dense": 2.0}, {"dense": 1.0}]
    assert results[0].limit == 4.0
    assert results[0].to_dict()["flops"] == 3.0


def test_the_sampler_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same pieces with a small model on the CPU, and nothing to compile."""
    built: list[Any] = []

    def small(*_: Any, **__: Any) -> Any:
        built.append(random_dit(TINY, device="cpu", dtype=torch.float32))
        return built[-1]

    def plain(model: Any) -> tuple[Contender, Contender]:
        eager = eager_contender(model)
        return eager, replace(eager, name=COMPILED, plain=model)

    def on_cpu(contenders: Any, images: int, device: str, *, rounds: int | None) -> Any:
        assert device == "cuda"
        return step_rows(contenders, images, "cpu", rounds=1)

    monkeypatch.setattr(suites, "random_dit", small)
    monkeypatch.setattr(suites, "plain_contenders", plain)
    monkeypatch.setattr(suites, "step_rows", on_cpu)
    options = Options(device="cuda", presets=("best-1bit", "dpq-2bit"), images=(1, 2))
    pieces = pieces_of("sampler", options)
    assert [piece.title for piece in pieces] == ["dense weights", "best-1bit", "dpq-2bit"]
    assert built == [], "nothing is made before it is measured"
    first, second, _ = (piece.run() for piece in pieces)
    assert [result.way for result in first[:2]] == [EAGER, COMPILED]
    assert len(first) == 2 * 4, "two numbers of images"
    assert {result.way.partition(",")[0] for result in second} == {"best-1bit"}
    assert all(result.work.startswith("guided step of DiT-XL/2, ") for result in second)
    assert all(set(result.ratios) == {COMPILED, "our runtime, dense"} for result in second)
    assert len(built) == 3, "the dense model is made once"


def test_kmeans_needs_only_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kmeans.importlib.util, "find_spec", lambda name: name == "torch" or None)
    assert kmeans.ways_here() == [kmeans.REFERENCE]
    assert [piece.title for piece in pieces_of("kmeans", Options())] == [kmeans.REFERENCE]


@pytest.mark.parametrize("way", list(kmeans.WAYS))
def test_every_k_means_fits_the_weight(way: str) -> None:
    if way not in kmeans.ways_here():
        pytest.skip(f"{kmeans.WAYS[way][0]} is not installed")
    setting = kmeans.KMeansSetting(width=64, d=4, k=8, iterations=5, repeats=2, threads=1)
    row = kmeans.kmeans_row(way, setting)
    assert len(row.timing.rounds) == 2
    assert row.timing.median > 0
    # 8 codewords of 4 Gaussian values: three bits for four numbers
    assert 0.3 < row.error < 0.7


def test_titles_name_no_folder() -> None:
    assert title_of("some/folder/model/") == "model"
    assert title_of("fashion-dit") == "fashion-dit"


def test_an_unknown_suite_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected one of kernels, sampler, kmeans"):
        pieces_of("nope", Options())  # pyright: ignore[reportArgumentType]
