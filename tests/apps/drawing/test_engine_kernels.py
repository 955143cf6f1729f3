"""That a compressed version is drawn by the kernels that the page names, and by nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from torch.utils._python_dispatch import TorchDispatchMode

from dpqlab.kernels import numba_linear, reference
from dpqlab_app.drawing.catalogue import Catalogue, catalogue_of
from dpqlab_app.drawing.engine import Engine
from dpqlab_app.drawing.settings import DrawSettings

BLOCKS, LAYERS = 8, 6
"""Of fashion-dit: blocks, and the Linears of each that see tokens; one more makes modulations."""
SMALLEST = 384 * 384
"""Weights of the smallest Linear of a block."""
KERNELS = {
    "numba": ((numba_linear, "decoded_linear"), (numba_linear, "table_linear")),
    "numba's decoder": ((numba_linear, "decode"),),
    "torch": ((reference, "decode"),),
}


class DenseProducts(TorchDispatchMode):
    """Counts products with a dense matrix as large as a block's."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name in ("aten::mm", "aten::addmm", "aten::linear", "aten::bmm"):
            matrix = args[2] if func._schema.name == "aten::addmm" else args[1]
            self.count += matrix.numel() >= SMALLEST
        return func(*args, **(kwargs or {}))


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Count calls of kernels by backend."""
    counts: Counter[str] = Counter()
    with monkeypatch.context() as patch:
        for name, functions in KERNELS.items():
            for module, function in functions:
                original = getattr(module, function)

                def call(*args: Any, _original: Any = original, _name: str = name) -> Any:
                    counts[_name] += 1
                    return _original(*args)

                patch.setattr(module, function, call)
        yield counts


@pytest.fixture(scope="module")
def fashion() -> Catalogue:
    catalogue = catalogue_of()
    return Catalogue(models=(catalogue.model("fashion-dit"),))


def drawn(engine: Engine, versions: tuple[str, ...], steps: int) -> tuple[Any, int]:
    """Return the last frame, and the dense products that it took."""
    settings = DrawSettings(
        model="fashion-dit", versions=versions, labels=(0,), steps=steps, guidance=1
    )
    with DenseProducts() as products:
        *_, frame = engine.draw(settings)
    return frame, products.count


@pytest.mark.parametrize(
    ("backend", "key"), [("numba", "best-1bit"), ("numba", "dpq-1bit"), ("torch", "best-1bit")]
)
def test_each_step_takes_each_layer_through_the_backend(
    fashion: Catalogue, monkeypatch: pytest.MonkeyPatch, backend: str, key: str
) -> None:
    monkeypatch.setenv("DPQLAB_BACKEND", backend)
    engine = Engine(fashion, device="cpu")
    dense = {steps: drawn(engine, (), steps)[1] for steps in (1, 2)}
    both: dict[int, int] = {}
    for steps in (1, 2):
        with counted(monkeypatch) as counts:
            frame, both[steps] = drawn(engine, (key,), steps)
        assert frame.versions[0].facts.backend == "dense torch"
        products, made_ahead = BLOCKS * LAYERS * steps, BLOCKS
        if backend == "numba":
            assert frame.versions[1].facts.backend == "numba"
            assert counts == {"numba": products, "numba's decoder": made_ahead}
        else:
            assert frame.versions[1].facts.backend == "torch (reference)"
            assert counts == {"torch": products + made_ahead}
    full_step = dense[2] - dense[1]
    student_step = both[2] - both[1] - full_step
    assert full_step == BLOCKS * 4, "three of a block's layers are one product"
    # the reference decodes, then multiplies by PyTorch: three layers as one product is no option
    # for it, as for numba, which multiplies tile by tile where PyTorch does not see it
    assert student_step == (0 if backend == "numba" else BLOCKS * LAYERS)


def test_full_precision_asks_no_kernel(fashion: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    with counted(monkeypatch) as counts:
        drawn(Engine(fashion, device="cpu"), (), 1)
    assert not counts


def test_the_weights_of_a_student_are_never_held_decoded(fashion: Catalogue) -> None:
    engine = Engine(fashion, device="cpu")
    frame, _ = drawn(engine, ("best-1bit",), 1)
    full, student = (version.facts for version in frame.versions)
    assert student.weight_bytes < full.weight_bytes / 8


@pytest.mark.gpu
def test_on_a_gpu_each_layer_is_decoded_by_its_kernels(
    fashion: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dpqlab.diffusion.runtime.graphs import WARM_UPS
    from dpqlab.kernels import linears

    launches: Counter[str] = Counter()
    grouped = linears.group_decodes

    def watched(weights: Any, outs: Any) -> Any:
        run = grouped(weights, outs)
        assert run is not None

        def call() -> object:
            launches["weights"] += len(weights)
            return run()

        return call

    monkeypatch.setattr(linears, "group_decodes", watched)
    engine = Engine(fashion, device="cuda")
    *_, frame = engine.draw(
        DrawSettings(model="fashion-dit", versions=("best-1bit",), labels=(0, 1), steps=3)
    )
    # a CUDA graph replays what was captured: all layers of the blocks, in it and each run before
    assert launches["weights"] >= BLOCKS * LAYERS * (WARM_UPS + 1)
    assert {"CUDA", "Triton"} >= set(frame.versions[1].facts.backend.split(" + "))
