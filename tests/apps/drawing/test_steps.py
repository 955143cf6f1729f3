from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from dpqlab.diffusion import SampleRequest, sample_images
from dpqlab_app.drawing.catalogue import Catalogue
from dpqlab_app.drawing.frames import MemoryShortError
from dpqlab_app.drawing.loaded import Loaded, load
from dpqlab_app.drawing.settings import DrawSettings
from dpqlab_app.drawing.steps import Step, ran_out_of_memory, version_steps

Make = Callable[..., DrawSettings]
CPU_TEXT = (
    "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
)


class Cramped:
    """A runtime on a device that runs out of memory with more than ``most`` rows, from a call on.

    After each failure the device stays cramped.
    """

    def __init__(self, runtime: Any, most: int, error: Exception, *, first_calls: int = 0) -> None:
        self.runtime, self.most, self.error, self.left = runtime, most, error, first_calls
        self.config, self.device = runtime.config, runtime.device
        self.sizes: list[int] = []

    def parameters(self) -> Iterator[torch.Tensor]:
        return self.runtime.parameters()

    def expect(self, timesteps: Sequence[float], labels: Sequence[int]) -> None:
        self.runtime.expect(timesteps, labels)

    def __call__(self, x: torch.Tensor, timestep: torch.Tensor, class_labels: torch.Tensor) -> Any:
        self.sizes.append(len(x))
        self.left -= 1
        if self.left < 0 and len(x) > self.most:
            raise self.error
        return self.runtime(x, timestep, class_labels)


@pytest.fixture
def student(tiny_catalogue: Catalogue, one_thread: None) -> Loaded:
    version = tiny_catalogue.model("tiny").version("tiny-16")
    return load(version, torch.device("cpu"), torch.float32)


def cramped(student: Loaded, most: int, error: Exception, **options: int) -> tuple[Loaded, Cramped]:
    runtime: Any = Cramped(student.runtime, most, error, **options)
    return replace(student, runtime=runtime), runtime


def drawn(student: Loaded, settings: DrawSettings) -> list[Step]:
    return list(version_steps(student, settings))


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_the_last_step_is_the_picture(
    student: Loaded, tiny_settings: Make, guidance: float
) -> None:
    settings = tiny_settings(guidance=guidance, seed=2**32 - 1)
    steps = drawn(student, settings)
    assert [step.index for step in steps] == [0, 1, 2, 3]
    assert {step.total for step in steps} == {4}
    request = SampleRequest(
        labels=settings.labels, seed=settings.seed, steps=settings.steps, guidance=guidance
    )
    images = sample_images(student.runtime, student.scheduler, request)
    assert steps[-1].images.dtype == np.uint8
    np.testing.assert_array_equal(steps[-1].images, images.permute(0, 2, 3, 1).numpy())
    assert all(step.seconds > 0 for step in steps)
    assert {step.batches for step in steps} == {1}


def test_two_runs_on_one_version_do_not_disturb_each_other(
    student: Loaded, tiny_settings: Make
) -> None:
    first, second = tiny_settings(steps=6), tiny_settings(labels=(1,), seed=5)
    alone = [drawn(student, settings)[-1].images for settings in (first, second)]
    one, other = version_steps(student, first), version_steps(student, second)
    pairs = list(itertools.zip_longest(one, other))  # a step of each in turn
    got = pairs[5][0], pairs[3][1]
    for step, expected in zip(got, alone, strict=True):
        assert step is not None
        assert np.abs(step.images.astype(int) - expected).max() <= 1


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError(CPU_TEXT), MemoryError()]
)
@pytest.mark.parametrize("first_calls", [0, 2])
def test_out_of_memory_halves_the_batch_and_goes_on(
    student: Loaded, tiny_settings: Make, error: Exception, first_calls: int
) -> None:
    settings = tiny_settings(labels=(3, 0, 9, 1, 2))
    expected = drawn(student, settings)
    small, runtime = cramped(student, 4, error, first_calls=first_calls)
    steps = drawn(small, settings)
    assert [step.index for step in steps] == [0, 1, 2, 3], "no step twice, none left out"
    # guidance doubles the rows: 10, then 6, then 4
    assert [runtime.sizes[i] for i in range(first_calls + 1)] == [10] * (first_calls + 1)
    assert set(runtime.sizes[first_calls + 2 :]) == {4, 2}
    assert steps[-1].batches == 3
    for ours, theirs in zip(steps, expected, strict=True):
        assert np.abs(ours.images.astype(int) - theirs.images).max() <= 1


def test_when_not_even_one_fits_it_says_so(student: Loaded, tiny_settings: Make) -> None:
    small, runtime = cramped(student, 0, MemoryError())
    with pytest.raises(MemoryShortError, match="not enough memory"):
        drawn(small, tiny_settings())
    assert runtime.sizes == [6, 4, 2]


def test_other_errors_are_no_matter_of_memory(student: Loaded, tiny_settings: Make) -> None:
    small, runtime = cramped(student, 0, RuntimeError("mat1 and mat2 shapes"))
    with pytest.raises(RuntimeError, match="mat1"):
        drawn(small, tiny_settings())
    assert len(runtime.sizes) == 1
    run = version_steps(student, tiny_settings())
    next(run)
    with pytest.raises(MemoryError):  # somebody else's
        run.throw(MemoryError())


def test_closing_ends_the_work(student: Loaded, tiny_settings: Make) -> None:
    watched, runtime = cramped(student, 100, MemoryError())
    run = version_steps(watched, tiny_settings(steps=50))
    next(run)
    next(run)
    run.close()
    assert len(runtime.sizes) == 2


@pytest.mark.parametrize(
    ("error", "memory"),
    [
        (torch.OutOfMemoryError(), True),
        (MemoryError(), True),
        (RuntimeError(CPU_TEXT), True),
        (RuntimeError("shape mismatch"), False),
        (ValueError("can't allocate memory"), False),
    ],
)
def test_which_errors_are_of_memory(error: Exception, memory: bool) -> None:
    assert ran_out_of_memory(error) is memory
