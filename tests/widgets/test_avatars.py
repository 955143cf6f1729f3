"""The views when they are given a second model: colour images of 64x64, fifteen classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dpqlab.calibration.recording import TEACHER, Recording
from dpqlab.checkpoint import save_compressed
from dpqlab.diffusion import SampleRequest, load_pipeline, scheduler_for
from dpqlab.diffusion.classes import AVATARS
from dpqlab.errors import ConfigError
from dpqlab.evaluation.bundled import bundled_feature_net
from dpqlab.evaluation.config import EvaluationConfig
from dpqlab.evaluation.statistics import FeatureStatistics
from dpqlab.evaluation.teacher import TeacherSamples
from dpqlab.nn import compress_, preset
from dpqlab.studies.live_calibration import LiveConfig, live_calibration, live_pair, recording_of
from dpqlab.tracing import TraceConfig, load_pair, trace
from dpqlab.widgets import CalibrationView, ErrorMap, VQAgainstPQ
from dpqlab.widgets.calibration_controls import recorded
from tests.avatars import MODEL, use_assets, write_model

pytestmark = pytest.mark.usefixtures("one_thread")
LIVE = LiveConfig(model=MODEL, preset="pq-2bit", steps=2, batch=3, every=1, strip_every=2)


@pytest.fixture
def assets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Assets with a tiny model, what its teacher drew, a student, and no record of either."""
    root = write_model(tmp_path / "assets")
    use_assets(monkeypatch, root)
    recorded.cache_clear()
    student = load_pipeline(MODEL).transformer
    compress_(student, preset("pq-2bit"))
    save_compressed(
        student,
        root / f"{MODEL}-pq-2bit",
        scheduler_config=dict(scheduler_for(student).config) | {"_class_name": "DDIMScheduler"},
        provenance={"source": MODEL},
        card="# Tiny\n",
    )
    yield root
    recorded.cache_clear()


def write_samples(root: Path, *, images: bool = True) -> None:
    """Write a quick reference of noise."""
    protocol = EvaluationConfig.quick().protocol()
    count, drawn = int(protocol["images"]), np.random.default_rng(0)
    features = drawn.normal(size=(count, 8))
    TeacherSamples(
        features=features,
        predictions=np.zeros(count, np.int64),
        images=np.broadcast_to(
            drawn.integers(0, 256, (1, 3, 64, 64), dtype=np.uint8), (count, 3, 64, 64)
        ),
        other=FeatureStatistics.from_features(
            features, source="noise", feature_net=bundled_feature_net(MODEL).sha256
        ),
        protocol=protocol,
    ).save(root / MODEL / "quick_reference.npz", images=images)


def test_errors_of_a_second_model(assets: Path) -> None:
    made = trace(
        load_pair(MODEL, f"{MODEL}-pq-2bit"),
        SampleRequest(labels=(0, 11, 14), steps=2),
        TraceConfig(shown=3),
    )
    with pytest.raises(ConfigError, match="no recorded traces of avatars-dit"):
        ErrorMap(model=MODEL)
    (assets / f"{MODEL}-runs").mkdir()
    made.save(assets / f"{MODEL}-runs" / "trace-pq-2bit.npz")
    view = ErrorMap(model=MODEL)
    assert view.widget is not None
    assert view.state.students == ["pq-2bit"]
    assert view.pictures.shape == [3 * 65 - 1, 3 * 65 - 1, 3]
    assert view.pictures.zoom == 1, "large images are not enlarged"
    assert "load_trace('pq-2bit', 'avatars-dit')" in view.code()
    spaces: dict[str, object] = {}
    exec(view.code(), spaces)
    assert spaces["figure"] == view.figure()


def test_images_are_called_by_their_classes(assets: Path) -> None:
    made = trace(
        load_pair(MODEL, f"{MODEL}-pq-2bit"),
        SampleRequest(labels=(11, 14), steps=1),
        TraceConfig(shown=2),
    )
    view = ErrorMap(traces={"mine": made})
    names = [option[0] for c in view.widget.children for option in _options(c)]
    assert f"0: {AVATARS.names[11]}" in names
    assert f"1: {AVATARS.names[14]}" in names


def _options(widget) -> list[tuple[str, int]]:
    found = [o for o in getattr(widget, "options", ()) if isinstance(o, tuple)]
    return found + [o for child in getattr(widget, "children", ()) for o in _options(child)]


def test_a_live_calibration_and_its_replay(assets: Path) -> None:
    write_samples(assets)
    pair = live_pair(LIVE)
    assert pair.wanted.shape == (15, 3, 64, 64)
    assert pair.data.labels[:16].tolist() == [*range(15), 0]
    run = recording_of(LIVE, list(live_calibration(pair, LIVE)))
    runs = assets / f"{MODEL}-runs"
    runs.mkdir()
    Recording(**vars(run) | {"name": "pq-2bit"}).save(runs / "pq-2bit.npz")
    view = CalibrationView(live=LIVE)
    assert view.widget is not None
    assert view.state.run == "pq-2bit"
    assert view.strip.shape == [64, 15 * 66 - 2, 3], "no teacher is on record"
    teacher = {"name": TEACHER, "records": (), "strips": pair.wanted[None], "strip_steps": (0,)}
    Recording(**teacher, config={}).save(runs / f"{TEACHER}.npz")
    view.show()
    assert view.strip.shape == [2 * 66 - 2, 15 * 66 - 2, 3]
    assert view.strip.cell == [66, 66]
    for compare in (False, True):
        view.state.compare = compare
        assert "runs_of('avatars-dit')" in view.code()
        spaces: dict[str, object] = {}
        exec(view.code(), spaces)
        assert spaces["figure"] == view.figure()
    view.state.run = "live"
    view.state.compare = False
    assert "model='avatars-dit'" in view.code()
    view.close()


def test_samples_without_images_cannot_be_calibrated_on(assets: Path) -> None:
    write_samples(assets, images=False)
    with pytest.raises(ConfigError, match="no images to calibrate on"):
        live_pair(LIVE)


def test_a_layer_of_another_model_beside_the_recorded_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_model(tmp_path / "assets")
    view = VQAgainstPQ(str(root / MODEL))
    assert view.widget is not None
    assert "the recorded lines are those of fashion-dit" in view.sentence()
    view.close()
