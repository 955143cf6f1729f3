from __future__ import annotations

import pytest
import torch

from dpqlab.core.memory import is_out_of_memory, with_less


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_says_that_memory_ran_out(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_what_the_cpu_allocator_says_is_known() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


def test_half_is_tried_until_it_fits() -> None:
    tried: list[int] = []

    def run(amount: int) -> str:
        tried.append(amount)
        if amount > 20:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return "done"

    assert with_less(run, 100) == "done"
    assert tried == [100, 50, 25, 12]


@pytest.mark.parametrize(
    ("error", "calls"), [(MemoryError(), 3), (RuntimeError("shapes do not fit"), 1)]
)
def test_what_does_not_fit_at_all_is_raised(error: Exception, calls: int) -> None:
    tried: list[int] = []

    def run(amount: int) -> None:
        tried.append(amount)
        raise error

    with pytest.raises(type(error)) as caught:
        with_less(run, 8, least=2)
    assert caught.value is error
    assert len(tried) == calls


@pytest.mark.parametrize(("misses", "expected"), [(1, [8, 8]), (2, [8, 8, 4]), (3, [8, 8, 4, 4])])
def test_an_amount_may_be_tried_twice(misses: int, expected: list[int]) -> None:
    tried: list[int] = []

    def run(amount: int) -> None:
        tried.append(amount)
        if len(tried) <= misses:
            raise MemoryError

    with_less(run, 8, tries=2)
    assert tried == expected
