from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks import markdown, quality_tables, record, speed_tables, tables
from dpqlab.nn.presets import presets

FCD = {"value": 12.345, "low": 12.0, "high": 12.8}


def add(folder, row, *, suite="fashion", metric="fcd_10k", value=12.345, goal=None, **details):
    made = record.make_record(
        suite, row, metric, value, "FCD", higher_is_better=False, goal=goal, details=details
    )
    record.append({**made, "date": "2026-11-22T10:00:00+00:00", "commit": "abc"}, folder)


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_table_without_records_says_so(tmp_path):
    for table in tables.TABLES.values():
        assert "No records yet" in table(tmp_path)


def test_fashion_row_shows_what_was_measured(tmp_path):
    add(
        tmp_path, "pq-1bit", true_bits=1.0312, bytes_on_disk=3_456_789, ratio_fp32=25.74, fcd=FCD,
        excess_fcd=1.2, precision=0.81234, recall=0.7, psnr=21.04, feature_cosine=0.98765,
        agreement=0.9345,
    )  # fmt: skip
    row = cells(quality_tables.fashion_table(tmp_path).splitlines()[2])
    assert row == [
        "PQ, 1 bit", "1.031", "3.46 MB", "25.7×", "12.3 ± 0.5", "1.200", "0.812 / 0.700",
        "21.0 dB", "0.988", "93.5 %",
    ]  # fmt: skip


def test_missing_details_show_as_dashes(tmp_path):
    add(tmp_path, "teacher")
    row = cells(quality_tables.fashion_table(tmp_path).splitlines()[2])
    assert row == ["full precision", "–", "–", "–", "12.3", "–", "– / –", "–", "–", "–"]


def test_the_overview_tells_a_few_rows_beside_full_precision(tmp_path):
    add(tmp_path, "best-1bit-calibrated", value=0.3, true_bits=1.09, agreement=0.977)
    add(tmp_path, "pq-2bit")
    add(tmp_path, "teacher", value=0.2, agreement=1.0)
    full, best = rows_of(quality_tables.overview_table(tmp_path))
    assert (full[0], full[5], full[6]) == ("full precision", "1.00×", "100.0 %")
    assert (best[0], best[1], best[5]) == ("Best, 1 bit, calibrated", "1.090", "1.50×")


def test_the_brief_table_of_speed_has_the_presets_of_one_bit(tmp_path):
    for bits in ("1", "2"):
        made = record.make_record(
            "kernels", f"layers: best-{bits}bit", "speed", 1.5, "x", rival="dense", goal=1.0,
            higher_is_better=True,
        )  # fmt: skip
        record.append(made, tmp_path)
    assert [row[1] for row in rows_of(speed_tables.speed_table(tmp_path))] == ["1", "2"]
    assert [row[1] for row in rows_of(speed_tables.one_bit_speed_table(tmp_path))] == ["1"]


def test_small_distances_keep_three_decimals_and_the_noise_floor_closes_the_table(tmp_path):
    near = {"value": 0.0728, "low": 0.0548, "high": 0.0908}
    floor = {"value": 0.0097, "low": 0.0, "high": 0.0214}
    add(tmp_path, "teacher", fcd=near, noise_floor=floor)
    lines = quality_tables.fashion_table(tmp_path).splitlines()
    assert cells(lines[2])[4] == "0.073 ± 0.018"
    assert cells(lines[3])[0].endswith("the noise floor")
    assert cells(lines[3])[4] == "0.010 ± 0.012"


def test_rows_come_in_the_declared_order_and_unknown_ones_last(tmp_path):
    for row in ("pq-1bit", "my-codec", "teacher", "vq-2bit"):
        add(tmp_path, row)
    first = [cells(line)[0] for line in quality_tables.fashion_table(tmp_path).splitlines()[2:6]]
    assert first == ["full precision", "VQ, 2 bits", "PQ, 1 bit", "my-codec"]


def test_the_last_record_of_a_row_counts(tmp_path):
    add(tmp_path, "teacher", fcd=1.0)
    add(tmp_path, "teacher", fcd=2.0)
    text = quality_tables.fashion_table(tmp_path)
    assert "2.00" in text
    assert "1.00" not in text


