from __future__ import annotations

from typing import Any

import pytest

from dpqlab.errors import ConfigError
from dpqlab.viz.roofline import roofline, roofline_points
from dpqlab.viz.theme import BLUE, GREY, ORANGE, PURPLE


def row(
    way: str,
    us: float,
    weights: int,
    *,
    work: str = "token layers, M=100",
    device: str = "a GPU",
    **details: Any,
) -> dict[str, Any]:
    return {
        "row": f"{work}: {way}",
        "metric": "speed",
        "device": device,
        "details": {
            "median_us": us,
            "bytes": weights,
            "copy_GB_per_s": 1000.0,
            "product_TFLOP_per_s": 100.0,
            **details,
        },
    }


RECORDS = [
    row("dense", 10.0, 2_000_000, flops=2e8),
    row("best-1bit", 40.0, 100_000, flops=2e8),
    row("best-1bit, decoding aside", 20.0, 100_000, flops=2e8),
    row("best-1bit: decoding alone", 5.0, 100_000),
    row("dpq-2bit", 25.0, 250_000, flops=2e8),
    row("AQLM 2x8", 80.0, 250_000, flops=2e8),
]


def trace(figure: Any, name: str) -> Any:
    return next(trace for trace in figure.data if trace.name == name)


def test_a_point_is_arithmetic_over_bytes_and_over_time() -> None:
    dense, *others = roofline_points(RECORDS)
    assert (dense.intensity, dense.rate, dense.rows) == (100.0, pytest.approx(20.0), "M=100")
    assert "best-1bit: decoding alone" not in [point.way for point in others]


def test_older_records_say_their_arithmetic_by_the_bytes_of_dense_weights() -> None:
    old = [row("dense", 10.0, 2_000_000), row("best-1bit", 20.0, 100_000)]
    new = [row("dense", 10.0, 2_000_000, flops=2e8), row("best-1bit", 20.0, 100_000, flops=2e8)]
    assert roofline_points(old) == roofline_points(new)


def test_comparisons_with_a_rival_are_no_further_products() -> None:
    again = row("best-2bit", 1.0, 1, work="token layers, M=100, against AQLM 2x8", flops=1.0)
    assert len(roofline_points([*RECORDS, again])) == len(roofline_points(RECORDS))


def test_the_fastest_way_of_each_series_with_its_colour_and_symbol() -> None:
    figure = roofline(RECORDS)
    best = trace(figure, "Best, 1 bit")
    assert list(best.x) == [2000.0]
    assert list(best.y) == [pytest.approx(10.0)]
    assert "decoding aside" in best.customdata[0][0]
    assert (best.marker.color, best.marker.symbol) == (BLUE, "star-open")
    two = trace(figure, "DPQ, 2 bits")
    assert (two.marker.color, two.marker.symbol) == (ORANGE, "triangle-up")
    assert trace(figure, "dense").marker.color == GREY
    assert trace(figure, "AQLM 2x8").marker.color == PURPLE


def test_the_roof_rises_to_the_ridge_and_stays() -> None:
    roof = next(t for t in roofline(RECORDS).data if t.name and t.name.startswith("roof"))
    points = dict(zip(roof.x, roof.y, strict=True))
    assert points[100.0] == 100.0, "100 TFLOP/s over 1 TB/s: the ridge is at 100 FLOPs a byte"
    assert max(roof.y) == 100.0
    assert min(roof.y) == pytest.approx(min(roof.x))
    assert all(x >= low for low, x in zip(sorted(roof.x), roof.x, strict=True))


def test_a_line_joins_dense_weights_and_ours_but_no_rival() -> None:
    (line,) = [t for t in roofline(RECORDS).data if t.mode == "lines" and t.showlegend is False]
    assert list(line.x) == [100.0, 800.0, 2000.0]
    (label,) = [t for t in roofline(RECORDS).data if t.mode == "text"]
    assert list(label.text) == ["M=100"]


def test_it_is_titled_with_units_and_the_last_record_of_a_row_counts() -> None:
    figure = roofline([*RECORDS, row("dense", 5.0, 2_000_000, flops=2e8)])
    assert "a GPU" in figure.layout.title.text
    assert figure.layout.xaxis.title.text == "FLOPs per byte of weights"
    assert figure.layout.yaxis.title.text == "TFLOP/s"
    assert (figure.layout.xaxis.type, figure.layout.yaxis.type) == ("log", "log")
    assert list(trace(figure, "dense").y) == [pytest.approx(40.0)]


@pytest.mark.parametrize(
    "records", [[], [row("dense", 1.0, 1), row("a", 1.0, 1, device="another", flops=1.0)]]
)
def test_one_device_and_some_products(records: list[dict[str, Any]]) -> None:
    with pytest.raises(ConfigError, match="all on one"):
        roofline(records)
