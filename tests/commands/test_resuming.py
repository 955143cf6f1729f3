"""Prune, trace and evaluate go on where they were stopped, and draw in parts where they must."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dpqlab.checkpoint.journal import Journal
from dpqlab.cli import main
from dpqlab.commands import drawing, inputs
from dpqlab.commands.loading import load
from dpqlab.diffusion.sampling import SampleRequest
from dpqlab.tracing import Trace

pytestmark = pytest.mark.usefixtures("one_thread")

SHARED = ["--d", "2", "--k", "16", "--scope", "layer", "--across", "kind"]


def stop_after(patch: pytest.MonkeyPatch, entries: int) -> list[str]:
    """Stop a command once it has written some entries of its journal; return their names."""
    write: Callable[..., None] = Journal.write
    names: list[str] = []

    def stopping(self: Journal, name: str, *rest: Any) -> None:
        write(self, name, *rest)
        names.append(name)
        if len(names) == entries:
            raise KeyboardInterrupt

    patch.setattr(Journal, "write", stopping)
    return names


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize("form", ["ragged", "indexed"])
def test_prune_walks_no_finished_path_again(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    options = [*SHARED, "--budget", "1/2", "--pool", form]
    (tmp_path / "whole").mkdir()
    assert main(["prune", str(tiny), str(tmp_path / "whole" / "m"), *options]) == 0
    out = tmp_path / "m"
    with monkeypatch.context() as patch:
        kept = [name for name in stop_after(patch, 41) if name.startswith("path.")]
        assert main(["prune", str(tiny), str(out), *options]) == 130
        kept = sorted(path.stem for path in (tmp_path / "m.partial").glob("path.*"))
    assert kept
    assert not out.exists()
    assert main(["prune", str(tiny), str(out), *options]) == 2
    with monkeypatch.context() as patch:
        again = stop_after(patch, -1)
        patch.setattr(inputs, "input_steps", None)
        assert main(["prune", str(tiny), str(out), *options, "--resume"]) == 0
    assert not set(again) & set(kept)
    assert files(out) == files(tmp_path / "whole" / "m")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "whole"]


def test_trace_draws_no_finished_batch_again(
    tiny: Path, tiny_pq: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trace(out: Path, *more: str) -> int:
        options = ["--classes", "0-4", "--steps", "2", "--batch", "2", "--device", "cpu"]
        return main(["trace", str(tiny), str(tiny_pq), "--out", str(out), *options, *more])

    whole, parts = tmp_path / "whole.npz", tmp_path / "parts.npz"
    assert trace(whole) == 0
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        assert trace(parts) == 130
    assert trace(parts) == 2
    assert trace(parts, "--resume", "--seed", "1") == 2
    with monkeypatch.context() as patch:
        assert stop_after(patch, -1) == []
        assert trace(parts, "--resume") == 0
    first, second = Trace.load(whole), Trace.load(parts)
    for name in ("energy", "norm", "counts", "latent_energy", "image_error", "pictures"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    assert first.about.labels == second.about.labels
    assert sorted(path.name for path in tmp_path.iterdir()) == ["parts.npz", "whole.npz"]


def test_evaluate_draws_no_finished_image_again(
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ["--images", "60", "--steps", "2", "--device", "cpu", "--json"]
    assert main(["evaluate", str(tiny), *options]) == 0
    wanted = json.loads(capsys.readouterr().out)
    kept = ["--journal", str(tmp_path / "eval")]
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        assert main(["evaluate", str(tiny), *options, *kept]) == 130
    assert [path.stem for path in (tmp_path / "eval.partial").glob("model-*")] == [
        "model-0-00000000-50"
    ]
    assert main(["evaluate", str(tiny), *options, *kept, "--seed", "1"]) == 2
    capsys.readouterr()
    with monkeypatch.context() as patch:
        again = stop_after(patch, -1)
        assert main(["evaluate", str(tiny), *options, *kept]) == 0
    assert again == ["model-0-00000050-10"]
    assert json.loads(capsys.readouterr().out) == wanted
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("most", [50, 4, 1])
def test_images_are_drawn_in_smaller_batches_where_memory_runs_out(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    pipeline = load(tiny)
    request = SampleRequest(labels=tuple(range(7)), steps=2)
    wanted = drawing.draw(pipeline, request)
    sizes: list[int] = []
    forward = type(pipeline.transformer).forward

    def small(self: Any, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        sizes.append(len(hidden_states) // 2)  # both branches of guidance
        if sizes[-1] > most:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return forward(self, hidden_states, *args, **kwargs)

    monkeypatch.setattr(type(pipeline.transformer), "forward", small)
    assert torch.equal(drawing.draw(pipeline, request), wanted)
    assert sizes[0] == 7
    assert min(sizes) == {50: 7, 4: 1, 1: 1}[most]
    with pytest.raises(RuntimeError, match="allocate"):
        most = 0
        drawing.draw(pipeline, request)
