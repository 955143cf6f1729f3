"""``dpqlab sample-many``: thousands of images into one file, on as many GPUs as there are."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

import torch

from dpqlab import __version__
from dpqlab.checkpoint.journal import Journal
from dpqlab.checkpoint.shared_journal import shared_journal
from dpqlab.commands.drawing import add_device_argument
from dpqlab.commands.loading import quieten
from dpqlab.commands.many_sampler import ManySampler, vae_of
from dpqlab.commands.measure import origin_of
from dpqlab.commands.terminal import Terminal, add_json_argument, add_resume_arguments
from dpqlab.diffusion.models import load_pipeline, resolve
from dpqlab.diffusion.sampling import SampleRequest
from dpqlab.diffusion.schedules import SCHEDULERS, scheduler_for
from dpqlab.distributed import Team, team_of
from dpqlab.errors import ConfigError
from dpqlab.evaluation.adm import write_samples
from dpqlab.evaluation.many import ManyConfig, draw_shards, pending_shards, shard_images
from dpqlab.report import clock

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

EXAMPLES = """examples:
  dpqlab sample-many fashion-dit-best-1bit out/best.npz --images 10000 --steps 50
  accelerate launch --multi_gpu --num_processes 4 -m dpqlab sample-many out/xl out/xl.npz
      --vae path/to/DiT-XL-2-256/vae --scheduler ddpm --steps 250 --dtype bfloat16

Image i depends on the seed and on i alone, and is drawn together with the same others whatever the
number of processes: so is the file, byte for byte on devices of one kind. Shards lie in OUT.partial
until OUT is complete; a run that was stopped goes on with --resume, on any number of processes.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Draw images, every class in turn, and write them as the field's evaluators take them: an "
        "npz of arr_0, uint8 (N, H, W, 3), and arr_1, the labels. Under torchrun or accelerate "
        "launch every process draws its share."
    )
    parser.epilog = EXAMPLES
    parser.add_argument("model", metavar="MODEL", help="a bundled name, or a folder")
    parser.add_argument("out", metavar="OUT", type=Path, help="npz file to write")
    parser.add_argument("--images", type=int, default=50_000, metavar="N", help="images (50000)")
    parser.add_argument("--steps", type=int, default=250, metavar="N", help="sampling steps (250)")
    parser.add_argument(
        "--guidance", type=float, default=1.5, metavar="X", help="guidance scale, 1 is none (1.5)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed (0)")
    parser.add_argument("--scheduler", choices=SCHEDULERS, default="ddim", help="sampler (ddim)")
    parser.add_argument(
        "--batch", type=int, default=50, metavar="N", help="images drawn together: a shard (50)"
    )
    parser.add_argument(
        "--dtype", choices=tuple(DTYPES), default="float32", help="to compute in (float32)"
    )
    parser.add_argument(
        "--vae",
        type=Path,
        metavar="FOLDER",
        help="diffusers' AutoencoderKL, for a model of latents (the vae folder of MODEL)",
    )
    add_resume_arguments(parser)
    add_device_argument(parser)
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Draw, and write the file."""
    terminal = Terminal(as_json=args.json)
    folder = resolve(args.model)
    check(args)
    quieten()
    with team_of(args.device) as team:
        pipeline = load_pipeline(folder, dtype=DTYPES[args.dtype], device=team.device)
        pipeline.scheduler = scheduler_for(pipeline.transformer, args.scheduler)
        sampler = ManySampler(pipeline, vae_of(folder, args.vae, pipeline, team.device))
        config = ManyConfig(
            images=args.images,
            classes=pipeline.transformer.config.num_embeds_ada_norm,
            steps=args.steps,
            guidance=args.guidance,
            seed=args.seed,
            batch=args.batch,
        )
        about = asdict(config) | {"scheduler": args.scheduler, "dtype": args.dtype}
        identity = about | origin_of(args.model, folder) | {"vae": sampler.digest}
        identity |= {"device": team.device.type, "torch": str(torch.__version__)}
        identity |= {"dpqlab": __version__}
        options = {"resume": args.resume, "overwrite": args.overwrite}
        with shared_journal(args.out, identity, team, **options) as journal:
            resumed = _draw(sampler, config, journal, team, terminal)
            if team.leads:
                write_samples(args.out, shard_images(config, journal), config.labels)
                journal.remove()
    summary = about | {"out": str(args.out), "processes": team.world, "resumed_images": resumed}
    if args.json:
        terminal.emit(summary | {"model": str(args.model), "device": str(team.device)})
    else:
        terminal.say(f"{args.out}: {config.images:,} images of {config.classes} classes")
    return 0


def check(args: argparse.Namespace) -> None:
    """Refuse what can be seen to be wrong before a model is loaded."""
    if args.out.suffix != ".npz":
        raise ConfigError(f"{args.out}: expected a name that ends in .npz")
    if args.out.exists() and not args.overwrite:
        raise ConfigError(f"{args.out} exists: choose another file, or pass --overwrite")
    ManyConfig(images=args.images, steps=args.steps, batch=args.batch)
    SampleRequest(labels=(0,), seed=args.seed, steps=args.steps, guidance=args.guidance)
    args.out.parent.mkdir(parents=True, exist_ok=True)


def _draw(
    sampler: ManySampler, config: ManyConfig, journal: Journal, team: Team, terminal: Terminal
) -> int:
    """Draw what the journal lacks, each process its share; return how many images it had."""
    pending = pending_shards(config, journal, team)
    missing = sum(len(config.shards[index]) for index in pending)
    many = f" on {team.world} processes" if team.world > 1 else ""
    terminal.say(
        f"{missing:,} of {config.images:,} images to draw with {config.steps} steps on "
        f"{team.device.type}{many}; a run that is stopped goes on with --resume"
    )
    seconds = 0.0
    own = tuple(team.share(pending))
    total = sum(len(config.shards[index]) for index in own)
    with terminal.progress("Sampling", max(1, total)) as meter:
        for record in draw_shards(sampler, config, journal, own):
            meter.advance(record.count)
            seconds = record.seconds
    team.meet()
    if missing:
        terminal.say(f"drawn in {clock(seconds)}")
    return config.images - missing
