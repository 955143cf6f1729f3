from __future__ import annotations

import pytest

from dpqlab.errors import ConfigError
from dpqlab.evaluation.rate_distortion import RateDistortionPoint
from dpqlab.viz.rate_distortion import rate_distortion


def point(family: str, bits: float, error: float, layer: str = "attn1.to_q") -> RateDistortionPoint:
    return RateDistortionPoint(
        layer=layer,
        shape=(384, 384),
        family=family,  # pyright: ignore[reportArgumentType]
        codec=f"{family} d=4 k=16",
        d=4,
        k=16,
        true_bits=bits,
        relative_error=error,
    )


def test_one_colour_and_symbol_a_family_and_a_line_through_the_best() -> None:
    points = [point("VQ", 1, 0.4), point("VQ", 2, 0.1), point("VQ", 1.5, 0.5), point("PQ", 1, 0.3)]
    figure = rate_distortion(points)
    lines = [trace for trace in figure.data if trace.mode == "lines"]
    markers = [trace for trace in figure.data if trace.mode == "markers"]
    assert {trace.name for trace in markers} == {"VQ", "PQ"}
    assert len({trace.marker.color for trace in markers}) == 2
    assert len({trace.marker.symbol for trace in markers}) == 2
    assert [list(trace.x) for trace in lines] == [[1, 2], [1]]
    assert list(markers[0].customdata) == ["VQ d=4 k=16"] * 3, "pointing at a marker tells d and k"


def test_it_is_titled_with_units_and_transparent() -> None:
    figure = rate_distortion([point("VQ", 1, 0.4)])
    assert "384 × 384" in figure.layout.title.text
    assert figure.layout.xaxis.title.text == "true bits per weight"
    assert figure.layout.yaxis.title.text == "relative squared error"
    assert figure.layout.paper_bgcolor == figure.layout.plot_bgcolor == "rgba(0,0,0,0)"


@pytest.mark.parametrize("layers", [(), ("a", "b")])
def test_exactly_one_layer(layers: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="exactly one"):
        rate_distortion([point("VQ", 1, 0.4, layer) for layer in layers])
