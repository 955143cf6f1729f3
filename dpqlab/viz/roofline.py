"""The roofline: what bytes and arithmetic allow, and where products with weights end up."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from dpqlab.errors import ConfigError
from dpqlab.viz.log_axis import log_ticks, tick_labels
from dpqlab.viz.theme import FAMILY_COLOURS, FAMILY_SYMBOLS, GREEN, GREY, PURPLE, VERMILION, themed

Records = Sequence[Mapping[str, Any]]

DENSE = "dense"
RIVALS = {
    "AQLM": (PURPLE, "x"),
    "torchao": (GREEN, "cross"),
    "SDNQ": (VERMILION, "diamond"),
}
"""Colour and symbol by the first word of a rival's name; AQLM 1x8 has one bit."""
FAMILIES = {"vq": "VQ", "dpq": "DPQ", "best": "Best"}
OUR_COLOURS = tuple(FAMILY_COLOURS[family] for family in FAMILIES.values())


@dataclass(frozen=True, kw_only=True)
class RooflinePoint:
    """One product, timed.

    Attributes
    ----------
    work, way
        What was computed, and how.
    intensity
        FLOPs to a byte of weights.
    rate
        TFLOP/s reached.
    seconds
        Of a pass.
    """

    work: str
    way: str
    intensity: float
    rate: float
    seconds: float

    @property
    def rows(self) -> str:
        """Return ``"M=256"``, or an empty text."""
        return found[0] if (found := re.search(r"M=\d+", self.work)) else ""


def roofline(records: Records, *, title: str = "") -> go.Figure:
    """Draw TFLOP/s against FLOPs to a byte of weights, below what the device can do.

    The colour tells the family of codecs, filled markers stand for two bits and open ones for one;
    a line joins dense weights and ours at one number of rows. Of several ways with the same weights
    the fastest is drawn. Left of the ridge bytes are the limit: there fewer bytes lead up and to
    the right; right of it only arithmetic counts, and dense weights cannot be beaten.

    Parameters
    ----------
    records
        Of the suite ``kernels`` or ``cpu_kernels``, all of one device; of a row that comes twice,
        the last counts. What computes no product is left out.
    title
        Instead of the device's name.

    Raises
    ------
    ConfigError
        If there is no product among them, or they are of several devices.
    """
    kept = list({(r["row"], r["metric"]): r for r in records if r["metric"] == "speed"}.values())
    points = _fastest(roofline_points(kept))
    devices = {record["device"] for record in kept}
    if not points or len(devices) != 1:
        raise ConfigError(
            f"{len(points)} products on {len(devices)} devices: expected some, all on one; run "
            "python -m benchmarks.speed"
        )
    figure = go.Figure()
    _draw_roof(figure, points, kept[-1]["details"])
    for rows in dict.fromkeys(point.rows for point in points):
        _draw_rows(figure, [point for point in points if point.rows == rows])
    for name, mine in _series(points).items():
        _draw_series(figure, name, mine)
    themed(
        figure,
        title=title or f"Products with weights on {devices.pop()}",
        x="FLOPs per byte of weights",
        y="TFLOP/s",
        height=480,
    )
    _finish_axes(figure, points)
    return figure


def roofline_points(records: Records) -> list[RooflinePoint]:
    """Return the products among records of one device."""
    points: list[RooflinePoint] = []
    dense = {
        record["row"].partition(": ")[0]: record["details"]["bytes"]
        for record in records
        if record["row"].endswith(f": {DENSE}")
    }
    for record in records:
        work, _, way = record["row"].partition(": ")
        details = record["details"]
        if ", against " in work or "alone" in way or "bytes" not in details:
            continue
        flops = details.get("flops")
        rows = re.search(r"M=(\d+)", work)
        if flops is None and rows is not None and work in dense:
            # older records: a dense weight has two bytes there and takes two operations a row
            flops = int(rows[1]) * dense[work]
        if flops:
            seconds = details["median_us"] / 1e6
            points.append(
                RooflinePoint(
                    work=work,
                    way=way,
                    intensity=flops / details["bytes"],
                    rate=flops / seconds / 1e12,
                    seconds=seconds,
                )
            )
    return points


def _fastest(points: Iterable[RooflinePoint]) -> list[RooflinePoint]:
    """Keep one point of each workload and series."""
    best: dict[tuple[str, str], RooflinePoint] = {}
    for point in points:
        key = (point.work, _series_name(point.way))
        if key not in best or point.seconds < best[key].seconds:
            best[key] = point
    return list(best.values())


