"""Figures inside the demo's page."""

from __future__ import annotations

from html import escape

import plotly.graph_objects as go
import plotly.io

PLOT_CONFIG = {"displaylogo": False, "displayModeBar": False, "responsive": True}


def figure_html(figure: go.Figure, name: str, words: str) -> str:
    """Embed a figure; ``words`` are what a screen reader says."""
    html = plotly.io.to_html(
        figure, full_html=False, include_plotlyjs=False, config=PLOT_CONFIG, div_id=name
    )
    return f'<div role="img" aria-label="{escape(words)}">{html}</div>'
