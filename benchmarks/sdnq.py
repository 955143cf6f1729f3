"""SDNQ as a rival (0.2.8, GPL-3.0: imported here alone, and only when asked for).

Install it anywhere on PYTHONPATH: ``pip install --no-deps --target DIR sdnq==0.2.8``. It needs
torch and diffusers, nothing else.
"""

import copy
import importlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from dpqlab.core import LayerLedger, ModelLedger, relative_error
from dpqlab.errors import ConfigError
from dpqlab.evaluation.sizes import ledger_parts, size_figures
from dpqlab.nn import kind_of
from dpqlab.nn.accounting import block_lists, in_blocks, ledger_of_model

_CODEBOOK: dict[str, Any] = {"use_codebook": True, "dequantize_fp32": False}
_U8_LEVELS: dict[str, Any] = {"scale_dtype": "uint8", "use_codebook_scale": True}
_ROWS: dict[str, Any] = _CODEBOOK | _U8_LEVELS | {"group_size": -1}
SDNQ_MODES: dict[str, dict[str, Any]] = {
    "2bit": _CODEBOOK | {"weights_dtype": "uint2"},
    "2bit-row": _ROWS | {"weights_dtype": "uint2"},
    "2bit-hadamard": _ROWS | {"weights_dtype": "uint2", "use_hadamard": True},
    "2bit-svd": _ROWS | {"weights_dtype": "uint2", "use_svd": True, "svd_rank": 1},
    "2bit-svd32": _CODEBOOK | {"weights_dtype": "uint2", "use_svd": True},
    "2bit-dynamic": _CODEBOOK | {"weights_dtype": "uint2", "use_dynamic_quantization": True},
    "1bit": _CODEBOOK | {"weights_dtype": "uint1"},
    "1bit-row": _ROWS | {"weights_dtype": "uint1"},
    "1bit-hadamard": _ROWS | {"weights_dtype": "uint1", "use_hadamard": True},
    "1bit-svd": _ROWS | {"weights_dtype": "uint1", "use_svd": True, "svd_rank": 1},
    "1bit-svd32": _CODEBOOK | {"weights_dtype": "uint1", "use_svd": True},
    "1bit-dynamic": _CODEBOOK | {"weights_dtype": "uint1", "use_dynamic_quantization": True},
}
"""Settings of SDNQ by mode: ``2bit`` and ``1bit`` are its codebook mode with the groups it chooses,
``-row`` (a codebook a row, its levels quantized once more) and ``-svd`` come nearest to our presets
in true bits, ``-svd32`` has the default rank, ``-dynamic`` widens a layer until SDNQ's threshold is
met. Levels are fp16, not fp32: half their bits, and no weight error to speak of."""


