"""The demo's report: records in, one self-contained HTML page out."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from html import escape
from importlib.resources import files
from string import Template
from typing import Any, Literal

import plotly.io
from plotly.offline import get_plotlyjs
from torch import Tensor

from dpqlab.core.ledger import ModelLedger
from dpqlab.errors import ConfigError
from dpqlab.evaluation.projection import Projection
from dpqlab.evaluation.rate_distortion import RateDistortionPoint
from dpqlab.viz.images import sheet
from dpqlab.viz.ledger import ledger_bars, ledger_parts
from dpqlab.viz.rate_distortion import rate_distortion

Group = Literal["full", "uncalibrated", "calibrated"]

GROUP_TITLES: dict[Group, str] = {
    "full": "Full precision",
    "uncalibrated": "Compressed just now, not calibrated",
    "calibrated": "Bundled, calibrated against the full-precision model",
}
PLOT_CONFIG = {"displaylogo": False, "displayModeBar": False, "responsive": True}


@dataclass(frozen=True, kw_only=True)
class ModelRow:
    """One model of the report.

    Parameters
    ----------
    name
        Bundled name or folder.
    family
        "Full precision", "RTN", "VQ" or "PQ".
    group
        Full precision, compressed without calibration, or calibrated.
    nominal_bits
        The rate it is compared at; None for full precision.
    codec
        The codec in words.
    ledger
        What it stores.
    bytes_on_disk
        Of all files that loading it reads.
    images
        uint8 (N, C, H, W), one a class.
    psnr, feature_cosine, agreement
        Against the full-precision model's images of the same seeds: mean dB, mean cosine of the
        classifier's features, share of images with the same class; None for full precision.
    seconds
        It took to compress or load, and to sample.
    """

    name: str
    family: str
    group: Group
    nominal_bits: int | None
    codec: str
    ledger: ModelLedger = field(repr=False)
    bytes_on_disk: int
    images: Tensor = field(repr=False)
    psnr: float | None = None
    feature_cosine: float | None = None
    agreement: float | None = None
    seconds: float = 0.0

    @property
    def title(self) -> str:
        """Name it for a person: "PQ, 1 bit"."""
        if self.nominal_bits is None:
            return self.family
        return f"{self.family}, {self.nominal_bits} bit"

    @property
    def bits(self) -> float:
        """True bits per weight."""
        return self.ledger.true_bits_per_weight

    @property
    def ratio_fp32(self) -> float:
        """Bytes of the model in fp32, parameters counted once, over the bytes on disk."""
        return self.ledger.fp32_bytes / self.bytes_on_disk

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the images as JSON values."""
        plain = (
            "name",
            "family",
            "group",
            "nominal_bits",
            "codec",
            "bytes_on_disk",
            "psnr",
            "feature_cosine",
            "agreement",
            "seconds",
        )
        return {key: getattr(self, key) for key in plain} | {
            "true_bits_per_weight": self.bits,
            "compressed_weights": self.ledger.compressed_weights,
            "tensor_bytes": self.ledger.stored_bytes,
            "ratio_fp32": self.ratio_fp32,
            "ratio_bf16": self.ledger.bf16_bytes / self.bytes_on_disk,
            "bits_by_part": ledger_parts(self.ledger),
        }


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """How a run was made: versions, settings, machine, time, the command that repeats it."""

    when: str
    versions: dict[str, str]
    machine: str
    seed: int
    steps: int
    guidance: float
    scheduler: str
    seconds: float
    command: str


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """One codec on this model and on a larger one: the arithmetic of the ratio.

    ``same_bits`` is the ratio to fp32 of the larger model at the true bits of ``row``, ``there`` its
    size under the same codec.
    """

    row: ModelRow
    larger: str
    there: Projection
    same_bits: float


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that the page shows; the first row is the full-precision model."""

    rows: tuple[ModelRow, ...]
    classes: tuple[str, ...]
    points: tuple[RateDistortionPoint, ...]
    group_size: int
    scalings: tuple[Scaling, ...]
    facts: RunFacts

    def __post_init__(self) -> None:
        """Refuse a report without the row that all others are compared with."""
        if not self.rows or self.rows[0].group != "full":
            raise ConfigError("the first row of a report has to be the full-precision model")
        for row in self.rows:
            if len(row.images) != len(self.classes):
                raise ConfigError(
                    f"{row.name} has {len(row.images)} images: expected one for each of the "
                    f"{len(self.classes)} classes"
                )

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the images as JSON values."""
        return {
            "headline": headline(self),
            "facts": asdict(self.facts),
            "classes": list(self.classes),
            "models": [row.to_dict() for row in self.rows],
            "scaling": [
                {
                    "model": scaling.row.name,
                    "larger": scaling.larger,
                    "ratio_fp32_here": scaling.row.ratio_fp32,
                    "ratio_fp32_there_same_true_bits": scaling.same_bits,
                    "ratio_fp32_there_same_codec": scaling.there.ratio_fp32,
                    "true_bits_there_same_codec": scaling.there.true_bits,
                }
                for scaling in self.scalings
            ],
            "rate_distortion": [point.to_dict() for point in self.points],
        }


