"""Calibration: adjust a compressed student until it does what its teacher does."""

from dpqlab.calibration.batch import Batch, paired
from dpqlab.calibration.config import (
    CalibrationConfig,
    EStepSchedule,
    LatentConfig,
    Objective,
    RevivalSchedule,
)
from dpqlab.calibration.data import (
    CalibrationData,
    CalibrationSource,
    TrajectoryData,
    noisy_batch,
)
from dpqlab.calibration.estep import EStepConfig, EStepRecord, assign_codes
from dpqlab.calibration.loop import CalibrationRecord, calibrate
from dpqlab.calibration.objectives import DistillationLoss, distillation
from dpqlab.calibration.presets import calibration_for
from dpqlab.calibration.rates import warmup_cosine
from dpqlab.calibration.revival import RevivalConfig
from dpqlab.calibration.trajectories import teacher_trajectories

__all__ = [
    "Batch",
    "CalibrationConfig",
    "CalibrationData",
    "CalibrationRecord",
    "CalibrationSource",
    "DistillationLoss",
    "EStepConfig",
    "EStepRecord",
    "EStepSchedule",
    "LatentConfig",
    "Objective",
    "RevivalConfig",
    "RevivalSchedule",
    "TrajectoryData",
    "assign_codes",
    "calibrate",
    "calibration_for",
    "distillation",
    "noisy_batch",
    "paired",
    "teacher_trajectories",
    "warmup_cosine",
]
