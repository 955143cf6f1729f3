"""How good a bundled model is at each size: the main table of docs/results.md.

    python -m benchmarks.fashion [--rows teacher vq-1bit vq-1bit-calibrated ...] [--images 10000]
    python -m benchmarks.fashion --model avatars-dit --bf16

A row is the full-precision ``teacher``, a preset compressed on the spot (``pq-1bit``), or a bundled
calibrated checkpoint (``pq-1bit-calibrated``). All draw the same seeds and labels: 50 DDIM steps,
guidance 1.5. FCD to the training images with its interval, excess FCD against the teacher at other
seeds, precision and recall, fidelity to the teacher; sizes from the ledger and from the files.
Records go to the suite of the model's name: ``fashion.jsonl``, ``avatars.jsonl``. Eleven rows of
10,000 images of ``fashion-dit`` take about five minutes on one H100, and a day on two CPU cores. An
image of ``avatars-dit`` is five times the work: there a GPU draws in bf16, by compiled blocks.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.record import RESULTS, append, make_record, suite_of
from dpqlab.calibration.forward import compiled_blocks
from dpqlab.checkpoint import save_compressed
from dpqlab.commands import expected
from dpqlab.core import ModelLedger
from dpqlab.diffusion import (
    SampleRequest,
    load_pipeline,
    resolve,
    sample_images,
    scheduler_for,
    weight_bytes,
)
from dpqlab.evaluation.bundled import bundled_feature_net, bundled_reference
from dpqlab.evaluation.config import EvaluationConfig, Sampler
from dpqlab.evaluation.datasets import MODELS
from dpqlab.evaluation.evaluator import draw_teacher_steps, evaluate_steps, last_of
from dpqlab.evaluation.features import FeatureNet
from dpqlab.evaluation.frechet import Interval
from dpqlab.evaluation.reference import Reference
from dpqlab.evaluation.sizes import size_figures
from dpqlab.evaluation.teacher import TeacherSamples
from dpqlab.nn import compress_, hold_decoded, ledger_of_model, preset, presets
from dpqlab.nn.packed import PackedLinear

TEACHER = "fashion-dit"
BARS = {TEACHER: {"goal": 1.0, "floor": 1.3}}  # of the FCD of the full-precision models
PRESETS = tuple(presets())
SHIPPED = expected.PRESETS[TEACHER]
CALIBRATED = tuple(f"{name}-calibrated" for name in SHIPPED)
ROWS = ("teacher", *PRESETS, *CALIBRATED)


def sampler_of(model: Any) -> Sampler:
    """Draw with DDIM from a transformer, wherever it is."""

    def sample(
        labels: tuple[int, ...], *, seed: int, first_index: int, steps: int, guidance: float
    ) -> Tensor:
        request = SampleRequest(
            labels=labels, seed=seed, first_index=first_index, steps=steps, guidance=guidance
        )
        return sample_images(model, scheduler_for(model), request)

    return sample


def model_of(row: str, teacher: str = TEACHER) -> tuple[Any, int]:
    """Return the transformer of a row on the CPU, and the bytes of its weight files."""
    if row == "teacher":
        return load_pipeline(teacher).transformer, weight_bytes(resolve(teacher))
    if row.endswith("-calibrated"):
        folder = resolve(f"{teacher}-{row.removesuffix('-calibrated')}")
        return load_pipeline(folder).transformer, weight_bytes(folder)
    model = load_pipeline(teacher).transformer
    compress_(model, preset(row))
    scheduler: Any = scheduler_for(model)
    with tempfile.TemporaryDirectory() as folder:
        save_compressed(
            model,
            Path(folder, "model"),
            scheduler_config=dict(scheduler.config) | {"_class_name": type(scheduler).__name__},
            provenance={"source": teacher, "preset": row},
            card=row,
        )
        return model, weight_bytes(Path(folder, "model"))


def stored_ledger(row: str, model: Any) -> ModelLedger:
    """Count what the files hold: bf16 for the teacher, which is loaded as float32."""
    if row != "teacher":
        return ledger_of_model(model)
    # a copy: casting rounds the position table for good
    return ledger_of_model(copy.deepcopy(model).to(torch.bfloat16))


@torch.no_grad()
def fill_(canvas: Any, model: Any) -> None:
    """Give a dense transformer the weights of one of its kind, which may be compressed."""
    weights = model.state_dict()
    for name, layer in model.named_modules():
        if isinstance(layer, PackedLinear):
            weights[f"{name}.weight"] = layer.decode()
    canvas.load_state_dict({name: weights[name] for name in canvas.state_dict()})


@contextmanager
def drawing_in_bf16(canvas: Any) -> Iterator[None]:
    """Let a dense transformer on a GPU draw fast; products in bf16, sums in float32."""
    with compiled_blocks(canvas), torch.autocast("cuda", torch.bfloat16):
        yield


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judge:
    """What every row is judged by: the same network, reference, protocol and teacher samples.

    ``canvas`` is the transformer that draws all rows in bf16, if that is wanted.
    """

    net: FeatureNet
    reference: Reference
    config: EvaluationConfig
    teacher: TeacherSamples
    device: str
    canvas: Any = None

    @classmethod
    def make(cls, config: EvaluationConfig, model: str = TEACHER, bf16: bool = False) -> Judge:
        """Draw the full-precision ``model``, on the GPU if there is one."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        # TF32 halves the time; beside bf16 weights and fp16 codewords its rounding does not show
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        net = bundled_feature_net(model, device=device)
        full = load_pipeline(model, device=device).transformer
        with drawing_in_bf16(full) if bf16 else nullcontext():
            teacher = last_of(draw_teacher_steps(sampler_of(full), net, config))
        return cls(
            net=net,
            reference=bundled_reference(model),
            config=config,
            teacher=teacher,
            device=device,
            canvas=full if bf16 else None,
        )

    @contextmanager
    def ready(self, model: Any) -> Iterator[Any]:
        """Yield what draws for a model: itself with decoded weights, or the canvas with them."""
        if self.canvas is None:
            model.to(self.device)
            with hold_decoded(model):
                yield model
        else:
            fill_(self.canvas, model)
            with drawing_in_bf16(self.canvas):
                yield self.canvas

    def judge(self, model: Any) -> tuple[Interval, dict[str, Any]]:
        """Draw from a model and compare: its FCD, and everything else for the details."""
        started = time.perf_counter()
        with self.ready(model) as drawing:
            steps = evaluate_steps(
                sampler_of(drawing), self.net, self.reference, self.config, self.teacher
            )
            result = last_of(steps)
        exact = "tf32" if self.device == "cuda" else "float32"
        fidelity = {} if result.fidelity is None else dataclasses.asdict(result.fidelity)
        names = ("psnr", "feature_cosine", "agreement", "excess_fcd")
        return result.fcd, {
            "fcd": result.fcd.to_dict(),
            "noise_floor": result.noise_floor.to_dict(),
            "precision": result.precision,
            "recall": result.recall,
            "label_agreement": result.class_accuracy,
            **{name: fidelity.get(name) for name in names},
            "images": self.config.images,
            "steps": self.config.steps,
            "guidance": self.config.guidance,
            "sampler": "ddim",
            "precision_of_arithmetic": exact if self.canvas is None else "bf16",
            "seconds": round(time.perf_counter() - started, 1),
        }

    def record(
        self, suite: str, row: str, model: Any, details: dict[str, Any], rival: str | None = None
    ) -> dict[str, Any]:
        """Judge a model, say what came out, and make the record of its FCD."""
        fcd, found = self.judge(model)
        print(
            f"{row:24s} bits {details['true_bits']:.3f}  FCD {fcd}  PSNR {found['psnr']}  "
            f"{found['seconds']:.0f} s",
            flush=True,
        )
        return make_record(
            suite,
            row,
            f"fcd_{self.config.images // 1000}k",
            fcd.value,
            "FCD",
            rival=rival,
            limit=self.reference.floor.value,
            higher_is_better=False,
            details=details | found,
            device=self.device,
        )


def main() -> None:
    """Measure the rows and append their records."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default=TEACHER, choices=MODELS)
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=ROWS)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--batch", type=int, default=1000)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to append to")
    parser.add_argument("--bf16", action="store_true", help="draw in bf16; wants a GPU")
    parser.add_argument("--quick-reference", type=Path, help="also write the quick reference here")
    args = parser.parse_args()
    if args.bf16 and not torch.cuda.is_available():
        parser.error("--bf16 wants a GPU")
    config = EvaluationConfig(images=args.images, steps=args.steps, batch=args.batch)
    judge = Judge.make(config, args.model, args.bf16)
    if args.quick_reference:
        quick = EvaluationConfig.quick(batch=args.batch)
        full = load_pipeline(args.model, device=judge.device).transformer
        last_of(draw_teacher_steps(sampler_of(full), judge.net, quick)).save(args.quick_reference)
    for row in args.rows:
        model, size = model_of(row, args.model)
        figures = size_figures(stored_ledger(row, model), size)
        record = judge.record(suite_of(args.model), row, model, figures)
        if row == "teacher":
            record |= BARS.get(args.model, {})
        append(record, args.results)


if __name__ == "__main__":
    main()