def best_of(report: Report, group: Group, bits: int) -> ModelRow | None:
    """Return the row of a group and rate that repeats the teacher's images best."""
    found = [r for r in report.rows if (r.group, r.nominal_bits) == (group, bits)]
    return max(found, key=lambda r: r.psnr or 0.0, default=None)


def headline(report: Report) -> str:
    """Say in one sentence what this run has measured."""
    full, count = report.rows[0], len(report.classes)
    best, raw = best_of(report, "calibrated", 1), best_of(report, "uncalibrated", 1)
    size = f"{full.ledger.fp32_bytes / 1e6:.1f} MB"
    if best is None:
        return f"A diffusion transformer of {size}, compressed by vector and product quantization."
    text = (
        f"At {best.bits:.2f} bits per weight, a diffusion transformer of {size} fits in "
        f"{best.bytes_on_disk / 1e6:.2f} MB, {best.ratio_fp32:.1f}× smaller, and still draws the "
        f"same garment in {round((best.agreement or 0) * count)} of {count} classes"
    )
    if raw is None:
        return text + "."
    return f"{text}; without calibration it is {round((raw.agreement or 0) * count)} of {count}."


def render(report: Report) -> str:
    """Build the page: HTML with all images, styles and scripts inside, loading nothing."""
    folder = files("dpqlab") / "viz"
    full = report.rows[0]
    compressed = [row for row in report.rows if row.group != "full"]
    longest = max((row.ledger.stored_bytes for row in compressed), default=1)
    group = str(report.group_size)
    return Template((folder / "page.html").read_text("utf-8")).substitute(
        version=escape(report.facts.versions.get("dpqlab", "")),
        title="dpqlab: " + escape(f"{full.name} at one and two bits"),
        css=(folder / "page.css").read_text("utf-8"),
        when=escape(report.facts.when),
        headline=escape(headline(report)),
        facts=_facts(report),
        grid=_grid(report),
        grid_note=escape(_grid_note(report)),
        table=_table(report),
        plotly=get_plotlyjs(),
        ledger=_figure(
            ledger_bars({_bar_name(row): row.ledger for row in compressed}),
            "ledger",
            _ledger_words(compressed),
        ),
        ledger_note=escape(_ledger_note(report)),
        fp32_size=f"{full.ledger.fp32_bytes / 1e6:.1f} MB",
        fp32_times=f"{full.ledger.fp32_bytes / longest:.0f}",
        group_size=group,
        curves="".join(_curves(report.points)),
        curve_note=escape(_curve_note(report.points)),
        why_title=escape(_why_title(report)),
        why=_why(report),
        made=_made(report),
    )


def png_uri(image: Tensor) -> str:
    """Write one uint8 image (C, H, W) as a ``data:`` URI of a PNG."""
    buffer = io.BytesIO()
    sheet(image[None], 1, gap=0).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _facts(report: Report) -> str:
    best = best_of(report, "calibrated", 1) or report.rows[-1]
    facts = report.facts
    count = len(report.classes)
    shown = [
        (f"{best.ratio_fp32:.1f}×", "smaller than fp32, the whole file"),
        (f"{best.bits:.2f} bits", "true bits per weight of the blocks"),
        (f"{round((best.agreement or 0) * count)} of {count}", "images keep their class"),
        (_clock(facts.seconds), f"for this run, {facts.machine}"),
    ]
    return "\n".join(
        f"<div><dt>{escape(words)}</dt><dd>{escape(value)}</dd></div>" for value, words in shown
    )


