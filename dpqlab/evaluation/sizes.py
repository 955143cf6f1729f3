"""Sizes of a compressed model, in the words that every table uses."""

from __future__ import annotations

from dpqlab.core.ledger import ModelLedger
from dpqlab.errors import ConfigError


def size_figures(ledger: ModelLedger, bytes_on_disk: int) -> dict[str, float]:
    """Return ``true_bits``, ``bytes_on_disk``, ``ratio_fp32`` and ``ratio_bf16`` of a model.

    Parameters
    ----------
    ledger
        What the model stores.
    bytes_on_disk
        Bytes of its weight files, headers included.

    Returns
    -------
    dict
        ``true_bits`` is bits per weight of the blocks' Linears. The ratios divide the bytes of
        *all* parameters, in float32 and in bfloat16, by the bytes on disk.
    """
    if bytes_on_disk < 1:
        raise ConfigError(
            f"bytes_on_disk is {bytes_on_disk}; expected the size of the weight files."
        )
    return {
        "true_bits": ledger.true_bits_per_weight,
        "bytes_on_disk": bytes_on_disk,
        "ratio_fp32": ledger.fp32_bytes / bytes_on_disk,
        "ratio_bf16": ledger.bf16_bytes / bytes_on_disk,
    }


def ledger_parts(ledger: ModelLedger) -> dict[str, int]:
    """Sum a model's ledger to bits by part: codes, pool (with tables), scale, bias, kept."""
    return {
        "codes": sum(layer.codes for layer in ledger.layers),
        "pool": sum(layer.pool + layer.table for layer in ledger.layers),
        "scale": sum(layer.scale for layer in ledger.layers),
        "bias": sum(layer.bias for layer in ledger.layers),
        "kept": sum(tensor.bits for tensor in ledger.kept),
    }
