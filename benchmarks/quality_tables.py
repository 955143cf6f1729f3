"""Tables about quality: an overview, models, bars, parts of the method, judges, rivals.

With the standard library alone, as a commit hook runs them: names of rows stand here a second time,
and a test compares them.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from benchmarks import record
from benchmarks.markdown import (
    MISSING,
    Record,
    fixed,
    interval,
    megabytes,
    percent,
    quantity,
    table,
)

METRIC = "fcd_10k"
CALIBRATED = "-calibrated"


def _fashion_rows() -> dict[str, str]:
    """Every preset, by rate, without calibration before with it."""
    rows = {"teacher": "full precision"}
    for rate, words in (
        ("4", "4 bits"),
        ("3", "3 bits"),
        ("2", "2 bits"),
        ("1.25", "1.25 bits"),
        ("1", "1 bit"),
    ):
        for suffix, state in (("", ""), (CALIBRATED, ", calibrated")):
            for family in ("RTN", "VQ", "PQ", "DPQ", "Best"):
                rows[f"{family.lower()}-{rate}bit{suffix}"] = f"{family}, {words}{state}"
    return rows


# Titles of the rows of the suite "fashion" in the order of the table; others follow as recorded.
FASHION_ROWS = _fashion_rows()

# Checkpoints that others have replaced: their records stay, the tables leave them out.
RETIRED = ("pq-2bit-calibrated", "pq-1bit-calibrated")

# Rows of the suite "ablation" in the order of the table; others follow as they were recorded.
ABLATION_ROWS = (
    "dpq k-means", "dpq pool", "dpq pruned", "dpq ddpm", "dpq distil", "dpq distil e-step",
    "dpq distil revival", "dpq paper", "dpq latent", "vq distil", "vq paper", "vq latent",
    "best distil", "best latent .01", "best latent", "best-1bit", "best pq adaln",
    "best fast latent",
    "best lazy codes", "best guided", "best no features", "best revival",
)  # fmt: skip

# Most true bits, and FCD over the teacher's: what was aimed at, and the worst acceptable.
BARS = {
    "best-2bit": (2.05, 1.05, 1.3),
    "best-1.25bit": (1.28, 1.3, 2.0),
    "best-1bit": (1.10, 1.6, 3.0),
}

# Rows of the suite "fashion" that tell the story in brief.
OVERVIEW = (
    "teacher", "vq-1bit", "vq-1bit-calibrated", "dpq-1bit-calibrated", "best-2bit-calibrated",
    "best-1.25bit-calibrated", "best-1bit-calibrated",
)  # fmt: skip

CONTROLS = {
    "teacher": "control: full precision at other seeds",
    "teacher-20-steps": "control: full precision with 20 steps for 50",
}


def measured_rows(suite: str, folder: Path, metric: str = METRIC) -> dict[str, Record]:
    """The latest record of each row of a suite, by the row's name."""
    found = record.latest(suite, folder)
    return {row: measured for (row, kind), measured in found.items() if kind == metric}


def ordered(found: Iterable[str], first: Iterable[str]) -> list[str]:
    """The names in the order of `first`; what is not in it follows as it was found."""
    order = {row: place for place, row in enumerate(first)}
    return sorted(found, key=lambda row: order.get(row, len(order)))


def _quality(folder: Path, suite: str = "fashion") -> dict[str, Record]:
    found = measured_rows(suite, folder)
    return {row: measured for row, measured in found.items() if row not in RETIRED}


def overview_table(folder: Path = record.RESULTS) -> str:
    """The bundled model `fashion-dit` in a few lines: size, distance, and what a reader can see."""
    found = measured_rows("fashion", folder)
    chosen = {row: found[row] for row in OVERVIEW if row in found}
    teacher = chosen.get("teacher")
    header = (
        "model", "true bits", "on disk", "smaller than fp32", "FCD-10k", "over full precision's",
        "same class drawn",
    )  # fmt: skip
    rows = []
    for row, measured in chosen.items():
        details = measured["details"]
        ratio = None if teacher is None else measured["value"] / teacher["value"]
        rows.append(
            (
                FASHION_ROWS[row],
                fixed(details.get("true_bits"), 3),
                megabytes(details.get("bytes_on_disk")),
                fixed(details.get("ratio_fp32"), 1, "×"),
                interval(details.get("fcd", measured["value"]), 3),
                quantity(ratio, "x"),
                percent(details.get("agreement")),
            )
        )
    return table(header, rows, list(chosen.values()))


def fashion_table(folder: Path = record.RESULTS) -> str:
    """Size and quality of every compressed form of the bundled model `fashion-dit`."""
    return _quality_table(_quality(folder))


def avatars_table(folder: Path = record.RESULTS) -> str:
    """The same of `avatars-dit`; its FCD is another network's and not to be compared."""
    return _quality_table(_quality(folder, "avatars"))


