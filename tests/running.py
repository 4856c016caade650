"""Running the daemon as users do: a process on a spool, driven by files and signals. No test lives here."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import orjson
import psutil
from backports import zstd

from inbox_daemon.layout import Published
from inbox_daemon.spool import proof

ROOT = Path(__file__).resolve().parent.parent
IN_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # for spools by the hundred that no disk need keep
T = TypeVar("T")

# What every daemon in a test has, unless the test says otherwise: no waiting that only patience needs.
SETTINGS = """
[engine]
kind = "{kind}"
[inbox]
settle = 0.2
settle_unproven = 0.4
rescan = 1.0
wait_for_model = 0
"""

VLLM_SETTINGS = """
[engine.args]
enforce_eager = true
max_model_len = 2048
"""

VLLM_ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "INBOX_DAEMON_ENGINE__SPARE_WORKER": "false",  # 8 s of two cores for each daemon; the tests of it say true
}


def eventually(predicate: Callable[[], T], within: float = 30.0, what: str = "") -> T:
    """Return the predicate's first true value; fail when it has none within so many seconds."""
    deadline = time.monotonic() + within
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within:.0f} s: {what or predicate.__doc__ or predicate}")
        time.sleep(0.02)


class Daemon:
    """One `inbox-daemon run` process.

    Args:
        settings: TOML appended to SETTINGS; tables in it must not be in SETTINGS (use `environment` for single keys).
        environment: e.g. {"INBOX_DAEMON_ENGINE__NULL__RATE": "100"}.
        prefix: a command that becomes the daemon, e.g. setpriv with its options.
    """

    def __init__(
        self,
        spool: Path,
        log: Path,
        *,
        kind: str = "null",
        settings: str = "",
        arguments: Sequence[str] = (),
        environment: dict[str, str] | None = None,
        ready: bool = True,
        prefix: Sequence[str] = (),
    ) -> None:
        self.spool, self.log = spool, log
        config = log.with_suffix(".toml")
        config.write_text(SETTINGS.format(kind=kind) + (VLLM_SETTINGS if kind == "vllm" else "") + settings)
        command = [sys.executable, "-m", "inbox_daemon", "run", "--spool", str(spool), "--config", str(config)]
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [*prefix, *command, *arguments],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | VLLM_ENVIRONMENT | (environment or {}),
            )
        if ready:
            try:
                eventually(lambda: "ready: " in self.text() or self.process.poll() is not None, 60, "daemon ready")
                assert self.process.poll() is None, self.text()
            except AssertionError:
                self.kill()  # whoever asked for it has nothing yet to end it by
                raise

    @property
    def inbox(self) -> Path:
        return self.spool / "inbox"

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        with suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM; return the exit status."""
        self.process.terminate()
        return self.process.wait(60)

    def ended(self, within: float = 60.0) -> int:
        return self.process.wait(within)

    def family(self) -> list[psutil.Process]:
        """The daemon's children, theirs and so on."""
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(self.process.pid).children(recursive=True)
        return []

    def drop(self, name: str, requests: bytes) -> Path:
        """Drop a file as `mv` on one file system does: hidden first, then by one rename."""
        path = self.inbox / name
        hidden = self.inbox / f".{name}.uploading"
        hidden.write_bytes(requests)
        hidden.rename(path)
        return path

    def outbox(self, name: str) -> Path:
        return self.spool / "outbox" / name

    def status(self, name: str) -> dict[str, Any]:
        """The batch's status.json; {} while there is none. Reading it half-written fails the test."""
        with suppress(FileNotFoundError):
            return dict(orjson.loads((self.outbox(name) / "status.json").read_bytes()))
        return {}

    def done(self, name: str) -> int:
        counts = self.status(name).get("request_counts", {})
        return int(counts.get("completed", 0) + counts.get("failed", 0))

    def finished(self, name: str, within: float = 60.0) -> dict[str, Any]:
        """Wait for the batch's end and return its last status, which is there before the receipt."""
        receipt = self.outbox(name) / "receipt.json"
        eventually(receipt.exists, within, f"{name} ended; log:\n{self.text()[-3000:]}")
        status = self.status(name)
        assert status["status"] in ("completed", "failed", "cancelled"), status
        return status


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def request(custom_id: str, text: str = "hello", **body: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {
        "custom_id": custom_id,
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"messages": messages, "max_tokens": 8, **body},
    }