def quantize_sdnq(model: Any, mode: str) -> tuple[Any, float, dict[str, Any]]:
    """Quantize a DiT by SDNQ and put the dequantized weights back, so that it samples as before.

    The timestep embedder, which SDNQ would quantize, is kept, as everywhere here: it is outside the
    blocks' budget. Of the Linears inside the blocks SDNQ skips none but those with fewer than
    16,384 weights or 32 columns.

    Parameters
    ----------
    model
        A float32 ``DiTTransformer2DModel`` on the CPU; it is changed in place.
    mode
        A key of :data:`SDNQ_MODES`.

    Returns
    -------
    The model; its true bits, counted as dpqlab counts (:func:`sdnq_ledger`); and details as JSON
    values: the sizes of :func:`~dpqlab.evaluation.sizes.size_figures`, settings, what was quantized
    to what, the weight error, and ``bits_as_stored``, true bits with 1-bit codes as SDNQ packs
    them: each in eight bits. They are counted, and sampled from, in one.

    Raises
    ------
    ConfigError
        If SDNQ is not installed, or the mode is unknown.
    """
    if mode not in SDNQ_MODES:
        raise ConfigError(f"no SDNQ mode {mode!r}: expected one of {', '.join(SDNQ_MODES)}")
    sdnq = _import_sdnq()
    dense = ledger_of_model(copy.deepcopy(model).to(torch.bfloat16))
    lists = block_lists(model)
    weights = {
        name: module.weight.detach().clone()
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and in_blocks(name, lists)
    }
    settings = SDNQ_MODES[mode]
    config = sdnq.SDNQConfig(
        use_quantized_matmul=False, modules_to_not_convert=["timestep_embedder"], **settings
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)  # its low-rank SVD draws
        sdnq.sdnq_post_load_quant(model, torch_dtype=torch.float16, quantization_config=config)
    layers = {n: m for n, m in model.named_modules() if hasattr(m, "sdnq_dequantizer")}
    for layer in layers.values():
        _half_(layer)
    as_stored = sdnq_ledger(layers, dense).true_bits_per_weight
    for layer in layers.values():
        _narrow_(layer)
    ledger = sdnq_ledger(layers, dense)
    formats = [layer.sdnq_dequantizer for layer in layers.values()]
    importlib.import_module("sdnq.dequantizer").dequantize_sdnq_model(model)
    model.float()
    errors = [
        (weight.numel(), relative_error(weight, model.get_submodule(name).weight))
        for name, weight in weights.items()
    ]
    details = size_figures(ledger, ledger.stored_bytes) | {
        "library": f"sdnq {sdnq.__version__}",
        "settings": settings,
        "formats": _counts(f"{f.weights_dtype} group {f.group_size}" for f in formats),
        "kept_in_blocks": len(weights) - len(layers),
        "bits_as_stored": as_stored,
        "parts": ledger_parts(ledger),
        "relative_weight_error": sum(n * e for n, e in errors) / sum(n for n, _ in errors),
    }
    return model, ledger.true_bits_per_weight, details


def sdnq_ledger(layers: Mapping[str, Any], dense: ModelLedger) -> ModelLedger:
    """Count what SDNQ layers store, beside what stays of the dense model.

    Parameters
    ----------
    layers
        SDNQ's layers by name. Every parameter counts at the dtype it has: packed codes, levels
        (the pool), and as scale what levels are made of in turn, and the factors of an SVD.
    dense
        Ledger of the model before, in its storage dtype.
    """
    ledgers = []
    for name, layer in layers.items():
        bits = {key: 8 * p.numel() * p.element_size() for key, p in layer.named_parameters()}
        codes, bias, levels = bits.pop("weight"), bits.pop("bias", 0), bits.pop("scale")
        shape = tuple(layer.sdnq_dequantizer.original_shape)
        ledgers.append(
            LayerLedger(
                name=name,
                kind=kind_of(name),
                shape=(shape[0], shape[1]),
                codec=f"SDNQ {layer.sdnq_dequantizer.weights_dtype}",
                codes=codes,
                table=0,
                pool=levels,
                scale=sum(bits.values()),
                bias=bias,
                weights=shape[0] * shape[1],
            )
        )
    kept = tuple(part for part in dense.kept if part.name.rpartition(".")[0] not in layers)
    return ModelLedger(layers=tuple(ledgers), kept=kept)


def _import_sdnq() -> Any:
    # both are read once: no compiler for what runs once, no entry in the registry of transformers
    os.environ.setdefault("SDNQ_USE_TORCH_COMPILE", "0")
    os.environ.setdefault("SDNQ_REGISTER_TRANSFORMERS", "0")
    try:
        return importlib.import_module("sdnq")
    except ImportError as error:
        raise ConfigError(
            "SDNQ is not installed: expected it on PYTHONPATH for the sdnq rows; run "
            "`pip install --no-deps --target DIR sdnq==0.2.8` and add DIR"
        ) from error


def _half_(layer: Any) -> None:
    """Store at float16 what SDNQ left in float32: the bias, and levels of levels."""
    for name, parameter in list(layer.named_parameters()):
        if parameter.dtype == torch.float32:
            setattr(layer, name, nn.Parameter(parameter.half(), requires_grad=False))


def _narrow_(layer: Any) -> None:
    """Store 1-bit codes in bytes, as meant: SDNQ 0.2.8 shifts booleans, which makes them int64."""
    codes = layer.weight
    if codes.dtype == torch.int64:
        assert int(codes.min()) >= 0
        assert int(codes.max()) <= 255
        layer.weight = nn.Parameter(codes.to(torch.uint8), requires_grad=False)


def _counts(names: Iterator[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return counts
