"""The guard: who may ask, what each answer tells a browser, and what nobody ever reads in the log."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from knocking import Answer, Headers, knock
from served import Served
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from inbox_daemon.web import keys, limits
from inbox_daemon.web.guard import Guard, Rules
from inbox_daemon.web.keys import Keys
from inbox_daemon.web.login import page_of_ours
from inbox_daemon.web.wrong import Wrong

OURS = "http://127.0.0.1:8001"


class Echo:
    """An application that answers with whom the guard took the asker for, and counts how often it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.schemes: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked.append((scope["method"], scope["path"]))
        self.schemes.append(scope["scheme"])
        scope["route"] = SimpleNamespace(path="/v1/files/{id}")
        if scope["path"] == "/wrong":
            raise Wrong(404, "not there")
        if scope["path"] == "/breaks":
            raise ValueError("the secret prompt")
        body = f"{scope['state']['key']}|{scope['state']['all']}".encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"cache-control", b"max-age=60")]})
        if scope["path"] == "/breaks-later":
            raise ValueError("the secret answer")
        await send({"type": "http.response.body", "body": body})


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
def made(tmp_path: Path) -> dict[str, str]:
    """Two keys, by their names, in tmp_path/keys."""
    path = tmp_path / "keys"
    return {"ann": keys.add(path, "ann", every=False), "boss": keys.add(path, "boss", every=True)}


@pytest.fixture
def guarded(echo: Echo, made: dict[str, str], tmp_path: Path) -> Guard:
    return Guard(echo, Rules(keys=Keys(tmp_path / "keys")))


def bearer(key: str) -> Headers:
    return [("Authorization", f"Bearer {key}")]


# -- under which name


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8001", "127.0.0.1:8001", "[::1]:8001", "answers.example.org"])
def test_it_is_asked_under_a_name_of_this_host_or_of_the_settings(echo: Echo, host: str) -> None:
    guard = Guard(echo, Rules(hosts=frozenset({"answers.example.org"})))
    assert knock(guard, "GET", "/", host=host).status == 200


@pytest.mark.parametrize(
    "host", [None, "", "evil.example:8001", "localhost.evil.example", "127.0.0.1.evil.example", "localhost@evil", "a b"]
)
def test_under_another_name_nothing_is_answered_not_even_that_a_route_is_missing(echo: Echo, host: str | None) -> None:
    """A page whose name was made to mean our address reads what we answer: its browser thinks that is its own host."""
    guard = Guard(echo, Rules())
    for method, path in (("GET", "/v1/batches"), ("POST", "/v1/files"), ("GET", "/healthz"), ("GET", "/nothing")):
        answer = knock(guard, method, path, host=host)
        assert (answer.status, answer.error["type"]) == (421, "invalid_request_error")
    assert knock(guard, "GET", "/", [("Host", "evil.example")]).status == 421, "two names"
    assert echo.asked == []


def test_the_address_that_was_asked_is_a_name_of_ours_and_another_address_is_none(echo: Echo) -> None:
    """An address in Host was typed, not resolved: no other page can have it. So 0.0.0.0 needs no list of addresses."""
    guard = Guard(echo, Rules())
    assert knock(guard, "GET", "/", host="192.0.2.7:8001", at=("192.0.2.7", 8001)).status == 200
    assert knock(guard, "GET", "/", host="[2001:db8::7]:8001", at=("2001:db8::7", 8001)).status == 200
    assert knock(guard, "GET", "/", host="192.0.2.8:8001", at=("192.0.2.7", 8001)).status == 421
    assert knock(guard, "GET", "/", host="/run/web.sock", at=("/run/web.sock", None), peer="").status == 421


# -- by whose page

FOREIGN: list[list[tuple[str, str]]] = [
    [("Origin", "http://evil.example")],
    [("Origin", "http://127.0.0.1:8002"), ("Sec-Fetch-Site", "same-site")],  # another port of this host
    [("Origin", "https://127.0.0.1:8001")],
    [("Origin", "null"), ("Sec-Fetch-Site", "none")],
    [("Origin", OURS), ("Origin", "http://evil.example")],
    [("Sec-Fetch-Site", "cross-site")],
    [("Sec-Fetch-Site", "same-site")],
]


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
def test_no_page_of_another_origin_changes_anything(echo: Echo, headers: Headers) -> None:
    guard = Guard(echo, Rules())
    for method in ("POST", "DELETE", "PUT", "PATCH", "BREW"):
        assert knock(guard, method, "/v1/batches/batch_1/cancel", headers).status == 403
    assert echo.asked == []
    assert knock(guard, "GET", "/v1/batches", headers).status == 200, "its browser shows the answer to no other page"
    assert "access-control-allow-origin" not in knock(guard, "OPTIONS", "/v1/batches", headers).headers


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("Origin", OURS), ("Sec-Fetch-Site", "same-origin")],
        [("Sec-Fetch-Site", "none")],
        [("Origin", OURS.upper())],
    ],
    ids=str,
)
def test_our_own_pages_and_programs_may(echo: Echo, headers: Headers) -> None:
    assert knock(Guard(echo, Rules()), "POST", "/v1/files", headers).status == 200


