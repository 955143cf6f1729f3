"""dpqlab in diffusers: ``import dpqlab.diffusers``, and diffusers loads what dpqlab compressed.

    import dpqlab.diffusers
    from diffusers import DiTTransformer2DModel

    model = DiTTransformer2DModel.from_pretrained("out/my-model", subfolder="transformer")
    model.save_pretrained("out/copy")

    config = dpqlab.diffusers.DPQConfig(preset="vq-2bit")  # compress while loading, without data
    model = DiTTransformer2DModel.from_pretrained("DiT-XL-2-256", subfolder="transformer",
                                                  quantization_config=config)

Importing this package registers the method with diffusers, in the two tables from which it chooses
quantizers; diffusers offers no other way. ``import dpqlab`` alone loads no diffusers.
"""

from diffusers.quantizers import auto

from dpqlab.checkpoint.schema import QUANT_METHOD
from dpqlab.diffusers.config import DPQConfig
from dpqlab.diffusers.coverage import Kept, kept_by, plan_for
from dpqlab.diffusers.in_memory import attach_, compress_model_
from dpqlab.diffusers.quantizer import DPQQuantizer
from dpqlab.diffusers.remote_code import add_remote_code

__all__ = [
    "DPQConfig",
    "DPQQuantizer",
    "Kept",
    "add_remote_code",
    "attach_",
    "compress_model_",
    "kept_by",
    "plan_for",
]

auto.AUTO_QUANTIZER_MAPPING[QUANT_METHOD] = DPQQuantizer
auto.AUTO_QUANTIZATION_CONFIG_MAPPING[QUANT_METHOD] = DPQConfig
