"""How much memory a streamed compression will take: its largest moment, from shapes alone.

Groups of layers that share a pool are made one after the other, and what is made stays mapped from
its files. So the peak is that of the worst group: ::

    output      what groups before it and its own layers store
  + the larger of
      fitting   for every value of the sub-vectors that k-means looks at (at most 2 M of them where
                layers share a codebook) 20 bytes, for every one of them 24, and 12 for every weight
                of the layer that is being read
      coding    a layer in float32, its sub-vectors, codes and decoded values, and in float64 to
                measure the error: 32 bytes for every weight of the largest layer; and where a pool
                is squeezed, 12 for every code that shares it: int16, four versions, and room for
                one layer's in int64

The factors were set by what processes took for models of 38 to 670 M weights. The interpreter and
its libraries come on top: :func:`dpqlab.nn.resident.resident_bytes` of a process that has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dpqlab.core import CodebookCodec, ModelLedger, PoolConfig
from dpqlab.core.codecs import RESERVOIR
from dpqlab.core.subvectors import position_count
from dpqlab.nn.targets import Target

CODING = 32  # bytes for every weight of a layer while it is coded
READING = 12  # and while it is looked at: as read, divided by its row scales, drawn from
VALUE = 20  # bytes for every value that k-means looks at: five copies on their way through it
POINT = 24  # bytes for every sub-vector there: codes, distances, chances
HELD = 12  # bytes for every code of a pool that is squeezed


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """The largest moment of a compression, in bytes, beside interpreter and libraries.

    Attributes
    ----------
    layer
        The layer, or first of a group of layers, that is made then.
    output, working
        What is stored by then, and what comes and goes.
    """

    layer: str
    output: int
    working: int

    @property
    def total(self) -> int:
        """All of it, bytes."""
        return self.output + self.working


def workspace_of(targets: Sequence[Target], ledger: ModelLedger) -> Workspace:
    """Forecast the largest moment of :func:`dpqlab.checkpoint.streaming.stream_steps`.

    Parameters
    ----------
    targets
        Linears, which may be on the meta device; at least one.
    ledger
        What they will store, in the same order (:func:`dpqlab.nn.forecast.forecast_`).
    """
    stored = {layer.name: layer.total // 8 for layer in ledger.layers}
    groups: dict[tuple[str, PoolConfig | None], list[Target]] = {}
    for target in targets:
        groups.setdefault(target.group, []).append(target)
    moments: list[Workspace] = []
    output = 0
    for members in groups.values():
        output += sum(stored[member.name] for member in members)
        moments.append(
            Workspace(
                layer=members[0].name,
                output=output,
                working=max(_fitting(members), _coding(members)),
            )
        )
    return max(moments, key=lambda moment: moment.total)


def _fitting(members: Sequence[Target]) -> int:
    codec = members[0].codec
    if not isinstance(codec, CodebookCodec):
        return 0
    points = sum(_points(member) for member in members)
    if codec.across != "layer":
        points = min(points, RESERVOIR)
    return points * (VALUE * codec.d + POINT) + READING * max(map(_weights, members))


def _coding(members: Sequence[Target]) -> int:
    codes = sum(map(_points, members)) if members[0].pool is not None else 0
    return HELD * codes + CODING * max(map(_weights, members))


def _points(target: Target) -> int:
    """Return the sub-vectors of a layer, each of which has a code; 0 without codebooks."""
    codec, linear = target.codec, target.linear
    if not isinstance(codec, CodebookCodec):
        return 0
    return linear.out_features * position_count(linear.in_features, codec.d)


def _weights(target: Target) -> int:
    return target.linear.out_features * target.linear.in_features
