"""What each daemon says of itself in SPOOL/daemons: alive when, engines, which files wait and why.

For views only. Written often and never fsynced: after a power cut nobody needs it.
"""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from typing import Any

from inbox_daemon.layout import Spool
from inbox_daemon.text import dumps

STALE_AFTER = 15.0  # seconds; a daemon that has said nothing for so long is not there, or hangs
_SAY_EVERY = 1.0  # seconds


class Presence:
    """This daemon's own file."""

    def __init__(self, spool: Spool) -> None:
        self._path = spool.daemons / f"{socket.gethostname()}-{os.getpid()}.json"
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
        who = {"hostname": socket.gethostname(), "pid": os.getpid(), "started_at": self._started_at}
        said = {**who, "at": round(time.time(), 1), **view}
        with suppress(OSError):  # a full disk stops the batches, and they say so; this says nothing they do not
            temporary.write_bytes(dumps(said))
            temporary.rename(self._path)

    def _sweep(self) -> None:
        """Remove what daemons have left that were killed."""
        for other in self._path.parent.glob("*.json"):
            with suppress(OSError):
                if time.time() - other.stat().st_mtime > 4 * STALE_AFTER:
                    other.unlink()

    def leave(self) -> None:
        with suppress(OSError):
            self._path.unlink()
