"""A calibration small enough to be watched: about a minute on two CPU cores, from a model of noise.

No data are needed: the images that are made noisy are the teacher's own, drawn once and kept with
the bundled model for its quick evaluation.
"""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dpqlab.calibration import CalibrationConfig, CalibrationData, CalibrationRecord, calibrate
from dpqlab.calibration.config import LatentConfig
from dpqlab.calibration.recording import Recording
from dpqlab.checkpoint import SavedFolder, save_compressed
from dpqlab.diffusion import SampleRequest, load_pipeline, sample_images, scheduler_for
from dpqlab.diffusion.schedules import prediction_of
from dpqlab.errors import ConfigError
from dpqlab.evaluation.bundled import DEFAULT_MODEL, quick_reference
from dpqlab.nn import compress_, hold_decoded, ledger_of_model, preset

HOLDOUT = 16  # images; judging more takes longer than training
STRIP_SEED, STRIP_STEPS = 5, 8


@dataclass(frozen=True, kw_only=True)
class LiveConfig:
    """Settings of a calibration to be watched; the defaults were chosen for two CPU cores.

    Measured on ten images of fixed seeds: 40 training steps of ``vq-2bit`` take the PSNR to the
    teacher's images from 10.9 to 19.3 dB, in 56 s on two idle cores, drawing included. The first 50
    of 80 steps of ``pq-2bit`` take it from 9.8 to 17.4 dB. Moving codes were not measured.

    Attributes
    ----------
    model
        Bundled full-precision model; the times above are those of the default one.
    preset
        How the model is compressed first: a plan with codebooks.
    steps, batch
        Optimiser steps, and images a step.
    learning_rate
        Of codewords, scales and biases, relative to their size.
    move_codes
        Whether codes move with latents; otherwise they stay as k-means chose them.
    every, strip_every
        Steps between records, and between strips; the latter a multiple of the former.
    """

    model: str = DEFAULT_MODEL
    preset: str = "vq-2bit"
    steps: int = 40
    batch: int = 16
    learning_rate: float = 0.04
    move_codes: bool = False
    every: int = 4
    strip_every: int = 8

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        preset(self.preset)
        self.calibration()
        if self.strip_every < 1 or self.strip_every % self.every:
            raise ConfigError(
                f"strip_every is {self.strip_every}: expected a multiple of every, {self.every}"
            )

    def calibration(self) -> CalibrationConfig:
        """Return the settings of the calibration itself."""
        # the codes of all layers are searched: not after every step, on a CPU
        latent = LatentConfig(every=4) if self.move_codes else None
        return CalibrationConfig(
            steps=self.steps,
            batch=self.batch,
            learning_rate=self.learning_rate,
            warmup=max(1, self.steps // 20),
            latent=latent,
            holdout=HOLDOUT,
            every=self.every,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class LivePair:
    """What a live calibration works on: a compressed student, its teacher, and the teacher's strip.

    ``wanted`` is what the teacher draws from the strip's seeds, uint8 (N, C, H, W).
    """

    student: Any
    teacher: Any
    scheduler: Any
    data: CalibrationData
    wanted: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class LiveMoment:
    """A record of a live calibration, with what the student drew then, if it drew.

    ``remaining`` are the seconds to come, drawing included; None while nobody can know.
    """

    record: CalibrationRecord
    strip: np.ndarray | None
    remaining: float | None


def live_pair(config: LiveConfig) -> LivePair:
    """Load the teacher and compress a copy of it: some seconds.

    Raises
    ------
    ConfigError
        If the preset has no codebooks to train, or no images of the teacher are on record.
    """
    pipeline = load_pipeline(config.model)
    student = load_pipeline(config.model).transformer
    compress_(student, preset(config.preset))
    teacher = pipeline.transformer.requires_grad_(False)
    samples = quick_reference(config.model)
    if samples.images is None:
        raise ConfigError(
            f"the recorded samples of {config.model} have no images to calibrate on: expected a "
            "quick_reference.npz with them"
        )
    images = torch.from_numpy(samples.images)
    data = CalibrationData(
        images=images,
        labels=torch.arange(len(images)) % teacher.config.num_embeds_ada_norm,
        alphas=pipeline.scheduler.alphas_cumprod,
        prediction=prediction_of(pipeline.scheduler),
    )
    return LivePair(
        student=student,
        teacher=teacher,
        scheduler=pipeline.scheduler,
        data=data,
        wanted=draw_strip(teacher),
    )


def live_calibration(pair: LivePair, config: LiveConfig) -> Generator[LiveMoment, None, None]:
    """Calibrate ``pair.student`` in place, and let it draw now and then.

    However it ends, by its last step or by being closed, the student is in the best state so far.

    Yields
    ------
    LiveMoment
        One every ``config.every`` steps, the first before any step.
    """
    started = time.perf_counter()
    steps = calibrate(pair.student, pair.teacher, pair.data, config.calibration())
    with closing(steps):
        for record in steps:
            due = record.step % config.strip_every == 0 or record.step == config.steps
            strip = draw_strip(pair.student) if due else None
            passed = time.perf_counter() - started
            left = passed / record.step * (config.steps - record.step) if record.step else None
            yield LiveMoment(record=record, strip=strip, remaining=left)


def draw_strip(transformer: nn.Module) -> np.ndarray:
    """Draw an image of each class from fixed noise, in few steps: uint8 (classes, C, H, W)."""
    model: Any = transformer
    labels = tuple(range(model.config.num_embeds_ada_norm))
    request = SampleRequest(labels=labels, seed=STRIP_SEED, steps=STRIP_STEPS)
    with torch.no_grad(), hold_decoded(transformer):
        return sample_images(transformer, scheduler_for(transformer), request).numpy()


def recording_of(config: LiveConfig, moments: Sequence[LiveMoment]) -> Recording:
    """Return a live run in the form in which recorded ones are kept.

    Raises
    ------
    ConfigError
        If nothing was drawn yet.
    """
    drawn = [(moment.record.step, moment.strip) for moment in moments if moment.strip is not None]
    if not drawn:
        raise ConfigError("nothing has run yet: expected at least one moment with a strip")
    return Recording(
        name=f"{config.preset}, live",
        records=tuple(moment.record for moment in moments),
        strips=np.stack([strip for _, strip in drawn]),
        strip_steps=tuple(step for step, _ in drawn),
        config=config.calibration().to_dict(),
    )


def save_live(
    pair: LivePair,
    config: LiveConfig,
    records: Sequence[CalibrationRecord],
    folder: str | Path,
    *,
    overwrite: bool = False,
) -> SavedFolder:
    """Save the student as it is, as a folder that ``load_pipeline`` opens.

    Raises
    ------
    CheckpointError
        If ``folder`` exists (without ``overwrite``), or cannot be written.
    """
    best = min(records, key=lambda record: record.total)
    true_bits = ledger_of_model(pair.student).true_bits_per_weight
    card = CARD.format(
        source=config.model,
        classes=pair.teacher.config.num_embeds_ada_norm,
        preset=config.preset,
        bits=true_bits,
        best=best,
        first=records[0],
        steps=config.steps,
        batch=config.batch,
        images=len(pair.data),
    )
    Path(folder).parent.mkdir(parents=True, exist_ok=True)
    return save_compressed(
        pair.student,
        folder,
        scheduler_config=json.loads(pair.scheduler.to_json_string()),
        provenance={
            "source": config.model,
            "preset": config.preset,
            "calibrated": 1,
            "true_bits_per_weight": true_bits,
            "calibration_data": f"{len(pair.data)} images drawn by the teacher, no data",
            "calibration_steps": records[-1].step,
            "calibration_best_step": best.step,
            "calibration_batch": config.batch,
            "calibration_device": "a CPU",
        },
        card=card,
        overwrite=overwrite,
    )


CARD = """# {source}, {preset}, calibrated for a minute

`{source}` at {bits:.3f} true bits per weight, calibrated live: at most {steps} steps of {batch}
images, made of {images} that the teacher drew itself. The state of step {best.step} is kept:
held-out error {first.total:.4f} before, {best.total:.4f} after.

    from dpqlab.diffusion import load_pipeline
    images = load_pipeline("THIS FOLDER")(class_labels=range({classes}), seed=5).images
"""
