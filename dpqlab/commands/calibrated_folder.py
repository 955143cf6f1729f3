"""Write a calibrated model, with where it came from and what was done to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dpqlab import __version__
from dpqlab.calibration import CalibrationConfig
from dpqlab.checkpoint import save_compressed
from dpqlab.commands.calibrating import Course
from dpqlab.commands.calibration_data import Data
from dpqlab.commands.card import calibrated_card, loss_of, moves_of
from dpqlab.commands.compress import ERRORS, error_note
from dpqlab.commands.students import Pair
from dpqlab.core import relative_error
from dpqlab.diffusion.models import weight_bytes
from dpqlab.nn.linear import PackedLinear
from dpqlab.nn.surgery import ledger_of_model

STOPPED = "calibration_stopped_at"
"""Provenance entry of a folder whose calibration was stopped: the last step."""
STALE = (ERRORS, "commit", "dpqlab")
"""Provenance entries of the folder before that are no longer true."""


def write(
    out: Path, pair: Pair, data: Data, config: CalibrationConfig, course: Course
) -> dict[str, Any]:
    """Save the student as it is, with its card, and return what was written as JSON values."""
    student, last = pair.student.cpu(), course.records[-1]
    ledger = ledger_of_model(student)
    device = _device_name(next(pair.teacher.parameters()).device)
    card = calibrated_card(
        out.name,
        ledger,
        str(pair.provenance["source"]),
        config,
        course.records,
        data=data.about,
        device=device,
    )
    kept = {
        name: value
        for name, value in pair.provenance.items()
        if name not in STALE and not name.startswith("calibration_")
    }
    notes = {
        "tool": f"dpqlab {__version__}",
        "torch": str(torch.__version__),
        "calibrated": 1,
        "true_bits_per_weight": ledger.true_bits_per_weight,
        "calibration_steps": config.steps,
        "calibration_batch": config.batch,
        "calibration_images": len(data.source),
        "calibration_data": data.about,
        "calibration_rate": config.learning_rate,
        "calibration_loss": loss_of(config),
        "calibration_codes": moves_of(config),
        "calibration_seed": config.seed,
        "calibration_device": device,
        "calibration_seconds": round(last.seconds, 1),
        "calibration_best_step": course.best.step,
    }
    if course.stopped is not None:
        notes[STOPPED] = last.step
    save_compressed(
        student,
        out,
        scheduler_config=json.loads(pair.pipeline.scheduler.to_json_string()),
        provenance=kept | notes | error_note(_errors(student, pair.teacher.cpu())),
        card=card,
        overwrite=out.exists(),
    )
    return {
        "path": str(out),
        "true_bits_per_weight": ledger.true_bits_per_weight,
        "bytes_on_disk": weight_bytes(out),
        "loss_before": course.records[0].total,
        "loss": course.best.total,
        "seconds": round(last.seconds, 2),
    }


def _errors(student: nn.Module, teacher: nn.Module) -> dict[str, float]:
    packed = {n: m for n, m in student.named_modules() if isinstance(m, PackedLinear)}
    return {
        name: relative_error(teacher.get_parameter(f"{name}.weight"), module.decode())
        for name, module in packed.items()
    }


def _device_name(device: torch.device) -> str:
    return "a CPU" if device.type == "cpu" else torch.cuda.get_device_name(device)
