"""The web process as users have it: `inbox-daemon web` on a port of its own, over a spool that a daemon runs on."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from openai import OpenAI
from openai.types import Batch
from running import eventually, free_port

from inbox_daemon.layout import Spool


class Web:
    """One `inbox-daemon web` process, on a spool of its own or of a daemon's.

    `environment`: settings, such as {"INBOX_DAEMON_WEB__UPLOADS": "1"}.
    """

    def __init__(self, spool: Path, log: Path, *, port: int = 0, environment: Mapping[str, str] | None = None) -> None:
        self.log, self.port, self.spool = log, port or free_port(), Spool(spool)
        for folder in (self.spool.inbox, self.spool.outbox, self.spool.work, self.spool.daemons):
            folder.mkdir(parents=True, exist_ok=True)
        config = log.with_suffix(".toml")
        config.write_text("")
        command = [sys.executable, "-m", "inbox_daemon", "web", "--spool", str(spool), "--config", str(config)]
        here = {"XDG_CACHE_HOME": str(log.parent / "cache"), **(environment or {})}
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [*command, "--listen", f"127.0.0.1:{self.port}"],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | here,
            )
        try:
            eventually(self.answers, 60, "the web process answers")
        except AssertionError as error:
            self.kill()
            raise AssertionError(f"{error}\n{self.text()}") from error

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def answers(self) -> bool:
        assert self.process.poll() is None, self.text()
        with suppress(OSError), urllib.request.urlopen(f"{self.url}/healthz", timeout=5) as answer:
            return bool(answer.status == 200)
        return False

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    close = kill

    def stop(self) -> int:
        """SIGTERM; return the exit status."""
        self.process.terminate()
        return self.process.wait(60)


def ended(client: OpenAI, id: str, within: float = 30.0) -> Batch:
    """Ask until a batch has ended, as clients do."""

    def look() -> Batch | None:
        batch = strict(client.batches.retrieve(id))
        return batch if batch.status in ("completed", "failed", "cancelled") else None

    found = eventually(look, within, f"{id} ended")
    assert found is not None
    return found


def strict(batch: Batch) -> Batch:
    return Batch.model_validate(batch.to_dict(), strict=True)


def create(client: OpenAI, file: str, **more: object) -> Batch:
    made = client.batches.create(
        input_file_id=file,
        endpoint="/v1/chat/completions",
        completion_window="24h",
        **more,  # type: ignore[arg-type]
    )
    return strict(made)


class Between:
    """What lies between a client and the web process: passes all on, but an answer now and then.

    Attributes:
        loses: how many answers to lose: the work is done, and the connection breaks.
        fails: how many to replace by a 500.
    """

    def __init__(self, web: Web) -> None:
        self.loses = self.fails = 0
        self._web = web
        self._server = socket.create_server(("127.0.0.1", 0))
        self._ends: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._serve)]
        self._threads[0].start()
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}/v1"

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._server.accept()
                web = socket.create_connection(("127.0.0.1", self._web.port))
                self._ends += [client, web]
                for way in ((client, web, False), (web, client, True)):
                    self._threads.append(threading.Thread(target=self._pass_on, args=way))
                    self._threads[-1].start()

    def _pass_on(self, source: socket.socket, target: socket.socket, is_answer: bool) -> None:
        with suppress(OSError):
            while block := source.recv(1 << 16):
                if is_answer and (self.loses or self.fails):
                    if self.loses:
                        self.loses -= 1
                    else:
                        self.fails -= 1
                        target.sendall(b"HTTP/1.1 500 x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                    break
                target.sendall(block)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        for end in (self._server, *self._ends):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        for thread in self._threads:
            thread.join()
