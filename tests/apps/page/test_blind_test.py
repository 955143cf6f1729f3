from __future__ import annotations

import csv
import io
import math
from random import Random

import pytest

from dpqlab.errors import ConfigError
from dpqlab_app.page.blind_test import Side, Trial, Vote, score, to_csv, toss, verdict, wilson


def trial(**changes: object) -> Trial:
    usual: dict[str, object] = {
        "pair": 7,
        "model": "fashion-dit",
        "version": "best-1bit",
        "label": 3,
        "class_name": "Dress",
        "seed": 11,
        "image": 2,
        "steps": 20,
        "guidance": 1.5,
        "full": "A",
    }
    return Trial(**(usual | changes))  # type: ignore[arg-type]


def votes(right: int, wrong: int, **changes: object) -> list[Vote]:
    said: list[Side] = ["A"] * right + ["B"] * wrong
    return [Vote(trial=trial(**changes), said=side, seconds=1.25) for side in said]


@pytest.mark.parametrize(
    ("right", "total", "expected"),
    [
        # Newcombe, Statistics in Medicine 17 (1998), table I, method 3
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
    ],
)
def test_the_interval_is_wilsons(right: int, total: int, expected: tuple[float, float]) -> None:
    assert wilson(right, total) == pytest.approx(expected, abs=6e-5)


def test_the_interval_holds_what_was_seen_and_stays_within_bounds() -> None:
    for total in range(1, 60):
        for right in range(total + 1):
            low, high = wilson(right, total)
            assert 0 <= low <= right / total <= high <= 1
            mirrored = wilson(total - right, total)
            assert (low, high) == pytest.approx((1 - mirrored[1], 1 - mirrored[0]))


def test_the_interval_covers_a_coin_nineteen_times_of_twenty() -> None:
    weights = [math.comb(40, k) / 2**40 for k in range(41)]
    covered = sum(w for k, w in enumerate(weights) if wilson(k, 40)[0] <= 0.5 <= wilson(k, 40)[1])
    assert 0.93 < covered < 0.97


@pytest.mark.parametrize(("right", "total"), [(-1, 3), (4, 3), (1, 0)])
def test_more_successes_than_trials_are_refused(right: int, total: int) -> None:
    with pytest.raises(ConfigError, match="right of"):
        wilson(right, total)


def test_a_score_counts_one_version_or_all() -> None:
    given = votes(3, 1) + votes(1, 4, version="vq-1bit")
    assert (score(given).right, score(given).total) == (4, 9)
    assert (score(given, "vq-1bit").right, score(given, "vq-1bit").total) == (1, 5)
    assert math.isnan(score([]).share)
    assert score([]).is_chance


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        (0, 0, "50 % is chance level"),
        (3, 2, "A coin may do as well. A few more votes"),
        (26, 24, "A coin may do as well."),
        (19, 1, "You can tell them apart."),
        (1, 19, "take the compressed one for full precision"),
    ],
)
def test_the_verdict_says_no_more_than_the_votes(right: int, wrong: int, said: str) -> None:
    words = verdict(score(votes(right, wrong)))
    assert said in words
    assert "50 %" in words
    assert ("can tell" in words) == (right == 19)


def test_votes_as_csv_tell_how_to_draw_the_pictures_again() -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(votes(1, 1, class_name="=cmd()")))))
    assert [row["right"] for row in rows] == ["1", "0"]
    assert rows[0]["seed"] == "11"
    assert rows[0]["image"] == "2"
    assert rows[1]["number"] == "2"
    assert rows[0]["class_name"] == "'=cmd()", "no spreadsheet may take it for a formula"


def test_both_sides_come_up_equally_often() -> None:
    random = Random(0)
    assert sum(toss(random) == "A" for _ in range(2000)) == pytest.approx(1000, abs=100)


@pytest.mark.parametrize("side", ["C", "", None, "a"])
def test_other_sides_are_refused(side: object) -> None:
    with pytest.raises(ConfigError, match="expected A or B"):
        trial(full=side)
    with pytest.raises(ConfigError, match="expected A or B"):
        Vote(trial=trial(), said=side, seconds=0.0)  # type: ignore[arg-type]
