"""VQ against PQ on record: error against true bits, who wins, and what calibration makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dpqlab.errors import ConfigError
from dpqlab.studies.codec_contest import CodecPair, CodecPoint, Contest
from dpqlab.viz.log_axis import log_axis, log_ticks, tick_labels
from dpqlab.viz.theme import FAMILY_COLOURS, FAMILY_SYMBOLS, GREY, ORANGE, RULE, themed

LAYER_NAMES = {
    "attn1.to_q": "attention: query",
    "attn1.to_k": "attention: key",
    "attn1.to_v": "attention: value",
    "attn1.to_out.0": "attention: output",
    "ff.net.0.proj": "feed-forward: first",
    "ff.net.2": "feed-forward: second",
    "norm1.linear": "adaLN",
}
LIKE = {kind: "attn1.to_q" for kind in LAYER_NAMES if kind.startswith("attn1.")}
"""Layers that were not recorded, and the recorded one of their shape."""
Place = tuple[str, float, float]
"""Kind of layer, true bits, error."""
_BITS = (0.7, 2.7)
_ERRORS = (0.02, 0.65)


def rate_distortion_by_kind(contest: Contest, subject: str = "fashion-dit") -> go.Figure:
    """Draw error against true bits of VQ and PQ, a panel for every kind of layer.

    A line joins the points of a family that no other of it beats in both.

    Parameters
    ----------
    contest
        Recorded points.
    subject
        Whose layers; :func:`with_marks` adds points of one's own.

    Raises
    ------
    ConfigError
        If nothing of the subject is on record.
    """
    kinds = contest.kinds(subject)
    if not kinds:
        known = ", ".join(sorted({p.subject for p in contest.points}))
        raise ConfigError(f"no record of {subject!r}: there are records of {known}")
    figure = make_subplots(
        cols=len(kinds),
        shared_yaxes=True,
        horizontal_spacing=0.02,
        subplot_titles=[LAYER_NAMES.get(kind, kind) for kind in kinds],
    )
    for column, kind in enumerate(kinds, start=1):
        points = contest.points_of(subject, kind)
        for family in ("VQ", "PQ"):
            _draw_family(figure, [p for p in points if p.is_vq == (family == "VQ")], column)
    title = f"Error against true bits before calibration: {subject}"
    themed(figure, title=title, x="true bits", y="", height=360)
    figure.update_layout(margin_t=76)
    figure.update_annotations(font_size=12)
    figure.update_yaxes(title_text="relative squared error", col=1)
    figure.update_xaxes(range=list(_BITS), dtick=1)
    log_axis(figure, _ERRORS)
    return figure


def with_marks(
    figure: go.Figure,
    kinds: Sequence[str],
    here: Place,
    *,
    label: str = "here",
    trail: Sequence[Place] = (),
) -> go.Figure:
    """Return a copy of :func:`rate_distortion_by_kind` with :func:`marks`."""
    copied = go.Figure(figure)
    copied.add_traces(marks(kinds, here, label=label, trail=trail))
    return copied


def marks(
    kinds: Sequence[str], here: Place, *, label: str = "here", trail: Sequence[Place] = ()
) -> list[dict[str, Any]]:
    """Return a star, and rings behind it, as traces for :func:`rate_distortion_by_kind`.

    What lies beyond the axes is drawn at their edge; its label tells the true place.

    Parameters
    ----------
    kinds
        As ``contest.kinds`` gives them: the panels. A layer that is not among them stands in the
        panel of the layer of its shape (``LIKE``).
    here
        Where the star is: kind of layer, true bits, error.
    label
        Of the star.
    trail
        Earlier places.
    """
    groups = ((trail, "earlier", "circle-open", 8, GREY), ((here,), label, "star", 17, ORANGE))
    traces: list[dict[str, Any]] = []
    for places, name, symbol, size, colour in groups:
        for column, kind in enumerate(kinds, start=1):
            mine = [place for place in places if LIKE.get(place[0], place[0]) == kind]
            if mine:
                axis = "" if column == 1 else str(column)
                look = {"symbol": symbol, "size": size, "color": colour, "line": {"width": 1.5}}
                traces.append(
                    {
                        "type": "scatter",
                        "x": [_within(bits, _BITS) for _, bits, _ in mine],
                        "y": [_within(error, _ERRORS) for _, _, error in mine],
                        "text": [f"{name}: {bits:.2f} bits, error {e:.3g}" for _, bits, e in mine],
                        "hovertemplate": "%{text}<extra></extra>",
                        "mode": "markers",
                        "name": name,
                        "showlegend": False,
                        "marker": look,
                        "cliponaxis": False,
                        "xaxis": f"x{axis}",
                        "yaxis": f"y{axis}",
                    }
                )
    return traces


def _within(value: float, span: tuple[float, float]) -> float:
    return min(max(value, span[0]), span[1])


def who_wins(contest: Contest, subject: str = "fashion-dit") -> go.Figure:
    """Draw the error of VQ over that of PQ at equal true bits, a strip for every kind of layer.

    A marker is a pair within 2 % of true bits; right of 1 PQ has the lower error.
    """
    wins = contest.wins(subject)
    if not wins:
        raise ConfigError(f"no pair of {subject!r} is on record")
    figure = go.Figure()
    names = {
        kind: f"{LAYER_NAMES.get(kind, kind)}: PQ {won} of {every}"
        for kind, (won, every) in wins.items()
    }
    for winner in ("VQ", "PQ"):
        pairs = [p for p in contest.pairs if p.vq.subject == subject and _winner(p) == winner]
        figure.add_scatter(
            x=[p.ratio for p in pairs],
            y=[names[p.vq.kind] for p in pairs],
            customdata=[[p.vq.codec, p.pq.codec, p.vq.true_bits] for p in pairs],
            mode="markers",
            name=f"{winner} has the lower error",
            marker={"color": FAMILY_COLOURS[winner], "symbol": FAMILY_SYMBOLS[winner],
                    "size": 9, "opacity": 0.8},
            hovertemplate=(
                "%{customdata[2]:.2f} bits: %{customdata[0]}, %{customdata[1]}<br>"
                "VQ's error is %{x:.2f} of PQ's<extra></extra>"
            ),
        )  # fmt: skip
    figure.add_vline(x=1, line={"color": GREY, "width": 1.5, "dash": "dash"})
    title = f"VQ against PQ at equal true bits: {subject}"
    themed(figure, title=title, x="error of VQ over error of PQ", y="", height=320)
    ticks = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1, 1.2, 1.5, 2)
    figure.update_xaxes(type="log", **tick_labels(ticks))
    figure.update_yaxes(gridcolor=RULE, categoryorder="array", categoryarray=list(names.values()))
    return figure


def after_calibration(contest: Contest) -> go.Figure:
    """Draw the FCD of whole models after calibration: codes that stay hollow, that move full.

    From top to bottom: each VQ codec above the PQ codecs of equal true bits, fewest bits first.

    Raises
    ------
    ConfigError
        If no student is on record.
    """
    if not contest.students:
        raise ConfigError("no student is on record: run python -m benchmarks.vq_vs_pq --calibrate")
    bits = {one.codec: one.true_bits for one in contest.students}
    ordered = sorted(
        contest.students, key=lambda one: (bits[one.vq], one.vq != one.codec, one.codec)
    )
    names = {one.codec: f"{one.codec}: {one.true_bits:.2f} bits" for one in ordered}
    figure = go.Figure()
    for family, moving in ((f, m) for m in (False, True) for f in ("VQ", "PQ")):
        mine = [one for one in ordered if one.moving == moving and one.codec[:2] == family]
        error = {
            "array": [one.high - one.fcd for one in mine],
            "arrayminus": [one.fcd - one.low for one in mine],
        }
        figure.add_scatter(
            x=[one.fcd for one in mine],
            y=[names[one.codec] for one in mine],
            error_x=error | {"thickness": 1.5, "width": 4},
            mode="markers",
            name=f"{family}, codes {'move' if moving else 'stay'}",
            marker={
                "color": FAMILY_COLOURS[family],
                "symbol": FAMILY_SYMBOLS[family] + ("" if moving else "-open"),
                "size": 11,
                "line": {"width": 0 if moving else 2},
            },
            hovertemplate="%{y}<br>FCD %{x:.3f}<extra>%{fullData.name}</extra>",
        )
    title = "After calibration: fashion-dit, groups of equal true bits"
    themed(figure, title=title, x="FCD-10k ± 95 % (lower is better)", y="", height=400)
    low, high = min(one.low for one in ordered), max(one.high for one in ordered)
    figure.update_xaxes(type="log", **tick_labels(log_ticks(low, high)))
    figure.update_yaxes(
        gridcolor=RULE,
        autorange="reversed",
        categoryorder="array",
        categoryarray=list(names.values()),
    )
    return figure


def _winner(pair: CodecPair) -> str:
    return "PQ" if pair.ratio > 1 else "VQ"


def _draw_family(figure: go.Figure, points: Sequence[CodecPoint], column: int) -> None:
    best: list[CodecPoint] = []
    for point in sorted(points, key=lambda p: (p.true_bits, p.error)):
        if not best or point.error < best[-1].error:
            best.append(point)
    if not best:
        return
    family = "VQ" if best[0].is_vq else "PQ"
    figure.add_scatter(
        x=[p.true_bits for p in best],
        y=[p.error for p in best],
        customdata=[p.codec for p in best],
        mode="lines+markers",
        name="VQ: one codebook" if family == "VQ" else "PQ: codebooks by position",
        legendgroup=family,
        showlegend=column == 1,
        line={"color": FAMILY_COLOURS[family], "width": 2},
        marker={"symbol": FAMILY_SYMBOLS[family], "size": 6},
        hovertemplate="%{customdata}<br>%{x:.2f} bits, error %{y:.3f}<extra></extra>",
        row=1,
        col=column,
    )
