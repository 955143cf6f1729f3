from __future__ import annotations

import pytest

from benchmarks import record, tables

FCD = {"value": 12.345, "low": 12.0, "high": 12.8}


def add(folder, row, **details):
    made = record.make_record(
        "fashion", row, "fcd_10k", 12.345, "FCD", higher_is_better=False, details=details
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
    row = cells(tables.fashion_table(tmp_path).splitlines()[2])
    assert row == [
        "PQ, 1 bit", "1.031", "3.46 MB", "25.7×", "12.3 ± 0.5", "1.200", "0.812 / 0.700",
        "21.0 dB", "0.988", "93.5 %",
    ]  # fmt: skip


def test_missing_details_show_as_dashes(tmp_path):
    add(tmp_path, "teacher")
    row = cells(tables.fashion_table(tmp_path).splitlines()[2])
    assert row == ["full precision", "–", "–", "–", "12.3", "–", "– / –", "–", "–", "–"]


def test_small_distances_keep_three_decimals_and_the_noise_floor_closes_the_table(tmp_path):
    near = {"value": 0.0728, "low": 0.0548, "high": 0.0908}
    floor = {"value": 0.0097, "low": 0.0, "high": 0.0214}
    add(tmp_path, "teacher", fcd=near, noise_floor=floor)
    lines = tables.fashion_table(tmp_path).splitlines()
    assert cells(lines[2])[4] == "0.073 ± 0.018"
    assert cells(lines[3])[0].endswith("the noise floor")
    assert cells(lines[3])[4] == "0.010 ± 0.012"


def test_rows_come_in_the_declared_order_and_unknown_ones_last(tmp_path):
    for row in ("pq-1bit", "my-codec", "teacher", "vq-2bit"):
        add(tmp_path, row)
    first = [cells(line)[0] for line in tables.fashion_table(tmp_path).splitlines()[2:6]]
    assert first == ["full precision", "VQ, 2 bits", "PQ, 1 bit", "my-codec"]


def test_the_last_record_of_a_row_counts(tmp_path):
    add(tmp_path, "teacher", fcd=1.0)
    add(tmp_path, "teacher", fcd=2.0)
    text = tables.fashion_table(tmp_path)
    assert "2.00" in text
    assert "1.00" not in text


def test_a_table_names_date_commit_and_device(tmp_path):
    add(tmp_path, "teacher")
    last = tables.fashion_table(tmp_path).splitlines()[-1]
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
    assert tables._quantity(value, unit) == text


def test_a_tiny_negative_number_has_no_sign():
    assert tables._fixed(-0.001, 2) == "0.00"
    assert tables._fixed(-0.01, 2) == "-0.01"


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
    readme = tmp_path / "README.md"
    readme.write_text("<!-- table:kmeans -->\n<!-- /table:kmeans -->\n")
    monkeypatch.setattr(tables, "README", readme)
    assert tables.main(["--check"]) == 1
    assert "--write" in capsys.readouterr().out
    assert tables.main(["--write"]) == 0
    assert tables.main(["--check"]) == 0
