"""What calibration trains: float32 *masters* beside the model, which hold more than it can store.

They are rounded into the model from time to time. Beside them stand the codes, which a run may
choose again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dpqlab.errors import ConfigError
from dpqlab.nn.linear import CompressedLinear

PARTS = ("pool", "scale", "bias")
"""What is trained and stored of a compressed layer."""
LATENT = "latent"
"""What is trained of it, and thrown away: see :class:`~dpqlab.calibration.config.LatentConfig`."""


def compressed_layers(model: nn.Module) -> dict[str, CompressedLinear]:
    """Return the layers with codebooks by name.

    Raises
    ------
    ConfigError
        If there are none.
    """
    found = {n: m for n, m in model.named_modules() if isinstance(m, CompressedLinear)}
    if not found:
        raise ConfigError("the model has no compressed layers: run compress_ before calibrating")
    return found


def masters_of(student: nn.Module) -> dict[str, Tensor]:
    """Return float32 copies of all that calibration trains and stores, by parameter name.

    A pool that several layers share appears once, under its first name.

    Raises
    ------
    ConfigError
        If the model has no compressed layers.
    """
    return {
        name: parameter.detach().float().clone().requires_grad_()
        for name, parameter in _trained(student).items()
    }


def _trained(student: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that calibration trains and stores, each under its first name."""
    found: dict[str, nn.Parameter] = {}
    seen: set[int] = set()
    for name, layer in compressed_layers(student).items():
        for part in PARTS:
            parameter = getattr(layer, part)
            if parameter is not None and id(parameter) not in seen:
                seen.add(id(parameter))
                found[f"{name}.{part}"] = parameter
    return found


def pool_names(student: nn.Module) -> dict[str, str]:
    """Return, for each compressed layer, the name of the master that holds its pool."""
    owners: dict[int, str] = {}
    return {
        name: owners.setdefault(id(layer.pool), f"{name}.pool")
        for name, layer in compressed_layers(student).items()
    }


@torch.no_grad()
def rounded(student: nn.Module, masters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the masters as the student would store them, in float32; latents as they are."""
    return {
        name: master
        if name.endswith(f".{LATENT}")
        else master.to(student.get_parameter(name).dtype).float()
        for name, master in masters.items()
    }


@torch.no_grad()
def store_masters_(student: nn.Module, masters: Mapping[str, Tensor]) -> None:
    """Round the masters into the student's own parameters, in place; latents are left out."""
    for name, master in masters.items():
        if not name.endswith(f".{LATENT}"):
            student.get_parameter(name).copy_(master)


@dataclass(frozen=True, kw_only=True, eq=False)
class Snapshot:
    """A state of the student, as it stores it: parameters by name, packed codes by layer."""

    parameters: Mapping[str, Tensor]
    codes: Mapping[str, Tensor]

    @classmethod
    @torch.no_grad()
    def of(cls, student: nn.Module) -> Snapshot:
        """Copy what calibration may change."""
        layers = compressed_layers(student)
        return cls(
            parameters={n: p.detach().clone() for n, p in _trained(student).items()},
            codes={name: layer.weight.detach().clone() for name, layer in layers.items()},
        )

    @torch.no_grad()
    def restore_(self, student: nn.Module) -> None:
        """Put the state back; layers whose codes are cached cache these."""
        for name, value in self.parameters.items():
            student.get_parameter(name).copy_(value)
        for name, layer in compressed_layers(student).items():
            layer.weight.copy_(self.codes[name])
            if layer.codes_cache is not None:
                layer.cache_codes_()
