"""By which names the server may be called, and from which pages: pure functions over headers.

A page of another site that is open in the visitor's browser can send requests to servers on the
visitor's machine (cross-site request forgery), and can even read the answers if its own name is
made to resolve to that machine (DNS rebinding). Both carry a name that is not ours: the first in
``Origin`` or ``Sec-Fetch-Site``, the second in ``Host``.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::(\d{1,5}))?")
_PORTS = {"http": "80", "https": "443"}


@dataclass(frozen=True, kw_only=True)
class Names:
    """What a ``Host`` header may say.

    Attributes
    ----------
    known
        Names and addresses, lower case, without port and brackets.
    any_address
        Whether any IP address will do: for a server on all interfaces. Rebinding needs a name.
    """

    known: frozenset[str]
    any_address: bool = False

    def allow(self, host: str) -> bool:
        """Whether ``host``, a header's value with or without a port, is one of these."""
        name = host_name(host)
        return name is not None and (name in self.known or (self.any_address and _is_address(name)))


def names_of(host: str, extra: Iterable[str] = ()) -> Names:
    """The names of a server bound to ``host``, and those that the operator adds.

    The machine's own name counts when the server can be reached from outside of it.
    """
    host = host.lower().strip("[]")
    known = LOOPBACK_NAMES | {host, *(name.lower().strip("[]") for name in extra)}
    wildcard = _is_address(host) and ipaddress.ip_address(host).is_unspecified
    if not is_loopback(host):
        machine = socket.gethostname().lower()
        known |= {machine, machine.partition(".")[0], f"{machine.partition('.')[0]}.local"}
    return Names(known=frozenset(known), any_address=wildcard)


def is_loopback(host: str) -> bool:
    """Whether ``host`` (name or address) can be reached from this machine alone."""
    host = host.strip("[]")
    if not _is_address(host):
        return host.lower() == "localhost"
    return ipaddress.ip_address(host).is_loopback


def host_name(host: str) -> str | None:
    """The name in a ``Host`` header, lower case, without port and brackets; None if malformed."""
    match = _HOST.fullmatch(host.lower())
    return match[1].strip("[]") if match else None


def foreign_page(headers: Mapping[str, str], method: str) -> str | None:
    """Say which foreign page a request comes from; None where it may pass.

    Programs send neither header. A browser's address bar, a bookmark or a link may open the page
    (``navigate`` with GET); nothing else may come from elsewhere, nor from another port of this
    machine.
    """
    origin = headers.get("origin")
    if origin is not None and not same_origin(origin, headers.get("host", "")):
        return "a page of another address"
    site = headers.get("sec-fetch-site", "none")
    opened = headers.get("sec-fetch-mode") == "navigate" and method in ("GET", "HEAD")
    if site not in ("none", "same-origin") and not opened:
        return "a page of another site"
    return None


def same_origin(origin: str, host: str) -> bool:
    """Whether a page at ``origin`` is one that this server gave out as ``host``.

    Examples
    --------
    >>> same_origin("http://localhost:7860", "localhost:7860")
    True
    >>> same_origin("http://localhost:8888", "localhost:7860"), same_origin("null", "localhost")
    (False, False)
    """
    try:
        parts = urlsplit(origin)
        port = str(parts.port or _PORTS[parts.scheme])
    except (ValueError, KeyError):
        return False
    match = _HOST.fullmatch(host.lower())
    if match is None or parts.hostname is None or parts.username or parts.path:
        return False
    # the scheme of the Host is not known behind a proxy: its default port follows the origin's
    return (parts.hostname, port) == (match[1].strip("[]"), match[2] or _PORTS[parts.scheme])


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
