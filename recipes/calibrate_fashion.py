"""Make the calibrated presets of ``fashion-dit`` that ship with dpqlab.

    python -m recipes.calibrate_fashion --out FOLDER [--presets vq-1bit pq-1bit ...] [--steps 2500]

Each preset is compressed as ``dpqlab compress`` does it, then its codebooks, row scales and biases
are trained to match the teacher's output and block features on noisy Fashion-MNIST images, codes
fixed. Every preset gets the same batches and as many steps. Writes ``fashion-dit-PRESET/`` and
``fashion-dit-PRESET.jsonl``, the course of the losses, and appends it to the benchmark record
``calibration.jsonl``, all in FOLDER. About a minute a preset on one H100.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.record import append, commit_name, make_record
from dpqlab.calibration import CalibrationConfig, CalibrationData, CalibrationRecord, calibrate
from dpqlab.checkpoint import save_compressed
from dpqlab.commands.measure import origin_of
from dpqlab.diffusion import load_pipeline, make_scheduler, resolve
from dpqlab.evaluation.fashion_mnist import DEFAULT_FOLDER, read_split
from dpqlab.nn import Compression, compress_, preset

PRESETS = ("vq-2bit", "pq-2bit", "vq-1bit", "pq-1bit")
TEACHER = "fashion-dit"

CARD = """---
library_name: diffusers
license: mit
tags: [dpqlab, quantized]
---

# fashion-dit-{name}

`fashion-dit` at {bits:.3f} true bits per weight: {codecs}, codebooks calibrated.

| what | value |
|---|---|
| true bits per weight (everything stored for the blocks' Linears) | {bits:.4f} |
| all tensors | {stored:.2f} MB |
| the same model in fp32, one embedder | {fp32:.2f} MB |
| calibration | {steps} steps of {batch}, {images} images, rate {rate:g} |
| time | {seconds:.0f} s on {device} |
| held-out error of the predicted noise | {before:.5f} to {after:.5f} |
| held-out error of the block outputs, relative | {features_before:.4f} to {features:.4f} |

Made by `recipes/calibrate_fashion.py` of dpqlab {version}: codewords, biases and, where the codec
has them, row scales were trained by distillation from the full-precision model; codes are those of
k-means on the weights. Its quality (FCD, fidelity) beside the other presets stands in dpqlab's
README.

Weights and training images: Fashion-MNIST, (c) 2017 Zalando SE, MIT licence. These weights: MIT.

    from dpqlab.diffusion import load_pipeline
    images = load_pipeline("fashion-dit-{name}")(class_labels=range(10), seed=0).images
"""


def calibrated(
    name: str, teacher: Any, data: CalibrationData, config: CalibrationConfig
) -> tuple[Any, Compression, list[CalibrationRecord]]:
    """Compress a copy of the teacher and calibrate it, telling the course."""
    device = data.images.device
    # on the CPU, where k-means gives the same codes everywhere
    student = load_pipeline(TEACHER).transformer
    compression = compress_(student, preset(name))
    student.to(device)
    records: list[CalibrationRecord] = []
    for record in calibrate(student, teacher, data, config):
        records.append(record)
        print(
            f"{name}  step {record.step:6d}  output {record.output:.5f}  "
            f"features {record.features:.4f}  {record.seconds:.0f} s, "
            f"{record.remaining:.0f} s to go",
            flush=True,
        )
    return student.cpu(), compression, records


def write(
    out: Path,
    name: str,
    made: tuple[Any, Compression, list[CalibrationRecord]],
    config: CalibrationConfig,
    images: int,
) -> None:
    """Save the student with its card, and the course of the losses beside it."""
    import dpqlab

    student, compression, records = made
    ledger = compression.ledger
    best = min(records, key=lambda r: r.total)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "a CPU"
    card = CARD.format(
        name=name,
        codecs=", ".join(sorted({layer.codec for layer in compression.layers})),
        bits=ledger.true_bits_per_weight,
        stored=ledger.stored_bytes / 1e6,
        fp32=ledger.fp32_bytes / 1e6,
        steps=config.steps,
        batch=config.batch,
        images=images,
        rate=config.learning_rate,
        seconds=records[-1].seconds,
        device=device,
        before=records[0].output,
        after=best.output,
        features_before=records[0].features,
        features=best.features,
        version=dpqlab.__version__,
    )
    scheduler: Any = make_scheduler("ddim")
    save_compressed(
        student,
        out / f"{TEACHER}-{name}",
        scheduler_config=json.loads(scheduler.to_json_string()),
        provenance=origin_of(TEACHER, resolve(TEACHER))
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
        card=card,
        overwrite=True,
    )
    course = [dataclasses.asdict(record) for record in records]
    (out / f"{TEACHER}-{name}.jsonl").write_text("".join(f"{json.dumps(c)}\n" for c in course))
    append(
        make_record(
            "calibration",
            name,
            "held_out_loss",
            best.total,
            "loss",
            higher_is_better=False,
            details=dataclasses.asdict(config) | {"images": images, "course": course},
            device="cuda" if torch.cuda.is_available() else "cpu",
        ),
        out,
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Run the recipe."""
    defaults = CalibrationConfig()
    parser = argparse.ArgumentParser(
        prog="recipes.calibrate_fashion", description="Make the calibrated presets."
    )
    parser.add_argument("--data", type=Path, default=DEFAULT_FOLDER, help="the four idx.gz files")
    parser.add_argument("--out", type=Path, required=True, help="folder to write into")
    parser.add_argument("--presets", nargs="+", default=list(PRESETS))
    parser.add_argument("--steps", type=int, default=defaults.steps)
    parser.add_argument("--batch", type=int, default=defaults.batch)
    parser.add_argument("--rate", type=float, default=defaults.learning_rate)
    parser.add_argument("--images", type=int, help="use the first IMAGES only")
    parser.add_argument("--every", type=int, default=defaults.every)
    parser.add_argument("--holdout", type=int, default=defaults.holdout)
    args = parser.parse_args(argv)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
    config = CalibrationConfig(
        steps=args.steps,
        batch=args.batch,
        learning_rate=args.rate,
        every=args.every,
        holdout=args.holdout,
    )
    images, labels = read_split(args.data, "train")
    scheduler: Any = make_scheduler("ddim")
    data = CalibrationData(
        images=torch.tensor(images[: args.images], device=device),
        labels=torch.tensor(labels[: args.images], device=device),
        alphas=scheduler.alphas_cumprod.to(device),
    )
    teacher = load_pipeline(TEACHER, device=device).transformer.requires_grad_(False)
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.presets:
        started = time.perf_counter()
        made = calibrated(name, teacher, data, config)
        write(args.out, name, made, config, len(data.images))
        print(f"{name} done in {time.perf_counter() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
