"""Two buffers through which decoded weights pass, in the order in which they are multiplied with.

With overlap a second CUDA stream decodes ahead: a buffer is filled anew as soon as the product that
read it is done, while the current stream goes on with the other. Events order the two streams, so
the whole can be captured in a CUDA graph. Without overlap there is one buffer and one stream.

Products of many rows take every multiprocessor, and decoding fills the gaps between them. Products
of few rows cannot use them all: some are reserved then, and a decoder that keeps to them runs
beside the products all the time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from dpqlab.diffusion.runtime.config import Held
from dpqlab.diffusion.runtime.parts import Part, filler, filler_beside
from dpqlab.kernels.devices import can_leave_multiprocessors, multiprocessors_left

FEW_ROWS = 1024
"""Rows of a product up to which multiprocessors are reserved: two images of DiT-XL/2, guided."""


class Belt:
    """Decodes the layers added to it, in that order, in every forward pass.

    Parameters
    ----------
    device, dtype
        Of the decoded weights.
    overlap
        Decode ahead on a second stream (CUDA only).
    reserve
        Multiprocessors on which it does so while products of few rows run on the others; 0: none.
    """

    def __init__(
        self, device: torch.device, dtype: torch.dtype, *, overlap: bool, reserve: int = 0
    ) -> None:
        self.device, self.dtype = device, dtype
        self.overlap = overlap and device.type == "cuda"
        self._reserve = reserve if self.overlap and can_leave_multiprocessors() else 0
        self._stops: list[tuple[Part, ...]] = []
        self._values = 0
        self._buffers: tuple[Tensor, ...] | None = None
        self._fillers: list[Callable[[], object]] = []
        self._beside: list[Callable[[], object]] = []
        self._fill = self._fillers
        self._stream = torch.cuda.Stream(device) if self.overlap else None
        self._decoded: dict[int, torch.cuda.Event] = {}

    def add(self, parts: Sequence[Part]) -> int:
        """Add layers that are decoded below each other; return their place in the order."""
        self.reserve(parts)
        self._stops.append(tuple(parts))
        return len(self._stops) - 1

    def reserve(self, parts: Sequence[Part]) -> None:
        """Make the buffers large enough for layers that :meth:`decoded` will be asked for."""
        assert self._buffers is None, "buffers are made: their addresses may be in a graph"
        self._values = max(self._values, sum(out * columns for out, columns in map(_shape, parts)))

    @contextmanager
    def passing(self, rows: int) -> Iterator[None]:
        """Go through the layers once, multiplying each with so many rows."""
        beside = rows <= FEW_ROWS and bool(self._beside)
        self._fill = self._beside if beside else self._fillers
        with multiprocessors_left(self._reserve if beside else 0):
            self._start()
            yield

    def _start(self) -> None:
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
            self._fill[place]()
        elif first:
            torch.cuda.current_stream(self.device).wait_event(self._decoded[place])
        return self._view(self._stops[place], 0 if self._stream is None else place % 2)

    def release(self, place: int) -> None:
        """Say that everything that reads the weight at ``place`` has been launched."""
        if self._stream is not None and place + 2 < len(self._stops):
            read = torch.cuda.Event()
            read.record(torch.cuda.current_stream(self.device))
            self._stream.wait_event(read)
            self._decode_aside(place + 2)

    def decoded(self, parts: Sequence[Part]) -> Tensor:
        """Decode layers now, on the current stream; the next call may overwrite the result.

        Not within :meth:`passing` with overlap.
        """
        weight = self._view(parts, 0)
        for part, out in zip(parts, weight.split([part.shape[0] for part in parts]), strict=True):
            part.write(out)
        return weight

    def held(self) -> Iterator[Held]:
        """Yield the buffers."""
        for buffer in self._buffers or ():
            yield "scratch", buffer

    def make_buffers(self) -> None:
        """Allocate; once all layers are known."""
        if self._buffers is None and self._values:
            count = 2 if self.overlap else 1
            self._buffers = tuple(
                torch.empty(self._values, dtype=self.dtype, device=self.device)
                for _ in range(count)
            )
            self._fillers = [
                filler(parts, self._view(parts, place % count))
                for place, parts in enumerate(self._stops)
            ]
            self._fill = self._fillers
            self._beside = self._fillers_beside() if self._reserve else []

    def _fillers_beside(self) -> list[Callable[[], object]]:
        """Return what decodes on a few multiprocessors; nothing where one of the layers cannot."""
        fillers = [
            filler_beside(parts, self._view(parts, place % 2), self._reserve)
            for place, parts in enumerate(self._stops)
        ]
        able = [filler for filler in fillers if filler is not None]
        return able if len(able) == len(fillers) else []

    def _decode_aside(self, place: int) -> None:
        with torch.cuda.stream(self._stream):
            self._fill[place]()
            event = torch.cuda.Event()
            event.record(self._stream)
        self._decoded[place] = event

    def _view(self, parts: Sequence[Part], index: int) -> Tensor:
        assert self._buffers is not None, "make_buffers comes first"
        rows, columns = sum(part.shape[0] for part in parts), parts[0].shape[1]
        return self._buffers[index][: rows * columns].view(rows, columns)


def _shape(part: Part) -> tuple[int, int]:
    return part.shape
