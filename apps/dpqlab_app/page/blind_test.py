"""A blind test: which of two pictures was drawn with full precision? Pure: trials, votes, a score.

Nothing here draws, shows or stores anything.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from random import Random
from typing import Literal

from dpqlab.errors import ConfigError

Side = Literal["A", "B"]
SIDES: tuple[Side, Side] = ("A", "B")
CHANCE = 0.5
"""Share of right answers of somebody who tosses a coin."""
Z95 = 1.959964
"""Standard normal quantile of a two-sided interval of 95 %."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Two pictures from the same noise; which side is which is drawn by lot.

    Attributes
    ----------
    pair
        Number of the pictures in the pool that they came from.
    model, version
        Keys: full precision of the model against this version of it.
    label, class_name
        What is drawn.
    seed, image, steps, guidance
        By which the pictures can be drawn again: image ``image`` of the seed.
    full
        The side that shows full precision.
    """

    pair: int
    model: str
    version: str
    label: int
    class_name: str
    seed: int
    image: int
    steps: int
    guidance: float
    full: Side

    def __post_init__(self) -> None:
        """Refuse a side that there is not."""
        _check_side(self.full)


@dataclass(frozen=True, kw_only=True)
class Vote:
    """What somebody said about a trial, and how long that took."""

    trial: Trial
    said: Side
    seconds: float

    def __post_init__(self) -> None:
        """Refuse a side that there is not."""
        _check_side(self.said)

    @property
    def right(self) -> bool:
        """Whether it was full precision."""
        return self.said == self.trial.full


@dataclass(frozen=True, kw_only=True)
class Score:
    """How often somebody was right.

    Attributes
    ----------
    right, total
        Votes.
    low, high
        Wilson interval of 95 % of the share of right votes that goes on for ever.
    """

    right: int
    total: int
    low: float
    high: float

    @property
    def share(self) -> float:
        """Right votes over all; not a number without any."""
        return self.right / self.total if self.total else math.nan

    @property
    def is_chance(self) -> bool:
        """Whether tossing a coin explains the votes: the interval holds one half."""
        return self.low <= CHANCE <= self.high


def toss(random: Random) -> Side:
    """Choose a side by lot."""
    return SIDES[random.randrange(2)]


def score(votes: Sequence[Vote], version: str | None = None) -> Score:
    """Count votes.

    Parameters
    ----------
    votes
        All that were given.
    version
        Count those about it alone; None counts all.
    """
    counted = [v for v in votes if version is None or v.trial.version == version]
    right = sum(vote.right for vote in counted)
    low, high = wilson(right, len(counted))
    return Score(right=right, total=len(counted), low=low, high=high)


def wilson(right: int, total: int, z: float = Z95) -> tuple[float, float]:
    """Return the score interval of a share.

    Wilson, "Probable inference, the law of succession, and statistical inference", Journal of the
    American Statistical Association 22 (1927). Unlike the textbook interval it stays within 0 and 1
    and means something after five votes.

    Parameters
    ----------
    right, total
        Successes and trials.
    z
        Quantile of the standard normal distribution; default: 95 %.

    Raises
    ------
    ConfigError
        If there are more successes than trials, or fewer than none.

    Examples
    --------
    >>> [round(end, 3) for end in wilson(8, 10)]
    [0.49, 0.943]
    >>> wilson(0, 0)
    (0.0, 1.0)
    """
    if not 0 <= right <= total:
        raise ConfigError(f"{right} right of {total}: expected 0 to {total}")
    if total == 0:
        return 0.0, 1.0
    share, weight = right / total, z * z / total
    middle = (share + weight / 2) / (1 + weight)
    half = z / (1 + weight) * math.sqrt(share * (1 - share) / total + weight / (4 * total))
    # rounding must not leave the range, nor exclude what was seen
    return max(0.0, min(middle - half, share)), min(1.0, max(middle + half, share))


def verdict(result: Score) -> str:
    """Say in words what a score means, and what it does not."""
    if result.total == 0:
        return "Tossing a coin is right half of the time: 50 % is chance level."
    share, low, high = (f"{100 * value:.0f}" for value in (result.share, result.low, result.high))
    seen = f"{result.right} of {result.total} right, {share} %"
    interval = f"95 % interval {low} to {high} %"
    if not result.is_chance:
        way = "You can tell them apart." if result.low > CHANCE else (
            "You tell them apart, but take the compressed one for full precision."
        )  # fmt: skip
        return f"{seen} ({interval}): chance, 50 %, is outside. {way}"
    more = "" if result.total >= 20 else " A few more votes will tell more."
    return f"{seen} ({interval}): chance, 50 %, is inside. A coin may do as well.{more}"


def to_csv(votes: Sequence[Vote]) -> str:
    """Write votes as CSV, one a row: the trial, what was said, whether it was right, seconds."""
    names = [field.name for field in fields(Trial) if field.name != "pair"]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["number", *names, "said", "right", "seconds"])
    for number, vote in enumerate(votes, 1):
        trial = asdict(vote.trial)
        values = [_inert(trial[name]) for name in names]
        writer.writerow([number, *values, vote.said, int(vote.right), f"{vote.seconds:.1f}"])
    return stream.getvalue()


def _inert(value: object) -> object:
    """Keep spreadsheets from taking a text for a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in "=+-@\t\r" and value else value


def _check_side(side: object) -> None:
    if side not in SIDES:
        raise ConfigError(f"the side is {str(side)[:40]!r}: expected {' or '.join(SIDES)}")
