"""Make the calibrated presets of a bundled model that ship with dpqlab.

    python -m recipes.calibrate_presets [--model avatars-dit] --out FOLDER [--presets best-1bit ...]

Each preset is compressed as ``dpqlab compress`` does it, then calibrated with its own settings
(``dpqlab.calibration.calibration_for``) on noisy images of the model's data set. Writes
``MODEL-PRESET/``, the recording ``runs/PRESET.npz`` (losses, block errors, codes changed, and
what the student drew on the way), and appends the course to the benchmark record
``calibration.jsonl`` (``calibration-avatars.jsonl``), all in FOLDER. An interrupted run goes on
where it was. Presets of ``fashion-dit`` take a few minutes each on one H100.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import dpqlab
from benchmarks.record import append, commit_name, make_record, suite_of
from dpqlab.calibration import (
    CalibrationConfig,
    CalibrationData,
    CalibrationRecord,
    calibrate,
    calibration_for,
)
from dpqlab.calibration.recording import Recording
from dpqlab.checkpoint import save_compressed
from dpqlab.commands.card import loss_of, moves_of
from dpqlab.commands.expected import PRESETS
from dpqlab.commands.measure import origin_of
from dpqlab.diffusion import (
    SampleRequest,
    load_pipeline,
    resolve,
    sample_images,
    scheduler_for,
)
from dpqlab.evaluation.bundled import DEFAULT_MODEL
from dpqlab.evaluation.datasets import MODELS, calibration_images, dataset_of
from dpqlab.nn import Compression, compress_, hold_decoded, preset

# moments at which the student draws; an avatar is fifteen times as many bytes
STRIPS = {"fashion-dit": 24, "avatars-dit": 8}
STRIP_STEPS = 20

CARD = """---
library_name: diffusers
license: {spdx}
tags: [dpqlab, quantized]
---

# {model}-{name}

`{model}` at {bits:.3f} true bits per weight: {codecs}, calibrated.

