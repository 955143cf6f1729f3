"""VQ4DiT (arXiv 2408.17131) as a rival: per-layer VQ, candidate codes, zero-data calibration."""

import dataclasses
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpqlab.calibration import warmup_cosine
from dpqlab.calibration.batch import Batch, paired
from dpqlab.calibration.forward import predict
from dpqlab.calibration.objectives import block_errors
from dpqlab.core import CodebookCodec
from dpqlab.diffusion import make_scheduler
from dpqlab.errors import ConfigError
from dpqlab.nn import CompressedLinear

VQ4DIT = CodebookCodec(d=4, k=256, scope="layer")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vq4ditConfig:
    """Settings of :func:`vq4dit`.

    Parameters
    ----------
    steps
        Optimiser steps. For the first ``soft_share`` of them a weight is the average of its
        candidates; then codes are fixed and the codebooks settle.
    batch
        Inputs a step, half of them without a class: the two branches of guided trajectories.
    candidates
        Nearest codewords that a sub-vector chooses from.
    start
        Ratios at the start: ``"equal"`` (the paper), or by inverse ``"distance"`` (its code), which
        did better on a tiny model.
    codebook_rate
        Of RMSprop for codewords, relative to their root mean square; cosine to zero.
    ratio_rate
        Of RMSprop for the logits of the ratios.
    ratio_weight
        Weight of the ratio loss.
    sampling_steps, guidance
        Of the teacher's trajectories (DDIM).
    every
        Steps between judgements.
    seed
        Of noise and labels.
    """

    steps: int = 2000
    soft_share: float = 0.5
    batch: int = 256
    candidates: int = 3
    start: Literal["equal", "distance"] = "distance"
    codebook_rate: float = 0.02
    ratio_rate: float = 0.01
    ratio_weight: float = 1.0
    sampling_steps: int = 50
    guidance: float = 1.5
    every: int = 250
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that cannot run."""
        for name in ("steps", "candidates", "sampling_steps", "every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}: expected at least 1")
        if self.batch < 2 or self.batch % 2:
            raise ConfigError(f"batch is {self.batch}: expected an even number, two branches each")
        if self.start not in ("equal", "distance"):
            raise ConfigError(f"start is {self.start!r}: expected 'equal' or 'distance'")
        if not 0 <= self.soft_share <= 1:
            raise ConfigError(f"soft_share is {self.soft_share}: expected a share from 0 to 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vq4ditRecord:
    """State after ``step`` steps, which is in the student then.

    ``loss`` is the held-out block error of the student as stored (mean over blocks of the relative
    squared error), ``training`` that of the weights in training on the same inputs, ``ratio`` the
    ratio loss (0 when all are decided), ``decided`` the share of sub-vectors whose largest ratio is
    above 0.99, ``moved`` the share whose code is no longer the nearest codeword.
    """

    step: int
    loss: float
    training: float
    ratio: float
    decided: float
    moved: float
    seconds: float


class SoftLinear:
    """A VQ layer whose weights are averages of candidate codewords: what VQ4DiT trains.

    Parameters
    ----------
    layer
        A layer with one codebook and no row scale.
    weight
        The teacher's (out, in), on the same device.
    config
        How many candidates, and their ratios at the start.

    Attributes
    ----------
    codebook, logits : Tensor
        float32 (k, d) and (out, m, n), trained.
    candidates : Tensor
        int32 (out, m, n), the nearest codewords, nearest first.
    """

    def __init__(self, layer: CompressedLinear, weight: Tensor, config: Vq4ditConfig) -> None:
        if (
            len(layer.base) != 2
            or layer.scale is not None
            or getattr(layer, "table", None) is not None
        ):
            raise ConfigError(
                f"VQ4DiT has one codebook a layer and no row scale: got {layer.codec.describe()}"
            )
        self.layer = layer
        self.codebook = layer.pool.detach().float().clone().requires_grad_()
        k, d = self.codebook.shape
        missing = layer.positions * d - layer.in_features
        points = F.pad(weight.detach().float(), (0, missing)).reshape(-1, d)
        n = min(config.candidates, k)
        nearest = [
            torch.cdist(part, self.codebook.detach()).topk(n, largest=False)
            for part in points.split(1 << 16)
        ]
        shape = (layer.out_features, layer.positions, n)
        self.candidates = torch.cat([f.indices for f in nearest]).view(shape).to(torch.int32)
        distances = torch.cat([f.values for f in nearest]).view(shape)
        # a sub-vector that is a codeword has distance zero
        start = -distances.clamp_min(1e-3 * distances.mean()).log()
        self.logits = (start if config.start == "distance" else torch.zeros_like(start)).clone()
        self.logits.requires_grad_()

    def ratios(self) -> Tensor:
        """Return the ratios (out, m, n), which sum to one."""
        return self.logits.softmax(-1)

    def codes(self) -> Tensor:
        """Return the codes with the largest ratios, int32 (out, m)."""
        return self.candidates.gather(-1, self.logits.argmax(-1, keepdim=True))[..., 0]

    def weight(self, codes: Tensor | None = None) -> Tensor:
        """Return the average weight (out, in), or the one of ``codes``; differentiable."""
        if codes is None:
            words = F.embedding(self.candidates, self.codebook)  # (out, m, n, d)
            sub = (self.ratios()[..., None] * words).sum(-2)
        else:
            sub = F.embedding(codes, self.codebook)
        return sub.flatten(1)[:, : self.layer.in_features]

    @torch.no_grad()
    def store_(self) -> None:
        """Decide: put the codes with the largest ratios and the codebook into the layer."""
        self.layer.pool.copy_(self.codebook)
        self.layer.set_codes_(self.codes().long())


class Trajectories:
    """Images on their way from noise to the teacher's picture, each at another step of it."""

    def __init__(self, teacher: nn.Module, config: Vq4ditConfig, *, seed: int) -> None:
        dit: Any = teacher
        scheduler: Any = make_scheduler("ddim")
        scheduler.set_timesteps(config.sampling_steps)
        self.teacher, self.config = teacher, config
        self.null = dit.config.num_embeds_ada_norm
        device = next(teacher.parameters()).device
        self.generator = torch.Generator(device).manual_seed(seed)
        self.timesteps = scheduler.timesteps.to(device)
        alphas = scheduler.alphas_cumprod.to(device)[self.timesteps]
        # the last step ends at the clean image; the spacing is even, so each starts where one ended
        self.alphas = torch.cat([alphas, scheduler.final_alpha_cumprod.to(device)[None]])
        count, side = config.batch // 2, dit.config.sample_size
        self.shape = (count, dit.config.in_channels, side, side)
        self.stage = torch.zeros(count, dtype=torch.int64, device=device)
        self.x, self.labels = self._fresh()
        waits = torch.arange(count, device=device) * config.sampling_steps // count
        for step in range(config.sampling_steps):
            self._advance(waits <= step)

    def _fresh(self) -> tuple[Tensor, Tensor]:
        device = self.stage.device
        noise = torch.randn(self.shape, device=device, generator=self.generator)
        labels = torch.randint(self.null, self.shape[:1], device=device, generator=self.generator)
        return noise, labels

    def draw(self) -> tuple[Batch, list[Tensor]]:
        """Return inputs of both branches, with the teacher's block outputs, and go a step on."""
        return self._advance(torch.ones_like(self.stage, dtype=torch.bool))

    @torch.no_grad()
    def _advance(self, moving: Tensor) -> tuple[Batch, list[Tensor]]:
        times = self.timesteps[self.stage]
        batch = paired(Batch(noisy=self.x, timesteps=times, labels=self.labels), self.null)
        noise, blocks = run(self.teacher, batch, {})
        with_class, without = noise[:, : self.x.shape[1]].float().chunk(2)
        guided = without + self.config.guidance * (with_class - without)
        x = ddim_step(self.x, guided, self.alphas[self.stage], self.alphas[self.stage + 1])
        stage = self.stage + 1
        done = stage == len(self.timesteps)
        fresh, labels = self._fresh()
        x = torch.where(done[:, None, None, None], fresh, x)
        self.x = torch.where(moving[:, None, None, None], x, self.x)
        self.labels = torch.where(moving & done, labels, self.labels)
        self.stage = torch.where(moving, torch.where(done, 0, stage), self.stage)
        return batch, blocks


