"""The web process: what one connection may take, what systemd is told, how it ends, and what keeps it from starting."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
import pytest
from running import eventually
from served import Served
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send
from webs import Web

from inbox_daemon.cli import main
from inbox_daemon.cli import web as verb
from inbox_daemon.config import build
from inbox_daemon.errors import ConfigError
from inbox_daemon.machine.notify import Notifier
from inbox_daemon.web import keys, protocol, sockets
from inbox_daemon.web import server as serving
from inbox_daemon.web.guard import Guard, Rules
from inbox_daemon.web.server import Server

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n"
SOON = 0.3  # seconds, in place of those of a limit


class App:
    """Answers at once; at /body to a whole body, at /wait when the process ends, at /hang never, at /big for long."""

    def __init__(self) -> None:
        self.began: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            while (await receive())["type"] != "lifespan.shutdown":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        self.began.append(scope["path"])
        if scope["path"] == "/body":
            while (await receive()).get("more_body"):
                pass
        if scope["path"] == "/wait":
            await scope["state"]["stopping"].wait()
        if scope["path"] == "/hang":
            await asyncio.Event().wait()
        blocks = 64 if scope["path"] == "/big" else 1
        length = str(blocks * (1 << 20) if blocks > 1 else 2).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
        for number in range(blocks):
            body = bytes(1 << 20) if blocks > 1 else b"ok"
            await send({"type": "http.response.body", "body": body, "more_body": number < blocks - 1})


class Running:
    """A server in this process, on a free port, with its application."""

    def __init__(self, notifier: Notifier | None = None, upkeep: Callable[[], None] = lambda: None) -> None:
        self.app = App()
        self.server = Server(self.app, Rules(), notifier or Notifier({}), upkeep)
        self.listener = sockets.listening("127.0.0.1:0")
        self.port = int(self.listener.getsockname()[1])

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        logging.getLogger("uvicorn").setLevel(logging.CRITICAL)
        task = asyncio.create_task(self.server.serve([self.listener]))
        try:
            while not self.server.started:
                await asyncio.sleep(0.01)
            yield
        finally:
            self.server.should_exit = True
            await task

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)


async def trickled(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Send a byte now and then until the other side has had enough."""
    with contextlib.suppress(OSError):
        while True:
            writer.write(data)
            await writer.drain()
            await asyncio.sleep(0.02)


async def ended(reader: asyncio.StreamReader) -> bytes:
    """All that comes until the connection is closed."""
    said = b""
    with contextlib.suppress(ConnectionError):
        while block := await reader.read(1 << 20):
            said += block
    return said


def served(
    go: Callable[[Running], Awaitable[None]],
    notifier: Notifier | None = None,
    upkeep: Callable[[], None] = lambda: None,
) -> None:
    async def all_of_it() -> None:
        running = Running(notifier, upkeep)
        async with running.serving():
            await asyncio.wait_for(go(running), 20)

    asyncio.run(all_of_it())


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_WITHIN", SOON)
    monkeypatch.setattr(protocol, "PACE_WITHIN", SOON)


