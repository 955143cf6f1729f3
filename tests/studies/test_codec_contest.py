from __future__ import annotations

import json

import pytest

from dpqlab.errors import CheckpointError, ConfigError
from dpqlab.studies.codec_contest import BUNDLED, Contest, bundled_contest, contest_of


def record(codec, bits, error, *, pairs=(), kind="attn1.to_q", metric="relative_weight_error"):
    details = {
        "subject": "one",
        "kind": kind,
        "codec": codec,
        "true_bits": bits,
        "relative_error": error,
        "rows_per_codeword": 24.0,
        "pairs": [{"codec": name} for name in pairs],
    }
    return {
        "row": f"{kind} {codec}",
        "metric": metric,
        "details": details,
        "date": "2026-01-01",
        "commit": "abc",
        "device": "x",
        "versions": {},
    }


RECORDS = [
    record("VQ d=4 k=16", 1.0, 0.9),
    record("VQ d=4 k=16", 1.0, 0.3, pairs=["PQ d=4 k=6", "PQ/4 d=6 k=17"]),
    record("PQ d=4 k=6", 1.01, 0.2),
    record("PQ/4 d=6 k=17", 0.99, 0.4),
    record("VQ d=4 k=16", 1.0, 0.9, kind="block"),
]


def student(codec, change, fcd):
    details = {
        "vq": "VQ d=8 k=256",
        "plan": codec,
        "change": change,
        "true_bits": 1.12,
        "fcd": {"value": fcd, "low": fcd - 0.1, "high": fcd + 0.1},
    }
    return {"row": f"{codec}, {change}", "metric": "fcd_10k", "details": details}


RECORDS += [
    student("PQ d=8 k=20", "codes fixed", 0.9),
    student("PQ d=8 k=20", "codes fixed", 0.5),
    student("PQ d=8 k=20", "latents", 0.3),
]


def test_students_with_codes_that_stay_and_that_move():
    contest = contest_of(RECORDS)
    assert [(one.codec, one.moving, one.fcd) for one in contest.students] == [
        ("PQ d=8 k=20", False, 0.5),
        ("PQ d=8 k=20", True, 0.3),
    ]
    assert contest.student("PQ d=8 k=20", moving=True).high == pytest.approx(0.4)
    with pytest.raises(ConfigError, match=r"no calibrated 'PQ' is on record: expected .*k=20"):
        contest.student("PQ", moving=True)


def test_the_last_record_of_a_row_counts_and_blocks_do_not():
    contest = contest_of(RECORDS)
    assert [(p.codec, p.error) for p in contest.points] == [
        ("VQ d=4 k=16", 0.3),
        ("PQ d=4 k=6", 0.2),
        ("PQ/4 d=6 k=17", 0.4),
    ]
    assert [round(pair.ratio, 2) for pair in contest.pairs] == [1.5, 0.75]
    assert contest.wins("one") == {"attn1.to_q": (1, 2)}
    assert [(p.family, p.is_vq) for p in contest.points] == [
        ("VQ", True),
        ("PQ", False),
        ("PQ/4", False),
    ]
    with pytest.raises(ConfigError, match="no record pairs"):
        contest_of([record("PQ d=4 k=6", 1, 0.2)])


def test_what_is_saved_is_read_back(tmp_path):
    contest = contest_of(RECORDS)
    contest.save(tmp_path / "c.json")
    assert Contest.load(tmp_path / "c.json") == contest


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (("pairs", 0), [0, 9], "beyond"),
        (("pairs", 0), [1, 0], "equal true bits"),
        (("pairs", 0), [0, True], "two numbers"),
        (("points", 0, 4), -0.1, "not a positive number"),
        (("points", 0, 4), "0.1", "not a number"),
        (("points", 0, 3), 1.2, "equal true bits"),
        (("points", 0, 1), 7, "three names"),
        (("points", 0), [1, 2], "a row of"),
        (("points",), [], "no points"),
        (("students", 0), [1, 2], "a row of"),
        (("students", 0, 1), 7, "two names"),
        (("students", 0, 2), 1, "not true or false"),
        (("students", 0, 4), 0, "not a positive number"),
        (("students", 0, 5), 0.8, "does not lie between"),
        (("other",), 1, "unknown key 'other'"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, place, value, words):
    path = tmp_path / "c.json"
    contest_of(RECORDS).save(path)
    text = json.loads(path.read_text())
    inner = text
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    path.write_text(json.dumps(text))
    with pytest.raises(CheckpointError, match=words):
        Contest.load(path)


def test_nothing_and_too_much_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be read"):
        Contest.load(tmp_path / "none.json")
    (tmp_path / "large.json").write_bytes(b" " * 200_000)
    with pytest.raises(CheckpointError, match="more than 150000 bytes"):
        Contest.load(tmp_path / "large.json")


def test_the_one_that_ships_is_that_of_the_records():
    from benchmarks.record import read

    assert contest_of(read("vq_vs_pq")) == bundled_contest()


def test_the_one_that_ships_says_what_was_measured():
    contest = bundled_contest()
    assert BUNDLED.stat().st_size < 150_000
    assert {one.vq for one in contest.students} <= {one.codec for one in contest.students}
    assert contest.wins("fashion-dit") == {
        "attn1.to_q": (1, 18),
        "ff.net.0.proj": (0, 18),
        "ff.net.2": (0, 18),
        "norm1.linear": (16, 18),
    }
    assert sum(won for won, _ in contest.wins("random DiT-XL/2").values()) == 0
    assert sum(every for _, every in contest.wins("random DiT-XL/2").values()) == 72
