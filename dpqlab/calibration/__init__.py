"""Calibration: adjust a compressed student until it does what its teacher does."""

from dpqlab.calibration.data import Batch, noisy_batch
from dpqlab.calibration.loop import (
    CalibrationConfig,
    CalibrationData,
    CalibrationRecord,
    calibrate,
)
from dpqlab.calibration.objectives import DistillationLoss, distillation

__all__ = [
    "Batch",
    "CalibrationConfig",
    "CalibrationData",
    "CalibrationRecord",
    "DistillationLoss",
    "calibrate",
    "distillation",
    "noisy_batch",
]
