"""One training step of a student against its teacher.

Codewords, row scales and biases are trained as float32 *masters* beside the model, which hold more
than the model can store; they are rounded into it from time to time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dpqlab.calibration.config import CalibrationConfig
from dpqlab.calibration.data import Batch
from dpqlab.calibration.objectives import DistillationLoss, distillation
from dpqlab.errors import ConfigError
from dpqlab.nn.linear import CompressedLinear
from dpqlab.nn.taps import block_outputs

PARTS = ("pool", "scale", "bias")
"""What is trained of a compressed layer."""


def masters_of(student: nn.Module) -> dict[str, Tensor]:
    """Return float32 copies of all that calibration trains, by parameter name.

    A pool that several layers share appears once, under its first name.

    Raises
    ------
    ConfigError
        If the model has no compressed layers.
    """
    masters: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, module in student.named_modules():
        if not isinstance(module, CompressedLinear):
            continue
        for part in PARTS:
            parameter = getattr(module, part)
            if parameter is not None and id(parameter) not in seen:
                seen.add(id(parameter))
                copy = parameter.detach().float().clone()
                masters[f"{name}.{part}"] = copy.requires_grad_()
    if not masters:
        raise ConfigError("the model has no compressed layers: run compress_ before calibrating")
    return masters


@torch.no_grad()
def rounded(student: nn.Module, masters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the masters as the student would store them, in float32."""
    return {
        name: master.to(student.get_parameter(name).dtype).float()
        for name, master in masters.items()
    }


@torch.no_grad()
def store_masters_(student: nn.Module, masters: Mapping[str, Tensor]) -> None:
    """Round the masters into the student's own parameters, in place."""
    for name, master in masters.items():
        student.get_parameter(name).copy_(master)


def predict(
    model: nn.Module, batch: Batch, masters: Mapping[str, Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Run a DiT and return its predicted noise and the outputs of its blocks.

    ``masters`` stand in for the parameters of their names; empty for a teacher.
    """
    inputs = {"timestep": batch.timesteps, "class_labels": batch.labels}
    with block_outputs(model) as blocks:
        out: Any = functional_call(model, dict(masters), (batch.noisy,), inputs)
    return out.sample, blocks


class Distiller:
    """Trains a student's masters, a step at a time; on a GPU a step is one CUDA graph.

    A step is some two thousand small kernels; launched one by one they leave the GPU idle for most
    of the time. The graph reads its inputs from ``self.batch`` and updates ``self.masters``.
    """

    def __init__(
        self, student: nn.Module, teacher: nn.Module, config: CalibrationConfig, batch: Batch
    ) -> None:
        self.student, self.teacher, self.config, self.batch = student, teacher, config, batch
        self.device = batch.noisy.device
        self.masters = masters_of(student)
        on_gpu = self.device.type == "cuda"
        groups = [self._group(part) for part in PARTS]
        self.optimizer = torch.optim.Adam(
            [group for group in groups if group["params"]],
            betas=(0.9, 0.99),
            capturable=on_gpu,
            fused=on_gpu,
        )
        self.graph = self._capture() if on_gpu and config.cuda_graph else None

    def _group(self, part: str) -> dict[str, Any]:
        """Return an optimiser group of all masters of a kind, with their root mean square."""
        masters = [m for name, m in self.masters.items() if name.rpartition(".")[2] == part]
        squares = [m.detach().square().mean() for m in masters]
        size = torch.stack(squares).mean().sqrt().item() if masters else 0.0
        # a tensor, because a graph reads the rate from where it was when it was captured
        rate = torch.tensor(0.0, device=self.device)
        return {"params": masters, "lr": rate, "size": size}

    def losses(self, batch: Batch, masters: Mapping[str, Tensor]) -> DistillationLoss:
        """Compare the student, with these masters, and the teacher on a batch."""
        with torch.autocast(
            self.device.type,
            torch.bfloat16,
            enabled=self.device.type == "cuda",
            cache_enabled=False,
        ):
            with torch.no_grad():
                wanted = predict(self.teacher, batch, {})
            mine = predict(self.student, batch, masters)
        return distillation(mine, wanted, feature_weight=self.config.feature_weight)

    @torch.no_grad()
    def judge(self, batch: Batch) -> DistillationLoss:
        """Measure the losses of the masters as they would be stored."""
        return self.losses(batch, rounded(self.student, self.masters))

    def step(self, batch: Batch, rate: float) -> None:
        """Take one step on ``batch`` at learning rate ``rate``."""
        for group in self.optimizer.param_groups:
            group["lr"].fill_(rate * group["size"])
        if self.graph is None:
            self.batch = batch
            self._step()
            return
        for part in ("noisy", "timesteps", "labels"):
            getattr(self.batch, part).copy_(getattr(batch, part))
        self.graph.replay()

    def _step(self) -> None:
        loss = self.losses(self.batch, self.masters)
        self.optimizer.zero_grad(set_to_none=False)
        # the masters alone: the student's other parameters are not trained
        loss.total.backward(inputs=list(self.masters.values()))
        self.optimizer.step()

    def _capture(self) -> torch.cuda.CUDAGraph:
        """Record one step. The warm-up runs at rate zero and leaves the optimiser as it was."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self._step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._step()
        for state in self.optimizer.state.values():
            for value in state.values():
                value.zero_()
        return graph
