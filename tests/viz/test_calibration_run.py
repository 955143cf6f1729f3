from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from dpqlab.calibration import CalibrationRecord
from dpqlab.calibration.recording import Recording
from dpqlab.errors import ConfigError
from dpqlab.viz.calibration_run import (
    calibration_run,
    compare_runs,
    index_at,
    run_words,
    strip_picture,
)


def record(step: int, total: float, **changes: Any) -> CalibrationRecord:
    values: dict[str, Any] = {
        "step": step,
        "total": total,
        "output": 0.8 * total,
        "features": 2 * total,
        "blocks": (total, 2 * total, 0.5 * total),
        "changed": 0.1,
        "revived": 0,
        "best": True,
        "true_bits": 2.06,
        "seconds": float(step),
        "remaining": 0.0,
    }
    return CalibrationRecord(**values | changes)


RUN = (record(0, 0.4, changed=0.0), record(10, 0.1), record(20, 0.2, revived=7, best=False))


def recording(name: str, *records: CalibrationRecord) -> Recording:
    strips = np.zeros((1, 2, 1, 4, 4), np.uint8)
    return Recording(name=name, records=records, strips=strips, strip_steps=(0,), config={})


def trace(figure: Any, name: str) -> Any:
    (found,) = [one for one in figure.data if one.name == name]
    return found


def test_it_draws_the_errors_the_blocks_the_codes_and_the_revived() -> None:
    figure = calibration_run(RUN)
    assert list(trace(figure, "held-out error").y) == pytest.approx([0.4, 0.1, 0.2])
    assert list(trace(figure, "of it, predicted noise").y) == pytest.approx([0.32, 0.08, 0.16])
    (blocks,) = [one for one in figure.data if one.type == "heatmap"]
    assert blocks.z.shape == (3, 3), "a row a block, a column a record"
    assert blocks.z[1, 0] == pytest.approx(math.log10(0.8))
    assert (blocks.zmin, blocks.zmax) == (-3, 0), "the same colours for every run"
    (revived,) = [one for one in figure.data if one.type == "bar"]
    assert list(revived.y) == [0, 0, 7]
    changed = [one for one in figure.data if one.xaxis == "x3"]
    assert list(changed[0].y) == pytest.approx([0, 0.1, 0.1])


def test_the_cursor_stands_at_the_last_record_up_to_the_step() -> None:
    assert [index_at(RUN, step) for step in (None, 0, 9, 10, 15, 99)] == [2, 0, 0, 1, 1, 2]
    cursor = trace(calibration_run(RUN, step=15), "step 10")
    assert (list(cursor.x), list(cursor.y)) == ([10], [0.1])
    lines = calibration_run(RUN, step=15).layout.shapes
    assert {line.x0 for line in lines} == {10} and len(lines) == 4, "in every panel"


def test_quiet_panels_say_why_they_are_empty() -> None:
    def texts(*records: CalibrationRecord) -> set[str]:
        return {note.text for note in calibration_run(records).layout.annotations}

    still = record(0, 0.4, changed=0.0)
    assert {"codes stay in this run", "no codeword started again"} <= texts(still)
    assert not {"codes stay in this run", "no codeword started again"} & texts(*RUN)


def test_the_words_are_those_of_the_cursor() -> None:
    words = run_words(RUN, 10)
    assert "Step 10 of 20" in words and "0.1000" in words and "4.0 times lower" in words
    assert "Block 1 is furthest" in words and "2.060 true bits" in words
    assert "the best so far is 0.1000 (step 10)" in run_words(RUN)
    assert "before calibration" in run_words(RUN, 0)
    worse = (record(0, 0.1), record(5, 0.3))
    assert "3.0 times that at the start" in run_words(worse)


def test_it_is_themed_with_units_and_logarithmic() -> None:
    figure = calibration_run(RUN)
    assert figure.layout.paper_bgcolor == "rgba(0,0,0,0)"
    assert "2.06 true bits" in figure.layout.title.text
    assert figure.layout.yaxis.type == "log" and figure.layout.yaxis.title.text == "error"
    assert figure.layout.xaxis3.title.text == figure.layout.xaxis4.title.text == "step"


def test_runs_are_compared_over_steps_and_at_their_bits() -> None:
    one = recording("vq-2bit", *RUN)
    two = recording("best-1bit", record(0, 0.5, true_bits=1.1), record(8, 0.05, true_bits=1.1))
    figure = compare_runs([one, two])
    courses = [t for t in figure.data if "lines" in t.mode]
    ends = [t for t in figure.data if t.mode == "markers"]
    assert [t.name for t in courses] == ["vq-2bit, 2.060 bits", "best-1bit, 1.100 bits"]
    assert [(t.x[0], t.y[0]) for t in ends] == [(2.06, 0.1), (1.1, 0.05)], (
        "the lowest, not the last"
    )
    assert len({t.line.color for t in courses}) == len({t.line.dash for t in courses}) == 2
    assert len({t.marker.symbol for t in ends}) == 2, "never by colour alone"
    low, high = figure.layout.xaxis2.range
    assert low < 1.1 and high > 2.06


def test_strips_lie_below_each_other_without_smoothing() -> None:
    dark, light = (np.full((2, 1, 4, 4), value, np.uint8) for value in (0, 200))
    picture = strip_picture([dark, light], zoom=2)
    assert picture.shape == (2 * (4 + 2 + 4), 2 * (4 + 2 + 4)) and picture.dtype == np.uint8
    assert picture[0, 0] == 0 and picture[-1, -1] == 200
    assert set(np.unique(picture)) == {0, 200, 255}
    colour = strip_picture([np.zeros((1, 3, 4, 4), np.uint8)], zoom=1)
    assert colour.shape == (4, 4, 3)


def test_nothing_to_draw_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no records"):
        calibration_run(())
    with pytest.raises(ConfigError, match="no recordings"):
        compare_runs(())
    with pytest.raises(ConfigError, match="one shape"):
        strip_picture([])
