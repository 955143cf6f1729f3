from __future__ import annotations

import gc
import itertools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dpqlab.diffusion import SampleRequest, load_pipeline, prepare_runtime, sample_images
from dpqlab.errors import ConfigError, DPQError
from dpqlab.tracing import trace_steps
from dpqlab_app.drawing import engine as engine_module
from dpqlab_app.drawing import loaded
from dpqlab_app.drawing.catalogue import Catalogue
from dpqlab_app.drawing.engine import Engine, MemoryShortError, OverBudgetError
from dpqlab_app.drawing.settings import DrawSettings

Make = Callable[..., DrawSettings]


def expected(folder: Path, settings: DrawSettings) -> np.ndarray:
    """What dpqlab alone draws."""
    pipeline = load_pipeline(folder)
    request = SampleRequest(
        labels=settings.labels,
        seed=settings.seed,
        steps=settings.steps,
        guidance=settings.guidance,
    )
    runtime = prepare_runtime(pipeline.transformer)
    images = sample_images(runtime, pipeline.scheduler, request)
    return images.permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("model", ["tiny", "colour"])
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_pictures_are_those_of_dpqlab_bit_for_bit(
    tiny_engine: Engine, tiny_folders: Path, tiny_settings: Make, model: str, guidance: float
) -> None:
    versions = (f"{model}-4", f"{model}-16")
    settings = tiny_settings(model=model, versions=versions, guidance=guidance, seed=123)
    *_, frame = tiny_engine.draw(settings)
    assert frame.done
    assert frame.remaining == 0
    assert [version.key for version in frame.versions] == ["full", *versions]
    for version, name in zip(frame.versions, (model, *versions), strict=True):
        np.testing.assert_array_equal(version.images, expected(tiny_folders / name, settings))


def test_a_frame_a_step_with_everything_in_it(tiny_engine: Engine, tiny_settings: Make) -> None:
    settings = tiny_settings(steps=5)
    frames = list(tiny_engine.draw(settings))
    assert [frame.index for frame in frames] == list(range(5))
    assert {frame.total for frame in frames} == {5}
    assert [frame.done for frame in frames] == [False] * 4 + [True]
    seconds = [frame.seconds for frame in frames]
    assert seconds == sorted(seconds)
    assert all(frame.remaining > 0 for frame in frames[:-1])
    assert all(frame.settings is settings and frame.notes == () for frame in frames)
    full, student = frames[-1].versions
    assert full.images.shape == student.images.shape == (3, 8, 8, 1)
    assert (full.facts.backend, student.facts.backend) == ("dense torch", "numba")
    assert (full.facts.device, full.facts.dtype) == ("cpu", "float32")
    assert 0 < student.facts.weight_bytes < full.facts.weight_bytes
    assert student.facts.modulation_bytes == full.facts.modulation_bytes > 0
    version = tiny_engine.catalogue.model("tiny").version("tiny-16")
    assert student.facts.true_bits == version.true_bits
    assert student.facts.disk_bytes == version.disk_bytes
    assert all(v.ms_per_step > 0 for frame in frames for v in frame.versions)


