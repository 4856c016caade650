"""A daemon in this process whose passes are driven one by one, for tests and tools/bench. No test lives here."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from inbox_daemon import config, daemon
from inbox_daemon.batch.life import Life
from inbox_daemon.engine.fleet import Make
from inbox_daemon.engine.null import NullEngine
from inbox_daemon.errors import EngineDied
from inbox_daemon.machine.notify import Notifier
from inbox_daemon.records import Outcome


def made(read: config.Config) -> Make:
    return lambda model, start, place: NullEngine(model.engine, place)


class Told(NullEngine):
    """An engine that takes requests, and answers or dies when it is told to, as all of its class."""

    answers = dies = False

    def receive(self) -> list[Outcome]:
        if Told.dies:
            Told.dies = False
            raise EngineDied("killed by whoever tells it what to do")
        return super().receive() if Told.answers else []

    @classmethod
    def daemon(cls, spool: Path, **settings: dict[str, Any]) -> daemon.Daemon:
        """Return a daemon with such engines, whose inbox is looked at and taken from at once."""
        cls.answers = cls.dies = False
        inbox = {"settle": 0.0, "settle_unproven": 0.0, "watch": "poll", "rescan": 0.1}
        told = {"engine": {}, **settings, "spool": str(spool), "inbox": inbox}
        read = config.build({**told, "engine": {"kind": "null", **told["engine"]}}, "what tells it")
        return daemon.Daemon(read, lambda model, start, place: cls(model.engine, place), Notifier({}), drain=False)


class Passes:
    """A daemon in this process whose passes are driven one by one."""

    def __init__(self, spool: Path) -> None:
        inbox = {"settle": 0.0, "settle_unproven": 0.0, "watch": "poll"}
        read = config.build({"spool": str(spool), "engine": {"kind": "null"}, "inbox": inbox}, "test")
        self.inbox, self._outbox = spool / "inbox", spool / "outbox"
        self.daemon = daemon.Daemon(read, made(read), Notifier({}), drain=False)

    def until(self, holds: Callable[[], object], within: float = 30.0) -> None:
        deadline = time.monotonic() + within
        while not holds():
            assert time.monotonic() < deadline, "it does not come to that"
            self.daemon.step(time.monotonic())

    def drop(self, name: str, content: bytes) -> None:
        (self.inbox / ".arriving").write_bytes(content)
        (self.inbox / ".arriving").rename(self.inbox / name)
        self.daemon._arriving._hint()  # as the watch does

    def look(self) -> None:
        """One pass in which the inbox is looked at."""
        self.daemon._arriving._hint()
        self.daemon.step(time.monotonic())

    def let_go(self) -> Life:
        """Have the only batch lie there as a killed daemon leaves it; it is adopted again."""
        [life] = self.daemon._batches
        self.daemon._batches.let_go(life)
        return life

    def let_the_clock_tick(self, last: Path) -> None:
        """Make whatever comes now younger than this file: files' stamps tick every 4 ms."""
        clock = self.inbox / ".clock"
        clock.touch()
        while clock.lstat().st_ctime_ns == last.lstat().st_ctime_ns:
            clock.touch()

    def folder(self, name: str) -> Path:
        return self._outbox / name

    def status(self, name: str) -> dict[str, Any]:
        try:
            return dict(orjson.loads((self.folder(name) / "status.json").read_bytes()))
        except FileNotFoundError:
            return {}

    def is_now(self, name: str, status: str) -> Callable[[], bool]:
        return lambda: self.status(name).get("status") == status
