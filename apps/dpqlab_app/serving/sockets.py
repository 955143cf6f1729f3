"""What the server listens on."""

from __future__ import annotations

import ipaddress
import os
import socket

from dpqlab.errors import ConfigError

PORT = 7860
PORTS_TRIED = 20


def bind(host: str, port: int | None) -> socket.socket:
    """A socket that is bound, and not listening yet.

    Raises
    ------
    ConfigError
        When the port is taken, or the host is no address of this machine.
    """
    tried = range(PORT, PORT + PORTS_TRIED) if port is None else (port,)
    reason = ""
    for number in tried:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                host.strip("[]"), number, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
        except OSError as error:
            raise ConfigError(f"--host {host}: {error.strerror}; expected an address") from None
        bound = socket.socket(family, kind, protocol)
        if os.name == "posix":  # elsewhere it would let two programs share the port
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind(address)
            bound.listen(128)  # now, so that a second server cannot bind as well
            return bound
        except OSError as error:
            bound.close()
            reason = str(error.strerror)
    ports = str(port) if port is not None else f"{tried[0]} to {tried[-1]}"
    raise ConfigError(f"cannot listen on {host}, port {ports}: {reason}; choose another --port")


def address_of(bound: socket.socket) -> str:
    """The address to open on this machine."""
    host, port = bound.getsockname()[:2]
    ip = ipaddress.ip_address(host)
    if ip.is_unspecified:
        ip = ipaddress.ip_address("127.0.0.1")
    return f"http://[{ip}]:{port}" if ip.version == 6 else f"http://{ip}:{port}"
