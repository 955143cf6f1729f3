"""Where and for whom the app runs."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from dpqlab.errors import ConfigError
from dpqlab_app.serving.addresses import is_loopback

SHORTEST_PASSWORD = 8


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """Where and for whom the app runs.

    Attributes
    ----------
    folders
        Compressed models of one's own, beside the bundled ones.
    host, port
        What to listen on; None takes the first free port from 7860 on, 0 any free one.
    names
        Further names by which the app is called, behind a proxy or in a network's DNS.
    password
        What visitors must know. Required as soon as anyone but this machine can connect.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"`` and so on.
    browser
        Whether to open the page in a browser.

    Raises
    ------
    ConfigError
        For a port out of range, a short password, or an open door without one.
    """

    folders: tuple[Path, ...] = ()
    host: str = "127.0.0.1"
    port: int | None = None
    names: tuple[str, ...] = ()
    password: str | None = field(default=None, repr=False)
    device: str = "auto"
    browser: bool = True

    def __post_init__(self) -> None:
        if self.port is not None and not 0 <= self.port <= 65535:
            raise ConfigError(f"port {self.port} is out of range; expected 0 to 65535")
        if self.password is None and self.is_open:
            raise ConfigError(
                f"{', '.join((self.host, *self.names))} can be reached from other machines, so the "
                "app wants a password: write one to a file that only you can read, and give it "
                "with --password-file FILE. To stay on this machine, leave --host and --name out"
            )
        if self.password is not None and len(self.password) < SHORTEST_PASSWORD:
            raise ConfigError(
                f"the password has {len(self.password)} characters; "
                f"it needs {SHORTEST_PASSWORD} or more"
            )

    @property
    def is_open(self) -> bool:
        """Whether others than this machine's users can get there."""
        return not all(is_loopback(name) for name in (self.host, *self.names))


def read_password(path: Path) -> str:
    """The first line of a file that nobody but its owner can read.

    Raises
    ------
    ConfigError
        When it is empty, or others may read it.
    """
    if os.name == "posix" and path.stat().st_mode & 0o077:
        raise ConfigError(f"{path} can be read by others on this machine: chmod 600 {path}")
    first = path.read_text(encoding="utf-8").partition("\n")[0].strip()
    if not first:
        raise ConfigError(f"{path}: its first line is empty; it should hold the password")
    return first
