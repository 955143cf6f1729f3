"""The section of the demo's page that shows the ablation."""

from __future__ import annotations

from html import escape

from dpqlab.evaluation.ablation import Ablation, AblationResult
from dpqlab.viz.ablation import CHAINS, ablation, chains
from dpqlab.viz.page_figures import figure_html
from dpqlab.viz.page_tables import interval, table

MISSING = "–"


def ablation_section(study: Ablation | None) -> str:
    """Write the section with its figure and its table; nothing where there is no ablation."""
    if study is None or not study.results:
        return ""
    words = "; ".join(f"{row.name} {row.fcd.value:.3f}" for row in study.results)
    figure = figure_html(ablation(study), "ablation", f"FCD of the ablation’s rows: {words}")
    return (
        "<section><h2>Which part earns what</h2>"
        f"<p>{escape(introduction(study))}</p>"
        f"<figure>{figure}<figcaption>The axis is logarithmic, whiskers are 95 % "
        "intervals. Point at a row for what it changes. The dashed line is the full-precision "
        "teacher, the dotted one real test images: nothing can be seen below it."
        "</figcaption></figure>"
        f"<p>{escape(verdict(study))}</p>{ablation_table(study)}</section>"
    )


def introduction(study: Ablation) -> str:
    """Say what the rows are, how they were judged, and how many of them there are."""
    steps = {row.calibration_steps for row in study.results if row.calibration_steps is not None}
    trained = " or ".join(f"{count:,}" for count in sorted(steps))
    devices = ", ".join(dict.fromkeys(row.device for row in study.results))
    measured, planned = len(study.results), study.planned
    how_many = "all" if measured == planned else f"{measured} of"
    return (
        "Near one bit, the method in its parts: each row changes one thing of the row that it is "
        f"compared with. All were calibrated for {trained} steps on the same batches, where they "
        f"were calibrated at all, and judged by {study.images:,} images of "
        f"{study.sampling_steps} steps. That takes a GPU and was not part of this run: these are "
        f"the records that ship with dpqlab ({devices}), {how_many} {planned} rows. Three words: a "
        "latent is a full-precision copy of a sub-vector that learns by gradient, and its code "
        "follows it to the nearest codeword; an E-step chooses codes again by what layers put out; "
        "revival gives codewords that nothing uses a new start."
    )


def verdict(study: Ablation) -> str:
    """Name the change that helps most of those whose two rows were both measured."""
    pairs = [(row, base) for row in study.results if (base := study.result(row.base)) is not None]
    helping = [(row, base) for row, base in pairs if row.fcd.high < base.fcd.low]
    if not helping:
        return ""
    row, base = min(helping, key=lambda pair: pair[0].fcd.value / pair[1].fcd.value)
    return (
        f"The largest step of these: “{row.change}” takes FCD from {base.fcd.value:.3f} "
        f"({base.name}) to {row.fcd.value:.3f} ({row.name})."
    )


def ablation_table(study: Ablation) -> str:
    """The figure's numbers, and what each row changes."""
    heads = (
        "Row and what it changes",
        "Compared<br>with",
        "True<br>bits",
        f"FCD-{study.images // 1000}k",
        "over that<br>row’s",
        "Excess FCD",
        "Calibration",
    )
    bodies = [[_cells(row, study) for row in rows] for rows in chains(study.results).values()]
    note = (
        f"The teacher’s own FCD is {interval(study.teacher)}, that of real test images "
        f"{interval(study.noise_floor)}. “Over that row’s” is the FCD divided by that of the row "
        "it is compared with, where that one was measured; ≈ stands where the two intervals "
        "overlap. Chains: "
        + "; ".join(f"{name}, {title}" for name, (_, title) in CHAINS.items())
        + ". “dpqlab ablate” runs a row again."
    )
    return table(heads, bodies, note)


def _cells(row: AblationResult, study: Ablation) -> list[str]:
    seconds = row.calibration_seconds
    return [
        f'{escape(row.name)}<small class="under">{escape(row.change)}</small>',
        escape(row.base) or MISSING,
        f"{row.true_bits:.3f}",
        interval(row.fcd),
        _ratio(row, study.result(row.base)),
        MISSING if row.excess_fcd is None else interval(row.excess_fcd),
        MISSING if seconds is None else f"{seconds:.0f} s",
    ]


def _ratio(row: AblationResult, base: AblationResult | None) -> str:
    if base is None:
        return MISSING
    apart = row.fcd.high < base.fcd.low or row.fcd.low > base.fcd.high
    return ("" if apart else "≈ ") + f"{row.fcd.value / base.fcd.value:.2f}×"
