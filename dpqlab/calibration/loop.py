"""Calibration: train a student's codebooks, and choose its codes, to do what its teacher does.

The EM calibration of arXiv 2411.12306 and what goes beyond it: the M-step trains codewords, row
scales and biases by gradient; codes stay, are chosen again by output reconstruction (the paper's
E-step), or move with latents as they train. The loop is a generator: whoever draws the records may
show them, sample from the student, or stop.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dpqlab.calibration.batch import Batch, paired
from dpqlab.calibration.config import CalibrationConfig, EStepSchedule, RevivalSchedule
from dpqlab.calibration.data import CalibrationSource
from dpqlab.calibration.distiller import Distiller
from dpqlab.calibration.masters import Snapshot, compressed_layers
from dpqlab.calibration.moves import reassign_, revive_
from dpqlab.calibration.objectives import DistillationLoss
from dpqlab.calibration.progress import Progress, fingerprint, load_progress, save_progress
from dpqlab.calibration.rates import warmup_cosine
from dpqlab.distributed import Team
from dpqlab.errors import ConfigError
from dpqlab.nn.accounting import ledger_of_model


@dataclass(frozen=True, kw_only=True)
class CalibrationRecord:
    """State after ``step`` steps.

    Attributes
    ----------
    total, output, features, blocks
        Held-out distance from the teacher, as the student would be stored (see
        :class:`~dpqlab.calibration.objectives.DistillationLoss`); ``blocks`` is the relative error
        of each block's output.
    changed
        Share of the codes that differ from those of the record before.
    revived
        Codewords that started again since the record before.
    best
        Whether ``total`` is the lowest so far.
    true_bits
        Bits per weight of the student, everything included.
    seconds, remaining
        Passed since the start (earlier parts of a resumed run included), and to come.
    """

    step: int
    total: float
    output: float
    features: float
    blocks: tuple[float, ...]
    changed: float
    revived: int
    best: bool
    true_bits: float
    seconds: float
    remaining: float

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON values."""
        return asdict(self) | {"blocks": list(self.blocks)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CalibrationRecord:
        """Build the record from what :meth:`to_dict` returned."""
        fields = dict(values)
        fields["blocks"] = tuple(fields["blocks"])
        return cls(**fields)


def calibrate(
    student: nn.Module,
    teacher: nn.Module,
    data: CalibrationSource,
    config: CalibrationConfig,
    *,
    progress: Path | None = None,
    team: Team | None = None,
) -> Generator[CalibrationRecord, None, None]:
    """Calibrate ``student`` in place, yielding a record each ``config.every`` steps.

    The state that did best on the held-out batch so far is in the student whenever a record is
    yielded, and however the loop ends; the rounding to stored precision is included in what is
    judged.

    Parameters
    ----------
    student
        A model with :class:`CompressedLinear` layers, on the device of ``data``. It is put into
        evaluation mode.
    teacher
        The full-precision model, same device; likewise.
    data
        Where noisy images come from; the last ``config.holdout`` items serve for judging alone.
    progress
        A file that the run is saved to before each record is yielded. If it is there already, the
        run goes on from it: on a CPU as if it had never stopped. ``student`` must then be as it was
        when the run began (compressed, not calibrated).
    team
        The processes that calibrate the same student together: all call this function with the
        same arguments, and each works on its part of every batch. Records and students are the
        same; the leader alone writes ``progress``. A run may go on with a team of another size.

    Yields
    ------
    CalibrationRecord
        First the state before calibration (step 0), or the last of the run that is resumed.

    Raises
    ------
    ConfigError
        If the student has no compressed layers, too few images are given, a batch does not divide
        among the team, or the training diverges; the student then is in the best state so far.
    CheckpointError
        If ``progress`` belongs to another run, or cannot be read or written.
    """
    training, judged = data.split(config.holdout)
    # in training mode every block would drop labels on its own
    student.eval()
    teacher.eval()
    with _cached_codes(student):
        team = Team(device=training.alphas.device) if team is None else team
        run = _Run(student, teacher, training, judged, config, team)
        best = Snapshot.of(student)
        try:
            # asked of one, before it writes: the others might find what it has just begun
            if progress is not None and team.agreed(progress.exists()):
                saved = load_progress(progress, run.name)
                record, best = run.resumed(saved), saved.best
            else:
                record = run.record()
            while True:
                if progress is not None and team.leads:
                    save_progress(progress, run.progress(best, record))
                best.restore_(student)
                yield record
                if record.step == config.steps:
                    return
                run.distiller.show_codes_()
                run.advance(min(config.every, config.steps - record.step))
                record = run.record()
                if record.best:
                    run.distiller.store_()
                    best = Snapshot.of(student)
        finally:
            best.restore_(student)


def _check_shares(config: CalibrationConfig, team: Team) -> None:
    """Refuse a batch of which some would get less than others: their means would not be its own."""
    drawn = config.batch if config.objective.guidance is None else config.batch // 2
    if drawn % team.world:
        raise ConfigError(
            f"a batch of {drawn} images does not divide among {team.world} processes: expected a "
            "multiple of their number"
        )


@contextmanager
def _cached_codes(student: nn.Module) -> Iterator[None]:
    """Keep codes unpacked inside, and leave nothing of a calibration behind."""
    layers = compressed_layers(student).values()
    try:
        for layer in layers:
            layer.cache_codes_()
        yield
    finally:
        for layer in layers:
            layer.drop_codes_()


class _Run:
    """A calibration under way."""

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        training: CalibrationSource,
        judged: CalibrationSource,
        config: CalibrationConfig,
        team: Team,
    ) -> None:
        _check_shares(config, team)
        self.team = team
        self.student, self.teacher, self.training, self.config = student, teacher, training, config
        dit: Any = teacher
        self.null_class: int = dit.config.num_embeds_ada_norm
        self.generator = torch.Generator(training.alphas.device).manual_seed(config.seed)
        self.held_out = self._draw(judged, config.holdout)
        self.distiller = Distiller(student, teacher, config, self._batch(), training.alphas, team)
        self.distiller.follow_leader_()
        self.true_bits = ledger_of_model(student).true_bits_per_weight
        self.name = fingerprint(student, config, self.held_out, len(training))
        self.lowest, self.revived = math.inf, 0
        self.before = self._codes()
        self.started = time.perf_counter()

    def _draw(self, source: CalibrationSource, size: int) -> Batch:
        return source.draw(
            size,
            null_class=self.null_class,
            label_drop=self.config.label_drop,
            generator=self.generator,
        )

    def _batch(self) -> Batch:
        # everyone draws all of it, and so stays where the others are
        if self.config.objective.guidance is None:
            return self._draw(self.training, self.config.batch).share(self.team)
        drawn = self._draw(self.training, self.config.batch // 2).share(self.team)
        return paired(drawn, self.null_class)

    def _codes(self) -> list[Tensor]:
        return [search.codes.clone() for search in self.distiller.searches.values()]

    @property
    def step(self) -> int:
        """Steps taken."""
        return self.distiller.taken

    @property
    def seconds(self) -> float:
        """Seconds since the run began."""
        return time.perf_counter() - self.started

    def advance(self, steps: int) -> None:
        """Take some steps, with the moves of codes and codewords that are due between them."""
        config = self.config
        for _ in range(steps):
            self._move()
            done = self.step / config.steps
            share = warmup_cosine(1.0, self.step, warmup=config.warmup, done=done)
            self.distiller.step(self._batch(), share)

    def _move(self) -> None:
        """Revive codewords, and choose codes anew, where that is due before the next step."""
        e_step, revival = self.config.e_step, self.config.revival
        # revived first: sub-vectors find them by their weights, which calibrated codewords no
        # longer approximate; the E-step chooses by what layers put out, and mends that
        if revival is not None and self.step and self._due(revival):
            self.revived += revive_(self.distiller, revival.settings, self.generator)
            self.distiller.follow_leader_()
        if e_step is not None and self._due(e_step):
            size = self.config.batch
            drawn = [self._draw(self.training, size) for _ in range(e_step.batches)]
            batches = [batch.share(self.team) for batch in drawn]
            reassign_(self.distiller, batches, e_step.settings)
            self.distiller.follow_leader_()

    def _due(self, schedule: EStepSchedule | RevivalSchedule) -> bool:
        done = self.step / self.config.steps
        return self.step % schedule.every == 0 and done <= schedule.until

    def record(self) -> CalibrationRecord:
        """Judge the present state."""
        self.distiller.follow_leader_()
        losses: DistillationLoss = self.distiller.judge(self.held_out)
        self.team.follow_([losses.total, losses.output, losses.features, losses.blocks])
        total = losses.total.item()
        if not math.isfinite(total):
            raise ConfigError(
                f"calibration diverged at step {self.step}: the student keeps the best state so "
                f"far; try a learning rate below {self.config.learning_rate}"
            )
        best = total < self.lowest
        self.lowest = min(self.lowest, total)
        codes, revived = self._codes(), self.revived
        changed = sum(int((a != b).sum()) for a, b in zip(codes, self.before, strict=True))
        self.before, self.revived = codes, 0
        seconds = self.seconds if self.step else 0.0
        return CalibrationRecord(
            step=self.step,
            total=total,
            output=losses.output.item(),
            features=losses.features.item(),
            blocks=tuple(losses.blocks.tolist()),
            changed=changed / sum(part.numel() for part in codes),
            revived=revived,
            best=best,
            true_bits=self.true_bits,
            seconds=seconds,
            remaining=seconds / max(self.step, 1) * (self.config.steps - self.step),
        )

    def progress(self, best: Snapshot, record: CalibrationRecord) -> Progress:
        """Return the run as it is to be saved."""
        return Progress(
            run=self.name,
            tensors=self.distiller.state() | {"generator": self.generator.get_state()},
            best=best,
            figures={"lowest": self.lowest, "record": record.to_dict()},
        )

    def resumed(self, saved: Progress) -> CalibrationRecord:
        """Go on from a saved run, and return its last record."""
        tensors = dict(saved.tensors)
        self.generator.set_state(tensors.pop("generator"))
        self.distiller.load_state_(tensors)
        record = CalibrationRecord.from_dict(saved.figures["record"])
        self.lowest = saved.figures["lowest"]
        self.before = self._codes()
        self.started = time.perf_counter() - record.seconds
        return record
