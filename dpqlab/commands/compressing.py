"""From a full-precision folder to compressed layers, streamed and resumable."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from dpqlab import __version__
from dpqlab.checkpoint import is_compressed
from dpqlab.checkpoint.dense import DenseFolder, open_dense
from dpqlab.checkpoint.heap import return_large_blocks
from dpqlab.checkpoint.journal import Journal, open_journal
from dpqlab.checkpoint.streaming import StreamSettings, stream_steps
from dpqlab.commands.inputs import journaled_inputs
from dpqlab.commands.loading import quieten
from dpqlab.commands.overrides import measures_inputs
from dpqlab.commands.terminal import Terminal
from dpqlab.core import PoolConfig
from dpqlab.diffusion.models import load_scheduler, resolve
from dpqlab.diffusion.schedules import TRAINING_NOISE
from dpqlab.errors import ConfigError
from dpqlab.nn.plan import Plan
from dpqlab.nn.surgery import LayerRecord, Skipped
from dpqlab.nn.targets import skipped_layers, targets_of


@dataclass(frozen=True, kw_only=True)
class CompressJob:
    """What is compressed, how, and where to.

    Attributes
    ----------
    source, folder
        As the user named it, and where it is.
    out
        The folder that is written; its journal lies beside it.
    origin
        Name and hash of the source.
    resume, overwrite
        What to do with a journal that is there.
    also
        What else the result depends on, as JSON values.
    """

    source: str
    folder: Path
    out: Path
    plan: Plan
    origin: dict[str, Any]
    seed: int
    device: torch.device
    resume: bool
    overwrite: bool
    also: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def identity(self) -> dict[str, Any]:
        """What the result depends on, byte for byte, as JSON values."""
        return {
            "source": self.origin["source_sha256"],
            "plan": plan_values(self.plan),
            "seed": self.seed,
            "device": self.device.type,
            "dpqlab": __version__,
            "torch": str(torch.__version__),
            **self.also,
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class Streamed:
    """A compressed model, mapped from the journal, in the place of a pipeline's transformer.

    ``resumed`` counts the layers that the journal had already; more can be kept there.
    """

    pipeline: Any
    records: list[LayerRecord]
    skipped: tuple[Skipped, ...]
    resumed: int
    journal: Journal


@contextmanager
def streamed(job: CompressJob, terminal: Terminal) -> Generator[Streamed]:
    """Compress layer by layer with a meter; the journal goes when the block ends well.

    Raises
    ------
    ConfigError
        If there is a journal that must not be continued, or the plan cannot work.
    CheckpointError
        If the source is damaged, or the journal cannot be written.
    """
    return_large_blocks()
    quieten()
    job.out.parent.mkdir(parents=True, exist_ok=True)
    dense = open_dense(job.folder)
    pipeline = (job.folder / "model_index.json").is_file()
    scheduler = load_scheduler(job.folder) if pipeline else dit_scheduler()
    with open_journal(job.out, job.identity, resume=job.resume, overwrite=job.overwrite) as journal:
        model = dense.skeleton()
        skipped = skipped_layers(model, job.plan)
        try:
            records, resumed = _compress(job, dense, model, journal, terminal)
        except KeyboardInterrupt:
            terminal.err.print(f"what is done is in {journal.folder}: go on with --resume")
            raise
        yield Streamed(
            pipeline=SimpleNamespace(transformer=model, scheduler=scheduler),
            records=records,
            skipped=skipped,
            resumed=resumed,
            journal=journal,
        )
        journal.remove()


def source_folder(name: str) -> Path:
    """Return the folder of a bundled name, of a pipeline, or of a transformer alone.

    Raises
    ------
    ConfigError
        If it is none of them, or compressed already.
    """
    alone = Path(name)
    bare = (alone / "config.json").is_file() and not (alone / "model_index.json").is_file()
    folder = alone if bare else resolve(name)
    if is_compressed(folder) or (bare and is_compressed(alone.absolute().parent)):
        raise ConfigError(f"{name} is compressed already: expected a full-precision model")
    return folder


def dit_scheduler() -> Any:
    """Build the schedule of a DiT that comes without one: that of its paper, nothing clipped."""
    from diffusers import DDIMScheduler

    # latents are not bounded as pixels are
    return DDIMScheduler(**TRAINING_NOISE, clip_sample=False)


def plan_values(plan: Plan) -> dict[str, Any]:
    """Return everything about a plan that its result depends on, as JSON values."""
    rules = [
        {
            "pattern": rule.pattern,
            "codec": None if rule.codec is None else rule.codec.to_dict(),
            "pool": rule.pool.to_dict() if isinstance(rule.pool, PoolConfig) else None,
            "type": rule.layer_type.__name__,
        }
        for rule in plan.rules
    ]
    fields = ("name", "rest_dtype", "bias_dtype", "weighted")
    return {"rules": rules} | {name: getattr(plan, name) for name in fields}


def _compress(
    job: CompressJob, dense: DenseFolder, model: nn.Module, journal: Journal, terminal: Terminal
) -> tuple[list[LayerRecord], int]:
    moments = moments_of(job, dense, model, journal, terminal)
    settings = StreamSettings(seed=job.seed, moments=moments, device=job.device)
    records: list[LayerRecord] = []
    stream = stream_steps(model, dense, job.plan, journal, settings)
    if stream.resumed:
        terminal.say(f"{stream.resumed} of {stream.total} layers were in {journal.folder}")
    left = stream.weights_left
    with terminal.progress(f"Compressing with {job.plan.name}", 1) as meter:
        for record in stream.steps:
            records.append(record)
            if record.index >= stream.resumed:
                meter.advance(record.ledger.weights / left, record.name)
    return records, stream.resumed


def moments_of(
    job: CompressJob, dense: DenseFolder, model: nn.Module, journal: Journal, terminal: Terminal
) -> dict[str, Tensor] | None:
    """Measure what flows into the layers, if the plan asks.

    It needs all weights, one at a time. The journal keeps it, so that a run that goes on need not
    draw the images again.
    """
    if not measures_inputs(job.plan):
        return None
    names = [target.name for target in targets_of(model, job.plan)]
    return journaled_inputs(dense, names, journal, terminal, seed=job.seed, device=job.device)