def _grid_note(report: Report) -> str:
    raw = [r for r in report.rows if r.group == "uncalibrated"]
    lost = [r for r in raw if (r.agreement or 0) < 0.5]
    if not lost:
        return "Models compressed just now have seen no data."
    return (
        f"Of the {len(raw)} models compressed just now, {len(lost)} draw mostly noise: that is what "
        "one or two bits do to a diffusion transformer before calibration, and why the last rows, "
        "with the same kind of codes and nothing else stored, are worth a look."
    )


def _grid(report: Report) -> str:
    columns = len(report.classes)
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in report.classes)
    parts = [
        f'<table class="sheet" style="--columns: {columns}">',
        "<caption>Sampled at "
        f"{report.facts.steps} steps, guidance {report.facts.guidance:g}, seed {report.facts.seed}. "
        f"From left to right: {escape(', '.join(report.classes))}.</caption>",
        '<colgroup><col class="label">' + "<col>" * columns + "</colgroup>",
        f"<thead><tr><td></td>{heads}</tr></thead>",
    ]
    for group, title in GROUP_TITLES.items():
        rows = [row for row in report.rows if row.group == group]
        if not rows:
            continue
        parts.append(
            f'<tbody><tr><th scope="rowgroup" colspan="{columns + 1}">{escape(title)}</th></tr>'
        )
        previous = rows[0].nominal_bits
        for row in rows:
            if row.nominal_bits != previous:
                parts.append(f'<tr class="gap"><td colspan="{columns + 1}"></td></tr>')
            previous = row.nominal_bits
            parts.append(_grid_row(row, report.classes))
        parts.append("</tbody>")
    return "\n".join([*parts, "</table>"])


def _grid_row(row: ModelRow, classes: Sequence[str]) -> str:
    cells = "".join(
        f'<td><img src="{png_uri(image)}" width="{image.shape[-1]}" height="{image.shape[-2]}" '
        f'alt="{escape(f"{name} by {row.title}, {GROUP_TITLES[row.group].lower()}")}"></td>'
        for name, image in zip(classes, row.images, strict=True)
    )
    ratio = "" if row.group == "full" else f" · {row.ratio_fp32:.1f}×"
    return (
        f'<tr><th scope="row">{escape(row.title)}<small>{row.bits:.2f} bits · '
        f"{row.bytes_on_disk / 1e6:.2f} MB{ratio}</small></th>{cells}</tr>"
    )


def _table(report: Report) -> str:
    heads = (
        "Model",
        "Codec",
        "True bits<br>per weight",
        "Bytes<br>on disk",
        "Smaller<br>than fp32",
        "PSNR<br>to teacher",
        "Feature<br>cosine",
        "Same<br>class",
    )
    parts = ['<table class="numbers"><thead><tr>']
    parts += [
        f'<th scope="col"{" class=codec" if head == "Codec" else ""}>{head}</th>' for head in heads
    ]
    parts.append("</tr></thead>")
    for group in GROUP_TITLES:
        rows = [row for row in report.rows if row.group == group]
        if rows:
            parts.append(
                "<tbody>" + "".join(_table_row(r, len(report.classes)) for r in rows) + "</tbody>"
            )
    fp32 = report.rows[0].ledger.fp32_bytes
    parts.append(
        f"<caption>“Smaller than fp32” divides {fp32:,} bytes, all parameters of the model in fp32 and "
        "each counted once, by the bytes on disk of all files that loading reads. PSNR, cosine and class "
        f"compare {len(report.classes)} images with the full-precision model’s at the same seeds: enough "
        "to see a difference, too few to rank close ones (<code>dpqlab evaluate</code> draws thousands)."
        "</caption></table>"
    )
    return "".join(parts)


