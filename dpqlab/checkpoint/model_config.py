"""Model, scheduler and pipeline configs: closed schemas, closed tables of classes, size limits.

A folder names classes; it cannot make dpqlab import anything. What a config asks for is bounded
before a model is built from it, and the model is built without memory for its weights.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from dpqlab.checkpoint.documents import (
    NUMBER,
    Json,
    as_list,
    as_object,
    bounded,
    closed,
    one_of,
    shown,
)
from dpqlab.errors import CheckpointError

MAX_DECODED_BYTES = 8 * 2**30
"""Most bytes that a model may take in float32, every block with its own embedder (XL/2: 3.0 GB)."""

MAX_TOKENS = 2**14
"""Most patches of an image: their position embeddings are computed, so no file has to be large."""

MODEL_CLASS = "DiTTransformer2DModel"
PIPELINE_CLASS = "PixelDiTPipeline"
SCHEDULERS = (
    "DDIMScheduler",
    "DDPMScheduler",
    "DPMSolverMultistepScheduler",
    "EulerDiscreteScheduler",
)
ACTIVATIONS = (
    "gelu",
    "gelu-approximate",
    "geglu",
    "geglu-approximate",
    "swiglu",
    "linear-silu",
)

_FIELDS: dict[str, type | tuple[type, ...]] = {
    "num_attention_heads": int,
    "attention_head_dim": int,
    "in_channels": int,
    "out_channels": (int, type(None)),
    "num_layers": int,
    "dropout": NUMBER,
    "norm_num_groups": int,
    "attention_bias": bool,
    "sample_size": int,
    "patch_size": int,
    "activation_fn": str,
    "num_embeds_ada_norm": int,
    "upcast_attention": bool,
    "norm_type": str,
    "norm_elementwise_affine": bool,
    "norm_eps": NUMBER,
}
_LIMITS: dict[str, tuple[float, float]] = {
    "num_attention_heads": (1, 256),
    "attention_head_dim": (1, 4096),
    "in_channels": (1, 1024),
    "out_channels": (1, 1024),
    "num_layers": (1, 256),
    "dropout": (0, 1),
    "norm_num_groups": (1, 4096),
    "sample_size": (1, 4096),
    "patch_size": (1, 1024),
    "num_embeds_ada_norm": (1, 10_000_000),
    "norm_eps": (0, 1),
}
_VERSION = re.compile(r"[0-9A-Za-z.+\-]{1,40}")
_SETTING = re.compile(r"[a-z][a-z0-9_]{0,63}")
_WORD = re.compile(r"[A-Za-z0-9_+\-]{0,64}")


def model_config_of(model: nn.Module) -> dict[str, Json]:
    """Return the config of a diffusers DiT: the arguments that build it, and nothing else.

    Raises
    ------
    CheckpointError
        If the model is not of a class that dpqlab can build again.
    """
    config: Any = getattr(model, "config", None)
    if type(model).__name__ != MODEL_CLASS or not isinstance(config, Mapping):
        raise CheckpointError(
            f"a {type(model).__name__} cannot be saved: expected diffusers' {MODEL_CLASS}"
        )
    import diffusers

    values: dict[str, Json] = {key: config[key] for key in _FIELDS if key in config}
    full: dict[str, Json] = {
        "_class_name": MODEL_CLASS,
        "_diffusers_version": diffusers.__version__,
        **values,
    }
    return check_model_config(full)


def check_model_config(value: Json) -> dict[str, Json]:
    """Check transformer/config.json without its ``quantization_config``; return it.

    Raises
    ------
    CheckpointError
        For unknown or missing keys, wrong types, values out of bounds, or a model that would take
        more than :data:`MAX_DECODED_BYTES`.
    """
    what = "transformer/config.json"
    fields = closed(value, what, {"_class_name": str, "_diffusers_version": str, **_FIELDS})
    one_of(fields["_class_name"], f"{what}: _class_name", (MODEL_CLASS,))
    _check_version(fields, what)
    for key, (low, high) in _LIMITS.items():
        if fields[key] is not None:
            bounded(fields[key], f"{what}: {key}", low, high)
    one_of(fields["activation_fn"], f"{what}: activation_fn", ACTIVATIONS)
    one_of(fields["norm_type"], f"{what}: norm_type", ("ada_norm_zero",))
    bounded(fields["patch_size"], f"{what}: patch_size", 1, fields["sample_size"])
    tokens = (fields["sample_size"] // fields["patch_size"]) ** 2
    bounded(tokens, f"{what}: the number of patches", 1, MAX_TOKENS)
    needed = decoded_bytes(fields)
    if needed > MAX_DECODED_BYTES:
        raise CheckpointError(
            f"{what} describes a model of {needed} bytes in float32: "
            f"expected at most {MAX_DECODED_BYTES}"
        )
    return fields


def dense_config_of(value: Json, what: str) -> dict[str, Json]:
    """Check the config of a full-precision DiT as diffusers writes it; return our own of it.

    What it leaves out has diffusers' defaults, what means nothing to a DiT is dropped. Older
    folders name ``Transformer2DModel``, which was many models at once.

    Raises
    ------
    CheckpointError
        If it is the config of another model, or has a value that no DiT can have.
    """
    import diffusers

    library: Any = diffusers
    given = as_object(value)
    if given is None:
        raise CheckpointError(
            f"{what} is {shown(value)}: expected an object, the settings of a DiT"
        )
    name = given.get("_class_name", MODEL_CLASS)
    if name not in (MODEL_CLASS, "Transformer2DModel"):
        raise CheckpointError(
            f"{what} is that of a {shown(name)}: expected a {MODEL_CLASS}; other models are "
            "compressed in memory, by dpqlab.diffusers.compress_model_"
        )
    parameters = inspect.signature(library.DiTTransformer2DModel.__init__).parameters
    full = {key: given.get(key, parameters[key].default) for key in _FIELDS}
    return check_model_config(
        {"_class_name": MODEL_CLASS, "_diffusers_version": diffusers.__version__, **full}
    )


def decoded_bytes(config: Mapping[str, Json]) -> int:
    """Bound the float32 bytes of the dense model that a DiT config describes, from above."""
    width = config["num_attention_heads"] * config["attention_head_dim"]
    patch = config["patch_size"] ** 2
    channels = config["out_channels"] or config["in_channels"]
    tokens = (config["sample_size"] // config["patch_size"]) ** 2
    embedder = (256 + width + config["num_embeds_ada_norm"] + 4) * width
    matrices = 6 + 4 + 12  # adaLN, attention, feed-forward (with a gate)
    block = embedder + matrices * width * width + 32 * width
    ends = (2 * width + 2 + patch * (channels + config["in_channels"]) + 2) * width
    # the table of position embeddings is computed in float64 first
    return 4 * (config["num_layers"] * block + ends + patch * channels + 3 * tokens * width)


def build_skeleton(config: Mapping[str, Json]) -> nn.Module:
    """Build the DiT of a checked config on the meta device: no memory for weights.

    Raises
    ------
    CheckpointError
        If diffusers refuses the config, or is not installed.
    """
    try:
        import diffusers
    except ImportError as error:
        raise CheckpointError(
            f"loading a model needs diffusers ({shown(error)}): "
            "pip install -e '.[diffusers]' in the clone"
        ) from None
    library: Any = diffusers
    arguments = {key: config[key] for key in _FIELDS}
    try:
        with torch.device("meta"):
            return library.DiTTransformer2DModel(**arguments).eval()
    except Exception as error:
        raise CheckpointError(
            f"diffusers cannot build the model of transformer/config.json: {shown(error, 200)}"
        ) from None


def position_table(config: Mapping[str, Json]) -> torch.Tensor:
    """Compute the position embeddings (1, tokens, width), which diffusers never stores."""
    from diffusers.models.embeddings import PatchEmbed

    # PatchEmbed initialises a projection as well, in vain; nobody's random numbers change by it
    with torch.random.fork_rng(devices=[]):  # pyright: ignore[reportUnknownMemberType]
        embed: Any = PatchEmbed(
            height=config["sample_size"],
            width=config["sample_size"],
            patch_size=config["patch_size"],
            in_channels=1,
            embed_dim=config["num_attention_heads"] * config["attention_head_dim"],
        )
    return embed.pos_embed


def check_scheduler_config(value: Json) -> dict[str, Json]:
    """Check scheduler/scheduler_config.json: a known class, and plain bounded values.

    Raises
    ------
    CheckpointError
        For an unknown class or a value that no scheduler of the table takes.
    """
    what = "scheduler/scheduler_config.json"
    fields = as_object(value)
    if fields is None or type(fields.get("_class_name")) is not str:
        raise CheckpointError(f"{what} names no scheduler class")
    one_of(fields["_class_name"], f"{what}: _class_name", SCHEDULERS)
    _check_version(fields, what)
    bounded(len(fields), f"{what}: the number of keys", 1, 100)
    for key, item in fields.items():
        if not (key in ("_class_name", "_diffusers_version") or _SETTING.fullmatch(key)):
            raise CheckpointError(f"{what} has the key {shown(key)}: expected a setting's name")
        _check_setting(item, f"{what}: {key}")
    steps = fields.get("num_train_timesteps", 1000)
    if type(steps) is not int:
        raise CheckpointError(f"{what}: num_train_timesteps is {shown(steps)}: expected int")
    bounded(steps, f"{what}: num_train_timesteps", 1, 100_000)
    return fields


def scheduler_config_of(config: Mapping[str, Any]) -> dict[str, Json]:
    """Return what to store of a scheduler's config.

    ``config`` is ``json.loads(scheduler.to_json_string())``. diffusers' private notes are left out,
    and so is DPM-Solver's default ``lambda_min_clipped`` of minus infinity, which JSON cannot hold.
    """
    kept = {
        key: value
        for key, value in config.items()
        if (not key.startswith("_") or key in ("_class_name", "_diffusers_version"))
        and not (key == "lambda_min_clipped" and value == -float("inf"))
    }
    if "_diffusers_version" not in kept:
        import diffusers

        kept["_diffusers_version"] = diffusers.__version__
    return check_scheduler_config(kept)


def model_index(scheduler: str, version: str) -> dict[str, Json]:
    """Return the content of model_index.json."""
    return {
        "_class_name": PIPELINE_CLASS,
        "_diffusers_version": version,
        "scheduler": ["diffusers", scheduler],
        "transformer": ["diffusers", MODEL_CLASS],
    }


def check_model_index(value: Json, scheduler: str) -> None:
    """Check model_index.json: exactly what :func:`model_index` writes, for this scheduler."""
    what = "model_index.json"
    fields = closed(
        value,
        what,
        {"_class_name": str, "_diffusers_version": str, "scheduler": list, "transformer": list},
    )
    _check_version(fields, what)
    if fields != model_index(scheduler, fields["_diffusers_version"]):
        raise CheckpointError(
            f"{what} names other classes than {PIPELINE_CLASS}, {scheduler} and {MODEL_CLASS}"
        )


def _check_version(fields: Mapping[str, Json], what: str) -> None:
    version = fields.get("_diffusers_version")
    if type(version) is not str or not _VERSION.fullmatch(version):
        raise CheckpointError(f"{what}: _diffusers_version is {shown(version)}: expected a version")


def _check_setting(value: Json, what: str) -> None:
    if value is None or type(value) is bool:
        return
    if type(value) in NUMBER:
        bounded(value, what, -1e6, 1e6)
    elif type(value) is str:
        if not _WORD.fullmatch(value) and not what.endswith("_diffusers_version"):
            raise CheckpointError(f"{what} is {shown(value)}: expected a word")
    elif (items := as_list(value)) is not None:
        bounded(len(items), f"{what}: its length", 0, 100_000)
        for item in items:
            if type(item) not in NUMBER:
                raise CheckpointError(f"{what} holds {shown(item)}: expected numbers")
            bounded(item, what, -1e6, 1e6)
    else:
        raise CheckpointError(f"{what} is {shown(value)}: expected a plain value")
