"""A training run as it stands: settings, weights and their running mean, moments, draws."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dpqlab.calibration import Batch
from dpqlab.core.memory import with_less
from dpqlab.diffusion.dit import make_dit
from dpqlab.diffusion.models import load_pipeline
from dpqlab.distributed import Team
from dpqlab.errors import CheckpointError
from recipes.training_files import load_state, save_state
from recipes.training_optimizers import optimizers_of


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of a run; it ends at ``steps`` or ``seconds``, whichever comes first.

    ``prediction`` is what the model learns (``dpqlab.diffusion.schedules.PREDICTIONS``). Of much
    noise, where large flat parts of an image are decided, the noise itself tells next to nothing:
    there an error of 0.00006 in it is one of 1.5 in the image. The velocity tells the image.

    ``optimizer`` is one of ``training_optimizers.OPTIMIZERS``. ``shares`` says how many times the
    images of each class are there to be drawn, in the order of the labels; once where it is empty.
    ``began_from`` is the name of the model whose weights the run began from, if any.
    """

    steps: int = 60_000
    seconds: float = math.inf
    batch: int = 1024
    learning_rate: float = 6e-4
    warmup: int = 500
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.99)
    clip: float = 1.0
    ema: float = 0.9995
    label_drop: float = 0.1
    prediction: str = "epsilon"
    optimizer: str = "adamw"
    shares: tuple[int, ...] = ()
    began_from: str = ""
    seed: int = 0


_FIGURES = ("elapsed", "caution", "lowest")  # of a run that goes on, beside its step
LEAST_CAUTION = 2.0**-8