SLOW = {
    "nothing at all": (b"", b""),
    "a head that never ends": (GET, b"X-A: b\r\n"),
    "empty lines before a request": (b"", b"\r\n"),
    "a second head that never ends": (GET + b"\r\n" + GET, b"X-A: b\r\n"),
    "a body that trickles": (b"POST /body HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999\r\n\r\n", b"x"),
    "a body in chunks that trickles": (
        b"POST /body HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"1\r\nx\r\n",
    ),
    "a body after its answer": (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999\r\n\r\n", b"x"),
}


@pytest.mark.usefixtures("impatient")
def test_who_is_slow_on_purpose_or_does_not_read_is_let_go_whatever_he_is_slow_with() -> None:
    async def slow(running: Running, begin: bytes, rest: bytes) -> None:
        reader, writer = await running.connect()
        writer.write(begin)
        sending = asyncio.create_task(trickled(writer, rest)) if rest else None
        await ended(reader)
        if sending:
            sending.cancel()
        writer.close()

    async def go(running: Running) -> None:
        _, unread = await running.connect()
        unread.transport.pause_reading()  # type: ignore[attr-defined]
        unread.write(GET.replace(b" / ", b" /big ") + b"\r\n")
        await asyncio.gather(*(slow(running, begin, rest) for begin, rest in SLOW.values()))
        while running.server.server_state.connections:
            await asyncio.sleep(0.01)
        assert sorted(set(running.app.began)) == ["/", "/big", "/body"]
        unread.transport.abort()

    served(go)


@pytest.mark.usefixtures("impatient")
def test_a_body_that_keeps_its_pace_and_an_answer_that_takes_long_are_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(protocol, "PACE_BYTES", 1)

    async def go(running: Running) -> None:
        waiting, asker = await running.connect()
        asker.write(GET.replace(b" / ", b" /wait ") + b"\r\n")
        reader, writer = await running.connect()
        writer.write(b"POST /body HTTP/1.1\r\nHost: localhost\r\nContent-Length: 6\r\n\r\n")
        for _ in range(6):
            await asyncio.sleep(SOON / 4)
            writer.write(b"x")
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        running.server._stopping.set()
        assert (await waiting.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        writer.close()
        asker.close()

    served(go)


def test_a_head_of_any_size_takes_no_memory_without_end_and_neither_do_connections(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def go(running: Running) -> None:
        reader, writer = await running.connect()
        for _ in range(3):  # a body is none, however much of it comes with its head
            writer.write(b"POST /body HTTP/1.1\r\nHost: localhost\r\nContent-Length: 300000\r\n\r\n" + bytes(300_000))
            assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        writer.write(GET + b"X-A: " + b"b" * (80 << 10))
        assert (await ended(reader)).startswith(b"HTTP/1.1 431")
        writer.close()

        monkeypatch.setattr(protocol, "MOST_OF_A_PEER", 1)
        first, second = await running.connect(), await running.connect()
        second[1].write(GET + b"\r\n")
        assert (await second[0].readuntil(b"ok")).startswith(b"HTTP/1.1 200"), "this host, where proxies are, has all"
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr(protocol, "is_loopback", lambda _: False)
            third = await running.connect()
            assert (await ended(third[0])).startswith(b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 5\r\n")

        monkeypatch.setattr(protocol, "MOST", 2)
        fourth = await running.connect()
        assert (await ended(fourth[0])).startswith(b"HTTP/1.1 503")
        first[1].close()
        while len(running.server.server_state.connections) > 1:
            await asyncio.sleep(0.01)
        fifth = await running.connect()
        fifth[1].write(GET + b"\r\n")
        assert (await fifth[0].readuntil(b"ok")).startswith(b"HTTP/1.1 200"), "there is room again"
        for _, each in (second, third, fourth, fifth):
            each.close()

    served(go)


# -- systemd, and the end


def test_systemd_hears_that_it_is_ready_lives_and_stops(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(tmp_path / "notify"))
        heard.setblocking(False)
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "60000000"})

        async def go(running: Running) -> None:
            assert heard.recv(100) == b"READY=1"
            await asyncio.sleep(0)
            assert heard.recv(100) == b"WATCHDOG=1"

        served(go, notifier)
        assert heard.recv(100).startswith(b"STOPPING=1\nEXTEND_TIMEOUT_USEC=")


def test_at_a_stop_who_waits_for_news_is_answered_who_hangs_is_told_and_nobody_new_is_let_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(serving, "GRACE", SOON)

    async def go() -> None:
        running = Running()
        async with running.serving():
            told = {}
            for path in ("/wait", "/hang"):
                told[path] = await running.connect()
                told[path][1].write(GET.replace(b"/", path.encode(), 1) + b"\r\n")
            while len(running.app.began) < 2:
                await asyncio.sleep(0.01)
            running.server.should_exit = True
            assert b" 200 OK" in await ended(told["/wait"][0])
            with pytest.raises(OSError, match=r"Connect call failed"):
                await running.connect()
            last = await ended(told["/hang"][0])
            assert last.startswith(b"HTTP/1.1 503") and b"retry-after: 2" in last
            for _, writer in told.values():
                writer.close()

    asyncio.run(asyncio.wait_for(go(), 20))


@pytest.mark.timeout(20)
def test_who_waits_for_a_batch_waits_no_longer_than_the_process_lives(tmp_path: Path) -> None:
    scene = Served(tmp_path)
    batch = scene.create(scene.upload()["id"])
    stopping = asyncio.Event()
    stopping.set()
    client = TestClient(Guard(scene.app, Rules(), stopping), base_url="http://127.0.0.1:8001")
    known = client.get(f"/v1/batches/{batch['id']}")
    waits = {"If-None-Match": known.headers["etag"], "Prefer": "wait=30"}
    assert client.get(f"/v1/batches/{batch['id']}", headers=waits).status_code == 304


def test_what_fails_beside_the_requests_stops_none_of_them_and_is_said_without_its_words(
    caplog: pytest.LogCaptureFixture,
) -> None:
    failures = [OSError(28, "No space left on device", "/spool/files"), ValueError("the secret prompt")]

    def upkeep() -> None:
        raise failures.pop(0)

    async def go(running: Running) -> None:
        await running.server._keep_up()
        asyncio.get_running_loop().call_soon(lambda: {}["the secret answer"])
        reader, writer = await running.connect()
        writer.write(GET + b"\r\n")
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        writer.close()

    served(go, upkeep=upkeep)
    assert "upkeep failed; tried again within a minute: /spool/files: No space left on device" in caplog.text
    assert "upkeep failed; tried again within a minute: ValueError at " in caplog.text
    assert "a fault outside of any request: Exception in callback " in caplog.text and "KeyError at" in caplog.text
    assert "secret" not in caplog.text


# -- where it listens


def test_a_unix_socket_is_for_its_user_and_group_and_one_that_nobody_listens_at_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "web.sock"
    first = sockets.listening(f"unix:{path}")
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert (sockets.place(first), sockets.is_open_to_others(first)) == (f"unix:{path}", False)
    with pytest.raises(ConfigError, match="another process listens there"):
        sockets.listening(f"unix:{path}")
    first.close()
    sockets.listening(f"unix:{path}").close()
    (tmp_path / "file").write_text("kept")
    with pytest.raises(ConfigError, match="cannot listen there"):
        sockets.listening(f"unix:{tmp_path / 'file'}")
    assert (tmp_path / "file").read_text() == "kept"


def test_what_systemd_hands_over_to_another_process_is_not_taken() -> None:
    assert sockets.handed_over({"LISTEN_FDS": "1", "LISTEN_PID": "1"}) == []
    environment = {"LISTEN_FDS": "0", "LISTEN_PID": str(os.getpid()), "LISTEN_FDNAMES": "x"}
    assert sockets.handed_over(environment) == [] and environment == {}


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    for folder in ("inbox", "outbox", "work", "daemons"):
        (tmp_path / "spool" / folder).mkdir(parents=True)
    return tmp_path / "spool"


def refused(spool: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["web", "--spool", str(spool), *arguments]) == 78
    return capsys.readouterr().err


def test_an_address_in_use_is_exit_78_with_its_name(spool: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        said = refused(spool, capsys, "--listen", f"127.0.0.1:{taken.getsockname()[1]}")
    assert "web.listen = '127.0.0.1:" in said and "Address already in use" in said and "--listen" in said


def test_an_address_that_others_reach_needs_keys(
    spool: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for listen in ("0.0.0.0:0", "[::]:0"):
        said = refused(spool, capsys, "--listen", listen)
        assert "can be reached by others" in said and "web-key add" in said
    monkeypatch.setenv("INBOX_DAEMON_WEB__KEYS", str(spool / "keys"))
    assert "there is no such file" in refused(spool, capsys, "--listen", "0.0.0.0:0")
    keys.add(spool / "keys", "a", every=False)
    (spool / "keys").chmod(0o644)
    assert "its mode is 0644" in refused(spool, capsys, "--listen", "127.0.0.1:0")


def test_packages_that_are_missing_are_named_with_what_installs_them(
    spool: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verb, "_PACKAGES", ("fastapi", "no_such_package"))
    said = refused(spool, capsys)
    assert "(no_such_package)" in said and "pip install '.[web]'" in said


def test_the_cache_is_where_the_settings_systemd_or_the_user_have_it() -> None:
    set_ = build({"web": {"cache": "/srv/cache"}}, "test")
    assert verb.cache_folder(set_, {"CACHE_DIRECTORY": "/var/cache/w"}) == Path("/srv/cache")
    unset = build({}, "test")
    assert verb.cache_folder(unset, {"CACHE_DIRECTORY": "/var/cache/w:/var/cache/x"}) == Path("/var/cache/w")
    assert verb.cache_folder(unset, {"XDG_CACHE_HOME": "/home/a/.c"}) == Path("/home/a/.c/inbox-daemon/web")


# -- as a process


@pytest.mark.slow
def test_a_process_lets_go_of_slow_clients_serves_others_meanwhile_and_ends_within_seconds(tmp_path: Path) -> None:
    web = Web(tmp_path / "spool", tmp_path / "web.log")
    try:
        silent, trickling = (socket.create_connection(("127.0.0.1", web.port)) for _ in range(2))
        began = time.monotonic()
        trickling.sendall(GET)
        for each in (silent, trickling):
            each.setblocking(False)

        def is_closed(connection: socket.socket) -> bool:
            with contextlib.suppress(BlockingIOError):
                try:
                    return connection.recv(100) == b""
                except ConnectionError:
                    return True
            return False

        def both_are() -> bool:
            with contextlib.suppress(OSError):
                trickling.send(b"X-A: b\r\n")
            answer = httpx.get(f"{web.url}/healthz", headers={"Connection": "close"})
            assert answer.json() == {"ok": True, "daemon": False}
            return is_closed(silent) and is_closed(trickling)

        eventually(both_are, 20, "slow clients are let go")
        assert time.monotonic() - began >= protocol.HEAD_WITHIN - 1
        silent.close()
        trickling.close()
        assert web.stop() == 0
        assert "web: stopped" in web.text()
    finally:
        web.kill()


@pytest.mark.slow
def test_systemd_may_hold_the_socket_and_hears_that_the_process_is_ready_once_what_a_crash_left_is_put_right(
    tmp_path: Path,
) -> None:
    half = tmp_path / "spool/files/.up-0123456789abcdef"
    half.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard, socket.create_server(("127.0.0.1", 0)) as held:
        heard.bind(str(tmp_path / "notify"))
        heard.settimeout(30)
        # as systemd does it: the socket is descriptor 3, and the process that it is for is known by its number
        hand_over = (
            "import os, sys; os.dup2(int(sys.argv[1]), 3, inheritable=True)\n"
            "os.environ['LISTEN_PID'] = str(os.getpid())\n"
            "os.execv(sys.executable, [sys.executable, '-m', 'inbox_daemon', 'web', '--spool', sys.argv[2]])"
        )
        environment = os.environ | {"LISTEN_FDS": "1", "NOTIFY_SOCKET": str(tmp_path / "notify")}
        for folder in ("inbox", "outbox", "work", "daemons"):
            (tmp_path / "spool" / folder).mkdir()
        with (tmp_path / "log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", hand_over, str(held.fileno()), str(tmp_path / "spool")],
                env=environment,
                pass_fds=[held.fileno()],
                stderr=log,
            )
        try:
            assert heard.recv(100) == b"READY=1", (tmp_path / "log").read_text()
            assert not half.exists()
            port = held.getsockname()[1]
            assert httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 200
            process.terminate()
            assert heard.recv(100).startswith(b"STOPPING=1")
            assert process.wait(20) == 0
        finally:
            process.kill()
            process.wait()
