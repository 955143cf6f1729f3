"""Run a command where there is no network but loopback, and let the kernel count who tried.

    unshare -rn python -m benchmarks.network.isolation REPORT COMMAND ...

In a network namespace of its own a process finds one interface, ``lo``, and no route. The kernel
counts what it cannot send for want of a route (``OutNoRoutes``), whoever tried: C libraries and
browsers too. A first try of our own proves that it counts. REPORT receives the counts as JSON.
Linux only; ``unshare`` comes with util-linux.
"""

from __future__ import annotations

import json
import shutil
import socket
import struct
import subprocess
import sys
from pathlib import Path

NOWHERE = ("192.0.2.1", 9)
"""An address that belongs to nobody (RFC 5737), and is out of reach in here in any case."""
_GET_FLAGS, _SET_FLAGS, _UP = 0x8913, 0x8914, 1


def command(report: Path, arguments: list[str]) -> list[str]:
    """The command that runs `arguments` in isolation and reports to `report`."""
    launch = [sys.executable, "-m", "benchmarks.network.isolation", str(report), *arguments]
    return ["unshare", "--map-root-user", "--net", *launch]


def why_not() -> str | None:
    """Why a namespace cannot be had here; None when it can."""
    if shutil.which("unshare") is None:
        return "there is no `unshare` here (Linux, util-linux)"
    tried = subprocess.run(
        ["unshare", "--map-root-user", "--net", "true"], check=False, capture_output=True, text=True
    )
    said = tried.stderr.strip() or f"exit code {tried.returncode}"
    return f"no network namespace is permitted here: {said}" if tried.returncode else None


def loopback_up() -> None:
    """Switch the interface ``lo`` on; in a new namespace it is off."""
    import fcntl  # not on Windows, where this module is imported for `why_not`

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        asked = struct.pack("16sh22x", b"lo", 0)
        (flags,) = struct.unpack_from("h", fcntl.ioctl(control, _GET_FLAGS, asked), 16)
        fcntl.ioctl(control, _SET_FLAGS, struct.pack("16sh22x", b"lo", flags | _UP))


def interfaces() -> list[str]:
    """Names of the network interfaces of this namespace."""
    return [name for _, name in socket.if_nameindex()]


def unsent() -> int:
    """How many packets the kernel of this namespace could not send for want of a route."""
    names, values = (
        line.split()
        for line in Path("/proc/self/net/snmp").read_text(encoding="ascii").splitlines()
        if line.startswith("Ip:")
    )
    count = int(values[names.index("OutNoRoutes")])
    newer = Path("/proc/self/net/snmp6")
    if newer.exists():
        lines = dict(line.split() for line in newer.read_text(encoding="ascii").splitlines())
        count += int(lines.get("Ip6OutNoRoutes", 0))
    return count


def canary() -> int:
    """Try to send to nowhere; what the kernel counted of it."""
    before = unsent()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        try:
            sender.sendto(b"canary", NOWHERE)
        except OSError:
            return unsent() - before
    raise RuntimeError("a packet left a namespace that should have no route")


def main(arguments: list[str]) -> int:
    """Isolate, prove, run, report; the exit code is the command's, 70 when nothing is proved."""
    report, *run = arguments
    loopback_up()
    if interfaces() != ["lo"]:
        # tunnels such as sit0 may stand there too, switched off and without a route
        routes = Path("/proc/self/net/route").read_text(encoding="ascii").splitlines()[1:]
        if routes:
            print(f"not isolated: interfaces {interfaces()}, routes {routes}", file=sys.stderr)
            return 70
    proof = canary()
    before = unsent()
    code = subprocess.run(run, check=False).returncode if proof else 70
    Path(report).write_text(
        json.dumps({"canary": proof, "attempts": unsent() - before, "code": code}), encoding="utf-8"
    )
    return code


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
