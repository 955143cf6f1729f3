"""Which sampler suits the bundled teacher, and what DDIM's clipping does when done halfway.

    python -m benchmarks.samplers [--images 5000] [--results FOLDER]

FCD of the teacher with DDIM and DPM-Solver++ at several steps and guidance scales, and with DDIM as
diffusers steps by default: the predicted image clipped, the noise not re-derived from it. About a
minute and a half on one H100.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler

from benchmarks.record import RESULTS, append, make_record
from dpqlab.diffusion import SampleRequest, load_pipeline, make_scheduler, sample_images
from dpqlab.evaluation.bundled import bundled_feature_net, bundled_reference
from dpqlab.evaluation.features import extract
from dpqlab.evaluation.frechet import frechet_distance
from dpqlab.evaluation.statistics import FeatureStatistics


class HalfClippedDDIM(DDIMScheduler):
    """DDIM that goes on with the noise of the unclipped prediction, diffusers' default."""

    def step(self, *args: Any, use_clipped_model_output: bool = False, **options: Any) -> Any:
        """Take a step, whatever the caller says about clipping."""
        return super().step(*args, **options)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A way to sample: ``sampler`` is "ddim", "dpm" or "half-clipped ddim"."""

    sampler: str
    steps: int
    guidance: float = 1.5

    def scheduler(self) -> Any:
        """Build the scheduler."""
        if self.sampler != "half-clipped ddim":
            return make_scheduler(self.sampler)
        ddim: Any = make_scheduler("ddim")
        return HalfClippedDDIM.from_config(ddim.config)

    @property
    def row(self) -> str:
        """The name of its record."""
        name = self.sampler.removeprefix("half-clipped ")
        kind = ", noise not re-derived" if name != self.sampler else ""
        return f"{name} {self.steps} steps, guidance {self.guidance:g}{kind}"


def settings() -> Iterator[Setting]:
    """Yield what is measured."""
    for steps in (20, 50, 100):
        yield Setting(sampler="ddim", steps=steps)
        yield Setting(sampler="half-clipped ddim", steps=steps)
    for guidance in (1.0, 1.25, 2.0):
        yield Setting(sampler="ddim", steps=50, guidance=guidance)
        yield Setting(sampler="half-clipped ddim", steps=50, guidance=guidance)
    for steps in (10, 20, 50):
        yield Setting(sampler="dpm", steps=steps)


def main() -> None:
    """Measure and append the records."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--batch", type=int, default=1000)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to append to")
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    net, reference = bundled_feature_net(device=device), bundled_reference()
    model = load_pipeline("fashion-dit", device=device).transformer
    for setting in settings():
        images = torch.cat(
            [
                sample_images(
                    model,
                    setting.scheduler(),
                    SampleRequest(
                        labels=tuple(
                            i % 10 for i in range(first, min(first + args.batch, args.images))
                        ),
                        first_index=first,
                        steps=setting.steps,
                        guidance=setting.guidance,
                    ),
                )
                for first in range(0, args.images, args.batch)
            ]
        )
        found = FeatureStatistics.from_features(
            extract(net, images).features, feature_net=net.sha256
        )
        distance = frechet_distance(found, reference.train)
        print(f"{setting.row:50s} FCD {distance:.4f}", flush=True)
        append(
            make_record(
                "samplers",
                setting.row,
                f"fcd_{args.images // 1000}k",
                distance,
                "FCD",
                limit=reference.floor.value,
                higher_is_better=False,
                details={
                    "images": args.images,
                    "fcd_to_test": frechet_distance(found, reference.test),
                },
                device=device,
            ),
            args.results,
        )


if __name__ == "__main__":
    main()