def test_behind_a_proxy_on_this_host_our_origin_is_the_one_that_the_browser_sees(echo: Echo) -> None:
    guard = Guard(echo, Rules(hosts=frozenset({"answers.example.org"})))
    by_tls = [("Origin", "https://answers.example.org"), ("X-Forwarded-Proto", "https")]
    for peer in ("127.0.0.1", "::1", "::ffff:127.0.0.1", ""):
        assert knock(guard, "POST", "/", by_tls, host="answers.example.org", peer=peer).status == 200
    assert set(echo.schemes) == {"https"}, "addresses that pages show begin so"
    assert knock(guard, "POST", "/", by_tls, host="answers.example.org", peer="192.0.2.1").status == 403, (
        "it may say so"
    )
    assert knock(guard, "POST", "/", by_tls[:1], host="answers.example.org").status == 403


# -- with which key


def test_a_key_opens_for_its_name_and_none_or_a_wrong_one_gets_openais_401(
    guarded: Guard, echo: Echo, made: dict[str, str]
) -> None:
    assert knock(guarded, "GET", "/v1/batches", bearer(made["ann"])).body == b"ann|False"
    assert knock(guarded, "GET", "/v1/batches", [("authorization", f"bearer  {made['boss']} ")]).body == b"boss|True"
    asked = len(echo.asked)
    wrong = knock(guarded, "GET", "/v1/batches", bearer("sk-inbox-guessed"))
    assert (wrong.status, wrong.error["code"]) == (401, "invalid_api_key")
    assert wrong.error.keys() == {"message", "type", "param", "code"}
    assert "guessed" not in wrong.body.decode()
    none = knock(guarded, "POST", "/v1/batches")
    assert (none.status, none.error["code"], none.headers["www-authenticate"]) == (401, None, "Bearer")
    assert len(echo.asked) == asked


def test_without_keys_everybody_sees_all(echo: Echo) -> None:
    assert knock(Guard(echo, Rules()), "GET", "/v1/batches", bearer("whatever")).body == b"|True"


def test_what_a_browser_needs_to_log_in_needs_no_key_and_what_looks_like_it_does(guarded: Guard) -> None:
    for path in ("/healthz", "/login", "/static/app.css", "/favicon.ico"):
        assert knock(guarded, "GET", path).status == 200
    assert knock(guarded, "GET", "/healthz").body == b"|False", "and sees nothing of anybody"
    for path in ("/login/", "/static", "/healthz/x", "/static/../v1/batches", "//static/", "/Healthz"):
        status = knock(guarded, "GET", path).status
        assert status == 401 or path.startswith("/static/"), path


def test_a_browser_is_led_to_the_login_and_back_and_has_a_session_that_no_script_sees(
    guarded: Guard, made: dict[str, str]
) -> None:
    page = [("Accept", "text/html,*/*;q=0.8")]
    led = knock(guarded, "GET", "/compare?b=1&b=2", page)
    assert (led.status, led.headers["location"]) == (303, "/login?next=%2Fcompare%3Fb%3D1%26b%3D2")
    in_ = knock(guarded, "POST", "/login", body=f"key={made['ann']}&next=/compare%3Fb%3D1".encode())
    assert (in_.status, in_.headers["location"]) == (303, "/compare?b=1")
    cookie, *attributes = in_.headers["set-cookie"].split("; ")
    assert attributes == ["Max-Age=43200", "Path=/", "HttpOnly", "SameSite=Strict"]
    session = [("Cookie", f"other=1; {cookie}")]
    assert knock(guarded, "GET", "/", session).body == b"ann|False"
    out = knock(guarded, "POST", "/logout", session)
    assert (out.headers["location"], out.headers["set-cookie"][:25]) == ("/login", "inbox_session=; Max-Age=0")
    wrong = knock(guarded, "POST", "/login", body=b"key=sk-inbox-guessed&next=/compare")
    assert (wrong.headers["location"], "set-cookie" in wrong.headers) == ("/login?wrong=key&next=%2Fcompare", False)
    assert knock(guarded, "POST", "/login", FOREIGN[0], body=f"key={made['ann']}".encode()).status == 403
    secure = knock(guarded, "POST", "/login", [("X-Forwarded-Proto", "https")], body=f"key={made['ann']}".encode())
    assert secure.headers["set-cookie"].endswith("; Secure")