def test_a_table_names_date_commit_and_device(tmp_path):
    add(tmp_path, "teacher")
    last = quality_tables.fashion_table(tmp_path).splitlines()[-1]
    assert last.startswith("<sub>Measured 2026-11-22, commit abc, ")
    assert record.device_name() in last


def test_measurement_table_shows_ratio_rival_and_goal(tmp_path):
    made = record.make_record(
        "kmeans", "d=4 k=256", "time_ratio", 1.2345, "x", rival="faiss", goal=1.0, floor=0.5,
        higher_is_better=True,
    )  # fmt: skip
    record.append(made, tmp_path)
    row = cells(tables.kmeans_table(tmp_path).splitlines()[2])
    assert row == ["d=4 k=256", "time ratio", "1.23×", "faiss", "1.00×", "0.500×"]


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(13.4, "ms", "13.4 ms"), (1234567, "points/s", "1,234,567 points/s"), (None, "x", "–"),
     (100.0, "x", "100×"), (0.001234, "s", "0.00123 s")],
)  # fmt: skip
def test_quantities_have_three_digits_and_a_unit(value, unit, text):
    assert markdown.quantity(value, unit) == text


def test_a_tiny_negative_number_has_no_sign():
    assert markdown.fixed(-0.001, 2) == "0.00"
    assert markdown.fixed(-0.01, 2) == "-0.01"


def test_generate_fills_markers_and_is_idempotent(tmp_path):
    text = "a\n<!-- table:fashion -->\nold\n<!-- /table:fashion -->\nb\n"
    add(tmp_path, "teacher")
    once = tables.generate(text, tmp_path)
    assert once.startswith("a\n<!-- table:fashion -->\n\n| model |")
    assert once.endswith("<!-- /table:fashion -->\nb\n")
    assert "old" not in once
    assert tables.generate(once, tmp_path) == once
    assert tables.generate("no markers", tmp_path) == "no markers"


@pytest.mark.parametrize(
    "text",
    [
        "<!-- table:fashion -->\n",
        "<!-- table:fashion -->\n<!-- /table:kmeans -->",
        "<!-- table:nope -->\n<!-- /table:nope -->",
        "<!-- /table:fashion -->",
        "<!-- table:fashion --> on one line <!-- /table:fashion -->",
    ],
)
def test_bad_markers_are_refused(text, tmp_path):
    with pytest.raises(ValueError, match=r"markers|unknown tables"):
        tables.generate(text, tmp_path)


def test_check_and_write_agree(tmp_path, monkeypatch, capsys):
    readme, security = tmp_path / "README.md", tmp_path / "SECURITY.md"
    readme.write_text("no table")
    security.write_text("<!-- table:kmeans -->\n<!-- /table:kmeans -->\n")
    monkeypatch.setattr(tables, "DOCUMENTS", (readme, security))
    assert tables.main(["--check"]) == 1
    said = capsys.readouterr().out
    assert "README.md agrees" in said
    assert "SECURITY.md differs" in said
    assert "--write" in said
    assert tables.main(["--write"]) == 0
    assert tables.main(["--check"]) == 0
    security.unlink()
    assert tables.main(["--check"]) == 1


def rows_of(text: str) -> list[list[str]]:
    lines = text.splitlines()
    return [cells(line) for line in lines[2 : lines.index("")]]


def test_every_preset_has_a_title_by_rate_and_uncalibrated_first():
    order = list(quality_tables.FASHION_ROWS)
    for name in presets():
        assert order.index(name) < order.index(f"{name}-calibrated")
    assert order.index("dpq-2bit") < order.index("vq-2bit-calibrated") < order.index("vq-1bit")
    assert quality_tables.FASHION_ROWS["best-1.25bit-calibrated"] == "Best, 1.25 bits, calibrated"


@pytest.mark.parametrize(
    ("value", "bits", "verdict"),
    [(0.21, 2.04, "goal reached"), (0.25, 2.04, "acceptable"), (0.27, 2.04, "missed"),
     (0.21, 2.06, "too large")],
)  # fmt: skip
def test_the_bars_are_answered(value, bits, verdict, tmp_path):
    add(tmp_path, "teacher", value=0.2)
    add(tmp_path, "best-2bit-calibrated", value=value, true_bits=bits)
    add(tmp_path, "best-1bit", value=9.0, true_bits=1.0)
    (row,) = rows_of(quality_tables.best_table(tmp_path))
    assert row == [
        "`best-2bit`", f"{bits:.3f}", "2.05", f"{value:.3f}", f"{value / 0.2:.2f}×", "1.05×",
        "1.30×", verdict,
    ]  # fmt: skip