def _table_row(row: ModelRow, count: int) -> str:
    state = {"full": "", "uncalibrated": "", "calibrated": " calibrated"}[row.group]
    cells = [
        f'<td class="codec">{escape(row.codec)}</td>',
        f"<td>{row.bits:.3f}</td>",
        f"<td>{row.bytes_on_disk:,}</td>",
        f"<td>{row.ratio_fp32:.1f}×</td>",
        f"<td>{_number(row.psnr, '.1f', ' dB')}</td>",
        f"<td>{_number(row.feature_cosine, '.3f')}</td>",
        f"<td>{'–' if row.agreement is None else f'{round(row.agreement * count)} of {count}'}</td>",
    ]
    return f'<tr><th scope="row">{escape(row.title)}{state}</th>{"".join(cells)}</tr>'


def _ledger_note(report: Report) -> str:
    pairs = [(best_of(report, "uncalibrated", bits), bits) for bits in (1, 2)]
    row = best_of(report, "calibrated", 1) or next((r for r, _ in pairs if r), report.rows[-1])
    parts = ledger_parts(row.ledger)
    total = sum(parts.values()) or 1
    return (
        f"A code of “1 bit” is never all there is. Of the {row.ledger.stored_bytes / 1e6:.2f} MB of "
        f"{row.title} ({row.codec}) the codes are {parts['codes'] / total:.0%}, the codebooks "
        f"{parts['pool'] / total:.0%}, scales and biases {(parts['scale'] + parts['bias']) / total:.0%}, "
        f"and {parts['kept'] / total:.0%} was never compressed."
    )


def _ledger_words(rows: Sequence[ModelRow]) -> str:
    listed = ", ".join(f"{_bar_name(row)} {row.ledger.stored_bytes / 1e6:.2f} MB" for row in rows)
    return f"Stacked bars of stored bytes: {listed}"


def _bar_name(row: ModelRow) -> str:
    return row.title + (" calibrated" if row.group == "calibrated" else "")


def _curves(points: Sequence[RateDistortionPoint]) -> Iterator[str]:
    for index, layer in enumerate(dict.fromkeys(point.layer for point in points)):
        mine = [point for point in points if point.layer == layer]
        words = "; ".join(
            f"{p.codec}: {p.true_bits:.2f} bits, error {p.relative_error:.3f}" for p in mine
        )
        yield f"<div>{_figure(rate_distortion(mine), f'curve-{index}', words)}</div>"


def _curve_note(points: Sequence[RateDistortionPoint]) -> str:
    """Say which family loses least near one and two bits, layer by layer, from the points."""
    said = []
    for layer in dict.fromkeys(point.layer for point in points):
        for target in (1.25, 2.0):
            near = [p for p in points if p.layer == layer and target * 0.6 <= p.true_bits <= target]
            if near:
                best = min(near, key=lambda p: p.relative_error)
                said.append(
                    f"{layer} at up to {target:g} bits: {best.codec} ({best.relative_error:.2f})"
                )
    return (
        "True bits of one layer with its fp16 bias. Lines join the points that no other of the same "
        "family beats. Least error in this run: " + "; ".join(said) + "."
    )


def _figure(figure: Any, name: str, words: str) -> str:
    html = plotly.io.to_html(
        figure, full_html=False, include_plotlyjs=False, config=PLOT_CONFIG, div_id=name
    )
    return f'<div role="img" aria-label="{escape(words)}">{html}</div>'


def _why_title(report: Report) -> str:
    if not report.scalings:
        return "Why larger models shrink further"
    first = report.scalings[0]
    return f"Why {first.row.ratio_fp32:.0f}× here can be {first.same_bits:.0f}× on {first.larger}"