def jsonl(requests: Sequence[object]) -> bytes:
    return b"".join(orjson.dumps(one) + b"\n" for one in requests)


def batch_of(count: int, prefix: str = "r", **body: Any) -> bytes:
    return jsonl([request(f"{prefix}{i}", f"say {i}", **body) for i in range(count)])


def piped_through_zstd(content: bytes, window: int = 27) -> bytes:
    """As `zstd --long=…` writes what comes through a pipe: it does not know how much that will be."""
    pipe = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: window})
    return pipe.compress(content[:1000]) + pipe.compress(content[1000:]) + pipe.flush()


def lines(path: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in path.read_bytes().split(b"\n") if line]


def custom_ids(path: Path) -> list[str]:
    return [line["custom_id"] for line in lines(path)]


class Failed(NamedTuple):
    """Why a request has no answer, as its output line says it."""

    line: int
    code: str
    message: str
    param: str | None
    status: int | None


def error_of(line: dict[str, Any]) -> Failed:
    """Read an error's output line, whose form is proven by that: OpenAI's, and `line` beside `custom_id`."""
    assert list(line) == ["id", "custom_id", "line", "response", "error"], line
    if line["error"] is not None:
        assert (set(line["error"]), line["response"]) == ({"code", "message"}, None), line
        return Failed(line["line"], line["error"]["code"], line["error"]["message"], None, None)
    said, status = line["response"]["body"]["error"], line["response"]["status_code"]
    assert set(line["response"]["body"]) == {"error"} and set(said) == {"message", "type", "param", "code"}, line
    assert line["response"]["request_id"] == line["id"], line
    assert said["type"] == ("server_error" if status >= 500 else "invalid_request_error") and status >= 400, line
    return Failed(line["line"], said["code"], said["message"], said["param"], status)


def vllm_processes() -> Iterator[psutil.Process]:
    """Every process of any engine on this host, by its name or command."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            text = " ".join([process.name(), *process.cmdline()])
            if ("inbox_daemon.engine.worker" in text or "VLLM::" in text) and process.status() != psutil.STATUS_ZOMBIE:
                yield process


def proven(daemon: Daemon, name: str, original: Path | None = None) -> None:
    found = proof.verify(Published(daemon.outbox(name)), original)
    assert found.problems == []


def mixed() -> bytes:
    """Three good lines among every fault that a line can have."""
    good = [request("good-1"), request("good-2"), request("good-3")]
    bad: list[object] = [
        {k: v for k, v in request("x").items() if k != "custom_id"},
        request("good-1"),
        request("get") | {"method": "GET"},
        request("url") | {"url": "/v1/images"},
        {k: v for k, v in request("nobody").items() if k != "body"},
        request("stream", stream=True),
        ["not", "an", "object"],
        request("model", model="other/model"),
    ]
    long = jsonl([request("long", "x" * 5000)])
    return (
        jsonl(good[:1]) + b"this is not json\n" + jsonl(bad[:4]) + b"\n" + jsonl(good[1:2]) + jsonl(bad[4:]) + long
    ) + jsonl(good[2:])


FAULTS_OF_MIXED = [
    (2, "invalid_json"),
    (3, "missing_custom_id"),
    (4, "duplicate_custom_id"),
    (5, "invalid_method"),
    (6, "invalid_url"),
    (9, "missing_body"),
    (10, "stream_not_supported"),
    (11, "not_an_object"),
    (12, "model_mismatch"),
    (13, "line_too_long"),
]
