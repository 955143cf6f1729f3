"""Train the feature network of a bundled model and record what FCD is measured against.

Run ``python -m recipes.train_feature_net [--model avatars-dit] --data FOLDER --out FOLDER``. It
writes

- ``feature_net.safetensors``: the network, float32, architecture in the header;
- ``feature_net.json``: accuracy, the arguments, versions, and the SHA-256 of the file above;
- ``reference.npz``: statistics of the real images and the noise floors.

The data set stays on the device and is augmented there, so one GPU needs a minute or so. The art
styles of the avatars are easily told apart, and a network that has learned no more hardly sees
noise or exchanged details: theirs learns a second task beside it (:mod:`recipes.feature_details`).
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import dpqlab
from dpqlab.evaluation.bundled import DEFAULT_MODEL
from dpqlab.evaluation.datasets import MODELS, Dataset, dataset_of
from dpqlab.evaluation.features import (
    FeatureNet,
    extract,
    fast_format,
    load_feature_net,
    save_feature_net,
    to_network_range,
)
from dpqlab.evaluation.frechet import frechet_distance, frechet_interval
from dpqlab.evaluation.precision_recall import precision_recall
from dpqlab.evaluation.reference import Reference
from dpqlab.evaluation.statistics import FeatureStatistics
from recipes.feature_details import Details, corrupt


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that decides the result.

    Parameters
    ----------
    pad
        Pixels of random shift, each way.
    edges
        Beyond the edge the outermost pixels go on; else it is black there.
    cutout
        Side of the erased square, pixels.
    details
        Weight of the second task (:mod:`recipes.feature_details`); 0 for none.
    limit
        Train on the first images only, for a trial.
    """

    epochs: int = 40
    batch: int = 512
    rate: float = 0.2
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    ema: float = 0.998
    width: int = 40
    blocks: tuple[int, ...] = (2, 2, 1)
    pad: int = 2
    edges: bool = False
    cutout: int = 8
    details: float = 0.0
    limit: int | None = None
    seed: int = 0


SETTINGS = {
    "fashion-dit": Settings(),
    "avatars-dit": Settings(
        epochs=25, width=24, blocks=(1, 1, 1, 1), pad=4, edges=True, cutout=16, details=1.0
    ),
}
"""By model. The styles of avatars are easily told apart, so a second task is set beside them."""


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """Progress: the epoch that ended, of how many, its mean loss, seconds since the start."""

    index: int
    total: int
    loss: float
    seconds: float


def padded_images(images: Tensor, pad: int, edges: bool) -> Tensor:
    """Surround uint8 images (N, C, H, W) by ``pad`` pixels, black or as the outermost ones are."""
    if not edges:
        return F.pad(images, (pad,) * 4)
    height, width = images.shape[2:]  # torch cannot replicate bytes
    rows = torch.arange(-pad, height + pad, device=images.device).clamp(0, height - 1)
    columns = torch.arange(-pad, width + pad, device=images.device).clamp(0, width - 1)
    return images[:, :, rows][:, :, :, columns]


