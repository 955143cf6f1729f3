"""The quantizer that diffusers calls while it loads and saves a model.

diffusers casts every float tensor of a file to the dtype that was asked for, fills in tied modules
twice, and only warns of tensors that are missing. So what is stored is read and checked by
:mod:`dpqlab.checkpoint`, as everywhere in dpqlab; diffusers builds the model and places it.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.configuration_utils import FrozenDict
from diffusers.quantizers.base import DiffusersQuantizer
from torch import Tensor, nn

from dpqlab.checkpoint.install import fill_
from dpqlab.checkpoint.layout import MANIFEST
from dpqlab.checkpoint.manifest import check_listing
from dpqlab.checkpoint.model_config import MODEL_CLASS, model_config_of
from dpqlab.checkpoint.save import check_settings, stored_form
from dpqlab.checkpoint.schema import QuantizationConfig
from dpqlab.checkpoint.shards import read_shard
from dpqlab.diffusers.config import DPQConfig
from dpqlab.diffusers.coverage import Kept, compress_fitted_, float32_names
from dpqlab.errors import CheckpointError, ConfigError
from dpqlab.nn.accounting import set_storage_
from dpqlab.nn.embedder import untie_embedders_
from dpqlab.nn.packed import PackedLinear
from dpqlab.nn.presets import preset as preset_of


class DPQQuantizer(DiffusersQuantizer):
    """Called by diffusers while it loads and saves a model; nobody else needs it.

    Attributes
    ----------
    kept
        What was not compressed, and why, of a model that was compressed while it was loaded.
    """

    use_keep_in_fp32_modules = True
    requires_calibration = False

    def __init__(self, quantization_config: DPQConfig, **kwargs: Any) -> None:
        super().__init__(quantization_config, **kwargs)
        self._files: tuple[Path, ...] = ()
        self._dtype = torch.float32
        self._model: weakref.ref[nn.Module] | None = None
        self.kept: tuple[Kept, ...] = ()

    def validate_environment(self, *args: Any, **kwargs: Any) -> None:
        """Refuse what diffusers would do only in part.

        Raises
        ------
        ConfigError
            If a part of the model is to stay on disk.
        """
        device_map = kwargs.get("device_map")
        if isinstance(device_map, Mapping) and "disk" in device_map.values():
            raise ConfigError(
                "device_map leaves a part of the model on disk, in the files of a dense model: "
                "expected devices or 'cpu', which hold a compressed model"
            )

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
            If it is to be pickled, if a value was trained to what its dtype in the file cannot
            hold, or if a DiT was changed in a way that its config does not tell.
        """
        if not safe_serialization:
            raise CheckpointError("compressed models are saved as safetensors only")
        model = None if self._model is None else self._model()
        if model is None:
            raise CheckpointError("this quantizer belongs to no model: load or compress one first")
        quantization, tensors = stored_form(model, self.provenance())
        if quantization.to_dict() != self.quantization_config.to_dict():
            raise CheckpointError(
                "layers of the model were replaced after it was loaded: call "
                "dpqlab.diffusers.attach_(model), or save it with "
                "dpqlab.checkpoint.save_compressed, to write the config anew"
            )
        if type(model).__name__ == MODEL_CLASS:
            check_settings(model, model_config_of(model))
        return tensors, {}

    def _process_model_before_weight_loading(self, model: Any, **kwargs: Any) -> None:
        self._model = weakref.ref(model)
        if not self.pre_quantized:
            return
        document = QuantizationConfig.from_dict(self.quantization_config.to_dict())
        fill_(model, document, _read(self._files), self._dtype, float32_names(model))
        model.register_to_config(quantization_config=self.quantization_config)

    def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> None:
        # diffusers only warns of what it did not find
        tensors = (*model.named_parameters(), *model.named_buffers())
        empty = sorted(name for name, value in tensors if value.is_meta)
        if empty:
            raise CheckpointError(
                f"the files lack {empty[0]!r} ({len(empty)} tensors in all): expected every tensor "
                "of the model"
            )
        if self.pre_quantized:
            return
        if any(hasattr(module, "_hf_hook") for module in model.modules()):
            raise ConfigError(
                "device_map spreads the model over several devices while it is compressed: "
                "load it on one, save it, and spread what you load then"
            )
        config: DPQConfig = self.quantization_config
        assert config.preset is not None
        _, self.kept = compress_fitted_(model, preset_of(config.preset), config.seed)
        provenance = {"preset": config.preset, "seed": config.seed}
        self._belong_to(model, stored_form(model, provenance)[0].to_dict())

    @classmethod
    def for_model(cls, model: Any, provenance: Mapping[str, str | int | float]) -> DPQQuantizer:
        """Return a quantizer for a model that is compressed, and write the model's config."""
        document = stored_form(model, provenance)[0].to_dict()
        quantizer = cls(DPQConfig(document=document), pre_quantized=True)
        quantizer._belong_to(model, document)
        return quantizer

    def _belong_to(self, model: Any, document: dict[str, Any]) -> None:
        self._model = weakref.ref(model)
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
        notes = ("quantization_config", "_pre_quantization_dtype")
        model._internal_dict = FrozenDict({k: v for k, v in model.config.items() if k not in notes})
        vars(model).pop("quantization_method", None)
        set_storage_(model, None)
        return model

    def provenance(self) -> dict[str, Any]:
        """Return where the model comes from, as its config says."""
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
