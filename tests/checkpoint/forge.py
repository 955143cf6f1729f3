"""A small compressed model, and tools to forge its folder so that all hashes still fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from dpqlab.checkpoint.layout import CONFIG, MANIFEST, SCHEDULER, SINGLE_SHARD
from dpqlab.checkpoint.manifest import FileRecord, manifest_bytes, sha256_of
from dpqlab.core import CodebookCodec, Pool, ScalarCodec, encode
from dpqlab.nn.embedder import tie_embedders_
from dpqlab.nn.plan import Plan
from dpqlab.nn.surgery import compress_
from tests.tiny import TINY

PQ = CodebookCodec(d=4, k=10, row_scale=True, iterations=2)
KIND = CodebookCodec(d=4, k=16, scope="layer", across="kind", iterations=2)
RAGGED = CodebookCodec(d=4, k=80, scope="group", group=3, iterations=2)
VQ = CodebookCodec(d=3, k=200, scope="layer", iterations=2)
TABLED = CodebookCodec(d=4, k=10, across="kind", row_scale=True, iterations=2)
RTN = ScalarCodec(bits=3, group_size=12)

PLAN = Plan.for_blocks(
    {
        "attn1.to_k": KIND,
        "attn1.to_v": RAGGED,
        "attn1.to_out.0": None,
        "ff.net.0.proj": RTN,
        "ff.net.2": VQ,
        "norm1.linear": TABLED,
        "*": PQ,
    }
)
BLOCK = "transformer_blocks.0"
QUERY = f"{BLOCK}.attn1.to_q"  # PQ with row scales, k = 10 in 4 bits
KEY = f"{BLOCK}.attn1.to_k"  # owns the pool of its kind
VALUE = f"{BLOCK}.attn1.to_v"  # ragged: 96, 96 and 64 sub-vectors for three codebooks
UP = f"{BLOCK}.ff.net.0.proj"  # round to nearest
SHIFT = f"{BLOCK}.norm1.linear"  # owns an indexed pool, 50 codewords for 8 codebooks of 10 codes
OTHER_SHIFT = "transformer_blocks.1.norm1.linear"  # shares it; its first codebook has 3 codes

SCHEDULER_CONFIG = {"_class_name": "DDIMScheduler", "num_train_timesteps": 1000, "beta_end": 0.02}
PROVENANCE = {"source": "random weights", "seed": 0, "loss": 0.5}

Edit = Callable[[Path], None]


def dense_dit(**settings: Any) -> nn.Module:
    """A random DiT with two blocks of width 32 and one embedder."""
    from diffusers import DiTTransformer2DModel

    torch.manual_seed(0)
    model = DiTTransformer2DModel(**(TINY | settings)).eval()
    for block in model.transformer_blocks[1:]:
        block.norm1.emb.load_state_dict(model.transformer_blocks[0].norm1.emb.state_dict())
    tie_embedders_(model)
    return model


def compressed_dit(plan: Plan = PLAN, **settings: Any) -> nn.Module:
    model = dense_dit(**settings)
    compress_(model, plan)
    if plan is PLAN:
        index_(model)
    return model


def index_(model: nn.Module) -> None:
    """Let the layers of TABLED pick from 50 codewords, each with a table of its own."""
    first = None
    for name, short in ((SHIFT, 10), (OTHER_SHIFT, 3)):
        layer: Any = model.get_submodule(name)
        sizes = torch.tensor([0, short] + [10] * (layer.positions - 1))
        table = torch.randint(50, (int(sizes.sum()),), generator=torch.Generator().manual_seed(0))
        entries = layer.pool.detach()[:50]
        pool = Pool(entries=entries, base=sizes.cumsum(0), table=table)
        encoded = encode(layer.decode(), layer.codec, pool)
        layer.set_pool_(encoded, pool_parameter=first)
        first = layer.pool


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(2, 1, 8, 8, generator=generator)
    return images, torch.tensor([5, 900]), torch.tensor([1, 10])


def seal(folder: Path) -> None:
    """Write the manifest anew for what is there: what a forger would do."""
    records = {}
    for file in sorted(folder.rglob("*")):
        path = file.relative_to(folder).as_posix()
        if file.is_file() and path != MANIFEST:
            data = file.read_bytes()
            records[path] = FileRecord(size=len(data), sha256=sha256_of(data))
    (folder / MANIFEST).write_bytes(manifest_bytes(records))


def json_edit(path: str, change: Callable[[Any], object]) -> Edit:
    """An edit of a JSON file: ``change`` mutates its value."""

    def edit(folder: Path) -> None:
        value = json.loads((folder / path).read_bytes())
        change(value)
        (folder / path).write_text(json.dumps(value))
        seal(folder)

    return edit


def config_edit(change: Callable[[Any], object]) -> Edit:
    """An edit of quantization_config."""
    return json_edit(CONFIG, lambda value: change(value["quantization_config"]))


def model_edit(**settings: Any) -> Edit:
    """An edit of the model's settings."""
    return json_edit(CONFIG, lambda value: value.update(settings))


def scheduler_edit(**settings: Any) -> Edit:
    return json_edit(SCHEDULER, lambda value: value.update(settings))


def layer_edit(name: str, **settings: Any) -> Edit:
    return config_edit(lambda value: value["layers"][name].update(settings))


def codec_edit(name: str, **settings: Any) -> Edit:
    return config_edit(lambda value: value["layers"][name]["codec"].update(settings))


def tensor_edit(change: Callable[[dict[str, torch.Tensor]], object]) -> Edit:
    """An edit of the stored tensors."""

    def edit(folder: Path) -> None:
        tensors = load_file(folder / SINGLE_SHARD)
        change(tensors)
        save_file(tensors, folder / SINGLE_SHARD, metadata={"format": "pt"})
        seal(folder)

    return edit


def value_edit(name: str, index: int, value: float) -> Edit:
    """Set one stored number."""

    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[name].view(-1)[index] = value

    return tensor_edit(change)


def bytes_edit(path: str, change: Callable[[bytes], bytes]) -> Edit:
    """An edit of the raw bytes of a file."""

    def edit(folder: Path) -> None:
        (folder / path).write_bytes(change((folder / path).read_bytes()))
        seal(folder)

    return edit


def header_edit(change: Callable[[dict[str, Any]], object]) -> Edit:
    """An edit of a safetensors header; ``change`` mutates it."""

    def edit_bytes(data: bytes) -> bytes:
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        change(header)
        text = json.dumps(header).encode()
        return len(text).to_bytes(8, "little") + text + data[8 + length :]

    return bytes_edit(SINGLE_SHARD, edit_bytes)


def file_edit(path: str, content: bytes | str = b"x") -> Edit:
    """Add or replace a file."""

    def edit(folder: Path) -> None:
        data = content.encode() if isinstance(content, str) else content
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
        seal(folder)

    return edit
