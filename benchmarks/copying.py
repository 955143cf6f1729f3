"""Whether the bundled teacher copies its training images.

    python -m benchmarks.copying [--model avatars-dit] [--data FOLDER] [--dry-run]

The pixel distance (L2 over all values in [0, 1]) from each of the 2,000 recorded samples to its
nearest training image, beside the same for 2,000 test images, which the model has never seen. A
model that copies has samples much nearer than test images are. Half a minute on two cores.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.record import append, make_record
from dpqlab.evaluation.bundled import DEFAULT_MODEL, quick_reference
from dpqlab.evaluation.datasets import MODELS, dataset_of


def nearest(images: Tensor, training: Tensor, *, chunk: int = 500) -> Tensor:
    """Return the distance (N,) of images (N, P) to the nearest of the training images (M, P)."""
    return torch.cat([torch.cdist(part, training).amin(1) for part in images.split(chunk)])


def main() -> None:
    """Measure and append one record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default=DEFAULT_MODEL, choices=MODELS)
    parser.add_argument("--data", type=Path, help="the four idx.gz files")
    parser.add_argument("--dry-run", action="store_true", help="append nothing")
    args = parser.parse_args()

    def pixels(images: object) -> Tensor:
        return torch.tensor(images).flatten(1).float() / 255

    dataset = dataset_of(args.model)
    training = pixels(dataset.read(args.data, "train")[0])
    drawn = quick_reference(args.model).images
    assert drawn is not None
    sets = {"samples": pixels(drawn), "test": pixels(dataset.read(args.data, "test")[0][:2000])}
    details = {}
    for name, images in sets.items():
        distances = nearest(images, training)
        for quantile in (0.01, 0.05, 0.5):
            details[f"{name} p{quantile * 100:g}"] = distances.quantile(quantile).item()
    ratio = details["samples p50"] / details["test p50"]
    print(f"median distance to the nearest training image, samples over test: {ratio:.3f}", details)
    if not args.dry_run:
        append(
            make_record(
                "copying",
                args.model,
                "median_nearest_distance",
                ratio,
                "x",
                rival="test images",
                higher_is_better=True,
                details=details,
            )
        )


if __name__ == "__main__":
    main()
