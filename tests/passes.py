"""A daemon in the test's own process whose passes are driven one by one. No test lives here."""

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
from inbox_daemon.machine.notify import Notifier


def made(read: config.Config) -> Make:
    return lambda model, start, place: NullEngine(model.engine, place)


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