def augment(
    padded: Tensor, index: Tensor, generator: torch.Generator, *, pad: int = 2, cutout: int = 8
) -> Tensor:
    """Take some images; shift, flip and erase a part.

    Parameters
    ----------
    padded
        uint8 (N, C, side + 2 * pad, side + 2 * pad).
    index
        Which of them, int64 (B,).
    generator
        On their device.
    pad
        Pixels of shift, each way.
    cutout
        Side of the erased square.

    Returns
    -------
    Tensor
        float32 (B, C, side, side) in [-1, 1].
    """
    batch, device, size = len(index), padded.device, padded.shape[-1] - 2 * pad

    def draw(high: int) -> Tensor:
        return torch.randint(high, (batch, 1), generator=generator, device=device)

    side = torch.arange(size, device=device)
    channel = torch.arange(padded.shape[1], device=device)
    rows = draw(2 * pad + 1) + side  # (B, side)
    columns = draw(2 * pad + 1) + torch.where(draw(2) == 1, size - 1 - side, side)
    images = padded[
        index[:, None, None, None],
        channel[:, None, None],
        rows[:, None, :, None],
        columns[:, None, None, :],
    ]
    top, left, erase = draw(size), draw(size), draw(2) == 1
    inside_rows = (side - top).abs() < cutout // 2
    inside_columns = ((side - left).abs() < cutout // 2) & erase
    hole = inside_rows[:, None, :, None] & inside_columns[:, None, None, :]
    return to_network_range(images.masked_fill(hole, 0))


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


def loss_of(
    heads: tuple[FeatureNet, Details | None],
    images: Tensor,
    labels: Tensor,
    settings: Settings,
    generator: torch.Generator,
) -> Tensor:
    """Return the cross-entropy of the classes, and of the second task if there is one.

    ``heads`` are the network and what asks it for details; ``images`` (B, C, H, W) are in [-1, 1].
    """
    net, details = heads
    inputs, kinds = corrupt(images, generator) if details else (images, labels)
    inputs = inputs.contiguous(memory_format=fast_format(images.device))
    with torch.autocast(images.device.type, torch.bfloat16, enabled=images.is_cuda):
        features, logits = net(inputs)
    loss = F.cross_entropy(logits.float(), labels, label_smoothing=settings.label_smoothing)
    if details is None:
        return loss
    return loss + settings.details * details.loss(features.float(), images, kinds)


def train(net: FeatureNet, images: Tensor, labels: Tensor, settings: Settings) -> Iterator[Epoch]:
    """Train in place; at the end the network holds the moving average of its weights."""
    device = images.device
    generator = torch.Generator(device).manual_seed(settings.seed)
    padded = padded_images(images, settings.pad, settings.edges)
    details, sizes = None, net.architecture
    if settings.details:
        details = Details(sizes.features, sizes.channels).to(device)
    batches = max(1, len(images) // settings.batch)
    optimizer, schedule = make_optimizer(
        nn.ModuleList([net, details or nn.Identity()]), settings, settings.epochs * batches
    )
    state = {name: value for name, value in net.state_dict().items() if value.is_floating_point()}
    average = [value.clone() for value in state.values()]
    started, step = time.perf_counter(), 0
    for epoch in range(settings.epochs):
        net.train()
        order = torch.randperm(len(images), generator=generator, device=device)
        total = torch.zeros((), device=device)
        for index in order[: batches * settings.batch].tensor_split(batches):
            drawn = augment(padded, index, generator, pad=settings.pad, cutout=settings.cutout)
            loss = loss_of((net, details), drawn, labels[index], settings, generator)
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
    net: FeatureNet, splits: dict[str, np.ndarray], title: str, device: str, seed: int
) -> Reference:
    """Measure the real images of both splits of the data set called ``title``."""
    found = {name: extract(net, images, device=device).features for name, images in splits.items()}
    statistics = {
        name: FeatureStatistics.from_features(
            features, source=f"{title} {name}", feature_net=net.sha256
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
    net: FeatureNet, accuracy: float, reference: Reference, settings: Settings, dataset: Dataset
) -> dict[str, Any]:
    """Say what the network is, how it was made, and what real images score."""
    device = next(net.parameters()).device
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
        "data": dataset.licence,
    }


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="recipes.train_feature_net", description="Train the feature network."
    )
    option = parser.add_argument
    option("--model", default=DEFAULT_MODEL, choices=MODELS)
    option("--data", type=Path, help="folder of the four *-ubyte.gz files of its data set")
    option("--out", type=Path, required=True, help="folder to write into")
    option("--epochs", type=int, help="as many as the model's network had, unless given")
    option("--width", type=int, help="likewise")
    option("--details", type=float, help="likewise: weight of the second task")
    option("--seed", type=int, default=Settings.seed)
    option("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    option("--limit", type=int, help="train on the first LIMIT images only, for a trial")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Train, measure, write."""
    given = parse(argv)
    dataset = dataset_of(given.model)
    chosen = {name: getattr(given, name) for name in ("epochs", "width", "details", "limit")}
    chosen = {name: value for name, value in chosen.items() if value is not None}
    settings = replace(SETTINGS[dataset.model], seed=given.seed, **chosen)
    images, labels = dataset.read(given.data, "train")
    test_images, test_labels = dataset.read(given.data, "test")
    torch.manual_seed(settings.seed)
    device = torch.device(given.device)
    net = FeatureNet(
        channels=dataset.channels,
        classes=len(dataset.classes),
        width=settings.width,
        blocks=settings.blocks,
    )
    net.to(device)
    net.to(memory_format=fast_format(device))  # pyright: ignore[reportCallIssue] - not in the stubs
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
    reference = make_reference(net, splits, dataset.title, given.device, settings.seed)
    reference.save(given.out / "reference.npz")
    card = make_card(net, accuracy, reference, settings, dataset)
    (given.out / "feature_net.json").write_text(json.dumps(card, indent=2) + "\n")
    print(
        json.dumps({key: value for key, value in card.items() if "floor" in key or "test" in key})
    )


if __name__ == "__main__":
    main()
