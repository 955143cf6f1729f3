from __future__ import annotations

import socket

import pytest

from dpqlab_app.serving.addresses import (
    Names,
    foreign_page,
    host_name,
    is_loopback,
    names_of,
    same_origin,
)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost"])
def test_loopback_is_this_machine(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "lab.example", "localhost.evil"])
def test_everything_else_is_open(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("localhost:7860", "localhost"),
        ("LOCALHOST", "localhost"),
        ("[::1]:7860", "::1"),
        ("127.0.0.1", "127.0.0.1"),
        ("", None),
        ("a b", None),
        ("localhost:7860:1", None),
        ("localhost:99999999", None),
        ("user@localhost", None),
        ("localhost/evil", None),
        ("localhost\r\nx: y", None),
    ],
)
def test_host_headers_are_read_strictly(header: str, name: str | None) -> None:
    assert host_name(header) == name


def test_a_local_server_goes_by_local_names_only() -> None:
    names = names_of("127.0.0.1")
    assert all(names.allow(f"{name}:7860") for name in ("localhost", "127.0.0.1", "[::1]"))
    assert not any(names.allow(name) for name in ("evil.example", "192.168.1.7", "0.0.0.0", ""))
    assert not names.allow("localhost.evil.example:7860")


def test_an_open_server_goes_by_addresses_and_given_names() -> None:
    """An address cannot be rebound; a name that was not given might be an attacker's."""
    names = names_of("0.0.0.0", ("Lab.Example",))
    assert names.allow("192.168.1.7:7860") and names.allow("[fe80::1]:7860")
    assert names.allow("lab.example") and names.allow(socket.gethostname())
    assert not names.allow("evil.example")


def test_a_server_on_one_address_goes_by_that_one() -> None:
    names = names_of("192.168.1.7")
    assert names.allow("192.168.1.7:7860") and not names.allow("192.168.1.8:7860")
    assert isinstance(names, Names)


@pytest.mark.parametrize(
    ("origin", "host", "same"),
    [
        ("http://localhost:7860", "localhost:7860", True),
        ("http://[::1]:7860", "[::1]:7860", True),
        ("https://lab.example", "lab.example", True),  # TLS ends at the proxy
        ("https://lab.example:443", "lab.example", True),
        ("http://localhost:8888", "localhost:7860", False),  # a notebook next door
        ("http://127.0.0.1:7860", "localhost:7860", False),
        ("http://evil.example", "localhost:7860", False),
        ("http://localhost.evil.example:7860", "localhost:7860", False),
        ("http://localhost:7860@evil.example", "localhost:7860", False),
        ("http://u@localhost:7860", "localhost:7860", False),
        ("http://localhost:7860/", "localhost:7860", False),
        ("null", "localhost:7860", False),
        ("", "localhost:7860", False),
        ("file://", "localhost:7860", False),
        ("http://localhost:x", "localhost:7860", False),
    ],
)
def test_only_pages_that_we_gave_out_are_ours(origin: str, host: str, same: bool) -> None:
    assert same_origin(origin, host) is same


@pytest.mark.parametrize(
    ("method", "headers", "passes"),
    [
        ("POST", {}, True),  # a program
        ("GET", {"sec-fetch-site": "none", "sec-fetch-mode": "navigate"}, True),  # address bar
        ("GET", {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, True),  # a link
        ("POST", {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, False),  # a form
        ("GET", {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}, False),  # an <img>
        ("GET", {"sec-fetch-site": "same-site", "sec-fetch-mode": "cors"}, False),  # another port
        ("POST", {"origin": "http://localhost:7860", "sec-fetch-site": "same-origin"}, True),
        ("POST", {"origin": "null", "sec-fetch-site": "same-origin"}, False),
    ],
)
def test_foreign_pages_may_link_here_and_nothing_else(
    method: str, headers: dict[str, str], passes: bool
) -> None:
    assert (foreign_page(headers | {"host": "localhost:7860"}, method) is None) is passes
