"""Run rows of the ablation: compress, calibrate and evaluate, all with the same data and judge."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from dpqlab.calibration import CalibrationRecord
from dpqlab.calibration.ablation import AblationRow
from dpqlab.commands.calibrating import every_of, holdout_of, run_calibration
from dpqlab.commands.calibration_data import Data, data_of
from dpqlab.commands.compress import compress_model
from dpqlab.commands.drawing import batches
from dpqlab.commands.evaluate import dataset_drawn, sampler_of, why_no_teacher
from dpqlab.commands.loading import load
from dpqlab.commands.terminal import Terminal
from dpqlab.errors import ConfigError
from dpqlab.evaluation.bundled import bundled_feature_net, bundled_reference, quick_reference
from dpqlab.evaluation.config import EvaluationConfig
from dpqlab.evaluation.evaluator import EvaluationResult, evaluate_steps, last_of
from dpqlab.nn.surgery import ledger_of_model


@dataclass(frozen=True, kw_only=True)
class RowResult:
    """What a row came to; ``records`` is empty for a row without calibration."""

    row: AblationRow
    true_bits: float
    records: tuple[CalibrationRecord, ...]
    evaluation: EvaluationResult
    seconds: float

    @property
    def loss(self) -> float | None:
        """Held-out distance from the teacher."""
        return min((record.total for record in self.records), default=None)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "row": self.row.name,
            "base": self.row.base,
            "change": self.row.change,
            "true_bits_per_weight": self.true_bits,
            "loss": self.loss,
            "evaluation": self.evaluation.to_dict(),
            "config": None if self.row.config is None else self.row.config.to_dict(),
            "records": [record.to_dict() for record in self.records],
            "seconds": round(self.seconds, 1),
        }


class Bench:
    """What all rows share: the teacher, the data, and what judges them."""

    def __init__(
        self,
        args: argparse.Namespace,
        rows: Sequence[AblationRow],
        config: EvaluationConfig,
        device: torch.device,
        terminal: Terminal,
    ) -> None:
        self.source, self.seed, self.config = args.source, args.seed, config
        self.device, self.terminal = device, terminal
        pipeline = load(args.source, device=device)
        model = dataset_drawn(pipeline, args.source).model
        self.net = bundled_feature_net(model, device=str(device))
        self.reference = bundled_reference(model)
        self.teacher = pipeline.transformer.requires_grad_(False)
        self.data: Data | None = None
        if any(row.config is not None for row in rows):
            self.data = data_of(args, self.teacher, device, terminal)
        self.rows = [self._settled(row) for row in rows]
        own = f"not compared: {args.source} is not the recorded teacher"
        self.why_not = why_no_teacher(config, model) if args.source == model else own
        self.recorded = None if self.why_not else quick_reference(model)

    def _settled(self, row: AblationRow) -> AblationRow:
        """Return the row with a calibration that the data allow."""
        if row.config is None:
            return row
        assert self.data is not None
        if row.config.objective.ddpm and not self.data.real:
            raise ConfigError(
                f"the row {row.name!r} minimises the DDPM loss, which needs real images: give "
                "--data"
            )
        changed = replace(
            row.config,
            seed=self.seed,
            every=every_of(row.config.steps),
            holdout=holdout_of(self.data.source, row.config.holdout),
        )
        return replace(row, config=changed)

    def run(self, row: AblationRow) -> RowResult:
        """Compress, calibrate and evaluate one row.

        Raises
        ------
        KeyboardInterrupt, DPQError
            If it was stopped or failed; a part of a row is no row.
        """
        started = time.perf_counter()
        pipeline: Any = load(self.source)
        compress_model(pipeline, row.plan, self.terminal, seed=self.seed)
        ledger = ledger_of_model(pipeline.transformer)
        pipeline.transformer.to(self.device)
        records: tuple[CalibrationRecord, ...] = ()
        if row.config is not None and self.data is not None:
            course = run_calibration(
                pipeline.transformer,
                self.teacher,
                self.data.source,
                row.config,
                self.terminal,
                title=f"Calibrating {row.name}",
            )
            if course.stopped is not None:
                raise course.stopped
            records = course.records
        return RowResult(
            row=row,
            true_bits=ledger.true_bits_per_weight,
            records=records,
            evaluation=self._judged(row, pipeline),
            seconds=time.perf_counter() - started,
        )

    def _judged(self, row: AblationRow, pipeline: Any) -> EvaluationResult:
        whole, rest = divmod(self.config.images, self.config.batch)
        total = (whole * batches(self.config.batch) + batches(rest)) * self.config.steps
        with self.terminal.progress(f"Evaluating {row.name}", total) as meter:
            sampler = sampler_of(pipeline, meter, row.name)
            steps = evaluate_steps(sampler, self.net, self.reference, self.config, self.recorded)
            return last_of(steps)
