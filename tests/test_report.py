from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch

from dpqlab.core import KeptTensor, LayerLedger, ModelLedger
from dpqlab.errors import ConfigError
from dpqlab.evaluation.projection import Projection
from dpqlab.evaluation.rate_distortion import RateDistortionPoint
from dpqlab.report import Group, ModelRow, Report, RunFacts, Scaling, best_of, headline
from dpqlab.viz.page import render

CLASSES = ("Bag", "T-shirt <top>")


def ledger(bits: int) -> ModelLedger:
    layer = LayerLedger(
        name="a",
        kind="a",
        shape=(1000, 1000),
        codec="PQ",
        codes=bits * 1_000_000,
        table=0,
        pool=100_000,
        scale=0,
        bias=16_000,
        weights=1_000_000,
    )
    kept = KeptTensor(name="end", bits=1_600_000, numel=100_000, reason="", in_blocks=False)
    return ModelLedger(layers=(layer,), kept=(kept,))


def row(group: Group, bits: int | None, agreement: float | None, family: str = "PQ") -> ModelRow:
    count = 16 if bits is None else bits
    generator = torch.Generator().manual_seed(count)
    return ModelRow(
        name=f"{group}-{family}-{bits}",
        family="Full precision" if bits is None else family,
        group=group,
        nominal_bits=bits,
        codec="PQ d=4 k=16",
        ledger=ledger(count),
        bytes_on_disk=ledger(count).stored_bytes + 1000,
        images=torch.randint(0, 256, (2, 1, 28, 28), dtype=torch.uint8, generator=generator),
        psnr=None if agreement is None else 10 + 10 * agreement,
        feature_cosine=agreement,
        agreement=agreement,
    )


@pytest.fixture
def report() -> Report:
    rows = (
        row("full", None, None),
        row("uncalibrated", 2, 0.5),
        row("uncalibrated", 1, 0.0, "VQ"),
        row("uncalibrated", 1, 0.0),
        row("calibrated", 1, 0.5, "VQ"),
        row("calibrated", 1, 1.0),
    )
    points = tuple(
        RateDistortionPoint(
            layer=layer,
            shape=(8, 4),
            family="VQ",
            codec="VQ d=4 k=16",
            d=4,
            k=16,
            true_bits=bits,
            relative_error=0.3 / bits,
        )
        for layer in ("attn1.to_q", "norm1.linear")
        for bits in (1.0, 2.0)
    )
    there = Projection(
        codes=10**9,
        pool=10**6,
        scale=0,
        bias=10**6,
        kept=16 * 10**6,
        block_weights=10**9,
        parameters=1_002_000_000,
    )
    return Report(
        rows=rows,
        classes=CLASSES,
        points=points,
        group_size=16,
        scalings=(Scaling(row=rows[-1], larger="DiT-XL/2", there=there, same_bits=26.1),),
        facts=RunFacts(
            when="today",
            versions={"dpqlab": "0"},
            machine="2 CPU cores",
            seed=0,
            steps=20,
            guidance=1.5,
            scheduler="DDIM",
            seconds=83,
            command="dpqlab demo",
        ),
    )


class Page(HTMLParser):
    """Collects what the tests ask about, and checks that tags close."""

    VOID = frozenset(("meta", "img", "col", "br", "link", "input"))

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.words = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "img":
            self.images.append(values)
        self.addresses += [
            values[k] or "" for k in ("src", "href", "action", "data") if k in values
        ]
        self.ids += [values["id"] or ""] if "id" in values else []

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.words += data


def test_headline_is_what_was_measured(report: Report) -> None:
    best = best_of(report, "calibrated", 1)
    assert best is report.rows[-1]
    assert headline(report) == (
        f"At {best.bits:.2f} bits per weight a diffusion transformer of 4.4 MB fits in "
        f"{best.bytes_on_disk / 1e6:.2f} MB, {best.ratio_fp32:.1f}× smaller, and still draws the "
        "same thing in 2 of 2 classes; without calibration the best model near 1 bit keeps 0."
    )


