"""Classifier two-sample test: whether a network can learn to tell two sets of images apart.

The network of :mod:`dpqlab.evaluation.features` is trained from scratch on a part of both sets and
then asked, on images it has never seen, which set each came from (Lopez-Paz and Oquab, "Revisiting
classifier two-sample tests", ICLR 2017, arXiv 1610.06545). Half right is chance: the sets cannot be
told apart by this network with so many examples. Unlike a Frechet distance this does not trust one
summary of fixed features, and it sees whatever gives a sample away.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dpqlab.errors import ConfigError, ShapeError
from dpqlab.evaluation.features import FeatureNet, fast_format, to_network_range
from dpqlab.evaluation.two_sample_records import (
    LabelledImages,
    TwoSampleConfig,
    TwoSampleRecord,
    TwoSampleResult,
)

_NORMAL_95 = 1.959963984540054
_WARM_UP = 20  # steps
_SETTLING = 8  # batches
_CHUNK = 2000  # images judged at once


def two_sample_test(
    a: LabelledImages,
    b: LabelledImages,
    config: TwoSampleConfig | None = None,
    *,
    device: torch.device | str = "cpu",
) -> Iterator[TwoSampleRecord | TwoSampleResult]:
    """Train a classifier to tell ``a`` from ``b`` and measure it on images held out.

    The same seed gives the same result on a CPU; on a GPU nearly so.

    Yields
    ------
    TwoSampleRecord
        One an epoch and seed; close the generator to stop.
    TwoSampleResult
        Last, once.

    Raises
    ------
    ShapeError
        The sides are images of different shapes, or there are too few.
    ConfigError
        The sides share their seed, or their classes are not balanced.

    Notes
    -----
    Which images are held out depends on their number and labels alone: no seed trains on them.
    """
    config = TwoSampleConfig() if config is None else config
    classes = _check(a, b, config)
    started, device = time.perf_counter(), torch.device(device)
    data = _Data(
        pixels=torch.from_numpy(np.concatenate([a.images, b.images])).to(device),
        sides=torch.tensor([0] * len(a) + [1] * len(b), device=device),
    )
    per_class = [_by_class(side.labels, classes, config, n) for n, side in enumerate((a, b))]
    chosen = np.stack([per_class[0], per_class[1] + len(a)])  # (2, classes, images of a class)
    held, learned = np.split(chosen, [config.held_out // classes], axis=2)
    accuracies = []
    for seed in config.seeds:
        net = yield from _train(data, learned, config, seed, started)
        accuracies.append(_judge(net, data, data.index(held))[1])
    yield summarize(accuracies, held.size)


def summarize(accuracies: list[float], held_out: int) -> TwoSampleResult:
    """Return mean and interval of accuracies on the same ``held_out`` images, one a seed."""
    mean = float(np.mean(accuracies))
    spread = float(np.var(accuracies, ddof=1)) / len(accuracies) if len(accuracies) > 1 else 0.0
    half = _NORMAL_95 * math.sqrt(mean * (1.0 - mean) / held_out + spread)
    return TwoSampleResult(
        accuracy=mean,
        accuracies=tuple(accuracies),
        low=max(mean - half, 0.0),
        high=min(mean + half, 1.0),
        held_out=held_out,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Data:
    """All images (N, C, H, W) and the side of each (N,), on the device that trains."""

    pixels: Tensor
    sides: Tensor

    def index(self, chosen: np.ndarray) -> Tensor:
        """Bring indices of images to that device, flat."""
        return torch.from_numpy(chosen.reshape(-1)).to(self.pixels.device)


def _check(a: LabelledImages, b: LabelledImages, config: TwoSampleConfig) -> int:
    """Return the number of classes, or say why these sets cannot be compared."""
    if a.images.shape[1:] != b.images.shape[1:]:
        raise ShapeError(
            f"the sides hold images of {a.images.shape[1:]} and {b.images.shape[1:]}; "
            "expected equal shapes."
        )
    if a.seed is not None and a.seed == b.seed:
        raise ConfigError(
            f"both sides were drawn from seed {a.seed}: their images come in pairs of the same "
            "noise, which a classifier can use. Draw one side from another seed."
        )
    counts = []
    for name, side in (("a", a), ("b", b)):
        if len(side) < config.train + config.held_out:
            raise ShapeError(
                f"side {name} has {len(side)} images; {config.train} to learn from and "
                f"{config.held_out} held out are asked for. Draw more, or ask for fewer."
            )
        found = dict(
            zip(*(x.tolist() for x in np.unique(side.labels, return_counts=True)), strict=True)
        )
        if len(set(found.values())) > 1:
            raise ConfigError(
                f"side {name} has {found} images of its classes; expected as many of each. "
                "Draw every class in turn."
            )
        counts.append(found)
    if counts[0].keys() != counts[1].keys():
        raise ConfigError(
            f"the sides hold the classes {sorted(counts[0])} and {sorted(counts[1])}; "
            "expected the same, or the class gives the side away."
        )
    classes = len(counts[0])
    if config.train % classes or config.held_out % classes or config.train < 2 * classes:
        raise ConfigError(
            f"train is {config.train} and held_out {config.held_out}; expected multiples of the "
            f"number of classes, {classes}, and at least two training images of each."
        )
    return classes


def _by_class(labels: np.ndarray, classes: int, config: TwoSampleConfig, side: int) -> np.ndarray:
    """Return shuffled indices of as many images of each class as are used, (classes, images)."""
    order = np.random.default_rng(side).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    return order.reshape(classes, -1)[:, : (config.train + config.held_out) // classes]


def _train(
    data: _Data, learned: np.ndarray, config: TwoSampleConfig, seed: int, started: float
) -> Generator[TwoSampleRecord, None, FeatureNet]:
    """Train one classifier on images ``learned`` (2, classes, n); return its best average."""
    draws = np.random.default_rng(seed)
    shuffled = draws.permuted(learned, axis=2)
    count = learned.shape[2]
    training, stopping = np.split(
        shuffled, [count - min(max(1, round(config.stopping * count)), count - 1)], axis=2
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = FeatureNet(channels=data.pixels.shape[1], classes=2, width=config.width)
    net = net.to(data.pixels.device)
    layout = fast_format(data.pixels.device)
    net.to(memory_format=layout)  # pyright: ignore[reportCallIssue] - not in the stubs
    average = copy.deepcopy(net)
    optimizer = torch.optim.AdamW(
        net.parameters(), lr=config.rate, weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=_WARM_UP)
    best, best_loss, best_epoch = copy.deepcopy(average.state_dict()), math.inf, 0
    for epoch in range(1, config.epochs + 1):
        order = data.index(draws.permutation(training.reshape(-1)))
        loss = 0.0
        for part in order.tensor_split(math.ceil(len(order) / config.batch)):
            loss = loss + _step(net, optimizer, data, part, config) * (len(part) / len(order))
            schedule.step()
            steps = schedule.last_epoch  # a short memory while the weights still move fast
            _follow(average, net, min(config.average, steps / (steps + 9)))
        _settle(average, data, order[: _SETTLING * config.batch], config.batch)
        stop_loss, stop_accuracy = _judge(average, data, data.index(stopping))
        yield TwoSampleRecord(
            seed=seed,
            epoch=epoch,
            epochs=config.epochs,
            loss=float(loss),
            stop_loss=stop_loss,
            stop_accuracy=stop_accuracy,
            seconds=time.perf_counter() - started,
        )
        if stop_loss < best_loss:
            best, best_loss, best_epoch = copy.deepcopy(average.state_dict()), stop_loss, epoch
        elif epoch - best_epoch >= config.patience:
            break
    average.load_state_dict(best)
    return average


def _step(
    net: FeatureNet,
    optimizer: torch.optim.Optimizer,
    data: _Data,
    part: Tensor,
    config: TwoSampleConfig,
) -> Tensor:
    """Learn from images ``part`` (B,); the loss stays on the device, so that nothing waits."""
    net.train()
    images = to_network_range(data.pixels[part])
    images = images.contiguous(memory_format=fast_format(images.device))
    bf16 = config.bf16 and images.is_cuda
    with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
        _, logits = net(images)
    loss = F.cross_entropy(logits.float(), data.sides[part])
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.detach()


@torch.no_grad()
def _follow(average: FeatureNet, net: FeatureNet, decay: float) -> None:
    """Move the averaged weights towards the current ones."""
    torch._foreach_lerp_(list(average.parameters()), list(net.parameters()), 1.0 - decay)


@torch.no_grad()
def _settle(average: FeatureNet, data: _Data, index: Tensor, batch: int) -> None:
    """Measure the running statistics anew, for the averaged weights on images ``index``.

    Statistics that trailed behind young weights made the judge call all images one side.
    """
    for module in average.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the plain mean over batches
    average.train()
    for part in index.split(batch):
        average(to_network_range(data.pixels[part]))


@torch.inference_mode()
def _judge(net: FeatureNet, data: _Data, index: Tensor) -> tuple[float, float]:
    """Return mean cross entropy (nats) and accuracy on images ``index`` (N,)."""
    net.eval()
    logits = torch.cat([net(to_network_range(data.pixels[i]))[1] for i in index.split(_CHUNK)])
    sides = data.sides[index]
    right = (logits.argmax(dim=1) == sides).double().mean()
    return float(F.cross_entropy(logits.float(), sides)), float(right)
