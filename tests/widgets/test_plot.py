"""A figure as a widget: what crosses to the page, and what comes back."""

from __future__ import annotations

import gzip
import json

import numpy as np
import plotly.graph_objects as go
import pytest
from plotly.offline import get_plotlyjs

from dpqlab.widgets import Plot


@pytest.fixture
def sent(monkeypatch):
    """What the widget sends by custom message."""
    messages = []
    monkeypatch.setattr(
        Plot, "send", lambda self, content, buffers=None: messages.append((content, buffers))
    )
    return messages


def test_the_first_plot_of_a_kernel_carries_plotly_and_no_other(monkeypatch):
    monkeypatch.setattr(Plot, "_carried", False)
    first, second = Plot(), Plot()
    assert gzip.decompress(first.bundle).decode() == get_plotlyjs()
    assert len(first.bundle) < 2_000_000
    assert second.bundle == b""


def test_a_page_without_plotly_is_answered(sent):
    plot = Plot()
    plot._handle_custom_msg({"kind": "something else"}, [])
    assert not sent
    plot._handle_custom_msg({"kind": "plotly"}, [])
    ((content, (bundle,)),) = sent
    assert content == {"kind": "plotly"}
    assert gzip.decompress(bundle).decode() == get_plotlyjs()


def test_a_page_that_lost_the_figure_gets_it_again(monkeypatch):
    asked = []
    plot = Plot()
    monkeypatch.setattr(Plot, "send_state", lambda self, key: asked.append(key))
    plot._handle_custom_msg({"kind": "spec"}, [])
    assert not asked, "there is none yet"
    plot.spec = {"data": [{"type": "bar"}]}
    asked.clear()
    plot._handle_custom_msg({"kind": "spec"}, [])
    assert asked == ["spec"]


def test_arrays_cross_as_base64_not_as_text():
    z = np.zeros((64, 64), np.float32)
    plot = Plot(go.Figure(go.Heatmap(z=z)))
    assert plot.spec["data"][0]["z"]["dtype"] == "f4"
    assert len(json.dumps(plot.spec)) < 1.5 * z.nbytes + 10_000


def test_plotly_json_is_taken_as_it_is_with_its_arrays_packed():
    plot = Plot()
    y = np.array([1.5, np.nan], np.float32)
    trace = {"type": "scatter", "y": y, "x": np.arange(2), "customdata": [None, np.int64(7)]}
    plot.update({"data": [trace], "layout": {"xaxis": {"range": (np.float64(0), 1)}}})
    sent = plot.spec["data"][0]
    assert sent["y"] == json.loads(go.Figure(go.Scatter(y=y)).to_json())["data"][0]["y"]
    assert sent["x"] == [0, 1]
    assert sent["customdata"] == [None, 7]
    assert plot.spec["layout"] == {"xaxis": {"range": [0.0, 1]}}
    assert json.loads(json.dumps(plot.spec)) == plot.spec


def test_an_update_replaces_figure_and_label():
    plot = Plot(go.Figure(go.Scatter(y=[1, 2])), label="before")
    plot.update(go.Figure(go.Bar(y=[1, 2, 3])), label="after")
    assert [trace["type"] for trace in plot.spec["data"]] == ["bar"]
    assert plot.label == "after"
    plot.update(go.Figure())
    assert plot.label == "after"


def test_clicks_and_moves_reach_their_callbacks():
    plot = Plot()
    clicks, moves = [], []
    plot.on_click(clicks.append)
    plot.click = {"x": 1, "point": 4, "at": 10}
    plot.click = {"x": 1, "point": 4, "at": 11}  # a second click on the same point
    assert [click["at"] for click in clicks] == [10, 11]
    assert not plot.hovers
    plot.on_hover(moves.append)
    assert plot.hovers
    plot.hover = {"x": 2}
    assert moves == [{"x": 2}]
