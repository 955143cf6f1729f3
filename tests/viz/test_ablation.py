from __future__ import annotations

import math
from dataclasses import replace

import pytest

from dpqlab.errors import ConfigError
from dpqlab.evaluation.ablation import Ablation, AblationResult
from dpqlab.evaluation.frechet import Interval
from dpqlab.viz.ablation import ablation, chains, hover
from dpqlab.viz.page_ablation import ablation_section, verdict


def interval(value: float, half: float) -> Interval:
    return Interval(value=value, low=value - half, high=value + half, standard_error=half / 2)


def result(name: str, base: str, fcd: float, half: float = 0.02) -> AblationResult:
    return AblationResult(
        name=name,
        change=f"what <{name}> changes",
        base=base,
        true_bits=1.1,
        fcd=interval(fcd, half),
        excess_fcd=interval(0.5, 0.1),
        psnr=25.0,
        calibration_steps=2500,
        calibration_seconds=40.0,
        device="NVIDIA H200",
        date="2026-11-22T10:00:00+00:00",
    )


@pytest.fixture
def study() -> Ablation:
    return Ablation(
        teacher=interval(0.07, 0.02),
        noise_floor=interval(0.01, 0.01),
        images=10_000,
        sampling_steps=50,
        guidance=1.5,
        results=(
            result("dpq distil", "dpq ddpm", 0.8),
            result("dpq latent", "dpq distil", 0.14),
            result("vq latent", "dpq latent", 0.13),
            result("best-1bit", "best latent", 0.01, 0.02),
        ),
    )


def test_rows_are_grouped_by_chain_with_true_bits_beside_them(study: Ablation) -> None:
    ticks = ablation(study).layout.yaxis.ticktext
    assert [tick for tick in ticks if not tick.startswith("<b>")] == [
        f"{name} · 1.10 bits" for name in ("dpq distil", "dpq latent", "vq latent", "best-1bit")
    ]
    assert [i for i, tick in enumerate(ticks) if tick.startswith("<b>")] == [0, 3, 5]
    assert list(chains(study.results)) == ["dpq", "vq", "best"]


def test_dots_and_intervals_are_those_measured(study: Ablation) -> None:
    figure = ablation(study)
    dots = [trace for trace in figure.data if trace.mode == "markers"]
    assert [list(trace.x) for trace in dots] == [[0.8, 0.14], [0.13], [0.01]]
    assert [list(trace.y) for trace in dots] == [[1, 2], [4], [6]]
    assert dots[0].error_x.array == pytest.approx([0.02, 0.02])
    assert dots[0].error_x.arrayminus == pytest.approx([0.02, 0.02])
    assert len({trace.marker.color for trace in dots}) == 3
    assert len({trace.marker.symbol for trace in dots}) == 3


def test_the_axis_is_logarithmic_and_holds_everything(study: Ablation) -> None:
    figure = ablation(study)
    axis = figure.layout.xaxis
    assert axis.type == "log"
    assert "lower is better" in axis.title.text
    low, high = (10**end for end in axis.range)
    assert low < 0.01
    assert high > 0.82
    assert all(low <= tick <= high for tick in axis.tickvals)
    # an interval that reaches below zero ends at the axis
    last = [trace for trace in figure.data if trace.mode == "markers"][-1]
    assert 0 < last.x[0] - last.error_x.arrayminus[0] <= 0.01


def test_teacher_and_noise_floor_are_lines_with_names(study: Ablation) -> None:
    layout = ablation(study).layout
    assert sorted(shape.x0 for shape in layout.shapes) == [0.01, 0.07]
    notes = {note.text: note.x for note in layout.annotations}
    assert notes == {
        "teacher 0.070": pytest.approx(math.log10(0.07)),
        "noise floor 0.010": pytest.approx(-2),
    }


def test_pointing_at_a_row_tells_what_it_changes(study: Ablation) -> None:
    first, second = study.results[:2]
    text = hover(second, first)
    assert "changes" in text
    assert "compared with dpq distil (FCD 0.8)" in text
    assert "40 s of calibration on NVIDIA H200" in text
    assert "(not measured)" in hover(first, None)
    assert "not calibrated" in hover(replace(first, calibration_seconds=None), None)


def test_nothing_to_draw(study: Ablation) -> None:
    with pytest.raises(ConfigError, match="at least one"):
        ablation(replace(study, results=()))
    assert ablation_section(replace(study, results=())) == ""
    assert ablation_section(None) == ""


def test_the_section_has_the_figures_numbers_and_says_what_is_missing(study: Ablation) -> None:
    text = ablation_section(study)
    assert "Which part earns what" in text
    assert f"4 of {study.planned} rows" in text
    assert "0.140 ± 0.020" in text
    assert ">0.18×<" in text, "of the row that it is compared with"
    assert ">≈ 0.93×<" in text, "intervals overlap"
    assert "what &lt;dpq latent&gt; changes" in text
    assert text.count("<tbody>") == 3


def test_the_verdict_is_the_largest_step_that_is_one(study: Ablation) -> None:
    assert "from 0.800 (dpq distil) to 0.140 (dpq latent)" in verdict(study)
    assert verdict(replace(study, results=study.results[1:])) == "", "within the intervals"
