"""The course of a learning rate."""

from __future__ import annotations

import math


def warmup_cosine(peak: float, step: int, *, warmup: int, done: float) -> float:
    """Return the learning rate of a step: a linear warm-up, times a cosine to zero at the end.

    Parameters
    ----------
    peak
        The rate without warm-up at the start.
    step
        Steps taken so far.
    warmup
        Steps of the warm-up; 0 for none.
    done
        Share of the run that is done, by steps or by time; beyond 1 the rate stays zero.

    Examples
    --------
    >>> [round(warmup_cosine(1.0, i, warmup=2, done=i / 4), 3) for i in range(5)]
    [0.5, 0.854, 0.5, 0.146, 0.0]
    """
    warm = min(1.0, (step + 1) / max(warmup, 1))
    return peak * warm * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
