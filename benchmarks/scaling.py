"""How sampling and calibration scale with the number of GPUs of one machine.

    python -m benchmarks.scaling                    # all GPUs beside one; under three minutes
    python -m benchmarks.scaling --processes 2 --geometry tiny --dry-run    # on a CPU, to try it

The same work is done by one process and by N, each in a team of its own that ``torchrun`` starts:
images as ``dpqlab sample-many`` draws them, shards written to disk included, and steps as
``dpqlab calibrate`` takes them, of a fixed batch (so each GPU's part of it shrinks). Efficiency is
the time of one over N times that of N. Weights are random, which changes no amount of work; where
diffusers is not installed the model is ``benchmarks/plain_dit.py``.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from benchmarks.plain_dit import PlainDDIM, PlainDiT
from benchmarks.record import append, make_record
from dpqlab.calibration import CalibrationData, calibrate, calibration_for
from dpqlab.checkpoint.shared_journal import shared_journal
from dpqlab.commands.many_sampler import ManySampler
from dpqlab.diffusion.dit import AVATARS_DIT, DIT_XL_2
from dpqlab.distributed import Team, team_of
from dpqlab.evaluation.many import ManyConfig, draw_shards, pending_shards
from dpqlab.speed.models import code_randomly_, random_dit

SUITE = "scaling"
GOAL, FLOOR = 0.9, 0.8
PRESET = "best-1bit"
TINY: dict[str, Any] = AVATARS_DIT | {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "num_layers": 2,
    "sample_size": 16,
}
GEOMETRIES = {"avatars": AVATARS_DIT, "xl": DIT_XL_2, "tiny": TINY}
WARM = 0.2  # share of the calibration's steps before the clock runs


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is done: images and their steps, calibration steps and the images of each."""

    images: int
    shard: int
    steps: int
    calibration_steps: int
    batch: int


WORK = {
    "avatars": Work(images=2000, shard=100, steps=20, calibration_steps=200, batch=512),
    "xl": Work(images=320, shard=40, steps=20, calibration_steps=40, batch=64),
    "tiny": Work(images=24, shard=4, steps=4, calibration_steps=10, batch=16),
}
ROWS = ("sampling", "calibration")


def main(argv: Sequence[str] | None = None) -> None:
    """Measure with one process and with several, and append the records."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    gpus = torch.cuda.device_count()
    parser.add_argument("--processes", type=int, default=gpus or 2, help="beside one (all GPUs)")
    parser.add_argument("--geometry", choices=GEOMETRIES, default="avatars")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS)
    parser.add_argument("--dry-run", action="store_true", help="print the records, append nothing")
    parser.add_argument("--member", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.member is not None:
        with team_of() as team:
            measure(team, args)
        return
    alone, together = launched(1, args), launched(args.processes, args)
    for row in args.rows:
        record = described(row, alone, together, args)
        print(json.dumps(record) if args.dry_run else f"{row}: {record['value']:.3f}", flush=True)
        if not args.dry_run:
            append(record)


def launched(world: int, args: argparse.Namespace) -> dict[str, float]:
    """Start a team of ``world`` processes, and return the seconds that they took for each row."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "seconds.json"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc-per-node", str(world), "-m", "benchmarks.scaling"]
        command += ["--member", str(out), "--geometry", args.geometry, "--rows", *args.rows]
        subprocess.run(command, check=True)
        return json.loads(out.read_text("utf-8"))


def measure(team: Team, args: argparse.Namespace) -> None:
    """Do the work as one of a team; its leader writes the seconds."""
    work, geometry = WORK[args.geometry], GEOMETRIES[args.geometry]
    seconds: dict[str, float] = {}
    if "sampling" in args.rows:
        seconds["sampling"] = sampling_seconds(team, geometry, work, args.member.parent)
    if "calibration" in args.rows:
        seconds["calibration"] = calibration_seconds(team, geometry, work)
    if team.leads:
        args.member.write_text(json.dumps(seconds), "utf-8")


