from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from dpqlab.errors import ConfigError
from dpqlab_app.serving.config import ServerConfig, read_password
from dpqlab_app.serving.sockets import PORT, PORTS_TRIED, address_of, bind


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "lab.example"])
def test_an_open_door_wants_a_password(host: str) -> None:
    with pytest.raises(ConfigError, match=r"--password-file"):
        ServerConfig(host=host)
    assert ServerConfig(host=host, password="long enough").is_open


def test_so_does_a_name_that_others_use() -> None:
    """Behind a proxy the app listens on this machine only, and is open all the same."""
    with pytest.raises(ConfigError, match=r"lab\.example"):
        ServerConfig(names=("lab.example",))
    assert ServerConfig(names=("lab.example",), password="long enough").is_open


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_this_machine_needs_none(host: str) -> None:
    assert not ServerConfig(host=host).is_open


def test_settings_are_checked_and_the_password_is_not_shown() -> None:
    with pytest.raises(ConfigError, match="8 or more"):
        ServerConfig(password="short")
    for port in (-1, 65536):
        with pytest.raises(ConfigError, match="0 to 65535"):
            ServerConfig(port=port)
    assert "long enough" not in repr(ServerConfig(password="long enough"))


def test_a_password_is_the_first_line_of_a_private_file(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text("long enough\nnotes\n")
    path.chmod(0o600)
    assert read_password(path) == "long enough"
    path.write_text("\nsecond line\n")
    with pytest.raises(ConfigError, match="first line is empty"):
        read_password(path)


@pytest.mark.skipif(os.name != "posix", reason="file modes are those of POSIX")
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_a_password_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "password"
    path.write_text("long enough\n")
    path.chmod(mode)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_password(path)


def test_a_port_that_is_taken_is_said_so() -> None:
    with bind("127.0.0.1", 0) as first:
        taken = first.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"port {taken}.*another --port"):
            bind("127.0.0.1", taken)


def test_without_a_port_the_first_free_one_is_taken() -> None:
    with bind("127.0.0.1", None) as first, bind("127.0.0.1", None) as second:
        ports = [first.getsockname()[1], second.getsockname()[1]]
    assert PORT <= ports[0] < ports[1] < PORT + PORTS_TRIED


def test_a_host_that_is_none_is_said_so() -> None:
    with pytest.raises(ConfigError, match="--host"):
        bind("not an address", 0)


@pytest.mark.parametrize(
    ("host", "url"), [("127.0.0.1", "http://127.0.0.1:"), ("0.0.0.0", "http://127.0.0.1:")]
)
def test_the_address_is_one_that_can_be_opened(host: str, url: str) -> None:
    with bind(host, 0) as bound:
        assert address_of(bound).startswith(url)


def has_ipv6() -> bool:
    """Whether this machine has an IPv6 loopback, asked without our own code."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="needs an IPv6 loopback")
def test_addresses_of_ipv6_stand_in_brackets() -> None:
    bound = bind("::1", 0)
    with bound:
        assert address_of(bound).startswith("http://[::1]:")
