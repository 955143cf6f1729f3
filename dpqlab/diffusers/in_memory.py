"""Compress a diffusers model that is in memory, so that diffusers treats it as one it loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dpqlab.diffusers.coverage import compress_fitted_
from dpqlab.diffusers.quantizer import DPQQuantizer
from dpqlab.nn.plan import Plan
from dpqlab.nn.presets import preset as preset_of
from dpqlab.nn.surgery import Compression
from dpqlab.nn.targets import Moments


def compress_model_(
    model: Any, plan: str | Plan, *, seed: int = 0, moments: Moments | None = None
) -> Compression:
    """Compress a diffusers model in place, so that its ``save_pretrained`` writes it.

    Parameters
    ----------
    model
        A model of diffusers in memory: a transformer, or a U-Net.
    plan
        A preset's name, or a plan made for the blocks of a DiT: :func:`plan_for` fits it.
    seed
        Of the k-means starts.
    moments
        As in :func:`dpqlab.nn.surgery.compress_`.

    Returns
    -------
    Compression
        Its records and ledger; ``model.hf_quantizer.kept`` lists what was not compressed, and why.

    Raises
    ------
    ConfigError
        If there is no such preset, or if plan and model do not fit.
    """
    wanted = preset_of(plan) if isinstance(plan, str) else plan
    made, kept = compress_fitted_(model, wanted, seed, moments)
    attach_(model, {"preset": wanted.name, "seed": seed})
    model.hf_quantizer.kept = kept
    return made


def attach_(model: Any, provenance: Mapping[str, str | int | float] | None = None) -> None:
    """Tell diffusers that a model in memory is compressed: ``save_pretrained`` and the rest work.

    Call it again when pools or layers have changed in shape (pruned, say): the config is written
    anew.

    Parameters
    ----------
    model
        A model of diffusers that :func:`dpqlab.nn.surgery.compress_` worked on.
    provenance
        Where it comes from; default: what was known.

    Raises
    ------
    CheckpointError
        If it is not compressed, or could not be stored as it is.
    """
    old: Any = getattr(model, "hf_quantizer", None)
    if provenance is None:
        provenance = old.provenance() if isinstance(old, DPQQuantizer) else {}
    quantizer: Any = DPQQuantizer.for_model(model, provenance)
    model.hf_quantizer, model.is_quantized = quantizer, True
    model.quantization_method = quantizer.quantization_config.quant_method
