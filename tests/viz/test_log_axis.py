from __future__ import annotations

import plotly.graph_objects as go
import pytest

from dpqlab.errors import ConfigError
from dpqlab.viz.log_axis import log_axis, log_ticks, tick_labels


def test_the_more_decades_the_fewer_labels_to_a_decade():
    assert log_ticks(0.01, 0.06) == pytest.approx([0.01, 0.02, 0.05])
    assert log_ticks(0.01, 1) == pytest.approx([0.01, 0.03, 0.1, 0.3, 1])
    assert log_ticks(0.001, 0.9) == pytest.approx([0.001, 0.01, 0.1])


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ((0.03, 0.06), ["0.02", "0.05", "0.1"]),
        ((0.001, 0.9), ["0.001", "0.01", "0.1", "1"]),
        ((0.2, 0.2), ["0.1", "0.2"]),
    ],
)
def test_there_are_labels_however_short_the_range(values: tuple[float, ...], texts: list[str]):
    assert tick_labels(log_ticks(*values, beyond=0.35))["ticktext"] == texts


def test_log_axes_need_something_above_zero():
    figure = go.Figure(go.Scatter(y=[1.0]))
    log_axis(figure, [0.02, 0.3, 0.0])
    low, high = figure.layout.yaxis.range
    assert 10**low < 0.02 < 0.3 < 10**high
    assert {0.02, 0.05, 0.1, 0.2} <= {round(tick, 5) for tick in figure.layout.yaxis.tickvals}
    with pytest.raises(ConfigError, match="above zero"):
        log_axis(figure, [0.0])
