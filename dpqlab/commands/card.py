"""The model cards that the commands put beside the weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dpqlab import __version__
from dpqlab.commands.licences import licence_field
from dpqlab.core import ModelLedger

if TYPE_CHECKING:
    from dpqlab.calibration import CalibrationConfig, CalibrationRecord

HEAD = """---
library_name: diffusers
{licence}tags: [dpqlab, quantized]
---

# {name}
"""

SIZES = """| what | value |
|---|---|
| true bits per weight (everything stored for the blocks' Linears) | {bits:.3f} |
| weights in compressed layers | {weights:,} |
| all tensors | {stored:.2f} MB |
| the same model in fp32 | {fp32:.2f} MB |
"""

LEDGER = """
| stored | MB |
|---|---|
| codes | {codes:.2f} |
| codewords | {pool:.2f} |
| tables and sizes of codebooks | {table:.2f} |
| row scales | {scale:.2f} |
| biases of compressed layers | {bias:.2f} |
| kept as it was, rounded | {kept:.2f} |
"""

COMPRESSED = """
`{source}` compressed with dpqlab {version}, preset `{preset}` ({codecs}): every sub-vector of the
blocks' Linears is the code of a codeword that k-means found. Nothing was calibrated.

"""

LICENCE = """
Licence of `{source}`, from which these weights are derived: {licence}.
"""

NO_LICENCE = """
The licence of `{source}`, from which these weights are derived, is not stated here: find it out
before you pass them on. `dpqlab compress --licence` writes it down.
"""


CALIBRATED = """
`{source}` at {bits:.3f} true bits per weight: {codecs}, calibrated.

"""

CALIBRATION = """| calibration | {steps} steps of {batch}{stopped}, rate {rate:g} |
| on | {data} |
| loss | {loss} |
| codes | {moves} |
| time | {seconds:.0f} s on {device} |
| held-out error of the model's output | {before:.5f} to {after:.5f} |
| held-out error of the block outputs, relative | {features_before:.4f} to {features:.4f} |

Made by `dpqlab calibrate` of dpqlab {version}: codewords, biases and, where the codec has them, row
scales were trained.
"""

USE = """
    from dpqlab.diffusion import load_pipeline
    images = load_pipeline("path/to/this/folder")(class_labels=range(10), seed=0).images
"""

NOISE = """
Below about 2 bits an uncalibrated model draws noise. `dpqlab inspect` shows every layer.
"""


def model_card(
    name: str, ledger: ModelLedger, source: str, preset: str, *, licence: str | None = None
) -> str:
    """Write the README.md of a compressed folder (Markdown with a YAML head).

    Parameters
    ----------
    name, source
        Of the folder, and of what it was made from.
    ledger
        What it stores.
    preset
        Name of the plan.
    licence
        Of the source; None claims none, and says so.
    """
    codecs = ", ".join(sorted({layer.codec for layer in ledger.layers}))
    about = COMPRESSED.format(source=source, preset=preset, version=__version__, codecs=codecs)
    rights = NO_LICENCE if licence is None else LICENCE
    head = HEAD.format(name=name, licence=licence_field(licence))
    tables = _sizes(ledger) + _parts(ledger)
    return head + about + tables + rights.format(source=source, licence=licence) + USE + NOISE


def calibrated_card(
    name: str,
    ledger: ModelLedger,
    source: str,
    config: CalibrationConfig,
    records: Sequence[CalibrationRecord],
    *,
    data: str,
    device: str,
) -> str:
    """Write the README.md of a calibrated folder.

    Parameters
    ----------
    name, source
        Of the folder, and of the teacher.
    ledger
        What it stores.
    config, records
        The calibration, as far as it went.
    data, device
        In words.
    """
    best, last = min(records, key=lambda record: record.total), records[-1]
    about = CALIBRATED.format(
        source=source,
        bits=ledger.true_bits_per_weight,
        codecs=", ".join(sorted({layer.codec for layer in ledger.layers})),
    )
    course = CALIBRATION.format(
        steps=config.steps,
        batch=config.batch,
        stopped=f", stopped after {last.step}" if last.step < config.steps else "",
        rate=config.learning_rate,
        data=data,
        loss=loss_of(config),
        moves=moves_of(config),
        seconds=last.seconds,
        device=device,
        before=records[0].output,
        after=best.output,
        features_before=records[0].features,
        features=best.features,
        version=__version__,
    )
    return HEAD.format(name=name, licence="") + about + _sizes(ledger) + course + USE


def loss_of(config: CalibrationConfig) -> str:
    """Say in words what a calibration minimises."""
    objective = config.objective
    parts = {
        "distillation of the model's output": objective.output,
        "of the block features": objective.features,
        "the DDPM loss": objective.ddpm,
    }
    said = ", ".join(f"{weight:g} x {name}" for name, weight in parts.items() if weight)
    return said + (f", guidance {objective.guidance:g}" if objective.guidance is not None else "")


def moves_of(config: CalibrationConfig) -> str:
    """Say in words how the codes are chosen."""
    if config.latent is not None:
        return f"moved with latents, rate {config.latent.learning_rate:g}"
    if config.e_step is not None:
        return f"chosen again every {config.e_step.every} steps by output reconstruction"
    return "those of k-means"


def _sizes(ledger: ModelLedger) -> str:
    return SIZES.format(
        bits=ledger.true_bits_per_weight,
        weights=ledger.compressed_weights,
        stored=ledger.stored_bytes / 1e6,
        fp32=ledger.fp32_bytes / 1e6,
    )


def _parts(ledger: ModelLedger) -> str:
    names = ("codes", "pool", "table", "scale", "bias")
    sums = {name: sum(getattr(layer, name) for layer in ledger.layers) for name in names}
    sums["kept"] = sum(tensor.bits for tensor in ledger.kept)
    return LEDGER.format(**{name: bits / 8e6 for name, bits in sums.items()})
