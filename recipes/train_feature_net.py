"""Train the feature network on Fashion-MNIST and record what FCD is measured against.

Run ``python -m recipes.train_feature_net --data FOLDER --out FOLDER``. It writes

- ``feature_net.safetensors``: the network, float32, architecture in the header;
- ``feature_net.json``: accuracy, the arguments, versions, and the SHA-256 of the file above;
- ``reference.npz``: statistics of the real images and the noise floors.

The data set stays on the device and is augmented there, so one GPU needs under a minute.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import dpqlab
from dpqlab.evaluation.fashion_mnist import DEFAULT_FOLDER, SIDE, read_split
from dpqlab.evaluation.features import (
    FeatureNet,
    extract,
    load_feature_net,
    save_feature_net,
    to_network_range,
)
from dpqlab.evaluation.frechet import frechet_distance, frechet_interval
from dpqlab.evaluation.precision_recall import precision_recall
from dpqlab.evaluation.reference import Reference
from dpqlab.evaluation.statistics import FeatureStatistics

PAD = 2  # pixels of random shift, each way
CUTOUT = 8  # side of the erased square, pixels


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that decides the result."""

    epochs: int = 40
    batch: int = 512
    rate: float = 0.2
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    ema: float = 0.998
    width: int = 40
    limit: int | None = None  # train on the first images only, for a trial
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """Progress: the epoch that ended, of how many, its mean loss, seconds since the start."""

    index: int
    total: int
    loss: float
    seconds: float


