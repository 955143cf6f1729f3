"""The memory through which decoded weights pass, in the order in which they are multiplied with.

Layers are decoded in *turns*, one launch each. With overlap a second CUDA stream decodes a turn
while the current stream still multiplies with the one before: it begins as soon as that one's
*early* layers have been read, whose memory it takes. *Late* layers are read after that, so they
have two places by turns. Events order the two streams, so the whole can be captured in a CUDA
graph; each costs about a microsecond, which is why turns are long. Without overlap there is one
stream, and each layer is decoded when it is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dpqlab.diffusion.runtime.config import Held
from dpqlab.diffusion.runtime.parts import Part, filler

ALIGNMENT = 64
"""Values: each weight begins at a multiple of them."""


@dataclass(frozen=True, kw_only=True)
class _Stop:
    """Layers below each other, and when they are decoded."""

    parts: tuple[Part, ...]
    turn: int
    late: bool

    @property
    def shape(self) -> tuple[int, int]:
        return sum(part.shape[0] for part in self.parts), self.parts[0].shape[1]

    @property
    def values(self) -> int:
        rows, columns = self.shape
        return -(-rows * columns // ALIGNMENT) * ALIGNMENT


class Belt:
    """Decodes the layers added to it, in that order, in every forward pass.

    Parameters
    ----------
    device, dtype
        Of the decoded weights.
    overlap
        Decode ahead on a second stream (CUDA only).
    """

    def __init__(self, device: torch.device, dtype: torch.dtype, *, overlap: bool) -> None:
        self.device, self.dtype = device, dtype
        self.overlap = overlap and device.type == "cuda"
        self._stops: list[_Stop] = []
        self._turns = 0
        self._values = 0
        self._memory: Tensor | None = None
        self._weights: list[Tensor] = []
        self._fillers: list[Callable[[], object]] = []
        self._stream = torch.cuda.Stream(device) if self.overlap else None
        self._decoded: dict[int, torch.cuda.Event] = {}
        self._taken = -1

    def turn(self) -> None:
        """Say that what is added from now on is decoded together, apart from what came before."""
        if self._stops and self._stops[-1].turn == self._turns:
            self._turns += 1

    def add(self, parts: Sequence[Part], *, late: bool = False) -> int:
        """Add layers below each other to the turn; return their place in the order.

        Parameters
        ----------
        parts
            Layers with inputs of the same length.
        late
            Whether the next turn may be decoded before they have been multiplied with. The late
            layers of a turn are its last ones.
        """
        assert self._memory is None, "buffers are made: their addresses may be in a graph"
        last = self._stops[-1] if self._stops else None
        early_after_late = last and last.turn == self._turns and last.late and not late
        assert not early_after_late, "the late layers of a turn come last"
        self._stops.append(_Stop(parts=tuple(parts), turn=self._turns, late=late))
        return len(self._stops) - 1

    def reserve(self, parts: Sequence[Part]) -> None:
        """Make room for layers that :meth:`decoded` will be asked for."""
        assert self._memory is None, "buffers are made: their addresses may be in a graph"
        self._values = max(self._values, _Stop(parts=tuple(parts), turn=0, late=False).values)

    def start(self) -> None:
        """Begin a forward pass."""
        self._decoded.clear()
        self._taken = -1
        if self._stream is not None and self._stops:
            self._stream.wait_stream(torch.cuda.current_stream(self.device))
            self._decode_aside(0)

    def take(self, place: int) -> Tensor:
        """Return the weight at ``place``, ready for the current stream, until it is released."""
        turn = self._stops[place].turn
        if self._stream is None:
            self._fillers[place]()
        elif turn != self._taken:
            self._taken = turn
            torch.cuda.current_stream(self.device).wait_event(self._decoded[turn])
            if self._stops[place].late:  # of a turn without early layers
                self._decode_next(turn)
        return self._weights[place]

    def release(self, place: int) -> None:
        """Say that everything that reads the weight at ``place`` has been launched."""
        stop = self._stops[place]
        after = self._stops[place + 1] if place + 1 < len(self._stops) else None
        last_early = not stop.late and (after is None or after.late or after.turn != stop.turn)
        if self._stream is not None and last_early:
            self._decode_next(stop.turn)

    def decoded(self, parts: Sequence[Part]) -> Tensor:
        """Decode layers now, on the current stream; the next call may overwrite the result.

        Not between :meth:`start` and the last :meth:`release` of a pass with overlap.
        """
        weight = self._view(_Stop(parts=tuple(parts), turn=0, late=False), 0)
        for part, out in zip(parts, weight.split([part.shape[0] for part in parts]), strict=True):
            part.write(out)
        return weight

    def decode_all(self) -> None:
        """Decode everything once, turn after turn, on the current stream: to time it alone."""
        for fill in self._fillers:
            fill()

    def held(self) -> Iterator[Held]:
        """Yield the memory."""
        if self._memory is not None:
            yield "scratch", self._memory

    def make_buffers(self) -> None:
        """Allocate; once all layers are known."""
        places, needed = self._places()
        needed = max(needed, self._values)
        if self._memory is not None or not needed:
            return
        self._memory = torch.empty(needed, dtype=self.dtype, device=self.device)
        self._weights = [
            self._view(stop, start) for stop, start in zip(self._stops, places, strict=True)
        ]
        together: dict[int, list[tuple[Part, Tensor]]] = {}
        for place, (stop, weight) in enumerate(zip(self._stops, self._weights, strict=True)):
            rows = weight.split([part.shape[0] for part in stop.parts])
            pairs = zip(stop.parts, rows, strict=True)
            together.setdefault(stop.turn if self.overlap else place, []).extend(pairs)
        self._fillers = [filler(pairs) for pairs in together.values()]

    def _places(self) -> tuple[list[int], int]:
        """Return where each weight begins, and how many values are needed."""
        if not self.overlap:
            return [0] * len(self._stops), max((stop.values for stop in self._stops), default=0)
        ends: dict[tuple[int, bool], int] = {}
        starts: list[int] = []
        for stop in self._stops:
            end = ends.get((stop.turn, stop.late), 0)
            starts.append(end)
            ends[stop.turn, stop.late] = end + stop.values
        early, late = (
            max((end for (_, kind), end in ends.items() if kind is which), default=0)
            for which in (False, True)
        )
        places = [
            start + (early + stop.turn % 2 * late if stop.late else 0)
            for stop, start in zip(self._stops, starts, strict=True)
        ]
        return places, early + 2 * late

    def _decode_next(self, turn: int) -> None:
        if turn < self._stops[-1].turn:
            assert self._stream is not None
            read = torch.cuda.Event()
            read.record(torch.cuda.current_stream(self.device))
            self._stream.wait_event(read)
            self._decode_aside(turn + 1)

    def _decode_aside(self, turn: int) -> None:
        with torch.cuda.stream(self._stream):
            self._fillers[turn]()
            event = torch.cuda.Event()
            event.record(self._stream)
        self._decoded[turn] = event

    def _view(self, stop: _Stop, start: int) -> Tensor:
        assert self._memory is not None, "make_buffers comes first"
        rows, columns = stop.shape
        return self._memory[start : start + rows * columns].view(rows, columns)