def _why(report: Report) -> str:
    if not report.scalings:
        return "<p>No calibrated model was there to compare with.</p>"
    first = report.scalings[0]
    ledger = first.row.ledger
    kept = sum(tensor.numel for tensor in ledger.kept if not tensor.in_blocks)
    header = first.row.bytes_on_disk - ledger.stored_bytes
    text = (
        f"<p>Only the blocks are compressed. In this model {kept / 1e6:.2f} M of "
        f"{ledger.parameters / 1e6:.1f} M parameters, {kept / ledger.parameters:.1%}, lie outside (embedders, "
        f"patch embedding, output layers) and stay in bf16; they are "
        f"{2 * kept / first.row.bytes_on_disk:.0%} of the file. In {escape(first.larger)} they are "
        f"{first.there.kept / 16 / first.there.parameters:.1%} of the parameters. With W weights in the blocks at b true "
        "bits, K parameters kept, and P = all parameters, the ratio to fp32 is</p>"
        "<p><strong>32 P / (b W + 16 K)</strong></p>"
        f"<p>At this model’s b = {first.row.bits:.3f} that is {first.same_bits:.1f}× on "
        f"{escape(first.larger)}. In fact b itself falls there: a codebook of one column position serves "
        "more rows, and a scale or a bias more columns.</p>"
    )
    rows = "".join(_scaling_row(scaling) for scaling in report.scalings)
    return text + (
        '<div class="scroll" tabindex="0" role="region" aria-label="Ratio by model size">'
        '<table class="numbers"><thead><tr><th scope="col">Codec</th>'
        f'<th scope="col">Measured here:<br>true bits</th><th scope="col"><br>ratio</th>'
        f'<th scope="col">{escape(first.larger)}, same<br>true bits: ratio</th>'
        f'<th scope="col">{escape(first.larger)}, same<br>codec: true bits</th><th scope="col"><br>ratio</th>'
        f'<th scope="col"><br>size</th></tr></thead><tbody>{rows}</tbody>'
        f"<caption>Here: bytes on disk, of which {header:,} are file headers and configuration. There: "
        f"arithmetic on the shapes of its {first.there.parameters / 1e6:.1f} M parameters "
        f"({first.there.block_weights / 1e6:.1f} M block weights), not a measurement; it says nothing "
        "about image quality.</caption></table></div>"
    )


def _scaling_row(scaling: Scaling) -> str:
    there = scaling.there
    return (
        f'<tr><th scope="row">{escape(_bar_name(scaling.row))}: {escape(scaling.row.codec)}</th>'
        f"<td>{scaling.row.bits:.3f}</td><td>{scaling.row.ratio_fp32:.1f}×</td>"
        f"<td>{scaling.same_bits:.1f}×</td><td>{there.true_bits:.3f}</td>"
        f"<td>{there.ratio_fp32:.1f}×</td><td>{there.stored_bytes / 1e6:.1f} MB</td></tr>"
    )


def _made(report: Report) -> str:
    facts = report.facts
    versions = ", ".join(f"{name} {version}" for name, version in facts.versions.items())
    bundled = " ".join(row.name for row in report.rows if row.group == "calibrated")
    commands = [
        ("this page", facts.command),
        (
            "other images",
            f"dpqlab sample {report.rows[0].name} {bundled} --classes 0-9 --seed 1".replace(
                "  ", " "
            ),
        ),
        (
            "every layer",
            f"dpqlab inspect {best.name}"
            if (best := best_of(report, "calibrated", 1))
            else "dpqlab models",
        ),
        (
            "thousands of images",
            f"dpqlab evaluate {best.name if best else report.rows[0].name} --quick",
        ),
        (
            "your own codec",
            f"dpqlab compress {report.rows[0].name} out/mine --preset pq-1bit --d 4 --k 16",
        ),
    ]
    listing = "\n".join(
        f"{escape(command)}  <span class=soft># {escape(what)}</span>" for what, command in commands
    )
    return (
        f"<p>{escape(versions)}; {escape(facts.machine)}; {escape(_clock(facts.seconds))}. Sampler "
        f"{escape(facts.scheduler)}, {facts.steps} steps, guidance {facts.guidance:g}, seed {facts.seed} for "
        "the noise and for every clustering; the same seed on the same machine gives the same page. No "
        "network was used, and this page loads nothing. All numbers are in <code>summary.json</code> "
        "beside it.</p>"
        f"<p>Where to look next:</p><pre><code>{listing}</code></pre>"
    )


def _number(value: float | None, spec: str, unit: str = "") -> str:
    return "–" if value is None else format(value, spec) + unit


def _clock(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60:02d} s"
