"""A function of tensors as CUDA graphs, one for each signature of its inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dpqlab.diffusion.runtime.config import Held

WARM_UPS = 3
"""Runs before capture: kernels are compiled, tuned and given their workspaces in them."""
MOST_GRAPHS = 8
"""Signatures kept; the one unused for longest makes room."""

Signature = tuple[tuple[torch.Size, torch.dtype], ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Captured:
    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    output: Tensor


class Graphed:
    """Calls ``function`` by replaying a CUDA graph of it.

    Graphs share one memory pool: they never run at the same time, and an output is copied out
    before another is replayed.

    Parameters
    ----------
    function
        Tensors to one tensor, on ``device``; it may not look at values, and what it reads beside
        its inputs has to stay where it is.
    device
        A CUDA device.
    """

    def __init__(self, function: Callable[..., Tensor], device: torch.device) -> None:
        self.function, self.device = function, device
        self._pool: Any = None
        self._captured: dict[Signature, _Captured] = {}

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Return ``function(*inputs)`` in a tensor of its own."""
        signature = tuple((x.shape, x.dtype) for x in inputs)
        captured = self._captured.pop(signature, None)
        if captured is None:
            while len(self._captured) >= MOST_GRAPHS:
                del self._captured[next(iter(self._captured))]
            captured = self._capture(inputs)
        self._captured[signature] = captured  # last: the most recently used
        for static, given in zip(captured.inputs, inputs, strict=True):
            static.copy_(given)
        captured.graph.replay()
        return captured.output.clone()

    def held(self) -> Iterator[Held]:
        """Yield inputs and outputs of the graphs."""
        for captured in self._captured.values():
            for tensor in (*captured.inputs, captured.output):
                yield "graphs", tensor

    def _capture(self, inputs: tuple[Tensor, ...]) -> _Captured:
        static = tuple(x.clone() for x in inputs)
        aside = torch.cuda.Stream(self.device)
        aside.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(aside):
            for _ in range(WARM_UPS):
                self.function(*static)
        torch.cuda.current_stream(self.device).wait_stream(aside)
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        # first in line for the multiprocessors: what decodes ahead on another stream fills the gaps
        first = torch.cuda.Stream(self.device, priority=-1)
        with torch.cuda.graph(graph, pool=self._pool, stream=first):
            output = self.function(*static)
        return _Captured(graph=graph, inputs=static, output=output)
