"""What each daemon says of itself in SPOOL/daemons: alive when, engines, which files wait and why.

For views only. Written often and never fsynced: after a power cut nobody needs it.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import orjson

from inbox_daemon.layout import Spool
from inbox_daemon.machine import clock
from inbox_daemon.machine.clock import Moment
from inbox_daemon.text import dumps

STALE_AFTER = 15.0  # seconds; a daemon that has said nothing for so long is not there, or hangs
_SAY_EVERY = 1.0  # seconds


def me() -> str:
    """Return how this daemon is named in the statuses of its batches."""
    return f"{socket.gethostname()} (pid {os.getpid()})"


def silent_for(said: Mapping[str, Any], now: Moment) -> float:
    """Return for how many seconds a daemon has said nothing.

    Of this boot of this kernel that is known, whatever the clock was set to. Of another only the wall clocks say it,
    and who speaks from the future is no more there than who speaks from the past.
    """
    at = Moment(float(said.get("at", 0.0)), str(said.get("boot", "")), float(said.get("up", 0.0)))
    return clock.seconds_between(at, now) if at.boot and at.boot == now.boot else abs(now.wall - at.wall)


def _read(path: Path) -> Mapping[str, Any]:
    """Return what a daemon says; where that is half a file, when it said so."""
    with suppress(ValueError):
        said = orjson.loads(path.read_bytes())
        if isinstance(said, dict):
            return said
    return {"at": path.stat().st_mtime}


def identity() -> str:
    """Return what tells this process from every other: containers may have one host name, and each a pid 1."""
    return f"{socket.gethostname()}-{os.getpid()}-{_mark(os.getpid())}"


@cache
def _mark(pid: int) -> str:
    """A word of this process's own; a forked child has another."""
    return secrets.token_hex(4)


class Presence:
    """This daemon's own file."""

    def __init__(self, spool: Spool) -> None:
        self._path = spool.daemons / f"{identity()}.json"
        self._said_at = float("-inf")
        self._started_at = round(time.time(), 1)
        self._swept_at = float("-inf")

    def due(self, now: float) -> bool:
        """Whether the last word is old. `now` is monotonic seconds."""
        return now - self._said_at >= _SAY_EVERY

    def say(self, now: float, view: dict[str, Any]) -> None:
        self._said_at = now
        if now - self._swept_at >= STALE_AFTER:
            self._swept_at = now
            self._sweep()
        temporary = self._path.with_name(f".{self._path.name}")
        who = {"id": identity(), "hostname": socket.gethostname(), "pid": os.getpid(), "started_at": self._started_at}
        moment = clock.now()
        said = {**who, "at": round(moment.wall, 1), "boot": moment.boot, "up": moment.up, **view}
        with suppress(OSError):  # a full disk stops the batches, and they say so; this says nothing they do not
            temporary.write_bytes(dumps(said))
            temporary.rename(self._path)

    def _sweep(self) -> None:
        """Remove what daemons have left that were killed."""
        now = clock.now()
        for other in self._path.parent.glob("*.json"):
            with suppress(OSError):
                if silent_for(_read(other), now) > 4 * STALE_AFTER:
                    other.unlink()

    def leave(self) -> None:
        with suppress(OSError):
            self._path.unlink()
