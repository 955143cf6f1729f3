"""``dpqlab convert``: the original DiT's ``.pt`` as a folder that diffusers and dpqlab read."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from dpqlab import __version__
from dpqlab.checkpoint.convert import Converted, convert_original, read_original, write_dense
from dpqlab.commands.licences import licence_field, licence_text
from dpqlab.commands.loading import quieten
from dpqlab.commands.terminal import Terminal, add_json_argument, megabytes
from dpqlab.errors import ConfigError

EXAMPLES = """examples:
  dpqlab convert DiT-XL-2-256x256.pt DiT-XL-2-256 --licence cc-by-nc-4.0
  dpqlab compress DiT-XL-2-256 out/xl --preset best-1bit

OUT is the folder of a DiTTransformer2DModel: config.json, safetensors, and a card. Values are
copied as they are, or rounded to --dtype; each block has its copy of the embedder, as diffusers
wants it, which dpqlab stores once. diffusers spaces the frequencies of the timestep otherwise than
the original code: docs/diffusers.md says what follows from that.

A .pt is a file of pickles. It is read with PyTorch's weights_only, which builds tensors and calls
nothing; still, take it from where you trust. Meta publishes its DiTs under CC-BY-NC 4.0.
"""
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
CARD = """---
library_name: diffusers
{licence}tags: [dit]
---

# {name}

`{source}`, a class-conditional DiT of the original code (arXiv 2212.09748), with the names and
shapes of diffusers' `DiTTransformer2DModel`; converted by dpqlab {version}, in {dtype}.

{rights}

diffusers spaces the frequencies of the timestep's embedding by `downscale_freq_shift=1`, the
original code by 0: outputs are those of diffusers' class, not those of the original code.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the description and the arguments."""
    parser.description = "Convert an original DiT checkpoint into a folder of diffusers."
    parser.epilog = EXAMPLES
    parser.add_argument("source", metavar="CHECKPOINT", type=Path, help="the .pt file")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to write")
    parser.add_argument(
        "--heads", type=int, metavar="N", help="attention heads, where the width does not tell"
    )
    parser.add_argument(
        "--dtype", choices=DTYPES, default="float32", help="of the weights (float32)"
    )
    parser.add_argument(
        "--licence", "--license", metavar="TEXT", type=licence_text, help="of the weights"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it is there")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Convert, and say what came of it."""
    terminal = Terminal(as_json=args.json)
    if args.out.exists() and not args.overwrite:
        raise ConfigError(f"{args.out} exists: choose another folder, or pass --overwrite")
    quieten()
    converted = convert_original(read_original(args.source), heads=args.heads)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    card = card_of(args.out.name, args.source.name, args.licence, args.dtype)
    write_dense(converted, args.out, card, dtype=DTYPES[args.dtype])
    summary = summary_of(converted)
    if args.json:
        terminal.emit(summary | {"out": str(args.out), "licence": args.licence})
        return 0
    stored = sum(file.stat().st_size for file in args.out.iterdir())
    terminal.say(
        f"{args.out}: {summary['layers']} blocks of width {summary['width']}, "
        f"{summary['parameters']:,} parameters with one embedder, {megabytes(stored)}"
    )
    if args.licence is None:
        terminal.say("the card names no licence: find it out, and pass it as --licence")
    terminal.say(f"next: dpqlab plan {args.out} --preset best-1bit")
    return 0


def card_of(name: str, source: str, licence: str | None, dtype: str) -> str:
    """Write the README.md of a converted folder."""
    rights = (
        f"Licence of the weights: {licence}."
        if licence
        else "The licence of the weights is not stated here: find it out before you pass them on."
    )
    return CARD.format(
        licence=licence_field(licence),
        name=name,
        source=source,
        version=__version__,
        dtype=dtype,
        rights=rights,
    )


def summary_of(converted: Converted) -> dict[str, int]:
    """Return what the model is, as JSON values; the embedder counts once."""
    config = converted.config
    parameters = sum(
        tensor.numel()
        for name, tensor in converted.state.items()
        if ".norm1.emb." not in name or name.startswith("transformer_blocks.0.")
    )
    return {
        "layers": config["num_layers"],
        "width": config["num_attention_heads"] * config["attention_head_dim"],
        "classes": config["num_embeds_ada_norm"],
        "sample_size": config["sample_size"],
        "parameters": parameters,
    }
