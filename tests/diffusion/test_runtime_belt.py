"""The belt of decoded weights: its two streams, played through in any order they allow."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dpqlab.core import CodebookCodec
from dpqlab.diffusion.runtime.belt import Belt
from dpqlab.diffusion.runtime.parts import Part
from dpqlab.kernels import reference
from dpqlab.kernels.coded import CodedWeight
from dpqlab.nn import Plan, compress_

SHAPES = [(8, 4), (4, 8), (12, 4), (4, 4), (16, 4)]


class Event:
    """Done once its stream has come to where it was recorded."""

    def __init__(self) -> None:
        self.done = True

    def record(self, stream: Stream) -> None:
        self.done = False
        stream.work.append((None, lambda: setattr(self, "done", True)))


class Stream:
    """Work in order; each piece may have to wait for an event."""

    def __init__(self) -> None:
        self.work: list[tuple[Event | None, Callable[[], object]]] = []

    def wait_event(self, event: Event) -> None:
        self.work.append((event, lambda: None))

    def wait_stream(self, other: Stream) -> None:
        event = Event()
        event.record(other)
        self.wait_event(event)


class Device:
    """Two streams, run in a random order that their events allow."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.main, self.aside = Stream(), Stream()
        self.current = self.main
        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: self.current)
        monkeypatch.setattr(torch.cuda, "stream", self.switched)

    @contextmanager
    def switched(self, stream: Stream) -> Iterator[None]:
        before, self.current = self.current, stream
        yield
        self.current = before

    def launch(self, work: Callable[[], object]) -> None:
        self.current.work.append((None, work))

    def run(self, seed: int) -> None:
        choice = random.Random(seed)
        streams = [self.main, self.aside]
        while any(stream.work for stream in streams):
            ready = [s for s in streams if s.work and (s.work[0][0] is None or s.work[0][0].done)]
            assert ready, "the streams wait for each other"
            choice.choice(ready).work.pop(0)[1]()


def reading(weight: Tensor, read: list[Tensor]) -> None:
    read.append(weight.clone())


def layers(count: int) -> list[Part]:
    model = nn.ModuleDict(
        {f"l{i}": nn.Linear(SHAPES[i % 5][1], SHAPES[i % 5][0]) for i in range(count)}
    )
    whole = nn.ModuleDict({"transformer_blocks": nn.ModuleList([model])})
    compress_(whole, Plan.for_blocks(CodebookCodec(d=2, k=4, iterations=1)))
    return [Part.of(layer, name) for name, layer in model.items()]


def belt_of(parts: list[Part]) -> Belt:
    belt = Belt(torch.device("cpu"), torch.float32, overlap=False)
    for part in parts:
        belt.add([part])
    return belt


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_each_product_reads_its_own_weight(monkeypatch, count):
    device = Device(monkeypatch)
    parts: list[Part] = []

    def decoder(weight: CodedWeight, out: Tensor) -> None:
        device.launch(lambda: reference.decode(weight, out.dtype, out))

    for part in layers(count):
        assert part.coded is not None
        parts.append(Part(shape=part.shape, bias=None, decoder=decoder, coded=part.coded))
    expected = [reference.decode(p.coded, torch.float32) for p in parts if p.coded is not None]
    belt: Any = belt_of(parts)
    belt.overlap, belt._stream = True, device.aside
    belt.make_buffers()
    ((_, memory),) = belt.held()
    assert memory.numel() == 2 * 64
    for seed in range(50):
        read: list[Tensor] = []
        for _ in range(2):  # a pass may begin while the one before is under way
            belt.start()
            for place in range(count):
                weight = belt.take(place)
                device.launch(partial(reading, weight, read))
                belt.release(place)
        device.run(seed)
        for ours, right in zip(read, expected * 2, strict=True):
            assert torch.equal(ours, right)


def test_without_overlap_there_is_one_buffer_of_the_largest_layer():
    parts = layers(5)
    belt = belt_of(parts)
    belt.reserve([parts[0]])
    belt.make_buffers()
    ((what, buffer),) = belt.held()
    assert what == "scratch"
    assert buffer.numel() == 64
    belt.start()
    for place, part in enumerate(parts):
        assert part.coded is not None
        expected = reference.decode(part.coded, torch.float32)
        assert torch.equal(belt.take(place), expected)
        assert belt.take(place).data_ptr() == buffer.data_ptr()
        belt.release(place)
    assert torch.equal(belt.decoded(parts[:1]), reference.decode(parts[0].coded, torch.float32))


def test_layers_below_each_other():
    q, k = layers(6)[::5]
    belt = Belt(torch.device("cpu"), torch.bfloat16, overlap=False)
    place = belt.add([q, k])
    belt.make_buffers()
    assert q.coded is not None
    assert k.coded is not None
    both = [reference.decode(weight, torch.bfloat16) for weight in (q.coded, k.coded)]
    assert torch.equal(belt.take(place), torch.cat(both))
