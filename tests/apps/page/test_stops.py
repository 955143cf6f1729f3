"""Work that ends by itself when its page does not wait for it any more."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from dpqlab.errors import ConfigError
from dpqlab_app.page.page_work import PageWork
from dpqlab_app.page.stops import Stops

ME, OTHER = "me", "other"


def test_what_was_asked_for_goes_on_until_it_is_stopped() -> None:
    stops = Stops()
    stops.ask(ME, 10)
    assert stops.stop(OTHER) == "ended"
    assert stops.ended(ME, 10) is None
    assert stops.stop(ME) == "waits"
    assert stops.ended(ME, 10) == "stopped"


def test_stop_knows_what_waits_runs_and_has_ended() -> None:
    stops = Stops()
    stops.ask(ME, 10)
    stops.begin(ME, 10)
    assert stops.stop(ME) == "runs"
    stops.finish(ME, 10)
    assert stops.stop(ME) == "ended"
    stops.ask(ME, 20)
    assert stops.stop(ME) == "waits"
    assert stops.ended(ME, 20) == "stopped"


def test_asking_again_replaces_what_runs_and_what_was_stopped() -> None:
    stops = Stops()
    stops.begin(ME, 10)
    stops.stop(ME)
    stops.ask(ME, 20)
    assert stops.ended(ME, 10) == "replaced"
    assert stops.ended(ME, 20) is None


def test_work_may_begin_before_the_note_of_it_arrives() -> None:
    stops = Stops()
    stops.begin(ME, 10)
    stops.ask(ME, 10)
    assert stops.ended(ME, 10) is None
    assert stops.stop(ME) == "runs"


def test_dropping_ends_what_runs_and_not_what_comes_next() -> None:
    stops = Stops()
    stops.begin(ME, 10)
    stops.drop(ME)
    assert stops.ended(ME, 10) == "replaced"
    stops.ask(ME, 11)
    assert stops.ended(ME, 11) is None


def test_memory_is_bounded_and_the_oldest_page_goes() -> None:
    stops = Stops(most=3)
    for page in ("a", "b", "c", "a", "d"):
        stops.begin(page, 5)
    assert stops.stop("a") == "runs"
    assert stops.stop("b") == "ended", "forgotten"
    assert len(stops._pages) == 3


def test_work_is_that_of_its_page_and_ends_with_its_block() -> None:
    work = PageWork()
    mine: Any = SimpleNamespace(session_hash=ME)
    with work.of(mine, 7) as ended:
        assert ended() is None
        work.stops.stop(OTHER)
        assert ended() is None
        assert work.stops.stop(ME) == "runs"
        assert ended() == "stopped"
    assert work.stops.stop(ME) == "ended"


@pytest.mark.parametrize("number", [None, "7", True, -1, 0.5, float("nan"), float("inf"), [7]])
def test_a_number_that_is_none_is_refused(number: Any) -> None:
    mine: Any = SimpleNamespace(session_hash=ME)
    with pytest.raises(ConfigError, match="number of a request"), PageWork().of(mine, number):
        pass
