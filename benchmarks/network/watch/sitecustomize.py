"""Counts what a Python process asks of other machines, and refuses it.

Python imports this by its name when the folder is on PYTHONPATH, before anything else, in child
processes and notebook kernels too. Each process leaves a line in the file that DPQLAB_WATCH names
when it starts, and one for every connection, message or question about a name that would leave
this machine. An audit hook sees what goes through Python's sockets; what C code opens on its own is
seen by :mod:`benchmarks.network.isolation`.
"""

from __future__ import annotations

import errno
import ipaddress
import json
import os
import sys
from typing import Any

LOG = os.environ.get("DPQLAB_WATCH")
# Where in an event's arguments the address or the name stands.
EVENTS = {
    "socket.connect": 1,
    "socket.sendto": 1,
    "socket.sendmsg": 1,
    "socket.getaddrinfo": 0,
    "socket.gethostbyname": 0,
    "socket.gethostbyaddr": 0,
    "socket.getnameinfo": 0,
}
LOCAL_NAMES = ("", "localhost")


def is_local(target: Any) -> bool:
    """Whether an address or a name means this machine: loopback, any, a Unix socket, nothing."""
    if isinstance(target, tuple):  # (host, port, ...) of an internet socket
        target = target[0] if target else None
    elif isinstance(target, str | bytes) and (not target or target[:1] in ("/", "\0", b"/", b"\0")):
        return True  # a Unix socket's path
    if target is None:
        return True
    host = target.decode(errors="replace") if isinstance(target, bytes) else str(target)
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host.lower() in LOCAL_NAMES
    return address.is_loopback or address.is_unspecified


def note(line: dict[str, Any]) -> None:
    """Append a line to the log; one write, so that processes do not mix theirs."""
    if LOG is None:
        return
    file = os.open(LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, (json.dumps(line | {"pid": os.getpid()}) + "\n").encode())
    finally:
        os.close(file)


def refuse(event: str, arguments: tuple[Any, ...]) -> None:
    """Audit hook: note what leaves this machine, and let it fail as without a network."""
    place = EVENTS.get(event)
    if place is None or len(arguments) <= place or is_local(arguments[place]):
        return
    note({"event": event, "target": repr(arguments[place])[:200]})
    raise OSError(errno.ENETUNREACH, f"refused by the watch: {event} {arguments[place]!r}")


if LOG is not None:
    note({"event": "watching", "target": " ".join(sys.orig_argv)[:200]})
    sys.addaudithook(refuse)
