"""How the bundled full-precision teachers are trained: ``train_fashion.py``, ``train_avatars.py``.

diffusers' own ``DiTTransformer2DModel`` learns to predict the noise of images in pixel space, or
the velocity, class-conditional with label dropping; written as a diffusers folder in bf16.
``benchmarks/fashion.py`` measures it. A run that was stopped goes on with ``--resume``.

Under ``torchrun --nproc-per-node N``, or ``accelerate launch``, each GPU takes its share of every
batch. On a CPU the recipes run too, for the curious and the patient.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from dpqlab.calibration import noisy_batch, warmup_cosine
from dpqlab.checkpoint.atomic import staged_folder
from dpqlab.checkpoint.lock import exclusive
from dpqlab.checkpoint.whole import write_whole
from dpqlab.diffusion.dit import make_dit
from dpqlab.diffusion.models import load_pipeline
from dpqlab.diffusion.pipeline import PixelDiTPipeline
from dpqlab.diffusion.sampling import SampleRequest, sample_images
from dpqlab.diffusion.schedules import make_scheduler
from dpqlab.distributed import team_of
from dpqlab.errors import CheckpointError, DPQError
from dpqlab.evaluation.datasets import Dataset, dataset_of
from dpqlab.viz.images import sheet
from recipes.training_files import CHECKPOINT, LOG, read_log, write_log
from recipes.training_optimizers import OPTIMIZERS
from recipes.training_state import TrainConfig, Training

DIVERGED = 1.4  # times the lowest loss so far, and chance: back to the last state that was sound
SOUND = 1.2  # times the lowest loss, and chance: a state to go back to


@dataclass(frozen=True, kw_only=True)
class TrainRecord:
    """Progress: mean loss since the last record, learning rate, seconds so far and to go."""

    step: int
    loss: float
    learning_rate: float
    seconds: float
    remaining: float


def progress(state: Training) -> float:
    """Share of the run that is done, by steps or by time, whichever is further."""
    return max(state.step / state.config.steps, state.elapsed / state.config.seconds)


def learning_rate(config: TrainConfig, step: int, done: float) -> float:
    """Linear warm-up, then a cosine to zero at the end of the run."""
    return warmup_cosine(config.learning_rate, step, warmup=config.warmup, done=done)


def train(state: Training, images: Tensor, labels: Tensor, *, every: int) -> Iterator[TrainRecord]:
    """Train until the config's end, yielding a record each ``every`` steps."""
    config, team = state.config, state.team
    scheduler: Any = make_scheduler("ddim")
    alphas = scheduler.alphas_cumprod.to(state.device)
    parameters = list(state.model.parameters())
    averages = list(state.ema.parameters())
    total = torch.zeros((), device=state.device)
    started = time.perf_counter() - state.elapsed
    first, begun = state.step, state.elapsed
    sound = latest = state.snapshot()
    while progress(state) < 1:
        rate = learning_rate(config, state.step, progress(state)) * state.caution
        for group in (g for optimizer in state.optimizers for g in optimizer.param_groups):
            group["lr"] = rate
        batch = noisy_batch(
            images,
            labels,
            alphas,
            size=config.batch // team.world,
            null_class=state.geometry["num_embeds_ada_norm"],
            label_drop=config.label_drop,
            generator=state.generator,
            prediction=config.prediction,
        )
        loss = state.learn(batch)
        team.average_([p.grad for p in parameters if p.grad is not None])
        torch.nn.utils.clip_grad_norm_(parameters, config.clip)
        for optimizer in state.optimizers:
            optimizer.step()
        # the running mean starts short, so that early sheets show something
        decay = min(config.ema, (state.step + 1) / (state.step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(averages, parameters, 1 - decay)
        total += loss
        state.step += 1
        if state.step % every == 0:
            mean = team.agreed(total.item() / every)
            total.zero_()
            # few images tell the loss less well
            chance = 4 / math.sqrt(every * config.batch)
            if not mean < (DIVERGED + chance) * state.lowest:
                state.go_back(sound)
                latest = sound
            elif mean < (SOUND + chance) * state.lowest:
                # the loss is that of the steps before: of a state's own the next record tells
                state.lowest, sound, latest = min(mean, state.lowest), latest, state.snapshot()
            state.elapsed = team.agreed(time.perf_counter() - started)
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


def shared_out(
    images: np.ndarray, labels: np.ndarray, shares: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Repeat the images of each class as often as ``shares`` says; as they are where it is empty.

    Raises
    ------
    ValueError
        If the shares are not as many as the classes.
    """
    if not shares:
        return images, labels
    if len(shares) != labels.max() + 1:
        raise ValueError(f"{len(shares)} shares for {labels.max() + 1} classes")
    order = np.repeat(np.arange(len(labels)), np.asarray(shares)[labels])
    return images[order], labels[order]


def sample_sheet(state: Training, path: Path, *, per_class: int = 8) -> None:
    """Draw a sheet from the running mean, with one column a class, and save it."""
    classes = state.geometry["num_embeds_ada_norm"]
    request = SampleRequest(labels=tuple(range(classes)) * per_class, seed=0)
    scheduler = make_scheduler("ddim", prediction=state.config.prediction)
    images = sample_images(state.ema, scheduler, request)
    picture = io.BytesIO()
    zoom = 2 if images.shape[-1] < 64 else 1
    sheet(images, columns=classes, zoom=zoom).save(picture, format="PNG")
    write_whole(path, picture.getvalue())


def export(state: Training, folder: Path) -> None:
    """Write the running-mean weights as bf16 shards in diffusers layout, and read them again.

    Raises
    ------
    CheckpointError
        If they cannot be written; the state of the run is safe.
    """
    model: Any = make_dit(state.geometry)
    model.load_state_dict(state.ema.state_dict())
    model = model.to(torch.bfloat16).eval()
    pipeline = PixelDiTPipeline(model, make_scheduler("ddim", prediction=state.config.prediction))
    needed = sum(p.numel() * p.element_size() for p in model.parameters())
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with staged_folder(folder) as staging:
            pipeline.save_pretrained(staging, max_shard_size="15MB", safe_serialization=True)
            written = load_pipeline(staging).transformer.state_dict()
            for name, tensor in model.state_dict().items():
                if not torch.equal(written[name], tensor):
                    raise CheckpointError(f"{folder}: {name} is not what was written")
    except (OSError, SafetensorError) as error:
        raise _unwritten(folder, error, f" ({needed} bytes are needed)") from error


def _unwritten(path: Path, error: Exception, needs: str = "") -> CheckpointError:
    said = getattr(error, "strerror", None) or error
    return CheckpointError(f"could not write {path}: {said}{needs}; --resume goes on from here")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What tells the recipes apart.

    The model, its geometry, the settings to start with, and, for a model that is not bundled, the
    bundled one whose data it learns.
    """

    model: str
    geometry: dict[str, Any]
    config: TrainConfig
    data_of: str = ""

    @property
    def dataset(self) -> Dataset:
        """What it learns."""
        return dataset_of(self.data_of or self.model)


def command(recipe: Recipe, argv: Sequence[str] | None = None) -> int:
    """Run a recipe as a command, with an error as a sentence; return the exit code."""
    try:
        main(recipe, argv)
    except DPQError as error:
        sys.stderr.write(f"train: {error}\n")
        return 2
    return 0


def main(recipe: Recipe, argv: Sequence[str] | None = None) -> None:
    """Run a recipe."""
    dataset, default = recipe.dataset, recipe.config
    parser = argparse.ArgumentParser(description=f"Train {recipe.model}.")
    parser.add_argument(
        "--data", type=Path, default=dataset.default_folder, help="folder of the idx.gz files"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--seconds", type=float, default=default.seconds, help="end by then")
    parser.add_argument("--steps", type=int, default=default.steps, help="end by this step")
    parser.add_argument("--batch", type=int, default=default.batch)
    parser.add_argument("--rate", type=float, default=default.learning_rate)
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default=default.optimizer)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=250, help="steps between progress lines")
    parser.add_argument(
        "--sheet-every",
        type=int,
        default=5000,
        help="steps between sheets, each with the model as it is",
    )
    parser.add_argument("--resume", action="store_true", help="go on from the last sheet, if any")
    parser.add_argument("--start", type=Path, help="folder of a model to take the weights of")
    args = parser.parse_args(argv)
    config = dataclasses.replace(
        default,
        prediction=dataset.prediction,
        steps=args.steps,
        seconds=args.seconds,
        batch=args.batch,
        learning_rate=args.rate,
        optimizer=args.optimizer,
        began_from=args.start.name if args.start else "",
        seed=args.seed,
    )
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritten(args.out, error) from error
    with team_of() as team, exclusive(args.out) if team.leads else nullcontext():
        state = Training(config, recipe.geometry, team)
        if args.resume and (args.out / CHECKPOINT).exists():
            state.load(args.out / CHECKPOINT)
        elif args.start:
            state.begin_from(args.start)
        _run(state, recipe, args)


def _run(state: Training, recipe: Recipe, args: argparse.Namespace) -> None:
    """Train to the end; the leader of the team writes and prints."""
    model = recipe.model
    arrays, targets = recipe.dataset.read(args.data, "train")
    arrays, targets = shared_out(arrays, targets, state.config.shares)
    images = torch.tensor(arrays, device=state.device)
    labels = torch.tensor(targets, device=state.device)
    if state.device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
        for block in state.model.transformer_blocks:
            block.compile(fullgraph=True)
    try:
        _train_and_write(state, images, labels, model, args)
    except FloatingPointError as error:
        if state.team.leads:
            finish(state, model, args.out)
        raise DPQError(
            f"{error}; the model as it was before is {args.out / model}: go on from it with "
            "--start, a lower --rate and another --out"
        ) from None
    if state.team.leads:
        finish(state, model, args.out)


def _train_and_write(
    state: Training, images: Tensor, labels: Tensor, model: str, args: argparse.Namespace
) -> None:
    log = read_log(args.out / LOG, state.step) if state.step else []
    for record in train(state, images, labels, every=args.every):
        if not state.team.leads:
            continue
        log.append(dataclasses.asdict(record))
        write_log(args.out / LOG, log)
        print(
            f"step {record.step:6d}  loss {record.loss:.4f}  lr {record.learning_rate:.2e}  "
            f"{record.seconds:.0f} s, {record.remaining:.0f} s to go",
            flush=True,
        )
        if record.step % args.sheet_every == 0:
            # these first: a run that goes on from the checkpoint would not write them again
            sample_sheet(state, args.out / f"step-{record.step:06d}.png")
            export(state, args.out / model)
            state.save(args.out / CHECKPOINT)


def finish(state: Training, model: str, out: Path) -> None:
    """Write the end of a run: its state, a sheet, the model and the settings."""
    state.save(out / CHECKPOINT)
    sample_sheet(state, out / "samples.png")
    export(state, out / model)
    settings = dataclasses.asdict(state.config) | {
        "processes": state.team.world,
        "steps_done": state.step,
        "seconds_done": state.elapsed,
    }
    write_whole(out / "training.json", json.dumps(settings, default=str, indent=1).encode())
