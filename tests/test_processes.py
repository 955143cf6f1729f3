"""Processes that are kept for several tests."""

from __future__ import annotations

import os
import time

import pytest

from tests.processes import all_of, call_in


def test_one_process_answers_call_after_call() -> None:
    first, second = (call_in("one", os.getpid).result() for _ in range(2))
    assert first == second != os.getpid()


def test_its_environment_is_its_own() -> None:
    assert call_in("told", os.getenv, "DPQLAB_TOLD", DPQLAB_TOLD="yes").result() == "yes"
    assert "DPQLAB_TOLD" not in os.environ


def test_who_waits_for_one_that_failed_is_ended() -> None:
    before = call_in("waits", os.getpid).result()
    with pytest.raises(ZeroDivisionError):
        all_of(
            {"waits": call_in("waits", time.sleep, 600), "fails": call_in("fails", divmod, 1, 0)}
        )
    assert call_in("waits", os.getpid).result() != before
