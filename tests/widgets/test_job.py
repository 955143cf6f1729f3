"""Work in a thread."""

from __future__ import annotations

import threading
import time

import pytest

from dpqlab.errors import ConfigError
from dpqlab.widgets import Job
from dpqlab.widgets.job import time_left

SOON = 10.0


def test_every_record_arrives_in_order_and_rarely():
    batches = []

    def steps():
        for i in range(50):
            time.sleep(0.004)
            yield i

    job = Job(steps, on_records=batches.append, rate=10)
    assert job.start()
    assert job.wait(SOON)
    assert [i for batch in batches for i in batch] == list(range(50))
    assert 2 <= len(batches) <= 1 + 10 * job.seconds + 1
    assert job.status == "done"
    assert not job.error


def test_a_lone_record_does_not_wait_for_the_next():
    arrived, release = threading.Event(), threading.Event()

    def steps():
        yield 1
        release.wait(SOON)
        yield 2

    job = Job(steps, on_records=lambda records: arrived.set())
    job.start()
    assert arrived.wait(SOON)
    assert job.running
    release.set()
    assert job.wait(SOON)


def test_stop_ends_after_the_record_in_the_making_and_closes_the_generator():
    closed, seen = [], []

    def steps():
        try:
            for i in range(10**9):
                time.sleep(0.001)
                yield i
        finally:
            closed.append(True)

    job = Job(steps, on_records=seen.extend, rate=100)
    job.start()
    while len(seen) < 3:
        time.sleep(0.005)
    job.stop()
    assert job.wait(SOON)
    assert job.status == "stopped"
    assert closed == [True]
    assert seen == list(range(len(seen)))


def test_two_runs_never_go_on_at_once_but_one_may_follow():
    gate = threading.Event()
    seen = []

    def steps():
        gate.wait(SOON)
        yield 1

    job = Job(steps, on_records=seen.extend)
    assert job.start()
    assert not job.start()
    gate.set()
    assert job.wait(SOON)
    assert job.start()
    assert job.wait(SOON)
    assert seen == [1, 1]


def test_errors_become_text_and_records_before_them_arrive():
    seen, ends = [], []

    def steps():
        yield 1
        raise ConfigError("k is too large")

    job = Job(steps, on_records=seen.extend, on_end=lambda job: ends.append(job.status))
    job.start()
    assert job.wait(SOON)
    assert (seen, ends, job.error) == ([1], ["failed"], "k is too large")


def test_a_callback_that_fails_ends_the_work():
    def broken(_records):
        raise KeyError("no such widget")

    def steps():
        for i in range(10**9):
            time.sleep(0.001)
            yield i

    job = Job(steps, on_records=broken)
    job.start()
    assert job.wait(SOON)
    assert job.status == "failed"
    assert "no such widget" in job.error


def test_an_unfinished_wait_says_so():
    gate = threading.Event()
    job = Job(lambda: (gate.wait(SOON) for _ in range(1)))
    job.start()
    assert not job.wait(0.1)
    gate.set()
    assert job.wait(SOON)


def test_the_time_left_is_told():
    assert time_left(0, 10, 1.0) == "no estimate yet"
    assert time_left(5, 10, 50.0) == "about 50 s left"
    assert time_left(10, 10, 50.0) == ""
    with pytest.raises(ConfigError, match="rate"):
        Job(list, rate=0)
