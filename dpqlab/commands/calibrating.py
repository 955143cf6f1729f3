"""A calibration as the commands run it: settings from options, a meter, and a clean stop."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dpqlab.calibration import (
    CalibrationConfig,
    CalibrationRecord,
    CalibrationSource,
    Objective,
    calibrate,
    calibration_for,
)
from dpqlab.checkpoint.whole import write_whole
from dpqlab.commands.calibration_data import Data
from dpqlab.commands.terminal import Terminal
from dpqlab.core.memory import is_out_of_memory
from dpqlab.distributed import Team
from dpqlab.errors import BackendError, ConfigError, DPQError

OBJECTIVES = {
    "distil": Objective(),
    "ddpm": Objective(output=0.0, features=0.0, ddpm=1.0),
    "mix": Objective(ddpm=1.0),
}
NOT_GUIDED = (
    "--guidance compares the student with the teacher, which the DDPM loss does not: use "
    "--objective distil or mix"
)
CODES = {"fixed": "pq", "e-step": "dpq", "latent": "best"}
"""The family of presets whose calibration moves the codes so."""


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """What is affordable on a device."""

    steps: int
    batch: int
    holdout: int


ON_CPU = Defaults(steps=200, batch=32, holdout=256)
ON_GPU = Defaults(steps=2500, batch=256, holdout=1024)


@dataclass(frozen=True, kw_only=True)
class Course:
    """How a calibration went: its records from the start, and what stopped it before the end.

    ``resumed`` is the step that it went on from, 0 for a run that began here.
    """

    records: tuple[CalibrationRecord, ...]
    resumed: int
    stopped: KeyboardInterrupt | DPQError | None = None

    @property
    def best(self) -> CalibrationRecord:
        """The state that the student is in."""
        return min(self.records, key=lambda record: record.total)


def defaults_of(device: torch.device) -> Defaults:
    """Return what a device can do in minutes."""
    return ON_CPU if device.type == "cpu" else ON_GPU


def check_options(args: argparse.Namespace) -> None:
    """Refuse numbers that cannot work, before a model is loaded.

    Raises
    ------
    ConfigError
        Saying which, and what is expected.
    """
    names = {
        "steps": args.steps,
        "batch": args.batch,
        "learning_rate": args.rate,
        "every": args.every,
    }
    given: dict[str, Any] = {name: value for name, value in names.items() if value is not None}
    if args.guidance is not None and args.objective == "ddpm":
        raise ConfigError(NOT_GUIDED)
    CalibrationConfig(**given, seed=args.seed, objective=Objective(guidance=args.guidance))


def config_of(
    args: argparse.Namespace, preset: str, device: torch.device, data: Data, terminal: Terminal
) -> CalibrationConfig:
    """Return the calibration of a preset, changed by the options of ``dpqlab calibrate``.

    Raises
    ------
    ConfigError
        If the options are not possible, or do not go together.
    """
    usual = defaults_of(device)
    steps = usual.steps if args.steps is None else args.steps
    own = calibration_for(preset, steps=steps)
    base = own if args.codes is None else calibration_for(CODES[args.codes], steps=steps)
    objective = own.objective if args.objective is None else OBJECTIVES[args.objective]
    if objective.ddpm and not data.real:
        if args.objective is not None:
            raise ConfigError(
                f"--objective {args.objective} needs real images, whose noise is known: give "
                "--data, or use --objective distil"
            )
        terminal.say(f"The DDPM loss of {preset} needs real images: distilling instead.")
        objective = OBJECTIVES["distil"]
    if args.guidance is not None:
        if not objective.output:
            raise ConfigError(NOT_GUIDED)
        objective = replace(objective, guidance=args.guidance)
    return replace(
        base,
        objective=objective,
        batch=usual.batch if args.batch is None else args.batch,
        learning_rate=base.learning_rate if args.rate is None else args.rate,
        every=every_of(steps) if args.every is None else args.every,
        holdout=holdout_of(data.source, usual.holdout),
        warmup=warmup_of(base, steps),
        seed=args.seed,
    )


def every_of(steps: int) -> int:
    """Return the steps between judgements of a run: ten of them, more in a long one."""
    return max(1, min(250, steps // 10))


def holdout_of(source: CalibrationSource, usual: int) -> int:
    """Return how many images to judge on: at most a fifth of what there is."""
    return max(1, min(usual, len(source) // 5))


def warmup_of(config: CalibrationConfig, steps: int) -> int:
    """Return the steps of the warm-up: at most a tenth of the run."""
    return min(config.warmup, max(1, steps // 10))


def run_calibration(
    student: nn.Module,
    teacher: nn.Module,
    data: CalibrationSource,
    config: CalibrationConfig,
    terminal: Terminal,
    *,
    progress: Path | None = None,
    title: str = "Calibrating",
    team: Team | None = None,
) -> Course:
    """Calibrate with a meter running; a stop or a failure on the way is part of the result.

    Parameters
    ----------
    student, teacher, data, config, progress, team
        As in :func:`dpqlab.calibration.calibrate`. Beside ``progress`` lie the records so far.
    terminal, title
        Show how far it is.

    Raises
    ------
    KeyboardInterrupt, DPQError
        If nothing has been calibrated yet: the student is as it was.
    """
    leads = team is None or team.leads
    history = history_of(progress) if progress is not None and leads else None
    records: list[CalibrationRecord] = []
    run = calibrate(student, teacher, data, config, progress=progress, team=team)
    with closing(run) as steps:
        first = next(steps)
        if history is not None:
            records = read_history(history, first.step)
        _note(records, first, history)
        stopped = None
        try:
            with terminal.progress(title, max(1, config.steps - first.step)) as meter:
                before = first.step
                for record in steps:
                    _note(records, record, history)
                    best = min(known.total for known in records)
                    meter.advance(record.step - before, progress_note(record, best))
                    before = record.step
        except (KeyboardInterrupt, DPQError, MemoryError, RuntimeError) as error:
            reason = _reason(error, config)
            if records[-1].step == 0:
                raise reason from None
            stopped = reason
    return Course(records=tuple(records), resumed=first.step, stopped=stopped)


def _reason(error: BaseException, config: CalibrationConfig) -> KeyboardInterrupt | DPQError:
    """Return why a calibration stopped; a bug is raised as it is."""
    if isinstance(error, KeyboardInterrupt | DPQError):
        return error
    if not is_out_of_memory(error):
        raise error
    return BackendError(
        f"memory ran out in a step of {config.batch} images: free some and go on with --resume, or "
        "begin again with --overwrite and a smaller --batch"
    )


def progress_note(record: CalibrationRecord, best: float) -> str:
    """Say what a meter says beside its bar."""
    return f"loss {record.total:.5f}, best {best:.5f}, {record.changed:.1%} of the codes changed"


def history_of(progress: Path) -> Path:
    """Return where the records of a run lie, beside its state."""
    return progress.with_name(f"{progress.name}.jsonl")


def forget(progress: Path) -> None:
    """Delete an unfinished run."""
    progress.unlink(missing_ok=True)
    history_of(progress).unlink(missing_ok=True)


def read_history(path: Path, step: int) -> list[CalibrationRecord]:
    """Read the records of a run before ``step``; for show only, so that a damaged one is empty."""
    try:
        lines = path.read_text("utf-8").splitlines() if step else []
        found = [CalibrationRecord.from_dict(json.loads(line)) for line in lines]
    except (OSError, ValueError, TypeError, KeyError):
        return []
    by_step = {record.step: record for record in found if record.step < step}
    return [by_step[key] for key in sorted(by_step)]


def _note(records: list[CalibrationRecord], record: CalibrationRecord, path: Path | None) -> None:
    """Append a record, and rewrite the history on disk, which is a few lines."""
    records.append(record)
    if path is not None:
        _write_lines(path, [known.to_dict() for known in records])


def _write_lines(path: Path, values: Sequence[Any]) -> None:
    write_whole(path, "".join(json.dumps(value) + "\n" for value in values).encode())
