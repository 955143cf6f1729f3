"""The ``dpqlab`` command: finds the subcommand, and turns errors into one line and an exit code.

Exit codes: 0 done, 2 bad input or something missing (one line on stderr says what), 130 stopped by
Ctrl-C, 143 by SIGTERM. A traceback means a bug in dpqlab. Only the module of the chosen command is
imported, so ``dpqlab --help`` answers at once.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import textwrap
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn, Protocol

from dpqlab import __version__
from dpqlab.commands.stopping import deaf, stop_code, terminable
from dpqlab.errors import ConfigError, DPQError

COMMANDS = {
    "models": "list the models that are bundled",
    "convert": "turn an original DiT checkpoint into a folder of diffusers",
    "compress": "compress a model with a preset or a codec of your own",
    "plan": "say what a preset would store of a model, without reading its weights",
    "prune": "show what fewer codewords save and cost, and keep as many as a budget allows",
    "calibrate": "train a compressed model until it does what its teacher does",
    "ablate": "run rows of the ablation: which part of the method earns what",
    "inspect": "say what a model stores, layer by layer, in bits",
    "sample": "draw images from one model, or from several with the same seed",
    "sample-many": "draw thousands of images into one file, on as many GPUs as there are",
    "trace": "record where a compressed model leaves its teacher, block by block, step by step",
    "evaluate": "measure how good and how true to its teacher a model is",
    "fid": "compute the Inception FID of such a file, with weights that you have",
    "bench": "measure kernels, sampling or k-means on this machine, beside their rivals",
    "app": "open a page on which full precision and one bit draw side by side",
    "demo": "compress the bundled model now and write a report to look at",
    "doctor": "say what this machine can do, and what is missing",
}

EXTRAS = {
    "rich": "cli",
    "plotly": "cli",
    "numba": "fast",
    "diffusers": "diffusers",
    "accelerate": "diffusers",
    "PIL": "diffusers",
    "gradio": "app",
    "dpqlab_app": "app",
}
"""The extra of the package that installs a module."""

EXIT_BAD_INPUT = 2
OUT_OF_MEMORY = (
    "memory ran out: close what else needs it, or ask for less at a time (fewer images, a smaller "
    "--batch); what was there is unchanged, and a command that has --resume can go on"
)


class Command(Protocol):
    """What a module of :mod:`dpqlab.commands` offers."""

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's description and arguments."""
        ...

    def run(self, args: argparse.Namespace) -> int:
        """Do it; return the exit code."""
        ...


class Help(argparse.HelpFormatter):
    """Wraps paragraphs, and leaves alone those that hold an indented line (examples)."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = text.strip("\n").split("\n\n")
        return "\n\n".join(
            part if "\n  " in part else textwrap.fill(part, width) for part in paragraphs
        )


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are a :class:`ConfigError`; options are never abbreviated."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"formatter_class": Help, "allow_abbrev": False} | settings)

    def error(self, message: str) -> NoReturn:
        """Refuse the arguments."""
        raise ConfigError(f"{message}; see `{self.prog} --help`")


def build_parser(chosen: str | None = None) -> Parser:
    """Build the parser; only the command ``chosen`` gets its arguments (and its imports)."""
    parser = Parser(
        prog="dpqlab",
        description="Shrink diffusion transformers to one bit per weight, and see how.",
        epilog="Start with `dpqlab demo`. `dpqlab COMMAND --help` explains a command.",
    )
    parser.add_argument("--version", action="version", version=f"dpqlab {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        subparser = commands.add_parser(name, help=summary)
        if name == chosen:
            module: Command = import_module(f"dpqlab.commands.{name.replace('-', '_')}")  # pyright: ignore
            module.configure(subparser)
            subparser.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    chosen = next((argument for argument in arguments if not argument.startswith("-")), None)
    prefix = f"dpqlab {chosen}" if chosen in COMMANDS else "dpqlab"
    stay_offline()
    try:
        with terminable():
            args = build_parser(chosen).parse_args(arguments)
            return args.run(args)
    except SystemExit as stop:  # --help and --version
        return stop.code if isinstance(stop.code, int) else 0
    except KeyboardInterrupt as stop:
        with deaf():
            return complain(prefix, "stopped", stop_code(stop))
    except BrokenPipeError:  # `dpqlab models | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + getattr(signal, "SIGPIPE", 13)
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        return complain(prefix, f"needs {error.name}: pip install -e '.[{extra}]' in the clone")
    except DPQError as error:
        return complain(prefix, str(error))
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return complain(prefix, f"{where}{error.strerror or error}")
    except (MemoryError, RuntimeError) as error:
        from dpqlab.core.memory import is_out_of_memory

        if not is_out_of_memory(error):
            raise
        return complain(prefix, OUT_OF_MEMORY)


def complain(prefix: str, message: str, code: int = EXIT_BAD_INPUT) -> int:
    """Write one line to stderr and return ``code``."""
    sys.stderr.write(f"{prefix}: {' '.join(message.split())}\n")
    return code


def stay_offline() -> None:
    """Keep the libraries below from the network and from printing.

    The user's own settings win, but for telemetry, which is off.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    # not a default but a decision: telemetry is never on
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