def avatars_calibration_table(folder: Path = record.RESULTS) -> str:
    """How far students of `avatars-dit` are from their teacher, before and after calibration."""
    found = measured_rows("calibration-avatars", folder, "held_out_loss")
    order = ordered(found, (row.removesuffix(CALIBRATED) for row in FASHION_ROWS))
    header = (
        "model", "true bits", "error of its output", "calibrated", "relative error of its blocks",
        "calibrated",
    )  # fmt: skip
    rows = []
    for row in order:
        course = found[row]["details"]["course"]
        first, best = course[0], min(course, key=lambda step: step["total"])
        rows.append(
            (
                FASHION_ROWS.get(row, row),
                fixed(best["true_bits"], 3),
                *(fixed(step["output"], 4) for step in (first, best)),
                *(fixed(step["features"], 3) for step in (first, best)),
            )
        )
    return table(header, rows, [found[row] for row in order])


def _quality_table(found: dict[str, Record]) -> str:
    order = ordered(found, FASHION_ROWS)
    header = (
        "model", "true bits", "on disk", "smaller than fp32", "FCD-10k", "excess FCD",
        "precision / recall", "PSNR", "feature cosine", "agreement",
    )  # fmt: skip
    rows = [_fashion_row(FASHION_ROWS.get(row, row), found[row]) for row in order]
    floors = [found[row]["details"].get("noise_floor") for row in order]
    if any(floors):
        floor = interval(next(filter(None, floors)), 3)
        rows.append(("real test images: the noise floor", *[MISSING] * 3, floor, *[MISSING] * 5))
    return table(header, rows, [found[row] for row in order])


def _fashion_row(label: str, measured: Record) -> tuple[str, ...]:
    details = measured["details"]
    precision, recall = (fixed(details.get(key), 3) for key in ("precision", "recall"))
    return (
        label,
        fixed(details.get("true_bits"), 3),
        megabytes(details.get("bytes_on_disk")),
        fixed(details.get("ratio_fp32"), 1, "×"),
        interval(details.get("fcd", measured["value"]), 3),
        interval(details.get("excess_fcd"), 3),
        f"{precision} / {recall}",
        fixed(details.get("psnr"), 1, " dB"),
        fixed(details.get("feature_cosine"), 3),
        percent(details.get("agreement")),
    )


def best_table(folder: Path = record.RESULTS) -> str:
    """Whether the best presets hold the bars that were set for them, of size and of quality."""
    found = measured_rows("fashion", folder)
    teacher = found.get("teacher")
    header = (
        "preset, calibrated", "true bits", "at most", "FCD-10k", "over the teacher's", "goal",
        "at worst", "verdict",
    )  # fmt: skip
    made = [name for name in BARS if name + CALIBRATED in found]
    rows = [_best_row(name, found[name + CALIBRATED], teacher) for name in made]
    sources = [found[name + CALIBRATED] for name in made]
    if sources and teacher is not None:
        sources.insert(0, teacher)
    return table(header, rows, sources)


def _best_row(name: str, measured: Record, teacher: Record | None) -> tuple[str, ...]:
    most, goal, floor = BARS[name]
    bits = measured["details"].get("true_bits")
    ratio = None if teacher is None else measured["value"] / teacher["value"]
    return (
        f"`{name}`",
        fixed(bits, 3),
        fixed(most, 2),
        interval(measured["details"].get("fcd", measured["value"]), 3),
        fixed(ratio, 2, "×"),
        fixed(goal, 2, "×"),
        fixed(floor, 2, "×"),
        _verdict(bits, ratio, BARS[name]),
    )


def _verdict(bits: float | None, ratio: float | None, bars: tuple[float, float, float]) -> str:
    most, goal, floor = bars
    if bits is None or ratio is None:
        return MISSING
    if bits > most:
        return "too large"
    if ratio <= goal:
        return "goal reached"
    return "acceptable" if ratio <= floor else "missed"


def ablation_table(folder: Path = record.RESULTS) -> str:
    """What each part of the method earns."""
    found = measured_rows("ablation", folder)
    order = ordered(found, ABLATION_ROWS)
    header = (
        "row", "what it changes", "compared with", "true bits", "FCD-10k", "excess FCD", "PSNR",
        "steps", "calibration",
    )  # fmt: skip
    rows = [_ablation_row(row, found[row]["details"], found[row]["value"]) for row in order]
    return table(header, rows, [found[row] for row in order], words=3)


def _ablation_row(name: str, details: Record, value: float) -> tuple[str, ...]:
    return (
        name,
        details.get("change") or MISSING,
        details.get("base") or MISSING,
        fixed(details.get("true_bits"), 3),
        interval(details.get("fcd", value), 3),
        interval(details.get("excess_fcd"), 3),
        fixed(details.get("psnr"), 1, " dB"),
        # none where a row is not calibrated
        _count((details.get("calibration") or {}).get("steps")),
        fixed(details.get("calibration_seconds"), 0, " s"),
    )


