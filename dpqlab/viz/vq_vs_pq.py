"""VQ against PQ: error against true bits by width, and who wins at how many rows a codeword."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dpqlab.errors import ConfigError
from dpqlab.viz.log_axis import tick_labels
from dpqlab.viz.theme import BLUE, FAMILY_COLOURS, GREEN, GREY, ORANGE, PURPLE, themed

METRIC = "relative_weight_error"
TICKS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
RATIO_TICKS = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5, 2.0)
DASHES = {"": "solid", "kind": "dash", "model": "dot"}
COLOURS = (BLUE, ORANGE, GREEN, PURPLE)  # of kinds of layers
SYMBOLS = {"VQ": "circle", "PQ": "diamond", "PQ/4": "square"}

Records = Sequence[Mapping[str, Any]]


def vq_vs_pq(records: Records, *, kind: str = "attn1.to_q", title: str = "") -> go.Figure:
    """Draw relative weight error against true bits, a panel for every width.

    The colour tells how positions share codebooks (VQ, PQ, groups of positions); a solid line and a
    filled marker stand for codebooks of one layer, dashed and open for those of a kind of layer,
    dotted and open with a dot for those of the model. Lines join the points that no other of the
    family beats. The grey line is the least error that iid Gaussian weights allow,
    ``2 ** (-2 * bits)`` (Shannon).

    Parameters
    ----------
    records
        Of the suite ``vq_vs_pq``; of a row that comes twice, the last counts.
    kind
        Which kind of layer; ``"block"`` for all layers of a block together.
    title
        Instead of the kind's name.

    Raises
    ------
    ConfigError
        If no record is of that kind.
    """
    found = [one for one in _details(records) if one["kind"] == kind]
    if not found:
        kinds = ", ".join(sorted({one["kind"] for one in _details(records)})) or "none at all"
        raise ConfigError(f"no record of {kind!r}: there are records of {kinds}")
    subjects = sorted({(one["width"], one["subject"]) for one in found})
    figure = _panels(subjects)
    families = sorted({one["family"] for one in found}, key=lambda f: (f[:2] != "VQ", f))
    for column, (_, subject) in enumerate(subjects, start=1):
        mine = [one for one in found if one["subject"] == subject]
        _draw_bound(figure, mine, column)
        for family in families:
            _draw_family(figure, [one for one in mine if one["family"] == family], column)
    _name_once(figure)
    layers = "all layers of a block" if kind == "block" else kind
    _finish(
        figure,
        title=title or f"VQ and PQ before calibration: {layers}",
        x="true bits per weight",
        y="relative squared error",
    )
    figure.update_yaxes(type="log", **tick_labels(TICKS))
    return figure


def vq_over_pq(records: Records, *, title: str = "") -> go.Figure:
    """Draw the error of VQ over that of PQ at equal true bits, by PQ's rows a codeword.

    A panel for every width. A marker is a VQ point beside the best PQ point of one family within
    2 % of its true bits; above 1 PQ has the lower error. The colour is the layer's kind, the symbol
    the family.

    Raises
    ------
    ConfigError
        If no record holds a pair.
    """
    found = [one for one in _details(records) if one["pairs"]]
    if not found:
        raise ConfigError("no record pairs VQ with PQ: run python -m benchmarks.vq_vs_pq")
    subjects = sorted({(one["width"], one["subject"]) for one in found})
    colours = dict(zip(sorted({one["kind"] for one in found}), COLOURS, strict=False))
    figure = _panels(subjects)
    for column, (_, subject) in enumerate(subjects, start=1):
        series: dict[tuple[str, str], list[tuple[float, float, str]]] = {}
        for one in found:
            for pair in one["pairs"] if one["subject"] == subject else ():
                key = (one["kind"], pair["codec"].partition(" ")[0])
                text = f"{one['true_bits']:.2f} bits: {one['codec']}, {pair['codec']}"
                point = (pair["rows_per_codeword"], pair["vq_over_pq"], text)
                series.setdefault(key, []).append(point)
        for (kind, family), points in sorted(series.items()):
            name = f"{kind}: {family}"
            figure.add_scatter(
                x=[x for x, _, _ in points],
                y=[y for _, y, _ in points],
                customdata=[text for _, _, text in points],
                mode="markers",
                name=name,
                legendgroup=name,
                marker={
                    "color": colours.get(kind, GREY),
                    "symbol": _symbol(family),
                    "size": 8,
                },
                hovertemplate="%{customdata}<br>%{x:.3g} rows, ratio %{y:.2f}<extra></extra>",
                row=1,
                col=column,
            )
    _name_once(figure)
    figure.add_hline(y=1, line={"color": GREY, "width": 1, "dash": "dash"})
    _finish(
        figure,
        title=title or "VQ's error over PQ's at equal true bits (above 1 PQ wins)",
        x="rows that share a codebook of PQ, over its codewords",
        y="error ratio, VQ over PQ",
    )
    figure.update_xaxes(type="log", dtick=1)
    figure.update_yaxes(type="log", **tick_labels(RATIO_TICKS))
    return figure


def _panels(subjects: Sequence[tuple[int, str]]) -> go.Figure:
    """Return an empty figure with a panel for every (width, subject)."""
    return make_subplots(
        cols=len(subjects),
        shared_yaxes=True,
        horizontal_spacing=0.04,
        subplot_titles=[f"{name}, width {width}" for width, name in subjects],
    )


def _finish(figure: go.Figure, *, title: str, x: str, y: str) -> None:
    """Give panels the common look, with room for their titles, and one title to the y axes."""
    themed(figure, title=title, x=x, y=y, height=480)
    figure.update_layout(margin_t=84)
    figure.update_yaxes(title_text="")
    figure.update_yaxes(title_text=y, col=1)


def _details(records: Records) -> list[Mapping[str, Any]]:
    """Return what the last record of every row tells."""
    last = {record["row"]: record["details"] for record in records if record["metric"] == METRIC}
    return list(last.values())


def _within(family: str) -> tuple[str, str]:
    """Split a family's name: how positions share codebooks, and how layers do (empty: not)."""
    head, _, across = family.rpartition("/")
    return (head, across) if across in DASHES and head else (family, "")


