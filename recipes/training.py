"""How the bundled full-precision teachers are trained: ``train_fashion.py``, ``train_avatars.py``.

diffusers' own ``DiTTransformer2DModel`` learns to predict the noise of images in pixel space,
class-conditional with label dropping; written as a diffusers folder in bf16.
``benchmarks/fashion.py`` measures it. A run that was stopped goes on with ``--resume``.

The bundled weights took one GPU; on a CPU the recipes run too, for the curious and the patient.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from dpqlab.calibration import noisy_batch, warmup_cosine
from dpqlab.diffusion.dit import make_dit
from dpqlab.diffusion.pipeline import PixelDiTPipeline
from dpqlab.diffusion.sampling import SampleRequest, sample_images
from dpqlab.diffusion.schedules import make_scheduler
from dpqlab.evaluation.datasets import dataset_of
from dpqlab.viz.images import sheet


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of a run; it ends at ``steps`` or ``seconds``, whichever comes first.

    ``noise_power`` weighs the squared error at a timestep by alpha_bar ** -noise_power, at most
    ``MOST_WEIGHT``. Predicting noise, all timesteps weigh the same in the noise and hence those of
    much noise next to nothing in the image: what is large and flat in an image is decided there.
    0.5 lies half way to predicting the velocity (Salimans and Ho, arXiv 2202.00512).
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
    noise_power: float = 0.0
    seed: int = 0


MOST_WEIGHT = 20.0


@dataclass(frozen=True, kw_only=True)
class TrainRecord:
    """Progress: mean loss since the last record, learning rate, seconds so far and to go."""

    step: int
    loss: float
    learning_rate: float
    seconds: float
    remaining: float


class Training:
    """Model, running mean of its weights, optimiser, batches: all that a checkpoint holds."""

    def __init__(self, config: TrainConfig, geometry: dict[str, Any], device: torch.device) -> None:
        torch.manual_seed(config.seed)
        self.config, self.device, self.step, self.elapsed = config, device, 0, 0.0
        self.geometry = geometry
        # of the batches: a resumed run goes on with the draws of an uninterrupted one
        self.generator = torch.Generator(device).manual_seed(config.seed)
        self.model: Any = self._new_model().train()
        self.ema: Any = self._new_model().eval().requires_grad_(False)
        self.ema.load_state_dict(self.model.state_dict())
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=config.learning_rate,
            betas=config.betas,
            weight_decay=config.weight_decay,
            fused=device.type == "cuda",
        )

    def _new_model(self) -> Any:
        model: Any = make_dit(self.geometry)
        return model.to(self.device)

    def save(self, path: Path) -> None:
        """Write everything needed to go on, as one safetensors file."""
        tensors: dict[str, Tensor] = {"state.step": torch.tensor([self.step])}
        tensors["state.elapsed"] = torch.tensor([self.elapsed], dtype=torch.float64)
        tensors["state.generator"] = self.generator.get_state()
        for i, (name, parameter) in enumerate(self.model.named_parameters()):
            moments = self.optimizer.state[parameter]
            tensors[f"model.{name}"] = parameter.detach()
            if moments:
                tensors[f"first.{i}"] = moments["exp_avg"]
                tensors[f"second.{i}"] = moments["exp_avg_sq"]
        for name, parameter in self.ema.named_parameters():
            tensors[f"ema.{name}"] = parameter
        save_file({k: v.contiguous() for k, v in tensors.items()}, path)

    def load(self, path: Path) -> None:
        """Go on from a file that :meth:`save` wrote, or from EMA weights alone."""
        tensors = load_file(path, device=str(self.device))
        self.step = int(tensors["state.step"].item())
        self.elapsed = float(tensors["state.elapsed"].item())
        if "state.generator" in tensors:
            self.generator.set_state(tensors["state.generator"].cpu())
        with torch.no_grad():
            for i, (name, parameter) in enumerate(self.model.named_parameters()):
                parameter.copy_(tensors.get(f"model.{name}", tensors[f"ema.{name}"]))
                if f"first.{i}" in tensors:
                    self.optimizer.state[parameter] = {
                        "step": torch.tensor(float(self.step), device=self.device),
                        "exp_avg": tensors[f"first.{i}"],
                        "exp_avg_sq": tensors[f"second.{i}"],
                    }
            for name, parameter in self.ema.named_parameters():
                parameter.copy_(tensors[f"ema.{name}"])


def progress(state: Training) -> float:
    """Share of the run that is done, by steps or by time, whichever is further."""
    return max(state.step / state.config.steps, state.elapsed / state.config.seconds)


def learning_rate(config: TrainConfig, step: int, done: float) -> float:
    """Linear warm-up, then a cosine to zero at the end of the run."""
    return warmup_cosine(config.learning_rate, step, warmup=config.warmup, done=done)


def train(state: Training, images: Tensor, labels: Tensor, *, every: int) -> Iterator[TrainRecord]:
    """Train until the config's end, yielding a record each ``every`` steps."""
    config = state.config
    scheduler: Any = make_scheduler("ddim")
    alphas = scheduler.alphas_cumprod.to(state.device)
    weights = (alphas**-config.noise_power).clamp(max=MOST_WEIGHT)
    parameters = list(state.model.parameters())
    averages = list(state.ema.parameters())
    total = torch.zeros((), device=state.device)
    started = time.perf_counter() - state.elapsed
    first, begun = state.step, state.elapsed
    while progress(state) < 1:
        rate = learning_rate(config, state.step, progress(state))
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        batch = noisy_batch(
            images,
            labels,
            alphas,
            size=config.batch,
            null_class=state.geometry["num_embeds_ada_norm"],
            label_drop=config.label_drop,
            generator=state.generator,
        )
        with torch.autocast(state.device.type, torch.bfloat16, enabled=state.device.type == "cuda"):
            predicted = state.model(
                batch.noisy, timestep=batch.timesteps, class_labels=batch.labels
            ).sample
        assert batch.noise is not None
        errors = F.mse_loss(predicted.float(), batch.noise, reduction="none").mean(dim=(1, 2, 3))
        loss = (errors * weights[batch.timesteps]).mean()
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, config.clip)
        state.optimizer.step()
        # the running mean starts short, so that early sheets show something
        decay = min(config.ema, (state.step + 1) / (state.step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(averages, parameters, 1 - decay)
        total += loss.detach()
        state.step += 1
        if state.step % every == 0:
            mean = total.item() / every
            if not math.isfinite(mean):
                raise FloatingPointError(f"the loss is {mean} at step {state.step}")
            total.zero_()
            state.elapsed = time.perf_counter() - started
            by_steps = config.steps - state.step
            pace = (state.elapsed - begun) / (state.step - first)
            remaining = min(by_steps * pace, config.seconds - state.elapsed)
            yield TrainRecord(
                step=state.step,
                loss=mean,
                learning_rate=rate,
                seconds=state.elapsed,
                remaining=max(remaining, 0.0),
            )


def sample_sheet(model: Any, path: Path, *, per_class: int = 8) -> None:
    """Draw a sheet with one column a class and save it."""
    classes = model.config.num_embeds_ada_norm
    request = SampleRequest(labels=tuple(range(classes)) * per_class, seed=0)
    images = sample_images(model, make_scheduler("ddim"), request)
    sheet(images, columns=classes, zoom=2 if images.shape[-1] < 64 else 1).save(path)


def export(state: Training, folder: Path) -> None:
    """Write the running-mean weights as bf16 shards in diffusers layout."""
    model: Any = make_dit(state.geometry)
    model.load_state_dict(state.ema.state_dict())
    model = model.to(torch.bfloat16).eval()
    folder.mkdir(parents=True, exist_ok=True)
    pipeline = PixelDiTPipeline(model, make_scheduler("ddim"))
    pipeline.save_pretrained(folder, max_shard_size="15MB", safe_serialization=True)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What tells the recipes apart: the model, its geometry, and the settings to start with."""

    model: str
    geometry: dict[str, Any]
    config: TrainConfig


def main(recipe: Recipe, argv: Sequence[str] | None = None) -> None:
    """Run a recipe as a command."""
    dataset, default = dataset_of(recipe.model), recipe.config
    parser = argparse.ArgumentParser(description=f"Train {recipe.model}.")
    parser.add_argument(
        "--data", type=Path, default=dataset.default_folder, help="folder of the idx.gz files"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--seconds", type=float, default=default.seconds, help="end by then")
    parser.add_argument("--steps", type=int, default=default.steps, help="end by this step")
    parser.add_argument("--batch", type=int, default=default.batch)
    parser.add_argument("--rate", type=float, default=default.learning_rate)
    parser.add_argument("--noise-power", type=float, default=default.noise_power)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=250, help="steps between progress lines")
    parser.add_argument("--sheet-every", type=int, default=5000, help="steps between sheets")
    parser.add_argument("--resume", action="store_true", help="go on from OUT/training.safetensors")
    args = parser.parse_args(argv)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = dataclasses.replace(
        default,
        steps=args.steps,
        seconds=args.seconds,
        batch=args.batch,
        learning_rate=args.rate,
        noise_power=args.noise_power,
        seed=args.seed,
    )
    arrays, targets = dataset.read(args.data, "train")
    images = torch.tensor(arrays, device=device)
    labels = torch.tensor(targets, device=device)
    state = Training(config, recipe.geometry, device)
    checkpoint = args.out / "training.safetensors"
    if args.resume:
        state.load(checkpoint)
    args.out.mkdir(parents=True, exist_ok=True)
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
        for block in state.model.transformer_blocks:
            block.compile(fullgraph=True)
    with (args.out / "training.jsonl").open("a") as log:
        for record in train(state, images, labels, every=args.every):
            log.write(json.dumps(dataclasses.asdict(record)) + "\n")
            log.flush()
            print(
                f"step {record.step:6d}  loss {record.loss:.4f}  lr {record.learning_rate:.2e}  "
                f"{record.seconds:.0f} s, {record.remaining:.0f} s to go",
                flush=True,
            )
            if record.step % args.sheet_every == 0:
                state.save(checkpoint)
                sample_sheet(state.ema, args.out / f"step-{record.step:06d}.png")
    state.save(checkpoint)
    sample_sheet(state.ema, args.out / "samples.png")
    export(state, args.out / recipe.model)
    settings = dataclasses.asdict(config) | {
        "steps_done": state.step,
        "seconds_done": state.elapsed,
    }
    (args.out / "training.json").write_text(json.dumps(settings, default=str, indent=1))
