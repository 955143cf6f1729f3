"""What attackers have tried on Gradio's apps, against the server as it is shipped.

None may give out a file, make the server ask another one, store anything, or fail loudly.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.apps.sites import SECRET, Site

API = "/gradio_api"
JSON = {"Content-Type": "application/json"}
EVIL = {"Origin": "http://evil.example"}
BOUNDARY = "xyz"
FILE = (
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="files"; filename="../../evil.html"\r\n'
    f"Content-Type: text/html\r\n\r\n<script>alert(1)</script>\r\n--{BOUNDARY}--\r\n"
).encode()
MULTIPART = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


def call(*values: Any, name: str = "draw") -> tuple[str, bytes]:
    return f"{API}/call/{name}", json.dumps({"data": values}).encode()


def drawing(replaced: int, value: Any) -> bytes:
    """A drawing's request in which one value is another."""
    data: list[Any] = ["fashion-dit", ["best-1bit"], [0], 1, 0, 2, 1.5]
    data[replaced] = value
    return json.dumps({"data": data}).encode()


def file_data(path: str) -> dict[str, Any]:
    return {"path": path, "url": path, "meta": {"_type": "gradio.FileData"}}


# {secret}: a file beside the run's folder; {canary}: a server that must not be asked
READS = {
    "traversal": "/../../../../../../../../../etc/passwd",
    "traversal below assets": "/assets/../../../../../../../../etc/passwd",
    "traversal below static": "/static/../../../../../../../etc/passwd",
    "traversal encoded": "/assets/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
    "traversal with encoded slashes": "/assets/..%2f..%2f..%2f..%2f..%2f..%2fetc%2fpasswd",
    "traversal encoded twice": "/assets/%252e%252e%252f%252e%252e%252fetc%252fpasswd",
    "traversal with backslashes": "/assets/..%5c..%5c..%5cetc%5cpasswd",
    "traversal with a zero": "/assets/x.js%00../../etc/passwd",
    "traversal in overlong utf-8": "/assets/%c0%ae%c0%ae/%c0%ae%c0%ae/etc/passwd",
    "traversal below svelte": "/svelte/..%2f..%2f..%2fpackage.json",
    "file absolute": API + "/file=/etc/passwd",
    "file absolute encoded": API + "/file=%2fetc%2fpasswd",
    "file with two slashes": API + "/file=//etc/passwd",
    "file of ours": API + "/file={secret}",
    "file relative": API + "/file=pyproject.toml",
    "file of the package": API + "/file=apps/dpqlab_app/serving/server.py",
    "file out of the run's folder": API + "/file={scratch}/../site0/secret.txt",
    "file out of it, encoded": API + "/file={scratch}/%2e%2e/%2e%2e{secret}",
    "file in a folder of a similar name": API + "/file={scratch}x/secret.txt",
    "file by its old route": API + "/file/{secret}",
    "file by a scheme": API + "/file=file://{secret}",
    "file of the process": API + "/file=/proc/self/environ",
    "file on a share": API + "/file=%5c%5cevil.example%5cshare",
    "file without the prefix": "/file={secret}",
    "ssrf by file": API + "/file={canary}/file",
    "ssrf by file, encoded": API + "/file=http:%2f%2f127.0.0.1:{port}%2ffile",
    "ssrf by proxy": API + "/proxy={canary}/proxy",
    "ssrf by proxy to a space": API + "/proxy=https://evil.hf.space@127.0.0.1:{port}/",
    "ssrf to the cloud's metadata": API + "/file=http://169.254.169.254/latest/meta-data/",
    "component's files": "/custom_component/1/client/component/../../../../etc/passwd",
    "component's files with the prefix": API + "/custom_component/1/client/component/index.js",
    "deep link": "/?deep_link=../../../../etc/passwd",
    "deep link's files": API + "/deep_link?session_hash=../../etc/passwd",
    "openapi": "/openapi.json",
    "openapi of the api": API + "/openapi.json",
    "docs": "/docs",
    "monitoring": "/monitoring",
    "monitoring's summary": "/monitoring/summary",
    "profiling": API + "/profiling/traces",
    "reload": API + "/dev/reload",
    "token": API + "/token",
    "history": API + "/runs",
    "coding agent": API + "/vibe-code",
    "upload's progress": API + "/upload_progress?upload_id=x",
    "stream": API + "/stream/a/b/1/playlist.m3u8",
    "git": "/.git/config",
    "environment": "/.env",
}


@pytest.mark.parametrize("target", READS.values(), ids=READS.keys())
def test_no_address_leads_out(site: Site, canary: tuple[str, list[str]], target: str) -> None:
    url, asked = canary
    names = {"secret": site.secret, "scratch": site.scratch, "canary": url}
    target = target.format(port=url.rpartition(":")[2], **names)
    answer = site.send("GET", target)
    leaks_nothing(answer.text)
    if target.startswith("/?"):
        assert answer.status == 200 and '"deep_link_state":"invalid"' in answer.text
    else:
        assert answer.status in (400, 404), answer.text[:200]
    assert asked == []


def leaks_nothing(text: str) -> None:
    for sign in (SECRET, "root:x:", "root:*:", "Traceback", "[project]", "PATH=", "site-packages"):
        assert sign not in text


def test_the_signs_would_be_seen(site: Site) -> None:
    """The run's own files are given out: were one the secret, the test above would find it."""
    own = site.scratch / "own" / "secret.txt"
    own.parent.mkdir(exist_ok=True)
    own.write_text(SECRET)
    (site.scratch / "link.txt").symlink_to(site.secret)
    try:
        assert site.send("GET", f"{API}/file={site.scratch}/link.txt").status == 404
        answer = site.send("GET", f"{API}/file={own}")
        # Gradio knows which files it wrote, and gives out no other
        assert answer.status in (200, 403)
    finally:
        (site.scratch / "link.txt").unlink()
        own.unlink()


