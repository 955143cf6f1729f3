"""How long a compression will take on this machine: rates measured on noise, times the sizes.

The very functions that compress are timed on a few thousand random sub-vectors for each way of
coding, a second or two in all. What they take for a model follows from its shapes. Files are not
counted, and the machine is assumed to stay as busy as it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, log

import torch

from dpqlab.core import (
    CodebookCodec,
    Member,
    Pool,
    PoolConfig,
    decode,
    encode,
    fit_pool,
    position_count,
    relative_error,
    scalar_decode,
    scalar_encode,
)
from dpqlab.core.codecs import RESERVOIR
from dpqlab.core.refitting import settle
from dpqlab.kernels.dispatch import best_assigner, best_clusterer
from dpqlab.nn.plan import Coding
from dpqlab.nn.targets import Target

SAMPLE = 32_768  # sub-vectors that are timed; more on an accelerator, which is idle with so few
_MORE = 16
_POSITIONS = 16  # of the sample: positions do not know of each other
_SHORT, _LONG = 3, 9  # iterations of k-means that are timed
_STRIDE = 0.6  # share of the codewords that a step towards a budget leaves
_SEARCHED = 12  # pools that the search for an indexed one looks at, more or less


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Seconds for one sub-vector (of a scalar codec: one weight) on this machine.

    Attributes
    ----------
    start, iteration
        To start k-means from it, and of one iteration over it.
    encode
        To choose its code, and to measure the error.
    settle
        To choose its code again and refit its codeword.
    """

    start: float = 0.0
    iteration: float = 0.0
    encode: float
    settle: float = 0.0


def rates_of(coding: Coding, device: torch.device | str = "cpu") -> Rates:
    """Measure the rates of one way of coding; takes a fraction of a second."""
    codec = coding.codec
    generator = torch.Generator().manual_seed(0)
    if not isinstance(codec, CodebookCodec):
        weight = torch.randn(256, codec.group_size * 4, generator=generator).to(device)
        once = _timed(lambda: relative_error(weight, scalar_decode(scalar_encode(weight, codec))))
        return Rates(encode=once / weight.numel())
    count = SAMPLE if torch.device(device).type == "cpu" else _MORE * SAMPLE
    weight = torch.randn(count // _POSITIONS, codec.d * _POSITIONS, generator=generator).to(device)
    clusterer, assigner = best_clusterer(device), best_assigner(device)

    def fit(iterations: int) -> Pool:
        return fit_pool(
            [weight],
            replace(codec, iterations=iterations),
            generator=torch.Generator().manual_seed(0),
            clusterer=clusterer,
        )

    brief = _timed(lambda: fit(_SHORT))
    iteration = max(0.0, _timed(lambda: fit(_LONG)) - brief) / (_LONG - _SHORT)
    pool = fit(1)
    encoded = encode(weight, codec, pool, assigner=assigner)
    member = Member(weight=weight, encoded=encoded)
    again = _timed(
        lambda: relative_error(weight, decode(encode(weight, codec, pool, assigner=assigner)))
    )
    # two choices of codes, and one fit between them
    settled = 0.0 if coding.pool is None else _timed(lambda: settle([member], [pool], 1, assigner))
    return Rates(
        start=max(0.0, brief - _SHORT * iteration) / count,
        iteration=iteration / count,
        encode=again / count,
        settle=settled / 2 / count,
    )


def seconds_of(targets: Sequence[Target], device: torch.device | str = "cpu") -> dict[str, float]:
    """Estimate the seconds of every target, by name; what a group shares counts for its first.

    Parameters
    ----------
    targets
        Linears, which may be on the meta device.
    device
        Where they would be compressed.
    """
    codings = {Coding(codec=target.codec, pool=target.pool) for target in targets}
    rates = {coding: rates_of(coding, device) for coding in codings}
    return _seconds(targets, rates)


def _seconds(targets: Sequence[Target], rates: Mapping[Coding, Rates]) -> dict[str, float]:
    groups: dict[tuple[str, PoolConfig | None], list[Target]] = {}
    for target in targets:
        groups.setdefault(target.group, []).append(target)
    found: dict[str, float] = {}
    for members in groups.values():
        first = members[0]
        rate = rates[Coding(codec=first.codec, pool=first.pool)]
        counts = [_sub_vectors(member) for member in members]
        found |= {m.name: n * rate.encode for m, n in zip(members, counts, strict=True)}
        if isinstance(first.codec, CodebookCodec):
            found[first.name] += _shared_seconds(first, first.codec, sum(counts), rate)
    return found


def _shared_seconds(first: Target, codec: CodebookCodec, count: int, rate: Rates) -> float:
    """Return the seconds that a group takes together: k-means, and squeezing."""
    looked = count if codec.across == "layer" else min(count, RESERVOIR)
    scopes = 1
    if codec.scope != "layer":
        scopes = ceil(position_count(first.linear.in_features, codec.d) / codec.group)
    # as many points as k-means may start from: see dpqlab.core.kmeans.subsample
    start = min(looked, scopes * max(16_384, min(64 * codec.k, 262_144)))
    seconds = start * rate.start + codec.iterations * looked * rate.iteration
    if first.pool is None:
        return seconds
    return seconds + _rounds(first.pool, codec, scopes, count) * count * rate.settle


def _rounds(pool: PoolConfig, codec: CodebookCodec, scopes: int, count: int) -> int:
    """Return how often all codes are chosen while a pool is squeezed, more or less."""
    share = 16 * codec.d * codec.k * scopes / (count * codec.code_bits)  # of all codewords
    strides = max(0, ceil(log(pool.budget / share) / log(_STRIDE)))
    rounds = 2 * (1 + strides) + 1 + pool.refits + 2  # merging, strides, the end, measuring
    return rounds if pool.form == "ragged" else rounds + _SEARCHED * 2


def _sub_vectors(target: Target) -> int:
    rows, columns = target.linear.out_features, target.linear.in_features
    if not isinstance(target.codec, CodebookCodec):
        return rows * columns
    return rows * position_count(columns, target.codec.d)


def _timed(work: Callable[[], object]) -> float:
    """Return the seconds of the second run: the first may compile."""
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started
