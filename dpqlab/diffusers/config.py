"""What diffusers is told of the compression of a model: ``quantization_config``."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from diffusers.quantizers.quantization_config import QuantizationConfigMixin

from dpqlab.checkpoint.schema import QUANT_METHOD, QuantizationConfig
from dpqlab.errors import ConfigError
from dpqlab.nn.presets import preset as preset_of


class Method(StrEnum):
    """The name of the method, in the form that diffusers reads (``.value``)."""

    DPQLAB = QUANT_METHOD


@dataclass
class DPQConfig(QuantizationConfigMixin):
    """What to do to a model that diffusers loads, or what was done to it.

    Parameters
    ----------
    preset
        Compress by this preset (``"vq-2bit"``), without data and without calibration.
    seed
        Of the k-means starts.
    document
        The ``quantization_config`` of a model that is compressed already; diffusers fills it in.

    Raises
    ------
    ConfigError
        For an unknown preset, or none where there is no document.
    CheckpointError
        If the document is none that dpqlab wrote.
    """

    preset: str | None = None
    seed: int = 0
    document: dict[str, Any] | None = None
    quant_method: Any = field(default=Method.DPQLAB, init=False)

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if self.document is not None:
            QuantizationConfig.from_dict(self.document)
        elif self.preset is None:
            raise ConfigError('DPQConfig needs a preset, such as DPQConfig(preset="vq-2bit")')
        else:
            preset_of(self.preset)

    @classmethod
    def from_dict(
        cls, config_dict: dict[str, Any], return_unused_kwargs: bool = False, **kwargs: Any
    ) -> Any:
        """Read what :meth:`to_dict` gave."""
        document = config_dict if "layers" in config_dict else None
        settings: dict[str, Any] = {"document": document} if document else dict(config_dict)
        settings.pop("quant_method", None)
        config = cls(**settings)
        return (config, kwargs) if return_unused_kwargs else config

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values: the document, once there is one."""
        if self.document is not None:
            return dict(self.document)
        return {"quant_method": QUANT_METHOD, "preset": self.preset, "seed": self.seed}

    def to_diff_dict(self) -> dict[str, Any]:
        """Return the same: the base class prints itself by it, and does not have it."""
        return self.to_dict()
