"""Pairs of pictures for the blind test, drawn ahead in small batches, and one visitor's way."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import count
from random import Random, SystemRandom

import numpy as np

from dpqlab_app.drawing.engine import Engine
from dpqlab_app.drawing.frames import Frame
from dpqlab_app.drawing.settings import MOST_SEED, DrawSettings
from dpqlab_app.page.blind_test import Side, Trial, Vote, toss

FIRST_BATCH, BATCH = 2, 4
"""Pairs drawn at once while a visitor waits, and while one is busy with others."""
FEW = 3
"""With fewer pairs left that a visitor has not seen, more are drawn."""
MOST_PAIRS = 240
"""Pairs that are kept for all visitors, of all versions together: 25 kB or less each."""
MOST_VOTES = 300
STEPS = 20


@dataclass(frozen=True, kw_only=True, eq=False)
class DrawnPair:
    """The same noise, drawn twice.

    Attributes
    ----------
    number
        Its own.
    settings, image
        What draws it again: which image of these settings.
    full, compressed
        uint8 (H, W, C).
    """

    number: int
    settings: DrawSettings
    image: int
    full: np.ndarray
    compressed: np.ndarray

    @property
    def label(self) -> int:
        """Class of the image."""
        return self.settings.labels[self.image]


class Pool:
    """Pairs that are ready, for all visitors; the oldest go first."""

    def __init__(self, most: int = MOST_PAIRS) -> None:
        self._pairs: OrderedDict[int, DrawnPair] = OrderedDict()
        self._numbers = count(1)
        self._most = most
        self._lock = threading.Lock()

    def add(self, frame: Frame) -> None:
        """Take the pictures of a finished drawing of two versions."""
        full, compressed = frame.versions
        with self._lock:
            for i, images in enumerate(zip(full.images, compressed.images, strict=True)):
                number = next(self._numbers)
                self._pairs[number] = DrawnPair(
                    number=number,
                    settings=frame.settings,
                    image=i,
                    full=images[0],
                    compressed=images[1],
                )
            while len(self._pairs) > self._most:
                self._pairs.popitem(last=False)

    def get(self, number: int) -> DrawnPair | None:
        """Return a pair if it is still there."""
        with self._lock:
            return self._pairs.get(number)

    def unseen(self, visit: Visit) -> list[DrawnPair]:
        """Return the pairs that a visitor can still be shown."""
        with self._lock:
            return [
                pair
                for pair in self._pairs.values()
                if (pair.settings.model, *pair.settings.versions) == (visit.model, visit.version)
                and pair.number not in visit.seen
            ]


@dataclass(frozen=True, kw_only=True)
class Visit:
    """Where a visitor is: what is compared, the pair on the screen, and all votes so far."""

    model: str
    version: str
    trial: Trial | None = None
    since: float = 0.0
    seen: frozenset[int] = frozenset()
    votes: tuple[Vote, ...] = ()
    last: Vote | None = None

    @property
    def full(self) -> bool:
        """Whether no more votes are taken."""
        return len(self.votes) >= MOST_VOTES


def advance(
    visit: Visit,
    pool: Pool,
    classes: tuple[str, ...],
    *,
    random: Random | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Visit:
    """Show a visitor the next pair, if none is on the screen and one is ready.

    Which pair and which side are drawn by lot, anew for every visitor.
    """
    if visit.trial is not None or visit.full:
        return visit
    random = random or SystemRandom()
    ready = pool.unseen(visit)
    if not ready:
        return visit
    pair = ready[random.randrange(len(ready))]
    trial = Trial(
        pair=pair.number,
        model=visit.model,
        version=visit.version,
        label=pair.label,
        class_name=classes[pair.label],
        seed=pair.settings.seed,
        image=pair.image,
        steps=pair.settings.steps,
        guidance=pair.settings.guidance,
        full=toss(random),
    )
    return replace(visit, trial=trial, since=clock(), seen=visit.seen | {pair.number})


def cast(visit: Visit, side: Side, *, clock: Callable[[], float] = time.monotonic) -> Visit:
    """Count a vote about the pair on the screen; without one nothing happens.

    Raises
    ------
    ConfigError
        If the side is none.
    """
    if visit.trial is None:
        return visit
    vote = Vote(trial=visit.trial, said=side, seconds=max(0.0, clock() - visit.since))
    return replace(visit, trial=None, votes=(*visit.votes, vote), last=vote)


def is_low(visit: Visit, pool: Pool) -> bool:
    """Whether more pairs should be drawn for a visitor now."""
    return not visit.full and len(pool.unseen(visit)) < FEW


def fill(
    engine: Engine, pool: Pool, visit: Visit, *, random: Random | None = None
) -> Generator[Frame, None, None]:
    """Draw a batch of pairs for a visitor into the pool, unless others have filled it meanwhile.

    Closing the generator drops the batch.
    """
    if not is_low(visit, pool):
        return
    random = random or SystemRandom()
    model = engine.catalogue.model(visit.model)
    waiting = visit.trial is None and not pool.unseen(visit)
    number = FIRST_BATCH if waiting else BATCH
    settings = DrawSettings(
        model=visit.model,
        versions=(visit.version,),
        labels=tuple(random.randrange(len(model.classes)) for _ in range(number)),
        seed=random.randrange(MOST_SEED + 1),
        steps=STEPS,
    )
    with closing(engine.draw(settings)) as frames:
        for frame in frames:
            if frame.done:
                pool.add(frame)
            yield frame
