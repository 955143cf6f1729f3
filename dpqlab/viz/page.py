"""The demo's report as one HTML page with everything inside: it loads nothing from anywhere."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from string import Template

from plotly.offline import get_plotlyjs
from torch import Tensor

from dpqlab.core.ledger import ModelLedger
from dpqlab.evaluation.sizes import ledger_parts
from dpqlab.report import Group, ModelRow, Report, best_of, clock, headline
from dpqlab.viz.images import sheet
from dpqlab.viz.ledger import ledger_bars
from dpqlab.viz.page_ablation import ablation_section
from dpqlab.viz.page_figures import figure_html
from dpqlab.viz.page_tables import curve_table, curve_verdict, results_table, scaling_table
from dpqlab.viz.rate_distortion import rate_distortion

GROUP_TITLES: dict[Group, str] = {
    "full": "",
    "uncalibrated": "Compressed just now, not calibrated",
    "calibrated": "Bundled: compressed and calibrated before, a few minutes each on a GPU",
}
FAMILY_NOTES = {
    "DPQ": "“DPQ” is the method of the paper: 256 codewords for each column position, pruned to a "
    "quarter of the bits of the codes; calibration chooses codes and trains codewords in turns.",
    "Best": "“Best” is what our ablation found best: vector quantization whose codebooks the same "
    "layer of all blocks shares, with a scale a row, fewer bits for the adaLN layers and more for "
    "the others, and codes that move together with the codewords while they are calibrated.",
}
MOST_ACROSS = 12
"""Classes whose names fit beside each other above their columns; more stand upright."""
LAYER_TITLES = {
    "attn1.to_q": "Attention, query",
    "ff.net.0.proj": "Feed-forward, up",
    "norm1.linear": "adaLN modulation",
}


def render(report: Report) -> str:
    """Build the page: images, styles and scripts inside, no request to anywhere."""
    folder = files("dpqlab") / "viz"
    full = report.rows[0]
    compressed = [row for row in report.rows if row.group != "full"]
    longest = max((row.ledger.stored_bytes for row in compressed), default=1)
    parts = {
        "version": escape(report.facts.versions.get("dpqlab", "")),
        "title": escape(f"{full.name} at one and two bits: dpqlab demo"),
        "css": (folder / "page.css").read_text("utf-8"),
        "when": escape(report.facts.when),
        "headline": escape(headline(report)).replace(" MB", "&nbsp;MB"),
        "facts": facts(report),
        "grid_note": escape(grid_note(report)),
        "family_notes": family_notes(report),
        "grid": grid(report),
        "table": results_table(report, GROUP_TITLES),
        "plotly": get_plotlyjs(),
        "ledger_note": escape(ledger_note(report)),
        "ledger": ledger_figure(compressed),
        "twins": twins_note(compressed),
        "fp32_size": f"{full.ledger.fp32_bytes / 1e6:.1f} MB",
        "fp32_times": f"{full.ledger.fp32_bytes / longest:.0f}",
        "group_size": str(report.group_size),
        "curves": curves(report),
        "curve_verdict": escape(curve_verdict(report.points, LAYER_TITLES)),
        "curve_table": curve_table(report.points, LAYER_TITLES),
        "ablation": ablation_section(report.ablation),
        "why_title": escape(why_title(report)),
        "why": why(report),
        "made": made(report),
        "commands": commands(report),
    }
    return Template((folder / "page.html").read_text("utf-8")).substitute(parts)


def png_uri(image: Tensor) -> str:
    """Write one uint8 image (C, H, W) as a ``data:`` URI of a PNG."""
    buffer = io.BytesIO()
    sheet(image[None], 1, gap=0).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def facts(report: Report) -> str:
    """Four numbers that sum the run up."""
    best = best_of(report, "calibrated", 1) or report.rows[-1]
    shown = {
        "smaller than all weights in fp32": f"{best.ratio_fp32:.1f}×",
        "true bits per weight of the blocks": f"{best.bits:.2f}",
        "images keep their class": f"{best.kept_classes()} of {len(report.classes)}",
        f"for this run on {report.facts.machine}": clock(report.facts.seconds),
    }
    return "\n".join(
        f"<div><dt>{escape(words)}</dt><dd>{escape(value)}</dd></div>"
        for words, value in shown.items()
    )


def grid_note(report: Report) -> str:
    """Say what happened to the models that were compressed in this run."""
    raw = [row for row in report.rows if row.group == "uncalibrated"]
    if not raw:
        return ""
    kept = max(row.kept_classes() or 0 for row in raw)
    return (
        f"Of the models compressed just now, the best keeps the class of {kept} of "
        f"{len(report.classes)} images: that is what one or two bits do to a diffusion "
        "transformer. Calibration then moves codewords, scales and biases, and in some models the "
        "codes too, until the model draws again what full precision draws. It adds not a byte."
    )


def family_notes(report: Report) -> str:
    """Say what those families are that their names do not tell."""
    shown = {row.family for row in report.rows}
    texts = [escape(text) for family, text in FAMILY_NOTES.items() if family in shown]
    return "".join(f"<p>{text}</p>" for text in texts)


def grid(report: Report) -> str:
    """One table row of images for each model."""
    columns = len(report.classes)
    kind = "sheet many" if columns > MOST_ACROSS else "sheet"
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in report.classes)
    settings = report.facts
    caption = (
        f"{settings.scheduler}, {settings.steps} steps, guidance {settings.guidance:g}, seed "
        f"{settings.seed}. From left to right: {', '.join(report.classes)}."
    )
    parts = [
        f'<table class="{kind}" style="--columns: {columns}"><caption>{escape(caption)}</caption>',
        '<colgroup><col class="label">' + "<col>" * columns + "</colgroup>",
        f"<thead><tr><td></td>{heads}</tr></thead>",
    ]
    for group, title in GROUP_TITLES.items():
        rows = [row for row in report.rows if row.group == group]
        if rows:
            parts += ["<tbody>", *_group_rows(rows, title, report.classes), "</tbody>"]
    return "\n".join([*parts, "</table>"])


def _group_rows(rows: Sequence[ModelRow], title: str, classes: Sequence[str]) -> list[str]:
    span = len(classes) + 1
    parts = []
    if title:
        parts.append(f'<tr><th scope="rowgroup" colspan="{span}">{escape(title)}</th></tr>')
    for previous, row in zip([rows[0], *rows], rows, strict=False):
        if row.nominal_bits != previous.nominal_bits:
            parts.append(f'<tr class="gap"><td colspan="{span}"></td></tr>')
        parts.append(_grid_row(row, classes))
    return parts


def _grid_row(row: ModelRow, classes: Sequence[str]) -> str:
    words = row.full_title + (", not calibrated" if row.group == "uncalibrated" else "")
    cells = "".join(
        f'<td><img src="{png_uri(image)}" width="{image.shape[-1]}" height="{image.shape[-2]}" '
        f'alt="{escape(f"{name}: {words}")}"></td>'
        for name, image in zip(classes, row.images, strict=True)
    )
    sizes = f"{row.bits:.2f} bits · {row.bytes_on_disk / 1e6:.2f} MB"
    if row.group != "full":
        sizes += f" · {row.ratio_fp32:.1f}×"
    return f'<tr><th scope="row">{escape(row.title)}<small>{sizes}</small></th>{cells}</tr>'


def ledger_note(report: Report) -> str:
    """Take the best model of the lowest rate apart."""
    row = best_of(report, "calibrated", 1) or report.rows[-1]
    parts = ledger_parts(row.ledger)
    total = sum(parts.values()) or 1
    share = {part: f"{bits / total:.0%}" for part, bits in parts.items()}
    small = f"{(parts['scale'] + parts['bias']) / total:.0%}"
    return (
        f"Codes are never all there is. Of the {row.ledger.stored_bytes / 1e6:.2f} MB of "
        f"{row.title} ({row.codec}) {share['codes']} are codes, {share['pool']} codebooks, {small} "
        f"scales and biases, and {share['kept']} was never compressed."
    )


def distinct_ledgers(rows: Sequence[ModelRow]) -> dict[str, ModelLedger]:
    """Return ledgers by title; of models with the same title and the same bits, the first."""
    named: dict[str, ModelLedger] = {}
    for row in rows:
        if row.title not in named:
            named[row.title] = row.ledger
        elif ledger_parts(named[row.title]) != ledger_parts(row.ledger):
            named[row.full_title] = row.ledger
    return named


def ledger_figure(rows: Sequence[ModelRow]) -> str:
    """Bars of all models by rate; one that stores the same as an earlier one shares its bar."""
    named = distinct_ledgers(sorted(rows, key=lambda row: -(row.nominal_bits or 0)))
    sizes = [f"{name} {ledger.stored_bytes / 1e6:.2f} MB" for name, ledger in named.items()]
    return figure_html(ledger_bars(named), "ledger", f"Stored bytes by part: {', '.join(sizes)}")


def twins_note(rows: Sequence[ModelRow]) -> str:
    """Say why there are fewer bars than models, if there are."""
    if len(distinct_ledgers(rows)) == len(rows):
        return ""
    return "A model and its calibrated twin store the same: one bar stands for both. "


def curves(report: Report) -> str:
    """A rate-distortion figure for each layer."""
    parts = []
    for index, layer in enumerate(dict.fromkeys(point.layer for point in report.points)):
        mine = [point for point in report.points if point.layer == layer]
        rows, columns = mine[0].shape
        title = f"{LAYER_TITLES.get(layer, layer)}, {rows} × {columns}"
        words = "; ".join(f"{p.codec} {p.true_bits:.2f} bits {p.relative_error:.3f}" for p in mine)
        html = figure_html(
            rate_distortion(mine, title=title), f"curve-{index}", f"Error by bits, {title}: {words}"
        )
        parts.append(f"<div>{html}</div>")
    return "".join(parts)


def why_title(report: Report) -> str:
    """Head the section on size."""
    if not report.scalings:
        return "Why larger models shrink further"
    first = report.scalings[0]
    return f"Why {first.row.ratio_fp32:.0f}× here can be {first.same_bits:.0f}× on {first.larger}"


def why(report: Report) -> str:
    """Work the two ratios out."""
    if not report.scalings:
        return "<p>There was no codebook model to work it out with.</p>"
    first = report.scalings[0]
    row, ledger, there = first.row, first.row.ledger, first.there
    larger = escape(first.larger)
    kept = sum(tensor.numel for tensor in ledger.kept if not tensor.in_blocks)
    share = there.kept / (16 * there.parameters)
    return (
        f"<p>Only the blocks are compressed. Here {kept / 1e6:.2f} M of "
        f"{ledger.parameters / 1e6:.1f} M parameters ({kept / ledger.parameters:.1%}) lie outside: "
        "embedders, patch embedding, output layers. They stay in bf16, and in "
        f"{escape(row.title)} they are {2 * kept / row.bytes_on_disk:.0%} of the file. In {larger} "
        f"they are {share:.1%} of the parameters. With W weights in the blocks at b true bits "
        "each, K parameters kept and P parameters in all, the ratio to fp32 is</p>"
        '<p class="formula">32 P / (b W + 16 K)</p>'
        f"<p>which for b = {row.bits:.3f} comes to {first.same_bits:.1f} on {larger}. And b itself "
        "falls there: a codebook serves more rows, a scale or a bias more "
        f"columns. The same codec would need {there.true_bits:.3f} bits.</p>"
        + scaling_table(report)
    )


def made(report: Report) -> str:
    """Versions, settings, seed."""
    run = report.facts
    versions = ", ".join(f"{name} {version}" for name, version in run.versions.items())
    text = (
        f"{versions}; {run.machine}; {clock(run.seconds)}. Seed {run.seed} for the noise and for "
        "every clustering; the same seed on the same machine gives the same images and sizes. "
        "Models compressed in this run were saved, loaded back and sampled from what was loaded. "
        "No network was used, and this page loads nothing."
    )
    return f"<p>{escape(text)} All numbers are in <code>summary.json</code> beside it.</p>"


def commands(report: Report) -> str:
    """Commands that repeat the run, or go on from it."""
    full = report.rows[0].name
    best = best_of(report, "calibrated", 1)
    name = best.name if best else full
    listed = {
        report.facts.command: "this page again",
        f"dpqlab sample {full} {name} --seed 1 --out pairs.png": "other images",
        f"dpqlab inspect {name} --layers": "every layer, every bit",
        f"dpqlab evaluate {name} --quick": "2,000 images, judged",
        f"dpqlab compress {full} out/mine --d 4 --k 16": "a codec of your own",
    }
    width = max(map(len, listed))
    return "\n".join(
        f'{escape(line.ljust(width))}  <span class="soft"># {escape(what)}</span>'
        for line, what in listed.items()
    )
