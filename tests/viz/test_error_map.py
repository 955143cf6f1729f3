"""Maps of errors, curves over steps, the spread of a cell: on recorded traces of a tiny model."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from dpqlab.errors import ConfigError
from dpqlab.tracing import EDGES, Provenance, Trace, load_trace
from dpqlab.viz.error_curve import cell_distribution, error_curve
from dpqlab.viz.error_map import Selection, clicked, error_map
from dpqlab.viz.theme import FAMILY_COLOURS, GREY
from dpqlab.viz.trace_pictures import common_gain, difference, step_pictures, strip
from dpqlab.viz.trace_scale import (
    colour_of,
    error_range,
    family_of_name,
    short_name,
)

BLOCKS, STEPS, IMAGES = 3, 5, 4


def make_trace(name: str = "vq-1bit", *, size: float = 1.0, bits: float = 1.1) -> Trace:
    """A trace whose error at block b and step s of measure m is size * (m+1) * (b+1) * (s+1) %."""
    about = Provenance(
        teacher="tiny", student=f"tiny-{name}", true_bits=bits, labels=(0,) * IMAGES, seed=0,
        first_index=0, steps=STEPS, guidance=1.5, sampler="ddim", device="cpu", dpqlab="0",
        torch="0", made="2026-01-01", seconds=1.0,
    )  # fmt: skip
    m, b, s = np.ogrid[1:4, 1 : BLOCKS + 1, 1 : STEPS + 1]
    errors = size * 0.01 * m * b * s
    norm = np.full((2, BLOCKS, STEPS), 10.0)
    counts = np.zeros((3, 2, BLOCKS, STEPS, len(EDGES) + 1), dtype=np.int64)
    bins = np.searchsorted(EDGES, errors, side="right")
    for at in np.ndindex(3, BLOCKS, STEPS):
        counts[at[0], :, at[1], at[2], bins[at]] = 8
    ramp = np.arange(2 * 3 * 2 * 16).reshape(2, 3, 2, 1, 4, 4) // 2
    return Trace(
        about=about,
        blocks=tuple(f"transformer_blocks.{i}" for i in range(BLOCKS)),
        branches=("with class", "without class"),
        timesteps=tuple(range(999, 999 - 100 * STEPS, -100)),
        energy=np.stack([errors * 10] * 2, 1),
        norm=norm,
        counts=counts,
        output_energy=np.stack([np.full((2, STEPS), v * size) for v in (0.1, 0.2)]),
        output_norm=np.ones((2, STEPS)),
        latent_energy=size * np.arange(1.0, STEPS * IMAGES + 1).reshape(STEPS, IMAGES),
        latent_norm=np.full((STEPS, IMAGES), 100.0),
        image_error=np.full((STEPS, IMAGES), 0.02 * size),
        picture_steps=(0, 2, 4),
        pictures=ramp.astype(np.uint8),
    )


VQ, PQ = make_trace(), make_trace("pq-1bit", size=0.5)


def values(array) -> np.ndarray:
    """What a figure holds, whether plotly keeps it as an array or as base64."""
    if isinstance(array, dict):
        flat = np.frombuffer(base64.b64decode(array["bdata"]), dtype=array["dtype"])
        return flat.reshape([int(n) for n in str(array.get("shape", len(flat))).split(",")])
    return np.asarray(array, dtype=float)


def test_the_maps_show_every_error_on_one_scale():
    figure = error_map([VQ, PQ], measure="pass")
    maps = [trace for trace in figure.data if trace.type == "heatmap"]
    assert len(maps) == 2
    for drawn, trace in zip(maps, (VQ, PQ), strict=True):
        np.testing.assert_allclose(10 ** values(drawn.z), trace.error("pass"), rtol=1e-5)
        assert short_name(trace) in drawn.hovertemplate
    assert maps[0].zmin == maps[1].zmin == pytest.approx(np.log10(0.005))
    assert maps[0].zmax == maps[1].zmax == pytest.approx(np.log10(0.45))
    assert [m.showscale for m in maps] == [True, False]
    assert "transformer_blocks.1<br>timestep 799<br>error 0.12" in maps[0].text[1][2]
    assert "pass" in figure.layout.title.text


def test_the_scale_is_that_of_all_measures():
    ranges = {(m.zmin, m.zmax) for measure in ("local", "pass", "accumulated")
              for m in error_map([VQ], measure=measure).data if m.type == "heatmap"}  # fmt: skip
    assert len(ranges) == 1
    assert error_range([VQ, PQ]) == pytest.approx((0.005, 0.45))


def test_the_margins_are_means_over_blocks_and_sums_over_steps():
    figure = error_map([VQ, PQ], measure="local")
    lines = [trace for trace in figure.data if trace.type == "scatter"]
    np.testing.assert_allclose(values(lines[0].y), VQ.by_step("local"), rtol=1e-5)
    np.testing.assert_allclose(values(lines[2].x), VQ.by_block("local"), rtol=1e-5)
    assert lines[0].line.color == FAMILY_COLOURS["VQ"] != lines[1].line.color
    assert [line.showlegend for line in lines] == [None, None, False, False]
    assert "1.10 bits" in lines[0].name


def test_the_strip_stands_under_the_time_axis():
    figure = error_map([VQ, PQ], selection=Selection(block=1, step=2, image=1, student=1))
    rows = figure.layout.images
    assert [(row.x, row.sizex) for row in rows] == [(-0.5, STEPS)] * 3
    axis = figure.layout[rows[0].xref.replace("x", "xaxis")]
    assert tuple(axis.range) == (-0.5, STEPS - 0.5) == tuple(figure.layout.xaxis3.range)
    assert axis.domain == figure.layout.xaxis3.domain
    picture = Image.open(io.BytesIO(base64.b64decode(rows[0].source.partition(",")[2])))
    assert picture.size == (STEPS * 4 * 2, 4 * 2)
    assert picture.getpixel((4 * 2 + 1, 1))[3] == 0, "no picture at the second step"
    assert any("difference × " in label for label in figure.layout.yaxis7.ticktext)
    frames = [s for s in figure.layout.shapes if s.x0 == 1.5 and s.y0 == 0.5]
    assert len(frames) == 4, "two frames on each map"
    assert not error_map([VQ]).layout.images


def test_clicks_choose_what_stands_there():
    figure = error_map([VQ, PQ], selection=Selection(image=0))
    kinds = [trace.type for trace in figure.data]
    assert kinds == ["heatmap"] * 2 + ["scatter"] * 5
    assert clicked({"curve": 1, "x": 3, "y": 2}, 2) == {"student": 1, "step": 3, "block": 2}
    assert clicked({"curve": 2, "x": 3.0, "y": 0.05}, 2) == {"student": 0, "step": 3}
    assert clicked({"curve": 5, "x": 0.05, "y": 1}, 2) == {"student": 1, "block": 1}
    assert clicked({"curve": 6, "x": 0, "y": 0}, 2) == {}
    assert clicked({}, 2) == {}


def test_exact_students_can_be_drawn():
    exact = replace(VQ, energy=np.zeros_like(VQ.energy))
    figure = error_map([exact])
    (drawn,) = [trace for trace in figure.data if trace.type == "heatmap"]
    assert np.isfinite(values(drawn.z)).all()
    assert error_range([exact]) == (1e-4, 1.0)
    json.loads(figure.to_json())
    error_curve([exact])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: error_map([]), "no trace"),
        (lambda: error_map([VQ, replace(PQ, timesteps=(5, 4, 3, 2, 1))]), "timesteps"),
        (lambda: error_map([VQ], selection=Selection(block=3)), "block 3"),
        (lambda: error_map([VQ], selection=Selection(image=2)), "picture 2.*0 to 1"),
        (lambda: error_map([VQ], selection=Selection(image=0, student=1)), "student 1"),
        (lambda: error_map([VQ], branch="third"), "branch"),
        (lambda: error_range([]), "no trace"),
        (lambda: error_curve([VQ, make_trace("pq-1bit", bits=1.2)]), "more than 2 %"),
        (lambda: error_curve([VQ], quantity="loss"), "quantity"),  # pyright: ignore
        (lambda: cell_distribution([VQ], block=0, step=5), "step 5"),
        (lambda: strip(VQ, 0, "both", gain=1), "row is 'both'"),
    ],
)
def test_what_cannot_be_drawn(call, message):
    with pytest.raises(ConfigError, match=message):
        call()


def test_two_sizes_of_a_family_can_be_told_apart():
    figure = error_map([make_trace("best-2bit", bits=2.0), make_trace("best-1bit", bits=1.09)])
    lines = [trace.line for trace in figure.data if trace.type == "scatter"]
    assert len({line.color for line in lines}) == 1
    assert [line.dash for line in lines] == ["dot", "solid"] * 2


def test_names_and_colours():
    assert family_of_name("fashion-dit-best-2bit") == "Best"
    assert family_of_name("somebody") == ""
    assert colour_of("somebody") == GREY
    assert short_name(VQ) == "vq-1bit · 1.10 bits"


# --- pictures -----------------------------------------------------------------------------------


def test_differences_are_amplified_about_grey():
    teacher = np.array([[10, 100, 0]], dtype=np.uint8)
    student = np.array([[13, 99, 255]], dtype=np.uint8)
    assert difference(teacher, student, 4).tolist() == [[140, 124, 255]]


def test_the_gain_is_shared_and_never_cuts_off_much():
    still = replace(VQ, pictures=np.zeros_like(VQ.pictures))
    assert common_gain([still]) == 64
    moved = still.pictures.copy()
    moved[1, -1] = 15
    little = replace(still, pictures=moved)
    assert common_gain([little]) == 8
    assert common_gain([little, VQ]) == common_gain([VQ]) < 8


def test_a_step_is_three_rows_of_images():
    pixels = step_pictures(VQ, 3, gain=1, gap=1)
    assert pixels.shape == (3 * 5 - 1, 2 * 5 - 1, 3)
    theirs, mine = VQ.pictures[:, 1, :, 0], VQ.pictures[1, 1, :, 0]
    assert np.array_equal(pixels[:4, :4, 0], theirs[0, 0])
    assert np.array_equal(pixels[5:9, 5:, 2], mine[1])
    assert (pixels[10:, :4, 1] == difference(theirs[0, 0], mine[0], 1)).all()
    assert (pixels[4] == 128).all()


# --- curves -------------------------------------------------------------------------------------


def test_curves_tell_what_is_measured_and_at_how_many_bits():
    figure = error_curve([VQ, PQ])
    names = [line.name for line in figure.data]
    assert names == [
        "vq-1bit · 1.10 bits",
        "vq-1bit · 1.10 bits, one pass",
        "pq-1bit · 1.10 bits",
        "pq-1bit · 1.10 bits, one pass",
    ]
    np.testing.assert_allclose(values(figure.data[0].y), VQ.by_step("accumulated"), rtol=1e-5)
    np.testing.assert_allclose(values(figure.data[3].y), PQ.by_step("pass"), rtol=1e-5)
    assert figure.data[0].line.dash == "solid" != figure.data[1].line.dash
    assert figure.layout.yaxis.title.text == "relative squared error"


@pytest.mark.parametrize(
    ("quantity", "expected"),
    [
        ("noise", [VQ.output_error("accumulated"), VQ.output_error("pass")]),
        ("latent", [VQ.latent_error()]),
        ("image", [VQ.picture_error()]),
    ],
)
def test_the_other_quantities(quantity, expected):
    figure = error_curve([VQ], quantity=quantity)
    for line, wanted in zip(figure.data, expected, strict=True):
        np.testing.assert_allclose(values(line.y), wanted, rtol=1e-5)


def test_the_spread_of_a_cell():
    figure = cell_distribution([VQ], block=1, step=2)
    local, accumulated = figure.data
    for line, error in ((local, 0.06), (accumulated, 0.18)):
        at = int(values(line.y).argmax())
        assert values(line.y)[at] == 100
        assert values(line.x)[at] == pytest.approx(error, rel=0.25)
    assert local.line.dash == "dot" != accumulated.line.dash
    assert "timestep 799" in figure.layout.title.text


def test_the_bundled_pair_of_the_notebook_stores_the_same():
    pair = [load_trace(name) for name in ("vq-1bit", "dpq-1bit")]
    figure = error_curve(pair)
    assert [line.line.dash for line in figure.data] == ["solid", "dash"] * 2
    with pytest.raises(ConfigError, match="more than 2 %"):
        error_curve([load_trace("vq-2bit"), load_trace("dpq-2bit")])
