"""Evaluation as a generator: progress records while it draws and compares, then the result."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import torch

from dpqlab.errors import ConfigError, ShapeError
from dpqlab.evaluation.config import EvaluationConfig, Sampler, requested_labels
from dpqlab.evaluation.features import FeatureNet, Features, extract
from dpqlab.evaluation.fidelity import agreement, feature_cosine, psnr
from dpqlab.evaluation.frechet import Interval, frechet_difference, frechet_interval
from dpqlab.evaluation.precision_recall import precision_recall
from dpqlab.evaluation.reference import Reference
from dpqlab.evaluation.statistics import FeatureStatistics
from dpqlab.evaluation.teacher import TeacherSamples

Stage = Literal["sample", "sample other seeds", "compare"]
Outcome = TypeVar("Outcome")


@dataclass(frozen=True, kw_only=True)
class EvaluationStep:
    """Progress: ``done`` of ``total`` images or comparisons, ``seconds`` since the stage began."""

    stage: Stage
    done: int
    total: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class FidelityResult:
    """The student beside its teacher, same seeds and labels.

    Parameters
    ----------
    psnr
        Mean over images, dB; None where the teacher's images were not kept.
    feature_cosine
        Mean cosine between the features of each pair.
    agreement
        Share of pairs that the feature network gives the same class.
    excess_fcd
        FCD of the student to the teacher's samples at other seeds, less FCD of the teacher's own
        to the same: damage alone, without the distance from teacher to data. Paired interval.
    """

    psnr: float | None
    feature_cosine: float
    agreement: float
    excess_fcd: Interval


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """The verdict.

    Parameters
    ----------
    config
        What was drawn.
    fcd
        Frechet distance to the train images, with its interval.
    noise_floor
        FCD of the test images to the train images, at ``noise_floor_images`` images. Fewer samples
        have a higher floor.
    precision, recall
        Against a fixed subset of real images, as many as were drawn if it has that many.
    class_accuracy
        Share of images in which the feature network sees the class that was asked for.
    fidelity
        Comparison with the teacher; None where no teacher samples were given.
    feature_net
        SHA-256 of the feature network; an FCD has a meaning within one network only.
    """

    config: EvaluationConfig
    fcd: Interval
    noise_floor: Interval
    noise_floor_images: int
    precision: float
    recall: float
    class_accuracy: float
    fidelity: FidelityResult | None
    feature_net: str

    @property
    def psnr(self) -> float | None:
        """PSNR to the teacher in dB, if it is known."""
        return None if self.fidelity is None else self.fidelity.psnr

    @property
    def excess_fcd(self) -> Interval | None:
        """Excess FCD, if the teacher is known."""
        return None if self.fidelity is None else self.fidelity.excess_fcd

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return asdict(self)


def evaluate_steps(
    sample: Sampler,
    net: FeatureNet,
    reference: Reference,
    config: EvaluationConfig,
    teacher: TeacherSamples | None = None,
) -> Iterator[EvaluationStep | EvaluationResult]:
    """Draw ``config.images`` samples, every class in turn, and judge them.

    Parameters
    ----------
    sample
        Draws images; see :class:`~dpqlab.evaluation.config.Sampler`.
    net
        The feature network, on the device it should run on.
    reference
        What real images look like to that same network.
    teacher
        The teacher's samples by the same protocol, from :func:`draw_teacher_steps` or a file.

    Yields
    ------
    EvaluationStep
        One a batch and comparison; close the generator to stop.
    EvaluationResult
        Last, once.

    Raises
    ------
    ConfigError
        Reference, teacher and network do not belong together; said before anything is drawn.
    """
    reference.train.require_network(net.sha256)
    if teacher is not None:
        teacher.require(config, net.sha256)
    found, images = yield from _draw(sample, net, config, config.seed, "sample")
    started, total = time.perf_counter(), 2 if teacher is None else 3

    def step(done: int) -> EvaluationStep:
        seconds = time.perf_counter() - started
        return EvaluationStep(stage="compare", done=done, total=total, seconds=seconds)

    generator = np.random.default_rng(config.seed)
    fcd = frechet_interval(
        found.features, reference.train, resamples=config.resamples, generator=generator
    )
    yield step(1)
    device = next(net.parameters()).device
    real = reference.real_features[: config.images]
    shares = precision_recall(real, found.features, config.neighbours, device=device)
    yield step(2)
    fidelity = None
    if teacher is not None:
        fidelity = _fidelity(found, images, teacher, config.resamples, generator)
        yield step(3)
    yield EvaluationResult(
        config=config,
        fcd=fcd,
        noise_floor=reference.floor,
        noise_floor_images=reference.test.count,
        precision=shares.precision,
        recall=shares.recall,
        class_accuracy=agreement(found.predictions, _labels(net, config)),
        fidelity=fidelity,
        feature_net=net.sha256,
    )


def draw_teacher_steps(
    sample: Sampler, net: FeatureNet, config: EvaluationConfig
) -> Iterator[EvaluationStep | TeacherSamples]:
    """Draw the teacher at the evaluated seeds and at other ones; the samples come last."""
    found, images = yield from _draw(sample, net, config, config.seed, "sample")
    other, _ = yield from _draw(sample, net, config, config.other_seed, "sample other seeds")
    statistics = FeatureStatistics.from_features(
        other.features, source=f"teacher, seed {config.other_seed}", feature_net=net.sha256
    )
    yield TeacherSamples(
        features=found.features,
        predictions=found.predictions,
        images=images,
        other=statistics,
        protocol=config.protocol(),
    )


def last_of(steps: Iterator[EvaluationStep | Outcome]) -> Outcome:
    """Run a generator of this module to its end, unwatched, and return what it yields last."""
    outcome: EvaluationStep | Outcome | None = None
    for outcome in steps:  # noqa: B007 - the last one is wanted
        pass
    assert outcome is not None
    assert not isinstance(outcome, EvaluationStep)
    return outcome


def _draw(
    sample: Sampler, net: FeatureNet, config: EvaluationConfig, seed: int, stage: Stage
) -> Generator[EvaluationStep, None, tuple[Features, np.ndarray]]:
    """Draw and see all images, a batch at a time; only features and uint8 images are kept."""
    labels, started = _labels(net, config), time.perf_counter()
    images, seen = [], []
    for first in range(0, config.images, config.batch):
        wanted = tuple(labels[first : first + config.batch].tolist())
        drawn = sample(
            wanted, seed=seed, first_index=first, steps=config.steps, guidance=config.guidance
        )
        batch = drawn.cpu().numpy() if isinstance(drawn, torch.Tensor) else np.asarray(drawn)
        if batch.ndim != 4 or len(batch) != len(wanted) or batch.dtype != np.uint8:
            raise ShapeError(
                f"the sampler returned {batch.dtype} {batch.shape} for {len(wanted)} labels; "
                "expected uint8 (N, C, H, W) with an image for each label."
            )
        images.append(batch)
        seen.append(extract(net, batch))
        done = first + len(wanted)
        seconds = time.perf_counter() - started
        yield EvaluationStep(stage=stage, done=done, total=config.images, seconds=seconds)
    return Features.concatenate(seen), np.concatenate(images)


def _labels(net: FeatureNet, config: EvaluationConfig) -> np.ndarray:
    return requested_labels(config.images, net.architecture.classes)


def _fidelity(
    student: Features,
    images: np.ndarray,
    teacher: TeacherSamples,
    resamples: int,
    generator: np.random.Generator,
) -> FidelityResult:
    excess = frechet_difference(
        student.features, teacher.features, teacher.other, resamples=resamples, generator=generator
    )
    if teacher.images is not None and teacher.images.shape != images.shape:
        raise ConfigError(
            f"the student draws images of {images.shape[1:]}, the teacher drew "
            f"{teacher.images.shape[1:]}; they must be models of the same images."
        )
    return FidelityResult(
        psnr=None if teacher.images is None else float(psnr(images, teacher.images).mean()),
        feature_cosine=float(feature_cosine(student.features, teacher.features).mean()),
        agreement=agreement(student.predictions, teacher.predictions),
        excess_fcd=excess,
    )