| what | value |
|---|---|
| true bits per weight (everything stored for the blocks' Linears) | {bits:.4f} |
| all tensors | {stored:.2f} MB |
| the same model in fp32, one embedder | {fp32:.2f} MB |
| calibration | {steps} steps of {batch}, {images} images, rate {rate:g} |
| loss | {loss} |
| codes | {moves} |
| time | {seconds:.0f} s on {device} |
| held-out error of the model's output | {before:.5f} to {after:.5f} |
| held-out error of the block outputs, relative | {features_before:.4f} to {features:.4f} |

Made by `recipes/calibrate_presets.py` of dpqlab {version}: codewords, biases and, where the codec
has them, row scales were trained. Its quality (FCD, fidelity), where it is measured, stands beside
that of the other presets in dpqlab's docs/results.md.

{licence}

    from dpqlab.diffusion import load_pipeline
    images = load_pipeline("{model}-{name}")(class_labels=range({classes}), seed=0).images
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """A bundled model by name, its transformer on the device, and what its students learn from."""

    model: str
    teacher: Any
    data: CalibrationData


def calibrated(
    name: str, subject: Subject, config: CalibrationConfig, out: Path
) -> tuple[Any, Compression, Recording]:
    """Compress a copy of the teacher and calibrate it, telling the course."""
    teacher, data = subject.teacher, subject.data
    device = data.images.device
    # on the CPU, where k-means gives the same codes everywhere
    student = load_pipeline(subject.model).transformer
    compression = compress_(student, preset(name))
    student.to(device)
    records: list[CalibrationRecord] = []
    strips: list[np.ndarray] = []
    drawn: list[int] = []
    for record in calibrate(student, teacher, data, config, progress=out / f"{name}.progress"):
        records.append(record)
        if len(drawn) <= record.step * STRIPS[subject.model] // config.steps:
            strips.append(strip(student))
            drawn.append(record.step)
        print(
            f"{name}  step {record.step:6d}  output {record.output:.5f}  "
            f"features {record.features:.4f}  codes {record.changed:.3f}  "
            f"revived {record.revived}  {record.seconds:.0f} s, {record.remaining:.0f} s to go",
            flush=True,
        )
    recording = Recording(
        name=name,
        records=tuple(records),
        strips=np.stack(strips),
        strip_steps=tuple(drawn),
        config=config.to_dict(),
    )
    return student.cpu(), compression, recording


def strip(student: Any) -> np.ndarray:
    """Draw an image of each class, always from the same noise: uint8 (classes, C, H, W)."""
    labels = tuple(range(student.config.num_embeds_ada_norm))
    request = SampleRequest(labels=labels, seed=5, steps=STRIP_STEPS)
    with torch.no_grad(), hold_decoded(student):
        return sample_images(student, scheduler_for(student), request).numpy()


def write(
    out: Path,
    name: str,
    subject: Subject,
    made: tuple[Any, Compression, Recording],
    config: CalibrationConfig,
) -> None:
    """Save the student with its card, and the recording of its calibration."""
    student, compression, recording = made
    records, images, model = recording.records, len(subject.data.images), subject.model
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "a CPU"
    scheduler: Any = scheduler_for(student)
    save_compressed(
        student,
        out / f"{model}-{name}",
        scheduler_config=json.loads(scheduler.to_json_string()),
        provenance=origin_of(model, resolve(model))
        | {
            "preset": name,
            "commit": commit_name(),
            "licence": "MIT",
            "dpqlab": dpqlab.__version__,
            "calibration_steps": config.steps,
            "calibration_batch": config.batch,
            "calibration_images": images,
            "calibration_rate": config.learning_rate,
            "calibration_device": device,
            "calibration_seconds": round(records[-1].seconds, 1),
        },
        card=card_of(name, subject, compression, recording, config),
        overwrite=True,
    )
    (out / "runs").mkdir(exist_ok=True)
    recording.save(out / "runs" / f"{name}.npz")
    (out / f"{name}.progress").unlink(missing_ok=True)
    append(
        make_record(
            suite_of(model, "calibration"),
            name,
            "held_out_loss",
            min(record.total for record in records),
            "loss",
            higher_is_better=False,
            details=config.to_dict()
            | {"images": images, "course": [record.to_dict() for record in records]},
            device="cuda" if torch.cuda.is_available() else "cpu",
        ),
        out,
    )


def card_of(
    name: str,
    subject: Subject,
    compression: Compression,
    recording: Recording,
    config: CalibrationConfig,
) -> str:
    """Say what a student is, how it was made, and whose the images are."""
    dataset, records = dataset_of(subject.model), recording.records
    ledger = compression.ledger
    best = min(records, key=lambda r: r.total)
    rights = f"Weights and training images: {dataset.licence}. These weights: MIT."
    return CARD.format(
        name=name,
        model=subject.model,
        spdx=dataset.spdx,
        classes=len(dataset.classes),
        licence=textwrap.fill(rights, width=100),
        codecs=", ".join(sorted({layer.codec for layer in compression.layers})),
        bits=ledger.true_bits_per_weight,
        stored=ledger.stored_bytes / 1e6,
        fp32=ledger.fp32_bytes / 1e6,
        steps=config.steps,
        batch=config.batch,
        images=len(subject.data.images),
        rate=config.learning_rate,
        loss=loss_of(config),
        moves=moves_of(config),
        seconds=records[-1].seconds,
        device=torch.cuda.get_device_name() if torch.cuda.is_available() else "a CPU",
        before=records[0].output,
        after=best.output,
        features_before=records[0].features,
        features=best.features,
        version=dpqlab.__version__,
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Run the recipe."""
    parser = argparse.ArgumentParser(
        prog="recipes.calibrate_presets", description="Make the calibrated presets."
    )
    parser.add_argument("--model", default=DEFAULT_MODEL, choices=MODELS)
    parser.add_argument("--data", type=Path, help="the four idx.gz files of its data set")
    parser.add_argument("--out", type=Path, required=True, help="folder to write into")
    parser.add_argument("--presets", nargs="+", default=list(PRESETS[DEFAULT_MODEL]))
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--images", type=int, help="use the first IMAGES only")
    parser.add_argument("--every", type=int, default=500)
    parser.add_argument("--holdout", type=int, default=1024)
    args = parser.parse_args(argv)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
    subject = Subject(
        model=args.model,
        teacher=load_pipeline(args.model, device=device).transformer.requires_grad_(False),
        data=calibration_images(args.model, args.data, device, args.images),
    )
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.presets:
        started = time.perf_counter()
        config = dataclasses.replace(
            calibration_for(name, steps=args.steps),
            batch=args.batch,
            every=args.every,
            holdout=args.holdout,
        )
        made = calibrated(name, subject, config, args.out)
        write(args.out, name, subject, made, config)
        print(f"{name} done in {time.perf_counter() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