def test_the_first_step_prepares_and_does_not_count(
    tiny_engine: Engine, tiny_settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = engine_module.version_steps
    seconds = iter([9.0, 1.0, 2.0, 3.0])

    def timed(*args: Any) -> Any:
        for step in steps(*args):
            object.__setattr__(step, "seconds", next(seconds))
            yield step

    monkeypatch.setattr(engine_module, "version_steps", timed)
    frames = list(tiny_engine.draw(tiny_settings(versions=())))
    assert [frame.versions[0].ms_per_step for frame in frames] == [9000, 1000, 1500, 2000]
    assert [frame.remaining for frame in frames] == [27.0, 2.0, 1.5, 0.0]


def test_unknown_models_versions_and_classes_are_refused_at_once(
    tiny_engine: Engine, tiny_settings: Make
) -> None:
    for changes in (
        {"model": "nobody"},
        {"versions": ("best-1bit",)},
        {"labels": (10,)},  # the class of no class is no class to ask for
    ):
        with pytest.raises(ConfigError):
            tiny_engine.draw(tiny_settings(**changes))
    assert tiny_engine.shelf.held == ()


def test_closing_ends_the_work_and_leaves_nothing_behind(
    tiny_engine: Engine, tiny_settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, taken, closed = engine_module.version_steps, [0], [0]

    def counted(*args: Any) -> Any:
        try:
            for step in steps(*args):
                taken[0] += 1
                yield step
        finally:
            closed[0] += 1

    monkeypatch.setattr(engine_module, "version_steps", counted)
    frames = tiny_engine.draw(tiny_settings(steps=50))
    next(frames)
    next(frames)
    frames.close()
    assert taken == [4], "two versions, two steps"
    assert closed == [2]
    model = tiny_engine.catalogue.model("tiny")
    for key in ("full", "tiny-16"):
        assert tiny_engine.shelf.get(model, model.version(key)).runtime.modulation_bytes == 0


def test_a_dropped_request_ends_too(tiny_engine: Engine, tiny_settings: Make) -> None:
    frames = tiny_engine.draw(tiny_settings(steps=50))
    next(frames)
    del frames
    gc.collect()
    assert list(tiny_engine.draw(tiny_settings()))[-1].done


class Clock:
    """A second each time that somebody looks."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


def test_over_its_time_a_request_ends_with_a_friendly_error(
    tiny_catalogue: Catalogue, tiny_settings: Make, one_thread: None
) -> None:
    engine = Engine(tiny_catalogue, device="cpu", clock=Clock())
    assert engine.budget_s == 180
    assert list(engine.draw(tiny_settings()))[-1].done
    frames = engine.draw(tiny_settings(steps=50), budget_s=20)  # three looks a step
    with pytest.raises(OverBudgetError, match="7 of 50 steps were done") as caught:
        list(frames)
    assert isinstance(caught.value, DPQError)
    with pytest.raises(OverBudgetError):
        next(engine.draw(tiny_settings(), budget_s=0))
    assert list(engine.draw(tiny_settings()))[-1].done, "the engine is as good as before"


def test_two_visitors_in_turn_get_their_own_pictures(
    tiny_engine: Engine, tiny_folders: Path, tiny_settings: Make
) -> None:
    first = tiny_settings(steps=6)
    second = tiny_settings(model="colour", versions=(), labels=(1, 1), seed=4)
    pairs = list(itertools.zip_longest(tiny_engine.draw(first), tiny_engine.draw(second)))
    np.testing.assert_array_equal(
        pairs[5][0].versions[0].images, expected(tiny_folders / "tiny", first)
    )
    np.testing.assert_array_equal(
        pairs[3][1].versions[0].images, expected(tiny_folders / "colour", second)
    )


def test_visitors_in_threads_take_turns(
    tiny_engine: Engine, tiny_folders: Path, tiny_settings: Make
) -> None:
    settings = [tiny_settings(seed=seed, versions=(), steps=8) for seed in range(4)]
    drawn: dict[int, np.ndarray] = {}

    def visit(seed: int) -> None:
        *_, frame = tiny_engine.draw(settings[seed])
        drawn[seed] = frame.versions[0].images

    threads = [threading.Thread(target=visit, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    for seed, one in enumerate(settings):
        reference = expected(tiny_folders / "tiny", one).astype(int)
        assert np.abs(drawn[seed] - reference).max() <= 1


def test_preparing_loads_and_leaves_the_rest(tiny_engine: Engine, tiny_settings: Make) -> None:
    tiny_engine.prepare(tiny_settings())
    assert tiny_engine.shelf.held == (("tiny", "full"), ("tiny", "tiny-16"))


def test_memory_that_runs_short_is_told(
    tiny_engine: Engine, tiny_settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = engine_module.version_steps

    def short(*args: Any) -> Any:
        for step in steps(*args):
            object.__setattr__(step, "batches", 2)
            yield step

    monkeypatch.setattr(engine_module, "version_steps", short)
    frame = next(tiny_engine.draw(tiny_settings()))
    assert frame.notes == ("Memory was short: drawn in two parts.",)


@pytest.mark.parametrize(("failures", "loads"), [(1, True), (2, False)])
def test_a_model_that_does_not_fit_is_loaded_again_after_everything_else_went(
    tiny_engine: Engine,
    tiny_settings: Make,
    monkeypatch: pytest.MonkeyPatch,
    failures: int,
    loads: bool,
) -> None:
    next(tiny_engine.draw(tiny_settings(model="colour", versions=())))
    load, left = loaded.load, [failures]

    def crowded(*args: Any) -> Any:
        left[0] -= 1
        if left[0] >= 0:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return load(*args)

    monkeypatch.setattr(loaded, "load", crowded)
    frames = tiny_engine.draw(tiny_settings(versions=()))
    if loads:
        next(frames)
        assert tiny_engine.shelf.held == (("tiny", "full"),)
    else:
        with pytest.raises(MemoryShortError):
            next(frames)


def test_a_pair_can_be_traced_and_is_kept(tiny_engine: Engine, tiny_settings: Make) -> None:
    settings = tiny_settings()
    pair = tiny_engine.pair(settings, "tiny-4")
    assert tiny_engine.pair(settings, "tiny-4") is pair
    assert tiny_engine.pair(settings, "tiny-16") is not pair
    assert (pair.teacher_name, pair.student_name) == ("tiny", "tiny-4")
    step = next(trace_steps(pair, SampleRequest(labels=(0, 1), steps=2)))
    assert step.energy.shape == (3, 2, 2, 2)
    with pytest.raises(ConfigError, match="compressed version"):
        tiny_engine.pair(settings, "full")
    with pytest.raises(ConfigError, match="no version"):
        tiny_engine.pair(settings, "best-1bit")


def test_the_line_says_what_draws(tiny_engine: Engine) -> None:
    assert tiny_engine.device_line.startswith("No GPU here: one CPU core draws")


@pytest.mark.gpu
def test_a_gpu_draws_in_bfloat16_much_the_same(
    tiny_catalogue: Catalogue, tiny_folders: Path, tiny_settings: Make
) -> None:
    engine = Engine(tiny_catalogue, device="cuda")
    assert engine.budget_s == 60
    settings = tiny_settings(labels=(3, 0))
    *_, frame = engine.draw(settings)
    for version, name in zip(frame.versions, ("tiny", "tiny-16"), strict=True):
        assert version.facts.dtype == "bfloat16"
        assert version.facts.device == torch.cuda.get_device_name()
        reference = expected(tiny_folders / name, settings).astype(int)
        assert np.abs(version.images - reference).mean() < 8
    assert frame.versions[1].facts.backend in ("Triton", "CUDA", "CUDA + Triton")