def test_the_students_of_avatars_before_and_after_calibration(tmp_path):
    course = [
        {"step": 0, "total": 0.9, "output": 0.5, "features": 0.4, "true_bits": 1.1},
        {"step": 5, "total": 0.1, "output": 0.02, "features": 0.03, "true_bits": 1.1},
        {"step": 9, "total": 0.2, "output": 0.01, "features": 0.2, "true_bits": 1.1},
    ]
    for row in ("best-1bit", "vq-1bit"):
        details = {"suite": "calibration-avatars", "metric": "held_out_loss", "course": course}
        add(tmp_path, row, value=0.1, **details)
    found = rows_of(quality_tables.avatars_calibration_table(tmp_path))
    figures = ["1.100", "0.5000", "0.0200", "0.400", "0.030"]
    assert found == [["VQ, 1 bit", *figures], ["Best, 1 bit", *figures]]


def test_without_a_teacher_there_is_no_verdict(tmp_path):
    add(tmp_path, "best-1bit-calibrated", true_bits=1.0)
    assert rows_of(quality_tables.best_table(tmp_path))[0][-1] == "–"


def test_ablation_rows_tell_what_they_change(tmp_path):
    common = {"suite": "ablation", "true_bits": 1.1365, "excess_fcd": 0.5}
    calibration = {"calibration": {"steps": 2500}, "calibration_seconds": 42.8}
    add(tmp_path, "mine", base="", change="", **common, calibration=None)
    add(
        tmp_path, "dpq latent", base="dpq distil", change="latents", psnr=25.81, fcd=FCD, **common,
        **calibration,
    )  # fmt: skip
    assert rows_of(quality_tables.ablation_table(tmp_path)) == [
        ["dpq latent", "latents", "dpq distil", "1.137", "12.3 ± 0.5", "0.500", "25.8 dB", "2,500",
         "43 s"],
        ["mine", "–", "–", "1.137", "12.3", "0.500", "–", "–", "–"],
    ]  # fmt: skip
    rule = quality_tables.ablation_table(tmp_path).splitlines()[1]
    assert rule.startswith("| --- | --- | --- | --: |"), "words to the left, numbers to the right"


def test_judges_begin_with_the_controls(tmp_path):
    told = {"suite": "judges", "metric": "two_sample_accuracy", "low": 0.49, "high": 0.53}
    add(tmp_path, "best-2bit-calibrated", value=0.51, goal=0.55, told_apart=False, **told)
    add(tmp_path, "teacher-20-steps", value=0.52, told_apart=True, **told)
    add(
        tmp_path, "best-2bit-calibrated", suite="judges", metric="kid_mobilenet_teacher",
        value=0.00123, standard_error=0.0001,
    )  # fmt: skip
    control, best = rows_of(quality_tables.judges_table(tmp_path))
    assert control[0].startswith("control: ")
    assert control[1:] == ["52.0 % ± 3.0", "–", "yes", "–", "–"]
    assert best == [
        "Best, 2 bits, calibrated", "51.0 % ± 2.0", "≤ 55.0 %", "no", "1.23 ± 0.20 ×10⁻³", "–",
    ]  # fmt: skip


def test_rivals_stand_beside_what_ships(tmp_path):
    add(tmp_path, "teacher", true_bits=16.0)
    add(tmp_path, "pq-1bit", true_bits=1.1)
    add(tmp_path, "best-2bit-calibrated", true_bits=2.0)
    assert "No records yet" in quality_tables.rivals_table(tmp_path)
    add(tmp_path, "vq4dit", suite="rivals", true_bits=2.1, seconds_to_make=61.0)
    found = rows_of(quality_tables.rivals_table(tmp_path))
    assert [row[0] for row in found] == [
        "**full precision**", "vq4dit", "**Best, 2 bits, calibrated**"
    ]  # fmt: skip
    assert found[1][-1] == "61 s"


def test_tables_need_the_standard_library_alone():
    code = "import sys, benchmarks.tables; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=record.ROOT)