def calibrated_pairs_table(folder: Path = record.RESULTS) -> str:
    """VQ and PQ of equal true bits after calibration, with codes that stay and codes that move."""
    found = measured_rows("vq_vs_pq", folder)
    codecs: dict[tuple[str, str], dict[str, Record]] = {}
    for measured in found.values():
        details = measured["details"]
        key = (details["vq"], details["plan"])
        codecs.setdefault(key, {})[details["change"]] = measured
    header = (
        "codec", "beside", "true bits", "FCD-10k, codes fixed", "excess FCD",
        "FCD-10k, codes move", "excess FCD",
    )  # fmt: skip
    order = sorted(codecs, key=lambda key: (key[0], key[0] != key[1], key[1]))  # VQ, then its PQ
    rows = [_pair_row(*key, codecs[key]) for key in order]
    return table(header, rows, list(found.values()), words=2)


def _pair_row(vq: str, codec: str, ways: dict[str, Record]) -> tuple[str, ...]:
    cells = []
    for way in ("codes fixed", "latents"):
        details = ways[way]["details"] if way in ways else {}
        cells += [interval(details.get(name), 3) for name in ("fcd", "excess_fcd")]
    bits = next(iter(ways.values()))["details"].get("true_bits")
    return (codec, MISSING if codec == vq else vq, fixed(bits, 3), *cells)


def _count(value: int | None) -> str:
    return MISSING if value is None else f"{value:,}"


def judges_table(folder: Path = record.RESULTS) -> str:
    """What two judges beside the FCD say: the controls first."""
    found = record.latest("judges", folder)
    titles = CONTROLS | {row: t for row, t in FASHION_ROWS.items() if row not in CONTROLS}
    header = (
        "samples of", "told from the teacher's", "goal", "told apart", "KID to the teacher",
        "KID to real images",
    )  # fmt: skip
    rows = []
    for row in ordered(dict.fromkeys(row for row, _ in found), titles):
        told = found.get((row, "two_sample_accuracy"))
        distances = (found.get((row, f"kid_mobilenet_{side}")) for side in ("teacher", "real"))
        goal = None if told is None else told["goal"]
        rows.append(
            (
                titles.get(row, row),
                _share(told),
                MISSING if goal is None else f"≤ {percent(goal)}",
                MISSING if told is None else "yes" if told["details"].get("told_apart") else "no",
                *(_kernel_distance(distance) for distance in distances),
            )
        )
    return table(header, rows, list(found.values()))


def _share(told: Record | None) -> str:
    """A share with its interval in percent: ``51.2 % ± 1.4``."""
    if told is None:
        return MISSING
    low, high = (told["details"].get(end) for end in ("low", "high"))
    if low is None or high is None:
        return percent(told["value"])
    half = max(told["value"] - low, high - told["value"])
    return f"{percent(told['value'])} ± {100 * half:.1f}"


def _kernel_distance(measured: Record | None) -> str:
    """In thousandths, ± 95 %."""
    if measured is None:
        return MISSING
    half = 1.96 * measured["details"].get("standard_error", 0.0)
    return f"{fixed(1e3 * measured['value'], 2)} ± {1e3 * half:.2f} ×10⁻³"


def rivals_table(folder: Path = record.RESULTS) -> str:
    """Other methods on the same model, with what ships here among them, the smallest last."""
    rivals = measured_rows("rivals", folder)
    ours = _quality(folder) if rivals else {}
    shown = {row: r for row, r in ours.items() if row == "teacher" or row.endswith(CALIBRATED)}
    both = [(row, r) for row, r in rivals.items()]
    runs = measured_rows("calibration", folder, "held_out_loss") if rivals else {}
    for row, r in shown.items():
        run = runs.get(row.removesuffix(CALIBRATED))
        time = {} if run is None else {"seconds_to_make": run["details"]["course"][-1]["seconds"]}
        both.append((f"**{FASHION_ROWS.get(row, row)}**", r | {"details": r["details"] | time}))
    both.sort(key=lambda pair: -(pair[1]["details"].get("true_bits") or 0.0))
    header = ("method", "true bits", "tensors or files", "FCD-10k", "excess FCD", "PSNR",
              "agreement", "time to make")  # fmt: skip
    rows = [_rivals_row(label, r["details"], r["value"]) for label, r in both]
    return table(header, rows, [r for _, r in both])


def _rivals_row(label: str, details: Record, value: float) -> tuple[str, ...]:
    return (
        label,
        fixed(details.get("true_bits"), 3),
        megabytes(details.get("bytes_on_disk")),
        interval(details.get("fcd", value), 3),
        interval(details.get("excess_fcd"), 3),
        fixed(details.get("psnr"), 1, " dB"),
        percent(details.get("agreement")),
        fixed(details.get("seconds_to_make"), 0, " s"),
    )