def _symbol(family: str) -> str:
    scope, across = _within(family)
    return SYMBOLS.get(scope, "square") + {"kind": "-open", "model": "-open-dot"}.get(across, "")


def _draw_family(figure: go.Figure, points: Sequence[Mapping[str, Any]], column: int) -> None:
    """Draw the points of one family in one panel, and the line through the best of them."""
    if not points:
        return
    family = points[0]["family"]
    scope, across = _within(family)
    colour = FAMILY_COLOURS.get(scope, FAMILY_COLOURS["PQ, grouped"])
    front = _front(points)
    figure.add_scatter(
        x=[x for x, _ in front],
        y=[y for _, y in front],
        mode="lines",
        line={"color": colour, "width": 1.5, "dash": DASHES[across]},
        hoverinfo="skip",
        legendgroup=family,
        showlegend=False,
        row=1,
        col=column,
    )
    figure.add_scatter(
        x=[one["true_bits"] for one in points],
        y=[one["relative_error"] for one in points],
        customdata=[[one["codec"], one["rows_per_codeword"]] for one in points],
        mode="markers",
        name=family,
        marker={"color": colour, "symbol": _symbol(family), "size": 7},
        legendgroup=family,
        hovertemplate=(
            "%{customdata[0]}<br>%{x:.2f} bits, error %{y:.3f}<br>"
            "%{customdata[1]:.3g} rows a codeword<extra></extra>"
        ),
        row=1,
        col=column,
    )


def _draw_bound(figure: go.Figure, points: Sequence[Mapping[str, Any]], column: int) -> None:
    """Draw Shannon's bound over the range of some points."""
    low, high = (f(one["true_bits"] for one in points) for f in (min, max))
    bits = [low + (high - low) * step / 20 for step in range(21)]
    figure.add_scatter(
        x=bits,
        y=[2 ** (-2 * x) for x in bits],
        mode="lines",
        name="bound for iid Gaussian weights",
        line={"color": GREY, "width": 1, "dash": "dashdot"},
        legendgroup="bound",
        hoverinfo="skip",
        row=1,
        col=column,
    )


def _front(points: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    """Return (bits, error) of the points that no other beats in both, by rising bits."""
    best: list[tuple[float, float]] = []
    for pair in sorted((one["true_bits"], one["relative_error"]) for one in points):
        if not best or pair[1] < best[-1][1]:
            best.append(pair)
    return best


def _name_once(figure: go.Figure) -> None:
    """Leave one entry of the legend to every group."""
    seen: set[str] = set()
    traces: tuple[Any, ...] = tuple(figure.select_traces())
    for trace in traces:
        if trace.showlegend is not False:
            trace.showlegend = trace.legendgroup not in seen
            seen.add(trace.legendgroup)