def augment(padded: Tensor, index: Tensor, generator: torch.Generator) -> Tensor:
    """Take images ``index`` (B,) of ``padded`` (N, 1, 32, 32) uint8; shift, flip and erase a part.

    Returns float32 (B, 1, 28, 28) in [-1, 1].
    """
    batch, device = len(index), padded.device

    def draw(high: int) -> Tensor:
        return torch.randint(high, (batch, 1), generator=generator, device=device)

    side = torch.arange(SIDE, device=device)
    rows = draw(2 * PAD + 1) + side  # (B, 28)
    columns = draw(2 * PAD + 1) + torch.where(draw(2) == 1, SIDE - 1 - side, side)
    images = padded[index[:, None, None], 0, rows[:, :, None], columns[:, None, :]]
    top, left, erase = draw(SIDE), draw(SIDE), draw(2) == 1
    inside_rows = (side - top).abs() < CUTOUT // 2
    inside_columns = ((side - left).abs() < CUTOUT // 2) & erase
    hole = inside_rows[:, :, None] & inside_columns[:, None, :]
    return to_network_range(images.masked_fill(hole, 0))[:, None]


def make_optimizer(
    net: nn.Module, settings: Settings, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """Nesterov SGD under a one-cycle rate; norms and biases are not decayed."""
    groups = [
        {
            "params": [p for p in net.parameters() if p.ndim > 1],
            "weight_decay": settings.weight_decay,
        },
        {"params": [p for p in net.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(groups, lr=settings.rate, momentum=0.9, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=settings.rate, total_steps=steps, pct_start=0.2, cycle_momentum=False
    )
    return optimizer, schedule


def train(net: FeatureNet, images: Tensor, labels: Tensor, settings: Settings) -> Iterator[Epoch]:
    """Train in place; at the end the network holds the moving average of its weights."""
    device = images.device
    generator = torch.Generator(device).manual_seed(settings.seed)
    padded = F.pad(images, (PAD,) * 4)
    batches = max(1, len(images) // settings.batch)
    optimizer, schedule = make_optimizer(net, settings, settings.epochs * batches)
    state = {name: value for name, value in net.state_dict().items() if value.is_floating_point()}
    average = [value.clone() for value in state.values()]
    started, step = time.perf_counter(), 0
    for epoch in range(settings.epochs):
        net.train()
        order = torch.randperm(len(images), generator=generator, device=device)
        total = torch.zeros((), device=device)
        for index in order[: batches * settings.batch].tensor_split(batches):
            inputs = augment(padded, index, generator).contiguous(memory_format=torch.channels_last)
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                _, logits = net(inputs)
            loss = F.cross_entropy(
                logits.float(), labels[index], label_smoothing=settings.label_smoothing
            )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            step += 1
            # a short memory while the weights still move fast
            decay = min(settings.ema, step / (step + 9))
            torch._foreach_lerp_(average, [value.detach() for value in state.values()], 1.0 - decay)
            total += loss.detach()
        yield Epoch(
            index=epoch + 1,
            total=settings.epochs,
            loss=float(total) / batches,
            seconds=time.perf_counter() - started,
        )
    with torch.no_grad():
        for value, mean in zip(state.values(), average, strict=True):
            value.copy_(mean)


def make_reference(
    net: FeatureNet, splits: dict[str, np.ndarray], device: str, seed: int
) -> Reference:
    """Measure the real images of both splits."""
    found = {name: extract(net, images, device=device).features for name, images in splits.items()}
    statistics = {
        name: FeatureStatistics.from_features(
            features, source=f"Fashion-MNIST {name}", feature_net=net.sha256
        )
        for name, features in found.items()
    }
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(found["train"]))
    halves = [
        FeatureStatistics.from_features(found["train"][half]) for half in np.array_split(order, 2)
    ]
    subset = found["train"][np.sort(order[:10_000])].astype(np.float16)
    shares = precision_recall(subset, found["test"], device=device)
    return Reference(
        train=statistics["train"],
        test=statistics["test"],
        real_features=subset,
        floor=frechet_interval(found["test"], statistics["train"], generator=generator),
        halves=frechet_distance(*halves),
        floor_precision=shares.precision,
        floor_recall=shares.recall,
    )


def make_card(
    net: FeatureNet, accuracy: float, reference: Reference, settings: Settings, device: torch.device
) -> dict[str, Any]:
    """Say what the network is, how it was made, and what real images score."""
    return {
        "architecture": asdict(net.architecture),
        "parameters": sum(p.numel() for p in net.parameters()),
        "sha256": net.sha256,
        "test_accuracy": accuracy,
        "noise_floor_fcd": reference.floor.to_dict(),
        "train_halves_fcd": reference.halves,
        "floor_precision": reference.floor_precision,
        "floor_recall": reference.floor_recall,
        "settings": asdict(settings),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "versions": {
            "dpqlab": dpqlab.__version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "data": "Fashion-MNIST (arXiv 1708.07747), MIT licence, (c) 2017 Zalando SE",
    }


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="recipes.train_feature_net", description="Train the feature network."
    )
    option = parser.add_argument
    option("--data", type=Path, default=DEFAULT_FOLDER, help="folder of the four *-ubyte.gz files")
    option("--out", type=Path, required=True, help="folder to write into")
    option("--epochs", type=int, default=Settings.epochs)
    option("--width", type=int, default=Settings.width)
    option("--seed", type=int, default=Settings.seed)
    option("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    option("--limit", type=int, help="train on the first LIMIT images only, for a trial")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Train, measure, write."""
    given = parse(argv)
    settings = Settings(epochs=given.epochs, width=given.width, seed=given.seed, limit=given.limit)
    images, labels = read_split(given.data, "train")
    test_images, test_labels = read_split(given.data, "test")
    torch.manual_seed(settings.seed)
    device = torch.device(given.device)
    net = FeatureNet(width=settings.width).to(device).to(memory_format=torch.channels_last)
    pixels = torch.from_numpy(images[: settings.limit].copy()).to(device)
    targets = torch.from_numpy(labels[: settings.limit]).to(device)
    for done in train(net, pixels, targets, settings):
        progress = f"epoch {done.index}/{done.total}  loss {done.loss:.4f}  {done.seconds:.1f} s"
        print(progress, flush=True)

    weights = given.out / "feature_net.safetensors"
    save_feature_net(net.cpu().to(memory_format=torch.contiguous_format), weights)
    net = load_feature_net(weights, device=device)
    accuracy = float((extract(net, test_images).predictions == test_labels).mean())
    splits = {"train": images, "test": test_images}
    reference = make_reference(net, splits, given.device, settings.seed)
    reference.save(given.out / "reference.npz")
    card = make_card(net, accuracy, reference, settings, device)
    (given.out / "feature_net.json").write_text(json.dumps(card, indent=2) + "\n")
    print(
        json.dumps({key: value for key, value in card.items() if "floor" in key or "test" in key})
    )


if __name__ == "__main__":
    main()