def ddim_step(x: Tensor, noise: Tensor, alpha: Tensor, next_alpha: Tensor) -> Tensor:
    """Take a DDIM step of each image (N, C, H, W) between its own two noise levels, both (N,).

    As the samplers here do: the predicted image is clipped, the noise derived anew from it.
    """
    a, b = alpha.view(-1, 1, 1, 1), next_alpha.view(-1, 1, 1, 1)
    clean = ((x - (1 - a).sqrt() * noise) / a.sqrt()).clamp(-1, 1)
    noise = (x - a.sqrt() * clean) / (1 - a).sqrt()
    return b.sqrt() * clean + (1 - b).sqrt() * noise


def run(
    model: nn.Module, batch: Batch, weights: Mapping[str, Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Return a DiT's prediction and block outputs, ``weights`` in the place of its own."""
    device = batch.noisy.device.type
    with torch.autocast(device, torch.bfloat16, enabled=device == "cuda", cache_enabled=False):
        return predict(model, batch, weights)


def ratio_loss(layers: Sequence[SoftLinear]) -> Tensor:
    """Return the mean over sub-vectors of ``sum_n (1 - |2 r_n - 1|)``: 0 when all are decided."""
    total = torch.stack([(1 - (2 * s.ratios() - 1).abs()).sum() for s in layers]).sum()
    return total / sum(s.logits[..., 0].numel() for s in layers)


def vq4dit(student: nn.Module, teacher: nn.Module, config: Vq4ditConfig) -> Iterator[Vq4ditRecord]:
    """Calibrate ``student`` in place by VQ4DiT (arXiv 2408.17131), a record each ``config.every``.

    Each sub-vector of the teacher gets its nearest codewords as candidates. The weight is their
    average by ratios; codebooks and ratios are trained to give the teacher's block outputs on the
    teacher's own trajectories, and the ratio loss drives ratios to 0 or 1. Departures from the
    paper, in its favour: images of a batch are at different steps of their trajectories, block
    errors are relative, so that one ratio weight serves all depths, and codebooks settle after the
    codes are fixed (the authors' code trains them then only).

    Parameters
    ----------
    student
        A model with per-layer VQ; biases and the rest stay as they are.
    teacher
        The full-precision model, same device.

    Yields
    ------
    Vq4ditRecord
        First the student as it came, step 0. What a record judges is in the student when it comes.

    Raises
    ------
    ConfigError
        If a compressed layer has several codebooks or row scales, there is none, or the training
        diverges.
    """
    student.eval()
    teacher.eval()
    found = {n: m for n, m in student.named_modules() if isinstance(m, CompressedLinear)}
    if not found:
        raise ConfigError("the model has no compressed layers: run compress_ before calibrating")
    soft = {
        name: SoftLinear(layer, teacher.get_submodule(name).weight, config)  # pyright: ignore[reportArgumentType]
        for name, layer in found.items()
    }
    layers = tuple(soft.values())
    judge = _Judge(student, teacher, soft, Trajectories(teacher, config, seed=config.seed + 1))
    trajectories = Trajectories(teacher, config, seed=config.seed)
    books, logits = [s.codebook for s in layers], [s.logits for s in layers]
    size = math.sqrt(sum(float(b.detach().square().mean()) for b in books) / len(books))
    choosing = torch.optim.RMSprop(logits, lr=config.ratio_rate)
    settling = torch.optim.RMSprop(books, lr=0.0)
    soft_steps = round(config.steps * config.soft_share)
    codes: list[Tensor] | None = None
    yield judge.record(0, codes)
    for step in range(1, config.steps + 1):
        if step > soft_steps and codes is None:
            codes = [s.codes() for s in layers]
        batch, wanted = trajectories.draw()
        done = (step - 1) / config.steps
        settling.param_groups[0]["lr"] = size * warmup_cosine(
            config.codebook_rate, step - 1, warmup=config.steps // 20, done=done
        )
        loss = block_errors(run(teacher, batch, judge.weights(codes))[1], wanted).mean()
        if codes is None:
            loss = loss + config.ratio_weight * ratio_loss(layers)
            choosing.zero_grad()
        settling.zero_grad()
        loss.backward(inputs=books if codes is not None else [*books, *logits])
        settling.step()
        if codes is None:
            choosing.step()
        if step % config.every == 0 or step == config.steps:
            for layer in layers:
                layer.store_()
            record = judge.record(step, codes)
            if not math.isfinite(record.loss):
                raise ConfigError(
                    f"VQ4DiT diverged at step {step}: try a codebook_rate below "
                    f"{config.codebook_rate}"
                )
            yield record


class _Judge:
    """Measures the student, and the weights in training, on inputs kept apart."""

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        soft: Mapping[str, SoftLinear],
        held_out: Trajectories,
    ) -> None:
        self.student, self.teacher, self.soft = student, teacher, soft
        self.batch, self.wanted = held_out.draw()
        self.started = time.perf_counter()

    def weights(self, codes: Sequence[Tensor] | None) -> dict[str, Tensor]:
        """Return what takes the place of the teacher's parameters: weights, the stored biases."""
        fixed = [None] * len(self.soft) if codes is None else codes
        given: dict[str, Tensor] = {}
        for (name, soft), own in zip(self.soft.items(), fixed, strict=True):
            given[f"{name}.weight"] = soft.weight(own)
            if soft.layer.bias is not None:
                given[f"{name}.bias"] = soft.layer.bias.float()
        return given

    @torch.no_grad()
    def record(self, step: int, codes: Sequence[Tensor] | None) -> Vq4ditRecord:
        """Judge the student as it is, and the weights in training."""
        layers = tuple(self.soft.values())
        total = sum(s.logits[..., 0].numel() for s in layers)
        decided = sum(int((s.ratios().amax(-1) > 0.99).sum()) for s in layers)
        moved = sum(int((s.layer.codes() != s.candidates[..., 0]).sum()) for s in layers)
        training = run(self.teacher, self.batch, self.weights(codes))[1]
        return Vq4ditRecord(
            step=step,
            loss=float(block_errors(run(self.student, self.batch, {})[1], self.wanted).mean()),
            training=float(block_errors(training, self.wanted).mean()),
            ratio=float(ratio_loss(layers)),
            decided=decided / total,
            moved=moved / total,
            seconds=time.perf_counter() - self.started,
        )


def vq4dit_config(pairs: Sequence[str]) -> Vq4ditConfig:
    """Return the settings of VQ4DiT with changes given as ``KEY=VALUE``, such as ``steps=4000``."""
    kinds = {field.name: type(field.default) for field in dataclasses.fields(Vq4ditConfig)}
    changes: dict[str, Any] = {}
    for key, _, value in (pair.partition("=") for pair in pairs):
        try:
            changes[key] = kinds[key](value)
        except (KeyError, ValueError) as error:
            raise ConfigError(
                f"{key}={value} is no setting of VQ4DiT: expected {', '.join(kinds)}, and numbers "
                "where they are numbers"
            ) from error
    return Vq4ditConfig(**changes)
