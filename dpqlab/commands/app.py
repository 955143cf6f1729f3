"""``dpqlab app``: draw with full precision and with one bit, side by side, in a browser."""

from __future__ import annotations

import argparse
from pathlib import Path

from dpqlab.commands.drawing import add_device_argument
from dpqlab.commands.terminal import Terminal, add_json_argument
from dpqlab.kernels.devices import device_of


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Open a page on which full precision and compressed models draw the same pictures, step by "
        "step; Ctrl-C ends it. It answers this machine alone, unless --host or --name opens it to "
        "others, who then need a password (any user name will do) and get ten drawings a minute. "
        "Nothing is uploaded, shared or sent anywhere."
    )
    parser.add_argument(
        "folders", nargs="*", type=Path, metavar="FOLDER", help="models of your own to offer too"
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="address to listen on (127.0.0.1; 0.0.0.0 is all)",
    )
    parser.add_argument(
        "--port", type=int, metavar="N", help="port (the first free one from 7860 on; 0: any)"
    )
    parser.add_argument(
        "--name",
        action="append",
        default=[],
        metavar="NAME",
        help="further name by which visitors call the app, such as a proxy's; repeatable",
    )
    parser.add_argument(
        "--password-file",
        type=Path,
        metavar="FILE",
        help="file whose first line visitors must know; only its owner may read it",
    )
    add_device_argument(parser)
    parser.add_argument(
        "--no-browser", action="store_true", help="do not open a browser, print the address only"
    )
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C."""
    device_of(args.device)  # refuses one that is not there, before anything is loaded
    # the only import of the app in the package, and gradio's: `dpqlab` works without either
    from dpqlab_app.serving.config import ServerConfig, read_password
    from dpqlab_app.serving.server import Started, serve

    terminal = Terminal(as_json=args.json)
    config = ServerConfig(
        folders=tuple(args.folders),
        host=args.host,
        port=args.port,
        names=tuple(args.name),
        password=None if args.password_file is None else read_password(args.password_file),
        device=args.device,
        browser=not args.no_browser,
    )

    def started(what: Started) -> None:
        if args.json:
            terminal.emit({"url": what.url, "open": config.is_open})
            return
        terminal.say(f"dpqlab is at {what.url}    (Ctrl-C ends it)")
        if config.is_open:
            terminal.say(
                "Others can connect. The password crosses the network as it is: on one that you do "
                "not trust, put a proxy with TLS in front."
            )

    terminal.say("Preparing the page ...")
    serve(config, started)
    return 0
