"""Two buffers through which decoded weights pass, in the order in which they are multiplied with.

With overlap a second CUDA stream decodes ahead: a buffer is filled anew as soon as the product that
read it is done, while the current stream goes on with the other. Events order the two streams, so
the whole can be captured in a CUDA graph. Without overlap there is one buffer and one stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from dpqlab.diffusion.runtime.config import Held
from dpqlab.diffusion.runtime.parts import Part, filler

ALIGNMENT = 64
"""Values: a buffer begins at a multiple of them."""


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
        self._stops: list[tuple[Part, ...]] = []
        self._values = self._values_at_once = 0
        self._memory: Tensor | None = None
        self._buffers: tuple[Tensor, ...] = ()
        self._fillers: list[Callable[[], object]] = []
        self._stream = torch.cuda.Stream(device) if self.overlap else None
        self._decoded: dict[int, torch.cuda.Event] = {}

    def add(self, parts: Sequence[Part]) -> int:
        """Add layers that are decoded below each other; return their place in the order."""
        assert self._memory is None, "buffers are made: their addresses may be in a graph"
        self._values = max(self._values, _values(parts))
        self._stops.append(tuple(parts))
        return len(self._stops) - 1

    def reserve(self, parts: Sequence[Part]) -> None:
        """Make both buffers together large enough for what :meth:`decoded` will be asked for."""
        assert self._memory is None, "buffers are made: their addresses may be in a graph"
        self._values_at_once = max(self._values_at_once, _values(parts))

    def start(self) -> None:
        """Begin a forward pass."""
        self._decoded.clear()
        if self._stream is not None and self._stops:
            self._stream.wait_stream(torch.cuda.current_stream(self.device))
            for place in range(min(2, len(self._stops))):
                self._decode_aside(place)

    def take(self, place: int, *, first: bool = True) -> Tensor:
        """Return the weight at ``place``, ready for the current stream, until it is released.

        Parameters
        ----------
        place
            From :meth:`add`.
        first
            False when it has been taken in this pass already.
        """
        if first and self._stream is None:
            self._fillers[place]()
        elif first:
            torch.cuda.current_stream(self.device).wait_event(self._decoded[place])
        buffer = self._buffers[0 if self._stream is None else place % 2]
        return _view(self._stops[place], buffer)

    def release(self, place: int) -> None:
        """Say that everything that reads the weight at ``place`` has been launched."""
        if self._stream is not None and place + 2 < len(self._stops):
            read = torch.cuda.Event()
            read.record(torch.cuda.current_stream(self.device))
            self._stream.wait_event(read)
            self._decode_aside(place + 2)

    def decoded(self, parts: Sequence[Part]) -> Tensor:
        """Decode layers now, on the current stream; the next call may overwrite the result.

        Not between :meth:`start` and the last :meth:`release` of a pass with overlap.
        """
        assert self._memory is not None, "make_buffers comes first"
        weight = _view(parts, self._memory)
        for part, out in zip(parts, weight.split([part.shape[0] for part in parts]), strict=True):
            part.write(out)
        return weight

    def held(self) -> Iterator[Held]:
        """Yield the memory of the buffers."""
        if self._memory is not None:
            yield "scratch", self._memory

    def make_buffers(self) -> None:
        """Allocate; once all layers are known."""
        count = 2 if self.overlap else 1
        needed = max(count * self._values, self._values_at_once)
        if self._memory is None and needed:
            self._memory = torch.empty(needed, dtype=self.dtype, device=self.device)
            self._buffers = self._memory[: count * self._values].chunk(count)
            self._fillers = [
                filler(parts, _view(parts, self._buffers[place % count]))
                for place, parts in enumerate(self._stops)
            ]

    def _decode_aside(self, place: int) -> None:
        with torch.cuda.stream(self._stream):
            self._fillers[place]()
            event = torch.cuda.Event()
            event.record(self._stream)
        self._decoded[place] = event


def _values(parts: Sequence[Part]) -> int:
    """Count the weights of layers below each other, up to a place where another may begin."""
    values = sum(out * columns for out, columns in (part.shape for part in parts))
    return -(-values // ALIGNMENT) * ALIGNMENT


def _view(parts: Sequence[Part], memory: Tensor) -> Tensor:
    rows, columns = sum(part.shape[0] for part in parts), parts[0].shape[1]
    return memory[: rows * columns].view(rows, columns)