def test_a_session_ends_with_its_time_its_key_and_the_process_and_nobody_can_make_one(
    guarded: Guard, echo: Echo, made: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def logged_in() -> Headers:
        said = knock(guarded, "POST", "/login", body=f"key={made['ann']}".encode()).headers["set-cookie"]
        return [("Cookie", said.partition(";")[0])]

    session = logged_in()
    (_, value), *_ = session
    name, _, signature = value.rpartition(".")
    for forged in (f"{name}.{'0' * 64}", f"{name}9.{signature}", "inbox_session=", "inbox_session=..", value[:-1], "x"):
        assert knock(guarded, "GET", "/v1/batches", [("Cookie", forged)]).status in (401, 429), forged
    another = Guard(echo, Rules(keys=Keys(tmp_path / "keys")))
    assert knock(another, "GET", "/v1/batches", session).status == 401
    assert knock(guarded, "GET", "/v1/batches", session).status == 200
    with monkeypatch.context() as later:
        import time

        now = time.time()
        later.setattr(time, "time", lambda: now + 12 * 3600 + 1)
        assert knock(guarded, "GET", "/v1/batches", session).status in (401, 429)
    keys.revoke(tmp_path / "keys", "ann")
    known = guarded._rules.keys
    assert known is not None and known.refresh()
    assert knock(guarded, "GET", "/v1/batches", session).status in (401, 429)
    assert knock(guarded, "GET", "/v1/batches", bearer(made["ann"])).status in (401, 429)
    keys.add(tmp_path / "keys", "ann", every=False)
    known.refresh()
    assert knock(guarded, "GET", "/v1/batches", session).status in (401, 429), "another key of the same name"


@pytest.mark.parametrize(
    ("asked", "page"),
    [
        ("/compare?b=1", "/compare?b=1"),
        ("//evil.example", "/"),
        ("/\\evil.example", "/"),
        ("https://evil.example", "/"),
        ("/\t/evil.example", "/"),
        ("/a\r\nset-cookie: x", "/"),
        ("", "/"),
        ("/ä", "/"),
    ],
)
def test_after_the_login_a_browser_goes_on_here_and_nowhere_else(asked: str, page: str) -> None:
    assert page_of_ours(asked) == page


# -- how often


def test_of_one_peer_ten_wrong_keys_a_minute_are_told_so_and_more_are_told_to_wait_which_no_right_key_is(
    guarded: Guard, made: dict[str, str]
) -> None:
    def guess(peer: str, headers: Headers = ()) -> Answer:
        return knock(guarded, "GET", "/v1/batches", [*bearer("sk-inbox-x"), *headers], peer=peer)

    assert [guess("192.0.2.1").status for _ in range(12)] == [401] * 10 + [429] * 2
    often = guess("192.0.2.1")
    assert 1 <= int(often.headers["retry-after"]) <= 60
    assert often.error["code"] == "rate_limit_exceeded"
    assert guess("192.0.2.2").status == 401
    assert knock(guarded, "GET", "/v1/batches", bearer(made["ann"]), peer="192.0.2.1").status == 200
    proxied = [("X-Forwarded-For", "10.9.9.9, 192.0.2.1")]
    assert guess("127.0.0.1", proxied).status == 429, "a proxy on this host says who it is"
    assert guess("127.0.0.1").status == 401
    assert knock(guarded, "POST", "/login", body=b"key=x", peer="192.0.2.1").headers["location"] == "/login?wrong=often"


def test_a_key_has_its_rate_and_one_that_asks_too_often_costs_no_other(
    echo: Echo, made: dict[str, str], tmp_path: Path
) -> None:
    guard = Guard(echo, Rules(keys=Keys(tmp_path / "keys"), rate=0.01))
    assert knock(guard, "GET", "/v1/batches", bearer(made["ann"])).status == 200
    often = knock(guard, "GET", "/v1/batches", bearer(made["ann"]))
    assert (often.status, often.error["code"], often.error["type"]) == (429, "rate_limit_exceeded", "requests")
    assert 90 <= int(often.headers["retry-after"]) <= 100
    assert knock(guard, "GET", "/v1/batches", bearer(made["boss"])).status == 200
    assert knock(guard, "GET", "/healthz").status == 200
    assert len(echo.asked) == 3


def test_a_bucket_holds_four_seconds_worth_and_fills_at_its_rate() -> None:
    rate = limits.Rate(50)
    assert [rate.wait("k", 0.0) for _ in range(200)] == [0.0] * 200
    assert rate.wait("k", 0.0) == pytest.approx(0.02)
    assert rate.wait("k", 0.02) == pytest.approx(0.0, abs=1e-9)
    assert sum(rate.wait("k", 100.0) == 0.0 for _ in range(300)) == 200
    assert limits.Rate(0).wait("k", 0.0) == 0.0


def test_wrong_keys_of_any_number_of_peers_take_no_memory_without_end() -> None:
    wrong = limits.WrongKeys()
    for number in range(20_000):
        wrong.wait(str(number), 0.0)
    assert len(wrong._peers) == 10_000
    assert wrong.wait("new", 1.0) == 60.0
    assert wrong.wait("new", 61.0) == 0.0
    assert len(wrong._peers) == 1


# -- what every answer says


@pytest.mark.parametrize(
    ("ask", "status"),
    [
        (lambda guard: knock(guard, "GET", "/"), 200),
        (lambda guard: knock(guard, "HEAD", "/"), 200),
        (lambda guard: knock(guard, "GET", "/wrong"), 404),
        (lambda guard: knock(guard, "GET", "/breaks"), 500),
        (lambda guard: knock(guard, "GET", "/", host="evil.example"), 421),
        (lambda guard: knock(guard, "POST", "/", FOREIGN[0]), 403),
        (lambda guard: knock(guard, "POST", "/v1/files", [("Content-Encoding", "gzip")]), 415),
    ],
)
def test_every_answer_tells_browsers_what_they_may_do_with_it_and_has_an_id_of_its_own(
    echo: Echo, ask: Callable[[Guard], Answer], status: int
) -> None:
    guard = Guard(echo, Rules())
    answer = ask(guard)
    assert answer.status == status
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
    assert "form-action 'self'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "same-origin"
    assert answer.headers["cross-origin-opener-policy"] == "same-origin"
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert answer.headers["cache-control"] == ("max-age=60" if status == 200 else "private, no-cache")
    assert re.fullmatch(r"req_[0-9a-f]{32}", answer.headers["x-request-id"])
    assert ask(guard).headers["x-request-id"] != answer.headers["x-request-id"]


def test_a_fault_of_ours_is_answered_in_openais_form_with_its_id_and_no_word_of_it(tmp_path: Path) -> None:
    app = Served(tmp_path).app

    @app.get("/breaks")
    def breaks() -> None:
        raise ValueError("the secret prompt")

    answer = TestClient(Guard(app, Rules()), base_url=OURS).get("/breaks")
    said = answer.json()["error"]
    assert (answer.status_code, said["type"]) == (500, "server_error")
    assert answer.headers["x-request-id"] in said["message"] and "secret" not in answer.text
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")


def test_an_answer_that_breaks_in_the_middle_ends_there(echo: Echo) -> None:
    assert knock(Guard(echo, Rules()), "GET", "/breaks-later").body == b"", "whoever serves it closes the connection"


def test_the_log_has_method_route_status_and_the_keys_name_and_nothing_private(
    guarded: Guard, made: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "inbox_daemon")
    private = [*bearer(made["ann"]), ("Cookie", "inbox_session=tried"), ("Referer", "/row?id=patient-7")]
    asked: list[tuple[str, str, dict[str, Any]]] = [
        ("GET", "/v1/files/file-secret?text=patient-7", {}),
        ("POST", "/v1/files/file-secret", {"body": b"patient-7"}),
        ("DELETE", "/breaks?text=patient-7", {}),
        ("GET", "/breaks-later", {}),
        ("POST", "/login", {"body": f"key={made['boss']}".encode()}),
    ]
    for method, target, rest in asked:
        knock(guarded, method, target, private, **rest)
    knock(guarded, "GET", "/v1/batches", bearer("sk-inbox-guessed"))
    assert "POST /v1/files/{id}: 200 in 0 ms, key ann, req_" in caplog.text
    assert "DELETE /v1/files/{id} failed: ValueError at " in caplog.text
    for word in ("patient-7", "file-secret", "secret prompt", "secret answer", "tried", "guessed", *made.values()):
        assert word not in caplog.text
    levels = {(record.levelname, record.args[0]) for record in caplog.records if isinstance(record.args, tuple)}
    assert ("DEBUG", "GET") in levels and ("INFO", "GET") not in levels, "who reads all day fills no journal"
