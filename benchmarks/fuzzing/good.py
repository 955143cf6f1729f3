"""Good folders, one for everything that can be stored: what a strict loader must spare.

The table is made by program: every sub-vector length with every codebook size, scope and scale,
pools that layers share, with tables and without, all dtypes, numbers of shards, models, schedulers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, Literal

import torch

from benchmarks.fuzzing.judge import disagreement
from benchmarks.fuzzing.seeds import (
    PROVENANCE,
    SCHEDULER_CONFIG,
    dense_dit,
    divide,
    index_,
    read_files,
)
from dpqlab.checkpoint import load_compressed
from dpqlab.checkpoint.save import save_compressed
from dpqlab.core import CodebookCodec, Codec, ScalarCodec
from dpqlab.errors import CheckpointError
from dpqlab.nn.plan import Plan
from dpqlab.nn.surgery import compress_

FloatName = Literal["bfloat16", "float16", "float32"]
FLOATS: tuple[FloatName, ...] = ("bfloat16", "float16", "float32")
SCALAR = ScalarCodec(bits=2, group_size=5)
SCHEDULERS = (
    {"_class_name": "DDPMScheduler", "num_train_timesteps": 50, "variance_type": "learned_range"},
    {"_class_name": "EulerDiscreteScheduler", "beta_schedule": "scaled_linear"},
    {
        "_class_name": "DPMSolverMultistepScheduler",
        "trained_betas": [0.1, 0.2],
        "algorithm_type": "x",
    },
)
MODELS: tuple[dict[str, Any], ...] = (
    {"num_layers": 3},
    {"attention_bias": False},
    {"activation_fn": "geglu"},
    {"activation_fn": "gelu"},
    {"norm_elementwise_affine": True},
    {"patch_size": 2},
    {"patch_size": 1, "sample_size": 3},
    {"in_channels": 3, "out_channels": 6},
    {"out_channels": None},
    {"attention_head_dim": 4, "num_attention_heads": 3},
    {"num_embeds_ada_norm": 1000},
    {"dropout": 0.1},
)


@dataclass(frozen=True, kw_only=True)
class Good:
    """How a good folder is made.

    Attributes
    ----------
    codec, leaf
        What is compressed, and how.
    settings
        Of the model, where it differs from the smallest.
    rest_dtype, bias_dtype
        What the kept parameters and the biases are stored as.
    shards
        Weight files.
    table
        Whether the layers pick from a common pool by tables.
    scheduler
        Its config.
    """

    codec: Codec
    leaf: str = "attn1.to_q"
    settings: Mapping[str, Any] = field(default_factory=dict)
    rest_dtype: FloatName = "bfloat16"
    bias_dtype: FloatName = "float16"
    shards: int = 1
    table: bool = False
    scheduler: Mapping[str, Any] = field(default_factory=lambda: SCHEDULER_CONFIG)

    @property
    def name(self) -> str:
        """What is in it."""
        stored = f"{self.rest_dtype}/{self.bias_dtype}, {self.shards} shards"
        more = f"{dict(self.settings)}, {self.scheduler['_class_name']}"
        return f"{self.codec.describe()}{' table' * self.table}, {self.leaf}, {stored}, {more}"


def good_folders() -> Iterator[Good]:
    """Yield them all, 200 and some more."""
    yield from (Good(codec=codec) for codec in _alone())
    yield from _shared()
    for bits, size in product(range(1, 9), (1, 5, 16)):
        yield Good(codec=ScalarCodec(bits=bits, group_size=size))
    scaled = CodebookCodec(d=4, k=10, row_scale=True, iterations=1)
    for codec, rest, bias in product((scaled, SCALAR), FLOATS, FLOATS):
        yield Good(codec=codec, leaf="ff.net.2", rest_dtype=rest, bias_dtype=bias)
    for codec, shards in product((scaled, SCALAR), (2, 3, 7, 20)):
        yield Good(codec=codec, shards=shards)
    yield from (Good(codec=scaled, scheduler=scheduler) for scheduler in SCHEDULERS)
    for settings, leaf in product(MODELS, ("attn1.to_out.0", "norm1.linear")):
        yield Good(codec=scaled, settings=settings, leaf=leaf)


def trouble(good: Good, folder: Path) -> str | None:
    """Make a folder, load it, and say what is wrong: refused, or not what was saved.

    What was loaded is compared with the model that was saved, bit by bit, and with numpy's reading.
    """
    model = dense_dit(good.settings)
    rules = {good.leaf: good.codec, "*": None}
    compress_(model, Plan.for_blocks(rules, rest_dtype=good.rest_dtype, bias_dtype=good.bias_dtype))
    if good.table:
        index_(model, good.leaf)
    save_compressed(
        model,
        folder,
        scheduler_config=good.scheduler,
        provenance=PROVENANCE,
        card="x",
    )
    if good.shards > 1:
        divide(folder, good.shards)
    try:
        loaded = load_compressed(folder)
    except CheckpointError as error:
        return str(error)
    before, after = model.state_dict(), loaded.state_dict()
    if before.keys() != after.keys():
        return f"other tensors: {sorted(before.keys() ^ after.keys())}"
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    return f"{changed} changed" if changed else disagreement(loaded, read_files(folder))


def _alone() -> Iterator[Codec]:
    """Codecs of layers with codebooks of their own: k = 200 is more than some scopes can fill."""
    scopes: tuple[dict[str, Any], ...] = (
        {"scope": "position"},
        {"scope": "group", "group": 3},
        {"scope": "layer"},
    )
    for d, k, scope, scaled in product((1, 3, 4, 5, 16), (2, 10, 200), scopes, (False, True)):
        if scope.get("group", 1) <= -(-16 // d):  # no more positions to a group than there are
            yield CodebookCodec(d=d, k=k, row_scale=scaled, iterations=1, **scope)


def _shared() -> Iterator[Good]:
    """Pools that the layers of two blocks share."""
    two = {"num_layers": 2}
    for d, k, scaled in product((3, 4), (2, 10, 40), (False, True)):
        common: dict[str, Any] = {"d": d, "k": k, "row_scale": scaled, "iterations": 1}
        kind = CodebookCodec(across="kind", **common)
        yield Good(codec=kind, settings=two)
        yield Good(codec=CodebookCodec(across="kind", scope="layer", **common), settings=two)
        yield Good(codec=CodebookCodec(across="model", scope="layer", **common), settings=two)
        if (d, k) == (4, 10):
            for leaf in ("attn1.to_q", "norm1.linear"):
                yield Good(codec=kind, settings=two, table=True, leaf=leaf)
