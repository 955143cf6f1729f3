from __future__ import annotations

import gc
import weakref

import pytest
import torch

from dpqlab_app.drawing import loaded
from dpqlab_app.drawing.catalogue import Catalogue
from dpqlab_app.drawing.loaded import Shelf, load

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def backends_of_this_machine(one_thread: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DPQLAB_BACKEND", raising=False)


def test_a_version_is_loaded_once(tiny_catalogue: Catalogue) -> None:
    model = tiny_catalogue.model("tiny")
    shelf = Shelf(CPU, torch.float32)
    first = shelf.get(model, model.full)
    assert shelf.get(model, model.full) is first
    assert first.runtime.dtype == torch.float32
    assert shelf.held == (("tiny", "full"),)


@pytest.mark.parametrize("most", [1, 2])
def test_switching_models_frees_the_one_unused_for_longest(
    tiny_catalogue: Catalogue, most: int
) -> None:
    tiny, colour = tiny_catalogue.model("tiny"), tiny_catalogue.model("colour")
    shelf = Shelf(CPU, torch.float32, most_models=most)
    runtimes = [weakref.ref(shelf.get(tiny, v).runtime) for v in (tiny.full, *tiny.versions)]
    shelf.get(colour, colour.full)
    gc.collect()
    assert [ref() is None for ref in runtimes] == [most == 1] * 3
    assert {model for model, _ in shelf.held} == ({"colour"} if most == 1 else {"tiny", "colour"})


def test_the_old_model_is_gone_before_the_new_one_is_loaded(
    tiny_catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny, colour = tiny_catalogue.model("tiny"), tiny_catalogue.model("colour")
    shelf = Shelf(CPU, torch.float32, most_models=1)
    old = weakref.ref(shelf.get(tiny, tiny.full).runtime)
    seen: list[bool] = []

    def watched(*args: object) -> loaded.Loaded:
        seen.append(old() is None)
        return load(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(loaded, "load", watched)
    shelf.get(colour, colour.full)
    assert seen == [True]


@pytest.mark.parametrize(("memory", "most"), [(7 << 30, 1), (80 << 30, 3)])
def test_small_devices_hold_one_model(
    monkeypatch: pytest.MonkeyPatch, memory: int, most: int
) -> None:
    monkeypatch.setattr(loaded, "memory_of", lambda device: memory)
    assert Shelf(CPU, torch.float32).most_models == most


@pytest.mark.parametrize(
    ("wanted", "said"), [(None, "numba"), ("numba", "numba"), ("torch", "torch (reference)")]
)
def test_the_backend_is_the_one_that_the_rules_choose(
    tiny_catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch, wanted: str | None, said: str
) -> None:
    if wanted:
        monkeypatch.setenv("DPQLAB_BACKEND", wanted)
    model = tiny_catalogue.model("tiny")
    student = load(model.version("tiny-4"), CPU, torch.float32)
    assert student.tokens_an_image == 4
    assert student.tokens
    assert student.modulations
    assert student.backend(8) == said
    assert load(model.full, CPU, torch.float32).backend(8) == "dense torch"


def test_a_request_that_is_over_takes_its_modulations_along(tiny_catalogue: Catalogue) -> None:
    model = tiny_catalogue.model("tiny")
    version = load(model.full, CPU, torch.float32)
    version.runtime.expect([999, 500], [0, 1])
    version.runtime(torch.zeros(1, 1, 8, 8), torch.tensor(999), torch.tensor([0]))
    assert version.runtime.modulation_bytes > 0
    version.forget_request()
    assert version.runtime.modulation_bytes == 0
