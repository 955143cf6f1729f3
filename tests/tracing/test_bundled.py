"""Finding traces: bundled ones, and files."""

from __future__ import annotations

from pathlib import Path

import pytest

from dpqlab.diffusion import models
from dpqlab.errors import ConfigError
from dpqlab.tracing import bundled_traces, load_pair, load_trace
from recipes.trace_fashion import MOST_BYTES


def test_traces_are_found_by_name_and_by_path(traced, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(models, "ASSETS", tmp_path)
    assert bundled_traces() == {}
    with pytest.raises(ConfigError, match="no bundled traces"):
        load_trace("b")
    runs = tmp_path / "fashion-dit-runs"
    runs.mkdir()
    for name in ("trace-b.npz", "trace-a.npz", "other.npz"):
        traced.save(runs / name)
    assert list(bundled_traces()) == ["a", "b"]
    assert load_trace("b").about == traced.about
    assert load_trace(runs / "other.npz").about == traced.about
    with pytest.raises(ConfigError, match=r"no trace 'c'.*a, b"):
        load_trace("c")


@pytest.mark.parametrize("name", bundled_traces())
def test_what_ships(name):
    """Each is small, of a bundled student, and of the same images with the same steps."""
    path = bundled_traces()[name]
    assert path.stat().st_size <= MOST_BYTES["fashion-dit"]
    found = load_trace(name)
    first = load_trace(next(iter(bundled_traces())))
    assert found.name == f"fashion-dit-{name}"
    assert found.about.labels == first.about.labels
    assert found.timesteps == first.timesteps
    assert found.name in {entry.name for entry in models.bundled()}
    assert len(found.blocks) == 8
    assert len(found.picture_steps) == found.steps


def test_unknown_models():
    with pytest.raises(ConfigError, match="no model 'nobody'"):
        load_pair("fashion-dit", "nobody")
