"""Look at students, and at what a calibration made of them."""

from __future__ import annotations

from typing import Any

import torch

from dpqlab.calibration import CalibrationRecord, distillation
from dpqlab.calibration.forward import predict
from dpqlab.nn.linear import CompressedLinear


def layers_of(model: Any) -> list[CompressedLinear]:
    """The layers with codebooks."""
    return [module for module in model.modules() if isinstance(module, CompressedLinear)]


def state_of(model: Any) -> dict[str, torch.Tensor]:
    """Copies of all parameters, packed codes among them."""
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Whether two states are bit-equal."""
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def codes_of(model: Any) -> torch.Tensor:
    """All codes that a model stores, one after the other."""
    return torch.cat([layer.codes().flatten() for layer in layers_of(model)])


def cached(model: Any) -> bool:
    """Whether any layer has its codes cached."""
    return any(layer.codes_cache is not None for layer in layers_of(model))


def untouched(model: Any) -> bool:
    """Whether nothing that a calibration works with is left in a model."""
    return not (
        cached(model)
        or any(layer.latent is not None for layer in layers_of(model))
        or any("latent" in name for name in model.state_dict())
        or any("forward" in vars(module) for module in model.modules())
        or any(p.grad is not None for p in model.parameters())
        or any(module._forward_hooks for module in model.modules())
    )


@torch.no_grad()
def held_out_loss(student: Any, teacher: Any, data: Any, config: Any) -> float:
    """The loss of the model as it is on the batch that the loop judges on."""
    _, judged = data.split(config.holdout)
    batch = judged.draw(
        config.holdout,
        null_class=10,
        label_drop=config.label_drop,
        generator=torch.Generator(data.alphas.device).manual_seed(config.seed),
    )
    wanted, mine = predict(teacher, batch, {}), predict(student, batch, {})
    return distillation(mine, wanted).total.item()


def course(records: list[CalibrationRecord]) -> list[dict[str, Any]]:
    """Records without what the clock says."""
    timed = {"seconds", "remaining"}
    return [{k: v for k, v in r.to_dict().items() if k not in timed} for r in records]
