"""What a browser lets other people's pages do to us, as Chromium does it: nothing must come of it."""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright
from running import eventually
from webs import Web

from inbox_daemon.web import keys

pytestmark = pytest.mark.slow

UPLOAD = """url => {
    const form = new FormData();
    form.append("purpose", "batch");
    form.append("file", new Blob(["{}"]), "a.jsonl");
    const sent = {method: "POST", body: form, mode: "no-cors", credentials: "include"};
    return fetch(url + "/v1/files", sent).catch(() => 0);
}"""
CANCEL = """url => fetch(url + "/v1/batches/batch_0/cancel", {
    method: "POST", mode: "no-cors", credentials: "include"
}).catch(() => 0)"""
CREATE = """url => fetch(url + "/v1/batches", {
    method: "POST", credentials: "include", headers: {"content-type": "application/json"}, body: "{}"
}).then(() => "sent", () => "kept back")"""
READ = """url => fetch(url + "/v1/batches", {credentials: "include"}).then(r => r.text(), () => "kept back")"""
LOG_OUT = """() => fetch("/logout", {method: "POST"}).then(r => r.url)"""


class _EmptyPage(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><link rel=icon href=data:,><title>another page</title>")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def elsewhere() -> Iterator[int]:
    """The port of this host on which somebody else's pages are served."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _EmptyPage)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def chromium() -> Iterator[Page]:
    """A page of a browser for which evil.example is this host, as DNS rebinding makes it."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"),
            args=["--no-sandbox", "--host-resolver-rules=MAP evil.example 127.0.0.1"],
        )
        yield browser.new_page()
        browser.close()


def test_other_pages_change_nothing_and_read_nothing_though_the_browser_sends_what_they_ask(
    tmp_path: Path, elsewhere: int, chromium: Page
) -> None:
    key = keys.add(tmp_path / "keys", "ann", every=False)
    web = Web(tmp_path / "spool", tmp_path / "web.log", environment={"INBOX_DAEMON_WEB__KEYS": str(tmp_path / "keys")})

    def posts() -> list[int]:
        """The statuses of all that was posted so far: pages of others, and so we, are not told by the browser."""
        return [int(status) for status in re.findall(r"POST \S+: (\d+) in", web.text())]

    def tried(script: str) -> int:
        """Have the page send something, and return how it was answered."""
        before = len(posts())
        chromium.evaluate(script, web.url)
        [status] = eventually(lambda: posts()[before:], 10, "it was answered")
        return status

    try:
        chromium.goto(f"{web.url}/marks?b=none")
        assert chromium.url == f"{web.url}/login?next=%2Fmarks%3Fb%3Dnone"
        chromium.fill("#key", key)
        chromium.press("#key", "Enter")
        chromium.wait_for_url(f"{web.url}/marks?b=none")
        mine = [cookie for cookie in chromium.context.cookies() if cookie.get("name") == "inbox_session"]
        assert [(cookie.get("httpOnly"), cookie.get("sameSite")) for cookie in mine] == [(True, "Strict")]

        for page in (f"http://127.0.0.1:{elsewhere}/", f"http://evil.example:{elsewhere}/"):
            chromium.goto(page)
            assert tried(UPLOAD) == 403
            assert tried(CANCEL) == 403
            assert chromium.evaluate(CREATE, web.url) == "kept back", "it asks first, and is not told yes"
            assert chromium.evaluate(READ, web.url) == "kept back"

        # Rebinding: the page's own name means us now, so it is of our origin as far as the browser knows.
        rebound = web.url.replace("127.0.0.1", "evil.example")
        page_of_theirs = chromium.goto(f"{rebound}/")
        assert page_of_theirs is not None and page_of_theirs.status == 421
        assert "not asked under that name" in chromium.evaluate(READ, rebound)
        before = posts()
        assert chromium.evaluate(CREATE, rebound) == "sent"
        assert set(posts()[len(before) :]) == {421}, "a browser tries that once more, on another connection"

        chromium.goto(f"{web.url}/healthz")
        assert chromium.evaluate(LOG_OUT) == f"{web.url}/login", "our own page may"
        assert list((tmp_path / "spool/files").iterdir()) == []
        assert key not in web.text()
    finally:
        web.kill()
