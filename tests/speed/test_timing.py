from __future__ import annotations

import time

from dpqlab.speed import Timing, measure_ceilings, time_together


def test_the_slower_one_takes_longer() -> None:
    runs = {"short": 0, "long": 0}

    def nap(name: str, seconds: float) -> None:
        runs[name] += 1
        time.sleep(seconds)

    times = time_together(
        {"short": lambda: nap("short", 0.001), "long": lambda: nap("long", 0.01)},
        device="cpu",
        rounds=4,
        passes=2,
    )
    assert runs == {"short": 9, "long": 9}  # one run before the clock starts
    assert 0.001 <= times["short"].median < times["long"].median
    assert times["long"].median >= 0.01


def test_median_and_spread() -> None:
    timing = Timing(rounds=(1.0, 2.0, 3.0, 4.0, 100.0))
    assert timing.median == 3.0
    assert 0 < timing.spread < 20
    assert timing.to_dict()["slowest_us"] == 100e6


def test_ceilings_are_of_this_machine() -> None:
    ceilings = measure_ceilings("cpu")
    assert 1e8 < ceilings.copy < 1e13
    assert 1e8 < ceilings.product < 1e14
