"""One thread for torch, and afterwards as many as before."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from dpqlab.widgets.threads import one_thread

SOON = 10.0


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


class Inside(threading.Thread):
    """A thread that is in ``one_thread`` from ``entered`` on, until ``leave`` is set."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.entered, self.leave = threading.Event(), threading.Event()
        self.counts: list[int] = []
        self.start()
        assert self.entered.wait(SOON)

    def run(self) -> None:
        with one_thread():
            self.counts.append(torch.get_num_threads())
            self.entered.set()
            assert self.leave.wait(SOON)
            self.counts.append(torch.get_num_threads())
        self.counts.append(torch.get_num_threads())

    def end(self) -> list[int]:
        self.leave.set()
        self.join(SOON)
        return self.counts


def in_a_new_thread() -> int:
    counts: list[int] = []
    thread = threading.Thread(target=lambda: counts.append(torch.get_num_threads()))
    thread.start()
    thread.join(SOON)
    return counts[0]


def test_it_is_one_inside_and_as_before_after() -> None:
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    with pytest.raises(ZeroDivisionError), one_thread():
        raise ZeroDivisionError
    assert torch.get_num_threads() == 2


def test_an_inner_block_leaves_the_outer_one_its_single_thread() -> None:
    with one_thread():
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("first_out", ["who came first", "who came last"])
def test_jobs_that_overlap_leave_no_single_thread_behind(first_out: str) -> None:
    first, last = Inside(), Inside()
    order = [first, last] if first_out == "who came first" else [last, first]
    assert [job.end() for job in order] == [[1, 1, 2], [1, 1, 2]]
    assert torch.get_num_threads() == 2
    assert in_a_new_thread() == 2, "the next job"


def test_a_job_that_outlives_a_drawing_of_the_kernel_leaves_it_as_it_was() -> None:
    with one_thread():
        job = Inside()
    assert torch.get_num_threads() == 2, "the kernel's own, though a job goes on"
    assert job.end() == [1, 1, 2]
    assert torch.get_num_threads() == 2
    assert in_a_new_thread() == 2
