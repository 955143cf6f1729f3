"""The tables of the demo's page, as HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from dpqlab.evaluation.frechet import Interval
from dpqlab.evaluation.rate_distortion import RateDistortionPoint
from dpqlab.report import Group, ModelRow, Report, Scaling

BUDGETS = (1.0, 1.25, 2.0)  # true bits at which the curves are read


def table(heads: Sequence[str], bodies: Sequence[Sequence[Sequence[str]]], note: str) -> str:
    """Build a table; the first cell of a row is its head. Cells and note are HTML already."""
    head = "".join(f'<th scope="col">{cell}</th>' for cell in heads)
    body = "".join(
        "<tbody>"
        + "".join(
            f'<tr><th scope="row">{row[0]}</th>'
            + "".join(f"<td>{cell}</td>" for cell in row[1:])
            + "</tr>"
            for row in rows
        )
        + "</tbody>"
        for rows in bodies
        if rows
    )
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Table, scrolls sideways">'
        f'<table class="numbers"><thead><tr>{head}</tr></thead>{body}</table></div>'
        f'<p class="note">{note}</p>'
    )


def named(title: str, codec: str) -> str:
    """Write a model's name with its codec in small beside it."""
    return f"{escape(title)} <small>{escape(codec)}</small>"


def interval(value: Interval) -> str:
    """Write a value with half of its 95 % interval: the wider half where they differ."""
    half = max(value.value - value.low, value.high - value.value)
    digits = 1 if abs(value.value) >= 10 else 3
    return f"{value.value:.{digits}f} ± {half:.{digits}f}"


def results_table(report: Report, groups: Mapping[Group, str]) -> str:
    """Sizes and fidelity of every model."""
    heads = (
        "Model",
        "True bits<br>per weight",
        "Bytes<br>on disk",
        "Smaller<br>than fp32",
        "PSNR<br>to teacher",
        "Feature<br>cosine",
        "Same<br>class",
    )
    bodies = [[_result(r) for r in report.rows if r.group == group] for group in groups]
    full, count = report.rows[0], len(report.classes)
    caption = (
        f"“Smaller than fp32” divides {full.ledger.fp32_bytes:,} bytes, all parameters in fp32 "
        "with each counted once, by the bytes of the weight files, headers included. PSNR, the "
        f"cosine of the classifier’s features and its class compare {count} images with the "
        "full-precision model’s at the same seeds: enough to see damage, too few to rank close "
        "ones."
    )
    return table(heads, bodies, caption)


def _result(row: ModelRow) -> list[str]:
    kept = row.kept_classes()
    return [
        named(row.full_title, row.codec),
        f"{row.bits:.3f}",
        f"{row.bytes_on_disk:,}",
        f"{row.ratio_fp32:.1f}×",
        "–" if row.psnr is None else f"{row.psnr:.1f} dB",
        "–" if row.feature_cosine is None else f"{row.feature_cosine:.3f}",
        "–" if kept is None else f"{kept} of {len(row.images)}",
    ]


def curve_table(points: Sequence[RateDistortionPoint], titles: Mapping[str, str]) -> str:
    """Name the codec with the least error within each budget, layer by layer."""
    rows = []
    for layer in dict.fromkeys(point.layer for point in points):
        row = [escape(titles.get(layer, layer))]
        for budget in BUDGETS:
            inside = [p for p in points if p.layer == layer and p.true_bits <= budget]
            best = min(inside, key=lambda p: p.relative_error, default=None)
            row.append(f"{best.relative_error:.3f} · {escape(best.codec)}" if best else "–")
        rows.append(row)
    heads = ("Least error of this run", *(f"up to {budget:g} bits" for budget in BUDGETS))
    return table(
        heads,
        [rows],
        "Relative squared error of the weights, and the codec that reached it. True bits include "
        "the layer’s fp16 bias. Lines in the figures join what no other of the family beats.",
    )


def curve_verdict(points: Sequence[RateDistortionPoint], titles: Mapping[str, str]) -> str:
    """Say which family has the least error within the largest budget, layer by layer."""
    won: dict[str, list[str]] = {}
    for layer in dict.fromkeys(point.layer for point in points):
        inside = [p for p in points if p.layer == layer and p.true_bits <= BUDGETS[-1]]
        if inside:
            best = min(inside, key=lambda p: p.relative_error)
            rows, columns = best.shape
            won.setdefault(best.family, []).append(
                f"{titles.get(layer, layer)} ({rows} × {columns})"
            )
    if not won:
        return ""
    found = "; ".join(f"{family} on {' and '.join(layers)}" for family, layers in won.items())
    return f"In this run, the least error within {BUDGETS[-1]:g} true bits: {found}."


def scaling_table(report: Report) -> str:
    """Measured here, and the arithmetic for a larger model."""
    first = report.scalings[0]
    larger, there = escape(first.larger), first.there
    heads = (
        "Codec",
        "here:<br>true bits",
        "<br>ratio",
        f"{larger} at the<br>same bits: ratio",
        f"{larger}, same<br>codec: bits",
        "<br>ratio",
        "<br>size",
    )
    overhead = first.row.bytes_on_disk - first.row.ledger.stored_bytes
    caption = (
        f"Here: measured, bytes of the weight files ({overhead:,} of them headers). "
        f"{larger}: arithmetic on the shapes of its {there.parameters / 1e6:.1f} M parameters, "
        f"{there.block_weights / 1e6:.1f} M of them block weights; not a measurement, and silent "
        "about image quality."
    )
    return table(heads, [[_scaling(scaling) for scaling in report.scalings]], caption)


def _scaling(scaling: Scaling) -> list[str]:
    row, there = scaling.row, scaling.there
    return [
        named(row.title, row.codec),
        f"{row.bits:.3f}",
        f"{row.ratio_fp32:.1f}×",
        f"{scaling.same_bits:.1f}×",
        f"{there.true_bits:.3f}",
        f"{there.ratio_fp32:.1f}×",
        f"{there.stored_bytes / 1e6:.1f} MB",
    ]
