"""The watch sees what it must see, and nothing else; isolation has no way out."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace

import pytest

from benchmarks.network import __main__ as network
from benchmarks.network import isolation, parts
from benchmarks.record import latest
from benchmarks.reliability import verdict

ISOLATED = pytest.mark.skipif(
    sys.platform != "linux" or isolation.why_not() is not None, reason="no network namespaces here"
)
SEEN = network.Seen(code=0, seconds=1, watched=2, unsent=0, proved=True)
# A server and its client on this machine: allowed.
LOOPBACK = """
import socket
with socket.create_server(("127.0.0.1", 0)) as server:
    with socket.create_connection(("localhost", server.getsockname()[1])) as client:
        server.accept()[0].sendall(b"hello")
        print(client.recv(5))
"""
# A library in C that opens a connection: the hook cannot see it.
NATIVE = """
import ctypes, socket, struct
libc = ctypes.CDLL(None)
there = struct.pack("=H", socket.AF_INET) + struct.pack("!H4s8x", 9, bytes([192, 0, 2, 1]))
assert libc.connect(libc.socket(socket.AF_INET, socket.SOCK_STREAM, 0), there, len(there)) == -1
"""


@pytest.fixture(scope="module")
def hook():
    spec = importlib.util.spec_from_file_location("watch_hook", network.WATCH / "sitecustomize.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)  # without DPQLAB_WATCH it defines its functions, and no more
    return module


@pytest.mark.parametrize(
    "target",
    ["localhost", "127.0.0.1", "::1", "", None, b"localhost", ("127.0.0.1", 80), ("::1", 80, 0, 0),
     ("127.9.9.9", 1), ("0.0.0.0", 7860), "/run/socket", b"\0abstract", ("fe80::1%lo"[:0], 1)],
)  # fmt: skip
def test_this_machine_is_local(hook, target):
    assert hook.is_local(target)


@pytest.mark.parametrize(
    "target",
    ["huggingface.co", ("192.0.2.1", 80), ("2001:db8::1", 80, 0, 0), "10.0.0.1", b"api.gradio.app",
     "localhost.example.org", ("169.254.169.254", 80), ("fe80::1%eth0", 1, 0, 2)],
)  # fmt: skip
def test_others_are_not(hook, target):
    assert not hook.is_local(target)


def test_the_hook_sees_a_connection_and_refuses_it(tmp_path):
    assert network.unproved(tmp_path) is None


def test_a_watch_that_is_not_there_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(network, "WATCH", tmp_path / "empty")
    monkeypatch.setattr(network, "TRY", "raise SystemExit(1)")  # tries nothing
    assert "did not see a connection" in network.unproved(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="runs commands through env")
def test_loopback_is_no_connection(tmp_path):
    seen = network.watch([sys.executable, "-c", LOOPBACK], tmp_path, isolated=False)
    assert (seen.code, seen.watched, seen.refused) == (0, 1, [])
    assert "hello" in seen.said


@ISOLATED
def test_without_a_route_loopback_works(tmp_path):
    seen = network.watch([sys.executable, "-c", LOOPBACK], tmp_path, isolated=True)
    assert (seen.code, seen.connections, seen.proved) == (0, 0, True)


@ISOLATED
def test_the_kernel_sees_what_the_hook_does_not(tmp_path):
    seen = network.watch([sys.executable, "-c", NATIVE], tmp_path, isolated=True)
    assert (seen.code, seen.refused, seen.unsent) == (0, [], 1)
    assert verdict(network.judged("x", seen, isolated=True)) == "missed"


@ISOLATED
def test_child_processes_are_watched_too(tmp_path):
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {network.TRY!r}])"
    seen = network.watch([sys.executable, "-c", child], tmp_path, isolated=True)
    assert seen.watched == 2
    assert len(seen.refused) == 1
    assert seen.unsent == 0, "it was refused before the kernel saw it"


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (SEEN, "held"),
        (replace(SEEN, unsent=1), "missed"),
        (replace(SEEN, refused=["x"]), "missed"),
        (replace(SEEN, code=3, said="a\nno disk\n"), "failed: exit code 3: no disk"),
        (replace(SEEN, watched=0), "failed: the watch was"),
        (replace(SEEN, proved=False), "failed: the watch was"),
    ],
)
def test_silence_that_was_not_watched_is_no_pass(seen, said):
    assert verdict(network.judged("x", seen, isolated=True)).startswith(said)


def test_pictures_are_found_in_an_answer():
    answer = {"versions": [{"images": ["data:image/png;base64,iVBORw==", "x"]}, 3, None]}
    assert list(parts.pictures(answer)) == [b"\x89PNG"]


def test_the_address_is_read_as_it_is_printed():
    lines = iter(["{\n", '  "url": "http://127.0.0.1:7861"\n', "}\n", "later"])
    assert parts.address_said(lines) == "http://127.0.0.1:7861"
    assert next(lines) == "later", "nothing is waited for after it"
    with pytest.raises(RuntimeError, match="did not start; it said 'no port'"):
        parts.address_said(["no port"])


def test_without_namespaces_the_row_says_so(tmp_path, monkeypatch):
    """Parts that end at once stand in for the real ones; the records are real."""
    monkeypatch.setattr(network, "commands", lambda folder: {"quick": [sys.executable, "-c", ""]})
    monkeypatch.setattr(isolation, "why_not", lambda: "not permitted")
    monkeypatch.setattr(sys, "argv", ["network", "--results", str(tmp_path)])
    assert network.main() == 2
    said = {row: verdict(record) for (row, _), record in latest(network.SUITE, tmp_path).items()}
    assert said == {
        "quick": "held",
        "in a network namespace without a route": "not run: not permitted",
    }


@pytest.mark.slow
@ISOLATED
def test_the_app_draws_its_first_picture_without_a_route(tmp_path):
    pytest.importorskip("gradio", reason="gradio is not installed: the extra 'app'")
    command = parts.commands(tmp_path)["dpqlab app, first picture"]
    seen = network.watch(command, tmp_path, isolated=True)
    assert (seen.code, seen.connections) == (0, 0), seen.said
    assert (tmp_path / "first.png").read_bytes().startswith(b"\x89PNG")
