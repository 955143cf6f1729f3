"""Calibration: adjust a compressed student until it does what its teacher does."""

from dpqlab.calibration.config import CalibrationConfig
from dpqlab.calibration.data import Batch, CalibrationData, noisy_batch
from dpqlab.calibration.loop import CalibrationRecord, calibrate
from dpqlab.calibration.objectives import DistillationLoss, distillation
from dpqlab.calibration.rates import warmup_cosine

__all__ = [
    "Batch",
    "CalibrationConfig",
    "CalibrationData",
    "CalibrationRecord",
    "DistillationLoss",
    "calibrate",
    "distillation",
    "noisy_batch",
    "warmup_cosine",
]
