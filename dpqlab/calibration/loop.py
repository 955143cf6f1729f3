"""Calibration: train a student's codebooks to do what its teacher does, codes fixed.

The M-step of the method (arXiv 2411.12306) with distillation in place of the diffusion loss: the
target is the teacher's own prediction, so the gradient carries no noise of its own. Codewords, row
scales and biases move in float32 beside the model and are rounded into it at the end of the run.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dpqlab.calibration.data import Batch, noisy_batch
from dpqlab.calibration.objectives import DistillationLoss, distillation
from dpqlab.errors import ConfigError
from dpqlab.nn.linear import CompressedLinear
from dpqlab.nn.taps import block_outputs


@dataclass(frozen=True, kw_only=True)
class CalibrationConfig:
    """Settings of a calibration.

    Parameters
    ----------
    steps
        Optimiser steps; VQ and PQ that are to be compared get as many.
    batch
        Images a step.
    learning_rate
        Of Adam, relative to the size of what is trained: codewords, row scales and biases each move
        at this rate times their own root mean square. Short warm-up, then a cosine to zero.
    feature_weight
        Weight of the block features beside the output error.
    label_drop
        Share of the batch without a class, for the unguided branch.
    holdout
        Images of the fixed batch that the student is judged on.
    every
        Steps between judgements.
    seed
        Of the batches.
    cuda_graph
        Replay a step as one CUDA graph; on a CPU it means nothing.
    """

    steps: int = 2500
    batch: int = 256
    learning_rate: float = 0.04
    warmup: int = 100
    feature_weight: float = 0.1
    label_drop: float = 0.15
    holdout: int = 1024
    every: int = 250
    seed: int = 0
    cuda_graph: bool = True

    def __post_init__(self) -> None:
        """Refuse settings that cannot run."""
        for name in ("steps", "batch", "holdout", "every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}: expected at least 1")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ConfigError(f"learning_rate is {self.learning_rate}: expected a positive number")


@dataclass(frozen=True, kw_only=True)
class CalibrationRecord:
    """State after some steps: held-out losses, whether they are the best, seconds so far and to go."""

    step: int
    total: float
    output: float
    features: float
    best: bool
    seconds: float
    remaining: float


@dataclass(frozen=True, kw_only=True)
class CalibrationData:
    """Real images uint8 (N, C, H, W) and labels int64 (N,); the last ``holdout`` are kept apart."""

    images: Tensor
    labels: Tensor
    alphas: Tensor


def masters_of(student: nn.Module) -> dict[str, Tensor]:
    """Return float32 copies of all that calibration trains, by parameter name.

    A pool that several layers share appears once, under its first name.
    """
    masters: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, module in student.named_modules():
        if not isinstance(module, CompressedLinear):
            continue
        for part in ("pool", "scale", "bias"):
            parameter = getattr(module, part)
            if parameter is not None and id(parameter) not in seen:
                seen.add(id(parameter))
                copy = parameter.detach().float().clone()
                masters[f"{name}.{part}"] = copy.requires_grad_()
    if not masters:
        raise ConfigError("the model has no compressed layers: run compress_ before calibrating")
    return masters


@torch.no_grad()
def store_masters_(student: nn.Module, masters: dict[str, Tensor]) -> None:
    """Round the float32 copies into the student's own parameters, in place."""
    for name, master in masters.items():
        parameter = student.get_parameter(name)
        limit = torch.finfo(parameter.dtype).max
        parameter.copy_(master.clamp(-limit, limit))


def predict(model: nn.Module, batch: Batch, masters: dict[str, Tensor]) -> Any:
    """Run a DiT and return its predicted noise and the outputs of its blocks.

    ``masters`` stand in for the parameters of their names; empty for a teacher.
    """
    dit: Any = model
    inputs = {"timestep": batch.timesteps, "class_labels": batch.labels}
    with block_outputs(model, dit.transformer_blocks) as blocks:
        out = functional_call(model, masters, (batch.noisy,), inputs)
    return out.sample, blocks


