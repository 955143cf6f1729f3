"""A compressed model and its teacher, as the commands load them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from dpqlab.checkpoint import is_compressed, read_config
from dpqlab.commands.compress import compress_model
from dpqlab.commands.loading import load
from dpqlab.commands.measure import find_source, origin_of
from dpqlab.commands.terminal import Terminal
from dpqlab.diffusion.models import resolve
from dpqlab.errors import ConfigError
from dpqlab.nn.linear import CompressedLinear, PackedLinear
from dpqlab.nn.presets import preset


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A student with its scheduler, where it comes from, and its teacher; models on one device."""

    pipeline: Any
    teacher: Any
    provenance: Mapping[str, str | int | float]

    @property
    def student(self) -> nn.Module:
        """The compressed transformer."""
        return self.pipeline.transformer


def pair_of(args: argparse.Namespace, device: torch.device, terminal: Terminal) -> Pair:
    """Load the student, compressing it first if it has to be, and its teacher.

    Raises
    ------
    ConfigError
        If there is no teacher, or it is another model's.
    """
    folder = resolve(args.model)
    if args.preset is None:
        provenance = dict(read_config(folder).quantization.provenance)
        teacher = args.teacher or find_source(provenance)
    else:
        provenance = origin_of(args.model, folder) | {"preset": args.preset, "seed": args.seed}
        teacher = args.teacher or args.model
    if teacher is None:
        raise ConfigError(
            f"{args.model} was made of {provenance.get('source', 'a model it does not name')!r}, "
            "which is not bundled: name the folder of that full-precision model with --teacher"
        )
    if is_compressed(resolve(teacher)):
        raise ConfigError(f"the teacher {teacher} is compressed: expected a full-precision model")
    pipeline = load(folder)
    if args.preset is not None:
        compress_model(pipeline, preset(args.preset), terminal, seed=args.seed)
    provenance = origin_of(teacher, resolve(teacher)) | provenance
    pair = Pair(
        pipeline=pipeline,
        teacher=load(teacher, device=device).transformer.requires_grad_(False),
        provenance=provenance,
    )
    check_pair(pair.student, pair.teacher, args.model, teacher)
    pair.student.to(device)
    return pair


def check_pair(student: nn.Module, teacher: Any, model: str, name: str) -> None:
    """Refuse a student without codebooks, and a teacher of another shape."""
    packed = {n: m for n, m in student.named_modules() if isinstance(m, PackedLinear)}
    if not any(isinstance(module, CompressedLinear) for module in packed.values()):
        raise ConfigError(f"{model} has no codebooks, so there is nothing to train")
    linears = dict(teacher.named_modules())
    for layer, module in packed.items():
        shape = tuple(getattr(linears.get(layer), "weight", torch.empty(0)).shape)
        if shape != (module.out_features, module.in_features):
            raise ConfigError(
                f"the teacher {name} has no layer {layer} of shape "
                f"{(module.out_features, module.in_features)}: expected the full-precision model "
                f"that {model} was made of"
            )
