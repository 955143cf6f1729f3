"""One look for all figures: colour-blind-safe, transparent, readable on white and on black."""

from __future__ import annotations

import html
from functools import lru_cache
from typing import Any

import plotly.graph_objects as go

# Okabe & Ito, "Color Universal Design" (2008)
ORANGE, SKY, GREEN, YELLOW = "#E69F00", "#56B4E9", "#009E73", "#F0E442"
BLUE, VERMILION, PURPLE, GREY = "#0072B2", "#D55E00", "#CC79A7", "#8A8A8A"

INK = "#7A7A7A"  # mid grey: at least 4:1 on white and on near-black
PANEL = "#2F343A"  # behind white text
RULE = "rgba(128, 128, 128, 0.25)"
FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'

FAMILY_COLOURS = {
    "RTN": PURPLE,
    "VQ": SKY,
    "PQ, grouped": GREEN,
    "PQ": VERMILION,
    "DPQ": ORANGE,
    "Best": BLUE,
}
FAMILY_SYMBOLS = {
    "RTN": "x",
    "VQ": "circle",
    "PQ, grouped": "square",
    "PQ": "diamond",
    "DPQ": "triangle-up",
    "Best": "star",
}

DASHES = ((1.2, "solid"), (1.5, "dash"), (float("inf"), "dot"))
"""Up to how many true bits a line is drawn so, where lines of one family stand together."""

PARTS = {
    "codes": (BLUE, "codes"),
    "pool": (ORANGE, "codebooks"),
    "scale": (GREEN, "scales"),
    "bias": (PURPLE, "biases"),
    "kept": (GREY, "kept in bf16"),
}
"""Colour and name of each part of a ledger."""


AXIS: dict[str, Any] = {
    "gridcolor": RULE,
    "linecolor": RULE,
    "zeroline": False,
    "title": {"font": {"size": 13}},
    "automargin": True,
}
"""Of every axis."""


def dash_of(true_bits: float) -> str:
    """Return the dash of a line, which tells sizes of a family apart."""
    return next(dash for most, dash in DASHES if not true_bits >= most)


def plain(name: str) -> str:
    """Escape a name that came from a file: figures take tags in their texts for markup."""
    return html.escape(name, quote=False)


def themed(figure: go.Figure, *, title: str, x: str, y: str, height: int = 380) -> go.Figure:
    """Give ``figure`` its title, its axis titles with units, and the common look; return it."""
    figure.update_layout(look(title=title, height=height))
    figure.update_xaxes(AXIS | {"title": AXIS["title"] | {"text": x}})
    figure.update_yaxes(AXIS | {"title": AXIS["title"] | {"text": y}})
    return figure


def look(*, title: str, height: int) -> dict[str, Any]:
    """Return the common look as a layout: all but the axes."""
    return {
        "title": {
            "text": title,
            "font": {"size": 15},
            "x": 0,
            "xref": "paper",
            "xanchor": "left",
        },
        "font": {"family": FONT, "size": 12, "color": INK},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "height": height,
        "margin": {"l": 8, "r": 8, "t": 56, "b": 8},
        "legend": {
            "orientation": "h",
            "x": 0,
            "y": -66 / (height - 170),
            "yanchor": "top",
            "title": {"text": ""},
        },
        "hoverlabel": {
            "font": {"family": FONT, "size": 13, "color": "white"},
            "bgcolor": PANEL,
        },
    }


@lru_cache(maxsize=1)
def template() -> dict[str, Any]:
    """Return plotly's template, which every figure has; one written as JSON must name it."""
    return go.Figure().to_plotly_json()["layout"]["template"]
