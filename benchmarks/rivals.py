"""Rivals of the compressed ``fashion-dit``: same teacher, same evaluator, sizes counted alike.

    python -m benchmarks.rivals [--rows sdnq-2bit-row vq4dit ...] [--images 10000] [--results DIR]

``sdnq-*``    SDNQ (0.2.8; GPL-3.0, so no dependency: it is imported here, and only for these rows)
              in its codebook modes. Install it anywhere on PYTHONPATH: ``pip install --no-deps
              --target DIR sdnq==0.2.8``. It needs torch and diffusers, nothing else.
``rtn-*``     round to nearest with groups, the presets of that name.
``scalar-*``  a codebook of single weights (d=1); ``-calibrated`` as the bundled presets are.
``vq4dit``    VQ4DiT (arXiv 2408.17131): per-layer VQ, candidate codes with learned ratios, matched
              to the teacher block by block on its own trajectories; no images are needed.

All draw the same seeds and labels as ``benchmarks.fashion``: 50 DDIM steps, guidance 1.5. Bytes on
disk are those of all tensors, without file headers.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import importlib
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from benchmarks.fashion import TEACHER, sampler_of
from benchmarks.record import RESULTS, append, make_record
from dpqlab.calibration import CalibrationConfig, CalibrationData, calibrate, warmup_cosine
from dpqlab.calibration.data import Batch
from dpqlab.core import CodebookCodec, Codec, LayerLedger, ModelLedger, relative_error
from dpqlab.diffusion import load_pipeline, make_scheduler
from dpqlab.errors import ConfigError
from dpqlab.evaluation.bundled import bundled_feature_net, bundled_reference
from dpqlab.evaluation.config import EvaluationConfig
from dpqlab.evaluation.evaluator import (
    EvaluationResult,
    draw_teacher_steps,
    evaluate_steps,
    last_of,
)
from dpqlab.evaluation.fashion_mnist import DEFAULT_FOLDER, read_split
from dpqlab.evaluation.sizes import ledger_parts, size_figures
from dpqlab.nn import CompressedLinear, Plan, compress_, hold_decoded, kind_of, preset
from dpqlab.nn.accounting import block_lists, in_blocks, ledger_of_model
from dpqlab.nn.taps import block_outputs

SUITE = "rivals"

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

SCALAR: dict[str, CodebookCodec] = {
    "scalar-2bit": CodebookCodec(d=1, k=4, scope="layer", row_scale=True),
    "scalar-1bit": CodebookCodec(d=1, k=2, scope="position", row_scale=True),
}
"""Codebooks of single weights, nearest to the presets in true bits: one a layer, one a column."""

VQ4DIT = CodebookCodec(d=4, k=256, scope="layer")

ROWS = (
    *(f"sdnq-{mode}" for mode in SDNQ_MODES),
    "rtn-2bit",
    "rtn-1bit",
    *SCALAR,
    *(f"{name}-calibrated" for name in SCALAR),
    "vq4dit",
)


# --- SDNQ ---------------------------------------------------------------------------------------


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


# --- VQ4DiT -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vq4ditConfig:
    """Settings of :func:`vq4dit`.

    Parameters
    ----------
    steps
        Optimiser steps. For the first ``soft_share`` of them a weight is the average of its
        candidates; then codes are fixed and the codebooks settle.
    batch
        Inputs a step, half of them without a class: the two branches of guided trajectories.
    candidates
        Nearest codewords that a sub-vector chooses from.
    start
        Ratios at the start: ``"equal"`` (the paper), or by inverse ``"distance"`` (its code), which
        did better on a tiny model.
    codebook_rate
        Of RMSprop for codewords, relative to their root mean square; cosine to zero.
    ratio_rate
        Of RMSprop for the logits of the ratios.
    ratio_weight
        Weight of the ratio loss.
    sampling_steps, guidance
        Of the teacher's trajectories (DDIM).
    every
        Steps between judgements.
    seed
        Of noise and labels.
    """

    steps: int = 2000
    soft_share: float = 0.5
    batch: int = 256
    candidates: int = 3
    start: Literal["equal", "distance"] = "distance"
    codebook_rate: float = 0.02
    ratio_rate: float = 0.01
    ratio_weight: float = 1.0
    sampling_steps: int = 50
    guidance: float = 1.5
    every: int = 250
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that cannot run."""
        for name in ("steps", "candidates", "sampling_steps", "every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}: expected at least 1")
        if self.batch < 2 or self.batch % 2:
            raise ConfigError(f"batch is {self.batch}: expected an even number, two branches each")
        if self.start not in ("equal", "distance"):
            raise ConfigError(f"start is {self.start!r}: expected 'equal' or 'distance'")
        if not 0 <= self.soft_share <= 1:
            raise ConfigError(f"soft_share is {self.soft_share}: expected a share from 0 to 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vq4ditRecord:
    """State after ``step`` steps, which is in the student then.

    ``loss`` is the held-out block error of the student as stored (mean over blocks of the relative
    squared error), ``training`` that of the weights in training on the same inputs, ``ratio`` the
    ratio loss (0 when all are decided), ``decided`` the share of sub-vectors whose largest ratio is
    above 0.99, ``moved`` the share whose code is no longer the nearest codeword.
    """

    step: int
    loss: float
    training: float
    ratio: float
    decided: float
    moved: float
    seconds: float


class SoftLinear:
    """A VQ layer whose weights are averages of candidate codewords: what VQ4DiT trains.

    Parameters
    ----------
    layer
        A layer with one codebook and no row scale.
    weight
        The teacher's (out, in), on the same device.
    config
        How many candidates, and their ratios at the start.

    Attributes
    ----------
    codebook, logits : Tensor
        float32 (k, d) and (out, m, n), trained.
    candidates : Tensor
        int32 (out, m, n), the nearest codewords, nearest first.
    """

    def __init__(self, layer: CompressedLinear, weight: Tensor, config: Vq4ditConfig) -> None:
        if (
            len(layer.base) != 2
            or layer.scale is not None
            or getattr(layer, "table", None) is not None
        ):
            raise ConfigError(
                f"VQ4DiT has one codebook a layer and no row scale: got {layer.codec.describe()}"
            )
        self.layer = layer
        self.codebook = layer.pool.detach().float().clone().requires_grad_()
        k, d = self.codebook.shape
        missing = layer.positions * d - layer.in_features
        points = F.pad(weight.detach().float(), (0, missing)).reshape(-1, d)
        n = min(config.candidates, k)
        nearest = [
            torch.cdist(part, self.codebook.detach()).topk(n, largest=False)
            for part in points.split(1 << 16)
        ]
        shape = (layer.out_features, layer.positions, n)
        self.candidates = torch.cat([f.indices for f in nearest]).view(shape).to(torch.int32)
        distances = torch.cat([f.values for f in nearest]).view(shape)
        # a sub-vector that is a codeword has distance zero
        start = -distances.clamp_min(1e-3 * distances.mean()).log()
        self.logits = (start if config.start == "distance" else torch.zeros_like(start)).clone()
        self.logits.requires_grad_()

    def ratios(self) -> Tensor:
        """Return the ratios (out, m, n), which sum to one."""
        return self.logits.softmax(-1)

    def codes(self) -> Tensor:
        """Return the codes with the largest ratios, int32 (out, m)."""
        return self.candidates.gather(-1, self.logits.argmax(-1, keepdim=True))[..., 0]

    def weight(self, codes: Tensor | None = None) -> Tensor:
        """Return the average weight (out, in), or the one of ``codes``; differentiable."""
        if codes is None:
            words = F.embedding(self.candidates, self.codebook)  # (out, m, n, d)
            sub = (self.ratios()[..., None] * words).sum(-2)
        else:
            sub = F.embedding(codes, self.codebook)
        return sub.flatten(1)[:, : self.layer.in_features]

    @torch.no_grad()
    def store_(self) -> None:
        """Decide: put the codes with the largest ratios and the codebook into the layer."""
        self.layer.pool.copy_(self.codebook)
        self.layer.set_codes_(self.codes().long())


class Trajectories:
    """Images on their way from noise to the teacher's picture, each at another step of it."""

    def __init__(self, teacher: nn.Module, config: Vq4ditConfig, *, seed: int) -> None:
        dit: Any = teacher
        scheduler: Any = make_scheduler("ddim")
        scheduler.set_timesteps(config.sampling_steps)
        self.teacher, self.config = teacher, config
        self.null = dit.config.num_embeds_ada_norm
        device = next(teacher.parameters()).device
        self.generator = torch.Generator(device).manual_seed(seed)
        self.timesteps = scheduler.timesteps.to(device)
        alphas = scheduler.alphas_cumprod.to(device)[self.timesteps]
        # the last step ends at the clean image; the spacing is even, so each starts where one ended
        self.alphas = torch.cat([alphas, scheduler.final_alpha_cumprod.to(device)[None]])
        count, side = config.batch // 2, dit.config.sample_size
        self.shape = (count, dit.config.in_channels, side, side)
        self.stage = torch.zeros(count, dtype=torch.int64, device=device)
        self.x, self.labels = self._fresh()
        waits = torch.arange(count, device=device) * config.sampling_steps // count
        for step in range(config.sampling_steps):
            self._advance(waits <= step)

    def _fresh(self) -> tuple[Tensor, Tensor]:
        device = self.stage.device
        noise = torch.randn(self.shape, device=device, generator=self.generator)
        labels = torch.randint(self.null, self.shape[:1], device=device, generator=self.generator)
        return noise, labels

    def draw(self) -> tuple[Batch, list[Tensor]]:
        """Return inputs of both branches, with the teacher's block outputs, and go a step on."""
        return self._advance(torch.ones_like(self.stage, dtype=torch.bool))

    @torch.no_grad()
    def _advance(self, moving: Tensor) -> tuple[Batch, list[Tensor]]:
        times = self.timesteps[self.stage]
        batch = Batch(
            noisy=torch.cat([self.x, self.x]),
            timesteps=torch.cat([times, times]),
            labels=torch.cat([self.labels, torch.full_like(self.labels, self.null)]),
        )
        noise, blocks = run(self.teacher, batch, {})
        with_class, without = noise[:, : self.x.shape[1]].float().chunk(2)
        guided = without + self.config.guidance * (with_class - without)
        x = ddim_step(self.x, guided, self.alphas[self.stage], self.alphas[self.stage + 1])
        stage = self.stage + 1
        done = stage == len(self.timesteps)
        fresh, labels = self._fresh()
        x = torch.where(done[:, None, None, None], fresh, x)
        self.x = torch.where(moving[:, None, None, None], x, self.x)
        self.labels = torch.where(moving & done, labels, self.labels)
        self.stage = torch.where(moving, torch.where(done, 0, stage), self.stage)
        return batch, blocks


def ddim_step(x: Tensor, noise: Tensor, alpha: Tensor, next_alpha: Tensor) -> Tensor:
    """Take a DDIM step of each image (N, C, H, W) between its own two noise levels, both (N,).

    As the samplers here do: the predicted image is clipped, the noise derived anew from it.
    """
    a, b = alpha.view(-1, 1, 1, 1), next_alpha.view(-1, 1, 1, 1)
    clean = ((x - (1 - a).sqrt() * noise) / a.sqrt()).clamp(-1, 1)
    noise = (x - a.sqrt() * clean) / (1 - a).sqrt()
    return b.sqrt() * clean + (1 - b).sqrt() * noise


def run(
    model: nn.Module, batch: Batch, weights: Mapping[str, Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Return a DiT's prediction and block outputs, ``weights`` in the place of its own."""
    inputs = {"timestep": batch.timesteps, "class_labels": batch.labels}
    device = batch.noisy.device.type
    with (
        torch.autocast(device, torch.bfloat16, enabled=device == "cuda", cache_enabled=False),
        block_outputs(model) as blocks,
    ):
        out: Any = functional_call(model, dict(weights), (batch.noisy,), inputs)
    return out.sample, blocks


def block_error(mine: Sequence[Tensor], theirs: Sequence[Tensor]) -> Tensor:
    """Return the mean over blocks of the squared error, relative to the teacher's mean square."""
    errors = [
        (a.float() - b.float()).square().mean() / b.float().square().mean()
        for a, b in zip(mine, theirs, strict=True)
    ]
    return torch.stack(errors).mean()


def ratio_loss(layers: Sequence[SoftLinear]) -> Tensor:
    """Return the mean over sub-vectors of ``sum_n (1 - |2 r_n - 1|)``: 0 when all are decided."""
    total = torch.stack([(1 - (2 * s.ratios() - 1).abs()).sum() for s in layers]).sum()
    return total / sum(s.logits[..., 0].numel() for s in layers)


def vq4dit(student: nn.Module, teacher: nn.Module, config: Vq4ditConfig) -> Iterator[Vq4ditRecord]:
    """Calibrate ``student`` in place by VQ4DiT (arXiv 2408.17131), a record each ``config.every``.

    Each sub-vector of the teacher gets its nearest codewords as candidates. The weight is their
    average by ratios; codebooks and ratios are trained to give the teacher's block outputs on the
    teacher's own trajectories, and the ratio loss drives ratios to 0 or 1. Departures from the
    paper, in its favour: images of a batch are at different steps of their trajectories, block
    errors are relative, so that one ratio weight serves all depths, and codebooks settle after the
    codes are fixed (the authors' code trains them then only).

    Parameters
    ----------
    student
        A model with per-layer VQ; biases and the rest stay as they are.
    teacher
        The full-precision model, same device.

    Yields
    ------
    Vq4ditRecord
        First the student as it came, step 0. What a record judges is in the student when it comes.

    Raises
    ------
    ConfigError
        If a compressed layer has several codebooks or row scales, there is none, or the training
        diverges.
    """
    student.eval()
    teacher.eval()
    found = {n: m for n, m in student.named_modules() if isinstance(m, CompressedLinear)}
    if not found:
        raise ConfigError("the model has no compressed layers: run compress_ before calibrating")
    soft = {
        name: SoftLinear(layer, teacher.get_submodule(name).weight, config)  # pyright: ignore[reportArgumentType]
        for name, layer in found.items()
    }
    layers = tuple(soft.values())
    judge = _Judge(student, teacher, soft, Trajectories(teacher, config, seed=config.seed + 1))
    trajectories = Trajectories(teacher, config, seed=config.seed)
    books, logits = [s.codebook for s in layers], [s.logits for s in layers]
    size = math.sqrt(sum(float(b.detach().square().mean()) for b in books) / len(books))
    choosing = torch.optim.RMSprop(logits, lr=config.ratio_rate)
    settling = torch.optim.RMSprop(books, lr=0.0)
    soft_steps = round(config.steps * config.soft_share)
    codes: list[Tensor] | None = None
    yield judge.record(0, codes)
    for step in range(1, config.steps + 1):
        if step > soft_steps and codes is None:
            codes = [s.codes() for s in layers]
        batch, wanted = trajectories.draw()
        done = (step - 1) / config.steps
        settling.param_groups[0]["lr"] = size * warmup_cosine(
            config.codebook_rate, step - 1, warmup=config.steps // 20, done=done
        )
        loss = block_error(run(teacher, batch, judge.weights(codes))[1], wanted)
        if codes is None:
            loss = loss + config.ratio_weight * ratio_loss(layers)
            choosing.zero_grad()
        settling.zero_grad()
        loss.backward(inputs=books if codes is not None else [*books, *logits])
        settling.step()
        if codes is None:
            choosing.step()
        if step % config.every == 0 or step == config.steps:
            for layer in layers:
                layer.store_()
            record = judge.record(step, codes)
            if not math.isfinite(record.loss):
                raise ConfigError(
                    f"VQ4DiT diverged at step {step}: try a codebook_rate below "
                    f"{config.codebook_rate}"
                )
            yield record


class _Judge:
    """Measures the student, and the weights in training, on inputs kept apart."""

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        soft: Mapping[str, SoftLinear],
        held_out: Trajectories,
    ) -> None:
        self.student, self.teacher, self.soft = student, teacher, soft
        self.batch, self.wanted = held_out.draw()
        self.started = time.perf_counter()

    def weights(self, codes: Sequence[Tensor] | None) -> dict[str, Tensor]:
        """Return what takes the place of the teacher's parameters: weights, the stored biases."""
        fixed = [None] * len(self.soft) if codes is None else codes
        given: dict[str, Tensor] = {}
        for (name, soft), own in zip(self.soft.items(), fixed, strict=True):
            given[f"{name}.weight"] = soft.weight(own)
            if soft.layer.bias is not None:
                given[f"{name}.bias"] = soft.layer.bias.float()
        return given

    @torch.no_grad()
    def record(self, step: int, codes: Sequence[Tensor] | None) -> Vq4ditRecord:
        """Judge the student as it is, and the weights in training."""
        layers = tuple(self.soft.values())
        total = sum(s.logits[..., 0].numel() for s in layers)
        decided = sum(int((s.ratios().amax(-1) > 0.99).sum()) for s in layers)
        moved = sum(int((s.layer.codes() != s.candidates[..., 0]).sum()) for s in layers)
        training = run(self.teacher, self.batch, self.weights(codes))[1]
        return Vq4ditRecord(
            step=step,
            loss=float(block_error(run(self.student, self.batch, {})[1], self.wanted)),
            training=float(block_error(training, self.wanted)),
            ratio=float(ratio_loss(layers)),
            decided=decided / total,
            moved=moved / total,
            seconds=time.perf_counter() - self.started,
        )


# --- the suite ----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """What making a row may need: the teacher on its device, and how to calibrate."""

    teacher: Any
    device: str
    data: Path
    calibration: CalibrationConfig
    vq4dit: Vq4ditConfig


def make(row: str, setting: Setting) -> tuple[Any, dict[str, Any]]:
    """Return the transformer of a row, and sizes and settings for its record."""
    model: Any = load_pipeline(TEACHER).transformer
    if row.startswith("sdnq-"):
        model, _, details = quantize_sdnq(model, row.removeprefix("sdnq-"))
        return model.to(setting.device), details
    # on the CPU, where k-means gives the same codes everywhere
    compress_(model, plan_of(row))
    ledger = ledger_of_model(model)
    model.to(setting.device)
    details: dict[str, Any] = size_figures(ledger, ledger.stored_bytes)
    details["codec"] = ledger.layers[0].codec
    if row == "vq4dit":
        course = [_told(row, r) for r in vq4dit(model, setting.teacher, setting.vq4dit)]
        details |= {"settings": dataclasses.asdict(setting.vq4dit), "course": course}
    elif row.endswith("-calibrated"):
        steps = calibrate(model, setting.teacher, calibration_data(setting), setting.calibration)
        course = [_told(row, record) for record in steps]
        details |= {"settings": dataclasses.asdict(setting.calibration), "course": course}
    return model, details


def plan_of(row: str) -> Plan:
    """Return how the layers of a row that dpqlab's own codecs make are coded."""
    name = row.removesuffix("-calibrated")
    codecs: dict[str, Codec] = {**SCALAR, "vq4dit": VQ4DIT}
    return Plan.for_blocks(codecs[name], name=name) if name in codecs else preset(name)


def calibration_data(setting: Setting) -> CalibrationData:
    """Read the images that the bundled presets are calibrated on."""
    images, labels = read_split(setting.data, "train")
    scheduler: Any = make_scheduler("ddim")
    return CalibrationData(
        images=torch.tensor(images, device=setting.device),
        labels=torch.tensor(labels, device=setting.device),
        alphas=scheduler.alphas_cumprod.to(setting.device),
    )


def vq4dit_config(pairs: Sequence[str]) -> Vq4ditConfig:
    """Return the settings of VQ4DiT with changes given as ``KEY=VALUE``, such as ``steps=4000``."""
    kinds = {field.name: type(field.default) for field in dataclasses.fields(Vq4ditConfig)}
    changes: dict[str, Any] = {}
    for key, _, value in (pair.partition("=") for pair in pairs):
        try:
            changes[key] = kinds[key](value)
        except (KeyError, ValueError) as error:
            raise ConfigError(
                f"{key}={value} is no setting of VQ4DiT: expected {', '.join(kinds)}, and numbers "
                "where they are numbers"
            ) from error
    return Vq4ditConfig(**changes)


def _told(row: str, record: Any) -> dict[str, Any]:
    values: dict[str, Any] = dataclasses.asdict(record)
    shown = (f"{key} {value:.4g}" for key, value in values.items())
    print(f"{row}  {'  '.join(shown)}", flush=True)
    return values


def figures(result: EvaluationResult) -> dict[str, Any]:
    """Return the verdict by the names of the ``fashion`` suite."""
    fidelity = {} if result.fidelity is None else dataclasses.asdict(result.fidelity)
    return {
        "fcd": result.fcd.to_dict(),
        "noise_floor": result.noise_floor.to_dict(),
        "precision": result.precision,
        "recall": result.recall,
        "label_agreement": result.class_accuracy,
        **{key: fidelity.get(key) for key in ("psnr", "feature_cosine", "agreement")},
        "excess_fcd": fidelity.get("excess_fcd"),
        "images": result.config.images,
        "steps": result.config.steps,
        "guidance": result.config.guidance,
        "sampler": "ddim",
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the rows and append their records."""
    args = _arguments(argv)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    # as in the fashion suite: beside bf16 weights the rounding of TF32 does not show
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    net = bundled_feature_net(device=device)
    reference = bundled_reference()
    config = EvaluationConfig(images=args.images, steps=args.steps, batch=args.batch)
    full = load_pipeline(TEACHER, device=device).transformer.requires_grad_(False)
    teacher = last_of(draw_teacher_steps(sampler_of(full), net, config))
    setting = Setting(
        teacher=full,
        device=device,
        data=args.data,
        calibration=CalibrationConfig(steps=args.calibration_steps),
        vq4dit=vq4dit_config(args.vq4dit),
    )
    for row in args.rows:
        started = time.perf_counter()
        model, details = make(row, setting)
        made = time.perf_counter()
        with hold_decoded(model):
            result = last_of(evaluate_steps(sampler_of(model), net, reference, config, teacher))
        details |= figures(result) | {
            "precision_of_arithmetic": "tf32" if device == "cuda" else "float32",
            "seconds_to_make": round(made - started, 1),
            "seconds": round(time.perf_counter() - started, 1),
        }
        record = make_record(
            SUITE,
            row,
            f"fcd_{config.images // 1000}k",
            result.fcd.value,
            "FCD",
            limit=result.noise_floor.value,
            higher_is_better=False,
            details=details,
            device=device,
        )
        append(record, args.results)
        print(
            f"{row:24s} bits {details['true_bits']:.4f}  FCD {result.fcd}  excess "
            f"{result.excess_fcd}  PSNR {result.psnr}  {details['seconds']:.0f} s",
            flush=True,
        )


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks.rivals", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=ROWS)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--batch", type=int, default=1000)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to append to")
    parser.add_argument("--data", type=Path, default=DEFAULT_FOLDER, help="the four idx.gz files")
    parser.add_argument("--calibration-steps", type=int, default=CalibrationConfig().steps)
    parser.add_argument("--vq4dit", nargs="*", default=[], metavar="KEY=VALUE", help="its settings")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
