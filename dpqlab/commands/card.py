"""The model card that ``dpqlab compress`` puts beside the weights."""

from __future__ import annotations

from dpqlab.core import ModelLedger

CARD = """---
library_name: diffusers
tags: [dpqlab, quantized]
---

# {name}

`{source}` compressed with dpqlab's preset `{preset}`, without calibration.

| what | value |
|---|---|
| true bits per weight (everything stored for the blocks' Linears) | {bits:.3f} |
| weights in compressed layers | {weights:,} |
| all tensors | {stored:.2f} MB |
| the same model in fp32 | {fp32:.2f} MB |

    from dpqlab.diffusion import load_pipeline
    images = load_pipeline("path/to/this/folder")(class_labels=range(10), seed=0).images

Below about 2 bits an uncalibrated model draws noise. `dpqlab inspect` shows every layer.
"""


def model_card(name: str, ledger: ModelLedger, source: str, preset: str) -> str:
    """Write the README.md of a compressed folder (Markdown with a YAML head)."""
    return CARD.format(
        name=name,
        source=source,
        preset=preset,
        bits=ledger.true_bits_per_weight,
        weights=ledger.compressed_weights,
        stored=ledger.stored_bytes / 1e6,
        fp32=ledger.fp32_bytes / 1e6,
    )
