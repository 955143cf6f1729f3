"""``dpqlab fid``: the Inception FID of a sample file, with weights that the user has."""

from __future__ import annotations

import argparse
from pathlib import Path

from dpqlab.commands.drawing import add_device_argument
from dpqlab.commands.terminal import Terminal, add_json_argument
from dpqlab.errors import ConfigError
from dpqlab.evaluation.frechet import frechet_distance
from dpqlab.kernels.devices import device_of

EXAMPLES = """examples:
  dpqlab fid out/xl.npz VIRTUAL_imagenet256_labeled.npz --inception inception.safetensors

Needs torch-fidelity (`pip install -e '.[fid]'`) and the weights of its InceptionV3, which you fetch
and convert yourself: docs/many-gpus.md has the line. The number of images decides a FID as much as
the model does: papers draw 50,000.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Compute the Inception FID between the images of two sample files, such as `dpqlab "
        "sample-many` writes. A reference with mu and sigma, as ADM publishes them, is taken at "
        "its word."
    )
    parser.epilog = EXAMPLES
    parser.add_argument("samples", metavar="SAMPLES", type=Path, help="npz of images")
    parser.add_argument("reference", metavar="REFERENCE", type=Path, help="npz of images, or of mu")
    parser.add_argument(
        "--inception",
        required=True,
        metavar="FILE",
        type=Path,
        help="weights of torch-fidelity's InceptionV3, as safetensors",
    )
    add_device_argument(parser)
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Compute it."""
    from dpqlab.evaluation.inception import (
        digest_of,
        load_inception,
        reference_statistics,
        samples_statistics,
    )

    terminal = Terminal(as_json=args.json)
    for path in (args.samples, args.reference, args.inception):
        if not path.is_file():
            raise ConfigError(f"{path} is not there: expected a file")
    net = load_inception(args.inception, device_of(args.device))
    digest = digest_of(args.inception)
    reference = reference_statistics(net, args.reference, digest)
    found = samples_statistics(net, args.samples, digest)
    value = frechet_distance(found, reference)
    if args.json:
        terminal.emit(
            {
                "fid": value,
                "images": found.count,
                "samples": args.samples.name,
                "reference": args.reference.name,
                "inception_sha256": digest,
            }
        )
        return 0
    terminal.say(f"FID {value:.3f}: {found.count:,} images of {found.source} to {reference.source}")
    return 0
