from __future__ import annotations

from dataclasses import replace

import numpy as np
import plotly.graph_objects as go
import pytest

from dpqlab.errors import ConfigError, ShapeError
from dpqlab.studies.codeword_use import CodewordUse
from dpqlab.studies.codewords import MEASURES
from dpqlab.studies.removals import Removal
from dpqlab.viz.importance import (
    ScopeView,
    codeword_map,
    codeword_use,
    promise_and_damage,
    removal_race,
)


def view(d: int = 2, k: int = 8) -> ScopeView:
    rng = np.random.default_rng(0)
    return ScopeView(
        words=rng.normal(size=(k, d)).astype(np.float32),
        first=40,
        points=rng.normal(size=(50, d)).astype(np.float32),
        worth={m: np.arange(k) + 0.0 for m in MEASURES},
        span=dict.fromkeys(MEASURES, (0.5, 100.0)),
        gone=np.arange(k) == 3,
    )


def traces(figure: go.Figure, column: int) -> list[go.Scatter]:
    axis = "x" if column == 1 else f"x{column}"
    return [trace for trace in figure.data if trace.xaxis == axis]


def test_codewords_lie_where_their_values_are():
    seen = view()
    figure = codeword_map(seen, measure="weighted", selected=42)
    points, lines, words, ring = traces(figure, 1)
    assert np.array_equal(np.column_stack([words.x, words.y]), seen.words)
    assert len(points.x) == 50
    assert list(words.customdata) == list(range(40, 48))
    assert [ring.x[0], ring.y[0]] == seen.words[2].tolist()
    assert words.marker.symbol[3] != words.marker.symbol[0]
    assert len(lines.x) == 3 * 5
    far = np.linalg.norm(seen.words - seen.words[2], axis=1)
    ends = {float(x) for x in lines.x[1::3]}
    assert ends == {float(seen.words[i, 0]) for i in np.argsort(far)[1:6]}


def test_colours_have_one_range_for_all_scopes():
    figure = codeword_map(view())
    for column in (1, 2):
        marker = traces(figure, column)[-1].marker
        assert (marker.cmin, marker.cmax) == pytest.approx((np.log10(0.5), 2))


def test_a_codeword_of_another_scope_is_not_ringed():
    assert len(codeword_map(view(), selected=7).data) == len(codeword_map(view()).data) == 3


@pytest.mark.parametrize("d", [1, 3, 8])
def test_other_lengths_are_drawn_by_their_principal_axes(d):
    seen = view(d)
    figure = codeword_map(seen)
    words = traces(figure, 1)[-1]
    assert len(words.x) == 8
    if d > 2:
        assert "principal axis" in figure.layout.xaxis.title.text
        spread = np.ptp(np.column_stack([traces(figure, 1)[0].x, traces(figure, 1)[0].y]), axis=0)
        assert spread[0] > 0
    with pytest.raises(ShapeError, match="do not fit"):
        replace(seen, gone=np.zeros(3, bool))


def use(blocks: list[int], positions: list[int]) -> CodewordUse:
    return CodewordUse(
        entry=5,
        scope=2,
        values=np.zeros(2, np.float32),
        blocks=np.array(blocks),
        rows=np.arange(len(blocks)) * 3,
        positions=np.array(positions),
        neighbours=(4, 6),
        distances=(0.1, 0.2),
        worth=dict.fromkeys(MEASURES, 1.0),
        rank=dict.fromkeys(MEASURES, 1),
    )


def test_where_a_codeword_is_used():
    figure = codeword_use(use([0, 2, 2], [7, 7, 7]), ["a", "b", "c"], (12, 20))
    marks, bars = figure.data
    assert list(marks.x) == [0, 3, 6]
    assert list(marks.y) == [0, 2, 2]
    assert list(bars.x) == [1, 0, 2]
    assert "3 sub-vectors at position 7" in figure.layout.title.text
    figure = codeword_use(use([0, 0], [3, 9]), ["a"], (12, 20))
    assert list(figure.data[0].y) == [3, 9]
    assert figure.layout.yaxis.title.text == "position"
    assert "2 sub-vectors" in figure.layout.title.text


def removals() -> list[Removal]:
    return [
        Removal(
            measure=measure,
            manner=manner,
            removed=round(100 * share),
            share=share,
            predicted=share / 100 if manner == "at once" else None,
            felt=share / 10,
            output_error=share + i,
        )
        for manner in ("at once", "in rounds")
        for i, measure in enumerate(MEASURES)
        for share in (0.1, 0.5)
    ]


def test_a_race_starts_where_nothing_is_removed():
    figure = removal_race(removals(), whole=0.05, marked=0.5)
    assert len(figure.data) == 6
    assert len({trace.name for trace in figure.data}) == 6
    for trace in figure.data:
        assert trace.x[0] == 0
        assert trace.y[0] == 0.05
    dashes = {trace.name: trace.line.dash for trace in figure.data}
    assert dashes["usage, at once"] != dashes["usage, in rounds"]
    assert figure.layout.shapes[0].x0 == 0.5
    assert len(removal_race(removals(), whole=0.05, manners=["in rounds"]).data) == 3
    with pytest.raises(ConfigError, match="no removals"):
        removal_race([], whole=1.0)


def test_promises_are_set_beside_what_came():
    line, *lines = promise_and_damage(removals(), marked=0.5).data
    assert list(line.x) == list(line.y)
    assert len(lines) == 3
    assert list(lines[0].x) == [0.001, 0.005]
    assert list(lines[0].y) == [0.01, 0.05]
    assert lines[0].marker.size[1] > lines[0].marker.size[0]
    with pytest.raises(ConfigError, match="no removals at once"):
        promise_and_damage([r for r in removals() if r.manner == "in rounds"])