def learning_rate(config: CalibrationConfig, step: int) -> float:
    """Linear warm-up, then a cosine to zero."""
    warm = min(1.0, (step + 1) / config.warmup)
    return config.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * step / config.steps))


class Distiller:
    """One training step of a student against its teacher, replayed as a CUDA graph on a GPU.

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
        groups = [self._group(part) for part in ("pool", "scale", "bias")]
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

    def losses(self, batch: Batch) -> DistillationLoss:
        """Compare student and teacher on a batch."""
        with torch.autocast(
            self.device.type,
            torch.bfloat16,
            enabled=self.device.type == "cuda",
            cache_enabled=False,
        ):
            with torch.no_grad():
                wanted = predict(self.teacher, batch, {})
            mine = predict(self.student, batch, self.masters)
        return distillation(mine, wanted, feature_weight=self.config.feature_weight)

    def _step(self) -> None:
        loss = self.losses(self.batch)
        self.optimizer.zero_grad(set_to_none=False)
        loss.total.backward()
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


def calibrate(
    student: nn.Module, teacher: nn.Module, data: CalibrationData, config: CalibrationConfig
) -> Iterator[CalibrationRecord]:
    """Calibrate ``student`` in place, yielding a record each ``config.every`` steps.

    The state that did best on the held-out batch so far is in the student whenever a record is
    yielded, so the loop can be left at any time; the rounding to stored precision is included in
    what is judged.

    Parameters
    ----------
    student
        A model with :class:`CompressedLinear` layers, on the device of ``data``.
    teacher
        The full-precision model, same device.
    data
        Images to add noise to.

    Yields
    ------
    CalibrationRecord
        First the state before calibration (step 0).

    Raises
    ------
    ConfigError
        If the student has no compressed layers, or too few images are given.
    """
    if len(data.images) <= config.holdout:
        raise ConfigError(
            f"{len(data.images)} images: expected more than the {config.holdout} kept apart"
        )
    dit: Any = teacher
    device = data.images.device
    generator = torch.Generator(device).manual_seed(config.seed)

    def draw(part: slice, size: int) -> Batch:
        return noisy_batch(
            data.images[part],
            data.labels[part],
            data.alphas,
            size=size,
            null_class=dit.config.num_embeds_ada_norm,
            label_drop=config.label_drop,
            generator=generator,
        )[0]

    held_out = draw(slice(-config.holdout, None), config.holdout)
    training = slice(0, -config.holdout)
    packed = [m for m in student.modules() if isinstance(m, CompressedLinear)]
    for module in packed:
        module.cache_codes_()
    try:
        distiller = Distiller(student, teacher, config, draw(training, config.batch))
        best = judge(distiller, held_out, step=0)
        started = time.perf_counter()
        yield best
        for step in range(1, config.steps + 1):
            distiller.step(draw(training, config.batch), learning_rate(config, step - 1))
            if step % config.every and step != config.steps:
                continue
            record = judge(distiller, held_out, step=step)
            if not math.isfinite(record.total):
                raise ConfigError(
                    f"calibration diverged at step {step}: the student keeps the best state so "
                    f"far; try a learning rate below {config.learning_rate}"
                )
            seconds = time.perf_counter() - started
            improved = record.total < best.total
            if improved:
                store_masters_(student, distiller.masters)
                best = record
            yield replace(
                record,
                best=improved,
                seconds=seconds,
                remaining=seconds / step * (config.steps - step),
            )
    finally:
        for module in packed:
            module.drop_codes_()


@torch.no_grad()
def judge(distiller: Distiller, held_out: Batch, *, step: int) -> CalibrationRecord:
    """Measure the held-out losses of the masters as they would be stored."""
    exact = {name: master.clone() for name, master in distiller.masters.items()}
    for name, master in distiller.masters.items():
        master.copy_(master.to(distiller.student.get_parameter(name).dtype))
    losses = distiller.losses(held_out)
    for name, master in distiller.masters.items():
        master.copy_(exact[name])
    return CalibrationRecord(
        step=step,
        total=losses.total.item(),
        output=losses.output.item(),
        features=losses.features.item(),
        best=True,
        seconds=0.0,
        remaining=0.0,
    )