def _series(points: Iterable[RooflinePoint]) -> dict[str, list[RooflinePoint]]:
    """Group points by what is one entry of the legend, dense first."""
    found: dict[str, list[RooflinePoint]] = {}
    for point in points:
        found.setdefault(_series_name(point.way), []).append(point)
    first = {name: found.pop(name) for name in list(found) if name.startswith(DENSE)}
    return first | found


def _series_name(way: str) -> str:
    """Shorten a way: ``"best-1bit, decoding aside"`` is one of Best, 1 bit."""
    preset = way.partition(",")[0]
    family, _, bits = preset.partition("-")
    if family in FAMILIES:
        rate = bits.removesuffix("bit")
        return f"{FAMILIES[family]}, {rate} bit{'s' * (rate != '1')}"
    return preset


def _look(name: str) -> tuple[str, str]:
    """Return the colour and the symbol of a series."""
    family, _, bits = name.partition(", ")
    if family in FAMILY_COLOURS:
        symbol = FAMILY_SYMBOLS[family]
        return FAMILY_COLOURS[family], symbol if bits.startswith("2") else f"{symbol}-open"
    colour, symbol = RIVALS.get(name.partition(" ")[0], (GREY, "circle"))
    return colour, f"{symbol}-open" if "1x8" in name else symbol


def _draw_roof(
    figure: go.Figure, points: Sequence[RooflinePoint], details: Mapping[str, Any]
) -> None:
    copy, peak = details["copy_GB_per_s"] / 1e3, details["product_TFLOP_per_s"]
    low, high = _span(point.intensity for point in points)
    ridge = peak / copy
    corners = [low / 2, *([ridge] if low / 2 < ridge < 2 * high else []), 2 * high]
    figure.add_scatter(
        x=corners,
        y=[min(peak, copy * x) for x in corners],
        mode="lines",
        name=f"roof: {1e3 * copy:,.0f} GB/s, {peak:,.3g} TFLOP/s",
        line={"color": GREY, "width": 2},
        hoverinfo="skip",
    )


def _draw_rows(figure: go.Figure, points: Sequence[RooflinePoint]) -> None:
    """Join the points of dense weights and of ours at one number of rows, and name them."""
    ours = [p for p in points if _look(_series_name(p.way))[0] in (GREY, *OUR_COLOURS)]
    order = sorted(ours, key=lambda point: point.intensity)
    figure.add_scatter(
        x=[point.intensity for point in order],
        y=[point.rate for point in order],
        mode="lines",
        line={"color": GREY, "width": 1, "dash": "dot"},
        hoverinfo="skip",
        showlegend=False,
    )
    first = order[0]
    figure.add_scatter(
        x=[first.intensity],
        y=[first.rate],
        mode="text",
        text=[first.rows],
        textposition="bottom center",
        hoverinfo="skip",
        showlegend=False,
    )


def _draw_series(figure: go.Figure, name: str, points: Sequence[RooflinePoint]) -> None:
    colour, symbol = _look(name)
    edge = 2 if symbol.endswith("-open") else 0
    figure.add_scatter(
        x=[point.intensity for point in points],
        y=[point.rate for point in points],
        customdata=[[f"{p.work}: {p.way}", _duration(p.seconds)] for p in points],
        mode="markers",
        name=name,
        marker={"color": colour, "symbol": symbol, "size": 10, "line": {"width": edge}},
        hovertemplate=(
            "%{customdata[0]}<br>%{customdata[1]}, %{y:.3g} TFLOP/s, "
            "%{x:.3g} FLOPs a byte<extra></extra>"
        ),
    )


def _finish_axes(figure: go.Figure, points: Sequence[RooflinePoint]) -> None:
    for update, values in (
        (figure.update_xaxes, [point.intensity for point in points]),
        (figure.update_yaxes, [point.rate for point in points]),
    ):
        low, high = _span(values)
        update(type="log", **tick_labels(log_ticks(low, high, beyond=0.5)))


def _span(values: Iterable[float]) -> tuple[float, float]:
    known = list(values)
    return min(known), max(known)


def _duration(seconds: float) -> str:
    return f"{seconds * 1e6:.0f} us" if seconds < 1e-3 else f"{seconds * 1e3:.3g} ms"
