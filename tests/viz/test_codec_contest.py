from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dpqlab.errors import ConfigError
from dpqlab.studies.codec_contest import bundled_contest
from dpqlab.viz.codec_contest import (
    after_calibration,
    rate_distortion_by_kind,
    who_wins,
    with_marks,
)


def test_a_panel_a_kind_with_both_families():
    contest = bundled_contest()
    figure = rate_distortion_by_kind(contest)
    assert [a.text for a in figure.layout.annotations] == [
        "attention: query",
        "feed-forward: first",
        "feed-forward: second",
        "adaLN",
    ]
    assert len(figure.data) == 8
    assert all(np.all(np.diff(t.x) > 0) and np.all(np.diff(t.y) < 0) for t in figure.data)
    assert [t.name for t in figure.data if t.showlegend is not False][:2] == [
        "VQ: one codebook",
        "PQ: codebooks by position",
    ]
    with pytest.raises(ConfigError, match="records of fashion-dit"):
        rate_distortion_by_kind(contest, "nobody")


def test_a_star_in_the_panel_of_its_shape_and_never_beyond_the_axes():
    contest = bundled_contest()
    base, kinds = rate_distortion_by_kind(contest), contest.kinds("fashion-dit")
    trail = [("norm1.linear", 1.0, 0.3)]
    figure = with_marks(base, kinds, ("attn1.to_v", 12.7, 0.3), label="here: x", trail=trail)
    assert len(base.data) == 8, "the figure that is given stays as it is"
    ring, star = figure.data[8:]
    assert (ring.xaxis, star.xaxis, star.marker.symbol) == ("x4", "x", "star")
    assert star.x[0] < 4
    assert star.text[0] == "here: x: 12.70 bits, error 0.3"


def test_who_wins_is_counted():
    figure = who_wins(bundled_contest())
    vq, pq = figure.data
    assert len(pq.x) == 17
    assert len(vq.x) == 72 - 17
    assert min(pq.x) > 1 >= max(vq.x)
    assert "adaLN: PQ 16 of 18" in pq.y
    assert vq.marker.symbol != pq.marker.symbol
    with pytest.raises(ConfigError, match="no pair"):
        who_wins(bundled_contest(), "nobody")


def test_students_stand_below_the_vq_of_their_bits():
    contest = bundled_contest()
    figure = after_calibration(contest)
    assert [t.name for t in figure.data] == [
        "VQ, codes stay",
        "PQ, codes stay",
        "VQ, codes move",
        "PQ, codes move",
    ]
    assert sum(len(t.x) for t in figure.data) == len(contest.students)
    one = contest.student("PQ d=8 k=20", moving=True)
    full = figure.data[3]
    place = list(full.y).index("PQ d=8 k=20: 1.12 bits")
    assert full.x[place] == one.fcd
    assert full.x[place] + full.error_x.array[place] == pytest.approx(one.high)
    assert full.x[place] - full.error_x.arrayminus[place] == pytest.approx(one.low)
    assert figure.data[1].marker.symbol.endswith("-open")
    assert not full.marker.symbol.endswith("-open")
    rows = figure.layout.yaxis.categoryarray
    assert [row.split(":")[0] for row in rows[:3]] == ["VQ d=8 k=256", "PQ d=2 k=4", "PQ d=8 k=20"]
    with pytest.raises(ConfigError, match="no student"):
        after_calibration(replace(contest, students=()))
