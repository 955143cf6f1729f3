"""dpqlab in diffusers: ``import dpqlab.diffusers``, and diffusers loads what dpqlab compressed.

    import dpqlab.diffusers
    from diffusers import DiTTransformer2DModel

    model = DiTTransformer2DModel.from_pretrained("out/my-model", subfolder="transformer")
    model.save_pretrained("out/copy")

    config = dpqlab.diffusers.DPQConfig(preset="vq-2bit")  # compress while loading, without data
    model = DiTTransformer2DModel.from_pretrained("DiT-XL-2-256", subfolder="transformer",
                                                  quantization_config=config)

Importing this module registers the method with diffusers, in the two tables from which it chooses
quantizers; diffusers offers no other way. ``import dpqlab`` alone loads no diffusers.

diffusers casts every float tensor of a file to the dtype that was asked for, fills in tied modules
twice, and only warns of tensors that are missing. So what is stored is read and checked by
:mod:`dpqlab.checkpoint`, as everywhere in dpqlab; diffusers builds the model and places it.
"""

from __future__ import annotations

import weakref
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch
from diffusers.configuration_utils import FrozenDict
from diffusers.quantizers import auto
from diffusers.quantizers.base import DiffusersQuantizer
from diffusers.quantizers.quantization_config import QuantizationConfigMixin
from torch import Tensor, nn

from dpqlab.checkpoint.layout import MANIFEST
from dpqlab.checkpoint.load import fill_
from dpqlab.checkpoint.manifest import check_listing
from dpqlab.checkpoint.save import stored_form
from dpqlab.checkpoint.schema import QUANT_METHOD, QuantizationConfig
from dpqlab.checkpoint.shards import read_shard
from dpqlab.errors import CheckpointError, ConfigError
from dpqlab.nn.embedder import tie_embedders_, untie_embedders_
from dpqlab.nn.packed import PackedLinear
from dpqlab.nn.presets import preset as preset_of
from dpqlab.nn.surgery import compress_

__all__ = ["DPQConfig", "DPQQuantizer"]


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