class Training:
    """Model, running mean of its weights, optimiser, batches: all that a checkpoint holds."""

    def __init__(self, config: TrainConfig, geometry: dict[str, Any], team: Team) -> None:
        if config.batch % team.world:
            raise ValueError(
                f"a batch of {config.batch} does not divide among {team.world} processes"
            )
        torch.manual_seed(config.seed)
        self.config, self.device, self.step, self.elapsed = config, team.device, 0, 0.0
        self.geometry, self.team = geometry, team
        self.caution, self.lowest = 1.0, math.inf
        self.at_once = config.batch // team.world  # images; fewer once memory has run out
        # of the batches: a resumed run goes on with the draws of an uninterrupted one
        self.generator = torch.Generator(team.device).manual_seed(config.seed + 1009 * team.rank)
        self.model: Any = self._new_model().train()
        self.ema: Any = self._new_model().eval().requires_grad_(False)
        self.ema.load_state_dict(self.model.state_dict())
        self.optimizers = optimizers_of(
            self.model,
            config.optimizer,
            learning_rate=config.learning_rate,
            betas=config.betas,
            weight_decay=config.weight_decay,
        )

    def _new_model(self) -> Any:
        model: Any = make_dit(self.geometry)
        return model.to(self.device)

    @property
    def run(self) -> str:
        """What tells this run from others, but for when it ends: settings and geometry, as JSON."""
        settings = dataclasses.asdict(self.config)
        settings = {name: settings[name] for name in settings if name not in ("steps", "seconds")}
        return json.dumps(settings | {"geometry": self.geometry}, sort_keys=True)

    def save(self, path: Path) -> None:
        """Write everything needed to go on, as one safetensors file, whole or not at all."""
        tensors: dict[str, Tensor] = {"state.step": torch.tensor([self.step])}
        for name in _FIGURES:
            tensors[f"state.{name}"] = torch.tensor([getattr(self, name)], dtype=torch.float64)
        tensors["state.generator"] = self.generator.get_state()
        moments = self.moments()
        for i, (name, parameter) in enumerate(self.model.named_parameters()):
            tensors[f"model.{name}"] = parameter.detach()
            for kind, value in moments.get(parameter, {}).items():
                tensors[f"moment.{i}.{kind}"] = value
        for name, parameter in self.ema.named_parameters():
            tensors[f"ema.{name}"] = parameter
        save_state(path, tensors, self.run)

    def moments(self) -> dict[Tensor, dict[str, Tensor]]:
        """Return what the optimizers keep of each parameter."""
        return {p: kept for optimizer in self.optimizers for p, kept in optimizer.state.items()}

    def learn(self, batch: Batch) -> Tensor:
        """Find the gradients, and return the loss; in pieces from where memory has run out on."""

        def learned(at_once: int) -> Tensor:
            self.at_once = at_once
            self.model.zero_grad(set_to_none=True)
            losses = [self._learned(p, len(p) / len(batch)) for p in batch.pieces(at_once)]
            return torch.stack(losses).sum()

        return with_less(learned, self.at_once, tries=2)

    def _learned(self, piece: Batch, share: float) -> Tensor:
        on_gpu = self.device.type == "cuda"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=on_gpu):
            predicted = self.model(
                piece.noisy, timestep=piece.timesteps, class_labels=piece.labels
            ).sample
        assert piece.target is not None
        loss = F.mse_loss(predicted.float(), piece.target) * share
        loss.backward()
        return loss.detach()

    def snapshot(self) -> list[Tensor]:
        """Return a copy of the weights and their running mean."""
        return [p.detach().clone() for p in (*self.model.parameters(), *self.ema.parameters())]

    def go_back(self, snapshot: list[Tensor]) -> None:
        """Go on from earlier weights, at half the learning rate and with fresh moments.

        Steps and time go on: the run ends when it was to end.

        Raises
        ------
        FloatingPointError
            If the learning rate has been halved often enough; the weights are the earlier ones.
        """
        with torch.no_grad():
            for p, old in zip(
                (*self.model.parameters(), *self.ema.parameters()), snapshot, strict=True
            ):
                p.copy_(old)
        for optimizer in self.optimizers:
            optimizer.state.clear()
        if self.caution < LEAST_CAUTION:
            raise FloatingPointError(f"the loss does not come down again at step {self.step}")
        self.caution /= 2

    def load(self, path: Path) -> None:
        """Go on from a file that :meth:`save` wrote."""
        tensors = {name: t.to(self.device) for name, t in load_state(path, self.run).items()}
        self.step = int(tensors["state.step"].item())
        for name in _FIGURES:
            setattr(self, name, float(tensors[f"state.{name}"].item()))
        self.generator.set_state(tensors["state.generator"].cpu())
        if not self.team.leads:  # the state is the leader's: its team mates draw other images
            self.generator.manual_seed(self.config.seed + 1009 * self.team.rank + self.step)
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(tensors[f"model.{name}"])
            for name, parameter in self.ema.named_parameters():
                parameter.copy_(tensors[f"ema.{name}"])
        moments: dict[int, dict[str, Tensor]] = defaultdict(dict)
        for name, tensor in tensors.items():
            if name.startswith("moment."):
                _, i, kind = name.split(".")
                moments[int(i)][kind] = tensor
        owners = {p: o for o in self.optimizers for g in o.param_groups for p in g["params"]}
        for i, parameter in enumerate(self.model.parameters()):
            if i not in moments:
                continue
            if "step" in moments[i] and not owners[parameter].defaults["fused"]:
                moments[i]["step"] = moments[i]["step"].cpu()  # where AdamW keeps its count
            owners[parameter].state[parameter] = moments[i]

    def begin_from(self, model: Path) -> None:
        """Begin from the weights of a model that :func:`export` wrote, with no moments yet.

        Raises
        ------
        DPQError
            If it cannot be read.
        CheckpointError
            If it is of another geometry.
        """
        weights = load_pipeline(model).transformer.state_dict()
        for mine in (self.model, self.ema):
            try:
                mine.load_state_dict(weights)
            except RuntimeError:
                raise CheckpointError(
                    f"{model} is of another geometry than this recipe's; leave out --start"
                ) from None
