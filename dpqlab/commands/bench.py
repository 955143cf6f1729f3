"""``dpqlab bench``: how fast it is on this machine, beside what one would use instead."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import compress
from pathlib import Path
from typing import Any, get_args

import torch
from rich.table import Table

from dpqlab import __version__
from dpqlab.checkpoint import is_compressed
from dpqlab.commands.drawing import add_device_argument
from dpqlab.commands.terminal import Terminal, megabytes
from dpqlab.diffusion.models import resolve
from dpqlab.errors import BackendError, ConfigError
from dpqlab.kernels.devices import device_of
from dpqlab.speed.rows import Result
from dpqlab.speed.suites import CPU_MODEL, Options, Piece, Suite, pieces_of

STDOUT = "-"
NOTHING = "-"

EXAMPLES = """examples:
  dpqlab bench sampler
  dpqlab bench kernels --presets dpq-1bit best-1bit
  dpqlab bench sampler --device cuda --images 1 8 --json sampler.json
  dpqlab bench kmeans --quick

Rivals take their turns in one run; what is shown are medians. Keep the machine idle meanwhile.
Ctrl-C keeps the rows so far.
"""

NOTES = {
    "kernels": (
        "limit: times as fast as dense that bytes, FLOPs and this device's copy and product allow; "
        "error: relative distance from the dense product with the decoded weights"
    ),
    "sampler": (
        "×: times as fast as a rival in the same turns; "
        "error: relative distance of a step from that of the plain model with the same weights; "
        "weights: everything resident, but for modulations made ahead"
    ),
    "kmeans": "CPU time of all threads; error: relative squared error that the codes leave",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Measure on this machine: the products with compressed weights (kernels), a whole guided "
        "step of sampling (sampler), or k-means (kmeans). On a GPU: DiT-XL/2 with random weights "
        f"in bf16; on a CPU: {CPU_MODEL} and the shapes of DiT-XL/2 in float32."
    )
    parser.epilog = EXAMPLES
    parser.add_argument("suite", choices=get_args(Suite), help="what to measure")
    parser.add_argument("--presets", nargs="+", default=[], metavar="NAME", help="whose codecs")
    parser.add_argument("--model", metavar="MODEL", help="full-precision model, instead of these")
    parser.add_argument(
        "--images", nargs="+", type=int, default=[], metavar="N", help="drawn at once (sampler)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="fewer presets, rounds and layers: a first impression"
    )
    add_device_argument(parser)
    parser.add_argument(
        "--json",
        nargs="?",
        const=STDOUT,
        metavar="FILE",
        help="write one JSON value to FILE, or to stdout (-, or no FILE) and talk to stderr",
    )


def run(args: argparse.Namespace) -> int:
    """Measure piece by piece, and show the rows that are done, whatever stops the rest."""
    terminal = Terminal(as_json=args.json == STDOUT)
    options, device = checked(args)
    results: list[Result] = []
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        pieces = pieces_of(args.suite, options)
        try:
            measure(pieces, results, terminal, args.suite)
        finally:
            if results:
                show(results, terminal, args.suite)
                report = described(results, args.suite, device)
                if args.json == STDOUT:
                    terminal.emit(report)
                elif args.json:
                    write_json(Path(args.json), report)
    return 0


def checked(args: argparse.Namespace) -> tuple[Options, torch.device]:
    """Refuse what can be seen to be wrong before anything is measured."""
    device = device_of(args.device)
    if device.type not in ("cpu", "cuda"):
        raise BackendError(f"--device is {device}: expected cpu or cuda; no other is timed")
    if args.json not in (None, STDOUT) and not Path(args.json).resolve().parent.is_dir():
        raise ConfigError(f"--json {args.json}: there is no such folder; make it first")
    if args.suite != "sampler" and args.images:
        raise ConfigError("--images is for `dpqlab bench sampler` only")
    if args.suite == "kmeans" and (args.presets or args.model):
        raise ConfigError("--presets and --model are not for `dpqlab bench kmeans`")
    if args.model is not None:
        if args.suite == "kernels" and device.type == "cuda":
            raise ConfigError(
                "--model is not for kernels on a GPU: they are timed at DiT-XL/2's shapes"
            )
        if is_compressed(resolve(args.model)):
            raise ConfigError(f"--model {args.model} is compressed: expected full precision")
    options = Options(
        device=device.type,
        presets=tuple(dict.fromkeys(args.presets)),
        model=args.model,
        images=tuple(dict.fromkeys(args.images)),
        quick=args.quick,
    )
    return options, device


def measure(pieces: Sequence[Piece], results: list[Result], terminal: Terminal, suite: str) -> None:
    """Append the results of all pieces that can run here."""
    with terminal.progress(f"Measuring {suite}", sum(piece.share for piece in pieces)) as meter:
        for piece in pieces:
            meter.advance(0, piece.title)
            try:
                results += piece.run()
            except BackendError as error:
                terminal.err.print(f"{piece.title}: left out ({error})")
            meter.advance(piece.share, piece.title)


def described(results: Sequence[Result], suite: str, device: torch.device) -> dict[str, Any]:
    """Return everything as JSON values."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return {
        "suite": suite,
        "device": name,
        "threads": torch.get_num_threads(),
        "versions": {"dpqlab": __version__, "torch": torch.__version__},
        "rows": [result.to_dict() for result in results],
    }


def write_json(file: Path, report: dict[str, Any]) -> None:
    """Write the JSON value into a file."""
    text = json.dumps(report, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    file.write_text(text, encoding="utf-8", newline="\n")


def show(results: Sequence[Result], terminal: Terminal, suite: str) -> None:
    """Lay the results out, one table a workload."""
    for work in dict.fromkeys(result.work for result in results):
        mine = [result for result in results if result.work == work]
        terminal.say(f"\n{work}", table_of(mine))
    terminal.say(f"\n{NOTES[suite]}")


def table_of(results: Sequence[Result]) -> Table:
    """Return the table of one workload; columns without a value are left out."""
    rivals = list(dict.fromkeys(name for result in results for name in result.ratios))
    titles = ("time", "±", *(f"× {name}" for name in rivals), "limit", "weights", "error")
    lines = [_cells(result, rivals) for result in results]
    shown = [any(line[i] != NOTHING for line in lines) for i in range(len(titles))]
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("how")
    for title in compress(titles, shown):
        table.add_column(title, justify="right")
    for result, line in zip(results, lines, strict=True):
        table.add_row(result.way, *compress(line, shown))
    return table


def _cells(result: Result, rivals: Sequence[str]) -> list[str]:
    timing = result.timing
    return [
        duration(timing.median),
        f"{timing.spread:.0%}" if len(timing.rounds) >= 4 else NOTHING,
        *(f"{result.ratios[name]:.2f}" if name in result.ratios else NOTHING for name in rivals),
        NOTHING if result.limit is None else f"{result.limit:.1f}",
        NOTHING if result.bytes is None else megabytes(result.bytes),
        NOTHING if result.error is None else f"{result.error:.1e}",
    ]


def duration(seconds: float) -> str:
    """Write a time in the unit that suits it.

    Examples
    --------
    >>> duration(0.000012345), duration(0.0345), duration(23.4)
    ('12.3 us', '34.5 ms', '23.4 s')
    """
    for factor, unit in ((1e6, "us"), (1e3, "ms")):
        if seconds * factor < 1000:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds:.3g} s"
