from __future__ import annotations

from typing import Any

import pytest

from dpqlab.errors import ConfigError
from dpqlab.viz.vq_vs_pq import vq_over_pq, vq_vs_pq


def record(
    family: str, bits: float, error: float, *, width: int = 384, **changes: Any
) -> dict[str, Any]:
    subject = {384: "fashion-dit", 1152: "random DiT-XL/2"}[width]
    details = {
        "subject": subject,
        "width": width,
        "kind": "attn1.to_q",
        "family": family,
        "codec": f"{family} d=4 k=16",
        "true_bits": bits,
        "relative_error": error,
        "rows_per_codeword": 24.0,
        "pairs": [],
    }
    details |= changes
    row = f"{subject} {details['kind']}: {family} {bits}"
    return {"row": row, "metric": "relative_weight_error", "details": details}


PAIR = {"codec": "PQ d=4 k=16", "true_bits": 1.0, "rows_per_codeword": 24.0, "vq_over_pq": 0.7}


def test_a_panel_a_width_and_a_name_a_family() -> None:
    records = [
        record(f, bits, 0.5 / bits, width=width)
        for f in ("PQ", "PQ/4", "PQ/kind", "VQ", "VQ/kind")
        for bits in (1.0, 2.0)
        for width in (1152, 384)
    ]
    figure = vq_vs_pq(records)
    panels = [a.text for a in figure.layout.annotations]
    assert panels == ["fashion-dit, width 384", "random DiT-XL/2, width 1152"]
    named = [trace for trace in figure.data if trace.showlegend]
    families = [trace.name for trace in named if trace.mode == "markers"]
    assert families == ["VQ", "VQ/kind", "PQ", "PQ/4", "PQ/kind"], "once, whatever the panels"
    looks = {(t.marker.color, t.marker.symbol) for t in named if t.mode == "markers"}
    assert len(looks) == 5
    solid, dashed = (
        [t for t in figure.data if t.mode == "lines" and t.legendgroup == g]
        for g in ("PQ", "PQ/kind")
    )
    assert solid[0].line.color == dashed[0].line.color
    assert (solid[0].line.dash, dashed[0].line.dash) == ("solid", "dash")


def test_the_line_joins_the_best_and_the_bound_is_shannons() -> None:
    figure = vq_vs_pq([record("VQ", 1, 0.4), record("VQ", 1.5, 0.5), record("VQ", 2, 0.1)])
    lines = {t.legendgroup: t for t in figure.data if t.mode == "lines"}
    assert list(lines["VQ"].x) == [1, 2]
    assert lines["bound"].y[0] == pytest.approx(0.25)
    assert lines["bound"].y[-1] == pytest.approx(1 / 16)


def test_the_last_record_of_a_row_counts() -> None:
    figure = vq_vs_pq([record("VQ", 1, 0.4), record("VQ", 1, 0.3)])
    markers = [t for t in figure.data if t.mode == "markers"]
    assert [list(t.y) for t in markers] == [[0.3]]


def test_it_is_titled_with_units_and_transparent() -> None:
    figure = vq_vs_pq([record("VQ", 1, 0.4)])
    assert "attn1.to_q" in figure.layout.title.text
    assert figure.layout.xaxis.title.text == "true bits per weight"
    assert figure.layout.yaxis.title.text == "relative squared error"
    assert figure.layout.paper_bgcolor == figure.layout.plot_bgcolor == "rgba(0,0,0,0)"


def test_a_kind_without_records_is_named() -> None:
    with pytest.raises(ConfigError, match=r"ff\.net\.2.*attn1\.to_q"):
        vq_vs_pq([record("VQ", 1, 0.4)], kind="ff.net.2")


def test_pairs_by_rows_a_codeword() -> None:
    wide = PAIR | {"codec": "PQ/kind d=4 k=16", "vq_over_pq": 1.2}
    figure = vq_over_pq(
        [
            record("VQ", 1, 0.4, pairs=[PAIR]),
            record("VQ/kind", 1, 0.4, pairs=[wide], width=1152, kind="ff.net.2"),
            record("PQ", 1, 0.4),
        ]
    )
    assert [t.name for t in figure.data] == [
        "attn1.to_q: PQ",
        "ff.net.2: PQ/kind",
    ]
    assert [(list(t.x), list(t.y)) for t in figure.data] == [([24], [0.7]), ([24], [1.2])]
    assert len({t.marker.color for t in figure.data}) == 2
    assert figure.layout.xaxis.type == figure.layout.yaxis.type == "log"


def test_no_pairs_no_figure() -> None:
    with pytest.raises(ConfigError, match="pairs"):
        vq_over_pq([record("PQ", 1, 0.4)])
