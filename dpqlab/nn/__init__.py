"""Layers with packed weights, and the surgery that puts them into a model."""

from dpqlab.nn.embedder import tie_embedders_, untie_embedders_
from dpqlab.nn.linear import CompressedLinear, PackedLinear, ScalarLinear, hold_decoded
from dpqlab.nn.plan import Coding, Plan, Rule, kind_of
from dpqlab.nn.presets import preset, presets
from dpqlab.nn.surgery import (
    Compression,
    LayerRecord,
    Skipped,
    compress_,
    compress_steps,
    ledger_of_model,
)
from dpqlab.nn.taps import block_outputs

__all__ = [
    "Coding",
    "CompressedLinear",
    "Compression",
    "LayerRecord",
    "PackedLinear",
    "Plan",
    "Rule",
    "ScalarLinear",
    "Skipped",
    "block_outputs",
    "compress_",
    "compress_steps",
    "hold_decoded",
    "kind_of",
    "ledger_of_model",
    "preset",
    "presets",
    "tie_embedders_",
    "untie_embedders_",
]
