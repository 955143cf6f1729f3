"""How fast it is: workloads, timing by ratio, and what the device could do at best."""

from __future__ import annotations

from dpqlab.speed.rows import Result, SpeedRow
from dpqlab.speed.timing import Ceilings, Timing, captured, measure_ceilings, time_together
from dpqlab.speed.workloads import (
    DIT_XL_2,
    MODULATION,
    LayerKind,
    codec_of,
    coded_layers,
    layer_kinds,
    pool_bytes,
    stored_bytes,
)

__all__ = [
    "DIT_XL_2",
    "MODULATION",
    "Ceilings",
    "LayerKind",
    "Result",
    "SpeedRow",
    "Timing",
    "captured",
    "codec_of",
    "coded_layers",
    "layer_kinds",
    "measure_ceilings",
    "pool_bytes",
    "stored_bytes",
    "time_together",
]