class DPQQuantizer(DiffusersQuantizer):
    """Called by diffusers while it loads and saves a model; nobody else needs it."""

    use_keep_in_fp32_modules = False
    requires_calibration = False

    def __init__(self, quantization_config: DPQConfig, **kwargs: Any) -> None:
        super().__init__(quantization_config, **kwargs)
        self._files: tuple[Path, ...] = ()
        self._dtype = torch.float32
        self._model: weakref.ref[nn.Module] | None = None

    @property
    def is_serializable(self) -> Any:
        """``save_pretrained`` works."""
        return True

    @property
    def is_trainable(self) -> Any:
        """Adapters can be trained on top."""
        return True

    @property
    def is_compileable(self) -> bool:
        """Blocks compile in one graph."""
        return True

    @property
    def supports_parallel_loading(self) -> bool:
        """The files are read here, one after the other."""
        return False

    def update_torch_dtype(self, torch_dtype: Any) -> Any:
        """Take note of the dtype to compute in; stored codewords keep theirs."""
        if torch_dtype is not None:
            self._dtype = torch_dtype
        return torch_dtype

    def maybe_update_loaded_keys(
        self, loaded_keys: list[str], checkpoint_files: list[str]
    ) -> list[str]:
        """Keep diffusers from filling the model: the files are read here."""
        self._files = tuple(Path(file) for file in checkpoint_files)
        return [] if self.pre_quantized else loaded_keys

    def update_missing_keys(self, model: Any, missing_keys: list[str], prefix: str) -> list[str]:
        """Say that nothing is missing of a model that was filled here."""
        return [] if self.pre_quantized else missing_keys

    def maybe_update_state_dict(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """Leave diffusers nothing of a model that was filled here."""
        return {} if self.pre_quantized else state_dict

    def get_state_dict_and_metadata(
        self, state_dict: dict[str, Any], safe_serialization: bool = False
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what is to be stored: shared codebooks and embedders once, in their own dtypes.

        Raises
        ------
        CheckpointError
            If it is to be pickled, or if a value was trained to what its dtype in the file cannot
            hold.
        """
        if not safe_serialization:
            raise CheckpointError("compressed models are saved as safetensors only")
        model = None if self._model is None else self._model()
        if model is None:
            raise CheckpointError("this quantizer belongs to no model: load or compress one first")
        quantization, tensors = stored_form(model, self._provenance())
        if quantization.to_dict() != self.quantization_config.to_dict():
            raise CheckpointError(
                "layers of the model were replaced after it was loaded: save it with "
                "dpqlab.checkpoint.save_compressed, which writes the config anew"
            )
        return tensors, {}

    def _process_model_before_weight_loading(self, model: Any, **kwargs: Any) -> None:
        self._model = weakref.ref(model)
        if not self.pre_quantized:
            return
        document = QuantizationConfig.from_dict(self.quantization_config.to_dict())
        fill_(model, document, _read(self._files), self._dtype)
        model.register_to_config(quantization_config=self.quantization_config)

    def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> None:
        # diffusers only warns of what it did not find
        empty = sorted(name for name, value in model.state_dict().items() if value.is_meta)
        if empty:
            raise CheckpointError(
                f"the files lack {empty[0]!r} ({len(empty)} tensors in all): expected every tensor "
                "of the model"
            )
        if self.pre_quantized:
            return
        config: DPQConfig = self.quantization_config
        assert config.preset is not None
        with suppress(ConfigError):  # embedders that differ were trained so, and stay
            tie_embedders_(model)
        compress_(model, preset_of(config.preset), seed=config.seed)
        provenance = {"preset": config.preset, "seed": config.seed}
        document = stored_form(model, provenance)[0].to_dict()
        self.quantization_config = DPQConfig(document=document)
        self.pre_quantized = True
        model.register_to_config(quantization_config=self.quantization_config)

    def _dequantize(self, model: Any) -> Any:
        """Put dense Linears in the place of compressed ones, their weights decoded."""
        for module in {m for m in model.modules() if isinstance(m, PackedLinear)}:
            dense = _dense(module)
            for name in [n for n, m in model.named_modules(remove_duplicate=False) if m is module]:
                model.set_submodule(name, dense)
        untie_embedders_(model)  # diffusers saves a copy for each block, and refuses shared ones
        # the document would be saved, and a dense file read as a compressed one
        kept = {k: v for k, v in model.config.items() if k != "quantization_config"}
        model._internal_dict = FrozenDict(kept)
        return model

    def _provenance(self) -> dict[str, Any]:
        return dict(self.quantization_config.to_dict().get("provenance", {}))


def _read(files: tuple[Path, ...]) -> dict[str, Tensor]:
    """Read the weight files, their hashes checked if they lie in a folder that dpqlab wrote."""
    tensors: dict[str, Tensor] = {}
    for file in files:
        folder = file.parent.parent
        path = f"{file.parent.name}/{file.name}"
        records = check_listing(folder) if (folder / MANIFEST).is_file() else {}
        tensors |= read_shard(folder, path, records.get(path))
    return tensors


def _dense(module: PackedLinear) -> nn.Linear:
    dtype, device = module.compute_dtype, module.weight.device
    with torch.device("meta"):
        linear = nn.Linear(module.in_features, module.out_features, bias=module.bias is not None)
    linear.weight = nn.Parameter(module.decode(dtype).to(device))
    if module.bias is not None:
        linear.bias = nn.Parameter(module.bias.detach().to(dtype))
    return linear.train(module.training)


auto.AUTO_QUANTIZER_MAPPING[QUANT_METHOD] = DPQQuantizer
auto.AUTO_QUANTIZATION_CONFIG_MAPPING[QUANT_METHOD] = DPQConfig
