"""The application's own words: what is answered where there is no route, or one that is used wrongly."""

from __future__ import annotations

from pathlib import Path

import pytest
from running import eventually
from served import Served
from starlette.testclient import TestClient

from inbox_daemon.config import Config
from inbox_daemon.layout import Spool
from inbox_daemon.web.app import application
from inbox_daemon.web.site import Site


@pytest.fixture
def client(tmp_path: Path) -> TestClient:
    return TestClient(application(Site(Spool(tmp_path / "spool"), Config(), tmp_path / "cache")))


def test_what_is_not_served_is_said_in_openais_form(client: TestClient) -> None:
    answer = client.post("/v1/chat/completions", json={})
    assert answer.status_code == 404
    said = answer.json()["error"]
    assert (said["code"], said["type"], said["param"]) == ("unknown_url", "invalid_request_error", None)
    assert "batch service" in said["message"]
    answer = client.delete("/healthz")
    assert (answer.status_code, set(answer.headers["allow"].split(", "))) == (405, {"GET", "HEAD"})
    assert answer.json()["error"]["code"] == "method_not_allowed"


def test_healthz_says_that_it_lives_and_whether_a_daemon_does(served: Served) -> None:
    client = served.client
    assert client.get("/healthz").json() == {"ok": True, "daemon": False}
    answer = client.head("/healthz")
    assert (answer.status_code, answer.content) == (200, b"")
    served.daemon()
    lives = {"ok": True, "daemon": True}
    eventually(lambda: client.get("/healthz").json() == lives, 5, "daemons are looked at twice a second")