DRAW, BODY = call("fashion-dit", ["best-1bit"], [0], 1, 0, 2, 1.5)
POSTS: dict[str, tuple[str, dict[str, str], bytes, int]] = {
    "upload": (f"{API}/upload", MULTIPART, FILE, 404),
    "upload from elsewhere": (f"{API}/upload", MULTIPART | EVIL, FILE, 403),
    "upload as JSON": (f"{API}/upload", JSON, b"{}", 404),
    "upload to the root": ("/", MULTIPART, FILE, 405),
    "recording": (f"{API}/process_recording", MULTIPART, FILE, 404),
    "component's function": (f"{API}/component_server", MULTIPART, FILE, 404),
    "draw as a form": (DRAW, {"Content-Type": "application/x-www-form-urlencoded"}, BODY, 415),
    "draw as text": (DRAW, {"Content-Type": "text/plain"}, BODY, 415),
    "draw as a form of parts": (DRAW, MULTIPART, FILE, 415),
    "draw without a type": (DRAW, {}, BODY, 415),
    "draw from elsewhere": (DRAW, JSON | EVIL, BODY, 403),
    "draw from nowhere": (DRAW, JSON | {"Origin": "null"}, BODY, 403),
    "draw from another port": (DRAW, JSON | {"Origin": "http://127.0.0.1:1"}, BODY, 403),
    "draw from a file": (DRAW, JSON | {"Origin": "file://"}, BODY, 403),
    "draw by a form's button": (DRAW, JSON | {"Sec-Fetch-Site": "cross-site"}, BODY, 403),
    "draw by another name": (DRAW, JSON | {"Host": "evil.example"}, BODY, 403),
    "draw by a rebound name": (
        DRAW, JSON | {"Host": "evil.example:80", "Origin": "http://evil.example:80"}, BODY, 403
    ),
    "draw by a forwarded name": (DRAW, JSON | {"X-Forwarded-Host": "evil.example"}, BODY, 403),
    "draw by a longer name": (DRAW, JSON | {"Host": "127.0.0.1.evil.example"}, BODY, 403),
    "draw without the queue": (f"{API}/run/draw", JSON, BODY, 404),
    "draw without it, by the old route": (f"{API}/api/draw", JSON, BODY, 404),
    "join from elsewhere": (f"{API}/queue/join", JSON | EVIL, b"{}", 403),
    "cancel from elsewhere": (f"{API}/cancel", JSON | EVIL, b"{}", 403),
    "login": ("/login", {"Content-Type": "application/x-www-form-urlencoded"}, b"a=b", 404),
    "coding agent": (f"{API}/vibe-edit", JSON, b'{"prompt": "x"}', 404),
    "history's bucket": (f"{API}/run-history/connect", JSON, b"{}", 404),
    "10 MB": (DRAW, JSON, drawing(0, "x" * 10_000_000), 413),
    "just over the limit": (DRAW, JSON, b" " * 1_000_001, 413),
    "deep nesting": (DRAW, JSON, b"[" * 200_000, 400),
    "a file instead of a model": (DRAW, JSON, drawing(0, file_data("/etc/passwd")), 400),
    "an address instead of a model": (DRAW, JSON, drawing(0, file_data("http://127.0.0.1")), 400),
    "a file among versions": (DRAW, JSON, drawing(1, [file_data("/etc/passwd")]), 400),
}  # fmt: skip


@pytest.mark.parametrize(("target", "headers", "body", "status"), POSTS.values(), ids=POSTS.keys())
def test_nothing_can_be_slipped_in(
    site: Site, target: str, headers: dict[str, str], body: bytes, status: int
) -> None:
    before, log = files(site.scratch), events(site)
    answer = site.send("POST", target, headers=headers, body=body)
    assert answer.status == status, answer.text[:200]
    assert json.loads(answer.text)["detail"]
    assert not any(name.startswith("access-control") for name in answer.headers)
    leaks_nothing(answer.text)
    assert files(site.scratch) == before, "nothing was stored"
    assert events(site) == log, "nothing was drawn"


def files(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def events(site: Site) -> str:
    return site.log.read_text() if site.log.exists() else ""


PREFLIGHT = {"Access-Control-Request-Method": "POST"}


@pytest.mark.parametrize("target", ["/", DRAW, f"{API}/queue/join", f"{API}/upload"])
def test_no_other_site_is_let_in_by_a_preflight(site: Site, target: str) -> None:
    answer = site.send("OPTIONS", target, headers=EVIL | PREFLIGHT)
    assert answer.status == 403
    assert not any(name.startswith("access-control") for name in answer.headers)


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "PROPFIND"])
def test_other_methods_do_nothing(site: Site, method: str) -> None:
    answer = site.send(method, "/")
    assert answer.status in (400, 405) and "Traceback" not in answer.text


def test_the_page_itself_is_there_and_says_how_it_may_be_used(site: Site) -> None:
    answer = site.send("GET", "/")
    assert answer.status == 200 and "gradio" in answer.text
    policy = answer.headers["content-security-policy"]
    assert "connect-src 'self'" in policy and "frame-ancestors 'self'" in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "server" not in answer.headers


def test_a_link_from_elsewhere_may_open_the_page(site: Site) -> None:
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert site.send("GET", "/?model=fashion-dit", headers=link).status == 200
    embedded = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}
    assert site.send("GET", "/config", headers=embedded).status == 403