def sampling_seconds(team: Team, geometry: dict[str, Any], work: Work, scratch: Path) -> float:
    """Return how long the team draws, from when all are ready to when the last has drawn."""
    dtype = torch.bfloat16 if team.device.type == "cuda" else torch.float32
    model = model_of(geometry, team.device, dtype)
    sampler = ManySampler(SimpleNamespace(transformer=model, scheduler=PlainDDIM()), None)
    if geometry["in_channels"] not in (1, 3):  # what a VAE takes is the same for all
        sampler = First3(sampler)
    classes = geometry["num_embeds_ada_norm"]
    config = ManyConfig(
        images=work.images, classes=classes, steps=work.steps, batch=work.shard, guidance=1.5
    )
    sampler(tuple([0] * work.shard), seed=1, first_index=0, steps=2, guidance=1.5)
    with shared_journal(scratch / "images", {}, team) as journal:
        own = team.share(pending_shards(config, journal, team))
        team.meet()
        started = time.perf_counter()
        for _ in draw_shards(sampler, config, journal, tuple(own)):
            pass
        team.meet()
        return time.perf_counter() - started


class First3:
    """Shows three channels of the latents of a sampler, as if they were an image."""

    def __init__(self, sampler: Any) -> None:
        self.sampler = sampler

    def __call__(self, labels: tuple[int, ...], **options: Any) -> torch.Tensor:
        """Draw."""
        return self.sampler(labels, **options)[:, :3]


def calibration_seconds(team: Team, geometry: dict[str, Any], work: Work) -> float:
    """Return how long the team's steps take once they are warm, judgements included."""
    teacher = model_of(geometry, team.device, torch.float32).requires_grad_(False)
    student = copy.deepcopy(teacher)
    code_randomly_(student, PRESET)
    every = max(1, round(WARM * work.calibration_steps))
    config = replace(
        calibration_for(PRESET, steps=work.calibration_steps),
        steps=work.calibration_steps,
        batch=work.batch,
        every=every,
        holdout=work.batch // 2,
        compile=False,  # compiling takes longer than all the rest
    )
    generator = torch.Generator().manual_seed(0)
    side, channels = geometry["sample_size"], geometry["in_channels"]
    images = torch.randint(256, (4 * work.batch, channels, side, side), generator=generator)
    data = CalibrationData(
        images=images.to(team.device, torch.uint8),
        labels=torch.arange(len(images), device=team.device) % geometry["num_embeds_ada_norm"],
        alphas=PlainDDIM().alphas_cumprod.to(team.device),
    )
    started = finished = 0.0
    for record in calibrate(student, teacher, data, config, team=team):
        finished = time.perf_counter()
        if record.step == every:
            started = finished
    return finished - started


def model_of(geometry: dict[str, Any], device: torch.device, dtype: torch.dtype) -> Any:
    """Build a DiT with random weights: diffusers' where it is installed, else a plain one."""
    if has_diffusers():
        return random_dit(geometry, device=str(device), dtype=dtype)
    torch.manual_seed(0)
    with torch.device(device):
        return PlainDiT(geometry).to(dtype).eval().requires_grad_(False)


def has_diffusers() -> bool:
    """Whether diffusers is installed."""
    return importlib.util.find_spec("diffusers") is not None


def described(
    row: str, alone: dict[str, float], together: dict[str, float], args: argparse.Namespace
) -> dict[str, Any]:
    """Make the record of a row."""
    work, on_gpu = WORK[args.geometry], torch.cuda.is_available()
    return make_record(
        SUITE,
        f"{row}, {args.geometry}, {args.processes} {'GPUs' if on_gpu else 'processes'}",
        "scaling efficiency",
        alone[row] / (args.processes * together[row]),
        "x",
        rival="one GPU of the same machine" if on_gpu else "one process of the same machine",
        # what cores do that share their caches is no measure of it
        goal=GOAL if on_gpu else None,
        floor=FLOOR if on_gpu else None,
        higher_is_better=True,
        limit=1.0,
        device="cuda" if on_gpu else "cpu",
        details={
            "seconds": {"1": alone[row], str(args.processes): together[row]},
            "work": vars(work),
            "model": "diffusers" if has_diffusers() else "plain PyTorch",
            "preset": PRESET if row == "calibration" else None,
            "load": os.getloadavg()[0],
        },
    )


if __name__ == "__main__":
    main()