def test_the_best_family_speaks_for_the_run_if_it_is(report: Report) -> None:
    best = replace(row("calibrated", 1, 1.0, "Best"), psnr=40.0)
    changed = replace(report, rows=(*report.rows, best))
    assert best_of(changed, "calibrated", 1) is best
    words = Page(render(changed)).words
    assert "“Best” is what our ablation found best" in words
    assert "dpqlab inspect calibrated-Best-1" in words
    assert "“Best”" not in Page(render(report)).words
    assert "The codes stay" not in words, "not of all that is shown"


def test_rates_may_be_fractions(report: Report) -> None:
    other = replace(report.rows[-1], family="Best", nominal_bits=1.25)
    assert other.full_title == "Best, 1.25 bit, calibrated"
    words = Page(render(replace(report, rows=(*report.rows, other)))).words
    assert "Best, 1.25 bit" in words


def test_headline_without_calibrated_models_promises_nothing(report: Report) -> None:
    bare = replace(report, rows=report.rows[:4], scalings=())
    assert "compressed by vector and product quantization" in headline(bare)
    Page(render(bare))


def test_page_is_well_formed_and_loads_nothing(report: Report) -> None:
    text = render(report)
    page = Page(text)
    assert page.open == []
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)
    assert "default-src 'none'" in text
    assert text.count("plotly.js v") == 1, "plotly.js is in the page once"
    assert len(set(page.ids)) == len(page.ids)
    css = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in css
    assert "@import" not in css
    assert "prefers-color-scheme: dark" in css


def test_every_image_has_words(report: Report) -> None:
    page = Page(render(report))
    assert len(page.images) == len(report.rows) * len(CLASSES)
    alts = [image["alt"] for image in page.images]
    assert len(set(alts)) == len(alts)
    assert "T-shirt <top>: PQ, 1 bit, calibrated" in alts


def test_names_of_many_classes_stand_upright(report: Report) -> None:
    assert 'class="sheet"' in render(report)
    classes = tuple(f"class {i}" for i in range(15))
    rows = tuple(replace(one, images=one.images[:1].expand(15, -1, -1, -1)) for one in report.rows)
    page = render(replace(report, classes=classes, rows=rows))
    assert 'class="sheet many"' in page


def test_page_names_sizes_with_their_denominator(report: Report) -> None:
    words = Page(render(report)).words
    full, best = report.rows[0], report.rows[-1]
    assert f"{full.ledger.fp32_bytes:,} bytes, all parameters in fp32" in words
    assert f"{best.bytes_on_disk:,}" in words
    assert f"{best.ratio_fp32:.1f}×" in words
    assert "26.1×" in words
    assert "$" not in words, "every placeholder was filled"


def test_models_that_store_the_same_share_a_bar(report: Report) -> None:
    text = render(report)
    assert "one bar stands for both" in text
    assert text.index('"VQ, 1 bit"') > text.index('"PQ, 2 bit"'), "bars come by rate"
    other = replace(report.rows[-1], ledger=ledger(3))
    changed = replace(report, rows=(*report.rows[:4], other))
    assert "one bar stands for both" not in render(changed)


def test_the_verdict_on_the_curves_is_this_runs(report: Report) -> None:
    words = Page(render(report)).words
    assert (
        "within 2 true bits: VQ on Attention, query (8 × 4) and adaLN modulation (8 × 4)." in words
    )
    better = replace(report.points[-1], family="PQ", relative_error=0.01)
    words = Page(render(replace(report, points=(*report.points, better)))).words
    assert "VQ on Attention, query (8 × 4); PQ on adaLN modulation (8 × 4)." in words


def test_summary_is_plain_json(report: Report) -> None:
    summary = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert [model["name"] for model in summary["models"]] == [r.name for r in report.rows]
    best = summary["models"][-1]
    assert best["ratio_fp32"] == pytest.approx(2 * best["ratio_bf16"])
    assert sum(best["bits_by_part"].values()) == 8 * best["tensor_bytes"]
    assert math.isclose(summary["scaling"][0]["ratio_fp32_there_same_true_bits"], 26.1)


def test_the_teacher_comes_first_and_classes_match(report: Report) -> None:
    with pytest.raises(ConfigError, match="first row"):
        replace(report, rows=report.rows[1:])
    with pytest.raises(ConfigError, match="one for each"):
        replace(report, classes=("Bag",))


def test_same_records_same_page(report: Report) -> None:
    assert render(report) == render(report)
    assert not re.search(r"\$\w", Page(render(report)).words)
